"""Whole writes and refusals to overwrite: the only module that does either.

A file or folder is written under a temporary name beside its own, forced to the device, and moved
to its name; then its parent is forced to the device, too. After a kill at any moment, or on a full
device, there is what was there before, and at most a hidden ``.partial-*``, which can be deleted.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from safetensors import SafetensorError

from semantoks.errors import InputError

PARTIAL = ".partial-"
"""How the name of what is not whole begins; its ending stays, since libraries go by it."""


def refuse_existing(
    path: str | Path, *, folder: bool = False, kind: type[InputError] = InputError
) -> None:
    """Raise if something exists that a new file or folder would overwrite.

    Parameters
    ----------
    path : path
    folder : bool
        A folder is to be made: an empty one may exist.
    kind : type
        Class of the error.

    Raises
    ------
    InputError
        Of the class `kind`.
    """
    path = Path(path)
    if not os.path.lexists(path):
        return
    with suppress(OSError):  # a folder that cannot be listed may hold anything
        if folder and path.is_dir() and not any(path.iterdir()):
            return
    fix = "Choose another name, or delete it first"
    raise kind("exists already and is not overwritten", file=path, fix=fix)


@contextmanager
def staged_file(
    path: str | Path,
    *,
    overwrite: bool = False,
    kind: type[InputError] = InputError,
    fix: str = "Free space, or choose a place where you may write",
) -> Iterator[Path]:
    """Give a temporary name to write to; at the end of the block the file is moved to `path`.

    Parameters
    ----------
    path : path
        Its folder is made if necessary.
    overwrite : bool
        Replace the file that exists; by default it is refused.
    kind : type
        Class of the errors.
    fix : str
        The way out when the file cannot be written.

    Yields
    ------
    Path
        Ends as `path` does.

    Raises
    ------
    InputError
        Of the class `kind`: the file exists, or cannot be written; whatever the block raises, what
        was there before is unharmed.
    """
    path = Path(path)
    if not overwrite:
        refuse_existing(path, kind=kind)
    with _staged(path, overwrite, kind, fix) as partial:
        yield partial


@contextmanager
def staged_folder(
    path: str | Path,
    *,
    kind: type[InputError] = InputError,
    fix: str = "Free space, or choose a place where you may write",
) -> Iterator[Path]:
    """Give a temporary folder to fill; at the end of the block it is moved to `path`.

    As `staged_file`, but never over anything other than an empty folder.
    """
    path = Path(path)
    refuse_existing(path, folder=True, kind=kind)
    with _staged(path, False, kind, fix) as partial:
        partial.mkdir()
        yield partial


def write_file(
    path: str | Path,
    content: str | bytes,
    *,
    overwrite: bool = False,
    kind: type[InputError] = InputError,
    fix: str = "Free space, or choose a place where you may write",
) -> None:
    """Write a whole file; see `staged_file`. Text is written as UTF-8, line ends as they are."""
    with staged_file(path, overwrite=overwrite, kind=kind, fix=fix) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


def remove_folder(folder: Path) -> None:
    """Remove a folder, its name first: a kill leaves no half folder under that name."""
    partial = _partial(folder)
    folder.rename(partial)
    _remove(partial)


def remove_partial(folder: Path) -> None:
    """Remove what killed processes left in a folder; for its only writer."""
    for left in folder.glob(f"{PARTIAL}*"):
        _remove(left)


@contextmanager
def _staged(path: Path, overwrite: bool, kind: type[InputError], fix: str) -> Iterator[Path]:
    place = path.resolve()  # a link stays a link
    partial = _partial(place)
    try:
        if not place.parent.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        for part in (*partial.rglob("*"), partial):
            _sync(part)
        if overwrite:
            partial.replace(place)
        else:
            _move_new(partial, place)
        _sync(place.parent)
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) in (errno.EEXIST, errno.ENOTEMPTY):
            rule = "was written by another process meanwhile and is not overwritten"
            raise kind(rule, file=path, fix="Give each process a target of its own") from error
        reason = getattr(error, "strerror", None) or error
        rule = f"cannot be written ({reason}); what was there before is unharmed"
        raise kind(rule, file=path, fix=fix) from error
    finally:
        _remove(partial)


def _partial(path: Path) -> Path:
    return path.with_name(f"{PARTIAL}{token_hex(4)}-{path.name}")


def _move_new(partial: Path, place: Path) -> None:
    """Move over nothing, whatever another process does meanwhile."""
    if partial.is_dir():
        partial.rename(place)  # fails if a folder there holds anything
        return
    try:
        os.link(partial, place)  # unlike a rename, it fails if the file exists
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if place.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        partial.rename(place)


def _sync(path: Path) -> None:
    """Have a file or folder written to the device, not only to its cache."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    with suppress(OSError):  # what cannot be removed must not hide the error before
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
