"""What every model has to beat: functional connectivity."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.inputs import Signals, signal_list

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
    correlation = (x.T @ x)[np.tril_indices(x.shape[1], k=-1)]
    return np.asarray(np.arctanh(correlation.clip(-_LARGEST, _LARGEST)), np.float64)


class ConnectivityBaseline(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Functional connectivity: Fisher-z transformed Pearson correlations of all pairs of ROIs.

    Nothing is learned, so that it can come before any split. Put `LinearProbe` behind it to have
    the same linear model as on embeddings.

    Attributes
    ----------
    n_rois_ : int
    """

    stateless: ClassVar[bool] = True  # every recording is described on its own

    def fit(self, X: Signals, y: object = None) -> Self:  # noqa: ARG002 - scikit-learn's contract
        """Note the number of ROIs.

        Parameters
        ----------
        X : RecordingStore, list of arrays (n_times, n_rois), or array (n, n_times, n_rois)
        """
        self.n_rois_ = (
            len(X.parcellation) if isinstance(X, RecordingStore) else signal_list(X)[0].shape[1]
        )
        if self.n_rois_ < 2:
            raise InputError("connectivity needs at least 2 ROIs", field="X", value=self.n_rois_)
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
        check_is_fitted(self)
        signals: Iterable[NDArray[np.floating]]
        if isinstance(X, RecordingStore):
            signals = (X.signal(i) for i in range(len(X)))
        else:
            signals = signal_list(X, self.n_rois_)
        return np.stack([fisher_z_connectivity(s).astype(np.float32) for s in signals])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags
