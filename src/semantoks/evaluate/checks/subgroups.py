"""Scores within sites, TRs, or people who moved alike: where a score comes from, and where it ends.

A score over all people can be the work of one site, or of distinguishing sites. Within a site,
nothing is to be had from knowing the site.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.errors import InputError, nearest
from semantoks.evaluate.compare.result import ProbeResult
from semantoks.evaluate.compare.roles import CHANCE
from semantoks.evaluate.compare.scoring import Outcomes, score_models
from semantoks.evaluate.stats.metrics import METRICS

_FEW = 10  # different numbers: TRs are groups, motion is cut into thirds
_FEWEST = 3  # people in whom a correlation can be other than 1
_THIRDS = ("lowest third", "middle third", "highest third")
SEVERAL = "several"


def subgroup_scores(result: ProbeResult, table: pd.DataFrame, column: str) -> pd.DataFrame:
    """Score every model within every group of people, from the predictions of an evaluation.

    Parameters
    ----------
    result : ProbeResult
    table : DataFrame
        Table of the store that was evaluated on: columns ``subject`` and ``id``.
    column : str
        What groups: site, source_tr, sex, mean_fd. Numbers of more than 10 values are cut into
        thirds of the people tested; a person with several values is in the group "several".

    Returns
    -------
    DataFrame
        One row per target, group, model and metric: target, column, group, model, metric, value,
        ci_low, ci_high (over the people of the group), n_subjects, n_tested. NaN where a class is
        absent from the group, or there are fewer than 3 people.

    Raises
    ------
    InputError
        The column is unknown, or a tested person is not in the table.
    """
    if column not in table.columns:
        fix = nearest(column, map(str, table.columns))
        raise InputError("is no column of the table", field="column", value=column, fix=fix)
    key = "id" if result.meta["design"]["unit"] == "recording" else "subject"
    rows: list[dict[str, Any]] = []
    for target, facts in result.meta["targets"].items():
        predictions = result.predictions[result.predictions["target"] == target]
        tested = Outcomes.of(predictions, facts["kind"], facts["classes"])
        units = np.sort(predictions["unit"].astype(str).unique())
        groups = _groups(table, key, column, units)
        for group in dict.fromkeys(sorted(groups, key=_by_number)):
            inside = np.flatnonzero(groups == group)
            part = tested.part(inside)
            who = {"target": target, "column": column, "group": group}
            counts = {"n_subjects": len(set(part.subjects)), "n_tested": len(inside)}
            rows += [who | scores | counts for scores in _scores(part, facts["classes"])]
    return pd.DataFrame(rows)


def _groups(
    table: pd.DataFrame, key: str, column: str, units: NDArray[np.str_]
) -> NDArray[np.str_]:
    """Return the group of every tested unit; "unknown" where there is no value."""
    names = table[key].astype(str)
    missing = sorted(set(units.tolist()) - set(names))
    if missing:
        rule = f"{len(missing)} tested people are not in the table: is it that of another store?"
        raise InputError(rule, field=key, value=missing[0])
    values = table[column]
    if pd.api.types.is_numeric_dtype(values) and values.dtype != bool and values.nunique() > _FEW:
        mean = values.groupby(names).mean().reindex(units)
        thirds = pd.cut(mean.rank(pct=True), [0, 1 / 3, 2 / 3, 1], labels=_THIRDS)
        return thirds.astype(object).where(mean.notna(), "unknown").to_numpy(str)
    text = values.astype(str).where(values.notna(), "unknown")
    per_unit = text.groupby(names)
    one = per_unit.first().where(per_unit.nunique() == 1, SEVERAL)
    return one.reindex(units).to_numpy(str)


def _by_number(group: str) -> tuple[int, float, str]:
    """Order numbers by size, thirds from low to high, then text."""
    if group in _THIRDS:
        return 0, _THIRDS.index(group), ""
    try:
        return 0, float(group), ""
    except ValueError:
        return 1, 0.0, group


def _scores(part: Outcomes, classes: list[str] | None) -> list[dict[str, Any]]:
    few = len(set(part.subjects)) < _FEWEST
    if few or (classes is not None and len(set(part.y.tolist())) < len(classes)):
        unknown = {"value": np.nan, "ci_low": np.nan, "ci_high": np.nan}
        return [
            {"model": model, "metric": metric, **unknown}
            for metric in METRICS[part.kind]
            for model in part.predicted
        ]
    kept = ("model", "metric", "value", "ci_low", "ci_high")
    scores, _ = score_models(part, (), CHANCE, verdict=False)
    return [{key: row[key] for key in kept} for row in scores]
