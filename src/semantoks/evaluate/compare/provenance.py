"""What a result says about how it came to be: versions, data, folds, what models had seen."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from semantoks.data.recording import person_key
from semantoks.data.seen import SeenData, people_of
from semantoks.data.store import RecordingStore
from semantoks.evaluate.compare.cohort import Cohort
from semantoks.evaluate.compare.models import Inductive, SideBySide
from semantoks.evaluate.compare.prediction import Task, replicates
from semantoks.evaluate.features.embed import Embedder
from semantoks.evaluate.predictors.training import FineTuned
from semantoks.model.pretrained import load_pretrained


def provenance(
    cohort: Cohort, tasks: Sequence[Task], models: Mapping[str, Any], table: pd.DataFrame
) -> dict[str, Any]:
    """Return the record of an evaluation, as plain values.

    Parameters
    ----------
    cohort : Cohort
    tasks : sequence of Task
    models : mapping of str to model
    table : DataFrame
        The predictions.
    """
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
        "people": sorted(person_key(*p) for one in cohort.stores for p in people_of(one)),
        "targets": {
            task.target.name: {
                "kind": task.kind,
                "classes": None if task.classes is None else task.classes.tolist(),
                "counted": {
                    "units": task.counted.name,
                    "n": task.counted.n,
                    "why_not": task.counted.why_not,
                },
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
        "models": {name: _of_model(model, store, table) for name, model in models.items()},
    }


def _of_model(model: Any, store: RecordingStore, table: pd.DataFrame) -> dict[str, Any]:
    """Return what the replicate that saw most of the test subjects saw, and their number."""
    facts = [_seen(one, store, table) for one in replicates(model)]
    most = max(facts, key=lambda one: one.get("n_test_subjects_seen") or 0)
    return most | {"n_replicates": len(facts)}


def _seen(model: Any, store: RecordingStore, table: pd.DataFrame) -> dict[str, Any]:
    """Return what a model saw of the test subjects in pretraining, and how it was fine-tuned."""
    if isinstance(model, Inductive):
        return _seen_where_tested(model, store, table)
    reader = _reader(model)
    encoder = getattr(reader, "model", None)
    if isinstance(encoder, (str, Path)):
        encoder = load_pretrained(encoder)
    seen: SeenData | None = getattr(encoder, "pretraining", None)
    subjects, sites = set(table["subject"]), set(table["site"].dropna().astype(str))
    facts: dict[str, Any] = {"n_test_subjects": len(subjects), "pretrained": seen is not None}
    if isinstance(reader, FineTuned):
        facts["fine_tuned"] = _settings(reader)
    if seen is not None:
        # None: the weights do not state it (the authors' checkpoints), which is not "none".
        known = seen.seen_among(person for person in people_of(store) if person[1] in subjects)
        facts["n_test_subjects_seen"] = known and len(known.people) + len(known.unstated)
        facts["test_sites_seen"] = seen.sites_among(sites)
        hashes = ("subjects", "people")
        facts["pretraining"] = {k: v for k, v in seen.to_json().items() if k not in hashes}
    return facts


def _seen_where_tested(
    model: Inductive, store: RecordingStore, table: pd.DataFrame
) -> dict[str, Any]:
    """Return what models saw of the sites at which each of them is tested, all together."""
    site = table["site"].astype(str)
    each = [_seen(one, store, table[site.isin(unseen)]) for unseen, one in model.parts.items()]
    facts = each[0] | {"n_test_subjects": table["subject"].nunique()}
    if all(one["pretrained"] for one in each):
        known = [one["n_test_subjects_seen"] for one in each]
        sites = [one["test_sites_seen"] for one in each]
        facts["n_test_subjects_seen"] = None if None in known else sum(known)
        facts["test_sites_seen"] = None if None in sites else sorted(chain(*sites))
    return facts


def _reader(model: Any) -> Embedder | FineTuned | None:
    """Return what holds the encoder: a model, a step of a pipeline, or what a model wraps."""
    parts = model.parts if isinstance(model, SideBySide) else model
    found = [*parts.values()] if isinstance(parts, Mapping) else [model]
    for one in found:
        wrapped = (getattr(one, name, None) for name in ("tuner", "embedder"))
        steps = [one, *(step for _, step in getattr(one, "steps", [])), *wrapped]
        for step in steps:
            if isinstance(step, (Embedder, FineTuned)):
                return step
    return None


def _settings(tuner: FineTuned) -> dict[str, Any]:
    """Return the parameters of a fine-tuner, but for the model, as plain values."""
    settings = {k: v for k, v in tuner.get_params(deep=False).items() if k != "model"}
    weight = settings.get("class_weight")
    if isinstance(weight, Mapping):
        settings["class_weight"] = {str(k): float(v) for k, v in weight.items()}
    return settings | {"checkpoint": None if tuner.checkpoint is None else str(tuner.checkpoint)}
