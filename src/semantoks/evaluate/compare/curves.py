"""Scores against how much there is to learn from: training people, or minutes of scan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from semantoks.data.designs import AcrossStores, Design
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.compare.cohort import Cohort
from semantoks.evaluate.compare.models import Inductive, SideBySide
from semantoks.evaluate.compare.prediction import MakeProbe, Task, make_task, predict, replicates
from semantoks.evaluate.compare.residual import fitted_tasks
from semantoks.evaluate.compare.roles import CHANCE
from semantoks.evaluate.compare.scoring import Outcomes, score_models
from semantoks.evaluate.compare.targets import Target, target_values
from semantoks.evaluate.stats.metrics import ordered_metrics

_OF_CURVE = ["metric", "value", "ci_low", "ci_high", "chance"]
CURVE_COLUMNS = ["target", "kind", "model", "n_train", *_OF_CURVE]
MINUTES_COLUMNS = ["target", "kind", "model", "minutes", *_OF_CURVE]


def outcomes_of(predictions: pd.DataFrame, task: Task) -> Outcomes:
    """Return the outcomes of one target from the predictions of all."""
    classes = None if task.classes is None else task.classes.tolist()
    return Outcomes.of(predictions[predictions["target"] == task.target.name], task.kind, classes)


def curve_rows(
    table: pd.DataFrame, tasks: Sequence[Task], metric: Sequence[str], column: str
) -> Iterator[dict[str, Any]]:
    """Yield the scores of every target at every size; a score is the mean over the draws.

    Parameters
    ----------
    table : DataFrame
        Predictions, their size in the column ``size``.
    tasks : sequence of Task
    metric : sequence of str
        See `ordered_metrics`.
    column : str
        What the size is called.
    """
    for task in tasks:
        for size in sorted(set(table["size"])):
            tested = outcomes_of(table[table["size"] == size], task)
            metrics = ordered_metrics(task.kind, metric)
            found, _ = score_models(tested, (), CHANCE, metrics, verdict=False)
            base = {"target": task.target.name, "kind": task.kind, column: size}
            yield from ({**base, **row} for row in found)


@dataclass(frozen=True, eq=False)
class MinutesCurve:
    """Scores against minutes of scan.

    Parameters
    ----------
    table : DataFrame
        Columns `MINUTES_COLUMNS`.
    facts : dict
        minutes; n_people, who are tested or trained on at every length; n_excluded, who have less
        than the longest; models_left_out, which do not read recordings.
    """

    table: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=MINUTES_COLUMNS))
    facts: dict[str, Any] = field(default_factory=dict)


def minutes_curve(
    store: RecordingStore,
    models: Mapping[str, Any],
    targets: Sequence[Target],
    minutes: Sequence[float],
    make_probe: MakeProbe,
    *,
    design: Design,
    unit: Literal["subject", "recording"],
    missing: Literal["refuse", "drop"],
    metric: Sequence[str],
    seed: int,
    n_jobs: int,
) -> MinutesCurve:
    """Fit and test every model on the first minutes of data of every recording.

    Volumes that are not kept are no data. A recording with less than the longest of `minutes` is
    excluded at every length, so that the same people in the same folds are behind every point.

    Parameters
    ----------
    store, models, targets, design, unit, missing, metric, seed, n_jobs
        See `evaluate_probes`. Models that are arrays or predictors are left out.
    minutes : sequence of float
    make_probe : callable
        See `MakeProbe`.

    Raises
    ------
    InputError
        If too few people are left for the design, or a model needs more of a recording.
    """
    lengths, parts = sorted(set(minutes)), []
    long, n_excluded = _long_enough(store, lengths[-1])
    if isinstance(design, AcrossStores):
        train, n_short = _long_enough(design.train, lengths[-1])
        design, n_excluded = replace(design, train=train), n_excluded + n_short
    reading = {name: model for name, model in models.items() if _reads_signals(model)}
    cohort = Cohort.of(long, design)
    tasks = [
        make_task(cohort, one, target_values(cohort, one, missing, unit), design, None, unit, seed)
        for one in targets
    ]
    fitted = [one for task in tasks for one in fitted_tasks(cohort, task)]
    for m in lengths:
        cut = replace(cohort, stores=tuple(one.first_minutes(m) for one in cohort.stores))
        known_nothing = np.zeros((len(cohort), 1), np.float32)
        for name, model in {**reading, CHANCE: known_nothing}.items():
            for number, one in enumerate(replicates(model)):
                try:
                    found = predict(cut, name, one, fitted, make_probe, n_jobs)
                except InputError as error:
                    rule = f"is too little for {name}, or was refused: {error}"
                    fix = "Ask for more minutes"
                    raise InputError(rule, field="minutes", value=m, fix=fix) from error
                parts += [part.rows.assign(replicate=number, size=m) for part in found]
    table = pd.DataFrame(
        curve_rows(pd.concat(parts, ignore_index=True), tasks, metric, "minutes"),
        columns=MINUTES_COLUMNS,
    )
    facts = {
        "minutes": lengths,
        "n_people": int(cohort.table["subject"].nunique()),
        "n_excluded": n_excluded,
        "models_left_out": [name for name in models if name not in reading],
    }
    return MinutesCurve(table, facts)


def _long_enough(store: RecordingStore, minutes: float) -> tuple[RecordingStore, int]:
    """Return the recordings with so many minutes, and how many people have none."""
    enough = store.kept_minutes() >= minutes
    if not enough.any():
        raise InputError(
            f"must be at most {store.kept_minutes().max():.3g}: no recording has more",
            file=store.path,
            field="minutes",
            value=minutes,
        )
    people = store.table["subject"]
    return store.select(enough), int(people.nunique() - people[enough].nunique())


def _reads_signals(model: Any) -> bool:
    """Whether a model, or one of those side by side, is a transformer of recordings."""
    one = replicates(model)[0]
    if isinstance(one, (Inductive, SideBySide)):
        return all(map(_reads_signals, one.parts.values()))
    return hasattr(one, "transform") and not hasattr(one, "predict")
