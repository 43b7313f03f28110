"""Projection head. Source: Brain-Semantoks (ICLR 2026), projection."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semantoks.model.linear import Linear


class ProjectionHead(nn.Module):
    """MLP ``width -> hidden -> out_width`` followed by L2 normalisation.

    Parameters
    ----------
    width, hidden, out_width : int
        D, hidden units, and the projection's width d.
    """

    def __init__(self, width: int, hidden: int, out_width: int) -> None:
        super().__init__()
        self.hidden = Linear(width, hidden)
        self.out = Linear(hidden, out_width)
        for layer in (self.hidden, self.out):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to unit vectors (..., d)."""
        return F.normalize(self.out(self.hidden.gelu(x)), dim=-1)


def head_shapes(
    width: int, hidden: int, out_width: int, *, separate: bool
) -> dict[str, torch.Size]:
    """Return the shapes of a projected encoder's heads by name.

    Parameters
    ----------
    width, hidden, out_width : int
        As for `ProjectionHead`.
    separate : bool
        Whether masked tokens have a head of their own, ``mask_head.*``, beside ``head.*``.
    """
    with torch.device("meta"):
        head = ProjectionHead(width, hidden, out_width).state_dict()
    names = ("head", "mask_head") if separate else ("head",)
    return {f"{name}.{key}": tensor.shape for name in names for key, tensor in head.items()}
