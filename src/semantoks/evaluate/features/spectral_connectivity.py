"""Spectral connectivity: a concave function of the eigenvalues of the correlation matrix.

Fisher-z correlations are nearly linear in R; its large eigenvalues (global and motion-related
fluctuations) dominate them. R^a with a < 1 and log(I + b R) compress the eigenvalues, without
anything that is fitted on other people. Source: matrix power normalisation for second-order pooling
(Li et al., ICCV 2017); log(I + b R) up to a constant is the matrix whose trace is the coding rate
(Yu et al., NeurIPS 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from semantoks.errors import InputError
from semantoks.evaluate.features.inputs import Signals
from semantoks.evaluate.features.tangent import standardised
from semantoks.evaluate.features.transformer import SignalTransformer, pair_names

Compression = Literal["power", "log"]


def spectral_connectivity(
    signal: NDArray[np.floating], kind: Compression = "power", strength: float = 0.5
) -> NDArray[np.float64]:
    """Return R^a or log(I + b R) of the correlation matrix R.

    Parameters
    ----------
    signal : ndarray of shape (n_times, n_rois)
        A ROI without variance has zeros in its row and column. Fewer volumes than ROIs are fine:
        both functions are zero at zero, so that the null space of R contributes nothing.
    kind : {"power", "log"}
    strength : float
        The exponent a in (0, 1], or the factor b > 0.

    Returns
    -------
    ndarray of shape (n_rois, n_rois)
        Symmetric.
    """
    x = standardised(signal) / np.sqrt(len(signal))  # R = x.T @ x
    wide = len(x) < x.shape[1]  # then R has the eigenvalues of the smaller matrix, and zeros
    values, vectors = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    # What rounding makes of a zero eigenvalue, a small power would make large.
    positive = values > values[-1] * len(values) * np.finfo(np.float64).eps
    gain = np.zeros_like(values)
    gain[positive] = _FUNCTIONS[kind](values[positive], strength)
    if wide:
        vectors = x.T @ vectors
        gain[positive] /= values[positive]
    return np.asarray((vectors * gain) @ vectors.T)


def _power(values: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    return np.asarray(values**exponent)


def _log(values: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    return np.asarray(np.log1p(factor * values))


_FUNCTIONS: dict[str, Callable[[NDArray[np.float64], float], NDArray[np.float64]]] = {
    "power": _power,
    "log": _log,
}


class SpectralConnectivityBaseline(SignalTransformer):
    """Spectral connectivity: R^a or log(I + b R), lower triangle with the diagonal.

    Nothing is learned. Off-diagonal values are multiplied by the square root of 2, so that
    Euclidean distances between features are Frobenius distances between matrices.

    Parameters
    ----------
    kind : {"power", "log"}
    strength : float
        The exponent a in (0, 1], or the factor b > 0. The defaults were chosen on ABIDE, whose
        scores with them are therefore no independent evidence.

    Attributes
    ----------
    n_features_in_ : int
        Number of ROIs.

    See Also
    --------
    ConnectivityBaseline : Fisher-z correlations, the linear limit.
    TangentBaseline : Logarithms at a reference fitted on the training part.
    """

    stateless: ClassVar[bool] = True  # every recording is described on its own

    def __init__(self, kind: Compression = "power", strength: float = 0.5) -> None:
        self.kind = kind
        self.strength = strength

    def fit(self, X: Signals, y: object = None) -> Self:  # noqa: ARG002 - scikit-learn's contract
        """Note the ROIs.

        Parameters
        ----------
        X : RecordingStore, list of arrays (n_times, n_rois), or array (n, n_times, n_rois)

        Raises
        ------
        InputError
            If `kind` is unknown, or `strength` outside of its range.
        """
        if self.kind not in _FUNCTIONS:
            raise InputError("must be power or log", field="kind", value=self.kind)
        if self.strength <= 0 or (self.kind == "power" and self.strength > 1):
            rule = "must be in (0, 1] for a power, and positive for log"
            raise InputError(rule, field="strength", value=self.strength)
        self._see_rois(X)
        return self

    def transform(self, X: Signals) -> NDArray[np.float32]:
        """Return the spectral connectivity of every recording.

        Parameters
        ----------
        X : RecordingStore, list of arrays (n_times, n_rois), or array (n, n_times, n_rois)

        Returns
        -------
        ndarray of float32, shape (n_recordings, n_rois * (n_rois + 1) / 2)
        """
        signals = self._signals(X)
        rows, columns = np.tril_indices(self.n_features_in_)
        scale = np.where(rows == columns, 1.0, np.sqrt(2.0))
        found = []
        for signal in signals:
            matrix = spectral_connectivity(signal, self.kind, self.strength)
            found.append((matrix[rows, columns] * scale).astype(np.float32))
        return np.stack(found)

    def _output_names(self, rois: list[str]) -> list[str]:
        return pair_names(rois, diagonal=True)
