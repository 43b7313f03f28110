"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd
from rich.markup import escape
from rich.table import Table

from semantoks.config import Key


def listing(facts: Mapping[str, object]) -> Table:
    """Return names and values below each other."""
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(f"[bold]{escape(name)}[/bold]", escape(str(value)))
    return table


def score_table(scores: pd.DataFrame) -> Table:
    """Return the scores of a `ProbeResult`, one row per target and model, with 95 % intervals."""
    metrics = list(dict.fromkeys(scores["metric"]))
    table = Table(title="Scores with 95 % intervals over subjects")
    for name in ("target", "model", *metrics):
        table.add_column(name, justify="left" if name in ("target", "model") else "right")
    for target, block in scores.groupby("target", sort=False):
        for model, rows in block.groupby("model", sort=False):
            cells = {row["metric"]: _score(row) for _, row in rows.iterrows()}
            table.add_row(
                escape(str(target)), escape(str(model)), *(cells.get(m, "") for m in metrics)
            )
        table.add_section()
    return table


def _score(row: pd.Series) -> str:
    if pd.isna(row["ci_low"]):
        return f"{row['value']:.3f}"
    return f"{row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"


def key_table(keys: Iterable[Key]) -> Table:
    """Return every key of a configuration with its value, type and documentation."""
    table = Table(show_lines=False, pad_edge=False)
    for name in ("key", "value", "type", "meaning"):
        table.add_column(name, overflow="fold", no_wrap=name == "key")
    for key in keys:
        value = "null" if key.default is None else str(key.default)
        table.add_row(key.path, escape(value), escape(key.type), escape(key.doc))
    return table
