"""Files that hold region time series: tables, NumPy, MATLAB, CIFTI parcellated series."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from semantoks import tables
from semantoks.data.sources.columns import Names, read_columns
from semantoks.data.sources.items import Reading
from semantoks.data.sources.matlab import PLAIN, choose, matrix, names_beside, read_matlab
from semantoks.errors import InputError, listed, readable


class Series(NamedTuple):
    """What a file of region time series holds.

    Parameters
    ----------
    signal : ndarray of float64, shape (n_times, n_rois)
        As `Reading.orientation` states if there are no names.
    names : tuple of str, optional
        ROIs, if the file names them.
    tr : float or str, optional
        Seconds, if the file states it; another unit in words.
    notes : tuple of str
        How the file was understood, and what is worth a look; alike for alike files.
    """

    signal: NDArray[np.float64]
    names: Names | None = None
    tr: float | str | None = None
    notes: tuple[str, ...] = ()


def is_series(file: Path) -> bool:
    """Return whether the name of a file ends as one of region time series does."""
    return file.name.endswith(tuple(SERIES))


def read_series(file: Path, reading: Reading) -> Series:
    """Read one file of region time series.

    Returns
    -------
    Series
        Time first; its names are those of the file, or of `reading` if the file has none, or none
        that is a ROI of the atlas.

    Raises
    ------
    InputError
        The file cannot be read, has no names, is a connectivity matrix, or its axes are not as
        stated.
    """
    found = [read for ending, read in SERIES.items() if file.name.endswith(ending)]
    if not found:
        rule = f"must be a file of time series ({', '.join(ENDINGS)})"
        raise InputError(rule, file=file, field="file", value=file.name)
    series = found[0](file, reading)
    if reading.variable is not None and found[0] not in (_read_mat, _read_npz):
        note = f"--variable is not used: a file {file.suffix} holds one matrix"
        series = series._replace(notes=(*series.notes, note))
    _refuse_connectivity(series.signal, file)
    if series.names is None:
        series = series._replace(signal=_oriented(series.signal, file, reading))
    names, notes = chosen_names(series.names, file, reading)
    if names is None:
        rule = "does not name its ROIs, and an order is never guessed"
        fix = "Give the names (roi_names, --roi-names)"
        if tables.is_table(file):
            fix = "Put the names into the first line, or give them (roi_names, --roi-names)"
        raise InputError(rule, file=file, field="ROI names", fix=fix)
    return series._replace(names=names, notes=(*series.notes, *notes))


def read_joined(files: Sequence[Path], reading: Reading) -> Series:
    """Read the files of one recording, each with some of its ROIs, and join them.

    Raises
    ------
    InputError
        A file cannot be read, or their lengths or TRs differ.
    """
    parts = [read_series(file, reading) for file in files]
    first = parts[0]
    if len(parts) == 1:
        return first
    for what, values in (
        ("length", [len(part.signal) for part in parts]),
        ("tr", [part.tr for part in parts]),
    ):
        if len(set(values)) > 1:
            rule = f"must agree with {', '.join(file.name for file in files[1:])}"
            raise InputError(rule, file=files[0], field=what, value=values)
    names = tuple(name for part in parts for name in part.names or ())
    signal = np.concatenate([part.signal for part in parts], axis=1)
    notes = dict.fromkeys(note for part in parts for note in part.notes)
    return first._replace(
        signal=signal,
        names=names,
        notes=(*notes, f"{len(parts)} files are joined"),
    )


def _refuse_connectivity(signal: NDArray[np.float64], file: Path) -> None:
    """Refuse a square, symmetric matrix: connectivity, which lies beside series in many folders."""
    n = len(signal)
    if n < 3 or signal.shape != (n, n):
        return
    rest = ~np.eye(n, dtype=bool)
    halves = (signal[np.tril_indices(n, -1)], signal[np.triu_indices(n, 1)])
    half = any(not np.nan_to_num(values).any() for values in halves)
    if half or np.allclose(signal[rest], signal.T[rest], rtol=1e-4, atol=1e-6, equal_nan=True):
        rule = "is a connectivity matrix (square and symmetric, or half of one), not time series"
        fix = "Give the file of the series that it was computed from"
        raise InputError(rule, file=file, field="signal", value=signal.shape, fix=fix)


def chosen_names(
    names: Names | None, file: Path, reading: Reading
) -> tuple[Names | None, tuple[str, ...]]:
    """Return the names that count, of the file or given, and what became of the others."""
    given = reading.roi_names
    if names is None or given is None or names == given:
        return (given if names is None else names), ()
    shown = listed(names, shown=2)
    if any(map(reading.atlas.has, names)):
        return names, (f"the header names ROIs ({shown}): --roi-names is not used",)
    if len(names) == len(given):
        return given, (f"--roi-names replaces a header that names no ROI ({shown})",)
    rule = f"has {len(names)} columns ({shown}) for {len(given)} names of ROIs"
    raise InputError(rule, file=file, field="roi_names", fix="Give one name per column")


def _oriented(signal: NDArray[np.float64], file: Path, reading: Reading) -> NDArray[np.float64]:
    """Return the signal time first; a shape that says otherwise is refused, never turned."""
    if reading.orientation == "rois-first":
        signal = signal.T
    n = len(reading.roi_names) if reading.roi_names else None
    if n is not None and signal.shape[1] != n:
        turned = {"time-first": "rois-first", "rois-first": "time-first"}[reading.orientation]
        rule = f"has {signal.shape[1]} columns (read {reading.orientation}) for {n} names of ROIs"
        fix = f"Its other axis has {n}: read it so (orientation, --orientation {turned})"
        if signal.shape[0] != n:
            fix = "Give one name per column (roi_names, --roi-names)"
        raise InputError(rule, file=file, field="shape", fix=fix)
    return signal


def _read_ptseries(file: Path, reading: Reading) -> Series:  # noqa: ARG001
    from semantoks.data.sources.images import read_ptseries

    return Series(*read_ptseries(file))


def _read_table(file: Path, reading: Reading) -> Series:
    signal, names, read_as = read_columns(file, reading)
    return Series(signal, names, notes=(f"read as {read_as}",))


def _read_mat(file: Path, reading: Reading) -> Series:
    signal, names, read_as = read_matlab(file, reading)
    return Series(signal, names, notes=(f"read as {read_as}",))


def _read_npy(file: Path, reading: Reading) -> Series:  # noqa: ARG001
    # Keys of the header are bytes.
    with readable(file, known=(TypeError,), fix=PLAIN):
        signal = np.load(file, allow_pickle=False)
    return Series(matrix(signal, file))


def _read_npz(file: Path, reading: Reading) -> Series:
    with readable(file, known=(TypeError, NotImplementedError)):  # packed in another way
        content = np.load(file, allow_pickle=False)
        if not isinstance(content, np.lib.npyio.NpzFile):
            raise ValueError("holds no arrays by name")
        with content:
            arrays = dict(content)
    name = choose(arrays, reading.variable, file)
    signal = matrix(arrays[name], file, name)
    texts = {k: [*map(str, v)] for k, v in arrays.items() if v.ndim == 1 and v.dtype.kind == "U"}
    return Series(signal, names_beside(texts, signal.shape[1]))


#: Files of region time series: the ending of their names, and what reads them.
SERIES: dict[str, Callable[[Path, Reading], Series]] = {
    **dict.fromkeys(tables.READERS, _read_table),
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".mat": _read_mat,
    ".ptseries.nii": _read_ptseries,
}
#: Their endings in words, for help and errors.
ENDINGS = (*tables.KINDS, *(ending for ending in SERIES if ending not in tables.READERS))
