"""Honest prediction: every model on the same folds, next to its controls.

1. People are divided by a design (`semantoks.data.designs`); a person is in one part only.
2. Features that learn nothing are computed once per recording; those that do are fitted in the
   training part of every fold (`semantoks.evaluate.features`).
3. In every training part a linear probe is standardised, tuned and fitted; the test part is
   predicted once. Several recordings of a person count once: their predictions are averaged.
4. Scores are computed on the predictions of all test people together, with intervals and tests
   (`semantoks.evaluate.scoring`).
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, Literal

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.base import clone, is_classifier
from sklearn.utils.validation import has_fit_parameter

from semantoks.data.designs import Design, GroupedKFold, LeaveOneSiteOut, SmallSamples
from semantoks.data.recording import subject_key
from semantoks.data.splits import Fold, column_values
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.baselines import make_baselines
from semantoks.evaluate.embed import Embedder
from semantoks.evaluate.features import Cohort, Features
from semantoks.evaluate.finetune import FineTuner, FineTunerRegressor
from semantoks.evaluate.probe import (
    ClassWeight,
    LinearModel,
    LinearProbe,
    LinearProbeRegressor,
)
from semantoks.evaluate.result import CURVE_COLUMNS, ProbeResult
from semantoks.evaluate.scoring import Outcomes, Sampling, adjusted, score_models
from semantoks.evaluate.targets import Kind, Labels, Target, target_values
from semantoks.model.encoder import Encoder
from semantoks.model.pretrained import load_pretrained

#: The model that knows nothing: classes as frequent as each other, or the mean of those trained on.
CHANCE = "chance"
#: What every model has to beat: functional connectivity, and its own architecture untrained.
CONTROLS = CONNECTIVITY, RANDOM = "connectivity", "random weights"

_SUBJECTS = GroupedKFold()


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The linear model that is put behind every model's features.

    Parameters
    ----------
    model : {"logistic", "ridge", "svm"}
        For classes; numbers are always predicted by ridge regression.
    class_weight : {"balanced"}, mapping of class to float, or None
        See `LinearProbe`.
    """

    model: LinearModel = "logistic"
    class_weight: ClassWeight = "balanced"

    def make(self, kind: Kind, seed: int) -> LinearProbe | LinearProbeRegressor:
        """Return an estimator for a kind of target."""
        if kind == "regression":
            return LinearProbeRegressor(seed=seed)
        return LinearProbe(self.model, class_weight=self.class_weight, seed=seed)


_PROBE = Probe()


@dataclass(frozen=True, eq=False)
class _Task:
    """One target: what is known of it, and how people are divided for it."""

    target: Target
    rows: NDArray[np.intp]
    y: NDArray[Any]
    kind: Kind
    folds: list[Fold]
    small: list[tuple[int, Fold]]  # (number of training subjects, fold)
    inner: NDArray[np.str_]
    units: NDArray[np.str_]


