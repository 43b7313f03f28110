"""Scores of every site, and differences between models there: what a forest plot shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from semantoks.evaluate.compare.prediction import Task
from semantoks.evaluate.compare.roles import CHANCE
from semantoks.evaluate.compare.scoring import Outcomes, score_models
from semantoks.evaluate.stats.metrics import Metric, ordered_metrics

SITE_COLUMNS = ["target", "model", "against", "metric", "site", "n", "value", "se"]


def site_scores(
    predictions: pd.DataFrame, tasks: Sequence[Task], against: Sequence[str], chosen: Sequence[str]
) -> pd.DataFrame:
    """Return the deciding metric of every site, and the paired differences.

    Standard errors are over the people of the site, for the models as they were fitted.

    Parameters
    ----------
    predictions : DataFrame
        See `ProbeResult`.
    tasks : sequence of Task
    against : sequence of str
    chosen : sequence of str
        See `ordered_metrics`.

    Returns
    -------
    DataFrame
        Columns target, model, against (empty for the score itself), metric, site, n (tested
        units), value, se. Empty where fewer than two sites are known. A site of which the metric
        is not known is left out.
    """
    rows: list[dict[str, Any]] = []
    for task in tasks:
        of_target = predictions[predictions["target"] == task.target.name]
        classes = None if task.classes is None else task.classes.tolist()
        outcomes = Outcomes.of(of_target, task.kind, classes)
        if (outcomes.sites == "").any() or len(set(outcomes.sites)) < 2:
            continue
        name, metric = next(iter(ordered_metrics(task.kind, chosen).items()))
        base = {"target": task.target.name}
        rows += [base | row for row in _of_sites(outcomes, name, metric, against)]
    return pd.DataFrame(rows, columns=SITE_COLUMNS)


def _of_sites(
    outcomes: Outcomes, name: str, metric: Metric, against: Sequence[str]
) -> Iterator[dict[str, Any]]:
    for site in np.unique(outcomes.sites):
        at = np.flatnonzero(outcomes.sites == site)
        scores, gaps = score_models(outcomes.part(at), against, CHANCE, {name: metric})
        for row in [*({**score, "against": ""} for score in scores), *gaps]:
            if CHANCE not in (row["model"], row["against"]) and not np.isnan(row["value"]):
                of_row = {key: row[key] for key in ("model", "against", "metric", "value", "se")}
                yield of_row | {"site": str(site), "n": len(at)}
