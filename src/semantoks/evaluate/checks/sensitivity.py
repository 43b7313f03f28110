"""Robustness: scores of models when the recordings of the tested people are corrupted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone

from semantoks.arrays import Array
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
from semantoks.evaluate.compare.targets import Target, target_values
from semantoks.evaluate.features.blocks import blocks_of
from semantoks.evaluate.predictors.probe import (
    LinearProbe,
    LinearProbeRegressor,
    person_weights,
)
from semantoks.evaluate.stats.kinds import Kind
from semantoks.evaluate.stats.metrics import METRICS, estimate, resamples

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
    n_bootstrap: int = 1000,
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
    seed, n_bootstrap : int
        Of folds, corruption and bootstrap over subjects.

    Returns
    -------
    DataFrame
        One row per corruption, severity (0 and "none": clean), model and metric: target, model,
        corruption, severity, unit, metric, value, ci_low, ci_high, change, change_low, change_high
        (against the same model on clean recordings of the same samples of people), n_subjects.

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
    rows, y, kind = target_values(store, target, missing)
    part = store.select(rows)
    folds = design.folds(part.table, y if kind == "classification" else None, seed)
    cross = _Cross(part, y, kind, [f for f in folds if f.repeat == 0], design.group, probe, seed)
    fitted = {name: cross.fit(model) for name, model in models.items()}
    truth, subjects = cross.truth()
    strata = truth if kind == "classification" else None
    samples = list(resamples(len(subjects), n_bootstrap, seed, strata))
    clean = {name: cross.predict(fits, part) for name, fits in fitted.items()}
    found: list[dict[str, Any]] = []

    def note(name: str, predicted: Array, facts: dict[str, Any]) -> None:
        for metric, score in METRICS[kind].items():
            value = estimate(score, truth, predicted, samples)
            change = estimate(score, truth, predicted, samples, against=clean[name])
            row = {"target": target.column, "model": name, **facts, "metric": metric, **vars(value)}
            gap = {"change": change.value, "change_low": change.ci_low}
            gap |= {"change_high": change.ci_high, "n_subjects": len(subjects)}
            found.append(row | gap)

    for name in models:
        note(name, clean[name], {"corruption": CLEAN, "severity": 0.0, "unit": ""})
    for what, corruption in chosen.items():
        for severity in corruption.severities:
            worse = corrupted(part, corruption, severity, seed=seed)
            facts = {"corruption": what, "severity": severity, "unit": corruption.unit}
            for name, fits in fitted.items():
                note(name, cross.predict(fits, worse), facts)
    return pd.DataFrame(found)


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
    folds: list[Fold]
    group: str
    probe: Probe
    seed: int

    def fit(self, model: Any) -> list[tuple[Any, LinearProbe | LinearProbeRegressor]]:
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
            probe = self.probe.make(self.kind, self.seed, blocks)
            probe.fit(
                X,
                self.y[fold.train],
                groups=inner[fold.train],
                held_out=validation,
                sample_weight=person_weights(subjects[fold.train]),
            )
            out.append((features, probe))
        return out

    def predict(self, fits: Sequence[tuple[Any, Any]], store: RecordingStore) -> Array:
        """Return a prediction per subject, by name: the mean over the subject's recordings."""
        classes = np.unique(self.y)
        parts = []
        for (features, probe), fold in zip(fits, self.folds, strict=True):
            X = features.transform(store.select(fold.test))
            if self.kind == "classification":
                scores = np.zeros((len(X), len(classes)))
                scores[:, np.searchsorted(classes, probe.classes_)] = probe.balanced_proba(X)
                parts.append(scores)
            else:
                parts.append(probe.predict(X)[:, None])
        mean = pd.DataFrame(np.concatenate(parts)).groupby(self._tested()).mean().to_numpy()
        return np.asarray(mean if self.kind == "classification" else mean[:, 0], np.float64)

    def truth(self) -> tuple[NDArray[Any], NDArray[np.str_]]:
        """Return the class code or mean value of every tested subject, and the names."""
        y = np.unique(self.y, return_inverse=True)[1] if self.kind == "classification" else self.y
        y = np.concatenate([y[fold.test] for fold in self.folds])
        grouped = pd.Series(y).groupby(self._tested())
        values = grouped.first() if self.kind == "classification" else grouped.mean()
        return values.to_numpy(), values.index.to_numpy(str)

    def _tested(self) -> NDArray[np.str_]:
        rows = np.concatenate([fold.test for fold in self.folds])
        return np.asarray(self.part.table["subject"].to_numpy(str)[rows])
