"""Features that something else computed: a table with a row per recording, or per person."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.data.store import RecordingStore
from semantoks.errors import InputError, readable
from semantoks.tables import read_table


def read_features(file: Path, store: RecordingStore) -> NDArray[np.float32]:
    """Read the features of the recordings of a store.

    Parameters
    ----------
    file : path
        Parquet, CSV, TSV or Excel: a column ``id`` (recordings) or ``subject`` (one row per person,
        for all recordings of the person) and columns of numbers. Columns with the name of one of
        the store's (session, site) are no features; rows of other recordings are passed over.
    store : RecordingStore

    Returns
    -------
    ndarray of shape (n_recordings, n_features)
        In the order of the store.

    Raises
    ------
    InputError
        There is no such column, a recording or person has no row or two, or a cell is no finite
        number.
    """
    if file.suffix == ".parquet":
        with readable(file):
            table = pd.read_parquet(file)
    else:
        table = read_table(file, words=("id", "subject")).frame
    key = next((name for name in ("id", "subject") if name in table), None)
    if key is None:
        raise InputError(
            "must have a column id or subject",
            file=file,
            field="columns",
            value=[*map(str, table.columns[:5])],
            fix="Call the column of the recordings, named as in the store, id",
        )
    given, asked = table[key].astype(str), store.table[key].astype(str)
    names = given.str.removeprefix("sub-").to_numpy(str)
    wanted = asked.str.removeprefix("sub-").to_numpy(str)
    values, counts = np.unique(names, return_counts=True)
    twice = np.intersect1d(values[counts > 1], wanted)
    if len(twice):
        raise InputError("must have one row each", file=file, field=key, value=str(twice[0]))
    absent = np.setdiff1d(wanted, names)
    if len(absent) == len(set(wanted)) and len(given):
        raise InputError(
            f"has no row of any of the {len(absent)} in the store, which are named e.g. "
            f"{asked.iloc[0]}",
            file=file,
            field=key,
            value=given.iloc[0],
            fix=f"Name the rows as the column {key} of the store's recordings.parquet does",
        )
    if len(absent):
        raise InputError(
            f"has no row of {len(absent)} of the {len(set(wanted))} in the store, e.g. this",
            file=file,
            field=key,
            value=str(absent[0]),
            fix="Add the rows, or prepare a store without these recordings",
        )
    known = {key, *map(str, store.table.columns)}
    columns = [column for column in table.columns if str(column) not in known]
    rows = pd.Series(np.arange(len(names)), index=names)[wanted].to_numpy()
    out = np.empty((len(store), len(columns)), np.float32)
    for i, column in enumerate(columns):
        cells = table[column].iloc[rows]
        out[:, i] = pd.to_numeric(cells, errors="coerce").to_numpy(np.float32, na_value=np.nan)
        bad = np.flatnonzero(~np.isfinite(out[:, i]))
        if len(bad):
            raise InputError(
                f"must be finite numbers, not {str(cells.iloc[bad[0]])!r} ({key} {wanted[bad[0]]})",
                file=file,
                field=str(column),
                fix="Fill the cell, or delete the column",
            )
    if not columns:
        raise InputError("must have columns of features", file=file, field="columns", value=key)
    return out


def features_hash(features: NDArray[np.float32]) -> str:
    """Return what identifies features."""
    return sha256(
        np.ascontiguousarray(features).tobytes() + str(features.shape).encode()
    ).hexdigest()
