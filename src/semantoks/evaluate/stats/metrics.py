"""Scores and their uncertainty. Every function is deterministic given its seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from semantoks.arrays import Array

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


def average_precision(y: Codes, scores: Array) -> float:
    """Area under the precision-recall curve (AUPRC), as average precision.

    Mean over all classes against the rest, so that the rarer of two classes counts as much as the
    other and knowing nothing scores ``1 / n_classes``.

    Parameters
    ----------
    y : int array of shape (n,)
    scores : array of shape (n, n_classes)
    """
    areas = []
    for c in range(scores.shape[1]):
        positive = y == c
        if positive.any():
            order = np.argsort(-scores[:, c], kind="stable")
            ends = np.flatnonzero(np.append(np.diff(scores[order, c]) != 0, True))
            hits = np.cumsum(positive[order])[ends]
            areas.append(float(np.diff(hits, prepend=0) @ (hits / (ends + 1)) / hits[-1]))
    return float(np.mean(areas)) if areas else float("nan")


def f1_macro(y: Codes, scores: Array) -> float:
    """Mean over classes of the F1 score; classes absent from the truth do not count.

    Parameters
    ----------
    y : int array of shape (n,)
    scores : array of shape (n, n_classes)
        The class with the largest score is the prediction.
    """
    k = scores.shape[1]
    said = scores.argmax(axis=1)
    hits = np.bincount(y[said == y], minlength=k)
    total = np.bincount(y, minlength=k) + np.bincount(said, minlength=k)
    seen = total > 0
    return float((2 * hits[seen] / total[seen]).mean())


def brier(y: Codes, scores: Array) -> float:
    """Mean squared error of probabilities: of the second of two classes, or summed over more.

    Probabilities of models with balanced class weights are as if classes were equally frequent.

    Parameters
    ----------
    y : int array of shape (n,)
    scores : array of shape (n, n_classes)
        Probabilities.
    """
    error = np.square(scores - (y[:, None] == np.arange(scores.shape[1]))).sum(axis=1).mean()
    return float(error / 2 if scores.shape[1] == 2 else error)


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
    "classification": {
        "balanced accuracy": balanced_accuracy,
        "AUROC": auroc,
        "AUPRC": average_precision,
        "F1": f1_macro,
        "Brier": brier,
    },
    "regression": {"Pearson r": pearson_r, "MAE": mean_absolute_error, "R2": r_squared},
}

#: Metrics of which less is better.
LOWER_IS_BETTER = frozenset({"MAE", "Brier"})


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


def hierarchical_resamples(
    sites: NDArray[np.str_], subjects: NDArray[np.str_], n_bootstrap: int, seed: int
) -> list[Codes]:
    """Draw bootstrap samples of sites, and within every site drawn of its subjects.

    What an interval over them covers is another set of sites, not only other people at these.

    Parameters
    ----------
    sites, subjects : arrays of shape (n,)
        Of every row.
    n_bootstrap : int
    seed : int

    Returns
    -------
    list of int arrays
        Rows of every sample; their number differs with the sites drawn.
    """
    rng = np.random.default_rng(seed)
    of_site = []
    for site in np.unique(sites):
        at = np.flatnonzero(sites == site)
        who = np.unique(subjects[at], return_inverse=True)[1]
        of_site.append([at[who == i] for i in range(who.max() + 1)])
    samples = []
    for _ in range(n_bootstrap):
        drawn = [of_site[i] for i in rng.integers(0, len(of_site), len(of_site))]
        rows = [people[i] for people in drawn for i in rng.integers(0, len(people), len(people))]
        samples.append(np.concatenate(rows))
    return samples


def mean_score(metric: Metric, y: NDArray[np.generic], predicted: Array) -> float:
    """Return the mean over repetitions of a score.

    Parameters
    ----------
    metric : callable
    y : array of shape (n,)
    predicted : array of shape (n_repeats, n, ...)
    """
    return float(np.mean([metric(y, p) for p in predicted]))


def resampled_scores(
    metric: Metric, y: NDArray[np.generic], predicted: Array, samples: Sequence[Codes]
) -> Array:
    """Return the score of every bootstrap sample.

    Parameters
    ----------
    metric : callable
    y : array of shape (n,)
    predicted : array of shape (n_repeats, n, ...)
        The mean over repetitions is scored.
    samples : sequence of int arrays
        See `resamples`, `cluster_resamples` and `hierarchical_resamples`; the same samples pair
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
    metric: Metric,
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


def reliability_curve(y: Codes, scores: Array, n_bins: int = 10) -> pd.DataFrame:
    """Return the observed frequency of events against their predicted probability.

    Parameters
    ----------
    y : int array of shape (n,)
    scores : array of shape (n, n_classes)
        Probabilities. Of two classes that of the second is looked at; of more, that of the class
        predicted.
    n_bins : int
        Bins of equal numbers of people.

    Returns
    -------
    DataFrame
        Columns predicted (mean probability of the bin), observed (share), n.
    """
    if scores.shape[1] == 2:
        p, right = scores[:, 1], y == 1
    else:
        p, right = scores.max(axis=1), scores.argmax(axis=1) == y
    edges = np.quantile(p, np.linspace(0, 1, n_bins + 1)[1:-1])
    table = pd.DataFrame({"predicted": p, "observed": right.astype(float)})
    by_bin = table.groupby(np.searchsorted(edges, p, side="left"))
    return by_bin.mean().assign(n=by_bin.size()).reset_index(drop=True)
