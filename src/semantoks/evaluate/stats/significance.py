"""Tests: whether a model is better than another one, or than knowing nothing.

Three questions, three tests. All are two-sided but `permutation_p`, and deterministic given a seed.

- `sign_flip_p` and `swap_p`: predictions of the same people by two models; would the difference be
  as large if who made which prediction were a coin flip? They take the fitted models as given.
- `corrected_t_p`: scores of the folds of repeated cross-validation, whose training parts overlap;
  the variance is corrected for that (Nadeau & Bengio 2003). It covers the chance in training.
- `permutation_p`: would predictions score as high if they had nothing to do with the truth?
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from semantoks.arrays import Array
from semantoks.errors import InputError
from semantoks.evaluate.stats.metrics import Codes, Metric, mean_score

_CHUNK = 500  # sign flips drawn at a time: all of them at once would be gigabytes of signs


def sign_flip_p(
    differences: Array, clusters: NDArray[np.generic], n_permutations: int, seed: int
) -> float:
    """Return the p-value of the mean of paired differences, by flipping their signs.

    Parameters
    ----------
    differences : array of shape (n,)
        Loss of one model minus that of the other, per prediction.
    clusters : array of shape (n,)
        What is flipped as a whole: subjects, or sites.
    n_permutations : int
    seed : int

    Returns
    -------
    float
        Two-sided, ``(1 + as extreme) / (1 + n_permutations)``.
    """
    codes = np.unique(clusters, return_inverse=True)[1]
    sums = np.bincount(codes, weights=differences)
    found = abs(sums.sum()) * (1 - 1e-9)  # sums of the same numbers in another order are equal
    rng = np.random.default_rng(seed)
    extreme = 0
    for start in range(0, n_permutations, _CHUNK):
        size = (min(_CHUNK, n_permutations - start), len(sums))
        signs = rng.integers(0, 2, size) * 2.0 - 1.0
        extreme += int((abs(signs @ sums) >= found).sum())
    return (1 + extreme) / (1 + n_permutations)


def swap_p(
    metric: Metric,
    y: NDArray[np.generic],
    a: Array,
    b: Array,
    clusters: NDArray[np.generic],
    n_permutations: int,
    seed: int,
) -> float:
    """Return the p-value of a difference of scores, by swapping the two models' predictions.

    For scores that are no mean over people, correlations and areas under curves. Predictions should
    be on one scale (standardised, ranks): otherwise a swap changes more than who made them.

    Parameters
    ----------
    metric : callable
    y : array of shape (n,)
    a, b : arrays of shape (n, ...)
        Predictions of the two models.
    clusters : array of shape (n,)
        What is swapped as a whole.
    n_permutations : int
    seed : int

    Returns
    -------
    float
        Two-sided; NaN where a score is not known.
    """
    codes = np.unique(clusters, return_inverse=True)[1]
    found = abs(metric(y, a) - metric(y, b)) * (1 - 1e-9)
    if np.isnan(found):
        return float("nan")
    rng = np.random.default_rng(seed)
    extreme = 0
    for _ in range(n_permutations):
        swap = rng.integers(0, 2, codes.max() + 1).astype(bool)[codes]
        swap = swap.reshape(-1, *[1] * (a.ndim - 1))
        gap = abs(metric(y, np.where(swap, b, a)) - metric(y, np.where(swap, a, b)))
        extreme += not gap < found  # a score that is not known speaks against a difference
    return (1 + extreme) / (1 + n_permutations)


def corrected_t_p(differences: Array, test_to_train: float) -> float:
    """Return the p-value of the corrected resampled t test of fold-wise differences.

    Parameters
    ----------
    differences : array of shape (n_folds * n_repeats,)
        Differences of the two models' scores, one per fold.
    test_to_train : float
        Number of tested over number of trained people of a fold. The variance is multiplied by
        ``1/J + test/train`` instead of ``1/J`` (Nadeau & Bengio 2003, equation 9).

    Raises
    ------
    InputError
        If there are fewer than 2 folds.
    """
    n = len(differences)
    if n < 2:
        raise InputError("the corrected t test needs at least 2 folds", field="folds", value=n)
    mean, variance = differences.mean(), differences.var(ddof=1)
    if variance == 0:
        return 1.0 if mean == 0 else 0.0
    statistic = mean / np.sqrt((1 / n + test_to_train) * variance)
    return float(2 * student.sf(abs(statistic), n - 1))


def permutation_p(
    metric: Metric,
    y: NDArray[np.generic],
    predicted: Array,
    strata: NDArray[np.generic],
    n_permutations: int,
    seed: int,
    *,
    lower_is_better: bool = False,
) -> float:
    """Return the p-value of a score against knowing nothing, by permuting the truth.

    The truth is permuted within strata against the predictions as they are; nothing is fitted
    again. With sites as strata the null hypothesis is that within a site predictions have nothing
    to do with the truth: a model that only knows sites is at chance.

    Parameters
    ----------
    metric : callable
    y : array of shape (n,)
        One row per person.
    predicted : array of shape (n_repeats, n, ...)
    strata : array of shape (n,)
    n_permutations : int
    seed : int
    lower_is_better : bool

    Returns
    -------
    float
        One-sided; NaN where the score is not known.
    """
    rng = np.random.default_rng(seed)
    sign = -1.0 if lower_is_better else 1.0
    found = sign * mean_score(metric, y, predicted)
    if np.isnan(found):
        return float("nan")
    codes = np.unique(strata, return_inverse=True)[1]
    places = np.argsort(codes, kind="stable")
    extreme = 0
    for _ in range(n_permutations):
        shuffled = y.copy()
        shuffled[places] = y[np.lexsort((rng.random(len(y)), codes))]
        extreme += not sign * mean_score(metric, shuffled, predicted) < found - 1e-12
    return (1 + extreme) / (1 + n_permutations)


def holm(p_values: Sequence[float] | Array) -> Array:
    """Return p-values adjusted for their number (Holm 1979); unknown ones (NaN) do not count.

    Parameters
    ----------
    p_values : sequence of float
    """
    p = np.asarray(p_values, np.float64)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    out = np.full(len(p), np.nan)
    steps = p[order] * np.arange(len(order), 0, -1)
    out[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return out


def cohen_dz(differences: Array) -> float:
    """Return the mean of paired differences over their standard deviation; NaN where all agree."""
    spread = differences.std(ddof=1) if len(differences) > 1 else 0.0
    return float(differences.mean() / spread) if spread > 0 else float("nan")


def person_losses(y: NDArray[Any], predicted: Array, classify: bool) -> Array:
    """Return what every prediction costs: the mean is 1 - balanced accuracy, or the MAE.

    Parameters
    ----------
    y : array of shape (n,)
        Class codes, or values.
    predicted : array of shape (n_repeats, n, n_classes) or (n_repeats, n)
    classify : bool
        Errors, weighted by the frequency of the class; absolute errors otherwise.

    Returns
    -------
    ndarray of shape (n,)
        Mean over repetitions.
    """
    if not classify:
        return np.asarray(np.abs(predicted - y).mean(axis=0))
    codes: Codes = y.astype(np.intp)
    counts = np.bincount(codes)
    weight = len(codes) / (counts[codes] * (counts > 0).sum())
    return np.asarray((predicted.argmax(axis=2) != codes).mean(axis=0) * weight)
