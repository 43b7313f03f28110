"""Signals from their source to the encoder: detrend, band-pass, resample, z-score.

Pure functions on arrays of shape (n_times, n_rois), time first, all linear in the signal except
the z-score. They compute in float64; `Preprocessing` applies them in this order and records it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from math import ceil
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from semantoks.arrays import Signal
from semantoks.data.denoise import (
    check_confounds,
    interpolate,
    rank_of,
    regress_out,
    scaled,
)
from semantoks.data.filters import FILTER_ORDER, Filter, band_pass, edges, filter_dof
from semantoks.errors import InputError
from semantoks.flags import Flag

MAX_TR = 20.0  # seconds; slower than BOLD is sampled, and milliseconds start far above
Z_EPSILON = 1e-8  # METHOD section 1
_FLAT = 1e-6  # a column varying less than this part of its largest value is rounding noise
_KAISER_BETA = 8.0  # side lobes of the resampling kernel below -80 dB
_HALF_WIDTH = 16  # zero crossings of the resampling kernel on either side


def check_tr(tr: float | None, source: str | Path = "recording") -> float:
    """Return the repetition time in seconds, or refuse it.

    Raises
    ------
    InputError
        The TR is missing, not a positive number, or above 20 s (milliseconds given as seconds).
    """
    fix = "State the repetition time in seconds (RepetitionTime in the BIDS sidecar)"
    if tr is None or isinstance(tr, bool) or not isinstance(tr, (int, float, np.number)):
        rule = "the TR is missing" if tr is None else "the TR must be a number of seconds"
        raise InputError(rule, file=source, field="tr", value=tr, fix=fix)
    seconds = float(tr)
    if not np.isfinite(seconds) or seconds <= 0:
        rule = "the TR must be a positive number of seconds"
        raise InputError(rule, file=source, field="tr", value=seconds, fix=fix)
    if seconds > MAX_TR:
        rule = f"a TR above {MAX_TR:g} s is not plausible; is it in milliseconds?"
        fix = f"If so, give {seconds / 1000:g}"
        raise InputError(rule, file=source, field="tr", value=seconds, fix=fix)
    return seconds


def detrend(x: Signal) -> NDArray[np.float64]:
    """Remove the least-squares line from every column of `x`, shape (n_times, n_rois)."""
    from scipy import signal  # 0.7 s and 60 MB, and a training needs none of it

    return np.asarray(signal.detrend(np.asarray(x, np.float64), axis=0, type="linear"))


def resampled_length(n_times: int, tr: float, new_tr: float) -> int:
    """Return the length after `resample`: all multiples of `new_tr` up to the last sample.

    ``floor((n_times - 1) * tr / new_tr) + 1``, so nothing is extrapolated past the recording.
    """
    return int((n_times - 1) * tr / new_tr + 1e-6) + 1


def resampled_kept(kept: NDArray[np.bool_], tr: float, new_tr: float) -> NDArray[np.bool_]:
    """Return which samples of `resample` lie at or between kept volumes."""
    place = np.arange(resampled_length(len(kept), tr, new_tr)) * (new_tr / tr)
    before, after = (np.floor(place + 1e-6), np.ceil(place - 1e-6))
    return np.asarray(kept[before.astype(np.intp)] & kept[after.astype(np.intp)])


def resample(x: Signal, tr: float, new_tr: float) -> NDArray[np.float64]:
    """Resample signals from one repetition time to another, without aliasing.

    Every new sample is a Kaiser-windowed sinc average of the old ones around its time, with the cut
    at the lower of the two Nyquist frequencies: interpolation and anti-aliasing in one, for any
    pair of TRs. The first sample stays at time zero; the ends are continued by odd reflection, so
    that constants and lines stay what they are and no step rings into the signal.

    Parameters
    ----------
    x : ndarray of shape (n_times, n_rois)
        Signals, sampled every `tr`.
    tr, new_tr : float
        Repetition time before and after, seconds.

    Returns
    -------
    ndarray of float64, shape (resampled_length(n_times, tr, new_tr), n_rois)
        The signals at the times 0, new_tr, 2 new_tr, ...
    """
    if tr == new_tr or len(x) < 2:
        return x[: resampled_length(len(x), tr, new_tr)].astype(np.float64)
    padding = _kernel_padding(tr, new_tr)
    padded = np.pad(
        x.astype(np.float64), ((padding, padding), (0, 0)), mode="reflect", reflect_type="odd"
    )
    return np.asarray(_resampling_weights(len(x), tr, new_tr) @ padded, np.float64)


def resampling_window(length: int, tr: float, new_tr: float) -> tuple[NDArray[np.float64], int]:
    """Return what `resample` does inside a recording, as a product that makes `length` samples.

    Parameters
    ----------
    length : int
        New samples, the first of them at the time of an old one.
    tr, new_tr : float
        Repetition time before and after, seconds.

    Returns
    -------
    weights : ndarray of shape (length, n_old)
        Weights of the old samples in the new ones; every row sums to 1.
    margin : int
        The first new sample is at the time of old sample number `margin`: so many come before it,
        and as many after the last.
    """
    if tr == new_tr:
        return np.eye(length), 0
    n_old = ceil((length - 1) * new_tr / tr - 1e-6) + 1
    weights = _resampling_weights(n_old, tr, new_tr)[:length].toarray()
    return weights, _kernel_padding(tr, new_tr)


def _kernel_padding(tr: float, new_tr: float) -> int:
    return ceil(_HALF_WIDTH * max(tr, new_tr) / tr)


@lru_cache(maxsize=32)
def _resampling_weights(n_times: int, tr: float, new_tr: float) -> Any:
    """Weights of the padded old samples (columns) in the new ones (rows); every row sums to 1.

    A sparse matrix: of every row, only the old samples within the kernel are held.
    """
    from scipy.sparse import csr_array

    padding, slower = _kernel_padding(tr, new_tr), max(tr, new_tr)
    n_old, reach = n_times + 2 * padding, ceil(_HALF_WIDTH * slower / tr)
    new = np.arange(resampled_length(n_times, tr, new_tr))[:, None] * new_tr
    old = np.floor(new / tr).astype(np.intp) + padding + np.arange(-reach, reach + 2)
    lag = (new - (old - padding) * tr) / slower
    window = np.i0(_KAISER_BETA * np.sqrt(np.clip(1 - (lag / _HALF_WIDTH) ** 2, 0, None)))
    inside = (np.abs(lag) < _HALF_WIDTH) & (old >= 0) & (old < n_old)
    weights = np.where(inside, np.sinc(lag) * window, 0)
    weights /= weights.sum(axis=1, keepdims=True)
    starts = np.arange(len(old) + 1) * old.shape[1]
    columns = np.clip(old, 0, n_old - 1)
    return csr_array((weights.ravel(), columns.ravel(), starts), shape=(len(old), n_old))


def zscore(x: Signal) -> NDArray[np.float64]:
    """Return (x - mean) / (population std + 1e-8) over time, per ROI (METHOD section 1)."""
    x = np.asarray(x, np.float64)
    return np.asarray((x - x.mean(axis=0)) / (x.std(axis=0) + Z_EPSILON))


def flat_rois(x: Signal) -> NDArray[np.bool_]:
    """Return which ROIs hold no signal: a constant, or a line, up to rounding; bool (n_rois,)."""
    x = np.asarray(x, np.float64)
    return np.asarray(detrend(x).std(axis=0) <= _FLAT * abs(x).max(axis=0))


def _edge(hz: float) -> float | None:
    return hz or None


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What is done to every signal before it is stored, in this order.

    Examples
    --------
    >>> import numpy as np
    >>> from semantoks import Preprocessing
    >>> signal = np.random.default_rng(0).standard_normal((200, 5))
    >>> Preprocessing(tr=2.0).apply(signal, 2.5).shape  # 200 volumes of 2.5 s
    (249, 5)
    """

    tr: Annotated[float, Flag(metavar="SECONDS")] = 2.0
    """Resample all signals to this TR, in seconds."""
    detrend: bool = True
    """Remove a linear trend first."""
    low_hz: Annotated[float | None, Flag(metavar="HZ", read=_edge)] = 0.01
    """Remove slower changes than this, in Hz; none (on the command line 0) keeps them."""
    high_hz: Annotated[float | None, Flag(metavar="HZ", read=_edge)] = 0.1
    """Remove faster changes than this, in Hz; none (on the command line 0) keeps them."""
    filter: Filter = "butterworth"
    """Remove them by a Butterworth filter, or exactly by regression on cosines."""
    zscore: bool = True
    """Scale every ROI to mean 0 and standard deviation 1 over the recording, last."""

    def __post_init__(self) -> None:
        check_tr(self.tr, "preprocessing")
        edges(1e-9, self.low_hz, self.high_hz)

    def apply(
        self,
        signal: Signal,
        tr: float,
        source: str | Path = "signal",
        *,
        confounds: Signal | None = None,
        kept: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.float32]:
        """Return the preprocessed signal, float32 of shape (n_times at the target TR, n_rois).

        Parameters
        ----------
        signal : ndarray of shape (n_times, n_rois)
            Signals, time first.
        tr : float
            Their repetition time, seconds.
        source : str or path
            Where the signal comes from, for messages.
        confounds : ndarray of shape (n_times, n_confounds), optional
            Detrended and filtered like the signal, then regressed out of it.
        kept : bool array of shape (n_times,), optional
            False for volumes to interpolate over; the first and the last are kept
            (`semantoks.data.denoise.Censoring.stretch`).

        Raises
        ------
        InputError
            The TR is missing or implausible, the array is not two-dimensional or holds values
            that are not finite, the band does not fit the TR, or confounds have another length.
        """
        tr = check_tr(tr, source)
        x = np.asarray(signal, np.float64)
        if x.ndim != 2 or len(x) < 2:
            rule = "a signal has the shape (n_times, n_rois), with two time points at least"
            raise InputError(rule, file=source, field="shape", value=x.shape)
        c, mask = check_confounds(confounds, kept, len(x), source)
        x = interpolate(x, mask)
        if not np.isfinite(x).all():
            roi = int(np.flatnonzero(~np.isfinite(x).all(axis=0))[0])
            raise InputError(f"column {roi} holds values that are not finite", file=source)
        x = self._filtered(x, tr)
        if c is not None:
            c = self._filtered(scaled(interpolate(c, mask)), tr)
            x = regress_out(x, c, mask, source)
        x = resample(x, tr, self.tr)
        return (zscore(x) if self.zscore else x).astype(np.float32)

    def tdof(
        self, tr: float, kept: NDArray[np.bool_], confounds: NDArray[np.float64] | None
    ) -> float:
        """Return the temporal degrees of freedom that filter, censoring and confounds leave.

        Those of a filtered recording as long as the kept volumes, less the rank of the filtered
        confounds; below zero where these are more. Signals of noise keep about this share of their
        variance, and a z-score would hide what was lost.

        Parameters
        ----------
        tr : float
            Repetition time of the source, seconds.
        kept : bool array of shape (n_times,)
        confounds : ndarray of shape (n_times, n_confounds) or None
            As `apply` takes them.
        """
        left = filter_dof(int(kept.sum()), tr, self.low_hz, self.high_hz, self.filter)
        if self.detrend and self.low_hz is None:
            left -= 1
        if confounds is None:
            return left
        return left - rank_of(self._filtered(scaled(interpolate(confounds, kept)), tr), kept)

    def _filtered(self, x: Signal, tr: float) -> NDArray[np.float64]:
        x = detrend(x) if self.detrend else x
        return band_pass(x, tr, self.low_hz, self.high_hz, self.filter)

    def steps(self, source_tr: float) -> list[dict[str, Any]]:
        """Return what `apply` does to signals of one source TR (seconds), for the record.

        Where a recording came with censored volumes or confounds, they were interpolated before
        these steps and regressed out after the band-pass.
        """
        low, high = edges(source_tr, self.low_hz, self.high_hz)
        steps: list[dict[str, Any]] = []
        if self.detrend:
            steps.append({"step": "detrend", "type": "linear"})
        if low is not None or high is not None:
            design: dict[str, Any] = {"filter": self.filter}
            if self.filter == "butterworth":
                design |= {"order": FILTER_ORDER, "zero_phase": True}
            steps.append({"step": "band_pass", "low_hz": low, "high_hz": high, **design})
        if source_tr != self.tr:
            kernel = {"kernel": "kaiser-sinc", "beta": _KAISER_BETA, "half_width": _HALF_WIDTH}
            steps.append({"step": "resample", "tr": source_tr, "new_tr": self.tr, **kernel})
        if self.zscore:
            steps.append({"step": "zscore", "std": "population", "epsilon": Z_EPSILON})
        return steps

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)
