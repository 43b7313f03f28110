"""Quality of recordings: what is measured of each, what excludes one, what stands out of a cohort.

Nothing is excluded unless a rule is set; what a rule excludes is written down with its reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.atlas.parcellation import Parcellation
from semantoks.data.encode import Encoded
from semantoks.data.recording import Recording
from semantoks.data.signal import detrend, zscore
from semantoks.errors import InputError
from semantoks.flags import Flag

#: What is measured, and how to say it.
METRICS = {
    "minutes": "length as stored, minutes",
    "mean_fd": "mean framewise displacement, mm",
    "offset": "time of the first volume as stored, seconds",
    "censored_fraction": "fraction of volumes censored",
    "tdof": "temporal degrees of freedom left by filter, censoring and confounds",
    "n_missing_rois": "ROIs without data",
    "min_coverage": "smallest coverage of a ROI",
    "tsnr": "temporal signal-to-noise ratio, median over ROIs",
    "dvars": "mean standardised DVARS",
    "global_signal": "standard deviation of the mean over ROIs",
    "spectral_slope": "slope of log power over log frequency",
    "typicality": "correlation of its network connectivity with the cohort's",
}
#: Robust z scores beyond this are outliers (Iglewicz and Hoaglin 1993).
OUTLIER_Z = 3.5


@dataclass(frozen=True, kw_only=True)
class QualityRules:
    """What excludes a recording; none excludes nothing."""

    max_mean_fd: Annotated[float | None, Flag(name="--max-fd", metavar="MM")] = None
    """Exclude recordings above this mean framewise displacement, in mm."""
    max_censored_fraction: Annotated[
        float | None, Flag(name="--max-censored", metavar="FRACTION")
    ] = None
    """Exclude recordings above this fraction of censored volumes."""
    min_minutes: Annotated[float | None, Flag(metavar="MINUTES")] = None
    """Exclude recordings shorter than this as stored, in minutes."""
    max_missing_rois: Annotated[int | None, Flag(name="--max-missing", metavar="N")] = None
    """Exclude recordings with more ROIs without data than this."""
    min_tsnr: Annotated[float | None, Flag(metavar="RATIO")] = None
    """Exclude recordings below this temporal signal-to-noise ratio (median over ROIs)."""
    max_dvars: Annotated[float | None, Flag(metavar="DVARS")] = None
    """Exclude recordings above this mean standardised DVARS."""
    min_typicality: Annotated[float | None, Flag(metavar="R")] = None
    """Exclude recordings whose network connectivity correlates less than this with the cohort's."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and not np.isfinite(value):
                raise InputError("must be a number", field=name, value=value)

    def judge(self, measured: dict[str, Any]) -> tuple[str, str]:
        """Return the status of a recording, and why: stored, excluded, or failed.

        One of which a rule cannot tell fails, and no other does.
        """
        try:
            reason = self.reason(measured)
        except InputError as error:
            return "failed", str(error)
        return ("excluded" if reason else "stored"), reason

    def reason(self, measured: dict[str, Any]) -> str:
        """Return why a recording is excluded, "" if it is not.

        Raises
        ------
        InputError
            A rule is set on what was not measured, e.g. FD of files without motion estimates.
        """
        reasons = []
        for rule, limit in asdict(self).items():
            if limit is None:
                continue
            side, _, name = rule.partition("_")
            name = {"missing_rois": "n_missing_rois"}.get(name, name)
            value = measured.get(name)
            if value is None or (isinstance(value, float) and np.isnan(value)):
                rule_text = f"is set, but {name} is not known of this recording"
                fix = "Give it (mean_fd in the table, confounds beside the file), or drop the rule"
                raise InputError(rule_text, file=measured.get("id"), field=rule, fix=fix)
            if (side == "max" and value > limit) or (side == "min" and value < limit):
                reasons.append(f"{name} {value:.3g} {'>' if side == 'max' else '<'} {limit:g}")
        return "; ".join(reasons)


def measure(recording: Recording, encoded: Encoded, tr: float) -> dict[str, Any]:
    """Return what `METRICS` says of one recording, but for what needs the cohort; None if unknown.

    Parameters
    ----------
    recording : Recording
        As it was read.
    encoded : Encoded
        As it is stored.
    tr : float
        Repetition time of the store, seconds.
    """
    assert encoded.raw is not None, "not as `encode` returns it"
    assert encoded.volumes is not None, "not as `encode` returns it"
    there = encoded.raw.std(axis=0) > 0
    raw = encoded.raw[:, there]
    mean, noise = raw.mean(axis=0), detrend(raw).std(axis=0)
    normal = zscore(detrend(raw))
    has_means = bool((mean > noise).mean() > 0.5)  # signals that were demeaned have none
    dvars = recording.dvars
    if dvars is None:
        dvars = standardised_dvars(raw, encoded.volumes)
    stored = encoded.signal[:, there].astype(np.float64)
    coverage = recording.coverage
    return {
        "minutes": len(encoded.signal) * tr / 60,
        "mean_fd": recording.mean_fd,
        "offset": encoded.row["offset"],
        "censored_fraction": encoded.row["censored_fraction"],
        "tdof": encoded.tdof,
        "n_missing_rois": len(encoded.row["missing_rois"]),
        "min_coverage": None if coverage is None else float(np.nanmin(coverage)),
        "tsnr": float(np.median(mean / noise)) if has_means else None,
        "dvars": dvars,
        "global_signal": float(zscore(stored).mean(axis=1).std()),
        "spectral_slope": _slope(normal, recording.tr),
    }


