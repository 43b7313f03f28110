"""Readers that yield recordings from files: so far, a table that lists region time series."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.data.recording import Recording
from semantoks.data.signal import check_tr
from semantoks.errors import InputError, readable

_PREFIXES = {"subject": "sub-", "session": "ses-", "task": "task-", "run": "run-"}
_NUMBERS = ("tr", "mean_fd", "censored_fraction")
_FIELDS = (*_PREFIXES, "site", *_NUMBERS)
_SEPARATORS = {".tsv": "\t", ".csv": ","}


def read_table(
    table: str | Path,
    *,
    tr: float | None = None,
    roi_names: Sequence[str] | str | Path | None = None,
) -> Iterator[Recording]:
    """Yield the recordings that a table lists, one file each.

    Parameters
    ----------
    table : str or path
        Tab-separated (.tsv) or comma-separated (.csv) table with the columns ``file`` (relative to
        the table) and ``subject``, and optionally ``session``, ``task``, ``run``, ``site``, ``tr``
        (seconds), ``mean_fd`` (millimetres), ``censored_fraction``. All others are phenotypes;
        an empty cell or ``n/a`` is unknown. The files are .tsv or .csv, time points x ROIs, with
        the names of the ROIs in the first line, or .npy of shape (n_times, n_rois).
    tr : float, optional
        Repetition time of all files, seconds. Otherwise it is the one of the table, or the
        ``RepetitionTime`` of a JSON file of the same name beside the file; if several are given,
        they have to agree.
    roi_names : sequence of str, or path, optional
        Names of the columns of files that do not hold them; a path names a text file with one per
        line.

    Yields
    ------
    Recording

    Raises
    ------
    InputError
        A column, file, name or TR is missing, or a value is not what it has to be.
    """
    path = Path(table)
    with readable(path):
        rows = _read_rows(path)
    names = _read_names(roi_names)
    return (_read_recording(path, row, tr, names) for row in rows)


def recording_fields(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Split a row of a table into the fields of a `Recording` and its phenotypes; NaN is None."""
    values = {key: None if pd.isna(value) else value for key, value in row.items()}
    phenotypes = {key: value for key, value in values.items() if key not in _FIELDS}
    return {key: values[key] for key in _FIELDS if key in values} | {"phenotypes": phenotypes}


def _read_rows(path: Path) -> list[dict[Hashable, Any]]:
    if not path.is_file():
        raise InputError("there is no such file", file=path)
    if path.suffix not in _SEPARATORS:
        rule = "the table of recordings has to be .tsv or .csv"
        raise InputError(rule, file=path, field="suffix", value=path.suffix)
    text = dict.fromkeys([*_PREFIXES, "site", "file"], str)
    rows = pd.read_csv(path, sep=_SEPARATORS[path.suffix], dtype=text)
    for column in ("file", "subject"):
        if column not in rows.columns:
            rule = f"has no column {column!r}"
            raise InputError(rule, file=path, field="columns", value=[*rows.columns])
        if rows[column].isna().any():
            line = int(np.flatnonzero(rows[column].isna())[0]) + 2
            raise InputError(f"has no {column} in line {line}", file=path, field=column)
    for column in set(_NUMBERS) & set(rows.columns):
        if not pd.api.types.is_numeric_dtype(rows[column]):
            wrong = pd.to_numeric(rows[column], errors="coerce").isna() & rows[column].notna()
            value = rows[column][wrong].iloc[0]
            raise InputError("has to be a number", file=path, field=column, value=value)
    if not len(rows):
        raise InputError("lists no recordings", file=path)
    for column, prefix in _PREFIXES.items():
        if column in rows.columns:
            rows[column] = rows[column].str.removeprefix(prefix)
    return rows.to_dict("records")


def _read_names(roi_names: Sequence[str] | str | Path | None) -> tuple[str, ...] | None:
    if roi_names is None or not isinstance(roi_names, (str, Path)):
        return None if roi_names is None else tuple(roi_names)
    path = Path(roi_names)
    if not path.is_file():
        raise InputError("there is no such file of ROI names", file=path, field="roi_names")
    return tuple(path.read_text(encoding="utf-8").splitlines())


