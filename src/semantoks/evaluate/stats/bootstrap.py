"""Bootstrap intervals of scores, for what is described and not tested. Deterministic by seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semantoks.arrays import Array
from semantoks.evaluate.stats.metrics import Codes

Score = Callable[[NDArray, Array], float]  # type: ignore[type-arg]


@dataclass(frozen=True)
class Estimate:
    """A score with its bootstrap interval.

    Parameters
    ----------
    value, ci_low, ci_high : float
    """

    value: float
    ci_low: float
    ci_high: float


def cluster_resamples(subjects: NDArray[np.str_], n_bootstrap: int, seed: int) -> list[Codes]:
    """Draw bootstrap samples of subjects, each with all its rows.

    Parameters
    ----------
    subjects : array of shape (n,)
        Subject of every row.
    n_bootstrap : int
    seed : int

    Returns
    -------
    list of int arrays
        Rows of every sample; their number differs with the subjects drawn.
    """
    rng = np.random.default_rng(seed)
    codes = np.unique(subjects, return_inverse=True)[1]
    rows = np.split(np.argsort(codes, kind="stable"), np.cumsum(np.bincount(codes))[:-1])
    drawn = rng.integers(0, len(rows), size=(n_bootstrap, len(rows)))
    return [np.concatenate([rows[i] for i in sample]) for sample in drawn]


def interval(drawn: Array, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of bootstrap scores; NaN where none of them is known."""
    if np.isnan(drawn).all():
        return float("nan"), float("nan")
    tail = (1.0 - level) / 2
    low, high = np.nanquantile(drawn, [tail, 1.0 - tail])
    return float(low), float(high)


def estimate(
    metric: Score, y: NDArray[np.generic], predicted: Array, samples: Sequence[Codes]
) -> Estimate:
    """Return a score with its 95 % percentile bootstrap interval.

    Parameters
    ----------
    metric : callable
    y : array of shape (n,)
        One row per subject or recording.
    predicted : array of shape (n, ...)
    samples : sequence of int arrays
        See `cluster_resamples`.
    """
    drawn = np.array([metric(y[rows], predicted[rows]) for rows in samples])
    return Estimate(metric(y, predicted), *interval(drawn))
