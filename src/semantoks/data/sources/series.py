"""Files that hold region time series: text, NumPy, MATLAB, CIFTI parcellated series."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.data.sources.items import Reading
from semantoks.data.text import (
    ENDINGS,
    cells_of,
    is_number,
    read_lines,
    separator_of,
    to_frame,
    without_comments,
)
from semantoks.errors import InputError

#: Bytes of one array of an HDF5 file: ten days of 1,000 ROIs at a TR of 1 s have 7 GB.
LARGEST = 2**33

Names = tuple[str, ...]


class Series(NamedTuple):
    """What a file of region time series holds.

    Parameters
    ----------
    signal : ndarray of float64, shape (n_times, n_rois)
        As `Reading.orientation` states if there are no names.
    names : tuple of str, optional
        ROIs, if the file names them.
    tr : float, optional
        Seconds, if the file states it.
    """

    signal: NDArray[np.float64]
    names: Names | None = None
    tr: float | None = None


def is_series(file: Path) -> bool:
    """Return whether the name of a file ends as one of region time series does."""
    return file.name.endswith(tuple(SERIES))


def read_series(file: Path, reading: Reading) -> tuple[NDArray[np.float64], Names, float | None]:
    """Read one file of region time series.

    Returns
    -------
    signal : ndarray of shape (n_times, n_rois)
    names : tuple of str, length n_rois
        Those of the file, or of `reading` if it has none.
    tr : float or None
        Seconds, if the file itself states it.

    Raises
    ------
    InputError
        The file cannot be read, has no names, or its axes are not as stated.
    """
    found = [read for ending, read in SERIES.items() if file.name.endswith(ending)]
    if not found:
        rule = f"must be a file of time series: {', '.join(SERIES)}"
        raise InputError(rule, file=file, field="file", value=file.name)
    signal, names, tr = found[0](file, reading)
    if names is None:
        signal = _oriented(signal, file, reading)
        names = reading.roi_names
    elif _is_generic(names, reading):
        names = reading.roi_names
    if names is None:
        rule = "does not name its ROIs, and an order is never guessed"
        fix = "Put the names into the first line, or give them (roi_names, --roi-names)"
        raise InputError(rule, file=file, field="ROI names", fix=fix)
    return signal, names, tr


def _is_generic(names: Names, reading: Reading) -> bool:
    """Return whether a header (V1, ROI_1, ...) names no ROI, and names were given in its place."""
    if reading.roi_names is None or len(names) != len(reading.roi_names):
        return False
    return not any(reading.atlas.has(name) for name in names)


def _oriented(signal: NDArray[np.float64], file: Path, reading: Reading) -> NDArray[np.float64]:
    """Return the signal time first; a shape that says otherwise is refused, never turned."""
    if reading.orientation == "rois-first":
        signal = signal.T
    n = len(reading.roi_names) if reading.roi_names else None
    if n is not None and signal.shape[1] != n:
        turned = {"time-first": "rois-first", "rois-first": "time-first"}[reading.orientation]
        rule = f"has {signal.shape[1]} columns (read {reading.orientation}) for {n} names of ROIs"
        fix = f"Its other axis has {n}: read it with orientation {turned}"
        wrong = signal.shape[0] != n
        raise InputError(rule, file=file, field="shape", fix=None if wrong else fix)
    return signal


def _read_ptseries(file: Path, reading: Reading) -> Series:  # noqa: ARG001
    from semantoks.data.sources.images import read_ptseries

    return Series(*read_ptseries(file))


def _read_text(file: Path, reading: Reading) -> Series:  # noqa: ARG001
    return Series(*read_text(file))


def _read_npy(file: Path, reading: Reading) -> Series:  # noqa: ARG001
    try:
        signal = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"is not an array that can be read ({error})", file=file) from None
    return Series(_matrix(signal, file))


def _read_npz(file: Path, reading: Reading) -> Series:
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = dict(content)
    except (ValueError, EOFError, OSError, BadZipFile) as error:
        raise InputError(f"is no file of arrays that can be read ({error})", file=file) from None
    name = _choose(arrays, reading.variable, file)
    return Series(_matrix(arrays[name], file, name))


def _matrix(signal: Any, file: Path, name: str = "") -> NDArray[np.float64]:
    array = np.asarray(signal)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        rule = "must be real numbers of the shape (n_times, n_rois)"
        value = f"{array.dtype} {array.shape}"
        raise InputError(rule, file=file, field=name or None, value=value)
    return np.asarray(array, np.float64)


def _read_mat(file: Path, reading: Reading) -> Series:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(file)
    except NotImplementedError:
        return Series(_read_mat73(file, reading.variable))
    except (MatReadError, ValueError, TypeError, EOFError, OSError, KeyError) as error:
        raise InputError(f"is no MATLAB file that can be read ({error})", file=file) from None
    arrays = {
        name: value
        for name, value in content.items()
        if not name.startswith("__") and isinstance(value, np.ndarray)
    }
    name = _choose(arrays, reading.variable, file)
    return Series(_matrix(arrays[name], file, name))


def _read_mat73(file: Path, variable: str | None) -> NDArray[np.float64]:
    h5py = import_h5py(file)
    try:
        with h5py.File(file, "r") as content:
            arrays = {k: v for k, v in content.items() if isinstance(v, h5py.Dataset)}
            name = _choose(arrays, variable, file)
            check_own(arrays[name], arrays[name].nbytes, file)
            # MATLAB lays arrays out column by column: its HDF5 files hold them turned.
            return _matrix(arrays[name][()], file, name).T
    except OSError as error:
        raise InputError(f"is no MATLAB file that can be read ({error})", file=file) from None


def _choose(arrays: dict[str, Any], variable: str | None, file: Path) -> str:
    if variable is not None:
        if variable not in arrays:
            rule = "the file has no such array"
            known = f"It has {', '.join(sorted(arrays)) or 'none'}"
            raise InputError(rule, file=file, field="variable", value=variable, fix=known)
        return variable
    matrices = [k for k, v in arrays.items() if len(v.shape) == 2 and min(v.shape) > 1]
    if len(matrices) != 1:
        rule = f"holds {len(matrices)} matrices: {', '.join(sorted(matrices)) or 'none'}"
        fix = "Choose one (variable, --variable)"
        raise InputError(rule, file=file, field="variable", fix=fix)
    return matrices[0]


def import_h5py(file: Path) -> Any:
    """Return h5py, or say how to install it."""
    try:
        import h5py
    except ImportError:
        fix = "Install it: pip install semantoks[hdf5]"
        raise InputError("reading this file needs h5py", file=file, fix=fix) from None
    return h5py


def check_own(dataset: Any, n_bytes: int, file: Path) -> None:
    """Refuse what an HDF5 file takes from other files, and what it only claims to hold.

    Parameters
    ----------
    dataset : h5py.Dataset
    n_bytes : int
        How much of it is to be read at once.
    file : path
        File that was opened.

    Raises
    ------
    InputError
    """
    elsewhere = Path(dataset.file.filename) != Path(file) or dataset.external or dataset.is_virtual
    if elsewhere:
        raise InputError(
            "takes its values from another file",
            file=file,
            field=dataset.name,
            fix="Copy them into this one: links are not followed",
        )
    if n_bytes > LARGEST:
        raise InputError(
            f"claims {n_bytes / 2**30:.0f} GB in one piece, more than any recording has",
            file=file,
            field=dataset.name,
            value=dataset.shape,
        )


def read_text(file: Path) -> tuple[NDArray[np.float64], Names | None]:
    """Return the signal, and the names in the first line unless it holds numbers.

    A column without a name that counts the rows, and a separator at the end of all lines, hold no
    ROI.
    """
    lines = without_comments(read_lines(file), file)
    if not lines:
        raise InputError("is not a table that can be read (it is empty)", file=file)
    separator = separator_of(lines[0], file)
    first = cells_of(lines[0], separator)
    filled = [cell for cell in first if cell]
    named = not all(map(is_number, filled))
    # A first line 0, 1, 2, ... or 1, 2, 3, ... counts the columns: it is no time point.
    counted = not named and filled in ([str(i + k) for i in range(len(filled))] for k in (0, 1))
    skip = int(named or counted)
    try:
        frame = to_frame(lines[skip:], separator, header=None)
    except ValueError as error:  # pandas derives its parser errors from it
        raise InputError(f"is not a table that can be read ({error})", file=file) from None
    numbers = frame.apply(pd.to_numeric, errors="coerce")
    wrong = np.argwhere((numbers.isna() & frame.notna()).to_numpy())
    if len(wrong):
        line, column = wrong[0]
        value = str(frame.iat[line, column])[:40]
        rule = f"must be a number (line {line + 1 + skip}, column {column + 1})"
        raise InputError(rule, file=file, field="signal", value=value)
    signal = numbers.to_numpy(np.float64)
    if skip and (len(first) == signal.shape[1] - 1 or not first[0]) and _counts(signal[:, 0]):
        signal, first = signal[:, 1:], first[len(first) - signal.shape[1] + 1 :]
    unnamed = not any(first[signal.shape[1] - 1 :])
    if unnamed and all(line.endswith(separator) for line in lines[skip:]):
        signal, first = signal[:, :-1], first[: signal.shape[1] - 1]
    return signal, tuple(first) if named else None


def _counts(column: NDArray[np.float64]) -> bool:
    """Return whether a column counts the rows: 0, 1, 2, ... or 1, 2, 3, ..."""
    return any(np.array_equal(column, np.arange(k, k + len(column))) for k in (0, 1))


def named_columns(file: Path) -> Names | None:
    """Return the names in the first line of a text file, None if it holds numbers or nothing."""
    lines = without_comments(read_lines(file, limit=2**22), file)
    first = cells_of(lines[0], separator_of(lines[0], file)) if lines else [""]
    return None if all(is_number(cell) for cell in first if cell) else tuple(first)


#: Files of region time series: the ending of their names, and what reads them.
SERIES: dict[str, Callable[[Path, Reading], Series]] = {
    **dict.fromkeys(ENDINGS, _read_text),
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".mat": _read_mat,
    ".ptseries.nii": _read_ptseries,
}
