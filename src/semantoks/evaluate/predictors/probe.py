"""Linear probes on frozen features: scikit-learn estimators, everything fitted in `fit`.

Blocks of features are scaled, then an L2-penalised linear model is fitted, its strength chosen by
inner cross-validation (`semantoks.evaluate.predictors.linear` says how, and what is exact;
`semantoks.evaluate.predictors.choice`, what left-out rows decide).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from semantoks.arrays import Array, Rows
from semantoks.errors import InputError
from semantoks.evaluate.features.blocks import FeatureBlock, Scaling
from semantoks.evaluate.predictors.base import FLOATS, ProbeBase, RowSpaces, positive
from semantoks.evaluate.predictors.choice import (
    Criterion,
    ShrinkagePath,
    best_thresholds,
    calibrated,
    comparable,
    criterion_loss,
    frequencies,
    inner_folds,
    squared_error,
    uncalibrated,
)
from semantoks.evaluate.predictors.linear import (
    LinearModel,
    RidgePath,
    RowSpace,
    fits,
    left_out_scores,
    quadratic_path,
)
from semantoks.evaluate.stats.metrics import balanced

#: Strengths of the penalty tried. The mean squared length of the scaled rows is 1, so that they
#: mean the same for any number and unit of features.
STRENGTHS = tuple(10.0 ** (k / 2) for k in range(-10, 7))

#: Inner folds, at most: of ridge regression, more folds cost less.
N_FOLDS = 20

ClassWeight = Literal["balanced"] | Mapping[Any, float] | None


class LinearProbe(ClassifierMixin, ProbeBase):  # type: ignore[misc]
    """A linear classifier on features scaled by blocks.

    Parameters
    ----------
    model : {"ridge", "logistic", "svm"}
        Ridge regression on +1 and -1, one class against the rest (in the dual where there are more
        features than rows: kernel ridge, linear kernel); logistic regression (multinomial); or a
        linear support vector machine with squared hinge loss, one against the rest. Scores of the
        first and the last become probabilities by Platt scaling, fitted to left-out scores of the
        inner folds.
    strengths : sequence of float, optional
        L2 strengths tried, relative to the total variance of the scaled features. By default
        17 from 1e-5 to 1e3 for ridge regression, every second of them for the other models.
    criterion : {"squared error", "AUROC", "log loss"}, optional
        What the strength is chosen by, on left-out rows of the inner folds; see `Criterion`. By
        default squared error for ridge regression, log loss for the others, which have no squared
        error.
    class_weight : {"balanced"}, mapping of class to float, or None
        Weights of the rows in the fit and in what inner folds decide. With None, probabilities
        follow the training part's frequencies; balanced, they are as if all classes were as
        frequent as each other.
    scaling : {"block", "feature"}
        How features are scaled that come without `blocks`; see `FeatureBlock`.
    blocks : sequence of FeatureBlock, optional
        Columns that are scaled together, side by side; the blocks weigh the same.
    n_folds : int
        Inner folds, at most; fewer where a class has fewer members or there are fewer groups.
    seed : int
        Seed of the inner folds.

    Attributes
    ----------
    classes_ : ndarray
    coef_ : ndarray of shape (n_classes or 1, n_features)
        Of the features as they came; scores are ``X @ coef_.T + intercept_``.
    intercept_ : ndarray of shape (n_classes or 1,)
    path_ : ShrinkagePath
        The criterion at every strength.
    strength_ : float
        The strength chosen.
    calibration_ : Calibration
        From scores to logits.
    thresholds_ : ndarray of shape (n_classes,)
        Chosen for balanced accuracy by left-out rows of the inner folds (`best_thresholds`), used
        by `balanced_proba`; they sum to 1.

    Examples
    --------
    >>> import numpy as np
    >>> X, y = np.random.default_rng(0).standard_normal((60, 200)), np.arange(60) % 4 == 0
    >>> X[y] += 0.4
    >>> probe = LinearProbe().fit(X, y)
    >>> probe.path_.criterion, probe.predict_proba(X[:1]).shape
    ('squared error', (1, 2))
    """

    def __init__(
        self,
        model: LinearModel = "ridge",
        *,
        strengths: tuple[float, ...] | None = None,
        criterion: Criterion | None = None,
        class_weight: ClassWeight = None,
        scaling: Scaling = "block",
        blocks: Sequence[FeatureBlock] | None = None,
        n_folds: int = N_FOLDS,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.strengths = strengths
        self.criterion = criterion
        self.class_weight = class_weight
        self.scaling = scaling
        self.blocks = blocks
        self.n_folds = n_folds
        self.seed = seed

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        groups: ArrayLike | None = None,
        held_out: Sequence[Rows] | None = None,
        sample_weight: ArrayLike | None = None,
        without: Sequence[Rows] | None = None,
        spaces: RowSpaces | None = None,
    ) -> Self:
        """Choose the strength, fit, calibrate.

        Parameters
        ----------
        X : array of shape (n, n_features)
        y : array of shape (n,)
        groups : array of shape (n,), optional
            What stays together in the inner folds: subjects or sites.
        held_out : sequence of int arrays, optional
            Rows to leave out in turn, instead of inner folds made here: one array for a validation
            part of your own. Every other row trains.
        sample_weight : array of shape (n,), optional
            Weights of the rows, e.g. one over the number of a person's recordings. A row of weight
            2 counts as two rows, a row of weight 0 as none.
        without : sequence of int arrays, optional
            Groups of rows; `predict_without` then has the models without each of them.
        spaces : RowSpaces, optional
            Is shared by probes that are fitted to the same `X` and blocks, whatever their targets.

        Raises
        ------
        InputError
            If a parameter is illegal.
        """
        criterion = self._checked()
        X, y, weight = self.read(X, y, sample_weight, numeric=False)
        check_classification_targets(y)
        rows = self.rows_of(weight, groups, held_out, without)
        y, weight = y[rows.kept], weight[rows.kept]
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"LinearProbe needs at least 2 classes; the training part has one class: "
                f"{self.classes_.tolist()[0]!r}"
            )
        loss_weight = weight * compute_sample_weight(self.class_weight, y)
        signs = np.where(codes[:, None] == np.arange(len(self.classes_)), 1.0, -1.0)
        if len(self.classes_) == 2:
            signs = signs[:, 1:]
        space = (spaces or RowSpaces()).of(X, rows.kept, self.feature_blocks(), weight, loss_weight)
        parts = rows.held_out
        if not len(space.values):  # nothing varies: there is nothing to choose by
            parts = []
        elif parts is None:
            parts = inner_folds(codes, len(y), rows.groups, self.n_folds, self.seed)
        self._choose(space, signs, codes, parts, rows.groups, criterion)
        fit = fits(self.model, space, signs, [self.strength_])[0]
        if not parts:
            scores = space.coordinates @ fit[0] + fit[1]
            self.calibration_ = uncalibrated(self.model, scores, self.thresholds_, loss_weight)
        path = quadratic_path(self.model, space, signs, fit) if rows.without else None
        self.coef_, self.intercept_ = self.restore(space, fit, path, rows.without)
        return self

    def _checked(self) -> Criterion:
        """Return the criterion, after checking the parameters."""
        if self.model not in get_args(LinearModel):
            raise InputError("must be ridge, logistic or svm", field="model", value=self.model)
        default: Criterion = "squared error" if self.model == "ridge" else "log loss"
        criterion = default if self.criterion is None else self.criterion
        known = [c for c in get_args(Criterion) if self.model == "ridge" or c != "squared error"]
        if criterion not in known:
            rule = f"must be one of {', '.join(known)} for model = {self.model!r}"
            raise InputError(rule, field="criterion", value=criterion)
        return criterion

    def _grid(self) -> tuple[float, ...]:
        if self.strengths is None:
            return STRENGTHS if self.model == "ridge" else STRENGTHS[::2]
        return positive(self.strengths)

    def _choose(
        self,
        space: RowSpace,
        signs: Array,
        codes: NDArray[np.intp],
        parts: Sequence[Rows],
        groups: NDArray[Any] | None,
        criterion: Criterion,
    ) -> None:
        """Set path, strength, calibration and thresholds by the left-out rows."""
        strengths, weight = self._grid(), space.loss_weight
        shares = frequencies(codes, weight)
        losses = np.full(len(strengths), np.nan)
        self.thresholds_ = shares
        if parts:
            tested = np.concatenate(parts)
            units = comparable(parts, codes, groups)
            scores = left_out_scores(self.model, space, signs, parts, strengths)[:, tested]
            truth, w = signs[tested], weight[tested]
            for i, s in enumerate(scores):
                losses[i] = criterion_loss(criterion, self.model, s, truth, w, units)
        self.path_ = ShrinkagePath(criterion=criterion, strengths=strengths, losses=losses)
        self.strength_ = self.path_.strength
        if parts:
            best = scores[self.path_.best]
            self.calibration_ = calibrated(self.model, best, truth, w)[0]
            p = self.calibration_.probabilities(best)
            self.thresholds_ = best_thresholds(p, codes[tested], w, shares)

    def _scores(self, X: ArrayLike) -> Array:
        check_is_fitted(self)
        X = np.asarray(validate_data(self, X, dtype=FLOATS, reset=False))
        return np.asarray(X @ self.coef_.T + self.intercept_, np.float64)

    def decision_function(self, X: ArrayLike) -> Array:
        """Return the logits: (n,) for two classes, else (n, n_classes)."""
        scores = self._scores(X)
        logits = self.calibration_.logits(scores)
        return logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: ArrayLike) -> Array:
        """Return the probabilities of the classes, (n, n_classes)."""
        scores = self._scores(X)
        return self.calibration_.probabilities(scores)

    def predict_without(self, X: ArrayLike) -> Array | None:
        """Return probabilities by the models without each group, (n, n_groups, n_classes).

        The strength and the calibration are those of the whole fit. None if `without` was not given
        in `fit`, or that is not known: for the support vector machine, and for logistic regression
        of more than two classes.
        """
        scores = self.scores_without(X)
        return None if scores is None else self.calibration_.probabilities(scores)

    def balanced_proba(self, X: ArrayLike) -> Array:
        """Return the probabilities divided by the thresholds and normalised, (n, n_classes).

        The largest one is that of the class to predict for the largest balanced accuracy. Where
        classes are not equally frequent it may be another than the most probable one.
        """
        p = self.predict_proba(X)
        return balanced(p, self.thresholds_)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable class of every row."""
        codes = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[codes])


