"""Text tables as programs and people write them: encodings, separators, comments, row numbers."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import pandas as pd

from semantoks.errors import InputError

#: Endings of text tables, each perhaps followed by .gz, and the separator to be expected.
TEXTS = {".tsv": "\t", ".csv": ",", ".txt": "\t", ".1D": "\t"}
ENDINGS = tuple(ending + packed for ending in TEXTS for packed in ("", ".gz"))
_BLANKS = r"\s+"
_ENCODINGS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16", b"\xef\xbb\xbf": "utf-8-sig"}


def is_text(file: Path) -> bool:
    """Return whether the name of a file ends as one of a text table does."""
    return file.name.endswith(ENDINGS)


def read_lines(file: Path, limit: int | None = None) -> list[str]:
    """Return the lines that are not blank, of UTF-8, UTF-16 or Latin-1, packed or not.

    Parameters
    ----------
    file : path
    limit : int, optional
        Read this many bytes at most; a line that is cut then is the last.

    Raises
    ------
    InputError
        The file cannot be read.
    """
    try:
        with gzip.open(file) if file.name.endswith(".gz") else file.open("rb") as stream:
            content = stream.read(-1 if limit is None else limit)
        encoding = _ENCODINGS.get(content[:2], _ENCODINGS.get(content[:3], "utf-8"))
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            # Latin-1 decodes every byte; binary files are told by their zeros.
            if b"\0" in content:
                raise
            text = content.decode("latin-1")
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"is not a table that can be read ({error})", file=file) from None
    return [
        line for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line.strip()
    ]


def separator_of(line: str, file: Path) -> str:
    """Return what separates the cells of a line: by the ending, else what it contains."""
    ending = next(ending for ending in TEXTS if ending in file.suffixes[-2:])
    for separator in (TEXTS[ending], "\t", ";", ","):
        if separator in line:
            return separator
    numbers = all(map(is_number, line.split()))
    return _BLANKS if numbers or ending in (".1D", ".txt") else TEXTS[ending]


def cells_of(line: str, separator: str) -> list[str]:
    """Return the cells of a line without blanks, quotes and the # of a header."""
    cells = line.split() if separator == _BLANKS else line.split(separator)
    return [cell.strip().strip('"').strip().removeprefix("#").strip() for cell in cells]


def without_comments(lines: list[str], file: Path) -> list[str]:
    """Return the lines without the comments before the table; a header may begin with #."""
    first = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    if 0 < first < len(lines):
        separator = separator_of(lines[first], file)
        width = len(cells_of(lines[first], separator))
        header = len(cells_of(lines[first - 1], separator)) == width
        return lines[first - 1 :] if header else lines[first:]
    return lines


def to_frame(lines: list[str], separator: str, **options: Any) -> pd.DataFrame:
    """Return lines as a frame; numbers have a comma where semicolons separate them."""
    comma = separator == ";" and bool(lines) and "," in lines[-1] and "." not in lines[-1]
    frame: pd.DataFrame = pd.read_csv(
        io.StringIO("\n".join(lines)), sep=separator, decimal="," if comma else ".", **options
    )
    return frame


def read_table(file: Path, **options: Any) -> pd.DataFrame:
    """Return a table with a header; names and cells without the blanks around them.

    Raises
    ------
    InputError
        The file cannot be read.
    """
    lines = without_comments(read_lines(file), file)
    try:
        separator = separator_of(lines[0], file) if lines else ","
        frame = to_frame(lines, separator, skipinitialspace=True, **options)
    except (ValueError, IndexError) as error:
        raise InputError(f"is not a table that can be read ({error})", file=file) from None
    frame.columns = frame.columns.astype(str).str.strip()
    for name in frame.columns[[*map(pd.api.types.is_string_dtype, frame.dtypes)]]:
        frame[name] = frame[name].str.strip()
    return frame


def is_number(text: str) -> bool:
    """Return whether a cell is a number, or says that one is missing."""
    try:
        float(text)
    except ValueError:
        return text.lower() == "n/a"
    return True
