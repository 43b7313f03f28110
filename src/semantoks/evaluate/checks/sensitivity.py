"""Robustness: scores of models when the recordings of the tested people are corrupted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone

from semantoks.arrays import Array, Rows
from semantoks.data.designs import AcrossStores, Design, GroupedKFold
from semantoks.data.splits import Fold, column_values
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.checks.corruption import (
    CORRUPTIONS,
    Corruption,
    corrupted,
    known_corruption,
)
from semantoks.evaluate.compare.evaluation import Probe
from semantoks.evaluate.compare.roles import CHANCE
from semantoks.evaluate.compare.scoring import Outcomes
from semantoks.evaluate.compare.targets import Target, class_order, target_values
from semantoks.evaluate.features.blocks import blocks_of
from semantoks.evaluate.predictors.base import person_weights
from semantoks.evaluate.predictors.probe import LinearProbe, LinearProbeRegressor
from semantoks.evaluate.stats.inference import Inference, Jackknife, Measured
from semantoks.evaluate.stats.kinds import Kind
from semantoks.evaluate.stats.metrics import METRICS

CLEAN = "none"
_SUBJECTS, _PROBE = GroupedKFold(), Probe()


def corruption_curves(
    store: RecordingStore,
    models: Mapping[str, Any],
    target: Target | str,
    *,
    corruptions: Sequence[str] | Mapping[str, Corruption] | None = None,
    design: Design = _SUBJECTS,
    probe: Probe = _PROBE,
    missing: Literal["refuse", "drop"] = "refuse",
    seed: int = 0,
) -> pd.DataFrame:
    """Train on clean recordings, test on the corrupted ones of other people.

    Parameters
    ----------
    store : RecordingStore
    models : mapping of str to transformer
        Transformers of a store, fitted in the fold on clean recordings.
    target : Target or str
    corruptions : sequence of str, or mapping of str to Corruption, optional
        Names of `CORRUPTIONS`, or other corruptions by name; all of `CORRUPTIONS` by default.
    design : Design
        Five folds over subjects by default; only the first repetition of a repeated design is used.
    probe : Probe
        The linear model behind features.
    missing : {"refuse", "drop"}
        What to do where a recording has no value of the target.
    seed : int
        Of folds and corruption.

    Returns
    -------
    DataFrame
        One row per corruption, severity (0 and "none": clean), model and metric: target, model,
        corruption, severity, unit, metric, value, ci_low, ci_high, change, change_low, change_high
        (against the same model on clean recordings, paired), n_subjects. Intervals are over people,
        for the models as they were fitted.

    Raises
    ------
    InputError
        A corruption or target is unknown, the design is across stores, or its folds cannot be made.
    """
    if isinstance(design, AcrossStores):
        fix = "Corrupt the tested store with `corrupted` and evaluate it"
        raise InputError(
            "must stay within one store", field="design", value="AcrossStores", fix=fix
        )
    chosen = _chosen(corruptions)
    target = target if isinstance(target, Target) else Target(target)
    if target.residualise:
        rule, value = "targets are taken as they are here", ", ".join(target.residualise)
        raise InputError(rule, field="residualise", value=value, fix="Evaluate the target itself")
    rows, y, kind = target_values(store, target, missing)
    part = store.select(rows)
    folds = design.folds(part.table, y if kind == "classification" else None, seed)
    classes = None
    if kind == "classification":
        classes = class_order(y, part.table["subject"].to_numpy(str), target.positive)
    once = [fold for fold in folds if fold.repeat == 0]
    cross = _Cross(part, y, kind, classes, once, design.group, probe, seed)
    fitted = {name: cross.fit(model) for name, model in models.items()}
    measured = cross.measured()
    n_subjects = len(measured.y)
    metrics = METRICS[kind]

    def scored(fits: Sequence[_Fit], store: RecordingStore) -> dict[str, Jackknife]:
        predicted, limits = cross.predict(fits, store), cross.thresholds(fits)
        return {
            name: Jackknife.of(metric, measured, metric.reads(predicted, limits)[None], None)
            for name, metric in metrics.items()
        }

    clean = {name: scored(fits, part) for name, fits in fitted.items()}
    found: list[dict[str, Any]] = []

    def note(name: str, scores: Mapping[str, Jackknife], facts: dict[str, Any]) -> None:
        for metric, score in scores.items():
            change = score.minus(clean[name][metric])
            limits = metrics[metric].limits
            low, high = Inference.of(score).interval(limits)
            row = {"target": target.name, "model": name, **facts, "metric": metric}
            row |= {"value": score.value, "ci_low": low, "ci_high": high}
            low, high = Inference.of(change).interval(metrics[metric].difference_limits)
            row |= {"change": change.value, "change_low": low, "change_high": high}
            found.append(row | {"n_subjects": n_subjects})

    for name in models:
        note(name, clean[name], {"corruption": CLEAN, "severity": 0.0, "unit": ""})
    for what, corruption in chosen.items():
        for severity in corruption.severities:
            worse = corrupted(part, corruption, severity, seed=seed)
            facts = {"corruption": what, "severity": severity, "unit": corruption.unit}
            for name, fits in fitted.items():
                note(name, scored(fits, worse), facts)
    return pd.DataFrame(found)


_Fit = tuple[Any, LinearProbe | LinearProbeRegressor]  # features, and the model behind them


def _chosen(
    corruptions: Sequence[str] | Mapping[str, Corruption] | None,
) -> Mapping[str, Corruption]:
    if corruptions is None:
        return CORRUPTIONS
    if isinstance(corruptions, Mapping):
        return corruptions
    return {name: known_corruption(name) for name in corruptions}


@dataclass(frozen=True, eq=False)
class _Cross:
    """One division of people: fits on clean training parts, predictions of any test parts."""

    part: RecordingStore
    y: NDArray[Any]
    kind: Kind
    classes: NDArray[np.str_] | None
    folds: list[Fold]
    group: str
    probe: Probe
    seed: int

    def fit(self, model: Any) -> list[_Fit]:
        """Return a fitted transformer and a fitted probe per fold."""
        inner = column_values(self.part.table, self.group)
        subjects = column_values(self.part.table, "subject")
        stateless = getattr(model, "stateless", False)
        whole = model.fit(self.part).transform(self.part) if stateless else None
        out = []
        for fold in self.folds:
            if whole is None:
                training = self.part.select(fold.train)
                features = clone(model).fit(training)
                X = features.transform(training)
            else:
                features, X = model, whole[fold.train]
            validation = None
            if fold.validation is not None:
                held = np.isin(fold.train, fold.validation)
                validation = [np.flatnonzero(held)]
            blocks = blocks_of(features, X.shape[1])
            probe = self.probe.make(self.kind, self.seed, blocks=blocks)
            probe.fit(
                X,
                self.y[fold.train],
                groups=inner[fold.train],
                held_out=validation,
                sample_weight=person_weights(subjects[fold.train]),
            )
            out.append((features, probe))
        return out

    def predict(self, fits: Sequence[_Fit], store: RecordingStore) -> Array:
        """Return a prediction per subject, by name: the mean over the subject's recordings."""
        parts = []
        for (features, probe), fold in zip(fits, self.folds, strict=True):
            X = features.transform(store.select(fold.test))
            if isinstance(probe, LinearProbe):
                parts.append(probe.predict_proba(X)[:, self._order(probe)])
            else:
                parts.append(probe.predict(X))
        return self._means(parts)

    def thresholds(self, fits: Sequence[_Fit]) -> Array | None:
        """Return the thresholds of the classes for every subject; None for numbers."""
        probes = [(probe, fold) for (_, probe), fold in zip(fits, self.folds, strict=True)]
        limits = [
            np.tile(probe.thresholds_[self._order(probe)], (len(fold.test), 1))
            for probe, fold in probes
            if isinstance(probe, LinearProbe)
        ]
        return self._means(limits) if limits else None

    def _order(self, probe: LinearProbe) -> Rows:
        """Return where the probe has every class."""
        return np.asarray(np.searchsorted(probe.classes_, np.array(self.classes)), np.intp)

    def measured(self) -> Measured:
        """Return what metrics read of every tested subject, by name."""
        base: list[Array]
        if self.classes is not None:
            y = (self.y[:, None] == self.classes).argmax(axis=1)
            base = [
                np.full((len(f.test), len(self.classes)), 1 / len(self.classes)) for f in self.folds
            ]
        else:
            y = self.y
            base = [np.full(len(f.test), y[f.train].mean()) for f in self.folds]
        truth = self._means([y[fold.test] for fold in self.folds])
        subjects, first = np.unique(self._tested(), return_index=True)
        sites = self.part.table["site"].fillna("").astype(str).to_numpy(str)
        fold = np.repeat([f.name for f in self.folds], [len(f.test) for f in self.folds])
        outcomes = Outcomes(
            self.kind,
            truth if self.classes is None else truth.astype(np.intp),
            {CHANCE: self._means(base)[None]},
            subjects,
            subjects,
            sites[np.concatenate([f.test for f in self.folds])[first]],
            fold[first][None],
        )
        return outcomes.tested(CHANCE)

    def _means(self, parts: Sequence[NDArray[Any]]) -> Array:
        """Return the mean over the recordings of every tested subject, by name."""
        means = pd.DataFrame(np.concatenate(parts)).groupby(self._tested()).mean().to_numpy()
        return np.asarray(means if parts[0].ndim > 1 else means[:, 0], np.float64)

    def _tested(self) -> NDArray[np.str_]:
        rows = np.concatenate([fold.test for fold in self.folds])
        return np.asarray(self.part.table["subject"].to_numpy(str)[rows])
