"""Scores within sites, TRs and thirds of motion."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pandas as pd

from semantoks.assess.parts.base import Found, Question, Work
from semantoks.assess.parts.section import Column, Section, Table, Text
from semantoks.errors import InputError
from semantoks.evaluate.checks.subgroups import subgroup_scores
from semantoks.evaluate.compare.roles import role

_COLUMNS = {"site": "site", "source_tr": "TR of the scanner, s", "mean_fd": "motion (mean FD)"}
_SHOWN = ("model", "random", "connectivity")


def compute(work: Work) -> Found:
    """Score every model within the groups of each column."""
    table = work.store.table
    columns = [c for c in _COLUMNS if c in table and table[c].nunique() > 1]
    if not columns:
        rule = "no site, TR or motion that varies is known of these recordings"
        raise InputError(rule, field="subgroups")
    parts = [subgroup_scores(work.comparison, table, column) for column in columns]
    return Found({"scores": pd.concat(parts, ignore_index=True)})


def sentence(_: Found) -> str:
    """Return the part's sentence in the methods paragraph."""
    return (
        "From the same predictions we computed scores within sites, TRs and thirds of head motion."
    )


def show(found: Found) -> Section:
    """Return a table per target and column: groups down, models across."""
    scores = found.tables["scores"]
    scores = scores[scores["model"].map(role).isin(_SHOWN)]
    tables: list[Table] = []
    for (target, column), rows in scores.groupby(["target", "column"], sort=False):
        metric = str(rows["metric"].iloc[0])
        rows = rows[rows["metric"] == metric]
        models = list(dict.fromkeys(rows["model"]))
        groups: dict[Hashable, dict[str, Any]] = {}
        for row in rows.to_dict("records"):
            groups.setdefault(row["group"], {})[row["model"]] = row
        tables.append(
            Table(
                caption=f"{target}: {metric} by {_COLUMNS[str(column)]}",
                columns=[
                    Column(_COLUMNS[str(column)]),
                    Column("people", "number", "d"),
                    *(Column(model, "estimate") for model in models),
                ],
                rows=[
                    [group, cells[models[0]]["n_subjects"], *(cells[m] for m in models)]
                    for group, cells in groups.items()
                ],
                fold="closed",
            )
        )
    note = Text(
        "Computed from the same predictions. Knowing the site does not help within a site. Groups "
        "without one of the classes, or of fewer than 3 people, have no score."
    )
    return Section("Scores within groups", [note, *tables])


QUESTION = Question(compute=compute, sentence=sentence, show=show)
