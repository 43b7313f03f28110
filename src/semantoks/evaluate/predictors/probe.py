"""Linear probes on frozen features: scikit-learn estimators, everything fitted in `fit`.

Features are standardised, then an L2-penalised linear model is fitted, its strength chosen by
inner cross-validation (`semantoks.evaluate.predictors.linear` says how, and what is exact).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from semantoks.arrays import Array, Rows
from semantoks.errors import InputError
from semantoks.evaluate.predictors.linear import (
    Fit,
    RidgePath,
    RowSpace,
    logistic_loss,
    smooth_path,
    squared_hinge_loss,
)

#: Strengths of the penalty tried, relative to the number of features.
STRENGTHS = tuple(10.0**k for k in range(-2, 4))

LinearModel = Literal["logistic", "ridge", "svm"]
ClassWeight = Literal["balanced"] | Mapping[Any, float] | None

_SMOOTH = {"logistic": logistic_loss, "svm": squared_hinge_loss}
_FLOATS = [np.float64, np.float32]


class LinearProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A linear classifier on standardised features.

    Parameters
    ----------
    model : {"logistic", "ridge", "svm"}
        Logistic regression (multinomial); ridge regression on +1 and -1, one against the rest; or
        a linear support vector machine with squared hinge loss, one against the rest. The last two
        get probabilities by dividing their scores by a temperature, fitted on the inner folds'
        left-out scores (Guo et al. 2017).
    strengths : sequence of float
        L2 strengths tried, per feature; the one with the smallest log loss over the inner folds is
        kept (the larger one of equals). A smooth criterion: the accuracy of small samples is not.
    class_weight : {"balanced"}, mapping of class to float, or None
        Weights of the rows in the fit and in the choice of the strength. Balanced, probabilities
        are as if all classes were as frequent as each other; with None they follow the training
        part's frequencies.
    n_folds : int
        Inner folds, at most; fewer where a class has fewer members or there are fewer groups.
    seed : int
        Seed of the inner folds.

    Attributes
    ----------
    classes_ : ndarray
    coef_ : ndarray of shape (n_classes or 1, n_features)
    intercept_ : ndarray of shape (n_classes or 1,)
    strength_ : float
        The strength chosen.
    temperature_ : float
        What scores are divided by before they become probabilities; 1 for logistic regression.
    """

    def __init__(
        self,
        model: LinearModel = "logistic",
        *,
        strengths: tuple[float, ...] = STRENGTHS,
        class_weight: ClassWeight = "balanced",
        n_folds: int = 5,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.strengths = strengths
        self.class_weight = class_weight
        self.n_folds = n_folds
        self.seed = seed

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        groups: ArrayLike | None = None,
        held_out: Sequence[Rows] | None = None,
        blocks: Sequence[Rows] | None = None,
    ) -> Self:
        """Choose the strength and fit.

        Parameters
        ----------
        X : array of shape (n, n_features)
        y : array of shape (n,)
        groups : array of shape (n,), optional
            What stays together in the inner folds: subjects or sites.
        held_out : sequence of int arrays, optional
            Rows to leave out in turn, instead of inner folds made here: one array for a validation
            part of your own. Every other row trains.
        blocks : sequence of int arrays, optional
            Rows of blocks; `predict_without` then has the models without each of them.

        Raises
        ------
        InputError
            If `model` is unknown.
        """
        if self.model not in ("logistic", "ridge", "svm"):
            raise InputError("must be logistic, ridge or svm", field="model", value=self.model)
        checked: tuple[NDArray[np.floating], NDArray[Any]] = validate_data(
            self, X, y, dtype=_FLOATS
        )
        X, y = checked
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"LinearProbe needs at least 2 classes; the training part has one class: "
                f"{self.classes_.tolist()[0]!r}"
            )
        weight = np.asarray(compute_sample_weight(self.class_weight, y), np.float64)
        signs = np.where(codes[:, None] == np.arange(len(self.classes_)), 1.0, -1.0)
        if len(self.classes_) == 2:
            signs = signs[:, 1:]
        space = RowSpace(X)
        parts = list(self._inner_folds(codes, groups) if held_out is None else held_out)
        self._choose(space.coordinates, signs, weight, parts)
        coef, intercept = _fits(self.model, space.coordinates, signs, weight, [self.strength_])[0]
        self.coef_, self.intercept_ = space.restore(coef, intercept)
        self._without: Fit | None = None
        if blocks is not None:
            path = self._path(space.coordinates, signs, weight, coef, intercept)
            if path is not None:
                self._without = space.restore(*path.without(self.strength_, blocks))
        return self

    def _path(
        self, T: Array, signs: Array, weight: Array, coef: Array, intercept: Array
    ) -> RidgePath | None:
        """Return the ridge regression whose solution is the fit; None where there is none.

        For logistic regression it is the last Newton step: without a block it gives the first step
        from the whole fit, close to the fit without the block (Rad & Maleki 2020).
        """
        if self.model == "ridge":
            return RidgePath(T, signs, weight)
        if self.model == "svm" or signs.shape[1] > 1:
            return None
        score = T @ coef + intercept
        p = expit(score)
        curvature = (p * (1.0 - p)).clip(1e-6)
        response = score + ((signs + 1.0) / 2.0 - p) / curvature
        return RidgePath(T, response, weight * curvature[:, 0])

    def _choose(self, T: Array, signs: Array, weight: Array, parts: Sequence[Rows]) -> None:
        """Set `strength_` and `temperature_` by the log loss of the left-out rows."""
        if not parts:
            self.strength_, self.temperature_ = float(max(self.strengths)), 1.0
            return
        tested = np.concatenate(parts)
        scores = np.full((len(self.strengths), *signs.shape), np.nan)
        if self.model == "ridge":
            path = RidgePath(T, signs, weight)
            for i, strength in enumerate(self.strengths):
                scores[i] = path.left_out(strength, parts)
        else:
            for test in parts:
                train = np.setdiff1d(np.arange(len(T)), test)
                fits = _fits(self.model, T[train], signs[train], weight[train], self.strengths)
                for i, (coef, intercept) in enumerate(fits):
                    scores[i, test] = T[test] @ coef + intercept
        losses, temperatures = np.empty((2, len(self.strengths)))
        for i in range(len(self.strengths)):
            losses[i], temperatures[i] = _calibrated(
                scores[i, tested], signs[tested], weight[tested], fixed=self.model == "logistic"
            )
        best = _best(self.strengths, losses)
        self.strength_, self.temperature_ = float(self.strengths[best]), float(temperatures[best])

    def _inner_folds(self, codes: NDArray[np.intp], groups: ArrayLike | None) -> Iterator[Rows]:
        """Yield rows to leave out, every class left in training, or nothing if that cannot be."""
        if groups is None:
            n = min(self.n_folds, int(np.bincount(codes).min()))
            if n < 2:
                return
            plain = StratifiedKFold(n, shuffle=True, random_state=self.seed)
            yield from (test for _, test in plain.split(codes, codes))
            return
        groups = np.asarray(groups)
        if len(set(groups.tolist())) == len(groups):
            yield from self._inner_folds(codes, None)
            return
        per_class = [len(set(groups[codes == c])) for c in range(len(self.classes_))]
        n = min(self.n_folds, len(set(groups)), *per_class)
        if n < 2:
            return
        splitter = StratifiedGroupKFold(n, shuffle=True, random_state=self.seed)
        for train, test in splitter.split(codes, codes, groups):
            if len(set(codes[train])) == len(self.classes_) and len(test):
                yield test

    def decision_function(self, X: ArrayLike) -> Array:
        """Return the linear scores: (n,) for two classes, else (n, n_classes)."""
        check_is_fitted(self)
        X = np.asarray(validate_data(self, X, dtype=_FLOATS, reset=False))
        scores: Array = X @ self.coef_.T + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_without(self, X: ArrayLike) -> Array | None:
        """Return probabilities by the models without each block, (n, n_blocks, n_classes).

        The strength and the temperature are those of the whole fit. None where that is not known:
        for the support vector machine, and for logistic regression of more than two classes.
        """
        check_is_fitted(self)
        if self._without is None:
            return None
        X = np.asarray(validate_data(self, X, dtype=_FLOATS, reset=False))
        coef, intercept = self._without
        scores = (X @ coef.T + intercept) / self.temperature_
        scores = scores.reshape(len(X), -1, len(self.coef_))
        if len(self.classes_) > 2:
            return np.asarray(softmax(scores, axis=-1))
        p = expit(scores[..., 0])
        return np.stack([1.0 - p, p], axis=-1)

    def predict_proba(self, X: ArrayLike) -> Array:
        """Return the probabilities of the classes, (n, n_classes)."""
        scores = self.decision_function(X) / self.temperature_
        if scores.ndim == 1:
            p = expit(scores)
            return np.column_stack([1.0 - p, p])
        return np.asarray(softmax(scores, axis=1))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Return the most probable class of every row."""
        scores = self.decision_function(X)
        codes = (scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)
        return np.asarray(self.classes_[codes])


class LinearProbeRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Ridge regression on standardised features (in the dual: kernel ridge, linear kernel).

    Parameters
    ----------
    strengths : sequence of float
        L2 strengths tried, per feature; the one with the smallest squared error over the inner
        folds is kept.
    n_folds : int
        Inner folds, at most.
    seed : int
        Seed of the inner folds.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,)
    intercept_ : float
    strength_ : float
    """

    def __init__(
        self, *, strengths: tuple[float, ...] = STRENGTHS, n_folds: int = 5, seed: int = 0
    ) -> None:
        self.strengths = strengths
        self.n_folds = n_folds
        self.seed = seed

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        groups: ArrayLike | None = None,
        held_out: Sequence[Rows] | None = None,
        blocks: Sequence[Rows] | None = None,
    ) -> Self:
        """Choose the strength and fit.

        Parameters
        ----------
        X : array of shape (n, n_features)
        y : array of shape (n,)
        groups : array of shape (n,), optional
            What stays together in the inner folds: subjects or sites.
        held_out : sequence of int arrays, optional
            Rows to leave out in turn, instead of inner folds made here: one array for a validation
            part of your own. Every other row trains.
        blocks : sequence of int arrays, optional
            Rows of blocks; `predict_without` then has the models without each of them.
        """
        checked: tuple[NDArray[np.floating], Array] = validate_data(
            self, X, y, dtype=_FLOATS, y_numeric=True
        )
        X, y = checked
        target = np.asarray(y, np.float64)[:, None]
        space = RowSpace(X)
        path = RidgePath(space.coordinates, target, np.ones(len(target)))
        parts = list(self._inner_folds(len(y), groups) if held_out is None else held_out)
        losses = np.zeros(len(self.strengths))
        for i, strength in enumerate(self.strengths if parts else ()):
            losses[i] = np.nansum(np.square(path.left_out(strength, parts) - target))
        self.strength_ = float(self.strengths[_best(self.strengths, losses)])
        coef, intercept = space.restore(*path.fit(self.strength_))
        self.coef_, self.intercept_ = coef[0], float(intercept[0])
        self._without: Fit | None = None
        if blocks is not None:
            self._without = space.restore(*path.without(self.strength_, blocks))
        return self

    def _inner_folds(self, n_rows: int, groups: ArrayLike | None) -> Iterator[Rows]:
        rows = np.arange(n_rows)
        n = min(self.n_folds, n_rows if groups is None else len(set(np.asarray(groups).tolist())))
        if n < 2:
            return
        if groups is None:
            splits = KFold(n, shuffle=True, random_state=self.seed).split(rows)
        else:
            grouped = GroupKFold(n, shuffle=True, random_state=self.seed)
            splits = grouped.split(rows, groups=groups)
        yield from (test for _, test in splits)

    def predict_without(self, X: ArrayLike) -> Array | None:
        """Return the predictions of the models without each block, (n, n_blocks)."""
        check_is_fitted(self)
        if self._without is None:
            return None
        X = np.asarray(validate_data(self, X, dtype=_FLOATS, reset=False))
        coef, intercept = self._without
        return np.asarray(X @ coef.T + intercept)

    def predict(self, X: ArrayLike) -> Array:
        """Return the predictions, (n,)."""
        check_is_fitted(self)
        X = np.asarray(validate_data(self, X, dtype=_FLOATS, reset=False))
        return np.asarray(X @ self.coef_ + self.intercept_, np.float64)


def _fits(
    model: LinearModel, T: Array, signs: Array, weight: Array, strengths: Sequence[float]
) -> list[tuple[Array, Array]]:
    if model == "ridge":
        path = RidgePath(T, signs, weight)
        return [path.fit(strength) for strength in strengths]
    return smooth_path(_SMOOTH[model], T, signs, weight, strengths)


def _calibrated(scores: Array, signs: Array, weight: Array, *, fixed: bool) -> tuple[float, float]:
    """Return the weighted log loss of scores, and the temperature at which it is smallest."""

    def loss(log_temperature: float) -> float:
        s = scores / np.exp(log_temperature)
        if s.shape[1] == 1:
            return float(-(weight @ log_expit(signs * s)[:, 0]))
        return float(-(weight @ log_softmax(s, axis=1)[signs > 0]))

    if fixed:
        return loss(0.0), 1.0
    found = minimize_scalar(loss, bounds=(-6.0, 6.0), method="bounded")
    return float(found.fun), float(np.exp(found.x))


def _best(strengths: Sequence[float], losses: Array) -> int:
    """Return the place of the smallest loss; of equals, that of the largest strength."""
    order = np.argsort(strengths)[::-1]
    return int(order[np.argmin(losses[order])])
