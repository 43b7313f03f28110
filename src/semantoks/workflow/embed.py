"""Tables of embeddings."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from semantoks.data.shards import of_shard
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.features.embed import Embedder
from semantoks.files import refuse_existing, staged_file
from semantoks.model.engines import EngineName, Precision
from semantoks.model.weights import weights_hash
from semantoks.train.setup import pick_device
from semantoks.workflow.embed_shards import embed_shard, merge_shards

_SUFFIXES = (".parquet", ".csv", ".tsv")


def embed_store(
    model: str | Path,
    store: str | Path,
    out: str | Path,
    *,
    n_crops: int = 8,
    parts: Sequence[str] | None = None,
    device: str = "auto",
    engine: EngineName | Literal["auto"] = "torch",
    precision: Precision = "float32",
    shard: tuple[int, int] | None = None,
) -> pd.DataFrame:
    """Embed the recordings of a store and write one row per recording.

    Shards keep their embeddings in ``OUT.partial``; repeating a call resumes it. When all are done,
    the same call without `shard` merges them into a table, bit-equal to one made without shards.

    Parameters
    ----------
    model : path
        Run, checkpoint or model.
    store : path
    out : path
        New ``.parquet``, ``.csv`` or ``.tsv``: id, subject, session, site, then ``e0000`` ...,
        or the names of chosen parts (``cls0000``, pairs of ROIs).
    n_crops : int
        Evenly spaced crops per recording, averaged.
    parts : sequence of str, optional
        Parts of the embedding, as for `Embedder`.
    device : str
    engine, precision : str
        As for `Embedder`.
    shard : (int, int), optional
        (i, n): only every n-th recording, from the i-th of 1 to n, and no table.

    Returns
    -------
    DataFrame of shape (n_recordings, 4 + size of the embedding)
        Of a shard: id, subject, session and site of its recordings.

    Raises
    ------
    InputError
        If the file exists, has another ending, or model and store do not fit.
    StoreError
        If shards are missing, too many, or of another model, store or way of embedding.
    """
    target = Path(out)
    if target.suffix not in _SUFFIXES:
        raise InputError(f"the table's ending must be one of {', '.join(_SUFFIXES)}", file=target)
    refuse_existing(target)
    recordings = RecordingStore(store)
    embedder = Embedder(
        model,
        n_crops=n_crops,
        parts=parts,
        device=str(pick_device(device)),
        engine=engine,
        precision=precision,
    )
    ids = recordings.table[["id", "subject", "session", "site"]]
    partial = target.with_name(target.name + ".partial")
    if shard is None and not partial.exists():
        values = embedder.fit_transform(recordings)
    else:
        made_from = _made_from(embedder.fit(recordings), recordings)
        if shard is not None:
            embed_shard(embedder, recordings, partial, shard, made_from)
            return ids.iloc[of_shard(range(len(ids)), shard)].reset_index(drop=True)
        values = merge_shards(recordings, partial, made_from)
    names = embedder.get_feature_names_out()
    table = pd.concat([ids, pd.DataFrame(values, columns=names)], axis=1)
    with staged_file(target) as file:
        if target.suffix == ".parquet":
            table.to_parquet(file, index=False)
        else:
            separator = "," if target.suffix == ".csv" else "\t"
            table.to_csv(file, sep=separator, index=False, na_rep="n/a")
    if partial.exists():
        shutil.rmtree(partial)
    return table


def _made_from(embedder: Embedder, store: RecordingStore) -> dict[str, Any]:
    """Return what decides embeddings to the bit, as plain values."""
    if embedder.engine == "auto":
        raise InputError(
            "which engine is the fastest may differ from shard to shard",
            field="engine",
            value="auto",
            fix="Name one: torch, onnx or openvino",
        )
    return {
        "model": weights_hash(embedder.encoder_),
        "store": store.fingerprint,
        "crops": embedder.n_crops,
        "parts": [*embedder.parts_],
        "engine": embedder.engine_,
        "precision": embedder.precision,
        "device": torch.device(embedder.device).type,
        "versions": {name: metadata.version(name) for name in ("semantoks", "torch")},
    }
