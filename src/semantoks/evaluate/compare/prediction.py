"""From tasks to predictions: what is fitted and tested in every fold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.base import clone, is_classifier
from sklearn.utils.validation import has_fit_parameter
from threadpoolctl import threadpool_limits

from semantoks.data.designs import Design, LeaveOneSiteOut, SmallSamples
from semantoks.data.splits import Fold, column_values
from semantoks.errors import InputError
from semantoks.evaluate.compare.cohort import Cohort
from semantoks.evaluate.compare.models import Features, FoldFeatures
from semantoks.evaluate.compare.targets import Target, TargetRows, class_order
from semantoks.evaluate.compare.units import Units, units_of
from semantoks.evaluate.features.blocks import FeatureBlock
from semantoks.evaluate.predictors.base import person_weights
from semantoks.evaluate.predictors.choice import ShrinkagePath
from semantoks.evaluate.predictors.probe import LinearProbe, LinearProbeRegressor
from semantoks.evaluate.stats.kinds import Kind
from semantoks.evaluate.stats.metrics import balanced


class MakeProbe(Protocol):
    """Kind of target and blocks of features to the linear model behind them."""

    def __call__(
        self, kind: Kind, /, *, blocks: Sequence[FeatureBlock]
    ) -> LinearProbe | LinearProbeRegressor:
        """Return an estimator."""


@dataclass(frozen=True, eq=False)
class Task:
    """One target: what is known of it, and how people are divided for it.

    Parameters
    ----------
    target : Target
    rows : int array of shape (n,)
        Recordings that have a value of it.
    y : array of shape (n,)
        Their values.
    kind : {"classification", "ordinal", "regression"}
    classes : array of str, shape (n_classes,), or None
        In the order of scores: of two classes the second is the positive one.
    folds : list of Fold
        Rows are positions in `rows`.
    small : list of (int, Fold)
        The same with few training subjects, and their number.
    inner : array of str, shape (n,)
        What stays together in the inner folds.
    units : array of str, shape (n,)
        What is predicted and counted: subjects, or recordings.
    clusters : array of str, shape (n,)
        Families where the design keeps them whole, else subjects.
    counted : Units
        What intervals and tests count.
    """

    target: Target
    rows: NDArray[np.intp]
    y: NDArray[Any]
    kind: Kind
    classes: NDArray[np.str_] | None
    folds: list[Fold]
    small: list[tuple[int, Fold]]
    inner: NDArray[np.str_]
    units: NDArray[np.str_]
    clusters: NDArray[np.str_]
    counted: Units


def make_task(
    cohort: Cohort,
    target: Target,
    label: TargetRows,
    design: Design,
    curve: SmallSamples | None,
    unit: str,
    seed: int,
) -> Task:
    """Divide people for a target.

    Parameters
    ----------
    cohort : Cohort
    target : Target
    label : tuple
        Rows, values and kind; see `target_values`.
    design : Design
    curve : SmallSamples or None
    unit : {"subject", "recording"}
    seed : int

    Raises
    ------
    InputError
        If people cannot be divided so, or a class is not left in a training part.
    """
    rows, y, kind = label
    table = cohort.table.iloc[rows]
    classes = y if kind == "classification" else None
    folds = design.folds(table, classes, seed)
    for fold in folds if kind == "classification" else ():
        absent = sorted(set(y) - set(y[fold.train]))
        if absent:
            of_site = isinstance(design, LeaveOneSiteOut)
            where = f"leaving out site {fold.name!r}" if of_site else f"fold {fold.name}"
            raise InputError(
                f"{where} leaves no training data of the class {str(absent[0])!r}",
                field="design",
                value=design.sentence(),
                fix="Group by subject, or leave the class out",
            )
    subjects = table["subject"].to_numpy(str)
    first = [fold for fold in folds if fold.repeat == 0]
    small = [] if curve is None else list(curve.draws(first, subjects, classes, seed))
    inner = column_values(table, design.group)
    units = table["subject" if unit == "subject" else "id"].to_numpy(str)
    clusters = subjects if design.group == "site" else inner
    counted = units_of(
        table, y, folds, design.group, clusters, classes=classes is not None, seed=seed
    )
    order = None if classes is None else class_order(classes, subjects, target.positive)
    return Task(target, rows, y, kind, order, folds, small, inner, units, clusters, counted)


# -- predictions -----------------------------------------------------------------------------------


Job = list[tuple[Task, int, Fold]]


def replicates(model: Any) -> list[Any]:
    """Return the replicates of a model: the members of a list or tuple, else the model alone."""
    return list(model) if isinstance(model, (list, tuple)) else [model]


def predict(
    cohort: Cohort,
    name: str,
    model: Any,
    tasks: Sequence[Task],
    make_probe: MakeProbe,
    n_jobs: int,
) -> list[FoldPredictions]:
    """Fit one model in every fold of every target; people weigh the same in the fit.

    Parameters
    ----------
    cohort : Cohort
    name : str
    model : array, transformer, predictor or mapping of kind to predictor
        See `semantoks.evaluate.compare.cohort`.
    tasks : sequence of Task
    make_probe : callable
        See `MakeProbe`.
    n_jobs : int
        Threads, each of them a fold of features; predictors are fitted one after another.

    Returns
    -------
    list of FoldPredictions
        One per fold and target. Tables have a column ``size`` besides those of `ProbeResult`: the
        number of training subjects where few were drawn, else 0.
    """
    parts: list[FoldPredictions] = []
    for jobs, of_target in _by_features(name, model, tasks):
        predictor = not isinstance(of_target, np.ndarray) and hasattr(of_target, "predict")
        features = None if predictor else Features.of(cohort, name, of_target)

        def run(
            job: list[tuple[Task, int, Fold]],
            features: Features | None = features,
            predictor: Any = of_target,
        ) -> list[FoldPredictions]:
            first, _, fold = job[0]
            if features is None:
                scored = [_from_predictor(cohort, predictor, name, t, f) for t, _, f in job]
            else:
                each = features.of_fold(first.rows[fold.train], first.rows[fold.test])
                scored = [_from_features(cohort, each, t, f, make_probe) for t, _, f in job]
            return [
                _predicted(cohort, name, t, s, f, one)
                for (t, s, f), one in zip(job, scored, strict=True)
            ]

        at_once = 1 if predictor else n_jobs  # what is trained by gradient takes all cores itself
        with threadpool_limits(1 if at_once > 1 else None):
            fit = Parallel(n_jobs=at_once, prefer="threads")
            for found in fit(delayed(run)(job) for job in jobs):
                parts += found
    return parts


def _by_features(name: str, model: Any, tasks: Sequence[Task]) -> Iterator[tuple[list[Job], Any]]:
    """Yield the folds to fit, those together that train and test on the same recordings.

    A model that is another one for another target (`ConfoundsBaseline` leaves the target out), or
    for another kind of target, comes with one set of jobs for each.
    """
    made: dict[int, tuple[Any, list[Task]]] = {}
    for task in tasks:
        of_target = _of_target(name, model, task)
        made.setdefault(id(of_target), (of_target, []))[1].append(task)
    for of_target, together in made.values():
        jobs: dict[tuple[bytes, bytes], Job] = {}
        for task in together:
            for size, fold in [*((0, fold) for fold in task.folds), *task.small]:
                key = task.rows[fold.train].tobytes(), task.rows[fold.test].tobytes()
                jobs.setdefault(key, []).append((task, size, fold))
        yield list(jobs.values()), of_target


def _of_target(name: str, model: Any, task: Task) -> Any:
    """Return the model for a target."""
    if isinstance(model, Mapping):
        if task.kind not in model:
            raise InputError(
                f"has no predictor for a {task.kind}, as the target {task.target.column} is",
                field=f"models[{name!r}]",
            )
        return model[task.kind]
    return model.for_target(task.target.column) if hasattr(model, "for_target") else model


def _inside(cohort: Cohort, task: Task, fold: Fold) -> dict[str, Any]:
    """Return how the training part of a fold is divided inside, and what its rows weigh."""
    stated = fold.validation
    held_out = None if stated is None else [np.flatnonzero(np.isin(fold.train, stated))]
    subjects = cohort.table["subject"].to_numpy(str)[task.rows[fold.train]]
    weight = person_weights(subjects)
    return {"groups": task.inner[fold.train], "held_out": held_out, "sample_weight": weight}


@dataclass(frozen=True, eq=False)
class _Found:
    """Predictions of the test rows, and what inner folds decided.

    Parameters
    ----------
    scores : array of shape (n,) or (n, n_classes)
        Numbers, or probabilities.
    classes : array of shape (n_classes,), or None for numbers
    thresholds : array of shape (n_classes,), or None for numbers
    path : ShrinkagePath, or None where there is no linear model
    without : array of shape (n, n_blocks) or (n, n_blocks, n_classes), or None
        The scores of models not trained on a block; None where the model cannot tell.
    chosen : str
        Which of several alternatives; empty where there is one.
    """

    scores: NDArray[Any]
    classes: NDArray[Any] | None
    thresholds: NDArray[np.float64] | None
    path: ShrinkagePath | None
    without: NDArray[Any] | None = None
    chosen: str = ""


def _from_features(
    cohort: Cohort,
    alternatives: Sequence[FoldFeatures],
    task: Task,
    fold: Fold,
    make_probe: MakeProbe,
) -> _Found:
    """Fit a probe to each of the alternatives, and keep the one that predicts inner folds best."""
    trained = task.counted.blocks[fold.train]
    without = [np.flatnonzero(trained == block) for block in range(task.counted.blocks.max() + 1)]
    inside = _inside(cohort, task, fold)
    fitted = []
    for X in alternatives:
        probe = make_probe(task.kind, blocks=X.blocks)
        probe.fit(X.train, task.y[fold.train], **inside, without=without, spaces=X.spaces)
        fitted.append((probe, X))
    probe, X = min(fitted, key=lambda one: float(one[0].path_.losses.min()))
    found = _found(probe, probe, X.test)
    return replace(found, without=probe.predict_without(X.test), chosen=X.name)


def _from_predictor(cohort: Cohort, model: Any, name: str, task: Task, fold: Fold) -> _Found:
    classify = task.kind == "classification"
    if is_classifier(model) != classify:
        raise InputError(
            f"predicts {'numbers' if classify else 'classes'}; the target {task.target.column} is "
            f"a {task.kind}",
            field=f"models[{name!r}]",
            fix="Evaluate targets of the two kinds apart",
        )
    model = clone(model)
    inside = _inside(cohort, task, fold)
    inside = {k: v for k, v in inside.items() if has_fit_parameter(model, k)}
    model.fit(cohort.select(task.rows[fold.train]), task.y[fold.train], **inside)
    last = model.steps[-1][1] if hasattr(model, "steps") else model
    return _found(model, last, cohort.select(task.rows[fold.test]))


def _found(model: Any, last: Any, X: Any) -> _Found:
    """Predict test rows; `last` is the estimator that decides: the model, or its last step."""
    path = getattr(last, "path_", None)
    if not is_classifier(model):
        return _Found(model.predict(X), None, None, path)
    p = model.predict_proba(X)
    even = np.full(p.shape[1], 1.0 / p.shape[1])
    thresholds = getattr(last, "thresholds_", even)
    return _Found(p, model.classes_, thresholds, path)


@dataclass(frozen=True, eq=False)
class FoldPredictions:
    """Predictions of one model in one fold of one target, and what inner folds decided.

    Parameters
    ----------
    rows : DataFrame
        One row per tested subject or recording, the scores of its rows averaged.
    choice : dict
        The row of `ProbeResult.choices`; empty if there is no linear model.
    """

    rows: pd.DataFrame
    choice: dict[str, Any]


def _predicted(
    cohort: Cohort, model: str, task: Task, size: int, fold: Fold, found: _Found
) -> FoldPredictions:
    names, first, codes = np.unique(task.units[fold.test], return_index=True, return_inverse=True)
    order: Any = slice(None)
    if found.classes is not None and task.classes is not None:
        order = np.searchsorted(found.classes, task.classes)
    mean = _means(np.reshape(found.scores, (len(codes), -1))[:, order], codes)
    without: list[NDArray[Any]] | None = None
    if found.without is not None:
        shape = (len(codes), found.without.shape[1], -1)
        without = list(_means(np.reshape(found.without, shape)[..., order], codes))
    thresholds = [] if found.thresholds is None else found.thresholds[order].tolist()
    one = fold.test[first]  # a row of every unit
    who = cohort.table.iloc[task.rows[one]]
    if task.classes is None:
        truth, predicted = _means(task.y[fold.test].astype(np.float64), codes), mean[:, 0]
    else:
        truth = task.y[one]
        predicted = task.classes[balanced(mean, np.array(thresholds)).argmax(axis=1)]
    where = {"target": task.target.name, "model": model, "size": size}
    where |= {"repeat": fold.repeat, "fold": fold.name}
    rows = pd.DataFrame(
        {
            **where,
            "unit": names,
            "subject": who["subject"].astype(str).to_numpy(),
            "cluster": task.clusters[one],
            "block": task.counted.blocks[one],
            "site": who["site"].to_numpy(),
            "truth": truth.astype(str),
            "predicted": predicted.astype(str),
            "scores": list(mean),
            "thresholds": [thresholds] * len(mean),
            "without": without,
        }
    )
    if found.path is None:
        return FoldPredictions(rows, {})
    choice = {"thresholds": thresholds, "features": found.chosen, **found.path.to_row()}
    return FoldPredictions(rows, {**where, **choice})


def _means(values: NDArray[Any], codes: NDArray[np.intp]) -> NDArray[Any]:
    """Return the mean of the rows of every unit."""
    sums = np.zeros((codes.max() + 1, *values.shape[1:]), np.float64)
    np.add.at(sums, codes, values)
    counts = np.bincount(codes).reshape(-1, *[1] * (values.ndim - 1))
    return np.asarray((sums / counts).astype(values.dtype, copy=False))
