"""`Plan`: the question of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal, get_args

import pandas as pd

from semantoks.config import override, parse
from semantoks.data.designs import AcrossStores, Design, GroupedKFold, SmallSamples
from semantoks.data.splits import check_column
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.compare.evaluation import Probe
from semantoks.evaluate.compare.targets import Target
from semantoks.evaluate.features.baselines import BASELINES, baseline_names
from semantoks.evaluate.features.covariates import CONFOUNDS
from semantoks.evaluate.predictors.linear import LinearModel
from semantoks.evaluate.predictors.tuning import Train, Tuning
from semantoks.evaluate.stats.metrics import METRICS
from semantoks.flags import Flag
from semantoks.text import number


def _targets(texts: Sequence[str]) -> tuple[Target, ...]:
    return tuple(map(Target.parse, texts))


def _baselines() -> tuple[str, ...]:
    return tuple(baseline.option for baseline in BASELINES.values())


def _metrics() -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for of_kind in METRICS.values() for name in of_kind))


def _curve(sizes: Sequence[str]) -> SmallSamples:
    return SmallSamples(n_subjects=tuple(map(_size, sizes)))


def _size(text: str) -> int | float:
    value = number(text.removesuffix("%"))
    share = text.endswith("%")
    if value is None or not (0 < value < 100 if share else value >= 2 and value % 1 == 0):
        rule = "must be a number of people, or a share of the training part below 100 %"
        raise InputError(rule, field="n_train", value=text, fix="Give e.g. 64 or 25%")
    return value / 100 if share else int(value)


def _minutes(texts: Sequence[str]) -> tuple[float, ...]:
    return tuple(map(_positive, texts))


def _positive(text: str) -> float:
    value = number(text)
    if value is None or not 0 < value < math.inf:
        raise InputError("must be a positive number", field="minutes", value=text)
    return value


def _probe(model: LinearModel) -> Probe:
    return Probe(model=model)


def _probes() -> tuple[str, ...]:
    return get_args(LinearModel)


def _opened(paths: Sequence[str]) -> tuple[RecordingStore, ...]:
    return tuple(RecordingStore(path) for path in paths)


def _parts() -> tuple[str, ...]:
    from semantoks.model.readout import PARTS

    return PARTS


def _tuning(texts: Sequence[str]) -> Tuning:
    return parse(Tuning, override({}, texts))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The question of an evaluation; a folder holds the answer to one of them.

    Raises
    ------
    InputError
        There is no target, or a number is below 1.

    See Also
    --------
    evaluate_store : Answers it.

    Examples
    --------
    >>> from semantoks import Plan, Target
    >>> from semantoks.data.designs import LeaveOneSiteOut
    >>> plan = Plan(targets=(Target("diagnosis"),), design=LeaveOneSiteOut())
    >>> plan.n_random
    5
    """

    targets: Annotated[tuple[Target, ...], Flag(name="--target", metavar="COLUMN", read=_targets)]
    """Predict this column; column:classification, :ordinal or :regression states its kind,
    column:classification:CLASS also the positive class; column:regression:log its logarithm."""
    design: Annotated[Design, Flag(hidden=True)] = field(default_factory=GroupedKFold)
    """How people are divided."""
    baselines: Annotated[
        tuple[str, ...],
        Flag(name="--baseline", metavar="NAME", read=baseline_names, known=_baselines),
    ] = ()
    """Compare with this baseline too; fc is always included."""
    beside: Annotated[
        tuple[str, ...],
        Flag(name="--beside", metavar="NAME", read=baseline_names, known=_baselines),
    ] = ()
    """Evaluate every model side by side with this baseline too: what it adds to the baseline."""
    missing: Annotated[Literal["refuse", "drop"], Flag(name="--drop-missing", on="drop")] = "refuse"
    """Leave out recordings without a value of the target, instead of refusing the store."""
    probe: Annotated[Probe, Flag(read=_probe, known=_probes, shown="ridge", panel="Model")] = field(
        default_factory=Probe
    )
    """Fit this linear model to the features; numbers are always predicted by ridge regression."""
    n_crops: Annotated[int, Flag(name="--crops", metavar="N", panel="Model")] = 8
    """Average over this many evenly spaced crops per recording."""
    n_random: Annotated[int, Flag(name="--random-draws", metavar="N", panel="Model")] = 5
    """Draw the random weights that models are compared with this many times."""
    parts: Annotated[
        tuple[str, ...], Flag(name="--part", metavar="NAME", known=_parts, panel="Model")
    ] = ()
    """Read this part of the embeddings; by default what suits the model."""
    residualise: Annotated[tuple[str, ...], Flag(metavar="COLUMN")] = ()
    """Take the linear effect of this column from targets that are numbers, fitted in the training
    part of every fold."""
    metric: Annotated[tuple[str, ...], Flag(metavar="NAME", known=_metrics)] = ()
    """Let this metric decide, chosen before any result; by default AUROC and MAE gain."""
    curve: Annotated[
        SmallSamples | None,
        Flag(name="--n-train", metavar="N", panel="Design", read=_curve, several=True),
    ] = None
    """Fit to only this many people too, or this share (25%), drawn from the training part."""
    minutes: Annotated[
        tuple[float, ...], Flag(metavar="MINUTES", panel="Design", read=_minutes, several=True)
    ] = ()
    """Fit and test on only the first so many minutes of every recording too; who has less than the
    longest is excluded from all of these scores."""
    finetune: Annotated[tuple[Train, ...], Flag(metavar="WAY", panel="Fine-tuning")] = ()
    """Fine-tune every model in this way too."""
    tuning: Annotated[
        Tuning,
        Flag(
            name="--finetune-option",
            metavar="KEY=VALUE",
            panel="Fine-tuning",
            read=_tuning,
            several=True,
        ),
    ] = field(default_factory=Tuning)
    """Change an option of the fine-tuning, e.g. epochs=20 or patience=5."""
    confounds: Annotated[
        tuple[str, ...] | None, Flag(name="--confound", metavar="COLUMN", panel="Confounds")
    ] = None
    """Regress this column out of the features; by default age, sex, site and motion."""
    harmonise: Annotated[str | None, Flag(metavar="COLUMN", panel="Confounds")] = "site"
    """Harmonise the batches of this column by ComBat."""
    keep: Annotated[
        tuple[str, ...],
        Flag(name="--harmonise-keep", metavar="COLUMN", panel="Confounds"),
    ] = ()
    """Keep what this column explains in ComBat; a target never is."""
    pretraining: Annotated[
        tuple[RecordingStore, ...],
        Flag(
            name="--pretraining-store", metavar="STORE", panel="Model", read=_opened, several=True
        ),
    ] = ()
    """Look for tested scans in this store, which a model was pretrained on."""
    n_bootstrap: Annotated[int, Flag(metavar="N")] = 1000
    """Draw this many bootstrap samples of people for intervals of reliability and confounds."""
    seed: Annotated[int, Flag(metavar="N")] = 0
    """Draw folds, random weights and permutations by this seed."""

    def __post_init__(self) -> None:
        if not self.targets:
            raise InputError("must name at least one column", field="targets")
        if self.residualise:
            named = [replace(target, residualise=self.residualise) for target in self.targets]
            object.__setattr__(self, "targets", tuple(named))
        for name in ("n_crops", "n_random", "n_bootstrap"):
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
            "keep": self.keep,
            "residualise": self.residualise,
        }
        for name, columns in named.items():
            for column in columns:
                check_column(store.table, column, store.path, name)

    def settings(self) -> dict[str, Any]:
        """Return the plan as plain values; plans with equal values ask the same question."""
        facts: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("harmonise", "missing", "n_crops", "n_random", "n_bootstrap", "seed")
        }
        facts["targets"] = [_plain_target(target) for target in self.targets]
        facts["baselines"] = [*self.baselines]
        facts |= {"beside": [*self.beside], "keep": [*self.keep]}
        facts["confounds"] = None if self.confounds is None else [*self.confounds]
        facts["probe"] = self.probe.settings()
        facts["curve"] = None if self.curve is None else _plain(self.curve)
        facts["design"] = _plain(self.design)
        if self.parts:  # folders from before there were parts can be resumed
            facts["parts"] = [*self.parts]
        facts["metric"] = [*self.metric]
        if self.minutes:
            facts["minutes"] = [*self.minutes]
        if self.finetune:  # folders from before there was fine-tuning can be resumed
            facts |= {"finetune": [*self.finetune], "tuning": asdict(self.tuning)}
        if self.pretraining:
            facts["pretraining"] = sorted(store.fingerprint for store in self.pretraining)
        return facts


def _plain_target(target: Target) -> dict[str, Any]:
    """Return a target; without covariates as folders have it from before there were any."""
    facts = asdict(target)
    return facts if target.residualise else {k: v for k, v in facts.items() if k != "residualise"}


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
    have a value. The TR is omitted where the site, which determines it, is known.
    """
    usable = [c for c in CONFOUNDS if c in store.table and _usable(store.table[c])]
    return tuple(c for c in usable if c != "source_tr" or "site" not in usable)


def _usable(column: pd.Series) -> bool:
    return bool(column.notna().mean() >= MOSTLY_KNOWN) and column.nunique() > 1
