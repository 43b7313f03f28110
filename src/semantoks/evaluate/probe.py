"""Linear probes on frozen features: scikit-learn estimators, everything fitted in `fit`.

Features are standardised, then an L2-penalised linear model is fitted, its strength chosen by
inner cross-validation. With more features than recordings the model is solved in the row space of
the training data: the penalised optimum lies in it, so the solution is the same and far cheaper.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

Array = NDArray[np.float64]

#: Strengths of the penalty tried, relative to the number of features.
STRENGTHS = tuple(10.0**k for k in range(-2, 4))


class _Space:
    """Standardisation and exact rotation into the row space of the training data."""

    def __init__(self, X: Array) -> None:
        scaler = StandardScaler().fit(X)
        self.mean, self.scale = scaler.mean_, scaler.scale_
        standard = (X - self.mean) / self.scale
        self.basis: Array | None = None
        if X.shape[0] < X.shape[1]:
            values, vectors = np.linalg.eigh(standard @ standard.T)
            kept = values > values[-1] * 1e-12 if values[-1] > 0 else values > 0
            self.basis = standard.T @ (vectors[:, kept] / np.sqrt(values[kept]))
            if not kept.any():
                self.basis = None

    def transform(self, X: Array) -> Array:
        standard: Array = (X - self.mean) / self.scale
        return standard if self.basis is None else standard @ self.basis

    def restore(self, coef: Array, intercept: Array) -> tuple[Array, Array]:
        """Return coefficients and intercepts of the untransformed features."""
        coef = np.atleast_2d(coef)
        if self.basis is not None:
            coef = coef @ self.basis.T
        coef = coef / self.scale
        return coef, np.atleast_1d(intercept) - coef @ self.mean


class LinearProbe(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Logistic regression on standardised features, classes weighted evenly.

    Parameters
    ----------
    strengths : sequence of float
        L2 strengths tried, per feature; the one with the smallest class-balanced log loss over the
        inner folds is kept (the larger one of equals). A smooth criterion: the balanced accuracy of
        small samples is not.
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
    """

    def __init__(
        self, *, strengths: tuple[float, ...] = STRENGTHS, n_folds: int = 5, seed: int = 0
    ) -> None:
        self.strengths = strengths
        self.n_folds = n_folds
        self.seed = seed

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Choose the strength and fit.

        Parameters
        ----------
        X : array of shape (n, n_features)
        y : array of shape (n,)
        groups : array of shape (n,), optional
            What stays together in the inner folds: subjects or sites.
        """
        checked: tuple[Array, NDArray[Any]] = validate_data(self, X, y, dtype=np.float64)
        X, y = checked
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"LinearProbe needs at least 2 classes; the training part has one class: "
                f"{self.classes_.tolist()[0]!r}"
            )
        n_features = X.shape[1]
        losses = np.zeros(len(self.strengths))
        for train, test in self._inner_folds(codes, groups):
            space = _Space(X[train])
            z_train, z_test = space.transform(X[train]), space.transform(X[test])
            weight = compute_sample_weight("balanced", codes[test])
            for i, strength in enumerate(self.strengths):
                model = _logistic(strength * n_features).fit(z_train, codes[train])
                p = _spread(model.predict_proba(z_test), model.classes_, len(self.classes_))
                losses[i] += log_loss(
                    codes[test], p, sample_weight=weight, labels=range(len(self.classes_))
                )
        self.strength_ = _best(self.strengths, losses)
        space = _Space(X)
        model = _logistic(self.strength_ * n_features).fit(space.transform(X), codes)
        self.coef_, self.intercept_ = space.restore(model.coef_, model.intercept_)
        return self

    def _inner_folds(self, codes: NDArray[np.intp], groups: ArrayLike | None) -> Any:
        """Yield inner folds that hold every class in training, or nothing if that cannot be."""
        if groups is None:
            n = min(self.n_folds, int(np.bincount(codes).min()))
            if n < 2:
                return
            yield from StratifiedKFold(n, shuffle=True, random_state=self.seed).split(codes, codes)
            return
        groups = np.asarray(groups)
        per_class = [len(set(groups[codes == c])) for c in range(len(self.classes_))]
        n = min(self.n_folds, len(set(groups)), *per_class)
        if n < 2:
            return
        splitter = StratifiedGroupKFold(n, shuffle=True, random_state=self.seed)
        for train, test in splitter.split(codes, codes, groups):
            if len(set(codes[train])) == len(self.classes_) and len(test):
                yield train, test

    def decision_function(self, X: ArrayLike) -> Array:
        """Return the linear scores: (n,) for two classes, else (n, n_classes)."""
        check_is_fitted(self)
        X = np.asarray(validate_data(self, X, dtype=np.float64, reset=False))
        scores: Array = X @ self.coef_.T + self.intercept_
        return scores[:, 0] if len(self.classes_) == 2 else scores

    def predict_proba(self, X: ArrayLike) -> Array:
        """Return the probabilities of the classes, (n, n_classes), as if all were as frequent."""
        scores = self.decision_function(X)
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
    """Ridge regression on standardised features.

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

    def fit(self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None) -> Self:
        """Choose the strength and fit.

        Parameters
        ----------
        X : array of shape (n, n_features)
        y : array of shape (n,)
        groups : array of shape (n,), optional
            What stays together in the inner folds: subjects or sites.
        """
        checked: tuple[Array, Array] = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        X, y = checked
        n_features = X.shape[1]
        losses = np.zeros(len(self.strengths))
        for train, test in self._inner_folds(len(y), groups):
            space = _Space(X[train])
            z_train, z_test = space.transform(X[train]), space.transform(X[test])
            for i, strength in enumerate(self.strengths):
                model = Ridge(strength * n_features).fit(z_train, y[train])
                losses[i] += np.square(model.predict(z_test) - y[test]).sum()
        self.strength_ = _best(self.strengths, losses)
        space = _Space(X)
        model = Ridge(self.strength_ * n_features).fit(space.transform(X), y)
        coef, intercept = space.restore(model.coef_, model.intercept_)
        self.coef_, self.intercept_ = coef[0], float(intercept[0])
        return self

    def _inner_folds(self, n_rows: int, groups: ArrayLike | None) -> Any:
        rows = np.arange(n_rows)
        n = min(self.n_folds, n_rows if groups is None else len(set(np.asarray(groups).tolist())))
        if n < 2:
            return
        if groups is None:
            yield from KFold(n, shuffle=True, random_state=self.seed).split(rows)
        else:
            splitter = GroupKFold(n, shuffle=True, random_state=self.seed)
            yield from splitter.split(rows, groups=groups)

    def predict(self, X: ArrayLike) -> Array:
        """Return the predictions, (n,)."""
        check_is_fitted(self)
        X = np.asarray(validate_data(self, X, dtype=np.float64, reset=False))
        return np.asarray(X @ self.coef_ + self.intercept_)


def _logistic(strength: float) -> LogisticRegression:
    return LogisticRegression(C=1.0 / strength, class_weight="balanced", tol=1e-6, max_iter=5000)


def _spread(p: Array, classes: NDArray[np.intp], n_classes: int) -> Array:
    out = np.zeros((len(p), n_classes))
    out[:, classes] = p
    return out


def _best(strengths: tuple[float, ...], losses: Array) -> float:
    """Return the strength with the smallest loss; of equals, the largest."""
    order = np.argsort(strengths)[::-1]
    return float(strengths[order[np.argmin(losses[order])]])
