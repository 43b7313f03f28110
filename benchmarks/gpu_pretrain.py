"""Pretraining on one GPU: recordings per second, model FLOP utilisation, the projected whole run.

    python -m benchmarks.gpu_pretrain --batch-size 512 [--compile] [--checkpoint]

FLOPs are those of the model on whole views, counted from its sizes (two per multiply and add): the
student forward and backward (three forward passes), the teacher forward. What our step leaves out
is counted all the same, as usual for model FLOP utilisation; `--peak` is the processor's dense
bfloat16 rate. No GPU was at hand so far: the script itself has run only up to its check for one.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.common import Line, show
from benchmarks.steps import KINDS, NETWORK_WEIGHT, OurStep, distillation, some_batch, some_masks
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.model.tokenizers.branches import DenseBranch, StructuredProjection
from semantoks.model.tokenizers.networks import SemanticTokenizer
from semantoks.train.run import RunConfig
from semantoks.views.augment import AugmentConfig, augment
from semantoks.views.batch import ViewBatch

N_RECORDINGS, EPOCHS = 39139, 100
MINUTES_GOAL, UTILISATION_GOAL = 10.0, 0.4
WARM_UP = 8
# Dense bfloat16, FLOP/s, by a part of the device's name.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40": 181e12, "L4": 121e12}


def tokenizer_flops(encoder: Encoder) -> float:
    """Multiplications and additions to tokenize one view, as the method writes them."""
    config, tokenizer = encoder.config, encoder.tokenizer
    assert isinstance(tokenizer, SemanticTokenizer)
    total = 0.0
    for network in tokenizer.networks:
        for branch, module in zip(config.branches, network.branches, strict=True):
            if isinstance(module, StructuredProjection):
                heads, rois, taps = module.conv.kernel().shape
                total += heads * rois * (taps + 1) + module.projection.weight.numel()
            else:
                assert isinstance(branch, DenseBranch)
                total += sum(p.numel() for p in module.parameters() if p.ndim > 1)
    return 2 * total * config.view_length


def encoder_flops(encoder: Encoder) -> float:
    """Multiplications and additions to encode one view."""
    config: EncoderConfig = encoder.config
    tokens = encoder.n_networks * config.n_patches + 1
    per_token = (4 + 2 * config.mlp_ratio) * config.width**2 + 2 * tokens * config.width
    return tokenizer_flops(encoder) + 2 * config.depth * tokens * per_token


def seconds_per_step(
    step: OurStep, raw: Tensor, masks: Sequence[Tensor | None], weight: float
) -> float:
    """Return the median time of a step with its augmentation, by the device's own clock.

    Parameters
    ----------
    step : OurStep
    raw : Tensor of shape (2, B, C, T)
        Crops as they are read.
    masks : sequence of Tensor or None
        A run masks something else on every step: those of every turn, the first ones to warm up.
    weight : float
        Weight of L_net.
    """
    generator = torch.Generator(raw.device)
    times = []
    for mask in masks:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()  # type: ignore[no-untyped-call]
        views = augment(raw.flatten(0, 1).float(), AugmentConfig(), generator).view(raw.shape)
        step(ViewBatch(views, None if mask is None else mask.to(raw.device)), weight, 0.99)
        end.record()  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return statistics.median(times[WARM_UP:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="paper", choices=["paper", "small", "tiny"])
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--compile", action="store_true", help="as train.compile=true")
    parser.add_argument("--checkpoint", action="store_true", help="checkpoint activations")
    parser.add_argument("--peak", type=float, help="dense bfloat16 FLOP/s of the device")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device here")
    device, name = torch.device("cuda"), torch.cuda.get_device_name()
    config = RunConfig.preset(options.size)
    method = distillation(config).to(device)
    method.student.encoder.checkpoint = options.checkpoint
    flops = 2 * 4 * encoder_flops(method.student.encoder)
    if options.compile:
        method.student.encoder.compile_blocks()
        method.teacher.encoder.compile_blocks()
    step = OurStep(method, 1e-4, 0.05, bfloat16=True)
    mean = 0.0
    raw = some_batch(config, options.batch_size, masked=False).views.half().to(device)
    generator = torch.Generator().manual_seed(0)
    turns = range(WARM_UP + options.repeats)
    for (masked, network), share in KINDS.items():
        masks = [
            some_masks(config, options.batch_size, generator) if masked else None for _ in turns
        ]
        seconds = seconds_per_step(step, raw, masks, NETWORK_WEIGHT if network else 0.0)
        print(f"masked {masked!s:5} L_net {network!s:5} {seconds * 1000:8.1f} ms per step")
        mean += share * seconds
    rate = options.batch_size / mean
    minutes = N_RECORDINGS * EPOCHS / rate / 60
    peak = options.peak or next((p for key, p in PEAKS.items() if key in name), None)
    used = None if peak is None else rate * flops / peak
    label = f"{name}, {options.size}, batch {options.batch_size}"
    print(f"model FLOPs per recording and step: {flops / 1e9:.1f} G")
    print(f"peak GPU memory: {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")
    show(
        [
            Line(
                f"{label}: {N_RECORDINGS} recordings x {EPOCHS} epochs",
                f"< {MINUTES_GOAL:g} min",
                f"{minutes:.1f} min ({rate:.0f} rec/s)",
                None,
                minutes < MINUTES_GOAL,
            ),
            Line(
                f"{label}: model FLOP utilisation",
                f">= {UTILISATION_GOAL:.0%}",
                "peak unknown" if used is None else f"{used:.1%}",
                None,
                None if used is None else used >= UTILISATION_GOAL,
            ),
        ]
    )


if __name__ == "__main__":
    main()
