"""Censored volumes and confounds: what happens together with the band-pass filter.

The order follows Power et al. 2014 and Lindquist et al. 2019, as nilearn's ``signal.clean``:
censored volumes are interpolated, so that motion does not ring through the filter; signals and
confounds are detrended and filtered alike; then the confounds are regressed out on the volumes that
were kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from semantoks.arrays import Signal
from semantoks.errors import InputError
from semantoks.flags import Flag

RANK_TOLERANCE = 1e-10  # of confounds, relative to the largest singular value


@dataclass(frozen=True, kw_only=True)
class Censoring:
    """Volumes that are left out, and how much data must be left."""

    dummy_scans: Annotated[int, Flag(metavar="N")] = 0
    """Remove this many volumes at the beginning, or more where fMRIPrep found more."""

    max_gap: Annotated[float, Flag(metavar="SECONDS")] = 10.0
    """Interpolate across gaps of censored volumes up to this long, in seconds."""
    long_gaps: Annotated[Literal["refuse", "cut"], Flag(name="--cut-gaps", on="cut")] = "refuse"
    """Keep the stretch without longer gaps that holds most data, instead of refusing the
    recording."""
    min_kept: Annotated[float, Flag(metavar="FRACTION")] = 0.5
    """Refuse recordings with a smaller fraction of kept volumes in the stretch stored."""
    min_tdof: Annotated[float, Flag(metavar="N")] = 10.0
    """Refuse recordings whose filter, censoring and confounds leave fewer temporal degrees of
    freedom, if confounds are regressed out."""

    def __post_init__(self) -> None:
        if self.dummy_scans < 0:
            raise InputError("must be 0 or more", field="dummy_scans", value=self.dummy_scans)
        if not (np.isfinite(self.max_gap) and self.max_gap >= 0):
            raise InputError("must be 0 or more seconds", field="max_gap", value=self.max_gap)
        if self.long_gaps not in ("refuse", "cut"):
            raise InputError("must be 'refuse' or 'cut'", field="long_gaps", value=self.long_gaps)
        if not 0 < self.min_kept <= 1:
            raise InputError("must be in (0, 1]", field="min_kept", value=self.min_kept)
        if not (np.isfinite(self.min_tdof) and self.min_tdof > 0):
            raise InputError("must be positive", field="min_tdof", value=self.min_tdof)

    def stretch(self, kept: NDArray[np.bool_], tr: float, source: str | Path) -> slice:
        """Return the volumes to use: from the first to the last kept one, within the bound.

        Parameters
        ----------
        kept : bool array of shape (n_times,)
        tr : float
            Seconds.
        source : str or path
            For messages.

        Raises
        ------
        InputError
            No volume is kept, a gap is longer than `max_gap` and not to be cut at, or too few
            volumes of the stretch are kept.
        """
        at = np.flatnonzero(kept)
        if not len(at):
            raise InputError("every volume is censored", file=source, field="censoring")
        breaks = np.flatnonzero(np.diff(at) * tr > self.max_gap + 1e-6)
        if len(breaks) and self.long_gaps == "refuse":
            longest = float(np.diff(at).max() * tr)
            rule = f"has {len(breaks)} gaps of censored volumes longer than {self.max_gap:g} s"
            fix = "Cut the recording at them (--cut-gaps), allow longer ones (--max-gap), "
            fix += "or leave it out"
            value = f"{longest:g} s"
            raise InputError(rule, file=source, field="censoring", value=value, fix=fix)
        first = at[np.r_[0, breaks + 1]]
        last = at[np.r_[breaks, len(at) - 1]]
        best = int(
            np.argmax(np.add.reduceat(kept.astype(int), first))
        )  # of kept volumes, not of time
        chosen = slice(int(first[best]), int(last[best]) + 1)
        share = float(kept[chosen].mean())
        if share < self.min_kept:
            rule = f"fewer than {self.min_kept:.0%} of the volumes are kept"
            fix = "Leave the recording out, or lower min_kept (--min-kept)"
            raise InputError(rule, file=source, field="censoring", value=f"{share:.0%}", fix=fix)
        return chosen

    def check_tdof(self, tdof: float, n_confounds: int, source: str | Path) -> None:
        """Refuse a recording whose confounds leave too little of any signal.

        Parameters
        ----------
        tdof : float
            Temporal degrees of freedom left.
        n_confounds : int
        source : str or path
            For messages.
        """
        if n_confounds and tdof < self.min_tdof:
            rule = (
                f"must leave {self.min_tdof:g} temporal degrees of freedom; filter, censoring and "
                f"{n_confounds} confounds leave {max(tdof, 0):.1f}"
            )
            fix = (
                "Regress out fewer confounds (e.g. --denoise-option motion=basic), widen the band "
                "(--high-hz 0), leave the recording out, or lower min_tdof (--min-tdof)"
            )
            raise InputError(rule, file=source, field="confounds", value=n_confounds, fix=fix)


def interpolate(x: Signal, kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Replace the rows that were not kept, by monotone cubic interpolation between those that were.

    Parameters
    ----------
    x : ndarray of shape (n_times, n_columns)
    kept : bool array of shape (n_times,)
        The first and the last are kept.
    """
    from scipy.interpolate import PchipInterpolator

    out = np.array(x, np.float64)
    if kept.all():
        return out
    times = np.arange(len(x))
    out[~kept] = PchipInterpolator(times[kept], out[kept], axis=0)(times[~kept])
    return out


