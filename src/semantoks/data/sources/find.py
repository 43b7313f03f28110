"""What a source is, and which recordings are in it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from semantoks.atlas.transfer import Transfer
from semantoks.data.labels import SUBJECT, column_like
from semantoks.data.recording import Recording, recording_id
from semantoks.data.sources.arrow import arrow_items, is_arrow
from semantoks.data.sources.bids import (
    BidsFile,
    Stated,
    settle_tr,
    sidecar,
    sidecar_trs,
    start_time,
)
from semantoks.data.sources.columns import named_columns
from semantoks.data.sources.derivatives import derivative_items
from semantoks.data.sources.hdf5 import hdf5_items
from semantoks.data.sources.images import ENDINGS, image_tr, is_image, read_image
from semantoks.data.sources.items import Item, Reading, chosen
from semantoks.data.sources.series import ENDINGS as SERIES
from semantoks.data.sources.series import is_series, read_series
from semantoks.data.sources.table import is_listing, table_items
from semantoks.data.sources.toolboxes import is_toolbox, toolbox_items
from semantoks.errors import InputError
from semantoks.tables import KINDS, is_table


def find_items(source: str | Path, reading: Reading) -> list[Item]:
    """Return the recordings of a source, in a fixed order, none of them read yet.

    Parameters
    ----------
    source : path
        A derivatives folder (fMRIPrep, XCP-D, HALFpipe, C-PAC); a folder of CONN, DPABI or UK
        Biobank's region tables; a table that lists files; an HDF5 file of a study; or a single
        image or file of time series.
    reading : Reading

    Raises
    ------
    InputError
        There is no such file, or it is none of these.
    """
    if reading.from_atlas is not None:
        return _moved(source, reading)
    items = _items(Path(source), reading)
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(item.id, []).append(item)
    return [same[0] if len(same) == 1 else _ambiguous(same) for same in found.values()]


def _ambiguous(same: Sequence[Item]) -> Item:
    """Return a recording that several files claim to be: read, it fails, and no other does."""
    first, second = (item.files[0] for item in same[:2])
    refuse = functools.partial(_refuse_doubled, same[0].id, first, second)
    return replace(same[0], files=(first, second), load=refuse)


def _refuse_doubled(id_: str, first: Path, second: Path) -> Recording:
    rule = f"is the same recording as {first}"
    fix = "Tell them apart by session, task or run, or leave one out"
    raise InputError(rule, file=second, field="id", value=id_, fix=fix)


def _items(path: Path, reading: Reading) -> list[Item]:
    if not path.exists():
        raise InputError("there is no such file or folder", file=path)
    for reader in READERS.values():
        if reader.holds(path):
            notes = _unused(reader, reading, path)
            items = reader.find(path, reading)
            return [replace(item, notes=(*item.notes, *notes)) for item in items]
    kinds = "; ".join(reader.help for reader in READERS.values())
    rule = f"is no source that can be read. Sources are: {kinds}"
    fix = "Write it as one of these"
    raise InputError(rule, file=path, field="source", value=path.name, fix=fix)


def _unused(reader: Reader, reading: Reading, path: Path) -> tuple[str, ...]:
    """Return that options are not used by a kind of source; refuse one that names the person."""
    uses = set(reader.uses)
    if "denoise" in uses:  # of derivatives, images are read, or time series
        uses -= set(_OF_IMAGES if not reading.atlas_images else _OF_SERIES)
    given = [
        option
        for option, default in _OPTIONS.items()
        if option not in uses and getattr(reading, option) not in (None, default)
    ]
    what = reader.help.partition(" (")[0]
    if "subject" in given:
        rule = f"names one person, and {what} states its own"
        fix = "Leave it out"
        raise InputError(rule, file=path, field="--subject", value=reading.subject, fix=fix)
    flags = [_FLAGS.get(option, f"--{option.replace('_', '-')}") for option in given]
    return tuple(f"{flag} is not used: the source is {what}" for flag in flags)


@dataclass(frozen=True)
class Reader:
    """A kind of source.

    Parameters
    ----------
    help : str
        What a source of this kind is, for help and errors.
    holds : callable
        Returns whether a path is of this kind.
    find : callable
        Returns its recordings, none of them read yet.
    uses : tuple of str
        The fields of `Reading` that it uses, of those in `_OPTIONS`.
    """

    help: str
    holds: Callable[[Path], bool]
    find: Callable[[Path, Reading], list[Item]]
    uses: tuple[str, ...]


def _is_table(path: Path) -> bool:
    return is_table(path) and is_listing(named_columns(path) or ())


def transfer_of(reading: Reading) -> Transfer | None:
    """Return how time series are moved to another atlas, None if they are not."""
    if reading.from_atlas is None or reading.from_image is None:
        return None
    return Transfer.between(
        reading.from_atlas, reading.from_image, reading.atlas, reading.atlas_images[0]
    )


def _moved(source: str | Path, reading: Reading) -> list[Item]:
    """Return the recordings, their signals moved to another atlas as they are read."""
    transfer = transfer_of(reading)
    assert transfer is not None
    own = replace(reading, atlas=transfer.source, atlas_images=(), from_atlas=None, from_image=None)
    return [
        replace(item, load=functools.partial(_load_moved, item.load, transfer))
        for item in find_items(source, own)
    ]


def _load_moved(load: Callable[[], Recording], transfer: Transfer) -> Recording:
    recording = load()
    missing = np.isin(recording.roi_names, recording.missing_rois)
    own = np.where(missing, np.nan, np.asarray(recording.signal, np.float64))
    signal, coverage = transfer.apply(
        own, recording.roi_names, coverage=recording.coverage, source=recording.source
    )
    return replace(
        recording,
        signal=signal,
        roi_names=transfer.target.labels,
        coverage=coverage,
        missing_rois=(),
    )


def _single(path: Path, reading: Reading) -> list[Item]:
    file = BidsFile(path)
    found = named_columns(path) or () if is_table(path) else ()
    words = [word for name in found[:8] for word in name.split()]
    listed = any(is_series(Path(word)) or is_image(Path(word)) for word in words)
    if listed or column_like(words, SUBJECT):
        rule = "a table of recordings needs the columns file and subject"
        fix = "Name its columns in the first line, separated by tabs, commas or semicolons"
        raise InputError(rule, file=path, field="columns", value=list(found)[:8], fix=fix)
    if file.entities.get("sub") is None and reading.subject is None:
        fix = "Give it (subject, --subject)"
        raise InputError("its name states no subject", file=path, field="subject", fix=fix)
    subject, *others = file.scan
    id_ = recording_id(reading.subject or subject or "", *others)
    names = ("session", "task", "acquisition", "run")
    facts = {"subject": reading.subject or subject, **dict(zip(names, others, strict=True))}
    item = Item(id_, (path,), functools.partial(_load, file, reading), facts)
    return chosen([item], reading.entities, path)


def _load(file: BidsFile, reading: Reading) -> Recording:
    path, coverage = file.path, None
    notes: tuple[str, ...] = ()
    if is_image(path):
        image = read_image(path, reading)
        signal, names, coverage = image.signal, image.names, image.coverage
        own = image_tr(path, image)
    else:
        series = read_series(path, reading)
        signal, names, notes = series.signal, series.names or (), series.notes
        own = Stated("header", series.tr, path.name)
    found = sidecar(path)
    timing = settle_tr(path, reading.tr, [*sidecar_trs(found), own])
    subject, session, task, acquisition, run = file.scan
    return Recording(
        signal=signal,
        roi_names=names,
        coverage=coverage,
        tr=timing.tr,
        start_time=start_time(found),
        notes=(*timing.notes, *notes),
        subject=reading.subject or subject or "",
        session=session,
        task=task,
        acquisition=acquisition,
        run=run,
        source=str(path),
    )


_OF_IMAGES, _OF_SERIES = ("denoise", "denoise_options"), ("roi_names", "orientation", "variable")
#: Options that not every kind of source uses, with their defaults beside None; their flags.
_OPTIONS: dict[str, Any] = {
    **dict.fromkeys(("root", "subject", "roi_names", "variable")),
    **{"atlas_images": (), "orientation": "time-first", "denoise": "simple", "denoise_options": {}},
}
_FLAGS = {"atlas_images": "--atlas-image", "denoise_options": "--denoise-option"}

#: Kinds of sources by name; the first that holds a path reads it.
READERS: dict[str, Reader] = {
    "toolbox": Reader(
        "a folder of CONN, DPABI or UK Biobank's region tables",
        is_toolbox,
        toolbox_items,
        _OF_SERIES,
    ),
    "arrow": Reader(
        "a folder of Arrow streams as Brainmarks has them (NAME.SPACE.arrow)",
        is_arrow,
        arrow_items,
        ("roi_names",),
    ),
    "derivatives": Reader(
        "a derivatives folder (fMRIPrep, XCP-D, HALFpipe, C-PAC)",
        Path.is_dir,
        derivative_items,
        ("atlas_images", *_OF_IMAGES, *_OF_SERIES),
    ),
    "hdf5": Reader(
        "an HDF5 file of a study (.h5, .hdf5)",
        lambda path: path.suffix in (".h5", ".hdf5"),
        hdf5_items,
        ("roi_names", "variable"),
    ),
    "table": Reader(
        f"a table that lists files ({', '.join(KINDS)})",
        _is_table,
        table_items,
        ("atlas_images", "root", *_OF_SERIES),
    ),
    "image": Reader(
        f"an image ({', '.join(ENDINGS)})", is_image, _single, ("atlas_images", "subject")
    ),
    "series": Reader(
        f"a file of time series ({', '.join(SERIES)})", is_series, _single, ("subject", *_OF_SERIES)
    ),
}
