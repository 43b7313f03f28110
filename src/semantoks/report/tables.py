"""Tables for the terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import isnan
from textwrap import fill

import pandas as pd
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from semantoks.config import ConfigKey, plain

#: Metrics of a table: as many as a terminal of 80 columns holds.
_METRICS = 2


def listing(facts: Mapping[str, object]) -> Table:
    """Return names and values below each other."""
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(f"[bold]{escape(name)}[/bold]", escape(str(value)))
    return table


def score_tables(scores: pd.DataFrame) -> Group:
    """Return one table per target of a `ProbeResult`: models, first metrics and 95 % intervals."""
    tables = []
    for target, block in scores.groupby("target", sort=False):
        n = block["n_subjects"].iloc[0]
        title = f"{escape(str(target))}, {n} tested people, 95 % intervals"
        table = Table(title=f"\n{title}", title_justify="left", box=None, padding=(0, 2, 0, 0))
        table.pad_edge = False
        table.add_column("model", no_wrap=True)
        metrics = list(dict.fromkeys(block["metric"]))[:_METRICS]
        for metric in metrics:
            table.add_column(str(metric), justify="right", no_wrap=True)
        shown = block[block["metric"].isin(metrics)]
        for model, rows in shown.groupby("model", sort=False):
            ends = zip(rows["value"], rows["ci_low"], rows["ci_high"], strict=True)
            cells = (_estimate(*three) for three in ends)
            table.add_row(escape(str(model)), *(escape(cell) for cell in cells))
        tables.append(table)
    return Group(*tables)


def _estimate(value: float, low: float, high: float) -> str:
    """Return a score with its interval, where it has one."""
    if isnan(value):
        return "-"
    return f"{value:.2f}" if isnan(low) else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def key_lines(keys: Iterable[ConfigKey]) -> str:
    """Return every key of a configuration with its value, type and documentation, as text."""
    entries = []
    for key in keys:
        value = json.dumps(plain(key.default))
        meaning = fill(key.doc, 88, initial_indent="    ", subsequent_indent="    ")
        entries.append(f"{key.path} = {value}  ({key.type})\n{meaning}")
    return "\n".join(entries)
