"""Tangent space of covariance matrices: connectivity on the geometry that it has.

A covariance C becomes ``log(W C W)`` with ``W = M^(-1/2)``, M a mean of the training part's
covariances (Varoquaux et al. 2010; Barachant et al. 2013). Covariances, and their logarithms, are
those of single recordings and computed once; M and what follows are fitted in every fold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf
from sklearn.utils.validation import check_is_fitted

from semantoks.errors import InputError
from semantoks.evaluate.features.inputs import Signals, each_signal
from semantoks.evaluate.features.transformer import SignalTransformer, pair_names

Matrices = NDArray[np.float64]  # (..., n, n), symmetric

_BATCH = 8  # matrices decomposed at a time: few enough to stay in the cache of a core
_MAX_STEPS, _TOLERANCE = 50, 1e-7  # of the geometric mean
_SINGLE = 1e-4  # smallest share of the largest eigenvalue whose logarithm float32 has to 1e-3
# The curvature of the squared distances is above 1 between far matrices (the space is curved
# negatively): whole steps overshoot, and on real covariances need three times as many.
_STEP = 0.75


def standardised(signal: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the signal with every ROI's mean 0 and variance 1; one without variance stays 0."""
    x = np.asarray(signal, np.float64)
    x = x - x.mean(axis=0)
    spread = x.std(axis=0)
    return np.asarray(x / np.where(spread > 0, spread, 1.0))


def of_eigenvalues(
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]], matrices: Matrices
) -> Matrices:
    """Apply a function to symmetric matrices by way of their eigenvalues (log, exp, roots)."""
    values, vectors = np.linalg.eigh(matrices)
    return np.asarray((vectors * function(values)[..., None, :]) @ vectors.swapaxes(-1, -2))


