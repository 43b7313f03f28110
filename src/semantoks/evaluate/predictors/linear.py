"""Penalised linear models in the row space of the training data.

1. `RowSpace` centres and scales the features block by block (`semantoks.evaluate.features.blocks`)
   and rotates them onto the principal axes of the training rows. With n rows and p > n features
   that takes one Gram matrix and one eigendecomposition of size n; what follows works on n
   coordinates instead of p features. Nothing is lost: the optimum of an L2-penalised linear model
   lies in that space (the representer theorem; kernel ridge regression is the ridge model there).
2. Inner folds are rows of those coordinates. Their centring is exact (every model has its own
   unpenalised intercept); the scale of the features and the weights of the classes are those of
   the whole training part, never of the test part. Only the choice of the strength sees this.
3. `RidgePath` has ridge regression for all strengths, and its left-out predictions of all inner
   folds, from that one eigendecomposition; `smooth_path` fits logistic regression or a linear
   support vector machine for all strengths by L-BFGS, each started from the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_expit, log_softmax

from semantoks.arrays import Array, Rows
from semantoks.evaluate.features.blocks import FeatureBlock

LinearModel = Literal["ridge", "logistic", "svm"]
Fit = tuple[Array, Array]  # coefficients (n_coordinates, n_outputs), intercepts (n_outputs,)

_CHUNK = 2048  # columns scaled at a time: a copy of all of them would double the memory
_BATCH = 2**22  # numbers of a group's coordinates, over the strengths solved together


class RowSpace:
    """Scaled features on the principal axes of the training rows.

    The mean squared length of the scaled rows is 1, to which every block contributes the same: a
    strength means the same for 100 features as for 20,000, and in any unit.

    Parameters
    ----------
    X : array of float32 or float64, shape (n, p)
        Training rows. Of many features, products of chunks are in the type of `X` and their sum in
        float64; of few, all is in float64.
    blocks : sequence of FeatureBlock
        Columns that are scaled together. One that does not vary counts as absent.
    weight : array of shape (n,)
        Weights of the rows in the means and variances that features are scaled by; positive.
    loss_weight : array of shape (n,), optional
        Weights of the rows in what is fitted, where classes are weighted too; `weight` by default.

    Attributes
    ----------
    coordinates : ndarray of shape (n, r)
        Columns are orthogonal and sum to 0 under `loss_weight`.
    values : ndarray of shape (r,)
        Weighted sums of squares of the coordinates, smallest first.
    loss_weight : ndarray of shape (n,)
    """

    def __init__(
        self,
        X: NDArray[np.floating],
        blocks: Sequence[FeatureBlock],
        weight: Array,
        loss_weight: Array | None = None,
    ) -> None:
        self.loss_weight = weight if loss_weight is None else loss_weight
        n, p = X.shape
        self._X = X.astype(np.float64) if p <= _CHUNK else X
        self.mean, self.scale = self._moments(blocks, weight)
        root = np.sqrt(self.loss_weight)[:, None]
        if n < p:
            gram = np.zeros((n, n))
            for _, chunk in self._scaled():
                gram += chunk @ chunk.T
            gram *= root * root.T
        else:
            scaled = np.hstack([chunk for _, chunk in self._scaled()]).astype(np.float64)
            gram = (root * scaled).T @ (root * scaled)
        values, axes = np.linalg.eigh(gram)
        # What the products cannot tell from zero is no direction of the data.
        kept = values > max(values[-1], 0.0) * 10 * np.finfo(self._X.dtype).eps
        self.values, self._axes = values[kept], axes[:, kept]
        if n < p:
            self._axes = self._axes * np.sqrt(self.values) / root
            self.coordinates = self._axes
        else:
            self.coordinates = scaled @ self._axes

    def _chunks(self) -> Iterator[slice]:
        for start in range(0, self._X.shape[1], _CHUNK):
            yield slice(start, start + _CHUNK)

    def _moments(self, blocks: Sequence[FeatureBlock], weight: Array) -> tuple[Array, Array]:
        """Return what every column is centred on, and divided by: infinity if it is constant."""
        p = self._X.shape[1]
        mean, centre, variance = np.empty((3, p))
        share, of_loss = weight / weight.sum(), self.loss_weight / self.loss_weight.sum()
        alike = np.array_equal(share, of_loss)
        for part in self._chunks():
            x = self._X[:, part].astype(np.float64)
            mean[part] = share @ x
            centre[part] = mean[part] if alike else of_loss @ x
            variance[part] = share @ np.square(x - mean[part])
        # The variance of a constant is the rounding of its mean.
        varies = variance > np.square(len(weight) * np.finfo(np.float64).eps * mean)
        varies &= variance > 0
        scale, start, n_varying = np.full(p, np.inf), 0, 0
        for block in blocks:
            columns = start + np.flatnonzero(varies[start : start + block.n_columns])
            start += block.n_columns
            if len(columns):
                n_varying += 1
                whole = block.scaling == "block"
                square = variance[columns].sum() if whole else variance[columns] * len(columns)
                scale[columns] = np.sqrt(square)
        return centre, scale * np.sqrt(max(n_varying, 1))

    def _scaled(self) -> Iterator[tuple[slice, NDArray[np.floating]]]:
        for part in self._chunks():
            mean, scale = (a[part].astype(self._X.dtype) for a in (self.mean, self.scale))
            yield part, (self._X[:, part] - mean) / scale

    def restore(self, coef: Array, intercept: Array) -> Fit:
        """Return coefficients (n_outputs, p) and intercepts of the features as they came."""
        n, p = self._X.shape
        if n < p:
            dual = self.loss_weight[:, None] * (self._axes @ (coef / self.values[:, None]))
            of_features = np.empty((p, coef.shape[1]))
            for part, chunk in self._scaled():
                of_features[part] = chunk.T @ dual.astype(chunk.dtype)
        else:
            of_features = self._axes @ coef
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


_SMOOTH = {"logistic": logistic_loss, "svm": squared_hinge_loss}


# -- ridge regression ------------------------------------------------------------------------------


class RidgePath:
    """Weighted ridge regression for any strength, from one eigendecomposition.

    Minimises ``sum(weight * (T W + b - Y)^2) + strength |W|^2``.

    Parameters
    ----------
    T : array of shape (n, r)
    Y : array of shape (n, n_outputs)
    weight : array of shape (n,)
    values : array of shape (r,), optional
        Weighted sums of squares of coordinates that are orthogonal and sum to 0 under the weights,
        as those of `RowSpace`, which are then not decomposed again.
    """

    def __init__(self, T: Array, Y: Array, weight: Array, values: Array | None = None) -> None:
        self.root = np.sqrt(weight)[:, None]
        self.mean = weight @ Y / weight.sum()
        self.axes: Array | None = None
        if values is None:
            self.centre = weight @ T / weight.sum()
            centred = self.root * (T - self.centre)
            values, self.axes = np.linalg.eigh(centred.T @ centred)
            self.rotated = centred @ self.axes
        else:
            self.centre = np.zeros(T.shape[1])
            self.rotated = self.root * T
        self.values = values.clip(0.0)[:, None]
        self.target = self.root * (Y - self.mean)
        self.inner = self.rotated.T @ self.target
        self.Y = Y

    @classmethod
    def of(cls, space: RowSpace, Y: Array) -> RidgePath:
        """Return the path in a row space, rows weighing as they do there."""
        return cls(space.coordinates, Y, space.loss_weight, space.values)

    def _fit(self, rotated: Array, mean: Array) -> Fit:
        coef = rotated if self.axes is None else self.axes @ rotated
        return coef, mean - self.centre @ coef

    def fit(self, strength: float) -> Fit:
        """Return the coefficients (r, n_outputs) and intercepts of one strength."""
        return self._fit(self.inner / (self.values + strength), self.mean)

    def left_out(self, strengths: Sequence[float], groups: Sequence[Rows]) -> Array:
        """Return for every group of rows what the fits without that group predict.

        The residuals of a group G that is left out are those of the whole fit, multiplied by
        ``(I - H_GG)^-1``, with H the hat matrix (intercept included): exact, without refitting.

        Parameters
        ----------
        strengths : sequence of float
        groups : sequence of int arrays
            Rows; groups do not overlap. Rows of no group are NaN.

        Returns
        -------
        ndarray of shape (n_strengths, n, n_outputs)
        """
        shrinkage = self._shrinkage(strengths)
        residual = self._residual(shrinkage)
        out = np.full((len(shrinkage), *self.Y.shape), np.nan)
        for rows in groups:
            at_once = max(1, _BATCH // max(len(rows) * len(self.values), 1))
            for start in range(0, len(shrinkage), at_once):
                part = slice(start, start + at_once)
                left, _ = self._left(shrinkage[part], residual[part], rows)
                out[part, rows] = self.Y[rows] - left / self.root[rows]
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
        shrinkage = self._shrinkage([strength])
        residual = self._residual(shrinkage)
        whole = self.inner * shrinkage[0][:, None]
        total = float(np.square(self.root).sum())
        coefs, means = [], []
        for rows in groups:
            (left,), (shrunk,) = self._left(shrinkage, residual, rows)
            coefs.append(whole - shrunk.T @ left)
            means.append(self.mean - (self.root[rows].T @ left)[0] / total)
        return self._fit(np.hstack(coefs), np.concatenate(means))

    def _shrinkage(self, strengths: Sequence[float]) -> Array:
        """Return what every direction is multiplied by, (n_strengths, r)."""
        return np.asarray(1.0 / (self.values[:, 0] + np.asarray(strengths)[:, None]), np.float64)

    def _residual(self, shrinkage: Array) -> Array:
        """Return the weighted residuals of the whole fits, (n_strengths, n, n_outputs)."""
        fitted = self.rotated @ (self.inner * shrinkage[:, :, None])
        return np.asarray(self.target - fitted, np.float64)

    def _left(self, shrinkage: Array, residual: Array, rows: Rows) -> tuple[Array, Array]:
        """Return a group's weighted residuals when left out, and its shrunk coordinates."""
        U, w = self.rotated[rows], self.root[rows] / np.sqrt(np.square(self.root).sum())
        shrunk, e = U * shrinkage[:, None], residual[:, rows]
        if len(rows) <= U.shape[1] + 1:
            return np.linalg.solve(np.eye(len(rows)) - w @ w.T - shrunk @ U.T, e), shrunk
        # The same by the matrix inversion lemma: fewer directions than rows.
        V = U * np.sqrt(shrinkage)[:, None]
        V = np.concatenate([V, np.broadcast_to(w, (*V.shape[:2], 1))], axis=2)
        inner = np.eye(V.shape[2]) - V.swapaxes(1, 2) @ V
        return e + V @ np.linalg.solve(inner, V.swapaxes(1, 2) @ e), shrunk


