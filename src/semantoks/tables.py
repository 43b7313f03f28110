"""Tables with a header, whatever wrote them: text, Excel, Parquet; kinds of columns, unknown cells.

A column holds whole numbers, numbers, truth values or text. What a person should look at is noted:
cells read as unknown, and the few cells that keep a column from being numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from semantoks import text
from semantoks.errors import InputError, listed, readable
from semantoks.text import UNKNOWN, Cells, has_decimal_commas, number

#: Unknown among numbers; among words it is a category, e.g. of medication.
_NONE = frozenset(("None", "none"))
#: Unknown cells that need no note: the empty one, and BIDS's.
_USUAL = ("", "n/a")
_CODE = re.compile(r"\d+(\.0+)?")
_WHOLE = re.compile(r"[+-]?(0|[1-9]\d{0,14})")
#: Headers of a column of names of ROIs.
_NAMES = (
    *("label", "labels", "name", "names", "roi", "rois", "region", "regions"),
    *("roiname", "regionname", "labelname"),
)
#: What tables of colours call the value 0.
_NO_ROI = ("unknown", "background", "???")
_TITLES = 4  # rows in which a header is looked for
_HEAD = 2**22  # bytes, enough for any header
_TRUTH = {"true": True, "false": False}


@dataclass(frozen=True, eq=False)
class TypedTable:
    """A table of plain values; None where a cell is empty or means "unknown".

    Parameters
    ----------
    frame : DataFrame
        Columns of plain values (int, float, bool, str), or None.
    lines : list of int
        Number of the line of every row in the file.
    notes : tuple of str
        What was understood, and what is worth a look.
    """

    frame: pd.DataFrame
    lines: list[int] = field(repr=False)
    notes: tuple[str, ...] = ()


def is_table(file: Path) -> bool:
    """Return whether the name of a file ends as one of a table does."""
    return file.name.endswith(tuple(READERS))


def table_cells(file: Path, limit: int | None = None) -> Cells:
    """Return the cells of a table, as text; the first row holds the names if there are any.

    Parameters
    ----------
    file : path
    limit : int, optional
        Read this many bytes of a text file at most.

    Raises
    ------
    InputError
        The file is none of the kinds that are read, cannot be read, or needs a library.
    """
    for ending, read in READERS.items():
        if file.name.endswith(ending):
            return read(file, limit)
    rule = f"must be a table ({', '.join(KINDS)})"
    raise InputError(rule, file=file, field="suffix", value=file.suffix)


def read_table(file: Path, words: Collection[str] = ()) -> TypedTable:
    """Return a table with a header.

    Parameters
    ----------
    file : path
    words : collection of str
        Columns that hold text even where all cells are numbers: identifiers, codes of sites.

    Raises
    ------
    InputError
        The file cannot be read, is empty, or a row has more cells than the header.
    """
    cells = _from_header(table_cells(file))
    names = _names(cells)
    cells, notes = _without_descriptions(cells, names)
    values = {}
    for name, column in _columns(cells, names).items():
        values[name], more = _typed(name, column, cells.lines, name in words)
        notes += more
    notes = [f"read as {cells.read_as}, {len(cells.rows)} rows", *notes]
    frame = pd.DataFrame(values, dtype=object)
    return TypedTable(frame, cells.lines, tuple(f"{file.name}: {note}" for note in notes))


def read_words(file: Path) -> pd.DataFrame:
    """Return a table with a header as text: "NA" and "1" may be names of ROIs.

    Parameters
    ----------
    file : path

    Returns
    -------
    DataFrame
        Of strings; "" where a cell is empty.

    Raises
    ------
    InputError
        The file cannot be read, is empty, names a column twice, or a row has too many cells.
    """
    cells = _from_header(table_cells(file))
    return pd.DataFrame(_columns(cells.without(1), _names(cells)), dtype=object)


def as_numbers(column: Iterable[str]) -> list[float]:
    """Return the cells of a column as numbers, NaN for those that hold none."""
    cells = [*column]
    comma = has_decimal_commas(cells)
    found = [number(cell, comma=comma) for cell in cells]
    return [float("nan") if value is None else value for value in found]


def table_names(file: Path) -> list[str]:
    """Return the names in the header of a table, reading no more of a text file than that needs.

    Raises
    ------
    InputError
        The file cannot be read, or is empty.
    """
    return _names(_from_header(table_cells(file, _HEAD)))


def read_names(file: Path) -> tuple[str, ...]:
    """Return the names of ROIs that a file lists.

    One name per line, all names in one line, a table with a column ``label`` (or ``name``,
    ``roi``, ``region``), or numbers and names (a table of colours).

    Raises
    ------
    InputError
        The file cannot be read, is empty, or does not state which column holds the names.
    """
    cells = table_cells(file)
    rows = cells.rows
    if not rows:
        raise InputError("lists no names (it is empty)", file=file, field="roi_names")
    if len(rows) == 1:
        return tuple(filter(None, rows[0]))
    headed = [re.sub(r"[\W_]", "", cell).lower() in _NAMES for cell in rows[0]]
    if cells.width == 1 or len(set(map(len, rows))) > 1:
        return _whole_lines(cells)[all(headed) :]
    columns = list(zip(*rows, strict=True))
    if any(headed):  # of several, the first that does not number the ROIs
        named = [c[1:] for c, is_name in zip(columns, headed, strict=True) if is_name]
        return next((c for c in named if not all(map(str.isdecimal, c))), named[0])
    words = [column for column in columns if all(number(cell) is None for cell in column)]
    if len(words) == 1 and all(map(str.isdecimal, columns[0])):
        pairs = zip(columns[0], words[0], strict=True)
        return tuple(name for i, name in pairs if int(i) or name.lower() not in _NO_ROI)
    if len(words) == len(columns):
        return _whole_lines(cells)
    rule = "does not state which column holds the names"
    raise InputError(rule, file=file, field="roi_names", value=rows[0][:4], fix="Call it label")


def _whole_lines(cells: Cells) -> tuple[str, ...]:
    """Return the lines of the rows: names that hold commas or blanks themselves."""
    if not text.is_text(cells.file):
        return tuple(" ".join(filter(None, row)) for row in cells.rows)
    lines = text.read_text(cells.file)[0].split("\n")
    return tuple(lines[line - 1].strip().strip('"') for line in cells.lines)


def _names(cells: Cells) -> list[str]:
    first = cells.rows[0]
    return ["", *first] if cells.width == len(first) + 1 else first  # R names no row numbers


def _from_header(cells: Cells) -> Cells:
    """Return the cells from the header on: a title before it has few cells and no names."""
    rows = cells.rows
    if not rows:
        raise InputError("is not a table that can be read (it is empty)", file=cells.file)
    filled = sum(map(bool, rows[0]))
    few = len(rows[0]) <= 2 < cells.width or 2 * filled <= cells.width  # a title, merged cells
    titled = len(rows) > 2 and few and len(rows[1]) == cells.width > 1
    if titled and all(number(cell) is None for cell in rows[1]):
        return replace(
            cells.without(1), read_as=f"{cells.read_as}, header in line {cells.lines[1]}"
        )
    return cells


def below_title(cells: Cells) -> Cells:
    """Return the rows of a table of numbers from its header on, without a row of units below it.

    Merged cells and titles above a header repeat words, or leave cells empty; so do units.
    """
    worded = [_only_words(row) for row in cells.rows[:_TITLES]]
    n = worded.index(False) if False in worded else 0
    if n < 2:
        return cells
    distinct = [len({*filter(None, row)}) for row in cells.rows[:n]]
    at = distinct.index(max(distinct))
    units = range(at + 1, n)
    if any(distinct[i] > 2 for i in units):  # it may be a time point that is damaged
        return cells
    kept = [at, *range(n, len(cells.rows))]
    read_as = f"{cells.read_as}, header in line {cells.lines[at]}"
    read_as += "".join(f", line {cells.lines[i]} left out (units)" for i in units)
    rows, lines = [cells.rows[i] for i in kept], [cells.lines[i] for i in kept]
    return replace(cells, rows=rows, lines=lines, read_as=read_as)


def _only_words(row: Sequence[str]) -> bool:
    filled = [cell for cell in row if cell]
    return bool(filled) and all(
        number(cell) is None and number(cell, comma=True) is None for cell in filled
    )


def _without_descriptions(cells: Cells, names: list[str]) -> tuple[Cells, list[str]]:
    """Return the rows without the header and a line that describes the columns (NDA's tables)."""
    body = cells.without(1)
    if len(body.rows) > 2:
        first, *rest = body.rows
        sentences = [" " in cell and number(cell) is None for cell in first if cell]
        numbers = [
            i
            for i in range(min(len(names), len(first)))
            if all(i < len(row) and number(row[i]) is not None for row in rest) and first[i]
        ]
        described = numbers and all(re.search("[A-Za-z]{3}", first[i]) for i in numbers)
        if described and sum(sentences) > len(sentences) / 2:
            note = f"line {body.lines[0]} describes the columns and is no person: left out"
            return body.without(1), [note]
    return body, []


def _columns(cells: Cells, names: Sequence[str]) -> dict[str, list[str]]:
    """Return the cells of every column; a column without a name is left out."""
    twice = [name for name, n in Counter(filter(None, names)).items() if n > 1]
    if twice:
        rule, fix = "has this column twice", "Rename one of them, or remove it"
        raise InputError(rule, file=cells.file, field="columns", value=twice[0], fix=fix)
    for row, line in zip(cells.rows, cells.lines, strict=True):
        if len(row) > len(names) and any(row[len(names) :]):
            rule = f"has {len(row)} cells in line {line}, and {len(names)} columns"
            fix = "Quote the cells that hold the separator"
            raise InputError(rule, file=cells.file, field="columns", fix=fix)
    padded = [[*row, *[""] * (len(names) - len(row))] for row in cells.rows]
    columns = [[row[i] for row in padded] for i in range(len(names))]
    return {
        name: column
        for name, column in zip(names, columns, strict=True)
        if name and not name.startswith("Unnamed: ")
    }


def _typed(
    name: str, cells: Sequence[str], lines: Sequence[int], words: bool
) -> tuple[list[Any], list[str]]:
    """Return the values of a column, and what is worth a look."""
    cells, whole = _whole_codes(name, cells) if words else (cells, [])
    known = [cell for cell in cells if cell and cell not in UNKNOWN]
    kind = str if words else _kind(known)
    unknown = UNKNOWN if kind is not str else UNKNOWN - _NONE
    read = Counter(cell for cell in cells if cell in unknown and cell not in _USUAL)
    notes = [f"{name}: {_counted(read)} read as unknown"] if read else []
    kept = sorted({cell for cell in cells if cell in _NONE - unknown})
    if kept:
        notes.append(f"{name}: {kept[0]!r} is kept as a class; n/a means unknown")
    if kind is str and not words:
        notes += _odd_cells(name, cells, lines)
    return [None if not cell or cell in unknown else kind(cell) for cell in cells], whole + notes


def _whole_codes(name: str, cells: Sequence[str]) -> tuple[Sequence[str], list[str]]:
    """Return codes without the .0 that spreadsheets add to whole numbers beside empty cells."""
    known = [cell for cell in cells if cell and cell not in UNKNOWN]
    longer = Counter(cell for cell in known if "." in cell)
    if not longer or not all(map(_CODE.fullmatch, known)):
        return cells, []
    note = f"{name}: {_counted(longer)} read as a whole number"
    return [cell.partition(".")[0] if cell in longer else cell for cell in cells], [note]


def _kind(known: Sequence[str]) -> Callable[[str], Any]:
    """Return what makes a value of the cells of a column."""
    if all(map(_WHOLE.fullmatch, known)):
        return int
    if any(re.match(r"[+-]?0\d", cell) for cell in known):  # codes such as 007
        return str
    comma = has_decimal_commas(known)
    if all(number(cell, comma=comma) is not None for cell in known):
        return lambda cell: number(cell, comma=comma)
    if all(cell.lower() in _TRUTH for cell in known):
        return lambda cell: _TRUTH[cell.lower()]
    return str


def _odd_cells(name: str, cells: Sequence[str], lines: Sequence[int]) -> list[str]:
    """Return a note about the few cells that keep a column from being numbers."""
    filled = [(cell, line) for cell, line in zip(cells, lines, strict=True) if cell]
    comma = has_decimal_commas([cell for cell, _ in filled])
    odd = [(cell, line) for cell, line in filled if number(cell, comma=comma) is None]
    if not odd or 2 * len(odd) >= len(filled):
        return []
    where = listed([str(line) for _, line in odd], shown=3)
    found = _counted(Counter(cell for cell, _ in odd))
    return [f"{name}: {found} (line {where}) is no number, so the column is text"]


def _counted(found: Counter[str]) -> str:
    """Return cells in words: `'.' (2 cells), '-' (1 cell)`."""
    words = [f"{cell[:40]!r} ({n} cell{'s' * (n > 1)})" for cell, n in found.most_common()]
    return listed(words, shown=4)


# -- Excel, Parquet --------------------------------------------------------------------------------


def _excel(file: Path, limit: int | None) -> Cells:  # noqa: ARG001
    try:
        import openpyxl
    except ImportError:
        fix = "Install it: pip install semantoks[excel], or save the sheet as .csv"
        raise InputError("reading this file needs openpyxl", file=file, fix=fix) from None
    damage = (KeyError, NotImplementedError)  # parts of the archive are missing, or packed oddly
    with readable(file, fix="Save the sheet as .csv", known=damage):
        book = openpyxl.load_workbook(file, read_only=True, data_only=True)
        sheets = {sheet.title: [*sheet.iter_rows(values_only=True)] for sheet in book.worksheets}
        book.close()
    filled = {title: rows for title, rows in sheets.items() if any(map(any, rows))}
    if len(filled) > 1:
        rule = f"has several sheets: {listed([*filled])}"
        fix = "Save the one that is meant in a file of its own"
        raise InputError(rule, file=file, field="sheet", fix=fix)
    for title, rows in filled.items():
        return _of_values(file, rows, f"sheet {title!r}")
    return Cells(file, [], [], "empty")


def _parquet(file: Path, limit: int | None) -> Cells:  # noqa: ARG001
    with readable(file, known=(KeyError,)):  # entries of its metadata are missing
        frame = pd.read_parquet(file)
    if frame.index.name or frame.index.dtype == object:
        frame = frame.reset_index()
    rows = [tuple(map(str, frame.columns)), *frame.itertuples(index=False, name=None)]
    return _of_values(file, rows, "Parquet")


def _of_values(file: Path, rows: Sequence[Sequence[Any]], read_as: str) -> Cells:
    """Return values as cells of text; whole numbers stay whole."""
    texts = [[_as_text(value) for value in row] for row in rows]
    filled = [i for i, row in enumerate(texts) if any(row)]
    return Cells(file, [texts[i] for i in filled], [i + 1 for i in filled], read_as)


def _as_text(value: Any) -> str:
    plain = value.item() if hasattr(value, "item") else value
    if plain is None or plain is pd.NaT or plain != plain:
        return ""
    if isinstance(plain, float):
        return str(int(plain)) if plain.is_integer() and abs(plain) < 1e15 else repr(plain)
    return str(plain).strip()


#: What reads a table, by the ending of its name.
READERS: dict[str, Callable[[Path, int | None], Cells]] = {
    **dict.fromkeys(text.ENDINGS, text.read_cells),
    ".parquet": _parquet,
    ".xlsx": _excel,
}
#: Endings in words, for help and errors.
KINDS = (*text.TEXTS, ".parquet", ".xlsx")
