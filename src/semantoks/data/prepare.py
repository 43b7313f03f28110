"""Preparation at scale: from a source to a store, in parallel, in shards, resumable.

1. Every recording is read, checked, encoded and measured on its own, in any order, by any process,
   and kept as one file in ``STORE.partial``. A recording that cannot be used leaves its error.
2. When all have been tried, the store is written from those files in the order of the source: what
   it holds does not depend on how the work was done. Then the partial folder is removed, unless a
   recording failed: once its file is repaired and the store deleted, the others are not read again.

Rerunning a killed run resumes it: no recording is read again unless its files changed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.data.cohort import contradictions
from semantoks.data.encode import INDEX_COLUMNS, Encoded, StoreSpec, encode
from semantoks.data.layout import HEADER
from semantoks.data.parts import Parts
from semantoks.data.phenotypes import JoinReport, Phenotypes, check_overlap, join_report
from semantoks.data.quality import (
    METRICS,
    QualityRules,
    measure,
    network_connectivity,
    outliers,
    typicality,
)
from semantoks.data.reader import RecordingStore
from semantoks.data.remarks import doubled, gathered, one_spelling, partly_joined
from semantoks.data.shards import of_shard
from semantoks.data.sources.items import Item
from semantoks.data.store import StoreWriter
from semantoks.errors import InputError, SemantoksError, StoreError, fault

QUALITY, CARPETS = "quality.parquet", "carpets.npz"
N_CARPETS = 4  # of the worst, and of the best recordings
_CARPET_ROWS, _CARPET_TIMES = 300, 600
_MEASURED = ("tr", "mean_fd", "censored_fraction")

#: Called with the numbers of recordings tried, failed, and altogether.
Progress = Callable[[int, int, int], None]


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """What became of the recordings of a source.

    Parameters
    ----------
    store : Path
    finished : bool
        Whether the store is written; a shard alone writes none.
    quality : DataFrame
        One row per recording: id, subject, status (stored, excluded, failed), reason, what was
        measured, outliers.
    join : JoinReport or None
        What did not join with the phenotypes.
    remarks : tuple of str
        What is worth a look.
    """

    store: Path
    finished: bool
    quality: pd.DataFrame = field(repr=False)
    join: JoinReport | None = None
    remarks: tuple[str, ...] = ()

    def count(self, status: str) -> int:
        """Return how many recordings have a status."""
        return int((self.quality["status"] == status).sum())


def prepare(
    items: Sequence[Item],
    path: str | Path,
    spec: StoreSpec,
    *,
    phenotypes: Phenotypes | None = None,
    rules: QualityRules | None = None,
    varying: Sequence[str] = (),
    keep_case: Sequence[str] = (),
    n_jobs: int = 1,
    shard: tuple[int, int] | None = None,
    provenance: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> PrepareReport:
    """Read recordings, encode them, and write a store.

    Parameters
    ----------
    items : sequence of Item
        `semantoks.data.sources.find.find_items`.
    path : path
        Folder of the new store. ``PATH.partial`` holds what is done so far.
    spec : StoreSpec
        What every recording is brought to.
    phenotypes : Phenotypes, optional
        Joined by subject and session.
    rules : QualityRules, optional
        What excludes a recording.
    varying : sequence of str
        See `StoreWriter`.
    keep_case : sequence of str
        Phenotypes whose values differ where they differ in spelling only (`spelled`); those of all
        others then get one spelling, the most frequent.
    n_jobs : int
        Processes; each holds one recording at a time.
    shard : (int, int), optional
        (i, n): only every n-th recording, from the i-th of 1 to n, and no store. Once all shards
        are done, the same call without it writes the store.
    provenance : dict, optional
        How the source was read, for the header; plain values.
    progress : callable, optional

    Returns
    -------
    PrepareReport

    Raises
    ------
    StoreError
        The store exists and is another one, the partial folder belongs to other settings, or the
        device is full; what was done stays and is continued by the next call.
    InputError
        There is no recording, or none that could be used.
    """
    target, rules = Path(path), rules or QualityRules()
    if not items:
        raise InputError("the source holds no recordings", field="items")
    settings = {"spec": spec.to_dict(), "source": provenance or {}}
    facts = {
        **settings,
        "items": [
            [s["id"], [size for size, _ in s["files"]], s["facts"]] for s in _signatures(items)
        ],
        "rules": asdict(rules),
        "phenotypes": None if phenotypes is None else str(sorted(phenotypes.rows.items(), key=str)),
        **({"keep_case": sorted(keep_case)} if keep_case else {}),
    }
    key = _digest(facts)
    keys = [(item.id, _who(item)) for item in items]
    if phenotypes is not None:
        check_overlap(phenotypes, keys)
    if (target / HEADER).exists():
        return _existing(target, key, phenotypes, keys)
    refused = contradictions(
        {item.id: _facts(item) for item in items}, phenotypes, varying=varying, keep_case=keep_case
    )
    parts = Parts(target.with_name(target.name + ".partial"), settings)
    chosen = list(items) if shard is None else of_shard(items, shard)
    _work([item for item in chosen if item.id not in refused], parts, spec, n_jobs, progress)
    notes = {item.id: note for item in chosen if (note := parts.note(item)) is not None}
    notes |= {item.id: {"error": refused[item.id]} for item in chosen if item.id in refused}
    join = None if phenotypes is None else join_report(phenotypes, keys)
    if shard is not None:
        table = pd.DataFrame([_outcome(item, notes.get(item.id)) for item in chosen])
        return PrepareReport(store=target, finished=False, quality=table, join=join)
    quality = _judge(items, parts, notes, rules)
    rows, spelled = _rows(quality, notes, phenotypes, keep_case)
    remarks = [
        *settings["source"].get("notes", []),
        *(phenotypes.notes if phenotypes else ()),
        *(partly_joined(join) if join else ()),
        *spelled,
        *_remarks(quality, notes),
    ]
    told = {**settings["source"], "notes": remarks}
    told |= {"censoring": settings["spec"]["censoring"], "key": key}
    _write(target, items, parts, spec, quality, rows, varying, told)
    if not (quality["status"] == "failed").any():
        parts.remove()
    return PrepareReport(
        store=target, finished=True, quality=quality, join=join, remarks=tuple(remarks)
    )


def _signatures(items: Sequence[Item]) -> Iterator[dict[str, Any]]:
    return (item.signature() for item in items)


def _who(item: Item) -> tuple[str, str | None]:
    """Return subject and session of an item, from its identifier."""
    entities = dict(part.split("-", 1) for part in item.id.split("_") if "-" in part)
    subject = item.facts.get("subject") or entities.get("sub", "")
    return str(subject), item.facts.get("session") or entities.get("ses")


def _facts(item: Item) -> dict[str, Any]:
    """Return what is known of a recording before it is read, without what is measured."""
    subject, session = _who(item)
    own = {k: v for k, v in item.facts.items() if k != "phenotypes" and k not in _MEASURED}
    return {**own, "subject": subject, "session": session}


def _existing(target: Path, key: str, phenotypes: Phenotypes | None, keys: Any) -> PrepareReport:
    """Return the report of a store that this very call has written before."""
    store = RecordingStore(target)
    if store.header.get("provenance", {}).get("key") != key:
        rule = "holds a store made with other settings, which is not overwritten"
        raise StoreError(rule, file=target, fix="Choose another folder, or delete this one first")
    join = None if phenotypes is None else join_report(phenotypes, keys)
    table = pd.read_parquet(target / QUALITY)
    remarks = tuple(store.header["provenance"].get("notes", []))
    return PrepareReport(store=target, finished=True, quality=table, join=join, remarks=remarks)


# -- one recording at a time -----------------------------------------------------------------------


def _work(
    items: Sequence[Item],
    parts: Parts,
    spec: StoreSpec,
    n_jobs: int,
    progress: Progress | None,
) -> None:
    todo = [item for item in items if not parts.done(item)]
    tried, failed = len(items) - len(todo), 0
    report = progress or (lambda *_: None)
    report(tried, failed, len(items))
    for succeeded in _outcomes(todo, parts, spec, n_jobs):
        tried, failed = tried + 1, failed + (not succeeded)
        report(tried, failed, len(items))


def _outcomes(todo: Sequence[Item], parts: Parts, spec: StoreSpec, n_jobs: int) -> Iterator[bool]:
    if n_jobs == 1 or len(todo) < 2:
        yield from (_one(item, parts, spec) for item in todo)
        return
    from joblib import Parallel, delayed

    work = (delayed(_one)(item, parts, spec) for item in todo)
    yield from Parallel(n_jobs=n_jobs, return_as="generator_unordered")(work)


def _one(item: Item, parts: Parts, spec: StoreSpec) -> bool:
    """Read, encode and measure one recording; keep the result, or why there is none."""
    try:
        recording = item.load()
        encoded = encode(recording, spec)
        quality = measure(recording, encoded, spec.preprocessing.tr)
        profile = network_connectivity(encoded.signal, spec.parcellation)
    except SemantoksError as error:
        parts.save(item, {"error": str(error)}, {})
        return False
    except Exception as error:  # one recording must not stop the cohort, whatever it does
        parts.save(item, {"error": fault(error, item.files[0] if item.files else item.id)}, {})
        return False
    note = {
        "row": encoded.row,
        "source": encoded.source,
        "quality": quality,
        "notes": [*item.notes, *recording.notes],
        "digest": sha256(encoded.signal.tobytes()).hexdigest(),
    }
    arrays: dict[str, NDArray[Any]] = {
        "signal": encoded.signal,
        "kept": np.asarray(encoded.kept),
        "profile": profile.astype(np.float32),
    }
    parts.save(item, note, arrays)
    return True


# -- the store -------------------------------------------------------------------------------------


def _outcome(item: Item, note: dict[str, Any] | None) -> dict[str, Any]:
    """Return one row of the table of quality."""
    if note is None:
        return {"id": item.id, "status": "not tried", "reason": ""}
    subject, session = _who(item)
    row = {"id": item.id, "subject": subject, "session": session}
    if "error" in note:
        return {**row, "status": "failed", "reason": note["error"]}
    return {**row, "status": "stored", "reason": "", **note["quality"]}


def _judge(
    items: Sequence[Item], parts: Parts, notes: Mapping[str, dict[str, Any]], rules: QualityRules
) -> pd.DataFrame:
    """Return the table of quality: who is stored, excluded or failed, and why."""
    rows = [_outcome(item, notes.get(item.id)) for item in items]
    usable = [i for i, row in enumerate(rows) if row["status"] == "stored"]
    if not usable:
        reasons = [str(row["reason"]) for row in rows]
        parts.remove()  # nothing in it is worth keeping
        rule = f"none of {len(items)} recordings could be used; the first: {reasons[0]}"
        raise InputError(rule)
    profiles = [parts.array(items[i], "profile") for i in usable]
    for i, value in zip(usable, typicality(profiles), strict=True):
        rows[i]["typicality"] = float(value)
    table = pd.DataFrame(rows, columns=["id", "subject", "session", "status", "reason", *METRICS])
    for name in METRICS:
        table[name] = pd.to_numeric(table[name]).astype(np.float64)
    table["outliers"] = outliers(table)
    for i in usable:
        table.loc[i, ["status", "reason"]] = rules.judge(rows[i])
    if not (table["status"] == "stored").any():
        rule = f"all recordings are excluded by the rules; the first: {table['reason'][0]}"
        raise InputError(rule, file=parts.folder, field="rules")
    return table


def _remarks(quality: pd.DataFrame, notes: Mapping[str, dict[str, Any]]) -> list[str]:
    """Return what is worth a look in the recordings that could be used."""
    ids = quality["id"][quality["status"].isin(["stored", "excluded"])]
    told = gathered((id_, notes[id_].get("notes", [])) for id_ in ids)
    return [*told, *doubled({id_: notes[id_].get("digest", id_) for id_ in ids})]


def _rows(
    quality: pd.DataFrame,
    notes: Mapping[str, dict[str, Any]],
    phenotypes: Phenotypes | None,
    keep_case: Sequence[str],
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the rows of the index with their phenotypes, by recording, and remarks on them."""
    rows = {}
    for id_ in quality["id"][quality["status"] == "stored"]:
        row = notes[id_]["row"]
        rows[id_] = phenotypes.fill(row, notes[id_]["source"]) if phenotypes else row
    names = {name for row in rows.values() for name in row} - set(INDEX_COLUMNS) | {"site"}
    told = []
    for name in sorted(names - set(keep_case)):
        spelling, remarks = one_spelling(name, [row.get(name) for row in rows.values()])
        told += remarks
        for row in rows.values() if spelling else ():
            row[name] = spelling.get(row.get(name), row.get(name))
    return rows, told