# -- all models ------------------------------------------------------------------------------------


def fits(
    model: LinearModel,
    space: RowSpace,
    signs: Array,
    strengths: Sequence[float],
    rows: Rows | None = None,
) -> list[Fit]:
    """Return the fit of every strength: to all rows, or, unless it is ridge regression, to some."""
    if model == "ridge":
        path = RidgePath.of(space, signs)
        return [path.fit(strength) for strength in strengths]
    part = slice(None) if rows is None else rows
    data = space.coordinates[part], signs[part], space.loss_weight[part]
    return smooth_path(_SMOOTH[model], *data, strengths)


def left_out_scores(
    model: LinearModel,
    space: RowSpace,
    signs: Array,
    parts: Sequence[Rows],
    strengths: Sequence[float],
) -> Array:
    """Return the scores of left-out rows at every strength, (n_strengths, n, n_outputs)."""
    if model == "ridge":
        path = RidgePath.of(space, signs)
        return path.left_out(strengths, parts)
    scores = np.full((len(strengths), *signs.shape), np.nan)
    for test in parts:
        train = np.setdiff1d(np.arange(len(signs)), test)
        for i, (coef, intercept) in enumerate(fits(model, space, signs, strengths, train)):
            scores[i, test] = space.coordinates[test] @ coef + intercept
    return scores


def quadratic_path(model: LinearModel, space: RowSpace, signs: Array, fit: Fit) -> RidgePath | None:
    """Return the ridge regression whose solution is a fit; None where there is none.

    For logistic regression it is the last Newton step: without a group of rows it gives the first
    step from the whole fit, close to the fit without the group (Rad & Maleki 2020).
    """
    if model == "ridge":
        return RidgePath.of(space, signs)
    if model == "svm" or signs.shape[1] > 1:
        return None
    score = space.coordinates @ fit[0] + fit[1]
    p = expit(score)
    curvature = (p * (1.0 - p)).clip(1e-6)
    response = score + ((signs + 1.0) / 2.0 - p) / curvature
    return RidgePath(space.coordinates, response, space.loss_weight * curvature[:, 0])