def evaluate_probes(
    store: RecordingStore,
    models: Mapping[str, Any],
    targets: Sequence[Target | str],
    *,
    design: Design = _SUBJECTS,
    baselines: Sequence[str] = (),
    curve: SmallSamples | None = None,
    probe: Probe = _PROBE,
    unit: Literal["subject", "recording"] = "subject",
    missing: Literal["refuse", "drop"] = "refuse",
    against: Sequence[str] = CONTROLS,
    seed: int = 0,
    n_bootstrap: int = 1000,
    n_permutations: int = 5000,
    n_jobs: int = 1,
) -> ProbeResult:
    """Predict every target from every model, on the same folds.

    Parameters
    ----------
    store : RecordingStore
        Who is tested, and, unless the design says otherwise, trained on.
    models : mapping of str to array, transformer or predictor
        See `semantoks.evaluate.features`.
    targets : sequence of Target or str
    design : Design
        Five folds over subjects by default; see `semantoks.data.designs`.
    baselines : sequence of str
        Names of `semantoks.evaluate.baselines.BASELINES`, added to the models.
    curve : SmallSamples, optional
        Fit on few people too, drawn inside the training parts of the first repetition.
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
    seed : int
        Seed of folds, bootstrap and permutations.
    n_bootstrap, n_permutations : int
    n_jobs : int
        Folds computed at the same time, in threads; results do not depend on it.

    Returns
    -------
    ProbeResult

    Raises
    ------
    InputError
        If a target or site is unknown, labels are missing, contradict each other, have one class
        only or too few members for the folds, or a model does not fit.
    """
    if unit not in ("subject", "recording"):
        raise InputError("must be subject or recording", field="unit", value=unit)
    if not (models or baselines) or not targets:
        raise InputError("there is nothing to evaluate", field="models, targets")
    chosen = [t if isinstance(t, Target) else Target(t) for t in targets]
    columns = [target.column for target in chosen]
    if len(set(columns)) < len(columns):
        raise InputError("name a column twice", field="targets", value=columns)
    if CHANCE in models:
        raise InputError("is taken by the model that knows nothing", field="models", value=CHANCE)
    twice = sorted(set(models) & set(baselines))
    if twice:
        raise InputError("is the name of a baseline", field="models", value=twice[0])
    models = {**models, **make_baselines(baselines)}
    cohort = Cohort.of(store, design)
    labels = [target_values(cohort, target, missing, unit) for target in chosen]
    tasks = [
        _task(cohort, target, label, design, curve, unit, seed)
        for target, label in zip(chosen, labels, strict=True)
    ]
    no_information = np.zeros((len(cohort), 1), np.float32)
    parts = [
        part
        for name, model in {**models, CHANCE: no_information}.items()
        for part in _predict(cohort, name, model, tasks, probe, seed, n_jobs)
    ]
    table = pd.concat(parts, ignore_index=True)
    sampling = Sampling(n_bootstrap=n_bootstrap, n_permutations=n_permutations, seed=seed)
    predictions = table[table["size"] == 0].drop(columns="size").reset_index(drop=True)
    scores, differences = _scores(predictions, tasks, against, sampling)
    meta = _meta(cohort, tasks, models, predictions)
    meta["design"] = {
        "sentence": design.sentence(),
        "group": design.group,
        "unit": unit,
        "probe": {"model": probe.model, "class_weight": _plain(probe.class_weight)},
    }
    meta |= {"seed": seed, "n_bootstrap": n_bootstrap, "n_permutations": n_permutations}
    meta["missing"] = missing
    curves = _curve(table[table["size"] > 0], tasks, sampling)
    return ProbeResult(scores, differences, predictions, meta, curves)


def _plain(weight: ClassWeight) -> Any:
    return {str(k): float(v) for k, v in weight.items()} if isinstance(weight, Mapping) else weight


# -- who is trained on and tested ------------------------------------------------------------------


def _task(
    cohort: Cohort,
    target: Target,
    label: Labels,
    design: Design,
    curve: SmallSamples | None,
    unit: str,
    seed: int,
) -> _Task:
    rows, y, kind = label
    table = cohort.table.iloc[rows]
    classes = y if kind == "classification" else None
    folds = design.folds(table, classes, seed)
    for fold in folds if kind == "classification" else ():
        absent = sorted(set(y) - set(y[fold.train]))
        if absent:
            of_site = isinstance(design, LeaveOneSiteOut)
            where = f"without site {fold.name!r}" if of_site else f"in fold {fold.name}"
            raise InputError(
                f"{where} nobody of the class {str(absent[0])!r} is left to train on",
                field="design",
                value=design.sentence(),
                fix="Group by subject, or leave the class out",
            )
    subjects = table["subject"].to_numpy(str)
    first = [fold for fold in folds if fold.repeat == 0]
    small = [] if curve is None else list(curve.draws(first, subjects, classes, seed))
    inner = column_values(table, design.group)
    units = table["subject" if unit == "subject" else "id"].to_numpy(str)
    return _Task(target, rows, y, kind, folds, small, inner, units)


# -- predictions -----------------------------------------------------------------------------------


