"""What inner folds decided: the strength of the penalty and the threshold."""

from __future__ import annotations

from typing import Any

import numpy as np

from semantoks.assess.parts.section import Column, Table
from semantoks.evaluate.compare.result import ProbeResult
from semantoks.evaluate.compare.roles import CHANCE


def choice_table(result: ProbeResult, target: str) -> Table | None:
    """Return the strengths and thresholds of every model over folds, folded.

    None if no linear model was fitted.
    """
    rows = result.choices
    rows = rows[(rows["target"] == target) & (rows["size"] == 0) & (rows["model"] != CHANCE)]
    if rows.empty:
        return None
    classes = result.meta["targets"][target]["classes"] or []
    two = len(classes) == 2
    table = []
    for model, of_model in rows.groupby("model", sort=False):
        ends = [(min(grid), max(grid)) for grid in of_model["strengths"]]
        at_end = [s in end for s, end in zip(of_model["strength"], ends, strict=True)]
        row = [model, _spread(of_model["strength"]), float(np.mean(at_end))]
        if two:
            row.append(_spread([limits[1] for limits in of_model["thresholds"]]))
        table.append(row)
    threshold = [Column(f"threshold for {classes[1]}", "estimate", ".2f")] if two else []
    return Table(
        caption=f"{target}: strengths of the penalty{' and thresholds' if two else ''} chosen in "
        "the folds, median [smallest, largest]",
        columns=[
            Column("model"),
            Column("strength", "estimate", ".2g"),
            Column("folds at an end of the grid", "number", ".0%"),
            *threshold,
        ],
        rows=table,
        fold="closed",
    )


def _spread(values: Any) -> dict[str, float]:
    numbers = np.asarray(values, np.float64)
    ends = {"ci_low": float(numbers.min()), "ci_high": float(numbers.max())}
    return {"value": float(np.median(numbers)), **ends}
