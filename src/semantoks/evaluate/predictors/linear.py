"""Penalised linear models in the row space of the training data.

1. `RowSpace` standardises the features and rotates them onto the principal axes of the training
   rows. With n rows and p > n features that takes one Gram matrix and one eigendecomposition of
   size n; what follows works on n coordinates instead of p features. Nothing is lost: the optimum
   of an L2-penalised linear model lies in that space (the representer theorem).
2. Inner folds are rows of those coordinates. Their centring is exact (every model has its own
   unpenalised intercept); the scale of the features and the weights of the classes are those of
   the whole training part, never of the test part. Only the choice of the strength sees this.
3. `smooth_path` fits logistic regression or a linear support vector machine for all strengths by
   L-BFGS, each started from the last; `RidgePath` has ridge regression for all strengths and its
   left-out predictions of all inner folds from one eigendecomposition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit, log_softmax
from sklearn.preprocessing import StandardScaler

from semantoks.arrays import Array, Rows

Fit = tuple[Array, Array]  # coefficients (n_coordinates, n_outputs), intercepts (n_outputs,)

_BLOCK = 2048  # features standardised at a time: a copy of all of them would double the memory


class RowSpace:
    """Standardised features on the principal axes of the training rows.

    Coordinates are divided by the square root of the number of features: a strength of 1 means the
    same for 100 features as for 20,000.

    Parameters
    ----------
    X : array of float32 or float64, shape (n, p)
        Training rows. Of many features, products of blocks are in the type of `X` and their sum in
        float64; of few, all is in float64.

    Attributes
    ----------
    coordinates : ndarray of shape (n, r)
        Columns are orthogonal and sum to 0.
    """

    def __init__(self, X: NDArray[np.floating]) -> None:
        scaler = StandardScaler().fit(X)
        self.mean: Array = scaler.mean_
        self.scale: Array = scaler.scale_
        n, p = X.shape
        self._X = X.astype(np.float64) if p <= _BLOCK else X
        if n < p:
            gram = np.zeros((n, n))
            for _, block in self._blocks():
                gram += block @ block.T
        else:
            standard = np.hstack([block for _, block in self._blocks()]).astype(np.float64)
            gram = standard.T @ standard
        values, vectors = np.linalg.eigh(gram / p)
        # What the products cannot tell from zero is no direction of the data.
        kept = values > max(values[-1], 0.0) * 10 * np.finfo(self._X.dtype).eps
        self._axes, self._root = vectors[:, kept], np.sqrt(values[kept])
        if n < p:
            self.coordinates = self._axes * self._root
        else:
            self.coordinates = standard @ self._axes / np.sqrt(p)

    def _blocks(self) -> Iterator[tuple[slice, NDArray[np.floating]]]:
        for start in range(0, self._X.shape[1], _BLOCK):
            part = slice(start, start + _BLOCK)
            mean, scale = (a[part].astype(self._X.dtype) for a in (self.mean, self.scale))
            yield part, (self._X[:, part] - mean) / scale

    def restore(self, coef: Array, intercept: Array) -> Fit:
        """Return coefficients (n_outputs, p) and intercepts of the features as they came."""
        n, p = self._X.shape
        if n < p:
            dual = self._axes @ (coef / self._root[:, None])
            of_features = np.empty((p, coef.shape[1]))
            for part, block in self._blocks():
                of_features[part] = block.T @ dual.astype(block.dtype)
            of_features /= p
        else:
            of_features = self._axes @ coef / np.sqrt(p)
        of_features /= self.scale[:, None]
        return of_features.T, intercept - self.mean @ of_features


# -- logistic regression and the support vector machine --------------------------------------------

#: Scores and targets to losses (n,) and their gradients (n, n_outputs); targets are +1 or -1.
Loss = Callable[[Array, Array], tuple[Array, Array]]


def logistic_loss(scores: Array, signs: Array) -> tuple[Array, Array]:
    """Cross-entropy: binomial for one output, multinomial for one output per class."""
    if scores.shape[1] == 1:
        margin = signs * scores
        return -log_expit(margin)[:, 0], -signs * expit(-margin)
    log_p = log_softmax(scores, axis=1)
    truth = signs > 0
    return -log_p[truth], np.exp(log_p) - truth


def squared_hinge_loss(scores: Array, signs: Array) -> tuple[Array, Array]:
    """Squared hinge, summed over the outputs: `sklearn.svm.LinearSVC`'s loss."""
    slack = np.maximum(0.0, 1.0 - signs * scores)
    return np.square(slack).sum(axis=1), -2.0 * signs * slack


