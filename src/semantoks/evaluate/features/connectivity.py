"""Functional connectivity: correlations of all pairs of regions, full or partial."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf

from semantoks.errors import InputError
from semantoks.evaluate.features.inputs import Signals
from semantoks.evaluate.features.tangent import standardised
from semantoks.evaluate.features.transformer import SignalTransformer, pair_names

_LARGEST = 1.0 - 1e-6  # two equal signals have no finite Fisher z


def fisher_z_connectivity(signal: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the Fisher-z transformed correlations of all pairs of ROIs.

    Parameters
    ----------
    signal : ndarray of shape (n_times, n_rois)
        A ROI without variance correlates with nothing: its pairs are 0.

    Returns
    -------
    ndarray of shape (n_rois * (n_rois - 1) / 2,)
        The lower triangle, row by row, as nilearn's ``ConnectivityMeasure`` vectorises it.
    """
    x = np.asarray(signal, np.float64)
    x = x - x.mean(axis=0)
    norm = np.linalg.norm(x, axis=0)
    x = x / np.where(norm > 0, norm, 1.0)
    return _fisher_z(x.T @ x)


def shrunk_connectivity(signal: NDArray[np.floating], *, inverse: bool) -> NDArray[np.float64]:
    """Return Fisher-z transformed correlations, full or partial, of the Ledoit-Wolf covariance.

    Parameters
    ----------
    signal : ndarray of shape (n_times, n_rois)
        ROIs are standardised first, so that the shrinkage is the same in any unit.
    inverse : bool
        Partial correlations, from the inverse of the covariance (Varoquaux et al. 2010).

    Returns
    -------
    ndarray of shape (n_rois * (n_rois - 1) / 2,)
    """
    covariance, _ = ledoit_wolf(standardised(signal), assume_centered=True)
    if inverse:
        covariance = -np.linalg.inv(covariance)
    scale = np.sqrt(abs(np.diag(covariance)))
    return _fisher_z(covariance / np.outer(scale, scale))


def _fisher_z(correlation: NDArray[np.float64]) -> NDArray[np.float64]:
    pairs = correlation[np.tril_indices(len(correlation), k=-1)]
    return np.asarray(np.arctanh(pairs.clip(-_LARGEST, _LARGEST)), np.float64)


_KINDS: dict[str, Callable[[NDArray[np.floating]], NDArray[np.float64]]] = {
    "pearson": fisher_z_connectivity,
    "ledoit-wolf": partial(shrunk_connectivity, inverse=False),
    "partial": partial(shrunk_connectivity, inverse=True),
}


class ConnectivityBaseline(SignalTransformer):
    """Functional connectivity: Fisher-z transformed correlations of all pairs of ROIs.

    Nothing is learned, so that it can come before any split. Put `LinearProbe` behind it to have
    the same linear model as on embeddings.

    Parameters
    ----------
    kind : {"pearson", "ledoit-wolf", "partial"}
        Correlations of the samples; of the covariance after Ledoit-Wolf shrinkage; or partial
        correlations, of the same covariance.

    Attributes
    ----------
    n_features_in_ : int
        Number of ROIs.

    Examples
    --------
    >>> import numpy as np
    >>> signals = np.random.default_rng(0).standard_normal((2, 50, 3))
    >>> baseline = ConnectivityBaseline().fit(signals)
    >>> baseline.get_feature_names_out(["LH_Vis_1", "RH_Vis_2", "LH_Cont_1"]).tolist()
    ['LH_Vis_1~RH_Vis_2', 'LH_Vis_1~LH_Cont_1', 'RH_Vis_2~LH_Cont_1']
    >>> baseline.set_output(transform="pandas").transform(signals).columns.tolist()
    ['roi0~roi1', 'roi0~roi2', 'roi1~roi2']
    """

    stateless: ClassVar[bool] = True  # every recording is described on its own

    def __init__(self, kind: Literal["pearson", "ledoit-wolf", "partial"] = "pearson") -> None:
        self.kind = kind

    def fit(self, X: Signals, y: object = None) -> Self:  # noqa: ARG002 - scikit-learn's contract
        """Note the ROIs.

        Parameters
        ----------
        X : RecordingStore, list of arrays (n_times, n_rois), or array (n, n_times, n_rois)

        Raises
        ------
        InputError
            If `kind` is unknown, or there are fewer than 2 ROIs.
        """
        if self.kind not in _KINDS:
            raise InputError("is unknown", field="kind", value=self.kind, fix=f"Give {_or(_KINDS)}")
        self._see_rois(X, at_least=2)
        return self

    def transform(self, X: Signals) -> NDArray[np.float32]:
        """Return the connectivity of every recording.

        Parameters
        ----------
        X : RecordingStore, list of arrays (n_times, n_rois), or array (n, n_times, n_rois)

        Returns
        -------
        ndarray of float32, shape (n_recordings, n_rois * (n_rois - 1) / 2)
        """
        signals = self._signals(X)
        return np.stack([_KINDS[self.kind](s).astype(np.float32) for s in signals])

    def _output_names(self, rois: list[str]) -> list[str]:
        return pair_names(rois, diagonal=False)


def _or(names: Mapping[str, object]) -> str:
    return " or ".join(names)
