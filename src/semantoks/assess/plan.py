"""`Plan`: the question of an evaluation."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pandas as pd

from semantoks.data.designs import AcrossStores, Design, GroupedKFold, SmallSamples
from semantoks.data.splits import check_column
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.compare.evaluation import Probe
from semantoks.evaluate.compare.targets import Target
from semantoks.evaluate.features.covariates import CONFOUNDS
from semantoks.evaluate.predictors.tuning import Train, Tuning


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The question of an evaluation; a folder holds the answer to one of them.

    Parameters
    ----------
    targets : tuple of Target
    design : Design
        How people are divided into training and test parts.
    baselines : tuple of str
        Names of `semantoks.evaluate.features.baselines.BASELINES`, next to connectivity.
    curve : SmallSamples, optional
        Fit on fewer people as well.
    probe : Probe
        The linear model behind features.
    finetune : tuple of {"full", "frozen-then-full", "lora", "head"}
        Fine-tune every model in these ways as well; see `FineTuner`.
    tuning : Tuning
        Settings of the fine-tuning; classes are weighted as those of the probe.
    confounds : tuple of str, optional
        Columns regressed out of features; see `confound_columns` for the default.
    harmonise : str or None
        Column of the batches that ComBat harmonises.
    missing : {"refuse", "drop"}
        What to do where a recording has no value of a target.
    n_crops : int
        Evenly spaced crops per recording that an encoder reads.
    n_bootstrap, n_permutations, seed : int

    Raises
    ------
    InputError
        There is no target, or a number is below 1.
    """

    targets: tuple[Target, ...]
    design: Design = field(default_factory=GroupedKFold)
    baselines: tuple[str, ...] = ()
    curve: SmallSamples | None = None
    probe: Probe = field(default_factory=Probe)
    finetune: tuple[Train, ...] = ()
    tuning: Tuning = field(default_factory=Tuning)
    confounds: tuple[str, ...] | None = None
    harmonise: str | None = "site"
    missing: Literal["refuse", "drop"] = "refuse"
    n_crops: int = 8
    n_bootstrap: int = 1000
    n_permutations: int = 5000
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.targets:
            raise InputError("must name at least one column", field="targets")
        for name in ("n_crops", "n_bootstrap", "n_permutations"):
            if getattr(self, name) < 1:
                raise InputError("must be at least 1", field=name, value=getattr(self, name))

    def check_columns(self, store: RecordingStore) -> None:
        """Refuse a store that lacks a column which the plan names.

        Raises
        ------
        InputError
        """
        named = {
            "targets": [target.column for target in self.targets],
            "confounds": self.confounds or (),
            "harmonise": () if self.harmonise is None else (self.harmonise,),
        }
        for name, columns in named.items():
            for column in columns:
                check_column(store.table, column, store.path, name)

    def settings(self) -> dict[str, Any]:
        """Return the plan as plain values; plans with equal values ask the same question."""
        facts: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("harmonise", "missing", "n_crops", "n_bootstrap", "n_permutations", "seed")
        }
        facts["targets"] = [asdict(target) for target in self.targets]
        facts["baselines"] = [*self.baselines]
        facts["confounds"] = None if self.confounds is None else [*self.confounds]
        weight = self.probe.class_weight
        named = {str(k): v for k, v in weight.items()} if isinstance(weight, dict) else weight
        facts["probe"] = {"model": self.probe.model, "class_weight": named}
        facts["curve"] = None if self.curve is None else _plain(self.curve)
        facts["design"] = _plain(self.design)
        if self.finetune:  # folders from before there was fine-tuning can be resumed
            facts |= {"finetune": [*self.finetune], "tuning": asdict(self.tuning)}
        return facts


def _plain(thing: Any) -> dict[str, Any]:
    if isinstance(thing, AcrossStores):
        return {"kind": "AcrossStores", "train": thing.train.fingerprint, "group": thing.group}
    fields = {k: [*v] if isinstance(v, tuple) else v for k, v in vars(thing).items()}
    return {"kind": type(thing).__name__} | fields


#: Share of recordings that must have a value for a column to be regressed out by default.
MOSTLY_KNOWN = 0.9


def confound_columns(store: RecordingStore) -> tuple[str, ...]:
    """Return the columns that are regressed out by default.

    Age, sex, site, motion and the scanner's TR, as far as they vary and nine in ten recordings
    have a value. The TR is left out where the site is there, which determines it.
    """
    usable = [c for c in CONFOUNDS if c in store.table and _usable(store.table[c])]
    return tuple(c for c in usable if c != "source_tr" or "site" not in usable)


def _usable(column: pd.Series) -> bool:
    return bool(column.notna().mean() >= MOSTLY_KNOWN) and column.nunique() > 1
