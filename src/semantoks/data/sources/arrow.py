"""Data sets of Brainmarks: a folder of Arrow streams, one row per recording, by part.

``NAME.SPACE.arrow/PART/*.arrow`` with the columns ``sub``, ``tr``, ``bold`` (time x ROIs,
z-scored), ``mean`` and ``std`` (of every ROI), and further ones with one value per recording. The
ROIs have no names there; the part (train, validation, test) becomes the column ``part``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from semantoks.data.recording import Recording, recording_id
from semantoks.data.sources.bids import Stated, settle_tr
from semantoks.data.sources.items import Item, Reading, chosen
from semantoks.errors import InputError, readable

_SUBJECT, _TR, _SIGNAL, _MEAN, _STD = "sub", "tr", "bold", "mean", "std"
_ENTITIES = {"ses": "session", "task": "task", "run": "run"}
_KNOWN = (pa.ArrowException, KeyError)


def is_arrow(path: Path) -> bool:
    """Return whether a folder holds Arrow streams, or is named as one of theirs and has parts."""
    if not path.is_dir():
        return False
    named = path.suffix == ".arrow"  # do not look into every folder of a large study
    return bool(_files(path)) if named else any(path.glob("*.arrow"))


def arrow_items(path: str | Path, reading: Reading) -> list[Item]:
    """Return the recordings of a data set.

    Parameters
    ----------
    path : path
        ``NAME.SPACE.arrow``, or one of its parts.
    reading : Reading
        `roi_names` must be given.

    Raises
    ------
    InputError
        The ROIs are not named, a file is damaged, or lacks a column.
    """
    folder = Path(path)
    if reading.roi_names is None:
        fix = "Give the names in the order of its space (--roi-names: a file, or a parcellation)"
        raise InputError("does not name its ROIs", file=folder, field="ROI names", fix=fix)
    items = []
    for file in _files(folder):
        for i, row in enumerate(_rows(file)):
            facts = {key: row[key] for key in row if key not in (_SIGNAL, _MEAN, _STD)}
            facts |= {} if file.parent == folder else {"part": file.parent.name}
            subject = str(facts.pop(_SUBJECT)).removeprefix("sub-")
            tr = facts.pop(_TR, None)
            stated = {own: facts.pop(key) for key, own in _ENTITIES.items() if key in facts}
            names = {key: None if value is None else str(value) for key, value in stated.items()}
            load = functools.partial(_load, file, i, subject, tr, names, facts, reading)
            who = recording_id(
                subject, names.get("session"), names.get("task"), None, names.get("run")
            )
            items.append(Item(who, (file,), load, {"subject": subject, **names, **facts}))
    return chosen(items, reading.entities, folder)


def _files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.arrow"), *folder.glob("*/*.arrow")])


def _rows(file: Path, wanted: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield what is known of every recording without its signal, or all of one recording."""
    signals = (_SIGNAL, _MEAN, _STD)
    with readable(file, known=_KNOWN), pa.memory_map(str(file)) as content:
        begin = 0
        for batch in pa.ipc.open_stream(content):
            missing = [name for name in (_SUBJECT, _SIGNAL) if name not in batch.schema.names]
            if missing:
                rule = f"has no column {' or '.join(missing)}"
                raise InputError(rule, file=file, field="columns", value=batch.schema.names)
            columns = [n for n in batch.schema.names if wanted is not None or n not in signals]
            part = batch.select(columns)
            if wanted is None:
                yield from part.to_pylist()
            elif wanted < begin + batch.num_rows:
                yield part.slice(wanted - begin, 1).to_pylist()[0]
                return
            begin += batch.num_rows


def _load(
    file: Path,
    i: int,
    subject: str,
    tr: object,
    names: dict[str, str | None],
    facts: dict[str, Any],
    reading: Reading,
) -> Recording:
    where = f"{file}[{i}]"
    (row,) = _rows(file, i)
    signal = _numbers(row[_SIGNAL], where)
    if row.get(_MEAN) is not None and row.get(_STD) is not None:
        signal = signal * _numbers(row[_STD], where) + _numbers(row[_MEAN], where)
    timing = settle_tr(file, reading.tr, [Stated("table", tr, file.name)])
    site = facts.get("site")
    return Recording(
        signal=signal,
        roi_names=reading.roi_names or (),
        tr=timing.tr,
        notes=timing.notes,
        subject=subject,
        session=names.get("session"),
        task=names.get("task"),
        run=names.get("run"),
        site=None if site is None else str(site),
        phenotypes={key: value for key, value in facts.items() if key != "site"},
        source=where,
    )


def _numbers(values: object, where: str) -> NDArray[np.float64]:
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"must hold numbers ({error})", file=where, field=_SIGNAL) from None
    if array.ndim != 2:
        rule = "must have the shape (n_times, n_rois)"
        raise InputError(rule, file=where, field=_SIGNAL, value=array.shape)
    return array
