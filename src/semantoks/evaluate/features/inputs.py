"""What estimators of this package read as X: a store, a list of signals, or a 3-D array."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeGuard

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.data.store import RecordingStore
from semantoks.errors import InputError

MIN_KEPT = 2  # time points; of fewer there is no variance
#: A `RecordingStore`, a sequence of (n_times, n_rois) arrays, which may be a NumPy array of objects
#: (pandas columns, NumPy's selection by indices), or (n_recordings, n_times, n_rois). Tables whose
#: columns have the names of the ROIs are read by name.
Signals = RecordingStore | Sequence[NDArray[np.floating] | pd.DataFrame] | NDArray[np.floating]


def roi_count(X: Signals) -> int:
    """Return the number of ROIs of a store or of signals, which are checked."""
    return len(X.parcellation) if isinstance(X, RecordingStore) else signal_list(X)[0].shape[1]


def is_named(signal: object) -> TypeGuard[pd.DataFrame]:
    """Say whether a signal is a table whose columns have names, not numbers."""
    return isinstance(signal, pd.DataFrame) and all(isinstance(c, str) for c in signal.columns)


def roi_names(X: Signals) -> tuple[str, ...] | None:
    """Return the names of the ROIs of a store, or of the first of some tables; None of arrays."""
    if isinstance(X, RecordingStore):
        return X.parcellation.labels
    first = next(iter(X), None) if hasattr(X, "__iter__") else None  # `signal_list` refuses it
    return tuple(first.columns) if is_named(first) else None


def each_signal(
    X: Signals,
    n_rois: int | None = None,
    *,
    names: Sequence[str] | None = None,
    in_time: bool = False,
) -> Iterator[NDArray[np.floating]]:
    """Yield the signals of a store or a list one by one, (n_times, n_rois); lists are checked.

    Parameters
    ----------
    X : Signals
    n_rois : int, optional
        Number of ROIs that the signals of a list must have.
    names : sequence of str, optional
        Names and order of the ROIs; those of tables must be the same, in any order.
    in_time : bool
        Whether the order of the time points matters, as it does to spectra. Otherwise time points
        of a store that are interpolated across censored volumes are left out: they hold no data.

    Raises
    ------
    InputError
        If a signal of a list breaks a rule, or too few time points of a recording are kept.
    """
    if not isinstance(X, RecordingStore):
        yield from signal_list(X, n_rois, names)
        return
    for i in range(len(X)):
        kept = np.ones(len(X.raw(i)), bool) if in_time else X.kept(i)
        if kept.sum() < MIN_KEPT:
            rule = f"fewer than {MIN_KEPT} time points are kept"
            where, fix = str(X.table["id"].iloc[i]), "Leave this recording or trial out"
            raise InputError(rule, file=where, field="kept", value=int(kept.sum()), fix=fix)
        yield X.signal(i)[kept]


def signal_list(
    X: Signals, n_rois: int | None = None, names: Sequence[str] | None = None
) -> list[NDArray[np.floating]]:
    """Return the signals one by one, checked.

    Parameters
    ----------
    X : Signals
        Not a store.
    n_rois : int, optional
        Number of ROIs that every signal must have; that of the first one by default.
    names : sequence of str, optional
        Names and order of the ROIs, for tables; those of the first one by default.

    Raises
    ------
    InputError
        If a signal is not 2-D, has another number of ROIs, or holds what is no finite real number.
    """
    if not (hasattr(X, "__len__") and hasattr(X, "__getitem__")):
        rule = "must be a store, a list of (n_times, n_rois) arrays, or a 3-D array"
        raise InputError(rule, field="X", value=type(X).__name__)
    if isinstance(X, np.ndarray) and X.ndim != 3 and not (X.ndim == 1 and X.dtype == object):
        raise InputError(
            "signals must have the shape (n_recordings, n_times, n_rois), or be a list of "
            "(n_times, n_rois)",
            field="X.shape",
            value=X.shape,
        )
    assert not isinstance(X, RecordingStore)
    order = names or roi_names(X)
    signals = [_numbers(_in_order(x, order, i), i) for i, x in enumerate(X)]
    if not signals:
        raise InputError("holds no recordings", field="X")
    for i, x in enumerate(signals):
        expected = n_rois or (signals[0].shape[1] if signals[0].ndim == 2 else None)
        if x.ndim != 2 or x.shape[1] != expected:
            raise InputError(
                f"must have the shape (n_times, {expected} ROIs)",
                field=f"X[{i}].shape",
                value=x.shape,
                fix="Time comes first, as nilearn's maskers return it",
            )
        if not np.isfinite(x).all():
            roi = int(np.flatnonzero(~np.isfinite(x).all(axis=0))[0])
            raise InputError("holds NaN or infinite values", field=f"X[{i}]", value=f"ROI {roi}")
    return signals


def _in_order(signal: object, names: Sequence[str] | None, i: int) -> object:
    """Return the columns of a table in the order of the names; anything else as it is."""
    if not is_named(signal) or names is None:
        return signal
    other = set(signal.columns) ^ set(names)
    if other or len(signal.columns) != len(names):
        raise InputError(
            f"must name the {len(names)} ROIs {names[0]}, ..., {names[-1]}, in any order",
            field=f"X[{i}].columns",
            value=sorted(other)[:3],
        )
    return signal[[*names]]


def _numbers(x: object, i: int) -> NDArray[np.floating]:
    """Return a signal as an array of real numbers; float32 and float64 stay what they are."""
    try:
        array = np.asarray(x)
        if array.dtype == object:
            array = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"must hold numbers ({error})", field=f"X[{i}]") from None
    if array.dtype.kind not in "fiu":
        raise InputError("must hold real numbers", field=f"X[{i}]", value=str(array.dtype))
    return array
