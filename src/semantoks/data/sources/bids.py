"""Names of BIDS files and what lies beside them: entities, sidecars, a walk that ends."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from semantoks import text
from semantoks.data.recording import recording_id
from semantoks.data.signal import MAX_TR, check_tr
from semantoks.errors import InputError

#: Units of time in words, seconds.
_UNITS = dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0)
_UNITS |= dict.fromkeys(("ms", "msec", "msecs", "millisecond", "milliseconds"), 1e-3)
_WITH_UNIT = re.compile(r"(.*?)\s*([a-zA-Z]+)")
_ENTITY = re.compile(r"([a-zA-Z]+)-([a-zA-Z0-9+]+)")
#: Entities that, beside task and run, tell apart what was acquired; the others say how it was made.
ACQUIRED = ("acq", "ce", "rec", "dir", "echo", "part")
#: Largest difference between equal TRs, seconds; and, relative, from a rounded sampling frequency.
SAME, ROUNDED = 1e-3, 0.01
#: Name of the source that is not believed alone: tools leave 0, 1 or milliseconds there.
UNSURE = "NIfTI header"


@dataclass(frozen=True)
class BidsFile:
    """A file whose name follows BIDS: ``sub-01_task-rest_space-X_desc-preproc_bold.nii.gz``.

    Parameters
    ----------
    path : Path
    """

    path: Path

    @cached_property
    def entities(self) -> dict[str, str]:
        """Entities of the name, in its order."""
        pairs = (_ENTITY.fullmatch(part) for part in self._parts)
        return {pair[1]: pair[2] for pair in pairs if pair}

    @property
    def _parts(self) -> list[str]:
        return self.path.name.split(".")[0].split("_")

    @property
    def suffix(self) -> str:
        """Last part of the name: ``bold``, ``timeseries``."""
        return self._parts[-1]

    @property
    def extension(self) -> str:
        """From the first dot on: ``.nii.gz``."""
        return "." + self.path.name.partition(".")[2]

    @property
    def scan(self) -> tuple[str | None, ...]:
        """Subject, session, task, further entities of the acquisition, run."""
        found = self.entities
        further = "_".join(f"{key}-{found[key]}" for key in ACQUIRED if key in found)
        first = [found.get(key) for key in ("sub", "ses", "task")]
        return (*first, further or None, found.get("run"))

    @property
    def id(self) -> str:
        """Identifier of the recording."""
        subject, *others = self.scan
        return recording_id(subject or "", *others)

    @property
    def variant(self) -> tuple[tuple[str, str], ...]:
        """The entities that say how the file was made: space, res, desc, atlas, ..."""
        told = ("sub", "ses", "task", "run", "hemi", *ACQUIRED)
        return tuple(sorted((k, v) for k, v in self.entities.items() if k not in told))

    def fits(self, wanted: Mapping[str, str]) -> bool:
        """Return whether all entities are as wanted; an empty one must be absent."""
        return all(self.entities.get(key, "") == value for key, value in wanted.items())


def bids_files(root: Path) -> Iterator[BidsFile]:
    """Yield the files of a folder whose names begin with ``sub-``, in the order of their paths.

    Links to folders are followed, each folder once, so that a loop of links ends.
    """
    seen: set[str] = set()
    for folder, inner, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        inner.sort()
        for name in sorted(names):
            if name.startswith("sub-"):
                yield BidsFile(Path(folder, name))


def sidecar(file: Path) -> dict[str, tuple[Any, Path]]:
    """Return what the JSON file beside a file states, with its path; {} if there is none.

    Raises
    ------
    InputError
        It is no JSON object, or cannot be read.
    """
    path = file.with_name(file.name.split(".")[0] + ".json")
    if not path.is_file():
        return {}
    return {key: (value, path) for key, value in read_json(path).items()}


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file that holds an object."""
    try:
        content = json.loads(text.read_text(path)[0])
    except (ValueError, OSError) as error:
        rule = f"is not JSON that can be read ({getattr(error, 'rule', error)})"
        fix = "Correct it, or move it out of the folder"
        raise InputError(rule, file=path, fix=fix) from None
    if not isinstance(content, dict):
        raise InputError("must hold a JSON object", file=path, value=type(content).__name__)
    return content


def metadata(file: BidsFile, root: Path, suffixes: tuple[str, ...]) -> dict[str, tuple[Any, Path]]:
    """Return metadata of a file by the principle of inheritance, with the file that says it.

    JSON files apply that are in the folder of the file or above it, up to `root`, have one of the
    suffixes, and no entity that the file has not. The nearest wins, and of one folder the one with
    the most entities.
    """
    found: dict[str, tuple[Any, Path]] = {}
    folder = file.path.parent
    while True:
        here = [BidsFile(path) for path in sorted(folder.glob("*.json"))]
        fitting = [
            json_file
            for json_file in here
            if json_file.suffix in suffixes and json_file.entities.items() <= file.entities.items()
        ]
        fitting.sort(key=lambda f: (-len(f.entities), suffixes.index(f.suffix)))
        for json_file in fitting:
            for key, value in read_json(json_file.path).items():
                found.setdefault(key, (value, json_file.path))
        if folder == root or folder == folder.parent:
            return found
        folder = folder.parent


