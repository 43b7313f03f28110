"""Names of BIDS files and what lies beside them: entities, sidecars, a walk that ends."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from semantoks.data.recording import recording_id
from semantoks.data.signal import check_tr
from semantoks.errors import InputError

_ENTITY = re.compile(r"([a-zA-Z]+)-([a-zA-Z0-9+]+)")
#: Entities that, beside task and run, tell apart what was acquired; the others say how it was made.
ACQUIRED = ("acq", "ce", "rec", "dir", "echo", "part")
#: Largest relative difference between a TR and a rounded sampling frequency.
ROUNDED = 0.01


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


def sidecar(file: Path) -> tuple[dict[str, Any], Path]:
    """Return the content of the JSON file beside a file, {} if there is none, and its path.

    Raises
    ------
    InputError
        It is no JSON object, or cannot be read.
    """
    path = file.with_name(file.name.split(".")[0] + ".json")
    if not path.is_file():
        return {}, path
    return read_json(path), path


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file that holds an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise InputError(f"is not JSON that can be read ({error})", file=path) from None
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


def stated_tr(found: Mapping[str, tuple[Any, Path]]) -> dict[str, Any]:
    """Return what metadata say of the TR, by the name of the file."""
    stated: dict[str, Any] = {}
    if "RepetitionTime" in found:
        value, path = found["RepetitionTime"]
        stated[path.name] = value
    if "SamplingFrequency" in found:
        value, path = found["SamplingFrequency"]
        hertz, exact = number(value), number(next(iter(stated.values()), None))
        # XCP-D writes text there; rounded to 1.39 Hz it is the TR of 0.72 s.
        rounded = exact is not None and hertz is not None and abs(exact * hertz - 1) < ROUNDED
        if hertz is not None and hertz > 0 and not rounded:
            stated[f"{path.name} (SamplingFrequency)"] = 1.0 / hertz
    return stated


def number(value: Any) -> float | None:
    """Return a number, be it written as text; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float, np.number)):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def agreed_tr(file: Path, given: Mapping[str, Any]) -> float:
    """Return the TR of a file, seconds: the argument, or what all that state it agree on.

    Parameters
    ----------
    file : Path
        The file that it belongs to, for messages.
    given : mapping
        What every source says; None for nothing. ``argument`` overrules the others.

    Raises
    ------
    InputError
        The TR is not stated, a stated one is impossible, or they differ.
    """
    stated = {where: value for where, value in given.items() if value is not None}
    if "argument" in stated:
        return check_tr(stated["argument"], f"{file} (argument)")
    try:
        seconds = [
            check_tr(value if number(value) is None else number(value), f"{file} ({where})")
            for where, value in stated.items()
        ] or [check_tr(None, file)]
    except InputError as error:
        fix = f"{error.fix}. source_tr (--source-tr) overrules what files say"
        raise InputError(
            error.rule, file=error.file, field=error.field, value=error.value, fix=fix
        ) from None
    if np.ptp(seconds) > 1e-3:
        rule = "the TRs given for this file disagree"
        fix = "State the right one, in seconds: source_tr (--source-tr)"
        raise InputError(rule, file=file, field="tr", value=stated, fix=fix)
    return seconds[0]
