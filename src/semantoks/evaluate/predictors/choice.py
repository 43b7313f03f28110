"""What inner folds decide: the strength of the penalty, the calibration, the thresholds.

Every function looks at predictions of rows that were left out inside a training part, never at test
rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.special import expit, softmax
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from semantoks.arrays import Array, Rows
from semantoks.evaluate.predictors.linear import LinearModel, logistic_loss

#: What the strength is chosen by: of left-out predictions the squared error, the area under the ROC
#: curve within sites or inner folds, or the log loss after calibration.
Criterion = Literal["squared error", "AUROC", "log loss"]

_LARGEST_SLOPE, _LARGEST_OFFSET = 20.0, 30.0  # classes that are apart have no finite ones


def inner_folds(
    codes: NDArray[np.intp] | None,
    n_rows: int,
    groups: ArrayLike | None,
    n_folds: int,
    seed: int,
) -> list[Rows]:
    """Return rows to leave out in turn, every class left in training; none if that cannot be.

    Parameters
    ----------
    codes : int array of shape (n_rows,), optional
        Class of every row, spread evenly; None for numbers.
    n_rows : int
    groups : array of shape (n_rows,), optional
        What stays together: sites, families, people. Groups of one row each are none.
    n_folds : int
        Folds, at most; fewer where a class has fewer members or there are fewer groups.
    seed : int
    """
    names = np.arange(n_rows) if groups is None else np.asarray(groups)
    alone = len(set(names.tolist())) == n_rows
    labels = np.zeros(n_rows, int) if codes is None else codes
    each = [len(set(names[labels == c].tolist())) for c in np.unique(labels)]
    n = min(n_folds, *each)
    if n < 2:
        return []
    if n == len(set(names.tolist())):  # each is left out in turn: there is nothing to draw
        parts = [np.flatnonzero(names == name) for name in np.unique(names)]
        return [test for test in parts if len(set(np.delete(labels, test).tolist())) == len(each)]
    options = {"n_splits": n, "shuffle": True, "random_state": seed}
    splitter: Any
    if alone:
        splitter = (KFold if codes is None else StratifiedKFold)(**options)
    else:
        splitter = (GroupKFold if codes is None else StratifiedGroupKFold)(**options)
    parts = splitter.split(labels, labels, None if alone else names)
    every = set(labels.tolist())
    return [test for train, test in parts if len(test) and set(labels[train].tolist()) == every]


# -- criteria --------------------------------------------------------------------------------------


def squared_error(scores: Array, targets: Array, weight: Array) -> float:
    """Return the weighted mean of squared errors, summed over outputs."""
    return float(np.average(np.square(scores - targets).sum(axis=1), weights=weight))


def auroc_within(scores: Array, signs: Array, weight: Array, units: NDArray[Any]) -> float:
    """Return the area under the ROC curve from pairs of rows of one unit, all weighing the same.

    Parameters
    ----------
    scores, signs : arrays of shape (n, n_outputs)
        The mean over outputs is returned.
    weight : array of shape (n,)
    units : array of shape (n,)
        Sites, or inner folds; one without both classes says nothing.

    Returns
    -------
    float
        0.5 if no unit has both classes.
    """
    areas = []
    for score, sign in zip(scores.T, signs.T, strict=True):
        area = pairs = 0.0
        for unit in np.unique(units):
            rows = units == unit
            w, positive = weight[rows], sign[rows] > 0
            both = float(w[positive].sum() * w[~positive].sum())
            if both > 0:
                area += both * roc_auc_score(positive, score[rows], sample_weight=w)
                pairs += both
        areas.append(area / pairs if pairs else 0.5)
    return float(np.mean(areas))


def comparable(
    parts: Sequence[Rows], codes: NDArray[np.intp], groups: NDArray[Any] | None
) -> NDArray[Any]:
    """Return within what scores are compared: groups if some hold several classes, else folds.

    Parameters
    ----------
    parts : sequence of int arrays
        Rows that were left out together.
    codes : int array of shape (n_rows,)
    groups : array of shape (n_rows,), optional

    Returns
    -------
    array of shape (sum of the parts' lengths,)
        In the order of the parts.
    """
    fold = np.repeat(np.arange(len(parts)), [len(rows) for rows in parts])
    if groups is None:
        return fold
    tested = np.concatenate(parts)
    names = np.unique(groups[tested], return_inverse=True)[1]
    mixed = len(set(zip(names.tolist(), codes[tested].tolist(), strict=True))) > names.max() + 1
    return names if mixed else fold


@dataclass(frozen=True, kw_only=True, eq=False)
class ShrinkagePath:
    """The criterion at every strength, and where the choice fell.

    Parameters
    ----------
    criterion : {"squared error", "AUROC", "log loss"}
    strengths : tuple of float
    losses : array of shape (n_strengths,)
        Squared errors, log losses or one minus AUROC of left-out rows: the smallest wins, of equals
        that of the largest strength. NaN where there were no inner folds: then the largest strength
        is taken.
    """

    criterion: Criterion
    strengths: tuple[float, ...]
    losses: Array

    @property
    def best(self) -> int:
        """Place of the strength chosen."""
        order = np.argsort(self.strengths)[::-1]
        losses = np.where(np.isnan(self.losses), np.inf, self.losses)
        return int(order[np.argmin(losses[order])])

    @property
    def strength(self) -> float:
        """The strength chosen."""
        return self.strengths[self.best]

    def to_row(self) -> dict[str, Any]:
        """Return the path as the row of a table."""
        return {
            "strength": self.strength,
            "criterion": self.criterion,
            "strengths": list(self.strengths),
            "losses": self.losses.tolist(),
        }


# -- probabilities ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """Scores to logits: ``slope * scores + offsets``.

    Parameters
    ----------
    slope : float
        Positive: the order of scores is kept.
    offsets : array of shape (n_outputs,)
    """

    slope: float
    offsets: Array

    def logits(self, scores: Array) -> Array:
        """Return the logits of scores, both (..., n_outputs)."""
        return self.slope * scores + self.offsets

    def probabilities(self, scores: Array) -> Array:
        """Return the probabilities of the classes, (..., n_classes)."""
        logits = self.logits(scores)
        if logits.shape[-1] > 1:
            return np.asarray(softmax(logits, axis=-1), np.float64)
        p = expit(logits[..., 0])
        return np.stack([1.0 - p, p], axis=-1)


def platt(scores: Array, signs: Array, weight: Array) -> tuple[Calibration, float]:
    """Return the calibration with the smallest log loss (Platt 1999), and that loss.

    Of several classes, all scores have one slope and every class an offset.

    Parameters
    ----------
    scores, signs : arrays of shape (n, n_outputs)
        Of left-out rows; one output for two classes.
    weight : array of shape (n,)
    """
    k, share = scores.shape[1], weight / weight.sum()
    centre = share @ scores
    spread = float(np.sqrt((share @ np.square(scores - centre)).mean())) or 1.0
    z = (scores - centre) / spread

    def objective(at: Array) -> tuple[float, Array]:
        slope = np.exp(at[0])
        losses, slopes = logistic_loss(slope * z + at[1:], signs)
        slopes = slopes * share[:, None]
        return float(share @ losses), np.append(slope * (slopes * z).sum(), slopes.sum(axis=0))

    limit = np.log(_LARGEST_SLOPE)
    bounds = [(-limit, limit)] + [(-_LARGEST_OFFSET, _LARGEST_OFFSET)] * k
    found = minimize(
        objective, np.zeros(k + 1), method="L-BFGS-B", jac=True, bounds=bounds, tol=1e-12
    )
    slope = float(np.exp(found.x[0])) / spread
    return Calibration(slope=slope, offsets=found.x[1:] - slope * centre), float(found.fun)


def frequencies(codes: NDArray[np.intp], weight: Array) -> Array:
    """Return the weighted shares of the classes."""
    return np.asarray(np.bincount(codes, weight) / weight.sum(), np.float64)


def uncalibrated(model: LinearModel, scores: Array, shares: Array, weight: Array) -> Calibration:
    """Return the calibration where no row was left out: the classes' shares at the mean score.

    Parameters
    ----------
    model : {"ridge", "logistic", "svm"}
        Scores of logistic regression are logits already.
    scores : array of shape (n, n_outputs)
        Of the training rows.
    shares : array of shape (n_classes,)
    weight : array of shape (n,)
    """
    if model == "logistic":
        return Calibration(slope=1.0, offsets=np.zeros(scores.shape[1]))
    log = np.log(shares)
    prior = log[1:] - log[:1] if scores.shape[1] == 1 else log
    return Calibration(slope=1.0, offsets=prior - np.average(scores, axis=0, weights=weight))


def best_thresholds(p: Array, codes: NDArray[np.intp], weight: Array, shares: Array) -> Array:
    """Return thresholds of the classes with which balanced accuracy is largest.

    That class is predicted whose probability is the largest multiple of its threshold. The
    frequencies of the classes are the best thresholds of exact probabilities. Of two classes, the
    threshold is the one nearest to the frequency among those whose balanced accuracy on left-out
    rows is within one standard error of the largest; of more, the frequencies are taken.

    Parameters
    ----------
    p : array of shape (n, n_classes)
        Probabilities of left-out rows.
    codes : int array of shape (n,)
    weight : array of shape (n,)
    shares : array of shape (n_classes,)
        Frequencies of the classes in the whole training part.
    """
    if len(shares) != 2 or len(set(codes.tolist())) < 2:
        return shares
    one = codes == 1
    n_zero, n_one = weight[~one].sum(), weight[one].sum()
    values = np.unique(p[:, 1].round(9))  # copies of a row differ by rounding errors
    tried = np.append((values[1:] + values[:-1]) / 2, shares[1])
    tried = tried[abs(tried - shares[1]).argsort(kind="stable")]
    zero_below, one_below = (_weight_below(tried, p[rows, 1], weight[rows]) for rows in (~one, one))
    specificity, sensitivity = zero_below / n_zero, 1.0 - one_below / n_one
    accuracy = (sensitivity + specificity) / 2
    best = int(accuracy.argmax())
    variance = (sensitivity * (1.0 - sensitivity))[best] / n_one
    variance += (specificity * (1.0 - specificity))[best] / n_zero
    good = accuracy >= accuracy[best] - np.sqrt(max(variance, 0.0)) / 2
    t = float(tried[good.argmax()])  # the first, which is the nearest
    return np.array([1.0 - t, t])


def _weight_below(limits: Array, values: Array, weight: Array) -> Array:
    order = values.argsort()
    sums = np.append(0.0, weight[order].cumsum())
    return np.asarray(sums[np.searchsorted(values[order], limits)], np.float64)


def calibrated(
    model: LinearModel, scores: Array, signs: Array, weight: Array
) -> tuple[Calibration, float]:
    """Return the calibration of left-out scores, and the log loss with it."""
    if model != "logistic":
        return platt(scores, signs, weight)
    none = Calibration(slope=1.0, offsets=np.zeros(scores.shape[1]))  # these are logits
    return none, float(np.average(logistic_loss(scores, signs)[0], weights=weight))


def criterion_loss(
    criterion: Criterion,
    model: LinearModel,
    scores: Array,
    signs: Array,
    weight: Array,
    units: NDArray[Any],
) -> float:
    """Return the criterion of one strength, the smaller the better."""
    if criterion == "squared error":
        return squared_error(scores, signs, weight)
    if criterion == "AUROC":
        return 1.0 - auroc_within(scores, signs, weight, units)
    return calibrated(model, scores, signs, weight)[1]
