"""Integrity and pseudonymisation of stores: `check_store`, `strip_subjects`."""

from __future__ import annotations

import json
import secrets
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from semantoks.data.reader import (
    HEADER,
    INDEX,
    QUALITY_PAGE,
    ROIS,
    RecordingStore,
    file_sha256,
    read_header,
    read_index,
)
from semantoks.errors import InputError, StoreError, listed, readable
from semantoks.files import refuse_existing, staged_folder


def check_store(path: str | Path) -> list[str]:
    """Read every byte of a store and compare it with the checksums taken when it was written.

    Parameters
    ----------
    path : path
        Folder of the store.

    Returns
    -------
    list of str
        What is wrong, one line per file, with the recordings that it affects; empty if nothing is.

    Raises
    ------
    StoreError
        If the folder is no store, or its header cannot be read.
    """
    folder = Path(path)
    header = read_header(folder)
    with readable(folder / HEADER, StoreError):
        extras = dict(header.get("extras", {}))
    expected = {ROIS: header["rois_sha256"], INDEX: header["index_sha256"]}
    expected |= {str(shard["file"]): shard["sha256"] for shard in header["shards"]}
    expected |= {Path(name).name: digest for name, digest in extras.items()}
    broken = {name: _fault(folder / name, digest) for name, digest in expected.items()}
    broken = {name: fault for name, fault in broken.items() if fault}
    table = None if INDEX in broken else read_index(folder / INDEX)
    lines = []
    for name, fault in broken.items():
        shards = [i for i, s in enumerate(header["shards"]) if s["file"] == name]
        where = ""
        if shards and table is not None:
            ids = [*table["id"][table["shard"] == shards[0]]]
            where = f"; it holds {len(ids)} of {len(table)} recordings: {listed(ids)}"
        lines.append(f"{name}: {fault}{where}")
    known = {*expected, HEADER, QUALITY_PAGE}
    strange = sorted(f.name for f in folder.iterdir() if f.name not in known)
    lines += [f"{name}: does not belong to this store" for name in strange]
    if not broken:
        lines += _not_finite(RecordingStore(folder))
    return lines


def _fault(file: Path, digest: str) -> str:
    if not file.is_file():
        return "is missing"
    try:
        return "" if file_sha256(file) == digest else "is not what was written (checksum differs)"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _not_finite(store: RecordingStore) -> list[str]:
    bad = [i for i in range(len(store)) if not np.isfinite(store.raw(i)).all()]
    ids = [*store.table["id"].iloc[bad]]
    return (
        [f"values that are not finite in {len(ids)} of {len(store)} recordings: {listed(ids)}"]
        if ids
        else []
    )


def strip_subjects(
    path: str | Path, out: str | Path, *, salt: str | None = None, drop: tuple[str, ...] = ()
) -> RecordingStore:
    """Write a copy of a store with pseudonyms instead of subjects, to share it.

    Parameters
    ----------
    path : path
        Folder of the store.
    out : path
        New folder.
    salt : str, optional
        Secret that goes into the pseudonyms: stores stripped with the same salt name a person
        alike. Without it one is drawn and forgotten, so that no name can be guessed.
    drop : tuple of str
        Columns of the index to leave out: anything else that identifies a person.

    Returns
    -------
    RecordingStore
        Signals, sites and the other columns are the same; the provenance and further files of the
        store are not copied. Columns that repeat the subject's id are left out, too. Recordings
        keep their order, which may be that of the old ids.

    Raises
    ------
    StoreError
        If `out` exists, cannot be written, or the store is damaged.
    InputError
        If a column to drop does not exist or belongs to the index.
    """
    store, target = RecordingStore(path), Path(out)
    store.verify()
    for name in drop:
        if name not in store.phenotypes:
            raise InputError(f"is no phenotype of {path}", field="drop", value=name)
    refuse_existing(target, folder=True, kind=StoreError)
    table = _pseudonymous(store.table, secrets.token_hex(16) if salt is None else salt)
    subjects = store.table["subject"]
    repeats = [n for n in store.phenotypes if _repeats_subject(store.table[n], subjects)]
    table = table.drop(columns=[*dict.fromkeys((*drop, *repeats))])
    with staged_folder(target, kind=StoreError) as made:
        for file in (ROIS, *(shard["file"] for shard in store.header["shards"])):
            shutil.copyfile(store.path / file, made / file)
        table.to_parquet(made / INDEX, index=False)
        # What else was written beside the signals may name people, too: it stays behind.
        header = store.header | {"extras": {}, "provenance": {}}
        header |= {"index_sha256": file_sha256(made / INDEX)}
        (made / HEADER).write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
    return RecordingStore(target)


def _pseudonymous(table: pd.DataFrame, salt: str) -> pd.DataFrame:
    """Return the index with other subjects, in the columns ``subject`` and ``id``."""
    out = table.copy()
    old = [str(s) for s in table["subject"]]
    new = [sha256(f"{salt}\n{subject}".encode()).hexdigest()[:16] for subject in old]
    out["subject"] = new
    rest = [i.removeprefix(f"sub-{s}") for i, s in zip(table["id"], old, strict=True)]
    out["id"] = [f"sub-{s}{r}" for s, r in zip(new, rest, strict=True)]
    out["missing_rois"] = [list(names) for names in out["missing_rois"]]
    return out


def _repeats_subject(column: pd.Series[Any], subjects: pd.Series[Any]) -> bool:
    """Return whether a column repeats the subject's id, e.g. as a number or without zeros."""

    def bare(values: pd.Series[Any]) -> pd.Series[Any]:
        return values.astype(str).str.removesuffix(".0").str.lstrip("0")

    given = column.notna()
    return bool(given.any() and (bare(column[given]) == bare(subjects[given])).mean() > 0.5)
