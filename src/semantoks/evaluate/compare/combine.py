"""Several evaluations: the same comparison on other data sets, summarised by random effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from semantoks.errors import InputError
from semantoks.evaluate.compare.result import ProbeResult
from semantoks.evaluate.compare.roles import CHANCE
from semantoks.evaluate.stats.heterogeneity import RandomEffects, random_effects

#: What must be the same for a score to mean the same.
_SAME = ("kind", "metric", "classes", "residualise")


@dataclass(frozen=True, eq=False)
class Combined:
    """One number of several data sets: a score, or a difference between two models.

    Parameters
    ----------
    target, model, against, metric : str
        `against` is empty for the score itself.
    chance : float
        The score of knowing nothing; 0 of a difference.
    rows : DataFrame
        Columns result, n (tested people), value, se, ci_low, ci_high.
    summary : RandomEffects or None
        Over data sets; None with fewer than three.
    """

    target: str
    model: str
    against: str
    metric: str
    chance: float
    rows: pd.DataFrame
    summary: RandomEffects | None

    @property
    def p_value(self) -> float:
        """Of the mean over data sets, against chance; NaN without a summary."""
        return float("nan") if self.summary is None else self.summary.p_value_of(self.chance)


def combine(results: Mapping[str, ProbeResult]) -> list[Combined]:
    """Summarise what several evaluations of other people have in common.

    Parameters
    ----------
    results : mapping of str to ProbeResult
        By the name of the data set.

    Returns
    -------
    list of Combined
        Every score and difference of a deciding metric that two results or more have.

    Raises
    ------
    InputError
        If people are in two results, a target is not the same in two results, or nothing is common.
    """
    if len(results) < 2:
        raise InputError("needs two results at least", field="combine", value=[*results])
    for a, b in combinations(results, 2):
        _refuse_shared(a, results[a], b, results[b])
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    targets: dict[str, str] = {}
    for name, result in results.items():
        for target, facts in result.meta["targets"].items():
            first = targets.setdefault(target, name)
            _refuse_other(target, first, results[first].meta["targets"][target], name, facts)
        for row in _rows(name, result):
            found.setdefault((row["target"], row["model"], row["against"]), []).append(row)
    common = [_combined(key, rows) for key, rows in found.items() if len(rows) > 1]
    if not common:
        fix = "Evaluate the same targets and models on every data set"
        raise InputError("nothing is in two results", field="combine", value=[*results], fix=fix)
    return common


def _rows(name: str, result: ProbeResult) -> list[dict[str, Any]]:
    """Return scores and differences of the deciding metrics, but for those of chance."""
    metrics = {target: facts["metric"] for target, facts in result.meta["targets"].items()}
    parts = [result.scores.assign(against=""), result.differences.assign(chance=0.0)]
    people = result.scores.groupby("target")["n_subjects"].max()
    rows = []
    for table in parts:
        table = table[table["metric"] == table["target"].map(metrics)]
        table = table[~table[["model", "against"]].isin([CHANCE]).any(axis=1)]
        rows += [
            {**row, "result": name, "n": int(people[row["target"]])}
            for row in table.to_dict("records")
        ]
    return [{str(key): value for key, value in row.items()} for row in rows]


def _combined(key: tuple[str, str, str], rows: Sequence[Mapping[str, Any]]) -> Combined:
    target, model, against = key
    table = pd.DataFrame(rows)[["result", "n", "value", "se", "ci_low", "ci_high"]]
    chances = {row["chance"] for row in rows}
    return Combined(
        target=target,
        model=model,
        against=against,
        metric=str(rows[0]["metric"]),
        chance=float(chances.pop()) if len(chances) == 1 else float("nan"),
        rows=table,
        summary=random_effects(table["value"].to_numpy(float), table["se"].to_numpy(float)),
    )


def _refuse_shared(a: str, first: ProbeResult, b: str, second: ProbeResult) -> None:
    """Refuse two results of which some people are the same."""
    fix = "Combine results of other people"
    if first.meta["store"]["fingerprint"] == second.meta["store"]["fingerprint"]:
        raise InputError(f"are of one store: {a}, {b}", field="combine", fix=fix)
    known = [result.meta.get("people") for result in (first, second)]
    if None in known:
        name = (a, b)[known.index(None)]
        rule = "does not state its people, whom another result may share"
        fix = "Evaluate it again with this version"
        raise InputError(rule, field="combine", value=name, fix=fix)
    shared = set(first.meta["people"]) & set(second.meta["people"])
    if shared:
        rule = f"{len(shared)} people are in both {a} and {b}, which count as independent"
        raise InputError(rule, field="combine", fix=fix)


def _refuse_other(
    target: str, a: str, first: Mapping[str, Any], b: str, second: Mapping[str, Any]
) -> None:
    """Refuse a target of which scores mean something else in two results."""
    for what in _SAME:
        mine, yours = first.get(what) or None, second.get(what) or None
        if mine != yours:
            raise InputError(
                f"{what} of {target} must be the same: {mine} in {a}, {yours} in {b}",
                field="combine",
                fix="Evaluate one of them again, e.g. with --target COLUMN:KIND or --metric",
            )


def combined_table(found: Sequence[Combined]) -> pd.DataFrame:
    """Return one row per number: the mean over data sets and how they differ.

    Parameters
    ----------
    found : sequence of Combined

    Returns
    -------
    DataFrame
        Columns target, model, against, metric, n_results, n (people), value, ci_low, ci_high,
        p_value, tau, i2; the last six are NaN with fewer than three data sets.
    """
    rows = []
    for one in found:
        row: dict[str, Any] = {"target": one.target, "model": one.model, "against": one.against}
        row |= {"metric": one.metric, "n_results": len(one.rows), "n": int(one.rows["n"].sum())}
        names = {"value": "mean"} | {name: name for name in ("ci_low", "ci_high", "tau", "i2")}
        row |= {key: getattr(one.summary, name, np.nan) for key, name in names.items()}
        rows.append({**row, "p_value": one.p_value})
    return pd.DataFrame(rows)
