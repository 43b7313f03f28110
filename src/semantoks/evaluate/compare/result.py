"""`ProbeResult`: scores, predictions, and what was run; saved as Parquet and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.errors import InputError
from semantoks.evaluate.compare.battery import BATTERY_COLUMNS
from semantoks.evaluate.compare.curves import CURVE_COLUMNS, MINUTES_COLUMNS
from semantoks.evaluate.compare.scoring import Outcomes
from semantoks.evaluate.compare.sites import SITE_COLUMNS
from semantoks.files import staged_folder

_SCORES, _DIFFERENCES, _PREDICTIONS, _CURVE, _SITES, _CHOICES, _BATTERY, _MINUTES, _META = (
    "scores.parquet",
    "differences.parquet",
    "predictions.parquet",
    "curve.parquet",
    "sites.parquet",
    "choices.parquet",
    "battery.parquet",
    "minutes.parquet",
    "result.json",
)

CHOICE_COLUMNS = ["target", "model", "replicate", "size", "repeat", "fold", "features"]
CHOICE_COLUMNS += ["strength", "thresholds", "criterion", "strengths", "losses"]


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """Scores, predictions, and what was run.

    Parameters
    ----------
    scores : DataFrame
        Columns target, kind, model, metric, value, se, df, ci_low, ci_high (95 %, over the units of
        inference), detectable (the difference that would be found with a power of 80 %),
        n_replicates, n_subjects, chance, and of the first metric of a target p_value (against
        chance), p_holm (adjusted over targets and models) and verdict.
    differences : DataFrame
        Columns target, kind, model, against, metric, value, se, df, the intervals as above: scores
        minus those of the model `against`, paired; of the first metric also p_value, p_holm and
        verdict: better, worse or no significant difference.
    predictions : DataFrame
        One row per target, model, replicate, repetition and tested unit: target, model, unit (a
        subject or a recording's id), subject, cluster (the family where the design keeps families
        whole, else the subject), site, repeat, fold, truth, predicted, scores (list: a probability
        per class, or the value), thresholds (list: one per class; `predicted` is the class whose
        probability is the largest multiple of its threshold), replicate.
    meta : dict
        Versions, seed, design, folds, classes, preprocessing; per model what it saw of the test
        subjects and sites in pretraining.
    curve : DataFrame
        Columns target, kind, model, n_train (subjects), metric, value, ci_low, ci_high: scores
        against the number of training subjects. Empty where none was asked for.
    sites : DataFrame
        See `site_scores`.
    choices : DataFrame
        What inner folds decided, one row per target, model, replicate, size (number of training
        subjects where few were drawn, else 0), repeat and fold: features (which of a model's
        alternatives; empty where it has none), strength, thresholds (list: one per class),
        criterion, strengths (list: those tried) and losses (list: the criterion at each, smaller is
        better).
    battery : DataFrame
        Differences over all targets of which verdicts are given, where there are several, more
        being better: model, against, n_targets, n_better (targets on which the estimate is above
        0), value (mean over targets of the difference divided by its root mean square over units,
        between -1 and 1), se, df, the intervals as above, p_value, p_holm (adjusted over the models
        compared with one reference) and verdict; see `semantoks.evaluate.compare.battery`.
    minutes : DataFrame
        As `curve`, with minutes of scan in place of n_train; ``meta["minutes"]`` states who was
        excluded.
    """

    scores: pd.DataFrame
    differences: pd.DataFrame
    predictions: pd.DataFrame
    meta: dict[str, Any]
    curve: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=CURVE_COLUMNS))
    sites: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=SITE_COLUMNS))
    choices: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=CHOICE_COLUMNS))
    battery: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=BATTERY_COLUMNS))
    minutes: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=MINUTES_COLUMNS))

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
            One per model; means over the repetitions and replicates.
        """
        tested = self.outcomes(target, models)
        return tested.y, [tested.predicted[model].mean(axis=0) for model in models]

    def outcomes(self, target: str, models: Sequence[str]) -> Outcomes:
        """Return the tested units of one target, with their sites and folds.

        Parameters
        ----------
        target : str
        models : sequence of str
        """
        facts = self.meta["targets"][target]
        rows = self.predictions["target"].eq(target) & self.predictions["model"].isin(list(models))
        return Outcomes.of(self.predictions[rows], facts["kind"], facts["classes"])

    def save(self, folder: str | Path) -> None:
        """Write the result into a new folder.

        Raises
        ------
        InputError
            If the folder exists and is not empty, or cannot be written.
        """
        with staged_folder(folder) as path:
            self.scores.to_parquet(path / _SCORES, index=False)
            self.differences.to_parquet(path / _DIFFERENCES, index=False)
            self.predictions.to_parquet(path / _PREDICTIONS, index=False)
            self.curve.to_parquet(path / _CURVE, index=False)
            self.sites.to_parquet(path / _SITES, index=False)
            self.choices.to_parquet(path / _CHOICES, index=False)
            self.battery.to_parquet(path / _BATTERY, index=False)
            self.minutes.to_parquet(path / _MINUTES, index=False)
            (path / _META).write_text(json.dumps(self.meta, indent=1), encoding="utf-8")

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
            curve = pd.read_parquet(path / _CURVE)
            sites = pd.read_parquet(path / _SITES)
            choices = pd.read_parquet(path / _CHOICES)
            battery = _later(path / _BATTERY, BATTERY_COLUMNS)
            minutes = _later(path / _MINUTES, MINUTES_COLUMNS)
        except (OSError, ValueError) as error:
            raise InputError(f"holds no whole result ({error})", file=path) from None
        return cls(scores, differences, predictions, meta, curve, sites, choices, battery, minutes)


def _later(file: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a table that results did not have from the beginning."""
    return pd.read_parquet(file) if file.exists() else pd.DataFrame(columns=list(columns))
