"""Honest prediction: every model on the same folds, next to its controls.

1. People are divided by a design (`semantoks.data.designs`); a person is in one part only.
2. Features that learn nothing are computed once per recording; those that do are fitted in the
   training part of every fold (`semantoks.evaluate.compare.cohort`).
3. In every training part features are scaled and a linear probe is tuned and fitted, in which
   people weigh the same; the test part is predicted once. Several recordings of a person count
   once: their predictions are averaged.
4. Scores are of the predictions of all test people, within sites where it matters, with intervals
   and tests over the units of the question (`semantoks.evaluate.compare.scoring`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd

from semantoks.data.designs import Design, GroupedKFold, SmallSamples
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.compare.battery import OfTarget, battery_differences, share_blocks
from semantoks.evaluate.compare.cohort import Cohort
from semantoks.evaluate.compare.curves import (
    CURVE_COLUMNS,
    MinutesCurve,
    curve_rows,
    minutes_curve,
    outcomes_of,
)
from semantoks.evaluate.compare.prediction import Task, make_task, predict, replicates
from semantoks.evaluate.compare.provenance import provenance
from semantoks.evaluate.compare.residual import fitted_tasks
from semantoks.evaluate.compare.result import CHOICE_COLUMNS, ProbeResult
from semantoks.evaluate.compare.roles import CHANCE, CONTROLS
from semantoks.evaluate.compare.scoring import adjusted, score_models
from semantoks.evaluate.compare.sites import site_scores
from semantoks.evaluate.compare.targets import Target, target_values
from semantoks.evaluate.compare.units import undecidable
from semantoks.evaluate.features.baselines import make_baselines
from semantoks.evaluate.features.blocks import FeatureBlock
from semantoks.evaluate.predictors.choice import Criterion
from semantoks.evaluate.predictors.linear import LinearModel
from semantoks.evaluate.predictors.probe import (
    ClassWeight,
    LinearProbe,
    LinearProbeRegressor,
)
from semantoks.evaluate.stats.kinds import Kind
from semantoks.evaluate.stats.metrics import Metric, check_chosen, ordered_metrics

_SUBJECTS = GroupedKFold()


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The linear model that is put behind every model's features.

    Parameters
    ----------
    model : {"ridge", "logistic", "svm"}
        For classes; numbers are always predicted by ridge regression.
    class_weight : {"balanced"}, mapping of class to float, or None
        See `LinearProbe`.
    criterion : {"squared error", "AUROC", "log loss"}, optional
        What the strength of the penalty for classes is chosen by, see `LinearProbe`; for numbers it
        is the squared error.
    """

    model: LinearModel = "ridge"
    class_weight: ClassWeight = None
    criterion: Criterion | None = None

    def make(
        self, kind: Kind, seed: int, *, blocks: Sequence[FeatureBlock] | None = None
    ) -> LinearProbe | LinearProbeRegressor:
        """Return an estimator for a kind of target and blocks of features."""
        if kind != "classification":
            return LinearProbeRegressor(blocks=blocks, seed=seed)
        return LinearProbe(
            self.model,
            criterion=self.criterion,
            class_weight=self.class_weight,
            blocks=blocks,
            seed=seed,
        )

    def settings(self) -> dict[str, Any]:
        """Return the probe as plain values."""
        weight = self.class_weight
        if isinstance(weight, Mapping):
            weight = {str(k): float(v) for k, v in weight.items()}
        return {"model": self.model, "class_weight": weight, "criterion": self.criterion}


_PROBE = Probe()