def standardised_dvars(x: NDArray[np.floating], volumes: NDArray[np.intp]) -> float:
    """Return the mean standardised DVARS, as fMRIPrep's ``std_dvars``, of ROIs.

    The root mean square over ROIs of what changes from one volume to the next, by what it would be
    of noise of their own autocorrelation and robust standard deviation. Changes over a gap of
    censored volumes are left out. 1 is no artefact.

    Parameters
    ----------
    x : ndarray of shape (n_times, n_rois)
        Not detrended.
    volumes : int array of shape (n_times,)
        Number of every volume.

    References
    ----------
    Nichols, T. E. (2013), Notes on creating a standardized version of DVARS, arXiv:1704.01469.
    """
    close = np.diff(volumes) == 1
    low, high = np.percentile(x, [25, 75], axis=0, method="lower")
    x, spread = x[:, high > low], (high - low)[high > low] / 1.349
    if not close.any() or not len(spread):
        return float("nan")
    centred, change = x - x.mean(axis=0), np.diff(x, axis=0)[close]
    lagged = (centred[1:] * centred[:-1])[close].mean(axis=0) * (1 - 1 / len(x))
    autocorrelation = lagged / np.square(centred).mean(axis=0)
    expected = np.sqrt(2 * (1 - autocorrelation)) * spread
    return float(np.sqrt(np.square(change).mean(axis=1)).mean() / expected.mean())


def _slope(normal: NDArray[np.float64], tr: float) -> float:
    """Return the slope of log power over log frequency, from 0.01 Hz to 90 % of Nyquist."""
    from scipy.signal import welch

    segment = min(len(normal), max(32, int(100 / tr)))
    frequency, power = welch(normal, fs=1 / tr, nperseg=segment, axis=0)
    band = (frequency >= 0.01) & (frequency <= 0.9 * 0.5 / tr)
    power = power.mean(axis=1)
    band &= power > 0
    if band.sum() < 3:
        return float("nan")
    return float(np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)[0])


def network_connectivity(signal: NDArray[np.floating], atlas: Parcellation) -> NDArray[np.float64]:
    """Return the correlations of the networks' mean signals, and of their ROIs with those means.

    Parameters
    ----------
    signal : ndarray of shape (n_times, n_rois)
        As stored; missing ROIs are zero.
    atlas : Parcellation

    Returns
    -------
    ndarray of shape (n_networks * (n_networks - 1) / 2 + n_rois,)
        NaN where a network or ROI has no data.
    """
    x = zscore(np.asarray(signal, np.float64))
    x[:, signal.std(axis=0) == 0] = np.nan
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.stack([_mean(x[:, rois]) for rois in atlas.network_indices], axis=1)
        means = (means - means.mean(axis=0)) / means.std(axis=0)
        between = (means.T @ means / len(x))[np.tril_indices(means.shape[1], -1)]
        own = np.empty(x.shape[1])
        for column, rois in enumerate(atlas.network_indices):
            own[rois] = (x[:, rois] * means[:, [column]]).mean(axis=0)
    return np.concatenate([between, own])


def _mean(x: NDArray[np.float64]) -> NDArray[np.float64]:
    there = np.isfinite(x).all(axis=0)
    return np.asarray(x[:, there].mean(axis=1)) if there.any() else np.full(len(x), np.nan)


def typicality(profiles: Sequence[NDArray[np.floating]]) -> NDArray[np.float64]:
    """Return the correlation of every recording's profile with the median of the cohort.

    Parameters
    ----------
    profiles : sequence of ndarray
        What `network_connectivity` returns.
    """
    stacked = np.stack(profiles).astype(np.float64)
    known = np.isfinite(stacked)
    some = known.any(axis=0)
    centre = np.full(stacked.shape[1], np.nan)
    centre[some] = np.nanmedian(stacked[:, some], axis=0)
    out = np.full(len(stacked), np.nan)
    for i, (row, there) in enumerate(zip(stacked, known, strict=True)):
        if there.sum() > 2 and row[there].std() > 0 and centre[there].std() > 0:
            out[i] = np.corrcoef(row[there], centre[there])[0, 1]
    return out


def outliers(table: pd.DataFrame) -> list[str]:
    """Return in what every recording stands out of the cohort, "" if in nothing.

    A robust z score, 0.6745 (x - median) / MAD, beyond 3.5 in a metric that varies.
    """
    found: list[list[str]] = [[] for _ in range(len(table))]
    for name in METRICS:
        if name not in table.columns or name in ("minutes", "offset", "tdof", "n_missing_rois"):
            continue
        values = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)
        known = np.isfinite(values)
        if known.sum() < 10:
            continue
        centre = np.median(values[known])
        spread = np.median(abs(values[known] - centre))
        if spread == 0:
            continue
        z = 0.6745 * (values - centre) / spread
        for i in np.flatnonzero(known & (abs(z) > OUTLIER_Z)):
            found[i].append(f"{name} {values[i]:.3g} (z {z[i]:+.1f})")
    return ["; ".join(names) for names in found]
