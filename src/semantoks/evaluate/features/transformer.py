"""Bases of the estimators that read recordings: tags, names of features, a check of the ROIs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.features.inputs import Signals, each_signal, roi_count, roi_names


class SignalEstimator(BaseEstimator):  # type: ignore[misc]
    """Base of estimators that read recordings.

    Attributes
    ----------
    n_features_in_ : int
        Number of ROIs.
    """

    n_features_in_: int

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags


class SignalTransformer(TransformerMixin, SignalEstimator):  # type: ignore[misc]
    """Base of transformers of recordings: `get_feature_names_out`, `set_output`, tags.

    A subclass calls `_see_rois` in ``fit`` and reads recordings in ``transform`` by `_signals`.

    Attributes
    ----------
    n_features_in_ : int
        Number of ROIs.
    feature_names_in_ : ndarray of str, shape (n_rois,)
        Names of the ROIs, if it was fitted on a store or on tables with names.
    """

    def get_feature_names_out(
        self, input_features: Sequence[str] | None = None
    ) -> NDArray[np.object_]:
        """Return the names of the features.

        Parameters
        ----------
        input_features : sequence of str, optional
            Names of the ROIs; those of the store it was fitted on, or ``roi0``, ``roi1``, ... by
            default.

        Returns
        -------
        ndarray of str objects

        Raises
        ------
        InputError
            If there is not one name per ROI.
        """
        check_is_fitted(self)
        names = input_features
        if names is None:
            names = getattr(self, "feature_names_in_", None)
        if names is None:
            names = [f"roi{i}" for i in range(self.n_features_in_)]
        if len(names) != self.n_features_in_:
            rule = f"must name the {self.n_features_in_} ROIs"
            raise InputError(rule, field="input_features", value=len(names))
        return np.asarray(self._output_names([str(name) for name in names]), dtype=object)

    @abstractmethod
    def _output_names(self, rois: list[str]) -> list[str]:
        """Return the names of the features, given those of the ROIs."""

    def _see_rois(self, X: Signals, at_least: int = 1) -> None:
        """Note the ROIs of what is fitted on."""
        n_rois = roi_count(X)
        if n_rois < at_least:
            raise InputError(f"must have at least {at_least} ROIs", field="X", value=n_rois)
        self.n_features_in_ = n_rois
        self.__dict__.pop("feature_names_in_", None)
        if (names := roi_names(X)) is not None:
            self.feature_names_in_ = np.asarray(names, dtype=object)

    def _signals(self, X: Signals, *, in_time: bool = False) -> Iterator[NDArray[np.floating]]:
        """Yield the recordings as `each_signal`, after comparing the ROIs with those of fit."""
        check_is_fitted(self)
        expected = getattr(self, "feature_names_in_", None)
        if isinstance(X, RecordingStore):
            labels = X.parcellation.labels
            fix = "Transform recordings of the parcellation that it was fitted on"
            if len(labels) != self.n_features_in_:
                rule = f"must have the {self.n_features_in_} ROIs that the estimator was fitted on"
                raise InputError(rule, file=X.path, field="n_rois", value=len(labels), fix=fix)
            if expected is not None and tuple(expected) != labels:
                rule = "must have the ROIs that the estimator was fitted on, in the same order"
                raise InputError(rule, file=X.path, field="parcellation", fix=fix)
        names = None if expected is None else [*expected]
        return each_signal(X, self.n_features_in_, names=names, in_time=in_time)


class StoreTransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Base of transformers that read columns of a store's index: there are none in arrays."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags


def pair_names(names: Sequence[str], *, diagonal: bool) -> list[str]:
    """Return ``A~B`` for every entry of the lower triangle, row by row."""
    ends = (i + 1 if diagonal else i for i in range(len(names)))
    return [f"{b}~{a}" for a, end in zip(names, ends, strict=True) for b in names[:end]]
