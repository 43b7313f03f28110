"""Scores of predictions: pure functions, and the table that names them.

Every metric is called with the truth and the predictions; a metric *within strata* compares only
people of one stratum (a site, or a fold where no site is known) and then combines the strata, so
that neither offsets between sites nor differences between folds enter it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.arrays import Array
from semantoks.errors import InputError
from semantoks.evaluate.stats.kinds import Kind

Codes = NDArray[np.intp]
Limits = tuple[float, float]  # the least and the most that a number can be
UNLIMITED: Limits = (-np.inf, np.inf)


def _strata(strata: Codes | None, n: int) -> Codes:
    """Return the strata; one of all where there are none."""
    return np.zeros(n, np.intp) if strata is None else strata


def balanced(p: Array, thresholds: Array) -> Array:
    """Return probabilities divided by the classes' thresholds and normalised, (..., n_classes).

    The largest one is that of the class decided for.

    Parameters
    ----------
    p : array of shape (..., n_classes)
    thresholds : array of a shape that broadcasts with it
    """
    ratios = p / thresholds
    # Rounded: those that differ by rounding errors alone are equal.
    return np.asarray((ratios / ratios.sum(axis=-1, keepdims=True)).round(12), np.float64)


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


def auroc(y: Codes, scores: Array, strata: Codes | None = None) -> float:
    """Area under the ROC curve: of the second of two classes, or mean over all against the rest.

    Within strata it is the share of pairs of a member and a non-member *of one stratum* that the
    score orders rightly. Strata are combined with weights ``n1 n0 / (n1 + n0)``, those of van
    Elteren's stratified rank test (1960) up to a constant: about the inverse of the variance.

    Parameters
    ----------
    y : int array of shape (n,)
    scores : array of shape (n, n_classes)
    strata : int array of shape (n,), optional
        All people are one stratum by default.

    Returns
    -------
    float
        NaN where no stratum has members and non-members of a class.
    """
    classes = [1] if scores.shape[1] == 2 else range(scores.shape[1])
    areas = [_stratified_area(y == c, scores[:, c], strata) for c in classes]
    known = [area for area in areas if not np.isnan(area)]
    return float(np.mean(known)) if known else float("nan")


def _stratified_area(positive: NDArray[np.bool_], score: Array, strata: Codes | None) -> float:
    strata = _strata(strata, len(score))
    n = np.bincount(strata)
    n1 = np.bincount(strata, weights=positive, minlength=len(n))
    n0 = n - n1
    order = np.lexsort((score, strata))
    of, value = strata[order], score[order]
    new = np.append(True, (np.diff(of) != 0) | (np.diff(value) != 0))
    ties = np.cumsum(new) - 1
    first = np.flatnonzero(new)
    last = np.append(first[1:], len(score))
    ranks = ((first + last + 1) / 2)[ties] - (np.cumsum(n) - n)[of]  # means of ties, from 1
    sums = np.bincount(of, weights=ranks * positive[order], minlength=len(n))
    known = (n1 > 0) & (n0 > 0)
    wins = (sums - n1 * (n1 + 1) / 2)[known]
    total = float((n1 * n0)[known] @ (1 / n[known]))
    return float((wins / n[known]).sum() / total) if total else float("nan")


def concordance(
    y: Array, predicted: Array, strata: Codes | None = None, base: Array | None = None
) -> float:
    """Share of pairs with different truths that the prediction orders rightly; ties count one half.

    For ordinal targets; with two values it is the area under the ROC curve. Within strata only
    pairs of one stratum count, and strata weigh as their pairs per member.

    Parameters
    ----------
    y, predicted : array of shape (n,)
    strata : int array of shape (n,), optional
    base : array of shape (n,), optional
        See `pearson_r`.
    """
    strata = _strata(strata, len(y))
    if base is not None:  # rounded: those that differ by rounding errors alone are equal
        predicted = (predicted - base).round(9)
    right = total = 0.0
    for code in np.unique(strata):
        truth, guess = y[strata == code], predicted[strata == code]
        greater = truth[:, None] > truth
        wins = (guess[:, None] > guess) + 0.5 * (guess[:, None] == guess)
        right += float(wins[greater].sum()) / len(truth)
        total += float(greater.sum()) / len(truth)
    return right / total if total else float("nan")


def average_precision(y: Codes, scores: Array) -> float:
    """Area under the precision-recall curve (AUPRC), as average precision, of the second class.

    Of more than two classes, the mean over classes against the rest. Knowing nothing scores the
    prevalence.

    Parameters
    ----------
    y : int array of shape (n,)
    scores : array of shape (n, n_classes)
    """
    areas = []
    for c in [1] if scores.shape[1] == 2 else range(scores.shape[1]):
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

    Parameters
    ----------
    y : int array of shape (n,)
    scores : array of shape (n, n_classes)
        Probabilities.
    """
    error = np.square(scores - (y[:, None] == np.arange(scores.shape[1]))).sum(axis=1).mean()
    return float(error / 2 if scores.shape[1] == 2 else error)


def pearson_r(
    y: Array, predicted: Array, strata: Codes | None = None, base: Array | None = None
) -> float:
    """Correlation of truth and prediction; NaN where one of them does not vary.

    Within strata, the means of every stratum are taken from both first: the pooled within-group
    correlation, in which a stratum weighs as much as its people differ.

    Parameters
    ----------
    y, predicted : array of shape (n,)
    strata : int array of shape (n,), optional
    base : array of shape (n,), optional
        What knowing nothing predicts, which is taken from the prediction first. The mean of a
        training part is high where the truths that it lacks are low: over folds, knowing nothing
        correlates with the truth below zero.
    """
    strata = _strata(strata, len(y))
    size, scale = np.maximum(np.bincount(strata), 1), np.square(predicted).sum()
    if base is not None:
        predicted = predicted - base
    a = y - (np.bincount(strata, weights=y) / size)[strata]
    b = predicted - (np.bincount(strata, weights=predicted) / size)[strata]
    of_y, of_p = a @ a, b @ b
    # Sums of squares of equal numbers are rounding errors, not zero.
    if of_y <= 1e-20 * np.square(y).sum() or of_p <= 1e-20 * scale:
        return float("nan")
    return float(a @ b / np.sqrt(of_y * of_p))


def r_squared(y: Array, predicted: Array, base: Array | None = None) -> float:
    """Share of the squared error of `base` that is explained; negative where it is larger.

    Parameters
    ----------
    y, predicted : array of shape (n,)
    base : array of shape (n,), optional
        What knowing nothing predicts, the mean of the training part; by default the mean of `y`.
    """
    total = np.square(y - (y.mean() if base is None else base)).sum()
    return float(1.0 - np.square(y - predicted).sum() / total) if total > 0 else float("nan")


def mean_absolute_error(y: Array, predicted: Array) -> float:
    """Mean absolute error, in the unit of the target."""
    return float(np.abs(y - predicted).mean())


def mae_gain(y: Array, predicted: Array, base: Array | None = None) -> float:
    """Return by how much the mean absolute error is smaller than that of `base`.

    Parameters
    ----------
    y, predicted : array of shape (n,)
        In the unit of the target.
    base : array of shape (n,), optional
        What knowing nothing predicts, the mean of the training part; by default the mean of `y`.
    """
    known = np.full(len(y), y.mean()) if base is None else base
    return mean_absolute_error(y, known) - mean_absolute_error(y, predicted)


