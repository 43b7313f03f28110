"""`Embedder`: recordings to embeddings, as a scikit-learn transformer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.inputs import Signals, signal_list
from semantoks.model.encoder import Encoder
from semantoks.model.pretrained import load_pretrained
from semantoks.views.crops import evenly_spaced_starts
from semantoks.views.loader import missing_networks


class Embedder(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Embed recordings with a frozen encoder.

    A recording becomes evenly spaced crops, each of the length of a view; their embeddings are
    averaged. Every recording is encoded on its own, so that no batch-mate can change its result.

    Parameters
    ----------
    model : path or Encoder
        Run, checkpoint or model folder (its teacher), or an encoder.
    tr : float, optional
        TR of signals given as arrays, seconds; a store states its own.
    n_crops : int
        Evenly spaced crops per recording (paper, evaluation protocol: 8).
    features : {"cls_avg", "cls"}
        [mean over tokens, CLS] of 2 D values, or the CLS token alone of D values.
    device : str
        Device of the encoder.

    Attributes
    ----------
    encoder_ : Encoder
    """

    def __init__(
        self,
        model: str | Path | Encoder,
        *,
        tr: float | None = None,
        n_crops: int = 8,
        features: Literal["cls_avg", "cls"] = "cls_avg",
        device: str = "cpu",
    ) -> None:
        self.model = model
        self.tr = tr
        self.n_crops = n_crops
        self.features = features
        self.device = device

    def fit(self, X: Signals, y: object = None) -> Self:  # noqa: ARG002 - scikit-learn's contract
        """Load the encoder; nothing is learned from `X`.

        Raises
        ------
        InputError
            If a parameter is illegal.
        CheckpointError
            If the model cannot be loaded.
        """
        if self.n_crops < 1:
            raise InputError("must be at least 1", field="n_crops", value=self.n_crops)
        if self.features not in ("cls_avg", "cls"):
            raise InputError("must be cls_avg or cls", field="features", value=self.features)
        encoder = self.model if isinstance(self.model, Encoder) else load_pretrained(self.model)
        self.encoder_ = encoder.eval().to(self.device)
        return self

    @torch.inference_mode()
    def transform(self, X: Signals) -> NDArray[np.float32]:
        """Embed.

        Parameters
        ----------
        X : RecordingStore, list of arrays (n_times, n_rois), or array (n, n_times, n_rois)
            ROIs of arrays in the order of the encoder's parcellation; arrays are detrended,
            filtered, resampled and z-scored as the encoder's training data were. A store is
            reordered by name, and must have been preprocessed in that way.

        Returns
        -------
        ndarray of float32, shape (n_recordings, 2 D) or (n_recordings, D)

        Raises
        ------
        InputError
            If the ROIs, the TR or the preprocessing do not fit, a signal holds NaN, or a
            recording is shorter than one patch.
        """
        check_is_fitted(self)
        config = self.encoder_.config
        rows = []
        for name, signal, absent in self._recordings(X):
            if len(signal) < config.patch_length:
                raise InputError(
                    f"is shorter than one patch of {config.patch_length} time points at a TR of "
                    f"{self.encoder_.preprocessing.tr:g} s",
                    file=name,
                    field="length",
                    value=len(signal),
                    fix="Leave the recording out",
                )
            views, mask = self._crops(signal, absent)
            out = self.encoder_(views, mask)
            crops = out.cls if self.features == "cls" else out.cls_avg
            rows.append(crops.mean(dim=0).float().cpu().numpy())
        return np.stack(rows)

    def _crops(
        self, signal: NDArray[np.float32], absent: NDArray[np.bool_]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the crops of one recording (K, C, T) and which of their tokens have no data."""
        config = self.encoder_.config
        starts = evenly_spaced_starts(len(signal), config.view_length, self.n_crops)
        short = max(config.view_length - len(signal), 0)
        padded = np.pad(signal, ((0, short), (0, 0)))
        views = np.stack([padded[s : s + config.view_length].T for s in starts])
        empty = np.arange(config.n_patches) * config.patch_length >= len(signal)
        mask = np.broadcast_to(
            absent[:, None] | empty, (len(starts), len(absent), config.n_patches)
        )
        tensor = torch.from_numpy(np.ascontiguousarray(views, np.float32)).to(self.device)
        if not mask.any():
            return tensor, None
        return tensor, torch.from_numpy(mask.copy()).to(self.device)

    def _recordings(
        self, X: Signals
    ) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.bool_]]]:
        """Yield name, preprocessed signal and networks without data of every recording."""
        encoder = self.encoder_
        if isinstance(X, RecordingStore):
            columns = self._fitting_columns(X)
            absent = missing_networks(X, encoder.network_rois, encoder.parcellation.labels)
            for i in range(len(X)):
                yield str(X.table["id"].iloc[i]), X.signal(i)[:, columns], absent[i]
            return
        if self.tr is None:
            raise InputError(
                "the TR of signals given as arrays is not stated",
                field="tr",
                value=None,
                fix="Give Embedder(..., tr=seconds)",
            )
        none = np.zeros(encoder.n_networks, dtype=bool)
        for i, x in enumerate(signal_list(X, len(encoder.parcellation))):
            yield f"X[{i}]", encoder.preprocessing.apply(x, self.tr, f"X[{i}]"), none

    def _fitting_columns(self, store: RecordingStore) -> NDArray[np.intp]:
        """Return the columns of the store in the encoder's order of ROIs."""
        encoder = self.encoder_
        columns = encoder.parcellation.columns_of(store.parcellation.labels, source=store.path)
        if store.preprocessing != encoder.preprocessing:
            raise InputError(
                f"was preprocessed in another way than the encoder's training data, "
                f"{encoder.preprocessing}",
                file=store.path,
                field="preprocessing",
                value=store.preprocessing,
                fix="Prepare the recordings again with the encoder's settings",
            )
        return columns

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:  # noqa: ARG002
        """Return ``e0000``, ``e0001``, ..."""
        check_is_fitted(self)
        width = self.encoder_.config.width * (2 if self.features == "cls_avg" else 1)
        return np.asarray([f"e{i:04d}" for i in range(width)], dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.requires_fit = True
        return tags