def _write(
    target: Path,
    items: Sequence[Item],
    parts: Parts,
    spec: StoreSpec,
    quality: pd.DataFrame,
    rows: Mapping[str, dict[str, Any]],
    varying: Sequence[str],
    provenance: dict[str, Any],
) -> None:
    order = worst_first(quality)
    shown, pictures = {*order[:N_CARPETS], *order[-N_CARPETS:]}, {}
    with StoreWriter(target, spec, varying=varying, provenance=provenance) as writer:
        for i, item in enumerate(items):
            if item.id not in rows and i not in shown:
                continue
            signal = parts.array(item, "signal")
            if i in shown:
                pictures[item.id] = _carpet(signal, spec)
            if item.id in rows:
                source = str((parts.note(item) or {})["source"])
                kept = parts.array(item, "kept")
                writer.append(Encoded(rows[item.id], signal, source, kept))
        stream = io.BytesIO()
        quality.to_parquet(stream, index=False)
        writer.attach(QUALITY, stream.getvalue())
        stream = io.BytesIO()
        np.savez_compressed(stream, allow_pickle=False, **pictures)
        writer.attach(CARPETS, stream.getvalue())


def _carpet(signal: NDArray[np.float16], spec: StoreSpec) -> NDArray[np.uint8]:
    """Return a small picture of a recording, ROIs x time in shades."""
    rois = np.concatenate(spec.parcellation.network_indices)
    x = signal.astype(np.float32)
    rows = _thin(len(rois), _CARPET_ROWS)
    picture = x / np.maximum(x.std(axis=0), 1e-6)
    picture = picture[_thin(len(x), _CARPET_TIMES)][:, rois[rows]].T
    return np.asarray(np.clip(128 + picture * 42, 0, 255), np.uint8)


def worst_first(quality: pd.DataFrame) -> list[int]:
    """Return the rows that were measured, by mean FD where all have it, else by DVARS."""
    measured = quality[quality["status"].isin(["stored", "excluded"])]
    by = "mean_fd" if measured["mean_fd"].notna().all() else "dvars"
    ordered = measured.sort_values([by, "id"], ascending=[False, True])
    return [int(i) for i in ordered.index]


def _thin(n: int, at_most: int) -> NDArray[np.intp]:
    return np.unique(np.linspace(0, n - 1, min(n, at_most)).astype(np.intp))


def _digest(facts: dict[str, Any]) -> str:
    return sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