@dataclass(frozen=True, eq=False)
class Metric:
    """A score, and what it reads beside the truth and the predictions.

    Parameters
    ----------
    function : callable
    chance : float
        The score of knowing nothing; NaN where it depends on the data.
    within : bool
        Whether it takes strata.
    gain : bool
        Whether it takes the predictions of knowing nothing.
    per_class : bool
        Whether chance is one over the number of classes.
    proper : bool
        Whether it reads probabilities of classes as they are. Others read them divided by the
        thresholds of the fold (`balanced`): the largest is decided for, and the class frequencies
        of training parts do not order people of different folds.
    lower_is_better : bool
    limits : (float, float)
        The least and the most that the score can be.
    """

    function: Callable[..., float]
    chance: float = float("nan")
    within: bool = False
    gain: bool = False
    per_class: bool = False
    proper: bool = False
    lower_is_better: bool = False
    limits: Limits = (0.0, 1.0)

    def __call__(
        self,
        y: NDArray,  # type: ignore[type-arg]
        predicted: Array,
        strata: Codes | None = None,
        base: Array | None = None,
    ) -> float:
        """Return the score.

        Parameters
        ----------
        y : array of shape (n,)
        predicted : array of shape (n, ...)
        strata : int array of shape (n,), optional
        base : array of shape (n, ...), optional
            Predictions of knowing nothing.
        """
        function = partial(self.function, strata=strata) if self.within else self.function
        return function(y, predicted, base=base) if self.gain else function(y, predicted)

    def reads(self, predicted: Array, thresholds: Array | None) -> Array:
        """Return predictions as the metric reads them; no thresholds for numbers."""
        return predicted if self.proper or thresholds is None else balanced(predicted, thresholds)

    @property
    def difference_limits(self) -> Limits:
        """The least and the most that a difference of two scores can be."""
        low, high = self.limits
        return low - high, high - low

    def at_chance(self, n_classes: int) -> float:
        """Return the score of knowing nothing; NaN where it depends on the data."""
        return 1.0 / n_classes if self.per_class else self.chance


_NUMBERS = {
    "MAE gain": Metric(mae_gain, chance=0.0, gain=True, limits=UNLIMITED),
    "r": Metric(pearson_r, chance=0.0, within=True, gain=True, limits=(-1.0, 1.0)),
    "R2": Metric(r_squared, chance=0.0, gain=True, limits=(-np.inf, 1.0)),
    "MAE": Metric(mean_absolute_error, lower_is_better=True, limits=(0.0, np.inf)),
}

#: Metrics by kind of target; the first decides, unless another one is chosen beforehand.
METRICS: dict[Kind, dict[str, Metric]] = {
    "classification": {
        "AUROC": Metric(auroc, chance=0.5, within=True),
        "balanced accuracy": Metric(balanced_accuracy, per_class=True),
        "AUPRC": Metric(average_precision),
        "pooled AUROC": Metric(auroc, chance=0.5),
        "macro F1": Metric(f1_macro),
        "Brier": Metric(brier, lower_is_better=True, proper=True, limits=(0.0, 2.0)),
    },
    "ordinal": {"concordance": Metric(concordance, chance=0.5, within=True, gain=True), **_NUMBERS},
    "regression": _NUMBERS,
}

#: Metrics of which less is better.
LOWER_IS_BETTER = frozenset(
    name for of_kind in METRICS.values() for name, m in of_kind.items() if m.lower_is_better
)


def ordered_metrics(kind: Kind, chosen: Sequence[str] = ()) -> dict[str, Metric]:
    """Return the metrics of a kind of target, the one that decides first.

    Parameters
    ----------
    kind : {"classification", "ordinal", "regression"}
    chosen : sequence of str
        Metrics chosen beforehand, for targets of several kinds: the first of this kind decides.
    """
    first = [name for name in chosen if name in METRICS[kind]][:1]
    return {name: METRICS[kind][name] for name in dict.fromkeys([*first, *METRICS[kind]])}


def check_chosen(chosen: Sequence[str], kinds: Sequence[Kind]) -> None:
    """Refuse a metric that fits none of the targets.

    Raises
    ------
    InputError
    """
    fit = dict.fromkeys(name for kind in kinds for name in METRICS[kind])
    for name in chosen:
        if name not in fit:
            raise InputError(
                f"must be a metric of these targets ({', '.join(dict.fromkeys(kinds))}): "
                f"{', '.join(fit)}",
                field="metric",
                value=name,
            )


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
