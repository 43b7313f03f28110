"""What a result says about how it came to be: versions, data, folds, what models had seen."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import numpy as np
import pandas as pd

from semantoks.data.recording import subject_key
from semantoks.evaluate.embed import Embedder
from semantoks.evaluate.features import Cohort
from semantoks.evaluate.finetune import FineTuner, FineTunerRegressor
from semantoks.evaluate.prediction import Task
from semantoks.model.encoder import Encoder
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