def regress_out(
    x: Signal, confounds: Signal, kept: NDArray[np.bool_], source: str | Path
) -> NDArray[np.float64]:
    """Subtract the least-squares fit of the confounds (and a constant) on the kept rows.

    Parameters
    ----------
    x : ndarray of shape (n_times, n_rois)
    confounds : ndarray of shape (n_times, n_confounds)
        Scaled to comparable size; filtered like `x`.
    kept : bool array of shape (n_times,)
    source : str or path

    Raises
    ------
    InputError
        There are as many confounds as kept volumes: nothing would be left.
    """
    design = np.column_stack([np.ones(len(x)), confounds])
    if design.shape[1] >= kept.sum():
        rule = f"has {confounds.shape[1]} confounds for {kept.sum()} kept volumes"
        fix = "Choose fewer confounds (e.g. --denoise-option motion=basic), or leave it out"
        raise InputError(rule, file=source, field="confounds", fix=fix)
    y = np.asarray(x, np.float64)[kept]
    weights = np.linalg.lstsq(design[kept], y, rcond=RANK_TOLERANCE)[0]
    return np.asarray(x - design @ weights)


def rank_of(confounds: Signal, kept: NDArray[np.bool_]) -> int:
    """Return how many dimensions beside the constant `regress_out` removes of the kept rows."""
    design = np.column_stack([np.ones(len(confounds)), confounds])[kept]
    return int(np.linalg.matrix_rank(design, rtol=RANK_TOLERANCE)) - 1


def scaled(confounds: Signal) -> NDArray[np.float64]:
    """Return the confounds with mean 0 and variance 1, constant ones left out."""
    c = np.asarray(confounds, np.float64)
    c = c - c.mean(axis=0)
    size = c.std(axis=0)
    varying = size > 1e-10 * max(float(size.max(initial=0.0)), 1e-300)
    return np.asarray(c[:, varying] / size[varying])


def check_confounds(
    confounds: Signal | None, kept: NDArray[Any] | None, n_times: int, source: str | Path
) -> tuple[NDArray[np.float64] | None, NDArray[np.bool_]]:
    """Return confounds and kept volumes, checked against the number of volumes."""
    mask = np.ones(n_times, bool) if kept is None else np.array(kept)
    if mask.dtype != bool or mask.shape != (n_times,):
        rule = f"need one truth value for each of the {n_times} volumes"
        raise InputError(rule, file=source, field="kept", value=f"{mask.dtype} {mask.shape}")
    if confounds is None:
        return None, mask
    c = np.asarray(confounds, np.float64)
    if c.ndim != 2 or len(c) != n_times:
        rule = f"the confounds have {len(c)} rows, the signals {n_times} volumes"
        fix = "They do not belong together, or volumes were removed from one of them"
        raise InputError(rule, file=source, field="confounds", value=c.shape, fix=fix)
    if not np.isfinite(c[mask]).all():
        raise InputError("holds values that are not finite", file=source, field="confounds")
    return np.where(np.isfinite(c), c, 0.0), mask
