"""Leak alarms.

Every alarm names what it found. "leak": the score does not hold. "warning": something else could
explain it. "notice": it cannot be checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.data.seen import SeenData
from semantoks.data.splits import Fold
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.checks.associations import associations
from semantoks.evaluate.checks.duplicates import find_duplicates
from semantoks.evaluate.compare.targets import Target
from semantoks.evaluate.features.embed import Embedder

Severity = Literal["notice", "warning", "leak"]

_ORDER: tuple[Severity, ...] = ("leak", "warning", "notice")


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """One thing found.

    Parameters
    ----------
    kind : str
        "shared members", "seen in pretraining", "duplicate recordings", "target follows confound"
        or "implausible score".
    what : str
        What is wrong, as a sentence without a full stop.
    severity : {"notice", "warning", "leak"}
    found : tuple of str
        Names of everything found: subjects, sites, recordings, models.
    """

    kind: str
    what: str
    severity: Severity
    found: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self) | {"found": [*self.found]}


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """The score above which a result on a known data set is not plausible.

    Parameters
    ----------
    data_set : str
    sites : frozenset of str
        All sites of the data set, by which it is recognised.
    target : str
    classes : frozenset of str
        Classes of the target.
    metric : str
    value : float
    why : str
        Where the number comes from.
    """

    data_set: str
    sites: frozenset[str]
    target: str
    classes: frozenset[str]
    metric: str
    value: float
    why: str


_ABIDE_SITES = (
    "CALTECH CMU KKI LEUVEN_1 LEUVEN_2 MAX_MUN NYU OHSU OLIN PITT SBL SDSU STANFORD TRINITY UCLA_1 "
    "UCLA_2 UM_1 UM_2 USM YALE"
)

#: Known data sets; `implausible_scores` compares with these.
CEILINGS = (
    Ceiling(
        data_set="ABIDE I",
        sites=frozenset(_ABIDE_SITES.split()),
        target="diagnosis",
        classes=frozenset({"autism", "control"}),
        metric="balanced accuracy",
        value=0.75,
        why="across sites, connectivity with a linear model reaches 0.67 to 0.70",
    ),
)


def leak_alarms(
    store: RecordingStore,
    targets: Sequence[Target | str] = (),
    *,
    folds: Sequence[Fold] = (),
    models: Mapping[str, Any] | None = None,
    scores: pd.DataFrame | None = None,
    trained_on: RecordingStore | None = None,
) -> list[Alarm]:
    """Look for everything in this module.

    Parameters
    ----------
    store : RecordingStore
        What is evaluated on.
    targets : sequence of Target or str
    folds : sequence of Fold
        Rows of the store's table. Recordings in no test part are not tested; without folds
        all are.
    models : mapping of str to Embedder or Encoder, optional
        Fitted; other models fit nothing and pass.
    scores : DataFrame, optional
        `ProbeResult.scores`.
    trained_on : RecordingStore, optional
        Another store that probes are trained on: its recordings must not be in `store`.

    Returns
    -------
    list of Alarm
        Leaks first.
    """
    alarms = shared_members(store.table, folds)
    tested = np.unique(np.concatenate([f.test for f in folds])) if folds else slice(None)
    alarms += seen_in_pretraining(store.table.iloc[tested], models or {})
    alarms += duplicate_recordings(store)
    if trained_on is not None:
        alarms += duplicate_recordings(store, trained_on)
    alarms += targets_that_follow(store.table, targets)
    if scores is not None:
        alarms += implausible_scores(scores, store.table)
    return sorted(alarms, key=lambda alarm: _ORDER.index(alarm.severity))


def shared_members(
    table: pd.DataFrame, folds: Sequence[Fold], columns: Sequence[str] = ("subject", "family")
) -> list[Alarm]:
    """Find subjects and families with recordings in the training and the test part of a fold.

    Parameters
    ----------
    table : DataFrame
        One row per recording.
    folds : sequence of Fold
        Rows of the table.
    columns : sequence of str
        What must not be divided; columns that the table lacks, and missing values, pass.
    """
    alarms = []
    for column in columns:
        if column not in table.columns:
            continue
        known = table[column].notna().to_numpy(bool)
        values = table[column].where(known, "").astype(str).to_numpy(str)
        names: set[str] = set()
        where = []
        for fold in folds:
            train, test = (set(values[r[known[r]]].tolist()) for r in (fold.train, fold.test))
            if train & test:
                where.append(fold.name)
                names |= train & test
        if names:
            what = f"a {column} is in the training and the test part: {len(names)} of them, in "
            what += f"{len(where)} of {len(folds)} folds ({', '.join(where[:3])}"
            what += ", ...)" if len(where) > 3 else ")"
            found = tuple(sorted(names))
            alarms.append(Alarm(kind="shared members", what=what, severity="leak", found=found))
    return alarms


def seen_in_pretraining(table: pd.DataFrame, models: Mapping[str, Any]) -> list[Alarm]:
    """Find tested subjects and sites that a model was pretrained on.

    Parameters
    ----------
    table : DataFrame
        The recordings that are tested.
    models : mapping of str to Embedder or Encoder
        An embedder must be fitted. Random weights, and whatever is no model, have seen no data.

    Raises
    ------
    InputError
        An embedder is not fitted, so that its weights are unknown.
    """
    alarms = []
    subjects = sorted(set(table["subject"].astype(str)))
    sites = set(table["site"].dropna().astype(str)) if "site" in table.columns else set()
    for name, model in models.items():
        record = _record(name, model)
        if record is None:
            continue
        kind = "seen in pretraining"
        lacking = [c for c in ("subjects", "sites") if getattr(record, c) is None]
        if lacking:
            what = (
                f"the weights of {name!r} do not state the {' and '.join(lacking)} they have seen"
            )
            alarms.append(Alarm(kind=kind, what=what, severity="notice", found=(name,)))
        who = tuple(record.subjects_among(subjects) or ())
        if who:
            what = f"{name!r} was pretrained on {len(who)} of the {len(subjects)} tested subjects"
            alarms.append(Alarm(kind=kind, what=what, severity="leak", found=who))
        where = tuple(record.sites_among(sites) or ())
        if where:
            what = f"{name!r} was pretrained on {len(where)} of the {len(sites)} tested sites"
            alarms.append(Alarm(kind=kind, what=what, severity="warning", found=where))
    return alarms


def _record(name: str, model: Any) -> SeenData | None:
    """Return what a model's weights have seen; None for nothing."""
    if isinstance(model, Embedder) and not hasattr(model, "encoder_"):
        raise InputError("is not fitted: its weights are unknown", field="models", value=name)
    record: SeenData | None = getattr(getattr(model, "encoder_", model), "pretraining", None)
    return record


