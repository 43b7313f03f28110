"""Readouts: what of an encoder's outputs describes a recording, part by part.

| part | what | numbers |
|---|---|---|
| mean | mean over tokens (with data, unless the model averages all) | D |
| cls | CLS token | D |
| tokens | all tokens, network index slow | N P D |
| spectral | lower triangle of E = log(I + b R), off-diagonal values times sqrt 2 | C (C + 1) / 2 |

The spectral part is the input of the second-order model (granularity "connectome"), of which every
part is divided by its standard deviation over training crops (of all its numbers together): side by
side, each part has the same say in a distance.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from semantoks.errors import InputError, nearest
from semantoks.model.encoder import Encoder
from semantoks.model.spectral import triangle
from semantoks.model.tokenizers.connectome import ConnectomeTokenizer

PARTS = ("mean", "cls", "tokens", "spectral")
#: The paper's ``cls_avg``.
CLS_AVG = ("mean", "cls")


def default_parts(encoder: Encoder) -> tuple[str, ...]:
    """Return the parts that are read unless others are asked for."""
    second_order = isinstance(encoder.tokenizer, ConnectomeTokenizer)
    return ("spectral", "tokens") if second_order else CLS_AVG


def check_parts(encoder: Encoder, parts: Sequence[str]) -> None:
    """Refuse parts that are unknown, repeated, or not there.

    Raises
    ------
    InputError
    """
    if isinstance(parts, str) or not parts or len(set(parts)) < len(parts):
        rule = f"must be different names out of {', '.join(PARTS)}"
        raise InputError(rule, field="parts", value=parts)
    for part in parts:
        if part not in PARTS:
            rule = f"must be of {', '.join(PARTS)}"
            raise InputError(rule, field="parts", value=part, fix=nearest(part, PARTS))
    if "spectral" in parts and not isinstance(encoder.tokenizer, ConnectomeTokenizer):
        raise InputError(
            "needs a model with second-order tokens",
            field="parts",
            value="spectral",
            fix="Leave it out, or evaluate the baseline spectral-fc beside the model",
        )


def part_sizes(encoder: Encoder) -> dict[str, int]:
    """Return the numbers in every part of an embedding."""
    width, n_rois = encoder.config.width, len(encoder.channels)
    n_tokens = encoder.n_networks * encoder.config.n_patches
    sizes = {"mean": width, "cls": width, "tokens": n_tokens * width}
    if isinstance(encoder.tokenizer, ConnectomeTokenizer):
        sizes["spectral"] = n_rois * (n_rois + 1) // 2
    return sizes


def read_parts(
    encoder: Encoder, x: Tensor, mask: Tensor | None, parts: Sequence[str] = CLS_AVG
) -> Tensor:
    """Return embeddings of views.

    Parameters
    ----------
    encoder : Encoder
    x : Tensor of shape (B, C, T)
    mask : Tensor of bool, shape (B, N, P), or None
        Tokens that are not seen.
    parts : sequence of str
        Names out of `PARTS`, in this order.

    Returns
    -------
    Tensor of shape (B, sum of the sizes)
    """
    found = _parts(encoder, x, mask, parts)
    tokenizer = encoder.tokenizer
    if isinstance(tokenizer, ConnectomeTokenizer):
        scale = dict(zip(PARTS, tokenizer.spread, strict=True))
        found = {part: values / scale[part].to(values) for part, values in found.items()}
    return torch.cat([found[part] for part in parts], dim=1)


def _parts(
    encoder: Encoder, x: Tensor, mask: Tensor | None, parts: Sequence[str]
) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    if set(parts) - {"spectral"}:
        out = encoder(x, mask)
        found = {"mean": out.mean, "cls": out.cls, "tokens": out.tokens.flatten(1)}
    if "spectral" in parts:
        assert isinstance(encoder.tokenizer, ConnectomeTokenizer)
        found["spectral"] = triangle(encoder.tokenizer.connectome(x))
    return {part: found[part] for part in parts}


@torch.no_grad()
def measure_spread(encoder: Encoder, batches: Iterable[tuple[Tensor, Tensor | None]]) -> None:
    """Measure the standard deviation of every part over training crops, and keep it.

    Parameters
    ----------
    encoder : Encoder
        With second-order tokens.
    batches : iterable of (x, mask)
        Crops (B, C, T), and their tokens without data.
    """
    tokenizer, was_training = encoder.tokenizer, encoder.training
    assert isinstance(tokenizer, ConnectomeTokenizer)
    encoder.eval()
    rows = [_parts(encoder, x, mask, PARTS) for x, mask in batches]
    encoder.train(was_training)
    for i, part in enumerate(PARTS):
        values = torch.cat([row[part] for row in rows]).double()
        spread = (values - values.mean(dim=0)).square().sum(dim=1).mean().sqrt()
        tokenizer.spread[i] = spread.clamp(min=1e-6)
