"""Region time series in MATLAB's files: plain matrices (DPABI's ROISignals), and CONN's cells.

CONN writes ``names`` and ``data``, two rows of cells with one entry per ROI, the sessions of a
person one after the other (``data_sessions``). An entry with several components has the mean of the
ROI in the first; the tissues that CONN adds are no ROIs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from semantoks.data.sources.items import Reading
from semantoks.errors import InputError, readable

#: Bytes of one array of an HDF5 file: ten days of 1,000 ROIs at a TR of 1 s have 7 GB.
LARGEST = 2**33
#: The way out of arrays that are no series.
PLAIN = "Save one matrix of real numbers per recording"
_TISSUES = ("Grey Matter", "White Matter", "CSF")


class Matlab(NamedTuple):
    """What a MATLAB file of region time series holds.

    Parameters
    ----------
    signal : ndarray of float64
    names : tuple of str, optional
    read_as : str
    """

    signal: NDArray[np.float64]
    names: tuple[str, ...] | None
    read_as: str


def read_matlab(file: Path, reading: Reading) -> Matlab:
    """Return the series in a MATLAB file of version 5 or 7.3.

    Raises
    ------
    InputError
        The file cannot be read, or holds several matrices or sessions and none is chosen.
    """
    content = _read(file)
    if isinstance(content.get("names"), list) and isinstance(content.get("data"), list):
        return _conn(content, file, reading)
    arrays = {name: v for name, v in content.items() if not isinstance(v, list)}
    name = choose(arrays, reading.variable, file)
    signal = matrix(arrays[name], file, name)
    return Matlab(signal, names_beside(content, signal.shape[1]), f"MATLAB, {name}")


def conn_sessions(file: Path) -> list[int]:
    """Return the numbers of the sessions that a file of CONN holds one after the other."""
    found = _read(file, ("data_sessions",)).get("data_sessions", [1])
    return sorted(map(int, np.unique(found)))


def names_beside(content: Mapping[str, Any], n: int) -> tuple[str, ...] | None:
    """Return the only cells that hold one text per column of a matrix."""
    lists = [v for v in content.values() if isinstance(v, list) and len(v) == n]
    texts = [v for v in lists if all(isinstance(name, str) and name for name in v)]
    return tuple(texts[0]) if len(texts) == 1 else None


def _conn(content: Mapping[str, Any], file: Path, reading: Reading) -> Matlab:
    names, data = content["names"], content["data"]
    if len(names) != len(data):
        rule = f"names {len(names)} ROIs and has {len(data)} series"
        raise InputError(rule, file=file, field="names")
    columns = [np.asarray(series, np.float64) for series in data]
    columns = [c.reshape(len(c), -1)[:, 0] if c.size else c.ravel() for c in columns]
    kept = [i for i, name in enumerate(names) if name not in _TISSUES]
    lengths = sorted({len(columns[i]) for i in kept})
    if len(lengths) != 1 or not lengths[0]:
        rule = f"must have series of one length for its ROIs, not of {lengths}"
        raise InputError(rule, file=file, field="data")
    signal = np.stack([columns[i] for i in kept], axis=1)
    sessions = np.ravel(content.get("data_sessions", np.ones(len(signal))))
    known = [str(int(n)) for n in np.unique(sessions)]
    read_as = f"CONN, {len(names) - len(kept)} tissues left out"
    if len(known) > 1:
        if reading.variable not in known:
            rule = f"holds the sessions {', '.join(known)} one after the other"
            fix = "Choose one (variable, --variable), or give the folder: it is read by session"
            raise InputError(rule, file=file, field="variable", value=reading.variable, fix=fix)
        signal = signal[sessions == int(reading.variable)]
        read_as += f", session {reading.variable}"
    return Matlab(signal, tuple(_roi(names[i], reading) for i in kept), read_as)


def _roi(name: str, reading: Reading) -> str:
    """Return the name of a ROI without that of its atlas's file: ``atlas.FP r``."""
    rest = name.partition(".")[2]
    return rest if reading.atlas.has(rest) and not reading.atlas.has(name) else name


def _read(file: Path, wanted: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Return variables of a file: numbers as arrays, cells as lists of arrays and texts."""
    from scipy.io import loadmat

    try:
        with readable(file, known=(TypeError, LookupError)):  # scipy looks types of the file up
            content = loadmat(file, variable_names=wanted)
    except NotImplementedError:
        return _read73(file, wanted)
    arrays = {
        name: value
        for name, value in content.items()
        if not name.startswith("__") and isinstance(value, np.ndarray)
    }
    return {
        name: [_text_or_array(cell) for cell in value.ravel()] if value.dtype == object else value
        for name, value in arrays.items()
    }


def _text_or_array(cell: Any) -> Any:
    array = np.asarray(cell)
    return str(array.ravel()[0]).strip() if array.dtype.kind == "U" and array.size == 1 else array


def _read73(file: Path, wanted: tuple[str, ...] | None) -> dict[str, Any]:
    h5py = import_h5py(file)
    found: dict[str, Any] = {}
    try:
        with h5py.File(file, "r") as content:
            for name, value in content.items():
                if isinstance(value, h5py.Dataset) and (wanted is None or name in wanted):
                    check_own(value, value.nbytes, file)
                    cells = h5py.check_ref_dtype(value.dtype) is not None
                    found[name] = (
                        [_cell73(content[reference], file) for reference in value[()].ravel()]
                        if cells
                        else value[()].T  # HDF5 files of MATLAB hold arrays turned
                    )
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"is no MATLAB file that can be read ({error})", file=file) from None
    return found


def _cell73(value: Any, file: Path) -> Any:
    check_own(value, value.nbytes, file)
    if value.attrs.get("MATLAB_class") == b"char":
        return "".join(map(chr, value[()].ravel())).strip()
    return value[()].T


def matrix(signal: Any, file: Path, name: str = "") -> NDArray[np.float64]:
    """Return an array as a matrix of float64, or refuse it."""
    array = np.asarray(signal)
    if array.ndim != 2 or not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        rule = "must be real numbers of the shape (n_times, n_rois)"
        value = f"{array.dtype} {array.shape}"
        raise InputError(rule, file=file, field=name or None, value=value, fix=PLAIN)
    with np.errstate(invalid="ignore"):  # damaged numbers; what is not finite is refused later
        return np.asarray(array, np.float64)


def choose(arrays: dict[str, Any], variable: str | None, file: Path) -> str:
    """Return the name of the array that is meant: the chosen one, or the only matrix."""
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
