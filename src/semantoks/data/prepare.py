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
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.data.encode import Encoded, StoreSpec, encode
from semantoks.data.layout import FORMAT_VERSION, HEADER
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
from semantoks.data.remarks import doubled, gathered
from semantoks.data.shards import of_shard, open_partial, write_part
from semantoks.data.sources.items import Item
from semantoks.data.store import StoreWriter
from semantoks.errors import InputError, SemantoksError, StoreError, fault

QUALITY, CARPETS = "quality.parquet", "carpets.npz"
N_CARPETS = 4  # of the worst, and of the best recordings
_CARPET_ROWS, _CARPET_TIMES = 300, 600

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
    """

    store: Path
    finished: bool
    quality: pd.DataFrame = field(repr=False)
    join: JoinReport | None = None

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
    }
    key = _digest(facts)
    keys = [(item.id, _who(item)) for item in items]
    if phenotypes is not None:
        check_overlap(phenotypes, keys)
    if (target / HEADER).exists():
        return _existing(target, key, phenotypes, keys)
    parts = _Parts(target.with_name(target.name + ".partial"), settings)
    _work(items, parts, spec, n_jobs, shard, progress)
    join = None if phenotypes is None else join_report(phenotypes, keys)
    if shard is not None:
        chosen = of_shard(items, shard)
        table = pd.DataFrame([parts.outcome(item) for item in chosen])
        return PrepareReport(store=target, finished=False, quality=table, join=join)
    quality, notes = _judge(items, parts, rules)
    told = {**settings["source"], "notes": [*settings["source"].get("notes", []), *notes]}
    told |= {"censoring": settings["spec"]["censoring"], "key": key}
    _write(target, items, parts, spec, quality, phenotypes, varying, told)
    if not (quality["status"] == "failed").any():
        parts.remove()
    return PrepareReport(store=target, finished=True, quality=quality, join=join)


def _signatures(items: Sequence[Item]) -> Iterator[dict[str, Any]]:
    return (item.signature() for item in items)


def _who(item: Item) -> tuple[str, str | None]:
    """Return subject and session of an item, from its identifier."""
    entities = dict(part.split("-", 1) for part in item.id.split("_") if "-" in part)
    subject = item.facts.get("subject") or entities.get("sub", "")
    return str(subject), item.facts.get("session") or entities.get("ses")


def _existing(target: Path, key: str, phenotypes: Phenotypes | None, keys: Any) -> PrepareReport:
    """Return the report of a store that this very call has written before."""
    store = RecordingStore(target)
    if store.header.get("provenance", {}).get("key") != key:
        rule = "holds a store made with other settings, which is not overwritten"
        raise StoreError(rule, file=target, fix="Choose another folder, or delete this one first")
    join = None if phenotypes is None else join_report(phenotypes, keys)
    table = pd.read_parquet(target / QUALITY)
    return PrepareReport(store=target, finished=True, quality=table, join=join)


# -- one recording at a time -----------------------------------------------------------------------


class _Parts:
    """The folder of what is done so far: one file per recording, each written by rename."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        # Parts of another format lack arrays that this one stores.
        open_partial(folder, {**settings, "store format": FORMAT_VERSION})

    def place(self, item: Item) -> Path:
        return self.folder / f"{sha256(item.id.encode()).hexdigest()[:24]}.npz"

    def done(self, item: Item) -> bool:
        """Say whether the recording was encoded from the files as they are now."""
        loaded = self.load(item)
        return loaded is not None and loaded[0]["signature"] == item.signature()

    def load(self, item: Item) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
        path = self.place(item)
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
        return json.loads(str(arrays.pop("note"))), arrays

    def save(self, item: Item, note: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> None:
        stream = io.BytesIO()
        text = json.dumps({**note, "signature": item.signature()}, default=_plain)
        np.savez(stream, note=np.array(text), **arrays)
        write_part(self.place(item), stream.getvalue())

    def outcome(self, item: Item) -> dict[str, Any]:
        """Return one row of the table of quality."""
        loaded = self.load(item)
        if loaded is None:
            return {"id": item.id, "status": "not tried", "reason": ""}
        note = loaded[0]
        subject, session = _who(item)
        row = {"id": item.id, "subject": subject, "session": session}
        if "error" in note:
            return {**row, "status": "failed", "reason": note["error"]}
        told = {"notes": note.get("notes", []), "digest": note.get("digest", item.id)}
        return {**row, "status": "stored", "reason": "", **note["quality"], **told}

    def remove(self) -> None:
        shutil.rmtree(self.folder)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no plain value")


def _work(
    items: Sequence[Item],
    parts: _Parts,
    spec: StoreSpec,
    n_jobs: int,
    shard: tuple[int, int] | None,
    progress: Progress | None,
) -> None:
    chosen = list(items) if shard is None else of_shard(items, shard)
    todo = [item for item in chosen if not parts.done(item)]
    tried, failed = len(chosen) - len(todo), 0
    report = progress or (lambda *_: None)
    report(tried, failed, len(chosen))
    for succeeded in _outcomes(todo, parts, spec, n_jobs):
        tried, failed = tried + 1, failed + (not succeeded)
        report(tried, failed, len(chosen))


def _outcomes(todo: Sequence[Item], parts: _Parts, spec: StoreSpec, n_jobs: int) -> Iterator[bool]:
    if n_jobs == 1 or len(todo) < 2:
        yield from (_one(item, parts, spec) for item in todo)
        return
    from joblib import Parallel, delayed

    work = (delayed(_one)(item, parts, spec) for item in todo)
    yield from Parallel(n_jobs=n_jobs, return_as="generator_unordered")(work)


def _one(item: Item, parts: _Parts, spec: StoreSpec) -> bool:
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


def _judge(
    items: Sequence[Item], parts: _Parts, rules: QualityRules
) -> tuple[pd.DataFrame, list[str]]:
    """Return the table of quality (who is stored, excluded or failed, and why), and remarks."""
    rows = [parts.outcome(item) for item in items]
    usable = [i for i, row in enumerate(rows) if row["status"] == "stored"]
    if not usable:
        reasons = [str(row["reason"]) for row in rows]
        parts.remove()  # nothing in it is worth keeping
        rule = f"none of {len(items)} recordings could be used; the first: {reasons[0]}"
        raise InputError(rule)
    profiles = []
    for i in usable:
        loaded = parts.load(items[i])
        assert loaded is not None
        profiles.append(loaded[1]["profile"])
    for i, value in zip(usable, typicality(profiles), strict=True):
        rows[i]["typicality"] = float(value)
    table = pd.DataFrame(rows, columns=["id", "subject", "session", "status", "reason", *METRICS])
    for name in METRICS:
        table[name] = pd.to_numeric(table[name]).astype(np.float64)
    table["outliers"] = outliers(table)
    for i in usable:
        reason = rules.reason(rows[i])
        if reason:
            table.loc[i, ["status", "reason"]] = ["excluded", reason]
    if not (table["status"] == "stored").any():
        rule = f"all recordings are excluded by the rules; the first: {table['reason'][0]}"
        raise InputError(rule, file=parts.folder, field="rules")
    stored = [rows[i] for i in usable]
    remarks = gathered((row["id"], row["notes"]) for row in stored)
    return table, [*remarks, *doubled({row["id"]: row["digest"] for row in stored})]


def _write(
    target: Path,
    items: Sequence[Item],
    parts: _Parts,
    spec: StoreSpec,
    quality: pd.DataFrame,
    phenotypes: Phenotypes | None,
    varying: Sequence[str],
    provenance: dict[str, Any],
) -> None:
    with StoreWriter(target, spec, varying=varying, provenance=provenance) as writer:
        for item, status in zip(items, quality["status"], strict=True):
            if status != "stored":
                continue
            loaded = parts.load(item)
            assert loaded is not None
            note, arrays = loaded
            row = note["row"]
            if phenotypes is not None:
                row = phenotypes.fill(row, note["source"])
            writer.append(Encoded(row, arrays["signal"], note["source"], arrays["kept"]))
        stream = io.BytesIO()
        quality.to_parquet(stream, index=False)
        writer.attach(QUALITY, stream.getvalue())
        writer.attach(CARPETS, _carpets(items, parts, quality, spec))


def _carpets(items: Sequence[Item], parts: _Parts, quality: pd.DataFrame, spec: StoreSpec) -> bytes:
    """Return small pictures, ROIs x time in shades, of the worst and the best recordings."""
    order = worst_first(quality)
    chosen = dict.fromkeys([*order[:N_CARPETS], *order[-N_CARPETS:]])
    rois = np.concatenate(spec.parcellation.network_indices)
    arrays = {}
    for i in chosen:
        loaded = parts.load(items[i])
        assert loaded is not None
        signal = loaded[1]["signal"].astype(np.float32)
        size = np.maximum(signal.std(axis=0), 1e-6)
        rows = _thin(len(rois), _CARPET_ROWS)
        picture = (signal / size)[_thin(len(signal), _CARPET_TIMES)][:, rois[rows]].T
        arrays[str(quality["id"][i])] = np.clip(128 + picture * 42, 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


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
