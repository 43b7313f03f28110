"""Cost against size: time and memory of a bfloat16 step over batch, ROIs, patches and depth.

    python -m benchmarks.size --plot docs/results/cost.png

Each point runs in a process of its own, around the small model. The table gives the exponent b of
time ~ size**b, fitted to the larger half of the points: 1 is linear, below 1 a fixed cost shows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from benchmarks.common import Line, in_new_process, peak_gb, show, use_threads
from benchmarks.steps import OurStep
from semantoks.atlas.parcellation import Parcellation
from semantoks.data.signal import Preprocessing
from semantoks.model.encoder import Encoder
from semantoks.objectives.distillation import SelfDistillation
from semantoks.train.run import RunConfig
from semantoks.views.batch import ViewBatch

CURVES = {
    "batch": [8, 16, 32, 64, 128],
    "rois": [100, 200, 400, 700, 1000],
    "patches": [5, 10, 20, 40, 60],
    "depth": [2, 4, 8, 16],
}
BASE = {"batch": 32, "rois": 457, "patches": 5, "depth": 4}
# Attention is quadratic in the tokens, everything else linear.
LIMIT = {"batch": 1.1, "rois": 1.1, "patches": 1.5, "depth": 1.1}


def point(size: dict[str, int], repeats: int) -> dict[str, float]:
    """Return seconds per step and the peak memory, GB."""
    networks = ("Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default")
    names = [networks[i % len(networks)] for i in range(size["rois"])]
    labels = tuple(f"{name}_{i}" for i, name in enumerate(names))
    parcellation = Parcellation(name="made", labels=labels, networks=tuple(names))
    config = RunConfig.preset("small")
    shape = replace(config.encoder, n_patches=size["patches"], depth=size["depth"])
    preprocessing = Preprocessing(tr=2.0, low_hz=0.01, high_hz=0.1)
    encoder = Encoder.random(shape, parcellation, preprocessing, seed=0)
    step = OurStep(SelfDistillation(encoder, config.objective), 1e-4, 0.05, bfloat16=True)
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(2, size["batch"], size["rois"], shape.view_length, generator=generator)
    batch = ViewBatch(views, None)
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        step(batch, 0.5, 0.99)
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds[1:]), "gb": peak_gb()}


def plot(curves: dict[str, list[dict[str, float]]], file: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    axes: Any = figure.subplots(2, len(curves))  # each with its own scale: patches cost most
    for ax, label in zip(axes[:, 0], ("s per step", "peak GB"), strict=True):
        ax.set_ylabel(label)
    for column, (name, points) in zip(axes.T, curves.items(), strict=True):
        for ax, key in zip(column, ("seconds", "gb"), strict=True):
            ax.plot(CURVES[name], [p[key] for p in points], "o-", color="#1f5fa8")
            ax.set_ylim(bottom=0)
            ax.spines[["top", "right"]].set_visible(False)
        column[1].set_xlabel(name)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--plot", help="file of the figure")
    parser.add_argument("--point", help="only this point, as JSON")
    options = parser.parse_args()
    use_threads(options.threads)
    if options.point:
        print(json.dumps(point(json.loads(options.point), options.repeats)))
        return
    common = ["--threads", str(options.threads), "--repeats", str(options.repeats)]
    curves = {
        name: [
            json.loads(
                in_new_process("benchmarks.size", "--point", json.dumps(BASE | {name: v}), *common)
            )
            for v in values
        ]
        for name, values in CURVES.items()
    }
    lines = []
    for name, points in curves.items():
        upper = len(points) // 2
        logs = [np.log([p["seconds"] for p in points[upper:]]), np.log(CURVES[name][upper:])]
        exponent = float(np.polyfit(logs[1], logs[0], 1)[0])
        spread = ", ".join(
            f"{v}: {p['seconds']:.2f} s" for v, p in zip(CURVES[name], points, strict=True)
        )
        lines.append(
            Line(
                f"time ~ {name}^b",
                f"b <= {LIMIT[name]}",
                f"b = {exponent:.2f} ({spread})",
                None,
                exponent <= LIMIT[name],
            )
        )
    if options.plot:
        plot(curves, options.plot)
    show(lines)


if __name__ == "__main__":
    main()
