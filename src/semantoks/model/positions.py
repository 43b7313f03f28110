"""Positions of tokens: what is added to a token to say where in the grid it stands.

Source: Brain-Semantoks (ICLR 2026), encoder.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn


class Positions(nn.Module, ABC):
    """Adds to every token its row and its patch."""

    @abstractmethod
    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, N, P, D) to (B, N, P, D); any number of patches."""

    def draw(self) -> None:
        """Draw the initial weights, if there are any.

        Apart from the constructor, so that an encoder can draw all its weights in one order.
        """


class LearnedPositions(Positions):
    """A learned vector per row, and fixed sine-cosine over the patches.

    Parameters
    ----------
    n_rows, width : int
        Rows of the token grid N, token width D.
    """

    def __init__(self, n_rows: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(n_rows, width))

    def draw(self) -> None:
        """Draw the vectors from N(0, 0.02)."""
        with torch.no_grad():
            self.table.copy_(0.02 * torch.randn(self.table.shape))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, N, P, D) to (B, N, P, D)."""
        tokens = tokens + self.table[:, None]
        return tokens + sincos_positions(tokens.shape[2], tokens.shape[3], like=tokens)


def sincos_positions(n_patches: int, width: int, *, like: Tensor) -> Tensor:
    """Return fixed sine-cosine positions of the patches, shape (P, D): sines, then cosines.

    Computed for as many patches as there are, in float64, then rounded to float32 and cast to
    the type of `like`.
    """
    frequencies = 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width // 2))
    angles = torch.arange(n_patches, dtype=torch.float64)[:, None] * frequencies
    positions = torch.cat([angles.sin(), angles.cos()], dim=1)
    return positions.float().to(dtype=like.dtype, device=like.device)
