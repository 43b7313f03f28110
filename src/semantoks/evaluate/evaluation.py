"""Honest prediction: every model on the same folds, next to its controls.

1. Features are computed once per recording by frozen models, which fit nothing.
2. People are divided (`semantoks.data.splits`); a person is in one part only.
3. In every training part a linear probe is standardised, tuned and fitted; the test part is
   predicted once. Several recordings of a person count once: their predictions are averaged.
4. Scores are computed on the predictions of all test people together, with bootstrap intervals
   over people, and the difference to functional connectivity on the same samples.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.data.recording import subject_key
from semantoks.data.splits import Fold, leave_one_site_out, subject_folds
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.probe import LinearProbe, LinearProbeRegressor
from semantoks.evaluate.result import ProbeResult
from semantoks.evaluate.statistics import METRICS, cluster_resamples, estimate, resamples
from semantoks.evaluate.targets import Kind, Labels, Target, target_values

Features = NDArray[np.float32]

#: The model that knows nothing: classes as frequent as each other, or the mean of those trained on.
CHANCE = "chance"
#: What every model has to beat: functional connectivity, and its own architecture untrained.
CONTROLS = CONNECTIVITY, RANDOM = "connectivity", "random weights"


def evaluate_probes(
    store: RecordingStore,
    models: Mapping[str, Any],
    targets: Sequence[Target | str],
    *,
    groups: Literal["subject", "site"] = "subject",
    unit: Literal["subject", "recording"] = "subject",
    n_folds: int = 5,
    test_sites: Sequence[str] | None = None,
    missing: Literal["refuse", "drop"] = "refuse",
    against: Sequence[str] = CONTROLS,
    seed: int = 0,
    n_bootstrap: int = 1000,
) -> ProbeResult:
    """Predict every target from every model's frozen features, on the same folds.

    Parameters
    ----------
    store : RecordingStore
    models : mapping of str to transformer or array
        `Embedder`, `ConnectivityBaseline` or any transformer of a store that fits nothing; or
        features of shape (n_recordings, n_features).
    targets : sequence of Target or str
    groups : {"subject", "site"}
        Folds over subjects, or one site left out at a time; inner folds likewise.
    unit : {"subject", "recording"}
        What is predicted and counted: a subject, the predictions of whose recordings are averaged,
        or a recording, as for trials (`RecordingStore.trials`), sessions or states. Subjects stay
        whole in the folds either way, and intervals are over subjects.
    n_folds : int
        Folds over subjects.
    test_sites : sequence of str, optional
        With ``groups="site"``: only these sites are tested, the others always trained on.
    missing : {"refuse", "drop"}
        What to do where a recording has no value of the target.
    against : sequence of str
        Models whose scores are subtracted from those of all others; names not in `models` are
        passed over.
    seed : int
        Seed of folds and bootstrap.
    n_bootstrap : int

    Returns
    -------
    ProbeResult

    Raises
    ------
    InputError
        If a target or site is unknown, labels are missing, contradict each other, have one class
        only or too few members for the folds.
    """
    if groups not in ("subject", "site"):
        raise InputError("must be subject or site", field="groups", value=groups)
    if unit not in ("subject", "recording"):
        raise InputError("must be subject or recording", field="unit", value=unit)
    if test_sites and groups != "site":
        raise InputError("need groups='site'", field="test_sites", value=list(test_sites))
    if not models or not targets:
        raise InputError("there is nothing to evaluate", field="models, targets")
    chosen = [t if isinstance(t, Target) else Target(t) for t in targets]
    columns = [target.column for target in chosen]
    if len(set(columns)) < len(columns):
        raise InputError("name a column twice", field="targets", value=columns)
    labels = [target_values(store, target, missing, unit) for target in chosen]
    designs = [
        _folds(store.table.iloc[rows], y, kind, groups, n_folds, test_sites, seed)
        for rows, y, kind in labels
    ]
    if CHANCE in models:
        raise InputError("is taken by the model that knows nothing", field="models", value=CHANCE)
    features = {name: _features(store, model) for name, model in models.items()}
    features[CHANCE] = np.zeros((len(store), 1), np.float32)  # no information, same path
    predictions = [
        _predict(store, target, label, folds, name, X, groups, unit, seed)
        for target, label, folds in zip(chosen, labels, designs, strict=True)
        for name, X in features.items()
    ]
    table = pd.concat(predictions, ignore_index=True)
    scores, differences = _scores(table, chosen, labels, list(features), against, seed, n_bootstrap)
    design = {
        "groups": groups,
        "unit": unit,
        "n_folds": n_folds,
        "test_sites": list(test_sites or []),
    }
    meta = _meta(store, chosen, labels, designs, models, table, design)
    meta |= {"seed": seed, "n_bootstrap": n_bootstrap, "missing": missing}
    return ProbeResult(scores, differences, table, meta)


def _folds(
    table: pd.DataFrame,
    y: NDArray[Any],
    kind: Kind,
    groups: str,
    n_folds: int,
    test_sites: Sequence[str] | None,
    seed: int,
) -> list[Fold]:
    labels = y if kind == "classification" else None
    if groups == "subject":
        return subject_folds(table, n_folds, labels=labels, seed=seed)
    folds = leave_one_site_out(table, test_sites)
    for fold in folds if kind == "classification" else ():
        absent = sorted(set(y) - set(y[fold.train]))
        if absent:
            raise InputError(
                f"without site {fold.name!r} nobody of the class {str(absent[0])!r} is left to "
                "train on",
                field="groups",
                value="site",
                fix="Group by subject, or leave the class out",
            )
    return folds


def _features(store: RecordingStore, model: Any) -> Features:
    values = model if isinstance(model, np.ndarray) else model.fit(store).transform(store)
    if values.ndim != 2 or len(values) != len(store):
        raise InputError(
            f"features must have one row per recording ({len(store)})",
            field="models",
            value=values.shape,
        )
    return np.asarray(values, np.float32)


def _predict(
    store: RecordingStore,
    target: Target,
    label: Labels,
    folds: Sequence[Fold],
    model: str,
    X: Features,
    groups: str,
    unit: str,
    seed: int,
) -> pd.DataFrame:
    """Fit a probe per fold and return one row per tested subject or recording."""
    rows, y, kind = label
    table = store.table.iloc[rows]
    units = table["subject" if unit == "subject" else "id"].to_numpy(str)
    inner = table[groups].to_numpy(str)
    parts = []
    for fold in folds:
        probe = (
            LinearProbe(seed=seed) if kind == "classification" else LinearProbeRegressor(seed=seed)
        )
        probe.fit(X[rows[fold.train]], y[fold.train], groups=inner[fold.train])
        test = X[rows[fold.test]]
        scores = probe.predict_proba(test) if kind == "classification" else probe.predict(test)
        part = pd.DataFrame(np.reshape(scores, (len(test), -1)))
        part["truth"] = y[fold.test]
        by_unit = part.groupby(units[fold.test], sort=True)
        truth = by_unit["truth"].first() if kind == "classification" else by_unit["truth"].mean()
        mean = by_unit.mean(numeric_only=True).drop(columns="truth", errors="ignore").to_numpy()
        predicted = probe.classes_[mean.argmax(1)] if kind == "classification" else mean[:, 0]
        who = table[["subject", "site"]].iloc[fold.test].groupby(units[fold.test]).first()
        parts.append(
            pd.DataFrame(
                {
                    "target": target.column,
                    "model": model,
                    "unit": truth.index,
                    "subject": who["subject"].astype(str).to_numpy(),
                    "site": who["site"].to_numpy(),
                    "fold": fold.name,
                    "truth": truth.astype(str).to_numpy(),
                    "predicted": predicted.astype(str),
                    "scores": list(mean),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _scores(
    table: pd.DataFrame,
    targets: Sequence[Target],
    labels: Sequence[Labels],
    models: Sequence[str],
    against: Sequence[str],
    seed: int,
    n_bootstrap: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    scores: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    for target, (_, values, kind) in zip(targets, labels, strict=True):
        of_target = table[table["target"] == target.column]
        truth, predicted = {}, {}
        for model in models:
            part = of_target[of_target["model"] == model]
            truth[model], predicted[model] = _arrays(part, values, kind)
        y = truth[models[0]]
        subjects = of_target.loc[of_target["model"] == models[0], "subject"].to_numpy(str)
        n_subjects = len(set(subjects))
        samples: Sequence[NDArray[np.intp]]
        if n_subjects < len(y):
            samples = cluster_resamples(subjects, n_bootstrap, seed)
        else:
            strata = y if kind == "classification" else None
            samples = list(resamples(len(y), n_bootstrap, seed, strata))
        base = {"target": target.column, "kind": kind}
        for name, metric in METRICS[kind].items():
            for model in models:
                found = estimate(metric, y, predicted[model], samples)
                row = {**base, "model": model, "metric": name, **vars(found)}
                scores.append(row | {"n_subjects": n_subjects})
                for other in against:
                    if other in models and other != model:
                        gap = estimate(
                            metric, y, predicted[model], samples, against=predicted[other]
                        )
                        row = {**base, "model": model, "against": other, "metric": name}
                        differences.append(row | vars(gap))
    columns = ["target", "kind", "model", "against", "metric", "value", "ci_low", "ci_high"]
    return pd.DataFrame(scores), pd.DataFrame(differences, columns=columns)


def _arrays(
    part: pd.DataFrame, values: NDArray[Any], kind: Kind
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Return truth (codes or numbers) and scores of the tested subjects."""
    stacked = np.stack(part["scores"].to_list())
    if kind == "classification":
        return np.searchsorted(np.unique(values), part["truth"].to_numpy(str)), stacked
    return part["truth"].to_numpy(np.float64), stacked[:, 0]


def _meta(
    store: RecordingStore,
    targets: Sequence[Target],
    labels: Sequence[Labels],
    designs: Sequence[Sequence[Fold]],
    models: Mapping[str, Any],
    table: pd.DataFrame,
    design: dict[str, Any],
) -> dict[str, Any]:
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
        "design": design,
        "targets": {
            target.column: {
                "kind": kind,
                "classes": np.unique(y).tolist() if kind == "classification" else None,
                "n_recordings": len(rows),
                "n_left_out": len(store) - len(rows),
                "folds": [
                    {"name": f.name, "n_train": len(f.train), "n_test": len(f.test)} for f in folds
                ],
            }
            for target, (rows, y, kind), folds in zip(targets, labels, designs, strict=True)
        },
        "models": {name: _seen(model, table) for name, model in models.items()},
    }


def _seen(model: Any, table: pd.DataFrame) -> dict[str, Any]:
    """Return what a model saw of the test subjects in pretraining."""
    encoder = getattr(model, "encoder_", None)
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
