"""Text tables as programs and people write them: encodings, separators, quotes, comments.

1. Bytes become text: packed or not, UTF-8, UTF-16 or Windows-1252 (which holds Latin-1).
2. Lines become rows of cells by the separator that divides them alike; comments are left out.
3. What was understood is kept in words, and every row knows its line, for messages.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from semantoks.errors import InputError

#: Endings of text tables, each perhaps followed by .gz.
TEXTS = (".tsv", ".csv", ".txt", ".1D")
ENDINGS = tuple(ending + packed for ending in TEXTS for packed in ("", ".gz"))
#: Cells that mean "unknown", beside the empty one: as pandas, R, SPSS, SAS and people write it.
UNKNOWN = frozenset(
    (
        *("n/a", "N/A", "NA", "<NA>", "#N/A", "#NA", "NaN", "nan", "NAN", "-NaN", "-nan"),
        *("null", "NULL", "None", "none", ".", "-", "--", "?"),
        *("-9999", "-9999.0", "-999", "-999.0", "1.#QNAN", "-1.#QNAN", "1.#IND", "-1.#IND"),
    )
)
_SEPARATORS = {"\t": "tabs", ";": "semicolons", ",": "commas", " ": "blanks"}
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_ENCODINGS = {"utf-8": "UTF-8", "utf-8-sig": "UTF-8", "cp1252": "Latin-1", "latin-1": "Latin-1"}
_LABELS = re.compile(r'#\s*ColumnLabels\s*=\s*"([^"]*)"')  # AFNI's .1D
_HINT = re.compile(r"sep=(.)\s*", re.IGNORECASE)
_COMMENT = ("#", "%")
_VALUE = re.compile(r"#\d+[\t;,]")  # a ROI by its value in the image, as C-PAC names it
_SAMPLE = 50  # lines from which the separator is told


@dataclass(frozen=True, eq=False)
class Cells:
    """A text table as cells, before they are taken for names, numbers or categories.

    Parameters
    ----------
    file : Path
    rows : list of list of str
        Cells without the blanks and quotes around them; rows may differ in length.
    lines : list of int
        Number of the line of every row, from 1.
    read_as : str
        What was understood, in words.
    """

    file: Path
    rows: list[list[str]] = field(repr=False)
    lines: list[int] = field(repr=False)
    read_as: str

    @property
    def width(self) -> int:
        """Number of cells that most rows have."""
        counts = Counter(map(len, self.rows))
        return max(counts, key=lambda n: (counts[n], n)) if counts else 0

    def without(self, n: int) -> Cells:
        """Return the cells without the first rows."""
        return replace(self, rows=self.rows[n:], lines=self.lines[n:])


def is_text(file: Path) -> bool:
    """Return whether the name of a file ends as one of a text table does."""
    return file.name.endswith(ENDINGS)


def read_cells(file: Path, limit: int | None = None) -> Cells:
    """Return the cells of a text table.

    Parameters
    ----------
    file : path
    limit : int, optional
        Read this many bytes at most; a line that is cut then is left out.

    Raises
    ------
    InputError
        The file cannot be read, or holds no text.
    """
    text, encoding = read_text(file, limit)
    lines = text.split("\n")
    hint = _HINT.fullmatch(lines[0])  # as spreadsheets write it
    numbered = [(i, line) for i, line in enumerate(lines, 1) if line.strip()][bool(hint) :]
    comment, body, n_comments = _comments(numbered)
    labels = [(i, m[1]) for i, line in numbered if (m := _LABELS.match(line.strip()))]
    content = [line for _, line in body]
    separator = hint[1] if hint else separator_of(content, file)
    try:
        rows, places = _split(content, separator)
    except csv.Error as error:
        raise InputError(f"is not a table that can be read ({error})", file=file) from None
    numbers = [body[place][0] for place in places]
    names = _names_in(comment[1], separator, {len(row) for row in rows}) if comment else []
    # A sentence may have as many words as the header below it.
    headed = (
        separator == " "
        and rows
        and all(not cell or number(cell, comma=True) is None for cell in rows[0])
    )
    if comment and names and not headed:
        rows, numbers, n_comments = [names, *rows], [comment[0], *numbers], n_comments - 1
    elif labels and labels[0][1].count(";") + 1 in {len(row) for row in rows}:
        rows = [[cell.strip() for cell in labels[0][1].split(";")], *rows]
        numbers = [labels[0][0], *numbers]
    words = [_ENCODINGS.get(encoding, encoding.upper())]
    words += [f"separated by {_SEPARATORS.get(separator, repr(separator))}"]
    words += [f"{n_comments} comment lines left out"] if n_comments else []
    return Cells(file, _trimmed(rows), numbers, ", ".join(words))


def read_text(file: Path, limit: int | None = None) -> tuple[str, str]:
    """Return the text of a file, its lines ended by line feeds, and its encoding.

    Raises
    ------
    InputError
        The file cannot be read, or holds no text.
    """
    try:
        with file.open("rb") as stream:
            packed = stream.read(2) == b"\x1f\x8b"
        with gzip.open(file) if packed else file.open("rb") as stream:
            content = stream.read(-1 if limit is None else limit)
        encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), "")
        text = ""
        for name in (encoding,) if encoding else _likely(content):
            try:
                decoder = codecs.getincrementaldecoder(name)()
                text, encoding = decoder.decode(content, final=limit is None), name
                break
            except UnicodeDecodeError:
                if encoding:
                    raise
        if "\0" in text:
            raise ValueError("it holds zero bytes")
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(f"is not a table that can be read ({error})", file=file) from None
    text = text.replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")
    cut = len(content) == limit and "\n" in text
    return (text[: text.rindex("\n")] if cut else text), encoding


def _likely(content: bytes) -> tuple[str, ...]:
    """Return the encodings to try on bytes without a mark; the last decodes all bytes."""
    half = content[: 2 * (len(content) // 2)][:2000]
    for name, start in (("utf-16-le", 1), ("utf-16-be", 0)):
        zeros = half[start::2].count(0)
        if zeros > len(half) // 4 and not half[1 - start :: 2].count(0):
            return (name,)
    return ("utf-8", "cp1252", "latin-1")


def _comments(
    lines: list[tuple[int, str]],
) -> tuple[tuple[int, str] | None, list[tuple[int, str]], int]:
    """Return the comment before the table, which may be its header; the table; all comments."""
    first = next((i for i, line in lines if not line.lstrip().startswith(_COMMENT)), None)
    if first is None:  # a table of # and nothing else is one
        return None, lines, 0
    body = [
        (i, line)
        for i, line in lines
        if not line.lstrip().startswith(_COMMENT) or (i > first and _VALUE.match(line))
    ]
    before = [pair for pair in lines if pair[0] < first]
    return (before[-1] if before else None), body, len(lines) - len(body)


def _names_in(comment: str, separator: str, widths: set[int]) -> list[str]:
    """Return the names in a comment before the table, [] if they are not one per column."""
    for mark in dict.fromkeys((separator, "\t", ",", ";")):
        (cells,), _ = _split([comment.strip()], mark)
        if len(cells) < 2 or not all(cell.startswith("#") for cell in cells):
            (cells,), _ = _split([comment.strip().lstrip("#%").strip() or "#"], mark)
        if (
            len(cells) > 1 and {len(cells), len(cells) + 1} & widths
        ):  # R and pandas do not name row numbers
            return cells
    return []


def _trimmed(rows: list[list[str]]) -> list[list[str]]:
    """Return rows without the empty cells that separators at the ends of lines leave."""
    width = max(map(len, rows), default=0)
    while width > 1 and not any(len(row) >= width and row[width - 1] for row in rows):
        width -= 1
    first = int(width > 1 and not any(row[0] for row in rows))
    return [row[first:width] for row in rows]


def separator_of(lines: Sequence[str], file: Path) -> str:
    """Return what separates the cells of lines: what divides them into equally many.

    Blanks do in files of numbers, and in .1D and .txt files.
    """
    sample = lines[:_SAMPLE]
    found, alike = "\t", 0.0
    for separator in ("\t", ";", ","):
        rows, _ = _split(sample, separator)
        width, n = Counter(map(len, rows)).most_common(1)[0] if rows else (0, 0)
        if width < 2 or (width == 2 and len(rows[0]) < 2):  # commas of sentences, of decimals
            continue
        torn = any(cell.count('"') % 2 for row in rows for cell in row)  # divided within quotes
        if n > alike and not torn and not any(map(_is_row, rows[-1])):
            found, alike = separator, n
    if alike or not sample:
        return found
    (last,), _ = _split(sample[-1:], " ")
    numbers = all(number(cell, comma=True) is not None for cell in last)
    blanks = numbers or any(file.name.endswith(end) for end in (".1D", ".txt", ".1D.gz", ".txt.gz"))
    return " " if blanks else found


def _is_row(cell: str) -> bool:
    """Return whether a cell is a row of numbers itself: it was divided at its decimal commas."""
    parts = cell.split()
    return len(parts) > 1 and all(number(part) is not None for part in parts)


def _split(lines: Sequence[str], separator: str) -> tuple[list[list[str]], list[int]]:
    """Return rows of cells, and the place of the line in which each begins."""
    blanks = separator == " "
    texts = [" ".join(line.split()) if blanks else line for line in lines]
    first = texts[0].strip() if texts else ""
    quote = "'" if first[:1] == first[-1:] == "'" else '"'
    reader = csv.reader(
        (text + "\n" for text in texts),
        delimiter=separator,
        quotechar=quote,
        skipinitialspace=True,
    )
    rows, places, begin = [], [], 0
    for cells in reader:
        rows.append([cell.strip() for cell in cells])
        places.append(begin)
        begin = reader.line_num
    filled = [i for i, row in enumerate(rows) if any(row)]  # rows of separators alone are blank
    return [rows[i] for i in filled], [places[i] for i in filled]


def number(cell: str, *, comma: bool = False) -> float | None:
    """Return the number that a cell holds; None for another text, NaN for an unknown one.

    Parameters
    ----------
    cell : str
    comma : bool
        Whether numbers have a decimal comma.
    """
    if not cell or cell in UNKNOWN:
        return float("nan")
    text = cell.replace(",", ".", 1) if comma and "." not in cell else cell
    if text[-1:] not in "0123456789." or "_" in text:
        return None
    try:
        return float(text.replace("\u2212", "-"))
    except ValueError:
        return None


def has_decimal_commas(cells: Sequence[str]) -> bool:
    """Return whether the numbers among cells are written with a decimal comma."""
    known = [cell for cell in cells if cell and cell not in UNKNOWN]
    if any(number(cell) is not None and "." in cell for cell in known):
        return False
    return any(number(cell) is None and number(cell, comma=True) is not None for cell in known)
