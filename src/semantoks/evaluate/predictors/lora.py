"""Low-rank adaptation: small matrices beside the linear maps of attention and MLP are trained.

A map ``W x + b`` becomes ``W x + b + (alpha / rank) B A x`` with A of `rank` rows and B, zero at
first, of `rank` columns: before training nothing has changed. W and b stay as they are; afterwards
the product is added to W, and the encoder is an ordinary one again.
Source: Hu et al., ICLR 2022 (LoRA).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from semantoks.model.encoder import Encoder


class LowRank(nn.Module):
    """A linear map that is not trained, and a low-rank one beside it that is.

    Parameters
    ----------
    base : Linear
    rank : int
    alpha : float
        The update is scaled by ``alpha / rank``.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.scale = alpha / rank
        self.down = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.up = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        plain: Tensor = self.base(x)
        return plain + self.scale * F.linear(F.linear(x, self.down), self.up)

    @property
    def weight(self) -> Tensor:
        """The base's weights with the update added, shape (out_features, in_features)."""
        return self.base.weight + self.scale * (self.up @ self.down)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return the base with the update added to its weights."""
        self.base.weight.copy_(self.weight)
        return self.base


def add_low_rank(encoder: Encoder, rank: int, alpha: float) -> None:
    """Put a `LowRank` into the place of every linear map of the blocks; train nothing else."""
    encoder.requires_grad_(False)
    for block in encoder.blocks:
        for name, part in [*block.named_modules()]:
            if isinstance(part, nn.Linear):
                block.set_submodule(name, LowRank(part, rank, alpha))


def merge_low_rank(encoder: Encoder) -> None:
    """Turn every `LowRank` of an encoder back into a linear map, its update added."""
    for name, part in [*encoder.named_modules()]:
        if isinstance(part, LowRank):
            encoder.set_submodule(name, part.merged())