def _logs_at(whitening: Matrices, covariances: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``log(W C W)``, as float32.

    In float32 throughout where the eigenvalues permit, by the eigensolver of torch: a third of the
    time of float64.
    """
    for dtype in (torch.float32, torch.float64):
        w, c = (torch.as_tensor(array).to(dtype) for array in (whitening, covariances))
        values, vectors = torch.linalg.eigh(w @ c @ w)
        if bool((values[:, 0] > _SINGLE * values[:, -1]).all()):
            break
    logs = (vectors * values.log()[:, None]) @ vectors.mT
    return np.asarray(logs.float().numpy())


def geometric_mean(covariances: NDArray[np.floating]) -> Matrices:
    """Return the mean under the affine-invariant metric, by fixed-point steps.

    Parameters
    ----------
    covariances : array of shape (n, C, C)
        Positive definite.

    Raises
    ------
    InputError
        If it does not converge.
    """
    mean: Matrices = covariances.mean(axis=0, dtype=np.float64)
    for _ in range(_MAX_STEPS):
        root, inverse = of_eigenvalues(np.sqrt, mean), of_eigenvalues(_inverse_root, mean)
        step = np.zeros_like(mean)
        for batch in _batches(covariances):
            step += of_eigenvalues(np.log, inverse @ batch @ inverse).sum(axis=0)
        step /= len(covariances)
        mean = root @ of_eigenvalues(np.exp, _STEP * step) @ root
        if np.linalg.norm(step) < _TOLERANCE * len(mean):
            return mean
    raise InputError(
        f"the geometric mean has not converged after {_MAX_STEPS} steps",
        field="reference",
        fix="Use the log-Euclidean mean",
    )


def _inverse_root(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1.0 / np.sqrt(values)


def _batches(matrices: NDArray[np.floating]) -> Any:
    for start in range(0, len(matrices), _BATCH):
        yield matrices[start : start + _BATCH].astype(np.float64)


class TangentBaseline(SignalTransformer):
    """Connectivity in the tangent space at the mean of the training part.

    Covariances are those of standardised ROIs, with Ledoit-Wolf shrinkage.

    Parameters
    ----------
    reference : {"log-euclidean", "geometric"}
        Mean at which the tangent space touches. The geometric one is nilearn's; the log-Euclidean
        one needs no iterations and serves as well.

    Attributes
    ----------
    n_features_in_ : int
        Number of ROIs.
    whitening_ : ndarray of shape (C, C)
        Inverse square root of the reference.
    """

    def __init__(self, reference: Literal["log-euclidean", "geometric"] = "log-euclidean") -> None:
        self.reference = reference

    def prepare(self, X: Signals) -> NDArray[np.float32]:
        """Return what depends on each recording alone: its covariance, and the logarithm of it.

        Parameters
        ----------
        X : RecordingStore, list of arrays (n_times, n_rois), or array (n, n_times, n_rois)

        Returns
        -------
        ndarray of float32, shape (n_recordings, 2, C, C), or (n_recordings, 1, C, C)
            The geometric mean needs no logarithms.

        Raises
        ------
        InputError
            If a parameter is illegal, or a signal is no signal.
        """
        return self._prepare(each_signal(X, in_time=self._in_time))

    def _prepare(self, signals: Iterator[NDArray[np.floating]]) -> NDArray[np.float32]:
        if self.reference not in ("log-euclidean", "geometric"):
            rule = "must be log-euclidean or geometric"
            raise InputError(rule, field="reference", value=self.reference)
        rows = []
        for signal in signals:
            covariance, _ = ledoit_wolf(self._embed(standardised(signal)), assume_centered=True)
            parts = [covariance]
            if self.reference == "log-euclidean":
                parts.append(of_eigenvalues(np.log, covariance))
            rows.append(np.stack(parts).astype(np.float32))
        return np.stack(rows)

    _n_copies = 1  # of every ROI in the matrices
    _in_time = False  # whether the order of the time points matters

    def _embed(self, signal: NDArray[np.float64]) -> NDArray[np.float64]:
        return signal

    def fit_prepared(self, prepared: NDArray[np.float32]) -> Self:
        """Find the reference of the recordings of a training part, as `prepare` returned them."""
        if self.reference == "geometric":
            mean = geometric_mean(prepared[:, 0])
        else:
            mean = of_eigenvalues(np.exp, prepared[:, 1].mean(axis=0, dtype=np.float64))
        self.whitening_ = of_eigenvalues(_inverse_root, mean)
        self.n_features_in_ = len(mean) // self._n_copies
        return self

    def transform_prepared(self, prepared: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the tangent vectors of recordings, as `prepare` returned them."""
        check_is_fitted(self, "whitening_")
        size = prepared.shape[-1]
        rows, columns = np.tril_indices(size)
        # Off-diagonal values stand for two entries each: lengths are those of the matrices.
        scale = np.where(rows == columns, 1.0, np.sqrt(2.0))
        out = np.empty((len(prepared), len(rows)), np.float32)
        for start in range(0, len(prepared), _BATCH):
            logs = _logs_at(self.whitening_, prepared[start : start + _BATCH, 0])
            out[start : start + _BATCH] = logs[:, rows, columns] * scale
        return out

    def fit(self, X: Signals, y: object = None) -> Self:  # noqa: ARG002 - scikit-learn's contract
        """Find the reference of recordings.

        Parameters
        ----------
        X : RecordingStore, list of arrays (n_times, n_rois), or array (n, n_times, n_rois)

        Raises
        ------
        InputError
            If a parameter is illegal, a signal is no signal, or there are fewer than 2 ROIs.
        """
        self._see_rois(X, at_least=2)
        return self.fit_prepared(self._prepare(self._signals(X, in_time=self._in_time)))

    def transform(self, X: Signals) -> NDArray[np.float32]:
        """Return the tangent vectors of recordings.

        Parameters
        ----------
        X : RecordingStore, list of arrays (n_times, n_rois), or array (n, n_times, n_rois)

        Returns
        -------
        ndarray of float32, shape (n_recordings, C (C + 1) / 2)
            The lower triangle, row by row, off-diagonal values times the root of 2.
        """
        check_is_fitted(self, "whitening_")
        return self.transform_prepared(self._prepare(self._signals(X, in_time=self._in_time)))

    def _output_names(self, rois: list[str]) -> list[str]:
        return pair_names(rois, diagonal=True)


class AugmentedCovarianceBaseline(TangentBaseline):
    """Covariance of signals and their delayed copies, in tangent space (Carrara 2024).

    The off-diagonal blocks are lagged covariances: who leads whom. Its size is `order` times that
    of the plain covariance, its cost the cube of that.

    Parameters
    ----------
    order : int
        Copies, the undelayed one included.
    lag : int
        Time points between a copy and the next.
    reference : {"log-euclidean", "geometric"}

    Attributes
    ----------
    n_features_in_ : int
        Number of ROIs.
    whitening_ : ndarray of shape (order * n_rois, order * n_rois)
    """

    _in_time = True  # time points on either side of a gap are not one lag apart

    def __init__(
        self,
        order: int = 2,
        lag: int = 1,
        reference: Literal["log-euclidean", "geometric"] = "log-euclidean",
    ) -> None:
        super().__init__(reference)
        self.order = order
        self.lag = lag

    @property
    def _n_copies(self) -> int:  # type: ignore[override]
        return self.order

    def _output_names(self, rois: list[str]) -> list[str]:
        copies = (f"+{k * self.lag}" if k else "" for k in range(self.order))
        return pair_names([f"{roi}{copy}" for copy in copies for roi in rois], diagonal=True)

    def _embed(self, signal: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.order < 1 or self.lag < 1:
            raise InputError("must be at least 1", field="order, lag", value=(self.order, self.lag))
        length = len(signal) - (self.order - 1) * self.lag
        if length < 2:
            raise InputError(
                f"is too short for {self.order} copies {self.lag} time points apart",
                field="length",
                value=len(signal),
            )
        return np.hstack([signal[k * self.lag :][:length] for k in range(self.order)])
