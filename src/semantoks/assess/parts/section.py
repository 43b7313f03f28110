"""What a section of the report is made of; `semantoks.report` turns it into HTML."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from semantoks.figures.picture import Picture

CellKind = Literal["text", "number", "estimate", "range", "p", "verdict", "flag"]


@dataclass(frozen=True)
class Column:
    """A column of a `Table`.

    Parameters
    ----------
    head : str
    kind : {"text", "number", "estimate", "range", "p", "verdict", "flag"}
        What its cells are: text; a number; a mapping with value, ci_low, ci_high and, if there is
        more to tell, note; the same without a value; a p-value; better, worse or no significant
        difference; a mapping with text and flagged, whether it is a reason for doubt.
    form : str
        Format of numbers.
    """

    head: str
    kind: CellKind = "text"
    form: str = ".2f"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table, which the reader can download; the first cell of a row names the row.

    Parameters
    ----------
    columns : sequence of Column
    rows : sequence of sequence
        Cells, one per column.
    caption : str
    fold : {"", "open", "closed"}
        Whether the reader can fold the table under its caption, and how it begins.
    """

    block: ClassVar[str] = "table"
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    caption: str
    fold: Literal["", "open", "closed"] = ""


@dataclass(frozen=True)
class Pictures:
    """Figures, as many next to each other as fit, two of them, or each as wide as the page.

    The note, in small type, stands next to them if there is room.
    """

    block: ClassVar[str] = "pictures"
    pictures: Sequence[Picture]
    size: Literal["small", "half", "wide"] = "small"
    note: str = ""


@dataclass(frozen=True)
class Text:
    """A paragraph in small type: what a reader must know to read a table or a figure."""

    block: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Heading:
    """A heading below that of the section."""

    block: ClassVar[str] = "heading"
    text: str


@dataclass(frozen=True)
class Warnings:
    """Boxes coloured by severity, or one that says that there are none.

    Parameters
    ----------
    rows : sequence of (severity, what, found)
    none : str
        What is written where there are no rows.
    """

    block: ClassVar[str] = "warnings"
    rows: Sequence[tuple[str, str, str]]
    none: str


SectionBlock = Table | Pictures | Text | Heading | Warnings


@dataclass(frozen=True)
class Section:
    """A title (empty: none) and what stands below it."""

    title: str
    blocks: Sequence[SectionBlock]
