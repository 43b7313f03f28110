"""Region time series in tables: which row is the header, which columns are ROIs, numbers checked.

Columns that hold no ROI are left out, and a note lists them: row numbers and times, texts such as
the ``File`` and ``Sub-brick`` of AFNI's 3dROIstats.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from semantoks.data.sources.items import Reading
from semantoks.errors import InputError, listed
from semantoks.tables import below_title, table_cells
from semantoks.text import Cells, has_decimal_commas, number

#: Names of columns that count or time the volumes.
_COUNTERS = (
    *("", "index", "time", "times", "t", "sec", "seconds", "ms", "volume", "frame", "tr", "scan"),
    *("timepoint", "subbrick"),
)
_HEAD = 2**22  # bytes, enough for any header
#: AFNI's 3dROIstats writes Mean_ and the value in the image, or its label; C-PAC the value.
_STATISTIC = re.compile(r"(?:(?:NZ)?(?:Mean|Med)_|#)(.+)")

Names = tuple[str, ...]


class Columns(NamedTuple):
    """What a table of region time series holds.

    Parameters
    ----------
    signal : ndarray of float64, shape (n_times, n_rois)
        NaN for cells that are empty or mean "unknown".
    names : tuple of str, optional
        Of the columns, if the table has a header.
    read_as : str
        How the table was understood, in words.
    """

    signal: NDArray[np.float64]
    names: Names | None
    read_as: str = ""


def named_columns(file: Path, reading: Reading | None = None) -> Names | None:
    """Return the names in the header of a table, None if it has numbers there or is empty.

    Names of ROIs are those of the atlas of `reading` where they are its values in an image.
    """
    names = _header(_with_points(table_cells(file, _HEAD)))[0]
    return names and (tuple(_name(n, reading) for n in names) if reading else names)


def read_columns(file: Path, reading: Reading) -> Columns:
    """Return the signal, and the names of its columns if the table has a header.

    A table with the ROIs in rows (UK Biobank's) is turned if its first column names ROIs of the
    atlas, or `reading` states it.

    Raises
    ------
    InputError
        The file cannot be read, a row is cut, or a cell is no number.
    """
    cells = table_cells(file)
    if not cells.rows:
        raise InputError("is not a table that can be read (it is empty)", file=file)
    names, cells = _header(_with_points(cells))
    width = cells.width
    _refuse_cut_rows(cells, width)
    if names is not None and len(names) == width - 1:  # R and pandas do not name row numbers
        names = ("", *names)
    rois = _rois_in_rows(names, cells, reading)
    if rois:
        signal = _numbers(replace(cells, rows=[row[1:] for row in cells.rows]), names, first=2)
        return Columns(signal.T, rois, f"{cells.read_as}, ROIs in rows")
    return _without_counters(names, cells, reading)


def _with_points(cells: Cells) -> Cells:
    """Return the cells, their numbers with a decimal point where they have a comma."""
    if not has_decimal_commas([cell for row in cells.rows[:50] for cell in row]):
        return cells
    rows = [
        [cell if number(cell, comma=True) is None else cell.replace(",", ".") for cell in row]
        for row in cells.rows
    ]
    return replace(cells, rows=rows, read_as=f"{cells.read_as}, decimal commas")


def _header(cells: Cells) -> tuple[Names | None, Cells]:
    """Return the names in the first row, None if it holds numbers; and the other rows."""
    if not cells.rows:
        return None, cells
    cells = below_title(cells)
    first, below = cells.rows[0], cells.rows[1] if len(cells.rows) > 1 else []
    words = [cell for cell in first if _is_word(cell)]
    others = [cell for cell in first if cell and cell not in words]
    counted = bool(others) and _count(others)
    if not words:
        # Whole numbers that rise, above decimals, number the columns: they are no time point.
        whole = [int(cell) for cell in others if cell.isdecimal()]
        rising = len(whole) == len(first) > 2 and whole == sorted(set(whole))
        decimals = any("." in cell for cell in below)
        if counted and len(others) > 1:
            return None, cells.without(1)
        return (tuple(first), cells.without(1)) if rising and decimals else (None, cells)
    # A row with the same texts as the next one is a time point, e.g. of 3dROIstats.
    alike = [number(cell) is None for cell in first] == [number(cell) is None for cell in below]
    if (len(words) < len(others) and not counted) or (alike and others):
        return None, cells
    return tuple(first), cells.without(1)


def _is_word(cell: str) -> bool:
    return number(cell) is None and number(cell, comma=True) is None


def _count(cells: Sequence[str]) -> bool:
    """Return whether cells are 0, 1, 2, ... or 1, 2, 3, ..."""
    return list(cells) in ([str(i + k) for i in range(len(cells))] for k in (0, 1))


def _refuse_cut_rows(cells: Cells, width: int) -> None:
    for row, line in zip(cells.rows, cells.lines, strict=True):
        if len(row) != width:
            rule = f"line {line} has {len(row)} cells where most have {width}"
            fix = "Write the file again: it may be cut, or hold two tables"
            raise InputError(rule, file=cells.file, field="signal", fix=fix)


def _rois_in_rows(names: Names | None, cells: Cells, reading: Reading) -> Names:
    """Return the ROIs that the first column names, () if rows are time points."""
    first = tuple(row[0] for row in cells.rows)
    words = all(number(cell) is None for cell in first) and len(set(first)) == len(first) > 1
    known = sum(map(reading.atlas.has, first))
    headed = sum(map(reading.atlas.has, names or ()))
    return first if words and (known > headed or reading.orientation == "rois-first") else ()


def _without_counters(names: Names | None, cells: Cells, reading: Reading) -> Columns:
    columns = list(zip(*cells.rows, strict=True))
    texts = [all(map(_is_word, column)) for column in columns]
    if len(columns) == sum(texts):
        texts = [False] * len(columns)  # no numbers at all: refused below, with the first cell
    rois = [reading.atlas.has(name) for name in names or ("",) * len(columns)]
    left = {i for i, is_text in enumerate(texts) if is_text and not rois[i]}
    for i, column in enumerate(columns):
        name = names[i] if names and i < len(names) else ""
        plain = re.sub(r"[\W_]", "", name).lower().removeprefix("unnamed0")
        if names and i not in left and plain in _COUNTERS and not reading.atlas.has(name):
            left |= {i} if _counts(column, any_step=bool(name)) else set()
    kept = [i for i in range(len(columns)) if i not in left]
    signal = _numbers(cells, names, kept)
    read_as = f"{cells.read_as}, {'names in the header' if names else 'no header'}"
    if left:
        shown = [
            names[i] or f"column {i + 1}" if names else f"column {i + 1}" for i in sorted(left)
        ]
        read_as += f", columns without a signal left out: {listed(shown)}"
    if names and reading.orientation == "rois-first":
        read_as += ": --orientation rois-first is not used"
    chosen = tuple(_name(names[i], reading) for i in kept if i < len(names)) if names else None
    return Columns(signal, chosen, read_as)


def _name(name: str, reading: Reading) -> str:
    """Return the name of a ROI in the header of a statistic: Mean_2001 is the ROI #2001.

    Of an atlas of your own, it is the ROI with this value of `index`; volumes of one built-in
    atlas hold its ROIs under several orders of values.
    """
    match, atlas = _STATISTIC.fullmatch(name), reading.atlas
    if match is None or atlas.has(name):
        return name
    if atlas.index and match[1].isdecimal() and atlas.name not in atlas.available():
        by_value = dict(zip(atlas.index, atlas.labels, strict=True))
        return by_value.get(int(match[1]), name)
    return next((n for n in (match[1], f"#{match[1]}") if atlas.has(n)), name)


def _counts(column: Sequence[str], *, any_step: bool) -> bool:
    """Return whether a column counts the rows from 0 or 1, or, with a name, is evenly spaced."""
    values = np.array([number(cell) for cell in column], np.float64)
    if any(np.array_equal(values, np.arange(k, k + len(values))) for k in (0, 1)):
        return True
    steps = np.diff(values)
    return any_step and len(steps) > 1 and steps[0] > 0 and np.allclose(steps, steps[0], rtol=1e-3)


def _numbers(
    cells: Cells, names: Names | None, kept: Sequence[int] | None = None, first: int = 1
) -> NDArray[np.float64]:
    """Return the cells as numbers, of some columns only; one that is none is named."""
    chosen = range(len(cells.rows[0])) if kept is None else kept
    rows = [[row[i] for i in chosen] for row in cells.rows]
    try:  # nearly all files hold numbers and nothing else
        if any("_" in cell for row in rows for cell in row):
            raise ValueError  # NumPy reads 1_0 as 10
        return np.array(rows, np.float64)
    except ValueError:
        values = [[number(cell) for cell in row] for row in rows]
    for row, found, line in zip(rows, values, cells.lines, strict=True):
        if None in found:
            at = found.index(None)
            column = chosen[at]
            name = f" {names[column]!r}" if names and column < len(names) else ""
            rule = f"must be a number (line {line}, column {column + first}{name})"
            fix = "Correct it: digits and one decimal mark, thousands not separated"
            raise InputError(rule, file=cells.file, field="signal", value=row[at][:40], fix=fix)
    return np.array(values, np.float64)
