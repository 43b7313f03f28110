"""Work divided among processes: what is done so far lies in one folder, each file whole."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from semantoks.errors import InputError, StoreError, readable
from semantoks.files import write_file
from semantoks.flags import Flag

T = TypeVar("T")

SETTINGS = "settings.json"


def read_shard(text: str) -> tuple[int, int]:
    """Return (i, n) of ``i/n``.

    Raises
    ------
    InputError
        If the text has another form.
    """
    first, _, count = text.partition("/")
    if not (first.isdecimal() and count.isdecimal()):
        raise InputError("must have the form i/n, e.g. 3/10", field="shard", value=text)
    return int(first), int(count)


@dataclass(frozen=True, kw_only=True)
class Running:
    """How the work is divided; nothing here changes its result."""

    n_jobs: Annotated[int, Flag(name="--jobs/-j", metavar="N")] = 1
    """Run this many processes; -1: one per core."""
    shard: Annotated[
        tuple[int, int] | None, Flag(metavar="I/N", read=read_shard, single=True, of=str)
    ] = None
    """Do only the I-th of N parts; once all are done, the command without it writes the result."""


def of_shard(items: Sequence[T], shard: tuple[int, int]) -> list[T]:
    """Return every n-th of the items, from the i-th of 1 to n; `shard` is (i, n).

    Raises
    ------
    InputError
        If i is not within 1 to n.
    """
    i, n = shard
    if not 1 <= i <= n:
        raise InputError("must be i/n with 1 <= i <= n", field="shard", value=f"{i}/{n}")
    return list(items[i - 1 :: n])


def open_partial(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder of what is done so far, or check that it was begun with these settings.

    Raises
    ------
    StoreError
        If it was begun with others, or cannot be written.
    """
    note = folder / SETTINGS
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot be made ({error.strerror})", file=folder) from error
    if not note.exists():
        write_part(note, json.dumps(settings, indent=1, sort_keys=True).encode())
        return
    begun = read_settings(folder)
    new = json.loads(json.dumps(settings))
    changed = [key for key in sorted({*begun, *new}) if begun.get(key) != new.get(key)]
    if changed:
        rule = f"was begun with other settings ({', '.join(changed)})"
        fix = "Use the same settings to finish it, or delete this folder to begin again"
        raise StoreError(rule, file=folder, fix=fix)


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the settings with which a folder was begun."""
    with readable(folder / SETTINGS, StoreError):
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError("must be a mapping")
    return settings


def write_part(path: Path, content: bytes) -> None:
    """Write one file of what is done so far, in place of an older one."""
    fix = "Free space and run the same command again: what is done is kept"
    write_file(path, content, overwrite=True, kind=StoreError, fix=fix)