def _predict(
    cohort: Cohort,
    name: str,
    model: Any,
    tasks: Sequence[_Task],
    probe: Probe,
    seed: int,
    n_jobs: int,
) -> list[pd.DataFrame]:
    """Fit in every fold of every target and return one row per tested unit."""
    predictor = not isinstance(model, np.ndarray) and hasattr(model, "predict")
    parts: list[pd.DataFrame] = []
    for jobs, of_target in _by_features(model, tasks):
        features = None if predictor else Features.of(cohort, name, of_target)

        def run(
            job: list[tuple[_Task, int, Fold]],
            features: Features | None = features,
            predictor: Any = of_target,
        ) -> list[pd.DataFrame]:
            first, _, fold = job[0]
            if features is None:
                return [
                    _frame(cohort, name, t, s, f, *_from_predictor(cohort, predictor, name, t, f))
                    for t, s, f in job
                ]
            X = features.of_fold(first.rows[fold.train], first.rows[fold.test])
            return [
                _frame(cohort, name, t, s, f, *_from_features(X, t, f, probe.make(t.kind, seed)))
                for t, s, f in job
            ]

        for found in Parallel(n_jobs=n_jobs, prefer="threads")(delayed(run)(job) for job in jobs):
            parts += found
    return parts


Job = list[tuple[_Task, int, Fold]]


def _by_features(model: Any, tasks: Sequence[_Task]) -> Iterator[tuple[list[Job], Any]]:
    """Yield the folds to fit, those together that train and test on the same recordings.

    A model whose features depend on the target (`ConfoundsBaseline` leaves the target out) comes
    with one set of jobs per target.
    """
    per_target = hasattr(model, "for_target")
    for together in [[task] for task in tasks] if per_target else [list(tasks)]:
        jobs: dict[tuple[bytes, bytes], Job] = {}
        for task in together:
            for size, fold in [*((0, fold) for fold in task.folds), *task.small]:
                key = task.rows[fold.train].tobytes(), task.rows[fold.test].tobytes()
                jobs.setdefault(key, []).append((task, size, fold))
        of = model.for_target(together[0].target.column) if per_target else model
        yield list(jobs.values()), of


def _from_features(
    X: tuple[NDArray[np.float32], NDArray[np.float32]],
    task: _Task,
    fold: Fold,
    probe: LinearProbe | LinearProbeRegressor,
) -> tuple[NDArray[Any], Any]:
    held_out = None
    if fold.validation is not None:
        held_out = [np.flatnonzero(np.isin(fold.train, fold.validation))]
    probe.fit(X[0], task.y[fold.train], groups=task.inner[fold.train], held_out=held_out)
    if isinstance(probe, LinearProbe):
        return probe.predict_proba(X[1]), probe.classes_
    return probe.predict(X[1]), None


def _from_predictor(
    cohort: Cohort, model: Any, name: str, task: _Task, fold: Fold
) -> tuple[NDArray[Any], Any]:
    classify = task.kind == "classification"
    if is_classifier(model) != classify:
        raise InputError(
            f"predicts {'numbers' if classify else 'classes'}; the target {task.target.column} is "
            f"a {task.kind}",
            field=f"models[{name!r}]",
            fix="Evaluate targets of the two kinds apart",
        )
    model = clone(model)
    groups = {"groups": task.inner[fold.train]} if has_fit_parameter(model, "groups") else {}
    model.fit(cohort.select(task.rows[fold.train]), task.y[fold.train], **groups)
    test = cohort.select(task.rows[fold.test])
    return (model.predict_proba(test), model.classes_) if classify else (model.predict(test), None)


def _frame(
    cohort: Cohort,
    model: str,
    task: _Task,
    size: int,
    fold: Fold,
    scores: NDArray[Any],
    classes: NDArray[Any] | None,
) -> pd.DataFrame:
    """Return one row per tested subject or recording, the scores of its rows averaged."""
    units = task.units[fold.test]
    part = pd.DataFrame(np.reshape(scores, (len(units), -1)))
    mean = part.groupby(units, sort=True).mean().to_numpy()
    truth = pd.Series(task.y[fold.test]).groupby(units, sort=True)
    who = cohort.table[["subject", "site"]].iloc[task.rows[fold.test]].groupby(units).first()
    return pd.DataFrame(
        {
            "target": task.target.column,
            "model": model,
            "unit": who.index,
            "subject": who["subject"].astype(str).to_numpy(),
            "site": who["site"].to_numpy(),
            "size": size,
            "repeat": fold.repeat,
            "fold": fold.name,
            "truth": (truth.mean() if classes is None else truth.first()).astype(str).to_numpy(),
            "predicted": (mean[:, 0] if classes is None else classes[mean.argmax(1)]).astype(str),
            "scores": list(mean),
        }
    )


