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


def resamples(n: int, n_bootstrap: int, seed: int, strata: Codes | None = None) -> Codes:
    """Draw bootstrap samples of subjects, within strata where given.

    Parameters
    ----------
    n : int
        Subjects.
    n_bootstrap : int
    seed : int
    strata : int array of shape (n,), optional
        Classes whose sizes every sample keeps, so that none can vanish.

    Returns
    -------
    int array of shape (n_bootstrap, n)
    """
    rng = np.random.default_rng(seed)
    if strata is None:
        return rng.integers(0, n, size=(n_bootstrap, n))
    out = np.empty((n_bootstrap, n), dtype=np.intp)
    for code in np.unique(strata):
        members = np.flatnonzero(strata == code)
        out[:, members] = members[rng.integers(0, len(members), (n_bootstrap, len(members)))]
    return out


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


def mean_score(metric: Score, y: NDArray[np.generic], predicted: Array) -> float:
    """Return the mean over repetitions of a score.

    Parameters
    ----------
    metric : callable
    y : array of shape (n,)
    predicted : array of shape (n_repeats, n, ...)
    """
    return float(np.mean([metric(y, p) for p in predicted]))


def resampled_scores(
    metric: Score, y: NDArray[np.generic], predicted: Array, samples: Sequence[Codes]
) -> Array:
    """Return the score of every bootstrap sample.

    Parameters
    ----------
    metric : callable
    y : array of shape (n,)
    predicted : array of shape (n_repeats, n, ...)
        The mean over repetitions is scored.
    samples : sequence of int arrays
        See `resamples` and `cluster_resamples`; the same samples pair
        the scores of two models.
    """
    return np.array([mean_score(metric, y[rows], predicted[:, rows]) for rows in samples])


def interval(drawn: Array, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile interval of bootstrap scores; NaN where none of them is known."""
    if np.isnan(drawn).all():
        return float("nan"), float("nan")
    tail = (1.0 - level) / 2
    low, high = np.nanquantile(drawn, [tail, 1.0 - tail])
    return float(low), float(high)


def estimate(
    metric: Score,
    y: NDArray[np.generic],
    predicted: Array,
    samples: Sequence[Codes],
    *,
    against: Array | None = None,
) -> Estimate:
    """Return a score, or a difference of scores, with its 95 % percentile bootstrap interval.

    Parameters
    ----------
    metric : callable
    y : array of shape (n,)
        One row per subject or recording.
    predicted : array of shape (n, ...)
    samples : sequence of int arrays
    against : array of shape (n, ...), optional
        Predictions of another model, whose score is subtracted.
    """
    value = metric(y, predicted)
    drawn = resampled_scores(metric, y, predicted[None], samples)
    if against is not None:
        value = value - metric(y, against)
        drawn = drawn - resampled_scores(metric, y, against[None], samples)
    return Estimate(value, *interval(drawn))
