"""Scores and their uncertainty. Every function is deterministic given its seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Array = NDArray[np.float64]
Codes = NDArray[np.intp]


def balanced_accuracy(y: Codes, scores: Array) -> float:
    """Mean over classes of the share recognised.

    Parameters
    ----------
    y : int array of shape (n,)
        Class codes.
    scores : array of shape (n, n_classes)
        The class with the largest score is the prediction.
    """
    right = scores.argmax(axis=1) == y
    counts = np.bincount(y, minlength=scores.shape[1])
    hits = np.bincount(y, weights=right, minlength=scores.shape[1])
    present = counts > 0
    return float((hits[present] / counts[present]).mean())


def auroc(y: Codes, scores: Array) -> float:
    """Area under the ROC curve: of the second class, or mean over classes against the rest.

    Parameters
    ----------
    y : int array of shape (n,)
    scores : array of shape (n, n_classes)

    Returns
    -------
    float
        NaN where fewer than two classes are present.
    """
    classes = [1] if scores.shape[1] == 2 else range(scores.shape[1])
    areas = []
    for c in classes:
        positive = y == c
        n1 = int(positive.sum())
        n0 = len(y) - n1
        if n1 and n0:
            ranks = rankdata(scores[:, c])
            areas.append((ranks[positive].sum() - n1 * (n1 + 1) / 2) / (n1 * n0))
    return float(np.mean(areas)) if areas else float("nan")


def pearson_r(y: Array, predicted: Array) -> float:
    """Correlation of truth and prediction; NaN where one of them does not vary."""
    a, b = y - y.mean(), predicted - predicted.mean()
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 0 else float("nan")


def r_squared(y: Array, predicted: Array) -> float:
    """Share of the truth's variance that is explained; negative where worse than its mean."""
    total = np.square(y - y.mean()).sum()
    return float(1.0 - np.square(y - predicted).sum() / total) if total > 0 else float("nan")


def mean_absolute_error(y: Array, predicted: Array) -> float:
    """Mean absolute error, in the unit of the target."""
    return float(np.abs(y - predicted).mean())


Metric = Callable[[NDArray, NDArray], float]  # type: ignore[type-arg]

#: Metrics by kind of target; the first is the one to look at.
METRICS: dict[str, dict[str, Metric]] = {
    "classification": {"balanced accuracy": balanced_accuracy, "AUROC": auroc},
    "regression": {"Pearson r": pearson_r, "MAE": mean_absolute_error, "R2": r_squared},
}

#: Metrics of which less is better.
LOWER_IS_BETTER = frozenset({"MAE"})


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


def estimate(
    metric: Metric,
    y: NDArray[np.generic],
    predicted: Array,
    samples: Sequence[Codes],
    *,
    against: Array | None = None,
    level: float = 0.95,
) -> Estimate:
    """Return a score, or a difference of scores, with its percentile bootstrap interval.

    Parameters
    ----------
    metric : callable
    y : array of shape (n,)
        One row per subject or recording.
    predicted : array of shape (n, ...)
    samples : sequence of int arrays
        See `resamples` and `cluster_resamples`; the same samples pair the scores of two models.
    against : array of shape (n, ...), optional
        Predictions of another model, whose score is subtracted.
    level : float
        Coverage of the interval.
    """

    def score(rows: Codes | slice) -> float:
        value = metric(y[rows], predicted[rows])
        return value if against is None else value - metric(y[rows], against[rows])

    drawn = np.array([score(rows) for rows in samples])
    tail = (1.0 - level) / 2
    if np.isnan(drawn).all():
        return Estimate(score(slice(None)), float("nan"), float("nan"))
    low, high = np.nanquantile(drawn, [tail, 1.0 - tail])
    return Estimate(score(slice(None)), float(low), float(high))
