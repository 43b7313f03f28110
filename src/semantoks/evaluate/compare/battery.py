"""A battery of targets: one test per pair of models, over all targets together.

Holm's adjustment answers on which targets two models differ. Whether one is better over the battery
is another question, which many small differences of one sign can answer and no single one does.

The statistic is the mean over targets of the difference, each divided by its root mean square over
units. So no unit of measurement and no single target decides: a standardised difference lies
between -1 and 1. Its variance is the jackknife of single scores, with every unit left out of all
targets at once: however targets correlate, that is in it, since the people are the same. Adding
p-values (Fisher 1932) would take correlated targets for independent ones, and rules that hold under
any correlation (harmonic mean, Cauchy) give no estimate, whose sign and interval a reader needs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from semantoks.arrays import Array
from semantoks.evaluate.compare.cohort import Cohort
from semantoks.evaluate.compare.prediction import Task
from semantoks.evaluate.compare.roles import CHANCE, SEEDED, role
from semantoks.evaluate.compare.scoring import (
    UNDECIDED,
    ModelScore,
    Outcomes,
    compared,
    numbers_of,
)
from semantoks.evaluate.stats.inference import ALPHA, Inference, Jackknife, holm, inference_blocks
from semantoks.evaluate.stats.metrics import Codes, Metric

BATTERY_COLUMNS = ["model", "against", "n_targets", "n_better", "value", "se", "df"]
BATTERY_COLUMNS += ["ci_low", "ci_high", "detectable", "p_value", "p_holm", "verdict"]


def share_blocks(cohort: Cohort, tasks: Sequence[Task], seed: int) -> list[Task]:
    """Return the tasks with the same people in the same block for all targets.

    Blocks of many people are alike in the classes of all targets, then in the numbers of the first.

    Parameters
    ----------
    cohort : Cohort
    tasks : sequence of Task
    seed : int
    """
    tasks = list(tasks)
    for units in {task.counted.name for task in tasks}:
        together = [i for i, task in enumerate(tasks) if task.counted.name == units]
        if len(together) < 2:
            continue
        rows = np.unique(np.concatenate([tasks[i].rows for i in together]))
        blocks = np.full(len(cohort), -1)
        blocks[rows] = _blocks(cohort.table, rows, [tasks[i] for i in together], seed)
        for i in together:
            counted = replace(tasks[i].counted, blocks=blocks[tasks[i].rows])
            tasks[i] = replace(tasks[i], counted=counted)
    return tasks


def _blocks(table: pd.DataFrame, rows: Codes, tasks: Sequence[Task], seed: int) -> Codes:
    sites = table["site"].fillna("").astype(str).to_numpy(str)[rows]
    if tasks[0].counted.name == "sites":
        return np.asarray(np.unique(sites, return_inverse=True)[1], np.intp)
    clusters = np.full(len(table), "", dtype=object)
    truths = []
    for task in sorted(tasks, key=lambda one: one.classes is None):
        clusters[task.rows] = task.clusters
        codes = np.full(len(table), -1)
        codes[task.rows] = np.unique(task.y, return_inverse=True)[1]
        truths.append(codes[rows])
    alike = np.unique(np.column_stack(truths), axis=0, return_inverse=True)[1].ravel()
    return inference_blocks(clusters[rows].astype(str), sites, alike, seed)


@dataclass(frozen=True, eq=False)
class OfTarget:
    """The outcomes of one target of a battery, and the metric that decides.

    Parameters
    ----------
    outcomes : Outcomes
        Their blocks are those of `share_blocks`.
    metric : Metric
    """

    outcomes: Outcomes
    metric: Metric

    def scored(self) -> dict[str, ModelScore]:
        """Return the score of every model, more being better."""
        tested = self.outcomes.tested(CHANCE)
        sign = -1.0 if self.metric.lower_is_better else 1.0
        found = {}
        for model in self.outcomes.predicted:
            parts = self.outcomes.jackknives(self.metric, model, tested)
            found[model] = ModelScore.of([part.times(sign) for part in parts])
        return found

    @property
    def blocks(self) -> Codes:
        """The blocks that are tested, in the order of the jackknife."""
        assert self.outcomes.blocks is not None
        return np.unique(self.outcomes.blocks)


def battery_differences(targets: Sequence[OfTarget], against: Sequence[str]) -> pd.DataFrame:
    """Compare models over several targets.

    Parameters
    ----------
    targets : sequence of OfTarget
        Those of which verdicts are given.
    against : sequence of str
        The references; names of no model are passed over.

    Returns
    -------
    DataFrame
        See `ProbeResult.battery`; empty with fewer than two targets.
    """
    rows: list[dict[str, Any]] = []
    if len(targets) > 1:
        found = [one.scored() for one in targets]
        blocks = [one.blocks for one in targets]
        for model, other in compared(found[0], against):
            if CHANCE not in (model, other):
                row = over_targets([(of[model], of[other]) for of in found], blocks, model, other)
                rows += [{"model": model, "against": other, **row}] if row else []
    table = pd.DataFrame(rows, columns=BATTERY_COLUMNS)
    for _, part in table.groupby("against"):
        table.loc[part.index, "p_holm"] = holm(part["p_value"].to_numpy(float))
    decided = table["p_holm"].to_numpy(float) < ALPHA
    word = np.where(table["value"].to_numpy(float) > 0, "better", "worse")
    return table.assign(verdict=np.where(decided, word, UNDECIDED))


def over_targets(
    scores: Sequence[tuple[ModelScore, ModelScore]], blocks: Sequence[Codes], model: str, other: str
) -> Mapping[str, Any]:
    """Return the mean standardised difference of two models; nothing of fewer than two targets."""
    draws = (role(model) in SEEDED, role(other) in SEEDED)
    gaps = [mine.minus(yours, draws=draws) for mine, yours in scores]
    known = [i for i, gap in enumerate(gaps) if np.isfinite([gap.value, gap.se]).all()]
    if len(known) < 2:
        return {}
    weights = np.array([_inverse(gaps[i]) for i in known]) / len(known)
    of = [blocks[i] for i in known]
    mine, yours = (_combined([scores[i][side] for i in known], of, weights) for side in (0, 1))
    gap = mine.minus(yours, draws=draws)
    n_better = sum(gaps[i].value > 0 for i in known)
    return {"n_targets": len(known), "n_better": n_better, **numbers_of(gap, 0.0, (-1.0, 1.0))}


def _inverse(gap: Inference) -> float:
    """Return one over the root mean square of a difference over units; 0 of no difference.

    With n units of which every one contributes a difference, their mean square is ``(n - 1) se² +
    value²``. Unlike the standard error, it does not depend on the signs of the contributions.
    """
    square = gap.df * gap.se**2 + gap.value**2
    return float(square**-0.5) if square > 0 else 0.0


def _combined(scores: Sequence[ModelScore], blocks: Sequence[Codes], weights: Array) -> ModelScore:
    """Return the weighted sum over targets, replicate by replicate."""
    n_blocks = 1 + max(int(of.max()) for of in blocks)

    def spread(values: Array, of: Codes) -> Array:  # a target lacks the blocks of whom it lacks
        out = np.zeros(n_blocks)
        out[of] = values
        return out

    parts = []
    for each in zip(*(score.parts for score in scores), strict=True):
        own, units = np.zeros(n_blocks), np.zeros(n_blocks)
        full: Array | None = np.zeros(n_blocks)
        for part, of, weight in zip(each, blocks, weights, strict=True):
            own += weight * spread(part.own, of)
            units += spread(part.weights, of) / len(weights)
            known = full is not None and part.full is not None
            full = full + weight * spread(part.full, of) if known else None
        value = float(weights @ [part.value for part in each])
        parts.append(Jackknife(value, own, full, units, each[0].single))
    return ModelScore.of(parts)
