"""The HDF5 layout of Brain-Semantoks's README: all subjects of a study in one file.

``timeseries/<atlas>`` of shape (subjects, ROIs, time), shorter recordings padded at the end;
``ts_len`` with their lengths, or NaN as padding; ``long_subject_id`` and further data sets with one
value per subject. Names of ROIs and TR are not in the file.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semantoks.data.recording import Recording, recording_id
from semantoks.data.sources.bids import BidsFile, settle_tr
from semantoks.data.sources.items import Item, Reading, chosen
from semantoks.data.sources.matlab import check_own, import_h5py
from semantoks.errors import InputError, readable

_SERIES, _SUBJECT, _LENGTH = "timeseries", "long_subject_id", "ts_len"
_IDENTITY = ("subject", "session", "task", "acquisition", "run")
#: What h5py raises over links that lead nowhere.
_KNOWN = (KeyError,)


def hdf5_items(path: str | Path, reading: Reading) -> list[Item]:
    """Return the recordings of a file.

    Parameters
    ----------
    path : path
    reading : Reading
        `roi_names` and `tr` must be given. `variable` chooses the atlas where the file has
        several; ``schaefer400+tian3+buckner7`` puts the ROIs of three one after the other.

    Raises
    ------
    InputError
        The file is damaged, has another layout, or names, TR or atlas are not given.
    """
    file = Path(path)
    h5py = import_h5py(file)
    settle_tr(file, reading.tr, ())
    with readable(file, known=_KNOWN), h5py.File(file, "r") as content:
        names = _atlases(content, reading, file, h5py)
        shapes = [content[_SERIES][name].shape for name in names]
        labels = _labels(content, shapes[0][0], file, h5py)
    if len({(shape[0], shape[2]) for shape in shapes}) > 1:
        rule = "the atlases have different numbers of subjects or time points"
        raise InputError(rule, file=file, value=dict(zip(names, shapes, strict=True)))
    n_rois = sum(shape[1] for shape in shapes)
    if reading.roi_names is None:
        fix = "Give the names in the file's order (--roi-names: a text file, or a parcellation)"
        raise InputError("does not name its ROIs", file=file, field="ROI names", fix=fix)
    if len(reading.roi_names) != n_rois:
        rule = f"has {n_rois} ROIs for {len(reading.roi_names)} names"
        raise InputError(rule, file=file, field="ROI names", value=list(names))
    items = []
    for i in range(shapes[0][0]):
        row = {name: _plain(values[i]) for name, values in labels.items()}
        identity = _identity(str(row.pop(_SUBJECT)))
        load = functools.partial(_load, file, names, i, identity, row, reading)
        facts = {**row, **dict(zip(_IDENTITY, identity, strict=True))}
        items.append(Item(recording_id(*identity), (file,), load, facts))
    return chosen(items, reading.entities, file)


def _atlases(content: Any, reading: Reading, file: Path, h5py: Any) -> list[str]:
    group = content.get(_SERIES)
    if not isinstance(group, h5py.Group):
        rule = f"has no group {_SERIES!r}"
        raise InputError(rule, file=file, field=_SERIES, value=sorted(map(str, content.keys())))
    known = sorted(name for name, value in group.items() if isinstance(value, h5py.Dataset))
    wanted = reading.variable.split("+") if reading.variable else None
    if wanted is None:
        wanted = [reading.atlas.name] if reading.atlas.name in known else known
    unknown = [name for name in wanted if name not in known]
    if unknown or (reading.variable is None and len(wanted) != 1):
        rule = f"holds the atlases {', '.join(known) or 'none'}"
        fix = "Choose one (variable, --variable), or join several with +"
        raise InputError(rule, file=file, field="variable", value=reading.variable, fix=fix)
    for name in wanted:
        series = group[name]
        if series.ndim != 3:
            rule = "must have the shape (subjects, ROIs, time)"
            raise InputError(rule, file=file, field=name, value=series.shape)
        check_own(series, series.nbytes // max(len(series), 1), file)
    return wanted


def _labels(content: Any, n: int, file: Path, h5py: Any) -> dict[str, NDArray[Any]]:
    """Return the data sets with one value per subject, text as text."""
    labels = {}
    for name, value in content.items():
        if isinstance(value, h5py.Dataset) and value.shape == (n,):
            check_own(value, value.nbytes, file)
            text = h5py.check_string_dtype(value.dtype) is not None or value.dtype.kind == "S"
            labels[name] = np.array(value.asstr()[()], object) if text else value[()]
    if _SUBJECT not in labels:
        rule = f"has no {_SUBJECT} with one value for each of the {n} subjects"
        raise InputError(rule, file=file, field=_SUBJECT)
    return labels


def _identity(text: str) -> tuple[str, str | None, str | None, str | None, str | None]:
    """Return subject, session, task, acquisition and run of a BIDS-like or plain identifier."""
    if text.startswith("sub-"):
        subject, *others = BidsFile(Path(text + "_bold")).scan
        if subject:
            return (subject, *others)  # type: ignore[return-value]
    return (text, None, None, None, None)


def _plain(value: Any) -> Any:
    plain = value.item() if isinstance(value, np.generic) else value
    unknown = isinstance(plain, float) and (np.isnan(plain) or plain in (-9999.0, -999.0))
    return None if unknown or plain in (-9999, -999, "", "n/a") else plain


def _length(signal: NDArray[np.float64], stated: Any, where: str) -> int:
    """Return the time points of a recording without its padding."""
    if stated is not None:
        if not isinstance(stated, (int, float)) or not 1 <= stated <= len(signal) or stated % 1:
            rule = f"must be a whole number from 1 to {len(signal)}, the time points stored"
            fix = "Correct it, or remove it from the file: NaN then marks the padding"
            raise InputError(rule, file=where, field=_LENGTH, value=stated, fix=fix)
        return int(stated)
    there = np.isfinite(signal).any(axis=1)
    if not there.any():
        raise InputError("has no time point with data", file=where, field=_SERIES)
    return int(np.flatnonzero(there)[-1]) + 1


def _load(
    file: Path,
    names: list[str],
    i: int,
    identity: tuple[Any, ...],
    row: dict[str, Any],
    reading: Reading,
) -> Recording:
    h5py = import_h5py(file)
    with readable(file, known=_KNOWN), h5py.File(file, "r") as content:
        parts = [np.asarray(content[_SERIES][name][i], np.float64) for name in names]
    signal = np.concatenate(parts).T
    row = dict(row)
    signal = signal[: _length(signal, row.pop(_LENGTH, None), f"{file}[{i}]")]
    subject, session, task, acquisition, run = identity
    site = row.pop("site", None)
    return Recording(
        signal=signal,
        roi_names=reading.roi_names or (),
        tr=settle_tr(file, reading.tr, ()).tr,
        subject=subject,
        session=session,
        task=task,
        acquisition=acquisition,
        run=run,
        site=None if site is None else str(site),
        phenotypes=dict(row),
        source=f"{file}[{i}]",
    )