class Stated(NamedTuple):
    """A TR as one source states it.

    Parameters
    ----------
    by : str
        The kind of source: ``--source-tr``, ``table``, ``sidecar``, ``header``.
    value : object
        Seconds; text and milliseconds are understood. None where the source says nothing.
    where : str
        Name of the file, for messages.
    rounded : bool
        The value comes from a sampling frequency, which tools round.
    """

    by: str
    value: Any
    where: str = ""
    rounded: bool = False


class Timing(NamedTuple):
    """The TR of a recording, seconds, and what was overridden to settle it, in words."""

    tr: float
    notes: tuple[str, ...] = ()


def sidecar_trs(found: Mapping[str, tuple[Any, Path]]) -> list[Stated]:
    """Return what metadata state of the TR: the repetition time, then the sampling frequency."""
    stated = []
    if "RepetitionTime" in found:
        value, path = found["RepetitionTime"]
        stated.append(Stated("sidecar", value, path.name))
    if "SamplingFrequency" in found:
        value, path = found["SamplingFrequency"]
        hertz = number(value)  # XCP-D writes the text "TR" there
        if hertz is not None and hertz > 0:
            stated.append(Stated("sampling frequency", 1.0 / hertz, path.name, rounded=True))
    return stated


def start_time(found: Mapping[str, tuple[Any, Path]]) -> float:
    """Return when the first volume was taken, seconds from the start of the acquisition.

    Raises
    ------
    InputError
        ``StartTime`` is no number.
    """
    value, path = found.get("StartTime", (None, None))
    seconds = 0.0 if value is None else _duration(value)
    if seconds is None or not np.isfinite(seconds):
        rule, fix = "must be a number of seconds", "Correct it, or remove it from the file"
        raise InputError(rule, file=path, field="StartTime", value=value, fix=fix)
    return seconds


def number(value: Any) -> float | None:
    """Return a number, be it written as text; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float, np.number)):
        return None
    return text.number(value.strip(), comma=True) if isinstance(value, str) else float(value)


def settle_tr(file: Path, option: float | None, stated: Iterable[Stated]) -> Timing:
    """Return the TR of a file by one rule of authority.

    The option decides, then the first of the sources that states a TR; what it overrides is noted.
    A source that states milliseconds is understood. A sampling frequency within 1 % of a TR stated
    elsewhere is that TR, rounded.

    Parameters
    ----------
    file : Path
        The file that it belongs to, for messages.
    option : float, optional
        Seconds, as `Reading.tr` checks it.
    stated : iterable of Stated
        In the order of their authority: table, sidecar, header.

    Raises
    ------
    InputError
        No source states the TR, or the one that decides states an impossible one.
    """
    given = [Stated("--source-tr", option), *stated]
    first, *others = [one for one in given if one.value is not None] or [Stated("", None)]
    seconds, notes = _seconds(first, file), []
    if number(first.value) not in (None, seconds):
        notes.append(f"TR {seconds:g} s ({first.by}): {first.value!r} is read as milliseconds")
    for other in others:
        value = in_seconds(other.value)
        tolerance = ROUNDED * seconds if first.rounded or other.rounded else SAME
        if value is None or abs(value - seconds) > tolerance:
            told = f"{other.value!r}" if value is None else f"{value:g} s"
            notes.append(f"TR {seconds:g} s ({first.by}) overrides {told} ({other.by})")
        elif first.rounded and not other.rounded:
            first, seconds = other, value
    return Timing(seconds, tuple(notes))


def _seconds(stated: Stated, file: Path) -> float:
    """Return the TR of the source that decides, or refuse it."""
    value = in_seconds(stated.value)
    if stated.by == UNSURE and value is not None and 0 < value <= MAX_TR:
        rule = f"the TR is stated by the header of the image alone ({value:g} s)"
        fix = f"Confirm it (source_tr={value:g}, --source-tr {value:g})"
        raise InputError(rule, file=file, field="tr", fix=fix)
    where = f"{file} ({' '.join(filter(None, (stated.by, stated.where)))})" if stated.by else file
    try:
        return check_tr(stated.value if value is None else value, where)
    except InputError as error:
        fix = f"{error.fix}, or give it (source_tr, --source-tr), which overrides what files state"
        raise InputError(
            error.rule, file=error.file, field=error.field, value=error.value, fix=fix
        ) from None


def _duration(value: Any) -> float | None:
    """Return seconds: of a number, or of a text that may state its unit (``2000 ms``)."""
    match = _WITH_UNIT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None or match[2].lower() not in _UNITS:
        return number(value)
    amount = text.number(match[1], comma=True) if match[1] else None
    return None if amount is None else amount * _UNITS[match[2].lower()]


def in_seconds(value: Any) -> float | None:
    """Return a stated TR in seconds; what no scanner takes in seconds is in milliseconds."""
    found = _duration(value)
    if found is not None and MAX_TR < found <= 1000 * MAX_TR:
        return found / 1000
    return found