def evaluate_probes(
    store: RecordingStore,
    models: Mapping[str, Any],
    targets: Sequence[Target | str],
    *,
    design: Design = _SUBJECTS,
    baselines: Sequence[str] = (),
    curve: SmallSamples | None = None,
    minutes: Sequence[float] = (),
    probe: Probe = _PROBE,
    unit: Literal["subject", "recording"] = "subject",
    missing: Literal["refuse", "drop"] = "refuse",
    against: Sequence[str] = CONTROLS,
    metric: Sequence[str] = (),
    seed: int = 0,
    n_jobs: int = 1,
) -> ProbeResult:
    """Predict every target from every model, on the same folds.

    Parameters
    ----------
    store : RecordingStore
        Who is tested, and, unless the design says otherwise, trained on.
    models : mapping of str to array, transformer, predictor or mapping of kind to predictor
        See `semantoks.evaluate.compare.models`. A list or tuple of them holds replicates: draws of
        random weights, or pretraining runs of one configuration. Their mean score is compared, and
        their spread is part of the test.
    targets : sequence of Target or str
    design : Design
        Five folds over subjects by default; see `semantoks.data.designs`.
    baselines : sequence of str
        Names of `semantoks.evaluate.features.baselines.BASELINES`, added to the models.
    curve : SmallSamples, optional
        Fit on few people too, drawn inside the training parts of the first repetition.
    minutes : sequence of float
        Fit and test on the first so many minutes of data too; see `minutes_curve`.
    probe : Probe
        The linear model behind features.
    unit : {"subject", "recording"}
        What is predicted and counted: a subject, the predictions of whose recordings are averaged,
        or a recording, as for trials (`RecordingStore.trials`), sessions or states. Subjects stay
        whole in the folds either way, and intervals are over subjects.
    missing : {"refuse", "drop"}
        What to do where a recording has no value of the target.
    against : sequence of str
        Models with which all others are compared; names not in `models` are passed over.
    metric : sequence of str
        The metrics that decide instead of the first of `METRICS`, chosen before anything is looked
        at; for targets of several kinds the first that fits.
    seed : int
        Seed of folds and probes.
    n_jobs : int
        Folds of features fitted at the same time, in threads; results do not depend on it.

    Returns
    -------
    ProbeResult

    Raises
    ------
    InputError
        If a target, site or metric is unknown, labels are missing, contradict each other, have one
        class only or too few members for the folds, or a model does not fit.

    See Also
    --------
    evaluate_store : The same with other explanations of the scores, and a report.
    """
    chosen = _checked(targets, models, baselines, unit)
    models = {**models, **make_baselines(baselines)}
    cohort = Cohort.of(store, design)
    tasks = [
        make_task(cohort, one, target_values(cohort, one, missing, unit), design, curve, unit, seed)
        for one in chosen
    ]
    check_chosen(metric, [task.kind for task in tasks])
    make_probe = partial(probe.make, seed=seed)
    of_minutes = MinutesCurve()
    if minutes:
        of_minutes = minutes_curve(
            store,
            models,
            chosen,
            minutes,
            make_probe,
            design=design,
            unit=unit,
            missing=missing,
            metric=metric,
            seed=seed,
            n_jobs=n_jobs,
        )
    tasks = [_decidable(cohort, task, design, metric) for task in tasks]
    tasks = share_blocks(cohort, tasks, seed)
    fitted = [one for task in tasks for one in fitted_tasks(cohort, task)]
    known_nothing = np.zeros((len(cohort), 1), np.float32)
    parts = [
        (number, part)
        for name, model in {**models, CHANCE: known_nothing}.items()
        for number, one in enumerate(replicates(model))
        for part in predict(cohort, name, one, fitted, make_probe, n_jobs)
    ]
    table = pd.concat([p.rows.assign(replicate=n) for n, p in parts], ignore_index=True)
    made = [{"replicate": n, **p.choice} for n, p in parts if p.choice]
    choices = pd.DataFrame(made, columns=CHOICE_COLUMNS)
    whole = table[table["size"] == 0].drop(columns="size").reset_index(drop=True)
    scores, differences = _scores(whole, tasks, against, metric)
    predictions = whole.drop(columns=["without", "block"])
    meta = provenance(cohort, tasks, models, predictions)
    meta["design"] = _design(design, unit, probe)
    meta |= {"seed": seed, "missing": missing, "minutes": of_minutes.facts}
    for task in tasks:
        first = next(iter(ordered_metrics(task.kind, metric)))
        tested = outcomes_of(whole, task)
        constant = [name for name in models if tested.is_constant(name)]
        meta["targets"][task.target.name] |= {
            "metric": first,
            "chosen": first in metric,
            "constant": constant,
            "residualise": [*task.target.residualise],
        }
    few = curve_rows(table[table["size"] > 0], tasks, metric, "n_train")
    curves = pd.DataFrame(few, columns=CURVE_COLUMNS)
    sites = site_scores(predictions, tasks, against, metric)
    decided = [task for task in tasks if not task.counted.why_not]
    together = [OfTarget(outcomes_of(whole, task), _deciding(task, metric)) for task in decided]
    battery = battery_differences(together, against)
    tables = (curves, sites, choices, battery, of_minutes.table)
    return ProbeResult(scores, differences, predictions, meta, *tables)


def _checked(
    targets: Sequence[Target | str], models: Mapping[str, Any], baselines: Sequence[str], unit: str
) -> list[Target]:
    """Return the targets, after checking that every target and model has a name of its own."""
    if unit not in ("subject", "recording"):
        raise InputError("must be subject or recording", field="unit", value=unit)
    if not (models or baselines) or not targets:
        raise InputError("there is nothing to evaluate", field="models, targets")
    chosen = [t if isinstance(t, Target) else Target(t) for t in targets]
    columns = [target.name for target in chosen]
    if len(set(columns)) < len(columns):
        raise InputError("must name each column once", field="targets", value=columns)
    if CHANCE in models:
        raise InputError("is the name of the chance model", field="models", value=CHANCE)
    twice = sorted(set(models) & set(baselines))
    if twice:
        raise InputError("is the name of a baseline", field="models", value=twice[0])
    return chosen


def _decidable(cohort: Cohort, task: Task, design: Design, metric: Sequence[str]) -> Task:
    """Return the task, with the reason where its deciding metric cannot decide anything."""
    table, classes = cohort.table.iloc[task.rows], task.classes is not None
    why_not = task.counted.why_not or undecidable(
        table, task.y, task.folds, design.group, _deciding(task, metric), classes=classes
    )
    return replace(task, counted=replace(task.counted, why_not=why_not))


def _deciding(task: Task, metric: Sequence[str]) -> Metric:
    return next(iter(ordered_metrics(task.kind, metric).values()))


def _design(design: Design, unit: str, probe: Probe) -> dict[str, Any]:
    return {
        "sentence": design.sentence(),
        "group": design.group,
        "unit": unit,
        "probe": probe.settings(),
    }


# -- scores ----------------------------------------------------------------------------------------


def _scores(
    predictions: pd.DataFrame, tasks: Sequence[Task], against: Sequence[str], metric: Sequence[str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    scores: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    for task in tasks:
        found, gaps = score_models(
            outcomes_of(predictions, task),
            against,
            CHANCE,
            ordered_metrics(task.kind, metric),
            verdict=not task.counted.why_not,
        )
        base = {"target": task.target.name, "kind": task.kind}
        scores += [base | row for row in found]
        differences += [base | row for row in gaps]
    numbers = ["value", "se", "df", "ci_low", "ci_high", "detectable", "p_value"]
    columns = ["target", "kind", "model", "against", "metric", *numbers]
    return adjusted(pd.DataFrame(scores), pd.DataFrame(differences, columns=columns))
