"""Two classes as a clinician reads them: the ROC curve, sensitivity and specificity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from semantoks.arrays import Array
from semantoks.evaluate.stats.metrics import Codes, Metric


@dataclass(frozen=True, eq=False)
class RocCurve:
    """A receiver operating characteristic: a step function.

    Parameters
    ----------
    false_positives, sensitivity : array of shape (n_steps,)
        Shares, both ascending. From a share of false positives to the next the sensitivity is
        constant; it is 1 at the last.
    """

    false_positives: Array
    sensitivity: Array

    @property
    def area(self) -> float:
        """Area under the curve."""
        widths = np.diff(np.append(self.false_positives, 1.0))
        return float(widths @ self.sensitivity)

    def sensitivity_at(self, specificity: float) -> float:
        """Return the sensitivity at a specificity."""
        step = np.searchsorted(self.false_positives, 1.0 - specificity + 1e-9, side="right") - 1
        return float(self.sensitivity[step]) if step >= 0 else 0.0


def roc_curve(y: Codes, score: Array, strata: Codes | None = None) -> RocCurve | None:
    """Return the ROC curve of the second of two classes, within strata.

    It is the distribution of placement values: of every member of the class, the share of
    non-members of its stratum with a larger score (the ROC curve adjusted for a covariate, Janes &
    Pepe 2009, Biometrika 96:371). Strata weigh as in `semantoks.evaluate.stats.metrics.auroc`, so
    that the area is the AUROC within strata.

    Parameters
    ----------
    y : int array of shape (n,)
        0 or 1.
    score : array of shape (n,)
    strata : int array of shape (n,), optional
        All people are one stratum by default.

    Returns
    -------
    RocCurve or None
        None where no stratum has both classes.
    """
    strata = np.zeros(len(y), np.intp) if strata is None else strata
    placed: list[Array] = []
    weights: list[Array] = []
    for stratum in np.unique(strata):
        of = strata == stratum
        members, others = score[of & (y == 1)][:, None], score[of & (y == 0)]
        if members.size and others.size:
            above = (others > members).mean(axis=1) + (others == members).mean(axis=1) / 2
            placed.append(above)
            weights.append(np.full(len(above), others.size / (members.size + others.size)))
    if not placed:
        return None
    shares, step = np.unique(np.concatenate(placed).round(12), return_inverse=True)
    reached = np.bincount(step, np.concatenate(weights)).cumsum()
    return RocCurve(shares, reached / reached[-1])


def _recognised(code: int) -> Metric:
    def share(y: Codes, scores: Array) -> float:
        of = y == code
        return float((scores[of].argmax(axis=1) == code).mean()) if of.any() else float("nan")

    return Metric(share)


def _precision(y: Codes, scores: Array) -> float:
    """Share of the people predicted to be of the second class who are."""
    chosen = scores.argmax(axis=1) == 1
    return float((y[chosen] == 1).mean()) if chosen.any() else float("nan")


#: At the chosen threshold, of two classes of which the second is the positive one.
OPERATING: dict[str, Metric] = {
    "sensitivity": _recognised(1),
    "specificity": _recognised(0),
    "positive predictive value": Metric(_precision),
}