def duplicate_recordings(store: RecordingStore, other: RecordingStore | None = None) -> list[Alarm]:
    """Find the same scan under two names; see `find_duplicates`.

    Parameters
    ----------
    store : RecordingStore
    other : RecordingStore, optional
        Another store, whose recordings are compared with those of `store`.
    """
    alarms = []
    for row in find_duplicates(store, other).to_dict("records"):
        strangers = row["first_subject"] != row["second_subject"] or other is not None
        found = (str(row["first"]), str(row["second"]))
        what = f"{found[0]} and {found[1]} are one scan (r = {row['correlation']:.2f}"
        what += f", {row['shift_s']:+g} s)" if row["shift_s"] else ")"
        what += ", under two subjects" if row["first_subject"] != row["second_subject"] else ""
        severity: Severity = "leak" if strangers else "warning"
        alarms.append(Alarm(kind="duplicate recordings", what=what, severity=severity, found=found))
    return alarms


def targets_that_follow(
    table: pd.DataFrame,
    targets: Sequence[Target | str],
    columns: Sequence[str] | None = None,
) -> list[Alarm]:
    """Find targets that could be predicted from the site, the scanner, the TR or the motion.

    An alarm needs a p below 0.05 after Holm's correction over all pairs, and an effect of at least
    medium size (see `associations`). An effect that all but determines the target is a leak.

    Parameters
    ----------
    table : DataFrame
        One row per recording; the first recording of a subject with a value counts.
    targets : sequence of Target or str
    columns : sequence of str, optional
        Confounds; by default those of `semantoks.evaluate.checks.confounds.ACQUISITION`.
    """
    alarms = []
    for row in associations(table, targets, columns).to_dict("records"):
        if row["p_holm"] >= 0.05 or row["effect"] < row["medium"]:
            continue
        what = f"{row['target']} follows {row['confound']}: {row['effect_name']} "
        what += f"{row['effect']:.2f}, {row['test']} p = {row['p_holm']:.1g} after Holm"
        severity: Severity = "leak" if row["effect"] >= row["determined"] else "warning"
        found = tuple(map(str, row["where"]))
        kind = "target follows confound"
        alarms.append(Alarm(kind=kind, what=what, severity=severity, found=found))
    return alarms


def implausible_scores(
    scores: pd.DataFrame, table: pd.DataFrame, ceilings: Sequence[Ceiling] = CEILINGS
) -> list[Alarm]:
    """Find scores above what a known data set can plausibly give.

    Parameters
    ----------
    scores : DataFrame
        Columns target, model, metric, value, ci_low.
    table : DataFrame
        The recordings; a data set is known by the names of its sites and the target's classes.
    ceilings : sequence of Ceiling

    Returns
    -------
    list of Alarm
        A leak where the whole interval is above the ceiling, else a warning.
    """
    alarms = []
    for ceiling in ceilings:
        if not _is_known(table, ceiling):
            continue
        part = scores[(scores["target"] == ceiling.target) & (scores["metric"] == ceiling.metric)]
        for row in part[part["value"] > ceiling.value].to_dict("records"):
            what = f"{row['model']!r} predicts {ceiling.target} of {ceiling.data_set} with a "
            what += f"{ceiling.metric} of {row['value']:.2f}; above {ceiling.value:g} is a leak "
            what += f"until proven otherwise ({ceiling.why})"
            severity: Severity = "leak" if row["ci_low"] > ceiling.value else "warning"
            found = (str(row["model"]),)
            alarms.append(
                Alarm(kind="implausible score", what=what, severity=severity, found=found)
            )
    return alarms


def _is_known(table: pd.DataFrame, ceiling: Ceiling) -> bool:
    if "site" not in table.columns or ceiling.target not in table.columns:
        return False
    sites = set(table["site"].dropna().astype(str))
    classes: NDArray[Any] = table[ceiling.target].dropna().astype(str).unique()
    return bool(sites) and sites <= ceiling.sites and set(classes) <= ceiling.classes
