"""A table that lists files, one recording each, with what is known about them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from semantoks.data.labels import SESSION, SITE, SUBJECT, column_like, without_prefix
from semantoks.data.recording import Recording, recording_id
from semantoks.data.sources.bids import (
    Stated,
    in_seconds,
    settle_tr,
    sidecar,
    sidecar_trs,
    start_time,
)
from semantoks.data.sources.images import image_tr, is_image, read_image
from semantoks.data.sources.items import Item, Reading, chosen
from semantoks.data.sources.series import read_joined
from semantoks.errors import InputError
from semantoks.tables import TypedTable, read_table, table_names
from semantoks.text import number

_PREFIXES = {"subject": "sub-", "session": "ses-", "task": "task-", "run": "run-"}
#: Smallest and largest value of the numbers in a table; what reads a TR knows its own.
_RANGES = {"mean_fd": (0.0, np.inf), "censored_fraction": (0.0, 1.0)}
_FIELDS = (*_PREFIXES, "acquisition", "site", "tr", *_RANGES)
#: Other names of columns, capitals, blanks and underscores apart.
_ALSO = {
    "file": ("files", "filename", "filepath", "path"),
    "subject": SUBJECT,
    "session": SESSION,
    "acquisition": ("acq",),
    "site": SITE,
    "tr": ("repetitiontime",),
    "mean_fd": ("meanfd", "fdmean"),
    "censored_fraction": ("censoredfraction",),
}


def is_listing(names: Sequence[str]) -> bool:
    """Return whether a header is that of a list of files: 3dROIstats has a column File, too."""
    file = column_like(names, ("file", *_ALSO["file"]))
    subject = column_like(names, SUBJECT)
    return bool(file and (subject or not column_like(names, ("subbrick",))))


def table_items(table: str | Path, reading: Reading) -> list[Item]:
    """Return the recordings that a table lists.

    Parameters
    ----------
    table : str or path
        Table (`semantoks.tables`) with the columns ``file`` (relative to the table, or to the
        root of `reading`; several that are joined with +) and ``subject``, and optionally
        ``session``, ``task``, ``acquisition``, ``run``, ``site``, ``tr`` (seconds), ``mean_fd``
        (millimetres), ``censored_fraction``. All others are phenotypes. The files hold time series
        (`semantoks.data.sources.series`) or are images (`semantoks.data.sources.images`).
    reading : Reading
        What the files do not state. The TR of `reading` overrides that of the table, which
        overrides the JSON file beside the file, which overrides the file's header.

    Raises
    ------
    InputError
        A column is missing, or every row breaks a rule: a file or subject is missing, a value is
        no number, a path leaves the folder. A row that breaks one among others fails when it is
        read.
    """
    path = Path(table)
    root = (reading.root or path.parent).resolve()
    rows, table_read = _read_rows(path)
    items, errors = [], []
    for row, line in zip(rows, table_read.lines, strict=True):
        try:
            item = _item(row, line, root, path, reading)
        except InputError as error:
            errors.append(error)
            item = _refused(row, line, error)
        items.append(replace(item, notes=table_read.notes))
    if len(errors) == len(items):  # it is the table that is wrong
        raise errors[0]
    return chosen(items, reading.entities, path)


def _item(row: dict[str, Any], line: int, root: Path, table: Path, reading: Reading) -> Item:
    for column in ("file", "subject"):
        if row[column] is None:
            fix = "Fill the cell in, or leave the row out"
            raise InputError(f"has no {column} in line {line}", file=table, field=column, fix=fix)
    for column in _RANGES.keys() & row.keys():
        row[column] = _in_range(row[column], column, line, table)
    tr = row.get("tr")
    if tr is not None and reading.tr is None and in_seconds(tr) is None:
        rule = f"must be a number of seconds (line {line})"
        fix = "Correct the cell, or give the TR (source_tr, --source-tr)"
        raise InputError(rule, file=table, field="tr", value=tr, fix=fix)
    files = _inside(root, row, table)
    fields = recording_fields({key: value for key, value in row.items() if key != "file"})
    load = functools.partial(load_listed, files, fields, reading)
    return Item(_id(fields), files, load, {**fields, **fields["phenotypes"]})


def _in_range(cell: Any, column: str, line: int, table: Path) -> float | None:
    value = number(cell, comma=True) if isinstance(cell, str) else cell
    low, high = _RANGES[column]
    if cell is not None and (value is None or not low <= value <= high or value == np.inf):
        limits = f"of at least {low:g}" if high == np.inf else f"from {low:g} to {high:g}"
        rule, fix = (
            f"must be a number {limits} (line {line})",
            "Correct the cell, or leave it empty",
        )
        raise InputError(rule, file=table, field=column, value=cell, fix=fix)
    return value


def _refused(row: dict[str, Any], line: int, error: InputError) -> Item:
    """Return the recording of a row that breaks a rule: read, it fails, and no other does."""
    id_ = f"line {line}" if row["subject"] is None else _id(row)
    facts = {k: v for k, v in row.items() if k in (*_PREFIXES, "acquisition", "site")}
    facts["subject"] = row["subject"] or id_
    return Item(id_, (), functools.partial(_fail, error), facts)


def _fail(error: InputError) -> Recording:
    raise error


def _id(fields: Mapping[Any, Any]) -> str:
    others = (fields.get(name) for name in ("session", "task", "acquisition", "run"))
    return recording_id(str(fields["subject"]), *others)


def recording_fields(row: Mapping[Any, Any]) -> dict[str, Any]:
    """Split a row of a table into the fields of a `Recording` and its phenotypes; NaN is None."""
    values = {key: None if pd.isna(value) else value for key, value in row.items()}
    phenotypes = {key: value for key, value in values.items() if key not in _FIELDS}
    return {key: values[key] for key in _FIELDS if key in values} | {"phenotypes": phenotypes}


def _read_rows(path: Path) -> tuple[list[dict[str, Any]], TypedTable]:
    if not path.is_file():
        raise InputError("there is no such file", file=path)
    names = table_names(path)
    columns = {column: (column, *_ALSO.get(column, ())) for column in ("file", *_FIELDS)}
    known = {column: column_like(names, wanted) for column, wanted in columns.items()}
    for column in ("file", "subject"):
        if known[column] is None:
            rule, fix = f"has no column {column!r}", f"Rename the column that holds it to {column}"
            raise InputError(rule, file=path, field="columns", value=names, fix=fix)
    words = [known[column] for column in ("file", *_PREFIXES, "acquisition", "site")]
    table = read_table(path, words=[name for name in words if name])
    other = {name: column for column, name in known.items() if name not in (None, column)}
    rows = table.frame.rename(columns=other)
    told = [f"{path.name}: the column {name} is read as {column}" for name, column in other.items()]
    table = replace(table, frame=rows, notes=(*table.notes, *told))
    if not len(rows):
        raise InputError("lists no recordings", file=path)
    for column, prefix in _PREFIXES.items():
        if column in rows.columns:
            rows[column] = [without_prefix(cell, prefix) for cell in rows[column]]
    records = rows.to_dict("records")
    return [{str(k): None if pd.isna(v) else v for k, v in row.items()} for row in records], table


def _inside(root: Path, row: Mapping[Any, Any], table: Path) -> tuple[Path, ...]:
    """Return the files of a row: one, or several that are joined with +."""
    value = str(row["file"])
    names = [value] if _place(value, root, table).is_file() else value.split("+")
    files = tuple(_place(name.strip(), root, table) for name in names)
    for file in files:
        if not file.resolve().is_relative_to(root):
            rule = f"lists a file outside of {root}"
            fix = "Say where the files are (root, --root)"
            raise InputError(rule, file=table, field="file", value=value, fix=fix)
        if not file.is_file():
            rule = "lists a file that does not exist"
            fix = "Correct the path, or state the folder that it starts from (root, --root)"
            raise InputError(rule, file=table, field="file", value=value, fix=fix)
    return files


def _place(name: str, root: Path, table: Path) -> Path:
    """Return a path that starts from the root, or else from the table, be it one of Windows."""
    places = [base / n for n in (name, name.replace("\\", "/")) for base in (root, table.parent)]
    return next((place for place in places if place.is_file()), places[0])


def load_listed(files: tuple[Path, ...], fields: dict[str, Any], reading: Reading) -> Recording:
    """Read a recording from an image, or from its files of time series.

    Parameters
    ----------
    files : tuple of Path
        Several files of time series are joined by ROI.
    fields : dict
        Of the `Recording`; ``tr`` is that of the table.
    reading : Reading
    """
    file, coverage = files[0], None
    notes: tuple[str, ...] = ()
    if is_image(file):
        image = read_image(file, reading)
        signal, names, coverage = image.signal, image.names, image.coverage
        own = image_tr(file, image)
    else:
        series = read_joined(files, reading)
        signal, names, notes = series.signal, series.names or (), series.notes
        own = Stated("header", series.tr, file.name)
    found = sidecar(file)
    given = [Stated("table", fields.get("tr")), *sidecar_trs(found), own]
    timing = settle_tr(file, reading.tr, given)
    return Recording(
        signal=signal,
        roi_names=names,
        coverage=coverage,
        source=str(file),
        start_time=start_time(found),
        **{**fields, "tr": timing.tr, "notes": (*timing.notes, *notes)},
    )
