"""Folders of CONN, DPABI and UK Biobank's region tables, whose file names identify people.

- CONN: ``ROI_Subject001_Condition000.mat``. Condition 000 is the whole scan; sessions, which CONN
  writes one after the other, become runs.
- DPABI: ``ROISignals_<subject>.mat``, or ``.txt`` where there is no ``.mat``.
- UK Biobank: ``fMRI.<atlas>.csv.gz`` in folders named by participant
  (``<eid>_<field>_<instance>_0``, or ``<eid>/i<instance>``); the files that make up the atlas are
  joined.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from semantoks.data.recording import recording_id
from semantoks.data.sources.items import Item, Reading, chosen
from semantoks.data.sources.matlab import conn_sessions
from semantoks.data.sources.series import read_series
from semantoks.data.sources.table import load_listed
from semantoks.errors import InputError, listed

_CONN = re.compile(r"ROI_Subject(\d+)_Condition(\d+)\.mat")
_DPABI = re.compile(r"ROISignals_(?:sub-)?(.+?)\.(mat|txt)")
_SESSION = re.compile(r"S(\d+)_")
_BIOBANK = re.compile(r"fMRI\..+\.csv(\.gz)?")
_EID = re.compile(r"(\d{7})(?:_\d+_(\d+)(?:_\d+)?)?")
_INSTANCE = re.compile(r"i?(\d)")
_TRIED = 5  # files of a kind from which its ROIs are told

Matches = list[tuple[Path, re.Match[str]]]


def is_toolbox(path: Path) -> bool:
    """Return whether a path is a folder of one of these toolboxes."""
    if not path.is_dir() or any(path.glob("sub-*")):
        return False
    return any(next(_matching(path, pattern), None) for pattern in FINDERS)


def toolbox_items(root: str | Path, reading: Reading) -> list[Item]:
    """Return the recordings of a folder.

    Raises
    ------
    InputError
        Several conditions could be meant, or no region table has ROIs of the atlas.
    """
    folder = Path(root)
    for pattern, find in FINDERS.items():
        found = sorted(_matching(folder, pattern))
        if found:
            items = find([(file, match) for file, match in found], folder, reading)
            others = {k: v for k, v in reading.entities.items() if k != "condition"}
            return chosen(items, others if find is _conn else reading.entities, folder)
    raise InputError("holds no files of CONN, DPABI or the UK Biobank", file=folder)


def _matching(folder: Path, pattern: re.Pattern[str]) -> Iterator[tuple[Path, re.Match[str]]]:
    for file in folder.rglob("*.*"):
        match = pattern.fullmatch(file.name)
        if match is not None:
            yield file, match


def _item(files: Sequence[Path], reading: Reading, **identity: str | None) -> Item:
    names = ("session", "task", "acquisition", "run")
    id_ = recording_id(str(identity["subject"]), *(identity.get(name) for name in names))
    fields: dict[str, Any] = {**identity, "phenotypes": {}}
    load = functools.partial(load_listed, tuple(files), fields, reading)
    return Item(id_, tuple(files), load, dict(identity))


def _conn(found: Matches, folder: Path, reading: Reading) -> list[Item]:
    conditions = sorted({match[2] for _, match in found})
    stated, whole = reading.entities.get("condition"), "000"
    wanted = stated or (whole if whole in conditions else conditions[0])
    unclear = stated is None and wanted != whole and len(conditions) > 1
    if unclear or wanted not in conditions:
        rule = f"holds the conditions {listed(conditions)}"
        fix = f"Choose one: --where condition={conditions[0]}"
        raise InputError(rule, file=folder, field="condition", value=stated, fix=fix)
    items = []
    for file, match in found:
        if match[2] != wanted:
            continue
        try:
            sessions = conn_sessions(file)
        except InputError:  # raised again when the recording is read: the others are
            sessions = [1]
        for k in sessions:
            run = str(k) if len(sessions) > 1 else None
            own = replace(reading, variable=run)
            items.append(_item([file], own, subject=match[1], run=run))
    return items


def _dpabi(found: Matches, folder: Path, reading: Reading) -> list[Item]:
    """Return the recordings; the second session lies in folders that begin with S2_."""
    matrices = {(file.parent, match[1]) for file, match in found if match[2] == "mat"}
    several = any(_SESSION.match(file.parent.name) for file, _ in found)
    of: dict[tuple[str, str | None], Path] = {}
    for file, match in found:
        if match[2] == "mat" or (file.parent, match[1]) not in matrices:
            session = _SESSION.match(file.parent.name)
            key = (match[1], session[1] if session else "1" if several else None)
            other = of.setdefault(key, file)
            if other != file:
                rule = f"holds two results of {match[1]}: in {other.parent} and in {file.parent}"
                fix = "Give one of these folders"
                raise InputError(rule, file=folder, field="source", fix=fix)
    return [_item([file], reading, subject=s, session=ses) for (s, ses), file in of.items()]


def _biobank(found: Matches, folder: Path, reading: Reading) -> list[Item]:
    people: dict[tuple[str, str | None], dict[str, Path]] = defaultdict(dict)
    for file, _ in found:
        parts = file.relative_to(folder.parent).parts[:-1]
        eid = next((m for part in reversed(parts) if (m := _EID.fullmatch(part))), None)
        if eid is None:
            rule = "must lie in a folder named by its participant, e.g. 1000001_31018_2_0"
            raise InputError(rule, file=file, field="subject")
        inner = _INSTANCE.fullmatch(parts[-1])
        people[eid[1], eid[2] or (inner and inner[1])][file.name] = file
    kinds = _kinds([*people.values()], folder, reading)
    return [
        _item([files[kind] for kind in kinds if kind in files], reading, subject=eid, session=ses)
        for (eid, ses), files in sorted(people.items(), key=str)
        if set(kinds) & set(files)
    ]


def _kinds(people: Sequence[dict[str, Path]], folder: Path, reading: Reading) -> list[str]:
    """Return the names of the files that make up the atlas: the largest first, none twice."""
    names = sorted({name for files in people for name in files})
    rois, reasons = {}, []
    for name in names:
        rois[name], reason = _rois_of([files[name] for files in people if name in files], reading)
        reasons += [reason] if reason else []
    chosen: list[str] = []
    for name in sorted(names, key=lambda name: -len(rois[name])):
        if rois[name] and not any(rois[name] & rois[other] for other in chosen):
            chosen.append(name)
    if not chosen:
        why = f" ({reasons[0]})" if reasons else ""
        rule = f"no file has the ROIs of {reading.atlas.name}: {listed(names)}{why}"
        fix = "Choose the parcellation of the files (--atlas)"
        raise InputError(rule, file=folder, field="atlas", fix=fix)
    return chosen


def _rois_of(files: Sequence[Path], reading: Reading) -> tuple[set[int], str | None]:
    """Return the ROIs of the atlas in files of one kind, told by the first that can be read."""
    reason = None
    for file in files[:_TRIED]:
        try:
            labels = read_series(file, reading).names or ()
        except InputError as error:  # a damaged file says nothing of the others
            reason = reason or f"{file.name}: {error.rule}"
            continue
        known = all(map(reading.atlas.has, labels))
        return ({*map(int, reading.atlas.indices_of(labels, str(file)))} if known else set()), None
    return set(), reason


#: What finds the recordings of a folder, by the pattern of its files' names.
FINDERS: dict[re.Pattern[str], Callable[[Matches, Path, Reading], list[Item]]] = {
    _CONN: _conn,
    _DPABI: _dpabi,
    _BIOBANK: _biobank,
}