def _read_recording(
    table: Path, row: dict[Hashable, Any], tr: float | None, names: tuple[str, ...] | None
) -> Recording:
    file = table.parent / row["file"]
    if not file.is_file():
        rule = "lists a file that does not exist"
        raise InputError(rule, file=table, field="file", value=str(row["file"]))
    found = None
    with readable(file):
        if file.suffix == ".npy":
            signal = _read_npy(file)
        elif file.suffix in _SEPARATORS:
            signal, found = _read_text(file)
        else:
            rule = "a file of signals has to be .tsv, .csv or .npy"
            raise InputError(rule, file=table, field="file", value=str(row["file"]))
    if found is None and names is None:
        rule = "does not name its ROIs, and an order is never guessed"
        fix = "Put the names into the first line, or give them as roi_names"
        raise InputError(rule, file=file, field="ROI names", fix=fix)
    fields = recording_fields({key: value for key, value in row.items() if key != "file"})
    fields["tr"] = _agreed_tr(file, table, {"table": fields.get("tr"), "argument": tr})
    return Recording(signal=signal, roi_names=found or names or (), source=str(file), **fields)


def _read_npy(file: Path) -> NDArray[np.floating]:
    try:
        signal = np.load(file, allow_pickle=False)
    except ValueError as error:
        raise InputError(f"is not an array that can be read ({error})", file=file) from None
    if signal.ndim != 2 or not np.issubdtype(signal.dtype, np.number):
        rule = "has to be numbers of the shape (n_times, n_rois)"
        raise InputError(rule, file=file, value=f"{signal.dtype} {signal.shape}")
    return np.asarray(signal, np.float64)


def _read_text(file: Path) -> tuple[NDArray[np.floating], tuple[str, ...] | None]:
    """Return the signal, and the names in the first line unless it holds numbers."""
    separator = _SEPARATORS[file.suffix]
    with file.open(encoding="utf-8") as stream:
        first = [cell.strip().strip('"') for cell in stream.readline().split(separator)]
    named = not all(map(_is_number, first))
    # A first line 0, 1, 2, ... or 1, 2, 3, ... counts the columns: it is no time point.
    counted = not named and first in ([str(i + k) for i in range(len(first))] for k in (0, 1))
    try:
        frame = pd.read_csv(file, sep=separator, header=None, skiprows=int(named or counted))
    except ValueError as error:  # pandas derives its parser errors from it
        raise InputError(f"is not a table that can be read ({error})", file=file) from None
    numbers = frame.apply(pd.to_numeric, errors="coerce")
    wrong = np.argwhere((numbers.isna() & frame.notna()).to_numpy())
    if len(wrong):
        line, column = wrong[0]
        value = str(frame.iat[line, column])
        rule = f"has to be a number (line {line + 1 + int(named or counted)}, column {column + 1})"
        raise InputError(rule, file=file, field="signal", value=value)
    return numbers.to_numpy(np.float64), tuple(first) if named else None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _agreed_tr(file: Path, table: Path, given: dict[str, float | None]) -> float:
    sidecar = file.with_suffix(".json")
    if sidecar.is_file():
        try:
            content = json.loads(sidecar.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"is not JSON ({error})", file=sidecar) from None
        with readable(sidecar):
            given = {**given, sidecar.name: content.get("RepetitionTime")}
    stated = {where: value for where, value in given.items() if value is not None}
    for where, value in stated.items():
        check_tr(value, file if where == "argument" else table if where == "table" else sidecar)
    if len({round(float(value), 4) for value in stated.values()}) > 1:
        rule, fix = "the TRs given for this file disagree", "Correct the one that is wrong"
        raise InputError(rule, file=file, field="tr", value=stated, fix=fix)
    return check_tr(next(iter(stated.values()), None), file)
