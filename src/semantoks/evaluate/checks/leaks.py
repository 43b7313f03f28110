"""Leak alarms. Every alarm names what it found; see `semantoks.evaluate.checks.alarm`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.arrays import Rows
from semantoks.data.seen import Person, SeenData, data_sets, people_of
from semantoks.data.splits import Fold
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.checks.alarm import SEVERITIES, Alarm, Severity
from semantoks.evaluate.checks.associations import associations
from semantoks.evaluate.checks.copies import duplicate_recordings, shared_recordings
from semantoks.evaluate.compare.targets import Target
from semantoks.evaluate.features.embed import Embedder

#: Kind of the alarms about pretraining.
SEEN = "seen in pretraining"


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
    pretrained_on: Sequence[RecordingStore] = (),
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
        Recordings of another store that probes are trained on: none of them may be tested.
    pretrained_on : sequence of RecordingStore
        What models were pretrained on: none of these recordings may be tested.

    Returns
    -------
    list of Alarm
        Leaks first.
    """
    alarms = shared_members(store.table, folds)
    every = np.arange(len(store))
    tested = np.unique(np.concatenate([f.test for f in folds])) if folds else every
    alarms += seen_in_pretraining(store, models or {}, tested)
    alarms += duplicate_recordings(store, folds)
    if trained_on is not None:
        alarms += shared_recordings(store.select(tested), trained_on, "training")
    for other in pretrained_on:
        alarms += shared_recordings(store.select(tested), other, "pretraining")
    alarms += _not_compared(models or {}, pretrained_on)
    alarms += targets_that_follow(store.table, targets)
    if scores is not None:
        alarms += implausible_scores(scores, store.table)
    return sorted(alarms, key=lambda alarm: SEVERITIES.index(alarm.severity))


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
            alarms.append(
                Alarm(
                    kind="shared members", what=what, severity="leak", found=found, of_people=True
                )
            )
    return alarms


def seen_in_pretraining(
    store: RecordingStore, models: Mapping[str, Any], tested: Rows | None = None
) -> list[Alarm]:
    """Find tested subjects and sites that a model was pretrained on.

    A subject is a leak if the data set is the same. Subjects who only share their name with others,
    of another data set, are a notice; a warning where older weights do not state the data set.

    Parameters
    ----------
    store : RecordingStore
    models : mapping of str to Embedder or Encoder
        An embedder must be fitted. Random weights, and whatever is no model, have seen no data.
    tested : int array, optional
        Rows of the store that are tested; by default all.

    Raises
    ------
    InputError
        An embedder is not fitted, so that its weights are unknown.
    """
    part = store if tested is None else store.select(tested)
    people, sites = people_of(part), set(part.table["site"].dropna().astype(str))
    alarms = []
    for name, model in models.items():
        record = _record(name, model)
        if record is None:
            continue
        lacking = [c for c in ("subjects", "sites") if getattr(record, c) is None]
        if lacking:
            what = (
                f"the weights of {name!r} do not state the {' and '.join(lacking)} they have seen"
            )
            alarms.append(Alarm(kind=SEEN, what=what, severity="notice", found=(name,)))
        alarms += _people_seen(name, record, people)
        where = tuple(record.sites_among(sites) or ())
        if where:
            ours = set(data_sets(part))
            alike = record.data_sets is not None and not ours & set(record.data_sets)
            what = f"{name!r} was pretrained on {len(where)} of the {len(sites)} tested sites"
            what = f"{what[:-5]}site names, in another data set" if alike else what
            severity: Severity = "notice" if alike else "warning"
            alarms.append(Alarm(kind=SEEN, what=what, severity=severity, found=where))
    return alarms


def _people_seen(name: str, record: SeenData, people: Collection[Person]) -> Iterator[Alarm]:
    overlap = record.seen_among(people)
    if overlap is None:
        return
    of = f"of the {len(people)} tested subjects"
    if overlap.people:
        what = f"{name!r} was pretrained on {len(overlap.people)} {of}"
        yield Alarm(kind=SEEN, what=what, severity="leak", found=overlap.people, of_people=True)
    if overlap.unstated:
        what = f"{name!r} was pretrained on subjects with the names of {len(overlap.unstated)} {of}"
        what += "; its weights do not state of which data set"
        yield Alarm(
            kind=SEEN, what=what, severity="warning", found=overlap.unstated, of_people=True
        )
    if overlap.names:
        what = f"same names: {len(overlap.names)} {of} are called like subjects of another data set"
        what += f" ({', '.join(record.data_sets or ('unknown',))}) that {name!r} was pretrained on"
        yield Alarm(kind=SEEN, what=what, severity="notice", found=overlap.names, of_people=True)


def _record(name: str, model: Any) -> SeenData | None:
    """Return what a model's weights have seen; None for nothing."""
    if isinstance(model, Embedder) and not hasattr(model, "encoder_"):
        raise InputError("is not fitted: its weights are unknown", field="models", value=name)
    record: SeenData | None = getattr(getattr(model, "encoder_", model), "pretraining", None)
    return record


def _not_compared(
    models: Mapping[str, Any], pretrained_on: Sequence[RecordingStore]
) -> Iterator[Alarm]:
    """Name the stores in pretraining whose scans could not be looked for."""
    given = {store.path.name for store in pretrained_on}
    for name, model in models.items():
        record = _record(name, model)
        absent = [] if record is None else sorted({s.name for s in record.stores} - given)
        if absent:
            what = f"scans were not compared with those that {name!r} was pretrained on: the "
            what += "stores are not given (--pretraining-store)"
            kind = "duplicate recordings"
            yield Alarm(kind=kind, what=what, severity="notice", found=tuple(absent))


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
