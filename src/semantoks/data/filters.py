"""Filters: keep a band of frequencies, and count what they leave."""

from __future__ import annotations

from math import ceil
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from semantoks.arrays import Signal
from semantoks.errors import InputError

#: How frequencies outside the band are removed; see `band_pass`.
Filter = Literal["butterworth", "cosine"]

FILTER_ORDER = 4  # of the Butterworth prototype; passed twice, so -6 dB at the edges


def band_pass(
    x: Signal,
    tr: float,
    low_hz: float | None,
    high_hz: float | None,
    kind: Filter = "butterworth",
) -> NDArray[np.float64]:
    """Keep the frequencies between two edges, without shifting them in time.

    1. ``butterworth``: a filter of order 4 runs forwards and backwards (zero phase, half the
       amplitude at the edges). The ends are continued by odd reflection over one period of the
       lowest edge (at most the length of the signal), so that no step rings into it.
    2. ``cosine``: the cosines of frequency k / (2 n_times tr) outside the band are regressed out,
       as SPM and fMRIPrep do below their cutoff: sharp edges, and exactly the degrees of freedom
       of the cosines that remain.

    Parameters
    ----------
    x : ndarray of shape (n_times, n_rois)
        Signals.
    tr : float
        Repetition time, seconds.
    low_hz, high_hz : float or None
        Edges in hertz; None leaves that side open. An upper edge at or above the Nyquist frequency
        1 / (2 tr) leaves it open too: a signal sampled at `tr` holds nothing above it to remove.
    kind : {"butterworth", "cosine"}

    Returns
    -------
    ndarray of float64, shape (n_times, n_rois)

    Raises
    ------
    InputError
        An edge is not positive, they are in the wrong order, or the lower edge is not below the
        Nyquist frequency, so that nothing would be left.
    """
    if kind not in get_args(Filter):
        rule = f"must be {' or '.join(get_args(Filter))}"
        raise InputError(rule, field="filter", value=kind)
    low, high = edges(tr, low_hz, high_hz)
    if low is None and high is None:
        return x.astype(np.float64)
    if kind == "cosine":
        return _project(x, tr, low, high)
    from scipy.signal import sosfiltfilt

    padding = min(len(x) - 1, ceil(1.0 / ((low or high or 1.0) * tr)))
    filtered = sosfiltfilt(
        _sections(tr, low, high), x.astype(np.float64), axis=0, padtype="odd", padlen=padding
    )
    return np.asarray(filtered, np.float64)


def _project(x: Signal, tr: float, low: float | None, high: float | None) -> NDArray[np.float64]:
    """Return what cosines of the band, and without a lower edge the mean, explain."""
    from scipy.fft import dct, idct

    weights = np.asarray(dct(x.astype(np.float64), axis=0, norm="ortho"))
    weights[~_in_band(len(x), tr, low, high)] = 0.0
    return np.asarray(idct(weights, axis=0, norm="ortho"))


def _in_band(n_times: int, tr: float, low: float | None, high: float | None) -> NDArray[np.bool_]:
    """Return which cosines lie in a band, the constant first."""
    frequencies = np.arange(n_times) / (2 * n_times * tr)
    inside = frequencies >= (low or 0.0)
    return np.asarray(inside if high is None else inside & (frequencies <= high))


def _sections(tr: float, low: float | None, high: float | None) -> NDArray[np.float64]:
    """Return the filter's second-order sections, for one of the two passes."""
    from scipy.signal import butter

    if low is None:
        return np.asarray(
            butter(FILTER_ORDER, high or 0.0, btype="lowpass", output="sos", fs=1.0 / tr)
        )
    if high is None:
        return np.asarray(butter(FILTER_ORDER, low, btype="highpass", output="sos", fs=1.0 / tr))
    return np.asarray(
        butter(FILTER_ORDER, [low, high], btype="bandpass", output="sos", fs=1.0 / tr)
    )


def filter_dof(
    n_times: int,
    tr: float,
    low_hz: float | None,
    high_hz: float | None,
    kind: Filter = "butterworth",
) -> float:
    """Return the temporal degrees of freedom that `band_pass` leaves of so many volumes.

    The trace of the filter: its gain, summed over the frequencies k / (2 n_times tr) of the cosine
    transform but the constant, about ``2 n_times tr (high_hz - low_hz)``.

    Examples
    --------
    >>> round(filter_dof(75, 2.0, 0.01, 0.1))
    27
    >>> filter_dof(75, 2.0, 0.01, 0.1, "cosine")
    28.0
    """
    from scipy.signal import sosfreqz

    low, high = edges(tr, low_hz, high_hz)
    if low is None and high is None:
        return float(n_times - 1)
    if kind == "cosine":
        return float(_in_band(n_times, tr, low, high)[1:].sum())
    frequencies = np.arange(1, n_times) / (2 * n_times * tr)
    _, response = sosfreqz(_sections(tr, low, high), worN=frequencies, fs=1.0 / tr)
    return float(np.square(np.abs(response)).sum())  # two passes


def edges(
    tr: float, low_hz: float | None, high_hz: float | None
) -> tuple[float | None, float | None]:
    """Return the edges that have an effect at this TR."""
    nyquist = 0.5 / tr
    for name, edge in (("low_hz", low_hz), ("high_hz", high_hz)):
        if edge is not None and not (np.isfinite(edge) and edge > 0):
            fix = "Give a positive frequency in Hz, or none"
            raise InputError("must be positive", field=name, value=edge, fix=fix)
    if low_hz is not None and high_hz is not None and low_hz >= high_hz:
        rule = f"must be below high_hz = {high_hz:g}"
        raise InputError(rule, field="low_hz", value=low_hz)
    if low_hz is not None and low_hz >= nyquist:
        rule = f"is not below the Nyquist frequency {nyquist:.4g} Hz of TR {tr:g} s"
        fix = "Choose a lower edge, or none; and check that the TR is in seconds"
        raise InputError(rule, field="low_hz", value=low_hz, fix=fix)
    return low_hz, None if high_hz is None or high_hz >= nyquist else high_hz