class LinearProbeRegressor(RegressorMixin, ProbeBase):  # type: ignore[misc]
    """Ridge regression on features scaled by blocks (in the dual: kernel ridge, linear kernel).

    Parameters
    ----------
    strengths : sequence of float
        L2 strengths tried, relative to the total variance of the scaled features; the one with the
        smallest squared error over the inner folds is kept.
    scaling, blocks
        See `LinearProbe`.
    n_folds : int
        Inner folds, at most.
    seed : int
        Seed of the inner folds.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,)
    intercept_ : float
    path_ : ShrinkagePath
        The squared error at every strength.
    strength_ : float

    See Also
    --------
    LinearProbe : The classifier.

    Examples
    --------
    >>> import numpy as np
    >>> from semantoks import LinearProbeRegressor
    >>> X = np.random.default_rng(0).standard_normal((80, 300))
    >>> y = X[:, :20].sum(axis=1)
    >>> bool(LinearProbeRegressor().fit(X, y).score(X, y) > 0.5)
    True
    """

    def __init__(
        self,
        *,
        strengths: tuple[float, ...] = STRENGTHS,
        scaling: Scaling = "block",
        blocks: Sequence[FeatureBlock] | None = None,
        n_folds: int = N_FOLDS,
        seed: int = 0,
    ) -> None:
        self.strengths = strengths
        self.scaling = scaling
        self.blocks = blocks
        self.n_folds = n_folds
        self.seed = seed

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        groups: ArrayLike | None = None,
        held_out: Sequence[Rows] | None = None,
        sample_weight: ArrayLike | None = None,
        without: Sequence[Rows] | None = None,
        spaces: RowSpaces | None = None,
    ) -> Self:
        """Choose the strength and fit.

        Parameters
        ----------
        X, groups, held_out, sample_weight, without, spaces
            See `LinearProbe.fit`.
        y : array of shape (n,)
        """
        X, y, weight = self.read(X, y, sample_weight, numeric=True)
        rows = self.rows_of(weight, groups, held_out, without)
        target = np.asarray(y[rows.kept], np.float64)[:, None]
        space = (spaces or RowSpaces()).of(X, rows.kept, self.feature_blocks(), weight[rows.kept])
        path, strengths = RidgePath.of(space, target), positive(self.strengths)
        parts = rows.held_out
        if parts is None:
            parts = inner_folds(None, len(target), rows.groups, self.n_folds, self.seed)
        losses = np.full(len(strengths), np.nan)
        if parts:
            tested = np.concatenate(parts)
            for i, left in enumerate(path.left_out(strengths, parts)[:, tested]):
                losses[i] = squared_error(left, target[tested], space.loss_weight[tested])
        self.path_ = ShrinkagePath(criterion="squared error", strengths=strengths, losses=losses)
        self.strength_ = self.path_.strength
        coef, intercept = self.restore(space, path.fit(self.strength_), path, rows.without)
        self.coef_, self.intercept_ = coef[0], float(intercept[0])
        return self

    def predict_without(self, X: ArrayLike) -> Array | None:
        """Return the predictions of the models without each group, (n, n_groups)."""
        scores = self.scores_without(X)
        return None if scores is None else scores[..., 0]

    def predict(self, X: ArrayLike) -> Array:
        """Return the predictions, (n,)."""
        check_is_fitted(self)
        X = np.asarray(validate_data(self, X, dtype=FLOATS, reset=False))
        return np.asarray(X @ self.coef_ + self.intercept_, np.float64)
