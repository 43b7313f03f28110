"""Embeddings that are computed once: several parts of an assessment need the same ones."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from semantoks.data.store import RecordingStore
from semantoks.evaluate.embed import Embedder
from semantoks.evaluate.engines import EngineName, Precision
from semantoks.evaluate.inputs import Signals
from semantoks.model.encoder import Encoder
from semantoks.model.weights import weights_hash


class StoredEmbedder(Embedder):
    """An `Embedder` that keeps the embeddings of one store in a file.

    Parameters
    ----------
    model, tr, n_crops, features, device, engine, precision
        See `Embedder`.
    file : path, optional
        ``.npz`` that holds the embeddings of the store of `fingerprint`; made when they are first
        needed. Everything else that is embedded (corrupted recordings, halves) is computed.
    fingerprint : str
        Of the store.
    """

    def __init__(
        self,
        model: str | Path | Encoder,
        *,
        tr: float | None = None,
        n_crops: int = 8,
        features: Literal["cls_avg", "cls"] = "cls_avg",
        device: str = "cpu",
        engine: EngineName | Literal["auto"] = "torch",
        precision: Precision = "float32",
        file: Path | None = None,
        fingerprint: str = "",
    ) -> None:
        super().__init__(
            model,
            tr=tr,
            n_crops=n_crops,
            features=features,
            device=device,
            engine=engine,
            precision=precision,
        )
        self.file = file
        self.fingerprint = fingerprint

    def transform(self, X: Signals) -> NDArray[np.float32]:
        """Embed, or read what was embedded before; see `Embedder.transform`."""
        if self.file is None or not isinstance(X, RecordingStore):
            return super().transform(X)
        if X.fingerprint != self.fingerprint:
            return super().transform(X)
        how = f"{self.n_crops} {self.features} {self.engine_} {self.precision}"
        key = sha256(f"{weights_hash(self.encoder_)} {X.fingerprint} {how}".encode()).hexdigest()
        if self.file.exists():
            with np.load(self.file, allow_pickle=False) as held:
                if str(held["key"]) == key:
                    return np.asarray(held["embeddings"], np.float32)
        embeddings = super().transform(X)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_name(f".{self.file.name}.partial")
        with partial.open("wb") as stream:
            np.savez(stream, key=np.array(key), embeddings=embeddings)
        partial.replace(self.file)
        return embeddings
