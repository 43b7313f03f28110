"""`Scan`: a recording with what its corruptions need to know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil

import numpy as np
from numpy.typing import NDArray

from semantoks.arrays import Array
from semantoks.data.signal import Preprocessing, zscore
from semantoks.errors import InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class Scan:
    """One preprocessed recording and what its corruption needs to know.

    Parameters
    ----------
    signal : ndarray of shape (n_times, n_rois)
    kept : bool array of shape (n_times,)
        False where the signal is interpolated across censored volumes. A corruption that changes
        the length of the signal changes these alike.
    missing : bool array of shape (n_rois,)
        ROIs without data.
    networks : tuple of int arrays
        ROIs of every network.
    source_tr : float
        TR of the scanner, seconds.
    preprocessing : Preprocessing
        How the signal was preprocessed.
    """

    signal: Array
    kept: NDArray[np.bool_]
    missing: NDArray[np.bool_]
    networks: tuple[NDArray[np.intp], ...]
    source_tr: float
    preprocessing: Preprocessing

    def __post_init__(self) -> None:
        if self.kept.shape != (len(self.signal),):
            rule = f"must have one value for each of the {len(self.signal)} time points"
            fix = "Change it as the signal is changed"
            raise InputError(rule, field="kept.shape", value=self.kept.shape, fix=fix)

    def after_scaling(self, signal: Array, kept: NDArray[np.bool_] | None = None) -> Scan:
        """Return the scan with another signal, z-scored if the store's signals are.

        Parameters
        ----------
        signal : ndarray of shape (n_times, n_rois)
        kept : bool array of shape (n_times,), optional
            Which of its time points are data; those of the scan by default.
        """
        signal = zscore(signal) if self.preprocessing.zscore else signal
        return replace(self, signal=signal, kept=self.kept if kept is None else kept)

    def plus(self, make: Callable[[int, int, float], Array]) -> Scan:
        """Return the scan with a disturbance made at the scanner's TR and preprocessed.

        Parameters
        ----------
        make : callable
            From volumes, ROIs and TR to a disturbance of shape (n_times, n_rois).
        """
        n_times, n_rois = self.signal.shape
        volumes = ceil((n_times - 1) * self.preprocessing.tr / self.source_tr) + 1
        noise = make(max(volumes, 2), n_rois, self.source_tr)
        linear = replace(self.preprocessing, zscore=False)
        added = linear.apply(noise, self.source_tr)[:n_times]
        return self.after_scaling(self.signal + added * self.signal.std(axis=0))


# -- artefacts ------------------------------------------------------------------------------
