"""How scores fall when the scans of the tested people get worse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.data.splits import Fold, leave_one_site_out, subject_folds
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.corruption import CORRUPTIONS, Corruption, corrupted, known_corruption
from semantoks.evaluate.probe import LinearProbe, LinearProbeRegressor
from semantoks.evaluate.statistics import METRICS, estimate, resamples
from semantoks.evaluate.targets import Kind, Target, target_values

Array = NDArray[np.float64]
Probe = LinearProbe | LinearProbeRegressor

CLEAN = "none"


def corruption_curves(
    store: RecordingStore,
    models: Mapping[str, Any],
    target: Target | str,
    *,
    corruptions: Sequence[str] | Mapping[str, Corruption] | None = None,
    groups: Literal["subject", "site"] = "subject",
    n_folds: int = 5,
    missing: Literal["refuse", "drop"] = "refuse",
    seed: int = 0,
    n_bootstrap: int = 1000,
) -> pd.DataFrame:
    """Train on clean recordings, test on the corrupted ones of other people.

    Parameters
    ----------
    store : RecordingStore
    models : mapping of str to transformer
        Transformers of a store that fit nothing: `Embedder`, `ConnectivityBaseline`.
    target : Target or str
    corruptions : sequence of str, or mapping of str to Corruption, optional
        Names out of `CORRUPTIONS`, or others; all of `CORRUPTIONS` by default.
    groups : {"subject", "site"}
        Folds over subjects, or one site left out at a time.
    n_folds : int
        Folds over subjects.
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
        A corruption, target or group is unknown, or the folds cannot be made.
    """
    if groups not in ("subject", "site"):
        raise InputError("must be subject or site", field="groups", value=groups)
    chosen = _chosen(corruptions)
    target = target if isinstance(target, Target) else Target(target)
    rows, y, kind = target_values(store, target, missing)
    part = store.select(rows)
    folds = _folds(part, y, kind, groups, n_folds, seed)
    clean = {name: _features(part, model) for name, model in models.items()}
    inner = part.table[groups].to_numpy(str)
    probes = {
        name: [_probe(X[f.train], y[f.train], inner[f.train], kind, seed) for f in folds]
        for name, X in clean.items()
    }
    people = part.table["subject"].iloc[np.concatenate([f.test for f in folds])]
    names = np.unique(people.to_numpy(str))
    truth = _by_subject(np.concatenate([y[f.test] for f in folds]), people, kind)
    strata = truth if kind == "classification" else None
    samples = list(resamples(len(names), n_bootstrap, seed, strata))
    base = {n: _predict(X, probes[n], folds, people, y, kind) for n, X in clean.items()}
    found: list[dict[str, Any]] = []

    def note(name: str, predicted: Array, facts: dict[str, Any]) -> None:
        for metric, score in METRICS[kind].items():
            value = estimate(score, truth, predicted, samples)
            change = estimate(score, truth, predicted, samples, against=base[name])
            row = {"target": target.column, "model": name, **facts, "metric": metric, **vars(value)}
            gap = {"change": change.value, "change_low": change.ci_low}
            gap |= {"change_high": change.ci_high, "n_subjects": len(names)}
            found.append(row | gap)

    for name in models:
        note(name, base[name], {"corruption": CLEAN, "severity": 0.0, "unit": ""})
    for what, corruption in chosen.items():
        for severity in corruption.severities:
            worse = corrupted(part, corruption, severity, seed=seed)
            facts = {"corruption": what, "severity": severity, "unit": corruption.unit}
            for name, model in models.items():
                X = np.asarray(model.transform(worse))
                note(name, _predict(X, probes[name], folds, people, y, kind), facts)
    return pd.DataFrame(found)


def _chosen(
    corruptions: Sequence[str] | Mapping[str, Corruption] | None,
) -> Mapping[str, Corruption]:
    if corruptions is None:
        return CORRUPTIONS
    if isinstance(corruptions, Mapping):
        return corruptions
    return {name: known_corruption(name) for name in corruptions}


def _folds(
    part: RecordingStore, y: NDArray[Any], kind: Kind, groups: str, n_folds: int, seed: int
) -> list[Fold]:
    if groups == "site":
        return leave_one_site_out(part.table)
    labels = y if kind == "classification" else None
    return subject_folds(part.table, n_folds, labels=labels, seed=seed)


def _features(part: RecordingStore, model: Any) -> NDArray[np.floating]:
    return np.asarray(model.fit(part).transform(part))


def _probe(
    X: NDArray[np.floating], y: NDArray[Any], inner: NDArray[np.str_], kind: Kind, seed: int
) -> Probe:
    probe = LinearProbe(seed=seed) if kind == "classification" else LinearProbeRegressor(seed=seed)
    return probe.fit(X, y, groups=inner)


def _predict(
    X: NDArray[np.floating],
    probes: Sequence[Probe],
    folds: Sequence[Fold],
    people: pd.Series,
    y: NDArray[Any],
    kind: Kind,
) -> Array:
    """Return one prediction per subject, in the order of their names: the mean over recordings."""
    classes = np.unique(y)
    parts = []
    for probe, fold in zip(probes, folds, strict=True):
        if isinstance(probe, LinearProbe):
            scores = np.zeros((len(fold.test), len(classes)))
            scores[:, np.searchsorted(classes, probe.classes_)] = probe.predict_proba(X[fold.test])
            parts.append(scores)
        else:
            parts.append(probe.predict(X[fold.test])[:, None])
    mean = pd.DataFrame(np.concatenate(parts)).groupby(people.to_numpy(str)).mean().to_numpy()
    return np.asarray(mean if kind == "classification" else mean[:, 0], np.float64)


def _by_subject(values: NDArray[Any], people: pd.Series, kind: Kind) -> NDArray[Any]:
    """Return the truth of every subject, in the order of their names: codes or mean values."""
    grouped = pd.Series(values).groupby(people.to_numpy(str))
    if kind == "regression":
        return grouped.mean().to_numpy(np.float64)
    return np.unique(values, return_inverse=True)[1][
        np.unique(people.to_numpy(str), return_index=True)[1]
    ]
