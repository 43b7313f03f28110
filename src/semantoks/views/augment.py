"""Augmentation of views, vectorised over recordings, on the device where the views are.

In this order (paper, views): ROI dropout, time dropout, amplitude, noise. Every view of every
recording draws its own strength.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor

Level = Literal["none", "light", "medium", "heavy"]

_ROI_RATIO = {"light": (0.0, 0.1), "medium": (0.1, 0.3), "heavy": (0.25, 0.5)}
_TIME_RATIO = {"light": (0.0, 0.3), "medium": (0.2, 0.4), "heavy": (0.3, 0.6)}
_AMPLITUDE = {"light": (0.8, 1.2), "medium": (0.6, 1.4), "heavy": (0.4, 1.6)}
_NOISE_STD = {"light": 0.1, "medium": 0.2, "heavy": 0.4}


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Level of each augmentation; the default is the paper's."""

    roi_dropout: Level = "light"
    """Random ROIs set to zero: ratio none | U(0,.1) | U(.1,.3) | U(.25,.5)."""
    time_dropout: Level = "light"
    """One block of time points set to zero: ratio none | U(0,.3) | U(.2,.4) | U(.3,.6)."""
    amplitude: Level = "light"
    """One factor per view: 1 | U(.8,1.2) | U(.6,1.4) | U(.4,1.6)."""
    noise: Level = "light"
    """White noise, standard deviation 0 | .1 | .2 | .4 of a z-scored signal."""


def _uniform(n: int, low: float, high: float, generator: Generator) -> Tensor:
    return torch.empty(n, device=generator.device).uniform_(low, high, generator=generator)


def _share(n: int, total: int, ratio: tuple[float, float], generator: Generator) -> Tensor:
    """Draw ``max(1, floor(r * total))`` for n views, r uniform in `ratio`."""
    drawn = _uniform(n, *ratio, generator=generator)
    return (drawn * total).floor().long().clamp(min=1)


@dataclass(frozen=True)
class Rows:
    """Which rows of a larger batch are here: random numbers are drawn for all of them.

    Parameters
    ----------
    index : Tensor of int, shape (M,)
    total : int
        Rows of the larger batch.
    """

    index: Tensor
    total: int

    @classmethod
    def all(cls, x: Tensor) -> Rows:
        """Return the rows of a batch that is here as a whole."""
        return cls(torch.arange(len(x), device=x.device), len(x))

    def of(self, drawn: Tensor) -> Tensor:
        """Return these rows of what was drawn for the larger batch."""
        return drawn if len(self.index) == self.total else drawn[self.index]


def drop_rois(
    x: Tensor, ratio: tuple[float, float], generator: Generator, rows: Rows | None = None
) -> Tensor:
    """Set random ROIs to zero. x : Tensor of shape (M, C, T)."""
    rows = rows or Rows.all(x)
    m, n_rois = rows.total, x.shape[1]
    count = rows.of(_share(m, n_rois, ratio, generator))
    order = rows.of(torch.rand(m, n_rois, device=x.device, generator=generator)).argsort(dim=1)
    return x * (order.argsort(dim=1) >= count[:, None]).unsqueeze(-1)


def drop_times(
    x: Tensor, ratio: tuple[float, float], generator: Generator, rows: Rows | None = None
) -> Tensor:
    """Set one block of time points to zero in all ROIs. x : Tensor of shape (M, C, T)."""
    rows = rows or Rows.all(x)
    m, n_times = rows.total, x.shape[2]
    count = rows.of(_share(m, n_times, ratio, generator))
    places = n_times - count + 1
    drawn = rows.of(torch.rand(m, device=x.device, generator=generator))
    start = (drawn * places).floor().long()
    start = torch.minimum(start, places - 1)
    time = torch.arange(n_times, device=x.device)
    inside = (time >= start[:, None]) & (time < (start + count)[:, None])
    return x * ~inside.unsqueeze(1)


def augment(
    x: Tensor, config: AugmentConfig, generator: Generator, rows: Rows | None = None
) -> Tensor:
    """Augment views.

    Parameters
    ----------
    x : Tensor of shape (M, C, T)
        Z-scored views, each augmented on its own.
    config : AugmentConfig
    generator : torch Generator on the device of `x`
    rows : Rows, optional
        Where `x` is a part of a batch: it becomes what it would be within the whole.

    Returns
    -------
    Tensor of shape (M, C, T)
    """
    rows = rows or Rows.all(x)
    if config.roi_dropout != "none":
        x = drop_rois(x, _ROI_RATIO[config.roi_dropout], generator, rows)
    if config.time_dropout != "none":
        x = drop_times(x, _TIME_RATIO[config.time_dropout], generator, rows)
    if config.amplitude != "none":
        factor = rows.of(_uniform(rows.total, *_AMPLITUDE[config.amplitude], generator))
        x = x * factor[:, None, None]
    if config.noise != "none":
        shape = (rows.total, *x.shape[1:])
        noise = torch.randn(shape, device=x.device, dtype=x.dtype, generator=generator)
        x = x + _NOISE_STD[config.noise] * rows.of(noise)
    return x
