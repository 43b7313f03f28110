"""Pretraining step: ours against the plain float32 formulation, recordings per second and memory.

python -m benchmarks.pretrain --size paper --size small
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial

import torch

from benchmarks.common import Line, in_new_process, peak_gb, show, side_by_side, use_threads
from benchmarks.plain import PlainStep
from benchmarks.steps import KINDS, NETWORK_WEIGHT, OurStep, distillation, some_batch
from semantoks.objectives.objective import Losses
from semantoks.train.memory import keep_few_kernels
from semantoks.train.run import RunConfig
from semantoks.views.batch import ViewBatch

GOAL, MEMORY_GOAL = 4.0, 1.85
LARGE_BATCH, LARGE_MEMORY_GOAL = 512, 24.0
WARM_UP = 2
CONTESTANTS = ("plain", "float32", "bfloat16")


def step(name: str, config: RunConfig, n_parts: int = 1) -> PlainStep | OurStep:
    method = distillation(config)
    if name == "plain":
        return PlainStep(method, 1e-4, 0.05)
    if name.endswith("-checkpoint"):
        method.student.encoder.checkpoint = True
        keep_few_kernels()
    return OurStep(method, 1e-4, 0.05, bfloat16=name.startswith("bfloat16"), n_parts=n_parts)


def in_turn(one: PlainStep | OurStep, batches: Iterator[ViewBatch], weight: float) -> Losses:
    return one(next(batches), weight, 0.99)


def rates(size: str, batch_size: int, repeats: int) -> dict[str, dict[str, float]]:
    """Return recordings per second by kind of step and contestant; "run" is a whole run's mix."""
    config = RunConfig.preset(size)
    steps = {name: step(name, config) for name in CONTESTANTS}
    seconds: dict[str, dict[str, float]] = {}
    for masked, with_network in KINDS:
        weight = NETWORK_WEIGHT if with_network else 0.0
        kind = f"{'masked' if masked else 'whole'}, L_net {'on' if with_network else 'off'}"
        # A run masks something else on every step: so do all turns of this.
        batches = [
            some_batch(config, batch_size, masked=masked, seed=turn)
            for turn in range(WARM_UP + repeats)
        ]
        runs = {name: partial(in_turn, one, iter(batches), weight) for name, one in steps.items()}
        seconds[kind] = side_by_side(runs, repeats, WARM_UP)
    seconds["run"] = {
        name: sum(
            share * by[name] for share, by in zip(KINDS.values(), seconds.values(), strict=True)
        )
        for name in CONTESTANTS
    }
    return {kind: {name: batch_size / s for name, s in by.items()} for kind, by in seconds.items()}


def memory(name: str, size: str, batch_size: int, n_parts: int, n_steps: int) -> float:
    """Return this process's peak after steps of every kind, GB: call it in a new process."""
    config = RunConfig.preset(size)
    one = step(name, config, n_parts)
    kinds = [*KINDS, (True, False), (True, False)]
    for seed, (masked, with_network) in enumerate(kinds[:n_steps]):
        batch = some_batch(config, batch_size, masked=masked, seed=seed)
        one(batch, NETWORK_WEIGHT if with_network else 0.0, 0.99)
    return peak_gb()


def measure(size: str, batch_size: int, repeats: int, threads: int) -> list[Line]:
    found = rates(size, batch_size, repeats)
    lines = []
    for kind, by in found.items():
        for name in CONTESTANTS[1:]:
            ratio = by[name] / by["plain"]
            is_goal = (kind, name) == ("run", "bfloat16")
            lines.append(
                Line(
                    f"step {size}, batch {batch_size}, {kind}, {name}",
                    f">= {GOAL:g}x plain" if is_goal else "",
                    f"{by[name]:.1f} rec/s (plain {by['plain']:.1f})",
                    round(ratio, 2),
                    ratio >= GOAL if is_goal else None,
                )
            )
    low = "bfloat16-checkpoint"
    held = [(name, batch_size, 1, 6, None) for name in (*CONTESTANTS, low)]
    if size == "paper":
        held.append((low, batch_size, 8, 6, MEMORY_GOAL))
        held.append((low, LARGE_BATCH, 32, 1, LARGE_MEMORY_GOAL))
    for name, n, n_parts, n_steps, goal in held:
        peak = float(
            in_new_process(
                __spec__.name,
                *("--memory", name, "--size", size, "--batch-size", str(n)),
                *("--parts", str(n_parts), "--steps", str(n_steps), "--threads", str(threads)),
            )
        )
        lines.append(
            Line(
                f"peak memory {size}, batch {n}{_in_parts(n_parts)}, {name}",
                f"<= {goal:g} GB" if goal else "",
                f"{peak:.2f} GB",
                None,
                peak <= goal if goal else None,
            )
        )
    return lines


def _in_parts(n_parts: int) -> str:
    return f" in {n_parts} parts" if n_parts > 1 else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", action="append", choices=["paper", "small", "tiny"])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory", help="only print the peak memory of this contestant")
    parser.add_argument("--parts", type=int, default=1, help="for --memory: train.accumulate")
    parser.add_argument("--steps", type=int, default=6, help="for --memory")
    options = parser.parse_args()
    use_threads(options.threads)
    sizes = options.size or ["paper", "small"]
    if options.memory:
        print(memory(options.memory, sizes[0], options.batch_size, options.parts, options.steps))
        return
    lines = []
    for size in sizes:
        repeats = options.repeats * (1 if size == "paper" else 3)
        lines += measure(size, options.batch_size, repeats, options.threads)
    show(lines)


if __name__ == "__main__":
    main()
