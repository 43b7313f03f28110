"""Run every benchmark, print one table, write it to docs/results/performance.md: `make bench`.

    python -m benchmarks.run [--quick] [--model runs/mine --store stores/mine]

The lines above the marker are measured and overwritten; the prose below it is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch

from benchmarks.common import Line, in_new_process, show

PAGE = Path(__file__).parents[1] / "docs" / "results" / "performance.md"
MARKER = "<!-- below: written by hand -->"
PACKAGES = ("semantoks", "torch", "numpy", "onnxruntime", "openvino")


def processor() -> str:
    """Return the processor's name and what it has for low precision."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    wanted = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
    flags = [flag for flag in wanted if flag in fields.get("flags", "").split()]
    return f"{fields.get('model name', platform.processor())} ({', '.join(flags)})"


def versions() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def page(lines: list[Line], threads: int) -> str:
    """Return the measured part of the page."""
    rows = [
        f"| {x.what} | {x.goal} | {x.measured} | {'' if x.ratio is None else f'{x.ratio:.2f}'} | "
        f"{ {True: 'pass', False: 'short', None: ''}[x.passed] } |"
        for x in lines
    ]
    return "\n".join(
        [
            "# Performance",
            "",
            "Written by `make bench`: medians, in turns with the plain float32 formulation of the "
            "same computation (`benchmarks/plain.py`) in one run. A run's step is the mix of a "
            "whole pretraining: half of the steps with masks, 5 % of them with L_net.",
            "",
            f"{datetime.now(UTC):%Y-%m-%d}; {processor()}, {os.cpu_count()} cores, "
            f"{threads} threads; {platform.system()}, Python {platform.python_version()}; "
            f"{versions()}.",
            "",
            "| what | goal | measured | ratio | |",
            "|---|---|---|---|---|",
            *rows,
            "",
            MARKER,
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repeats, no curves")
    parser.add_argument("--model", help="a trained model for the cosines of embeddings")
    parser.add_argument("--store", help="a store that fits it")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    threads = ["--threads", str(options.threads)]
    few = ["--repeats", "1" if options.quick else "5"]
    figures = PAGE.parent
    trained = ["--model", options.model] if options.model else []
    if options.model and options.store:
        trained += ["--store", options.store]
    plan: list[list[str]] = [
        ["benchmarks.machine", *few, *threads],
        ["benchmarks.pretrain", *few, *threads],
        ["benchmarks.data", "--repeats", "3" if options.quick else "15"],
        ["benchmarks.embed", *threads, "--size", "paper", "--size", "small", *trained],
        ["benchmarks.start"],
    ]
    if not options.quick:
        plan.append(["benchmarks.size", *threads, "--plot", str(figures / "cost.png")])
        curve = ["benchmarks.curve", *threads, "--plot", str(figures / "loss_curve.png")]
        plan.append(curve)
    if torch.cuda.is_available():
        plan.append(["benchmarks.gpu_pretrain"])
    lines: list[Line] = []
    for module, *arguments in plan:
        print(f"{module} ...", flush=True)
        found = json.loads(in_new_process(module, *arguments))
        lines += [Line(**line) for line in found]
    prose = PAGE.read_text(encoding="utf-8").partition(MARKER)[2] if PAGE.exists() else "\n"
    PAGE.write_text(page(lines, options.threads) + prose, encoding="utf-8")
    show(lines)
    print(f"written: {PAGE}")


if __name__ == "__main__":
    main()
