"""Encoder with an expander, or projection head: what VICReg, Barlow Twins and contrast train.

The loss sees what the head makes of the CLS token, the evaluation what is before the head. The
papers' heads normalise by BatchNorm; here it is LayerNorm, so that no recording changes what
becomes of another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn

from semantoks.model.encoder import Encoder


class Expanded(NamedTuple):
    """Outputs of the learner.

    Parameters
    ----------
    embedding : Tensor of shape (V, B, D)
        CLS tokens.
    expanded : Tensor of shape (V, B, d)
    """

    embedding: Tensor
    expanded: Tensor


class ExpandedEncoder(nn.Module):
    """An encoder with its expander.

    Parameters
    ----------
    encoder : Encoder
    widths : sequence of int
        Of the layers of the expander; all but the last are normalised.
    """

    def __init__(self, encoder: Encoder, widths: Sequence[int]) -> None:
        super().__init__()
        self.encoder = encoder
        layers: list[nn.Module] = []
        *hidden, last = pairwise([encoder.config.width, *widths])
        for n_in, n_out in hidden:
            layers += [nn.Linear(n_in, n_out), nn.LayerNorm(n_out), nn.GELU()]
        self.expander = nn.Sequential(*layers, nn.Linear(*last))

    def forward(self, views: Tensor, hidden: Tensor | None) -> Expanded:
        """Embed and expand the views.

        Parameters
        ----------
        views : Tensor of shape (V, B, C, T)
        hidden : Tensor of bool, shape (V, B, N, P), or None
            Tokens replaced by the mask vector.
        """
        mask = None if hidden is None else hidden.flatten(0, 1)
        cls, _ = self.encoder.read(views.flatten(0, 1), mask)
        shape = views.shape[:2]
        return Expanded(cls.unflatten(0, shape), self.expander(cls).unflatten(0, shape))
