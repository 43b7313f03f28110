"""Embedding recordings, 8 crops each: every installed engine against plain float32.

    python -m benchmarks.embed --size paper [--model runs/mine --store stores/mine]

With a trained model and a store the cosine is that of real recordings, the smallest of them;
without, of white noise through random weights. A turn is 16 recordings, for plain float32 two.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import plain
from benchmarks.common import Line, encoder_for, show, side_by_side, use_threads
from semantoks.data.store import RecordingStore
from semantoks.evaluate.features.crops import sources
from semantoks.model import engines
from semantoks.model.crops import cut
from semantoks.model.encoder import Encoder
from semantoks.model.pretrained import load_pretrained
from semantoks.train.run import RunConfig
from semantoks.views.crops import evenly_spaced_starts

GOAL, N_CROPS, N_COMPARED, N_TIMED, N_PLAIN = 8.0, 8, 40, 16, 2


def noise(encoder: Encoder) -> list[tuple[Tensor, Tensor]]:
    shape = (N_CROPS, len(encoder.channels), encoder.config.view_length)
    generator = torch.Generator().manual_seed(0)
    missing = torch.zeros(N_CROPS, encoder.n_networks, encoder.config.n_patches, dtype=torch.bool)
    return [(torch.randn(shape, generator=generator), missing) for _ in range(N_TIMED)]


def recorded(encoder: Encoder, store: RecordingStore) -> list[tuple[Tensor, Tensor]]:
    inputs = []
    for source in sources(encoder, store.select(np.arange(len(store)) < N_COMPARED), None):
        starts = evenly_spaced_starts(len(source.signal), encoder.config.view_length, N_CROPS)
        inputs.append(cut(encoder, source, starts))
    return inputs


@torch.inference_mode()
def plainly(encoder: Encoder, views: Tensor, missing: Tensor) -> NDArray[np.float32]:
    values: NDArray[np.float32] = plain.encode(encoder, views, missing).cls_avg.numpy()
    return values


def measure(
    encoder: Encoder, inputs: list[tuple[Tensor, Tensor]], label: str, repeats: int
) -> list[Line]:
    expected = [plainly(encoder, *one).mean(axis=0) for one in inputs]
    found = {}
    for name in ("torch", "onnx", "openvino"):
        if name == "torch" or engines._installed(name):
            for precision in ("float32", "low"):
                found[name, precision] = engines.make_engine(
                    name, encoder, N_CROPS, precision, "cpu"
                )

    def each(engine: engines.Engine) -> Callable[[], object]:
        return lambda: list(engine(inputs[:N_TIMED]))

    seconds = side_by_side(
        {"plain": lambda: [plainly(encoder, *one) for one in inputs[:N_PLAIN]]}
        | {f"{n}, {p}": each(engine) for (n, p), engine in found.items()},
        repeats,
    )
    rates = {key: (N_PLAIN if key == "plain" else N_TIMED) / s for key, s in seconds.items()}
    lines = []
    best = ("", 0.0, 1.0)
    for (name, precision), engine in found.items():
        key = f"{name}, {precision}"
        smallest = min(
            engines.cosine(crops.mean(axis=0), row)
            for crops, row in zip(engine(inputs), expected, strict=True)
        )
        ratio = rates[key] / rates["plain"]
        if smallest >= engines.SMALLEST_COSINE and ratio > best[1]:
            best = (key, ratio, smallest)
        measured = f"{rates[key]:.1f} rec/s, cosine {smallest:.6f}"
        lines.append(Line(f"embed {label}, {key}", "", measured, round(ratio, 2), None))
    lines.append(
        Line(
            f"embed {label}, fastest with cosine >= {engines.SMALLEST_COSINE}: {best[0]}",
            f">= {GOAL:g}x plain",
            f"{rates[best[0]]:.1f} rec/s (plain {rates['plain']:.1f})",
            round(best[1], 2),
            best[1] >= GOAL if encoder.config == RunConfig.preset("paper").encoder else None,
        )
    )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", action="append", choices=["paper", "small", "tiny"])
    parser.add_argument("--model", help="a trained model, instead of random weights")
    parser.add_argument("--store", help="a store that fits the model")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    use_threads(options.threads)
    lines = []
    if options.model:
        encoder = load_pretrained(options.model)
        inputs = (
            recorded(encoder, RecordingStore(options.store)) if options.store else noise(encoder)
        )
        label = f"trained model, {encoder.config.width} x {encoder.config.depth}"
        lines += measure(encoder, inputs, label, options.repeats)
    for size in options.size or ([] if options.model else ["paper", "small"]):
        encoder = encoder_for(RunConfig.preset(size)).eval().requires_grad_(False)
        lines += measure(encoder, noise(encoder), f"{size}, random weights", options.repeats)
    show(lines)


if __name__ == "__main__":
    main()