def smooth_path(
    loss: Loss, T: Array, signs: Array, weight: Array, strengths: Sequence[float]
) -> list[Fit]:
    """Minimise ``sum(weight * loss(T W + b)) + strength / 2 |W|^2`` for every strength.

    L-BFGS in coordinates in which the curvature at zero is the same in all directions: a dozen
    steps where the plain coordinates take hundreds.

    Parameters
    ----------
    loss : callable
        `logistic_loss` or `squared_hinge_loss`.
    T : array of shape (n, r)
    signs : array of shape (n, n_outputs)
        +1 for members of an output's class, -1 for others.
    weight : array of shape (n,)
    strengths : sequence of float
        Solved from the largest to the smallest.

    Returns
    -------
    list of (W of shape (r, n_outputs), b of shape (n_outputs,))
        In the order of `strengths`.
    """
    (_, r), k = T.shape, signs.shape[1]
    steepness = 0.25 if loss is logistic_loss else 2.0
    curvature = steepness * (weight @ np.square(T))
    total = float(weight.sum())
    at = np.zeros((r + 1, k))
    fits: dict[float, Fit] = {}

    def objective(v: Array, strength: float, scale: Array) -> tuple[float, Array]:
        u = v.reshape(r + 1, k) * scale
        values, slopes = loss(T @ u[:-1] + u[-1], signs)
        slopes = slopes * weight[:, None]
        gradient = np.vstack([T.T @ slopes + strength * u[:-1], slopes.sum(axis=0)])
        value = weight @ values + 0.5 * strength * np.square(u[:-1]).sum()
        return float(value), (gradient * scale).ravel()

    for strength in sorted(set(strengths), reverse=True):
        scale = 1.0 / np.sqrt(np.append(curvature + strength, steepness * total))[:, None]
        start = (at / scale).ravel()
        found = minimize(
            objective,
            start,
            (strength, scale),
            "L-BFGS-B",
            True,
            options={"maxiter": 2000, "maxcor": 20, "ftol": 1e-10, "gtol": 1e-6},
        )
        at = found.x.reshape(r + 1, k) * scale
        fits[strength] = (at[:-1], at[-1])
    return [fits[strength] for strength in strengths]


# -- ridge regression ------------------------------------------------------------------------------


class RidgePath:
    """Weighted ridge regression for any strength, from one eigendecomposition.

    Minimises ``sum(weight * (T W + b - Y)^2) + strength |W|^2``.

    Parameters
    ----------
    T : array of shape (n, r)
    Y : array of shape (n, n_outputs)
    weight : array of shape (n,)
    """

    def __init__(self, T: Array, Y: Array, weight: Array) -> None:
        self.root = np.sqrt(weight)[:, None]
        self.centre = weight @ T / weight.sum()
        self.mean = weight @ Y / weight.sum()
        A = self.root * (T - self.centre)
        values, self.axes = np.linalg.eigh(A.T @ A)
        self.values = values.clip(0.0)
        self.rotated = A @ self.axes
        self.target = self.root * (Y - self.mean)
        self.Y = Y

    def fit(self, strength: float) -> Fit:
        """Return the coefficients (r, n_outputs) and intercepts of one strength."""
        inner = self.rotated.T @ self.target
        coef = self.axes @ (inner / (self.values + strength)[:, None])
        return coef, self.mean - self.centre @ coef

    def left_out(self, strength: float, groups: Sequence[Rows]) -> Array:
        """Return for every group of rows what the fit without that group predicts.

        The residuals of a group G that is left out are those of the whole fit, multiplied by
        ``(I - H_GG)^-1``, with H the hat matrix (intercept included): exact, without refitting.

        Parameters
        ----------
        strength : float
        groups : sequence of int arrays
            Rows; groups do not overlap. Rows of no group are NaN.

        Returns
        -------
        ndarray of shape (n, n_outputs)
        """
        coef = (self.rotated.T @ self.target) / (self.values + strength)[:, None]
        residual = self.target - self.rotated @ coef
        out = np.full(self.Y.shape, np.nan)
        for rows in groups:
            U, w = self.rotated[rows], self.root[rows]
            hat = (U / (self.values + strength)) @ U.T + w @ w.T / np.square(self.root).sum()
            left = np.linalg.solve(np.eye(len(rows)) - hat, residual[rows])
            out[rows] = self.Y[rows] - left / w
        return out

    def without(self, strength: float, groups: Sequence[Rows]) -> Fit:
        """Return for every group of rows the fit without that group: exact, without refitting.

        Parameters
        ----------
        strength : float
        groups : sequence of int arrays
            Rows; an empty group gives the whole fit.

        Returns
        -------
        coef, intercept : arrays of shape (r, n_groups * n_outputs) and (n_groups * n_outputs,)
            The outputs of a group next to each other.
        """
        inner = (self.rotated.T @ self.target) / (self.values + strength)[:, None]
        residual = self.target - self.rotated @ inner
        total = float(np.square(self.root).sum())
        coefs, intercepts = [], []
        for rows in groups:
            U, w = self.rotated[rows], self.root[rows]
            shrunk = U / (self.values + strength)
            hat = shrunk @ U.T + w @ w.T / total
            left = np.linalg.solve(np.eye(len(rows)) - hat, residual[rows])
            coef = self.axes @ (inner - shrunk.T @ left)
            coefs.append(coef)
            intercepts.append(self.mean - (w.T @ left)[0] / total - self.centre @ coef)
        return np.hstack(coefs), np.concatenate(intercepts)
