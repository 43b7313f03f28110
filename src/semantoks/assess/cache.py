"""Caches: embeddings that several parts need, predictions of fine-tuned folds."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import (
    BaseEstimator,
    MetaEstimatorMixin,
    clone,
    is_classifier,
)
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from semantoks.data.store import RecordingStore
from semantoks.evaluate.features.embed import Embedder
from semantoks.evaluate.features.inputs import Signals
from semantoks.evaluate.features.transformer import SignalTransformer
from semantoks.evaluate.predictors.finetune import FineTuner, FineTunerRegressor
from semantoks.files import staged_file
from semantoks.model.encoder import Encoder
from semantoks.model.weights import weights_hash


class StoredEmbedder(SignalTransformer):
    """An `Embedder` whose embeddings of one store are kept in a file.

    Parameters
    ----------
    embedder : Embedder
    file : path
        ``.npz`` that holds the embeddings of the store of `fingerprint`; made when they are first
        needed. Everything else that is embedded (corrupted recordings, halves) is computed.
    fingerprint : str
        Of the store.

    Attributes
    ----------
    embedder_ : Embedder
        Fitted.
    encoder_ : Encoder
    n_features_in_ : int
        Number of ROIs of the encoder.
    """

    stateless: ClassVar[bool] = Embedder.stateless

    def __init__(self, embedder: Embedder, file: Path, fingerprint: str) -> None:
        self.embedder = embedder
        self.file = file
        self.fingerprint = fingerprint

    def fit(self, X: Signals, y: object = None) -> Self:  # noqa: ARG002 - scikit-learn's contract
        """Load the encoder; see `Embedder.fit`."""
        self.embedder_ = copy(self.embedder).fit(X)  # shares the weights, which nothing changes
        self.n_features_in_ = self.embedder_.n_features_in_
        return self

    def _output_names(self, rois: list[str]) -> list[str]:
        return [*self.embedder_.get_feature_names_out(rois)]

    @property
    def encoder_(self) -> Encoder:
        """Encoder of the fitted embedder."""
        return self.embedder_.encoder_

    def transform(self, X: Signals) -> NDArray[np.float32]:
        """Embed, or read what was embedded before; see `Embedder.transform`."""
        check_is_fitted(self)
        embedder = self.embedder_
        if not isinstance(X, RecordingStore) or X.fingerprint != self.fingerprint:
            return embedder.transform(X)
        parts = "_".join(embedder.parts_)
        how = f"{embedder.n_crops} {parts} {embedder.engine_} {embedder.precision}"
        key = sha256(f"{weights_hash(self.encoder_)} {X.fingerprint} {how}".encode()).hexdigest()
        if self.file.exists():
            with np.load(self.file, allow_pickle=False) as held:
                if str(held["key"]) == key:
                    return np.asarray(held["embeddings"], np.float32)
        embeddings = embedder.transform(X)
        _save(self.file, key=np.array(key), embeddings=embeddings)
        return embeddings


class StoredTuner(MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]
    """A fine-tuner whose predictions are kept in files, so that no fold is trained twice.

    Training starts when a prediction is asked for that no file holds. It resumes from its
    checkpoint, which is deleted when the prediction is written.

    Parameters
    ----------
    tuner : FineTuner or FineTunerRegressor
        Its model is an encoder; without a checkpoint of its own.
    folder : path
        Of the files; those of other data or settings stay beside each other.

    Attributes
    ----------
    classes_ : ndarray
        Of a classifier.
    """

    def __init__(self, tuner: FineTuner | FineTunerRegressor, folder: Path) -> None:
        self.tuner = tuner
        self.folder = folder

    def fit(
        self,
        X: RecordingStore,
        y: NDArray[Any],
        groups: NDArray[np.str_] | None = None,
        held_out: Sequence[NDArray[np.intp]] | None = None,
    ) -> Self:
        """Note what is to be trained on; see `FineTuner.fit`."""
        self.data_ = {"X": X, "y": y, "groups": groups, "held_out": held_out}
        if is_classifier(self.tuner):
            self.classes_ = np.unique(y)
        encoder = self.tuner.model
        assert isinstance(encoder, Encoder)
        settings = self.tuner.get_params(deep=False) | {"model": None, "device": None}
        digest = sha256(f"{settings} {weights_hash(encoder)} {X.fingerprint}".encode())
        for part in (y, groups, *(held_out or ())):
            digest.update(repr(None if part is None else part.tolist()).encode())
        self.key_ = digest.hexdigest()[:32]
        return self

    def predict_proba(self, X: RecordingStore) -> NDArray[np.float64]:
        """Return the probabilities of the classes, (n, n_classes)."""
        return self._stored("predict_proba", X)

    def predict(self, X: RecordingStore) -> NDArray[Any]:
        """Return the most probable classes, or the values."""
        if is_classifier(self.tuner):
            return np.asarray(self.classes_[self.predict_proba(X).argmax(axis=1)])
        return self._stored("predict", X)

    def _stored(self, method: str, X: RecordingStore) -> NDArray[np.float64]:
        check_is_fitted(self)
        file = self.folder / f"{self.key_}-{X.fingerprint[:32]}.npz"
        checkpoint = self.folder / f"{self.key_}.safetensors"
        if file.exists():
            checkpoint.unlink(missing_ok=True)
            with np.load(file, allow_pickle=False) as held:
                return np.asarray(held["predicted"], np.float64)
        tuner = clone(self.tuner).set_params(checkpoint=checkpoint).fit(**self.data_)
        predicted = np.asarray(getattr(tuner, method)(X), np.float64)
        _save(file, predicted=predicted)
        checkpoint.unlink()
        return predicted

    def __sklearn_tags__(self) -> Any:
        return get_tags(self.tuner)


def _save(file: Path, **arrays: NDArray[Any]) -> None:
    """Write an ``.npz``, in place of one of other settings."""
    with staged_file(file, overwrite=True) as partial:
        np.savez(partial, allow_pickle=False, **arrays)
