"""Roofline: what this machine allows, and how near our pretraining step comes to it.

    python -m benchmarks.machine --size paper --size small [--threads 1]

All in turns, in one run: the matrix products of the model's blocks, forward and both gradients, in
float32, bfloat16 and (forward only) int8; copies of memory; our step and the plain one, half of the
steps with masks. The limit of our step is the time of its own multiplications and additions,
counted while it runs, at the rate of those bfloat16 products, and of the optimiser's and the
teacher's passes over the weights at the rate of copies. Passes over activations (softmax, GELU,
LayerNorm, conversions) come on top of it in any implementation and are not counted. With one
thread, seconds are those of the processor: other work on a shared machine then counts little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import Line, encoder_for, show, side_by_side, use_threads
from benchmarks.gpu_pretrain import encoder_flops
from benchmarks.pretrain import GOAL, in_turn, step
from benchmarks.steps import OurStep, some_batch
from semantoks.train.run import RunConfig
from semantoks.views.batch import ViewBatch

SHARE_GOAL, WARM_UP, N_CROPS = 0.75, 2, 8
_COPIED = 1 << 26  # float32 numbers: 0.27 GB, more than caches hold
# AdamW reads weight, gradient and two moments, and writes three of them; the gradient's norm reads
# it; the teacher reads two weights and writes one. Four bytes each.
_PASSES = 7 + 1 + 3


def shapes(config: RunConfig, batch_size: int) -> list[tuple[int, int, int]]:
    """Return (rows, inputs, outputs) of the linear maps of a block, both views in one batch."""
    d, hidden = config.encoder.width, int(config.encoder.mlp_ratio * config.encoder.width)
    encoder = encoder_for(config)
    rows = 2 * batch_size * (encoder.n_networks * config.encoder.n_patches + 1)
    return [(rows, *sizes) for sizes in ((d, 3 * d), (d, d), (d, hidden), (hidden, d))]


def products(sizes: Sequence[tuple[int, int, int]], dtype: torch.dtype) -> Callable[[], None]:
    """Return what multiplies: outputs, gradients of inputs and gradients of weights."""
    operands = [
        (torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype), torch.randn(m, n).to(dtype))
        for m, k, n in sizes
    ]

    def run() -> None:
        for x, w, out in operands:
            _ = x @ w, out @ w.T, x.T @ out

    return run


def int8_products(sizes: Sequence[tuple[int, int, int]]) -> Callable[[], None]:
    """Return what multiplies in int8 by oneDNN, with a scale per output."""
    onednn = torch.ops.onednn
    operands = []
    for m, k, n in sizes:
        x = torch.randint(0, 255, (m, k), dtype=torch.uint8)
        w = onednn.qlinear_prepack(torch.randint(-127, 128, (n, k), dtype=torch.int8), [m, k])
        operands.append((x, 1.0, 0, w, torch.ones(n), torch.zeros(n, dtype=torch.int32)))

    def run() -> None:
        for one in operands:
            onednn.qlinear_pointwise(*one, None, 1.0, 0, torch.bfloat16, "none", [], "")

    return run


def flops_of(one: OurStep, batch: ViewBatch, network_weight: float = 0.0) -> float:
    """Count the multiplications and additions of a step while it runs."""

    def linear(x: torch.Size, weight: torch.Size, *_: object, **__: object) -> int:
        return 2 * x.numel() * weight[0]

    mapping = {torch.ops.mkldnn._linear_pointwise: linear}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        one(batch, network_weight, 0.99)
    return float(counter.get_total_flops())


def measure(size: str, batch_size: int, repeats: int) -> list[Line]:
    config = RunConfig.preset(size)
    sizes = shapes(config, batch_size)
    ours, plain = step("bfloat16", config), step("plain", config)
    batches = [
        some_batch(config, batch_size, masked=turn % 2 == 0, seed=turn)
        for turn in range(WARM_UP + 2 * repeats)
    ]
    source, target = torch.ones(_COPIED), torch.empty(_COPIED)
    once = {
        "float32": products(sizes, torch.float32),
        "bfloat16": products(sizes, torch.bfloat16),
        "int8": int8_products(sizes),
        "copy": lambda: target.copy_(source),
    }
    each = {name: iter(batches) for name in ("ours", "plain")}
    runs: dict[str, Callable[[], object]] = {
        **once,
        "ours": lambda: in_turn(ours, each["ours"], 0.0),
        "plain": lambda: in_turn(plain, each["plain"], 0.0),
    }
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds = side_by_side(runs, 2 * repeats, WARM_UP, clock=clock)
    forward = sum(2.0 * m * k * n for m, k, n in sizes)
    rate = {
        "float32": 3 * forward / seconds["float32"],
        "bfloat16": 3 * forward / seconds["bfloat16"],
        "int8": forward / seconds["int8"],
    }
    bandwidth = 2 * 4 * _COPIED / seconds["copy"]
    lines = [
        Line(
            f"machine, products of {size}, batch {batch_size}, {name}",
            "",
            f"{value / 1e9:.0f} GFLOP/s",
            round(value / rate["float32"], 2),
            None,
        )
        for name, value in rate.items()
    ]
    lines.append(Line("machine, copies", "", f"{bandwidth / 1e9:.1f} GB/s", None, None))
    assert isinstance(ours, OurStep)
    flops = sum(flops_of(ours, batch) for batch in batches[:2]) / 2
    weights = sum(p.numel() for p in ours.parameters)
    limit = flops / rate["bfloat16"] + 4 * _PASSES * weights / bandwidth
    share = limit / seconds["ours"]
    lines.append(
        Line(
            f"step {size}, batch {batch_size}, bfloat16: share of the machine's limit",
            f">= {SHARE_GOAL:.0%}",
            f"{share:.0%} ({seconds['ours']:.2f} s; limit {limit:.2f} s, {flops / 1e12:.2f} TFLOP)",
            None,
            share >= SHARE_GOAL,
        )
    )
    lines.append(
        Line(
            f"step {size}, batch {batch_size}: ratio to plain at the limit",
            f">= {GOAL:g}x plain",
            f"plain {seconds['plain']:.2f} s; ours is {seconds['plain'] / seconds['ours']:.2f}x",
            round(seconds["plain"] / limit, 2),
            None,
        )
    )
    work = N_CROPS * encoder_flops(encoder_for(config))
    lines.append(
        Line(
            f"embed {size}, {N_CROPS} crops: limit, all products in int8",
            "",
            f"{rate['int8'] / work:.1f} rec/s ({work / 1e9:.0f} GFLOP each)",
            None,
            None,
        )
    )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", action="append", choices=["paper", "small", "tiny"])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    use_threads(options.threads)
    lines = []
    for size in options.size or ["paper", "small"]:
        lines += measure(size, options.batch_size, options.repeats * (1 if size == "paper" else 3))
    show(lines)


if __name__ == "__main__":
    main()
