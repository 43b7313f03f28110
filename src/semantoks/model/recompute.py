"""Activation checkpointing: memory for time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed


def run(part: Callable[..., Tensor], *inputs: Tensor | None, checkpoint: bool) -> Tensor:
    """Call a part of the model; with `checkpoint` compute its insides again for the gradient."""
    if checkpoint and torch.is_grad_enabled():
        return recomputed(part, *inputs, use_reentrant=False)  # type: ignore[no-any-return]
    return part(*inputs)
