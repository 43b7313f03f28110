"""Sharded embedding: many processes embed one store, resume after a kill, and are merged.

A shard embeds its recordings in blocks, and every block is one file of the partial folder, with the
hash of what it was made from. `merge_shards` merges them once all exist and belong together.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semantoks.data.shards import of_shard, open_partial, read_settings, write_part
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError, StoreError, readable
from semantoks.evaluate.features.embed import Embedder

_BLOCK = 64  # recordings: what a kill costs at most
_SHOWN = 5


@dataclass(frozen=True, eq=False)
class _Block:
    """Some recordings of a shard.

    Parameters
    ----------
    shard : str
        ``i/n``.
    file : Path
    rows : int array
        Of the store's table.
    key : str
        Hash of the settings and of the recordings.
    """

    shard: str
    file: Path
    rows: NDArray[np.int64]
    key: str

    def load(self) -> NDArray[np.float32] | None:
        """Return the embeddings, or None if the file is missing or holds something else."""
        try:
            # KeyError: NumPy finds no such array in the archive.
            with (
                readable(self.file, known=(KeyError, NotImplementedError)),
                np.load(self.file, allow_pickle=False) as held,
            ):
                own = str(held["key"]) == self.key
                return np.asarray(held["embeddings"], np.float32) if own else None
        except InputError:
            return None


def _blocks(
    store: RecordingStore, folder: Path, shard: tuple[int, int], settings: Mapping[str, Any]
) -> Iterator[_Block]:
    i, n = shard
    rows = np.asarray(of_shard(range(len(store)), shard), np.int64)
    for k in range(-(-len(rows) // _BLOCK)):
        here = rows[k * _BLOCK : (k + 1) * _BLOCK]
        made_from = [json.dumps(settings, sort_keys=True), *store.table["id"].iloc[here]]
        key = sha256("\n".join(made_from).encode()).hexdigest()
        yield _Block(f"{i}/{n}", folder / f"shard-{i}-of-{n}-block-{k}.npz", here, key)


def embed_shard(
    embedder: Embedder,
    store: RecordingStore,
    folder: Path,
    shard: tuple[int, int],
    made_from: Mapping[str, Any],
) -> int:
    """Embed every n-th recording, from the i-th on, into the partial folder.

    Parameters
    ----------
    embedder : Embedder
        Fitted.
    store : RecordingStore
    folder : Path
    shard : (int, int)
        (i, n).
    made_from : mapping
        What decides the embeddings: model, store, crops ...; plain values.

    Returns
    -------
    int
        Recordings of the shard.

    Raises
    ------
    StoreError
        If the folder was begun for something else or for another number of shards, or the device is
        full; what is done stays.
    """
    settings = {**made_from, "shards": shard[1]}
    n = len(of_shard(range(len(store)), shard))  # an illegal one makes no folder
    open_partial(folder, settings)
    for block in _blocks(store, folder, shard, settings):
        if block.load() is None:
            stream = io.BytesIO()
            values = embedder.transform(store.select(block.rows))
            np.savez(stream, allow_pickle=False, key=np.array(block.key), embeddings=values)
            write_part(block.file, stream.getvalue())
    return n


def merge_shards(
    store: RecordingStore, folder: Path, made_from: Mapping[str, Any]
) -> NDArray[np.float32]:
    """Return the embeddings of all recordings, in the order of the store.

    Raises
    ------
    StoreError
        If the folder was begun for something else, a shard is missing or half done, there is one
        too many, or one is of another model or store; all are named.
    """
    n = read_settings(folder).get("shards")
    if not isinstance(n, int) or n < 1:
        raise StoreError("does not say how many shards there are", file=folder, value=n)
    settings = {**made_from, "shards": n}
    open_partial(folder, settings)
    blocks = [b for i in range(n) for b in _blocks(store, folder, (i + 1, n), settings)]
    strange = sorted({f.name for f in folder.glob("*.npz")} - {b.file.name for b in blocks})
    if strange:
        rule = f"holds what belongs to none of the {n} shards: {_listed(strange)}"
        raise StoreError(rule, file=folder, fix="Take it out of the folder")
    lost = list(dict.fromkeys(b.shard for b in blocks if not b.file.exists()))
    if lost:
        rule = f"{len(lost)} of {n} shards are missing or not finished: {_listed(lost)}"
        raise StoreError(rule, file=folder, fix=f"Run them, --shard {lost[0]} first, then this")
    values = [block.load() for block in blocks]
    foreign = [b.file.name for b, v in zip(blocks, values, strict=True) if v is None]
    if foreign:
        rule = f"holds parts of another model or store, or damaged ones: {_listed(foreign)}"
        raise StoreError(rule, file=folder, fix="Delete these files and run their shards again")
    found = np.concatenate([v for v in values if v is not None])
    order = np.concatenate([block.rows for block in blocks])
    out = np.empty_like(found)
    out[order] = found
    return out


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
