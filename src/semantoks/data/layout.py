"""Layout of a store's folder: names of its files, format version, header, index and checksums."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from semantoks.config import parse
from semantoks.data.encode import INDEX_COLUMNS
from semantoks.data.signal import Preprocessing
from semantoks.errors import StoreError, entry, readable

FORMAT = "semantoks-store"
FORMAT_VERSION = 2  # 2 has kept.npy
HEADER, ROIS, INDEX, KEPT = "store.json", "rois.tsv", "recordings.parquet", "kept.npy"
#: Written into a finished store, from what it holds; so the header has no checksum of it.
QUALITY_PAGE = "quality.html"
RESTORE = "Restore the folder from its source, or write the store again"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    digest = sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def checked(folder: Path, name: str, expected: str) -> Path:
    """Return the path of a file of a store after comparing its checksum with the header's.

    Raises
    ------
    StoreError
        If it is missing or has changed.
    """
    path = folder / name
    if not path.is_file():
        raise StoreError("a file of the store is missing", file=path, fix=RESTORE)
    if file_sha256(path) != expected:
        raise StoreError("is not what was written (its checksum differs)", file=path, fix=RESTORE)
    return path


def read_index(path: Path) -> pd.DataFrame:
    """Read the index and check that it can be used."""
    with readable(path, StoreError):
        table = pd.read_parquet(path)
    if "offset" not in table.columns:  # written before recordings could be cut
        table = table.assign(offset=0.0, acquisition=None)
    absent = [name for name in INDEX_COLUMNS if name not in table.columns]
    if absent:
        raise StoreError("lacks columns", file=path, field="columns", value=absent, fix=RESTORE)
    with readable(path, StoreError):
        table["missing_rois"] = table["missing_rois"].map(_names)
        for name in ("shard", "start", "length"):
            table[name] = table[name].astype(np.int64)
        for name in ("id", "subject"):
            table[name] = table[name].astype(str)
    return table


def _names(cell: object) -> tuple[str, ...]:
    if not isinstance(cell, (np.ndarray, list, tuple)):
        raise ValueError("missing_rois must hold lists of names")
    return tuple(map(str, cell))


def stated_preprocessing(header: dict[str, Any], file: Path) -> Preprocessing:
    """Return the preprocessing that a header states; `file` is for messages."""
    stated = entry(header, "preprocessing")
    if not isinstance(stated, dict):
        raise ValueError("preprocessing must be a mapping")
    return parse(Preprocessing, stated, file=file)


def read_header(folder: Path) -> dict[str, Any]:
    """Read and check the header of a store.

    Raises
    ------
    StoreError
        The folder is no store, half-written, damaged, or written by a newer version.
    """
    path = folder / HEADER
    if not folder.is_dir():
        fix = "Make a store with `semantoks prepare`"
        raise StoreError("there is no such folder", file=folder, fix=fix)
    if not path.is_file():
        rule, fix = "is no store (it holds no store.json)", "Make one with `semantoks prepare`"
        if any(folder.glob("signals-*.npy")):
            rule = "is a half-written store (no store.json, which is written last)"
            fix = "Delete the folder and write the store again"
        raise StoreError(rule, file=folder, fix=fix)
    try:
        header: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"is not JSON ({error})", file=path, fix=RESTORE) from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise StoreError(f"is not the header of a store ({FORMAT})", file=path)
    version = header.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        rule = f"is newer than this version of the package reads ({FORMAT_VERSION})"
        fix = "Update semantoks, or write the store again with this version"
        raise StoreError(rule, file=path, field="format_version", value=version, fix=fix)
    with readable(path, StoreError):
        for name in ("package_version", "steps", "rois_sha256", "index_sha256"):
            entry(header, name)
        if version >= 2:
            entry(header, "kept_sha256")
        shards = entry(header, "shards")
        if not isinstance(shards, list):
            raise ValueError("shards must be a list")
        for shard in shards:
            if not (isinstance(entry(shard, "rows"), int) and entry(shard, "sha256")):
                raise ValueError("a shard must state its rows and its checksum")
        names = [str(entry(shard, "file")) for shard in shards]
    outside = [name for name in names if Path(name).name != name]
    if outside:
        rule = "a shard must lie in the folder of the store"
        raise StoreError(rule, file=path, field="shards", value=outside[0])
    return header
