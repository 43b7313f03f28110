"""Cells of tables as HTML, and whole tables as downloads."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Mapping
from typing import Any

import pandas as pd
from markupsafe import Markup

from semantoks.assess.parts.section import Column, Table

#: Columns whose cells stand at the right.
NUMERIC = frozenset({"number", "estimate", "range", "p"})
_PARTS = {"estimate": ("value", "ci_low", "ci_high"), "range": ("ci_low", "ci_high")}


def cell(value: Any, column: Column) -> Markup:
    """Return a ``<td>`` of a `Table`."""
    if column.kind in _PARTS:
        return _estimate(value, column)
    if column.kind == "number":
        return Markup('<td class="number">{}</td>').format(number(value, column.form))
    if column.kind == "p":
        return Markup('<td class="number">{}</td>').format(p_value(value))
    if column.kind == "verdict":
        decided = " decided" if value in ("better", "worse") else ""
        return Markup('<td class="verdict{}">{}</td>').format(decided, value)
    if column.kind == "flag":
        flagged = Markup(' class="warn"') if value["flagged"] else ""
        return Markup("<td{}>{}</td>").format(flagged, value["text"])
    return Markup("<td>{}</td>").format(value)


def _estimate(value: Mapping[str, Any], column: Column) -> Markup:
    """Return a number with its interval, where it has one, or the interval alone."""
    low, high = (number(value[name], column.form) for name in ("ci_low", "ci_high"))
    inside = Markup(number(value["value"], column.form) if column.kind == "estimate" else "")
    if low != "–":
        inside += Markup(" <span>[{}, {}]</span>").format(low, high)
    if value.get("note"):
        inside += Markup("<small>{}</small>").format(value["note"])
    return Markup('<td class="number">{}</td>').format(inside)


def number(value: float, form: str = ".3f") -> str:
    """Return a number with a typographic minus sign; a dash for NaN."""
    if math.isnan(value):
        return "–"
    text = format(value, form)
    if not any(digit in text for digit in "123456789"):
        text = text.replace("-", "")  # no "-0.000"
    return text.replace("-", "−")


def minus(text: str) -> str:
    """Return a text with typographic minus signs before its numbers."""
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text)


def p_value(value: float) -> str:
    """Return a p-value with two significant digits; a dash where there was no test."""
    if math.isnan(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def download(table: Table) -> Markup:
    """Return a link that saves the table as tab-separated values, without a server or a script."""
    text = _frame(table).to_csv(sep="\t", index=False, lineterminator="\n")
    data = base64.b64encode(text.encode()).decode()
    name = re.sub(r"[^a-z0-9]+", "-", table.caption.lower()).strip("-")[:40].rstrip("-")
    return Markup(
        '<a class="download" download="{}.tsv" title="Download this table as tab-separated values" '
        'href="data:text/tab-separated-values;charset=utf-8;base64,{}">TSV</a>'
    ).format(name or "table", data)


def _frame(table: Table) -> pd.DataFrame:
    """Return the table with numbers as they are: an estimate takes three columns, or four."""
    columns: list[pd.Series] = []
    for i, column in enumerate(table.columns):
        cells = [row[i] for row in table.rows]
        if column.kind in _PARTS:
            names = _PARTS[column.kind]
            for name in (*names, *["note"] * any(cell.get("note") for cell in cells)):
                head = column.head if name == "value" else f"{column.head}, {name}"
                columns.append(pd.Series([cell.get(name, "") for cell in cells], name=head))
        else:
            flat = [cell["text"] for cell in cells] if column.kind == "flag" else cells
            columns.append(pd.Series(flat, name=column.head, dtype=object))
    return pd.concat(columns, axis=1) if columns else pd.DataFrame()