# -- scores ----------------------------------------------------------------------------------------


def _scores(
    predictions: pd.DataFrame, tasks: Sequence[_Task], against: Sequence[str], sampling: Sampling
) -> tuple[pd.DataFrame, pd.DataFrame]:
    scores: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    for task in tasks:
        tested = _tested(predictions, task)
        base = {"target": task.target.column, "kind": task.kind}
        found, gaps = score_models(tested, against, CHANCE, sampling)
        scores += [base | row for row in found]
        differences += [base | row for row in gaps]
    columns = ["target", "kind", "model", "against", "metric", "value", "ci_low", "ci_high"]
    columns += ["site_low", "site_high", "test", "p_value", "effect_size"]
    return adjusted(pd.DataFrame(scores), pd.DataFrame(differences, columns=columns))


def _tested(predictions: pd.DataFrame, task: _Task) -> Outcomes:
    classes = np.unique(task.y).tolist() if task.kind == "classification" else None
    return Outcomes.of(predictions[predictions["target"] == task.target.column], task.kind, classes)


def _curve(table: pd.DataFrame, tasks: Sequence[_Task], sampling: Sampling) -> pd.DataFrame:
    """Score every number of training subjects; a score is the mean over the draws."""
    rows = []
    untested = Sampling(n_bootstrap=sampling.n_bootstrap, n_permutations=0, seed=sampling.seed)
    for task in tasks:
        for size in sorted(set(table["size"])):
            found, _ = score_models(
                _tested(table[table["size"] == size], task), (), CHANCE, untested
            )
            base = {"target": task.target.column, "kind": task.kind, "n_train": size}
            rows += [base | row for row in found]
    return pd.DataFrame(rows, columns=CURVE_COLUMNS)


def _meta(
    cohort: Cohort, tasks: Sequence[_Task], models: Mapping[str, Any], table: pd.DataFrame
) -> dict[str, Any]:
    store = cohort.stores[-1]
    packages = ("semantoks", "scikit-learn", "torch", "numpy", "nilearn")
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "store": {
            "name": store.path.name,
            "fingerprint": store.fingerprint,
            "parcellation": store.parcellation.name,
            "tr": store.tr,
            "n_recordings": len(store),
            "n_subjects": int(store.table["subject"].nunique()),
        },
        "targets": {
            task.target.column: {
                "kind": task.kind,
                "classes": np.unique(task.y).tolist() if task.kind == "classification" else None,
                "n_recordings": len(task.rows),
                "n_left_out": len(cohort) - len(task.rows),
                "folds": [
                    {
                        "name": f.name,
                        "repeat": f.repeat,
                        "n_train": len(f.train),
                        "n_test": len(f.test),
                    }
                    for f in task.folds
                ],
            }
            for task in tasks
        },
        "models": {name: _seen(model, table) for name, model in models.items()},
    }


def _seen(model: Any, table: pd.DataFrame) -> dict[str, Any]:
    """Return what a model saw of the test subjects in pretraining."""
    encoder = _encoder(model)
    seen = getattr(encoder, "pretraining", None)
    subjects, sites = set(table["subject"]), set(table["site"].dropna().astype(str))
    facts: dict[str, Any] = {"n_test_subjects": len(subjects), "pretrained": seen is not None}
    if seen is not None:
        # None: the weights do not say (the authors' checkpoints), which is not "nobody".
        facts["n_test_subjects_seen"] = facts["test_sites_seen"] = None
        if seen["subjects"] is not None:
            keys = set(seen["subjects"])
            facts["n_test_subjects_seen"] = sum(subject_key(s) in keys for s in subjects)
        if seen["sites"] is not None:
            facts["test_sites_seen"] = sorted(sites & set(seen["sites"]))
        facts["pretraining"] = {k: v for k, v in seen.items() if k != "subjects"}
    return facts


def _encoder(model: Any) -> Encoder | None:
    """Return the encoder in a model, or in a step of a pipeline."""
    for step in [model, *(step for _, step in getattr(model, "steps", []))]:
        if isinstance(step, (Embedder, FineTuner, FineTunerRegressor)):
            return step.model if isinstance(step.model, Encoder) else load_pretrained(step.model)
    return None
