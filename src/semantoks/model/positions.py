"""Positions of tokens: what is added to a token to state its row and its patch.

Source: Brain-Semantoks (ICLR 2026), encoder; positions from coordinates after BrainLM (Ortega Caro
et al., ICLR 2024), from functional gradients after Brain-JEPA (Dong et al., NeurIPS 2024).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from semantoks.atlas.channels import Channels, TokenRows
from semantoks.errors import ConfigError
from semantoks.model.gradients import functional_gradients

N_GRADIENTS = 30  # as in Brain-JEPA
_WAVELENGTHS = (400.0, 200.0, 100.0, 50.0)  # mm; a head is some 200 mm long


class Positions(nn.Module, ABC):
    """Adds to every token its row and its patch."""

    #: Whether `fit` learns from training crops before the first step.
    is_fitted_first: ClassVar[bool] = False

    @abstractmethod
    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, N, P, D) to (B, N, P, D); any number of patches."""

    def fit(self, crops: Tensor) -> None:
        """Fit what has a closed form on training crops (B, C, T): nothing by default."""

    def copy_fitted(self, other: Positions) -> None:
        """Take over what `fit` fitted to other positions of this kind: nothing by default."""

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


class PlacedPositions(Positions):
    """A linear map of the place of every row, and fixed sine-cosine over the patches.

    Parameters
    ----------
    rows : TokenRows
    width : int
        Token width D.
    n_features : int
        Numbers that describe a place K.

    Attributes
    ----------
    places : Tensor of shape (N, K)
    """

    places: Tensor

    def __init__(self, rows: TokenRows, width: int, n_features: int, *, saved: bool) -> None:
        super().__init__()
        self.rows = rows
        self.map = nn.Linear(n_features, width, bias=False)
        self.register_buffer("places", torch.zeros(len(rows), n_features), persistent=saved)

    def place(self, by_channel: Tensor) -> None:
        """Place every row at the mean of its channels, (C, K)."""
        means = [by_channel[torch.as_tensor(own)].mean(dim=0) for own in self.rows.channels]
        self.places.copy_(torch.stack(means))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, N, P, D) to (B, N, P, D)."""
        tokens = tokens + self.map(self.places)[:, None]
        return tokens + sincos_positions(tokens.shape[2], tokens.shape[3], like=tokens)


class CoordinatePositions(PlacedPositions):
    """Positions from the coordinates of the ROIs: their sines and cosines at four wavelengths.

    Raises
    ------
    ConfigError
        If a ROI has no coordinates.
    """

    def __init__(self, rows: TokenRows, channels: Channels, width: int) -> None:
        super().__init__(rows, width, 6 * len(_WAVELENGTHS), saved=False)
        if not np.isfinite(channels.coordinates).all():
            raise ConfigError(
                f"needs the coordinates of every ROI, which {channels.name} does not state",
                field="encoder.positions",
                value="coordinates",
                fix="Set encoder.positions=gradients, or leave it out",
            )
        places = torch.from_numpy(channels.coordinates.copy())
        angles = [places * (2 * torch.pi / wave) for wave in _WAVELENGTHS]
        self.place(torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], dim=1))


class GradientPositions(PlacedPositions):
    """Positions from the functional gradients of the training recordings, fitted beforehand."""

    is_fitted_first: ClassVar[bool] = True

    def __init__(self, rows: TokenRows, channels: Channels, width: int) -> None:
        super().__init__(rows, width, min(N_GRADIENTS, len(channels) - 1), saved=True)

    @torch.no_grad()
    def fit(self, crops: Tensor) -> None:
        """Place the rows along the gradients of unlabelled training crops (B, C, T)."""
        self.place(functional_gradients(crops, self.places.shape[1]))

    def copy_fitted(self, other: Positions) -> None:
        """Take over the gradients, which are no weights that training changes."""
        assert isinstance(other, GradientPositions)
        self.places.copy_(other.places)


#: Kinds of positions by their name in `EncoderConfig.positions`.
POSITIONS = ("learned", "coordinates", "gradients")


def make_positions(kind: str, rows: TokenRows, channels: Channels, width: int) -> Positions:
    """Return positions of a kind for the rows of a token grid."""
    if kind == "coordinates":
        return CoordinatePositions(rows, channels, width)
    if kind == "gradients":
        return GradientPositions(rows, channels, width)
    return LearnedPositions(len(rows), width)


def sincos_positions(n_patches: int, width: int, *, like: Tensor) -> Tensor:
    """Return fixed sine-cosine positions of the patches, shape (P, D): sines, then cosines.

    Computed for as many patches as there are, in float64, then rounded to float32 and cast to
    the type of `like`.
    """
    frequencies = 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width // 2))
    angles = torch.arange(n_patches, dtype=torch.float64)[:, None] * frequencies
    positions = torch.cat([angles.sin(), angles.cos()], dim=1)
    return positions.float().to(dtype=like.dtype, device=like.device)
