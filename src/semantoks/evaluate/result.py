"""`ProbeResult`: scores, predictions, and what was run; saved as Parquet and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.errors import InputError

_SCORES, _DIFFERENCES, _PREDICTIONS, _META = (
    "scores.parquet",
    "differences.parquet",
    "predictions.parquet",
    "result.json",
)


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """Scores, predictions, and what was run.

    Parameters
    ----------
    scores : DataFrame
        Columns target, kind, model, metric, value, ci_low, ci_high, n_subjects.
    differences : DataFrame
        Columns target, model, against, metric, value, ci_low, ci_high: scores minus those of the
        model `against`, on the same bootstrap samples.
    predictions : DataFrame
        One row per target, model and tested unit: target, model, unit (a subject or a recording's
        id), subject, site, fold, truth,
        predicted, scores (list: a probability per class, or the value).
    meta : dict
        Versions, seed, design, folds, classes, preprocessing; per model what it saw of the test
        subjects and sites in pretraining.
    """

    scores: pd.DataFrame
    differences: pd.DataFrame
    predictions: pd.DataFrame
    meta: dict[str, Any]

    def arrays(
        self, target: str, models: Sequence[str]
    ) -> tuple[NDArray[Any], list[NDArray[np.float64]]]:
        """Return truth and predictions of one target, people in the same order for all models.

        Parameters
        ----------
        target : str
        models : sequence of str

        Returns
        -------
        y : array of shape (n_subjects,)
            Codes of the classes, or values.
        predicted : list of arrays of shape (n_subjects, n_classes) or (n_subjects,)
            One per model.
        """
        facts = self.meta["targets"][target]
        of_target = self.predictions[self.predictions["target"] == target]
        parts = [of_target[of_target["model"] == model] for model in models]
        stacked = [np.stack(part["scores"].to_list()) for part in parts]
        truth = parts[0]["truth"]
        if facts["kind"] == "classification":
            return np.searchsorted(facts["classes"], truth.to_numpy(str)), stacked
        return truth.to_numpy(np.float64), [s[:, 0] for s in stacked]

    def save(self, folder: str | Path) -> None:
        """Write the result into a new folder.

        Raises
        ------
        InputError
            If the folder exists and is not empty, or cannot be written.
        """
        path = Path(folder)
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(
                "exists already and is not overwritten", file=path, fix="Choose another folder"
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
            self.scores.to_parquet(path / _SCORES, index=False)
            self.differences.to_parquet(path / _DIFFERENCES, index=False)
            self.predictions.to_parquet(path / _PREDICTIONS, index=False)
            text = json.dumps(self.meta, indent=1)
            (path / _META).write_text(text, encoding="utf-8")  # last: it makes the result whole
        except OSError as error:
            raise InputError(f"cannot be written ({error.strerror})", file=path) from error

    @classmethod
    def load(cls, folder: str | Path) -> ProbeResult:
        """Read a result that `save` wrote.

        Raises
        ------
        InputError
            If the folder holds no whole result.
        """
        path = Path(folder)
        try:
            meta = json.loads((path / _META).read_text(encoding="utf-8"))
            scores = pd.read_parquet(path / _SCORES)
            differences = pd.read_parquet(path / _DIFFERENCES)
            predictions = pd.read_parquet(path / _PREDICTIONS)
        except (OSError, ValueError) as error:
            raise InputError(f"holds no whole result ({error})", file=path) from None
        return cls(scores, differences, predictions, meta)
