"""Corruptions: simulated artefacts and losses of data, functions of a severity and a generator.

Signals in a store are preprocessed already. What a scan adds to them (motion, breathing, heartbeat,
drift) is therefore simulated at the scanner's TR and goes through the store's own detrending,
filter and resampling before it is added. These steps are linear, so the sum is what would have been
stored: a band-pass that removes the artefact from real data removes it here.

Amplitudes are in standard deviations of the stored signal, before the filter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from semantoks.arrays import Array
from semantoks.data.encode import MIN_TIMES
from semantoks.data.signal import resample, resampled_kept
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError, nearest
from semantoks.evaluate.checks.scan import Scan

_SPIKE_SD = (3.0, 6.0)  # peak of a motion spike
_RECOVERY_S = 4.0  # time constant of the return to equilibrium after a movement
_RESPIRATION_HZ, _HEARTBEAT_HZ = (0.2, 0.35), (0.8, 1.4)
_DRIFT_HZ = 0.01


def motion_spikes(scan: Scan, severity: float, rng: Generator) -> Scan:
    """Add sudden signal losses of the whole brain that recover within seconds.

    Source of the shape: Satterthwaite et al. 2013, NeuroImage 64:240; Power et al. 2014, NeuroImage
    84:320: a drop within one volume, shared by the brain, and a return over about 10 s.

    Parameters
    ----------
    severity : float
        Movements per minute, on average.
    """

    def make(n_times: int, n_rois: int, tr: float) -> Array:
        n_events = rng.poisson(severity * n_times * tr / 60)
        when = (rng.random(n_events) * n_times).astype(int)
        out = np.zeros((n_times, n_rois))
        time = np.arange(n_times)[:, None]
        for start in when:
            size = rng.uniform(*_SPIKE_SD) * rng.lognormal(0.0, 0.3, n_rois)
            shape = np.exp(-(time - start) * tr / _RECOVERY_S) * (time >= start)
            out -= shape * size
        return out

    return scan.plus(make)


def respiration(scan: Scan, severity: float, rng: Generator) -> Scan:
    """Add an oscillation of 0.2 to 0.35 Hz, aliased as the scanner's TR aliases it.

    Parameters
    ----------
    severity : float
        Root mean square over ROIs and time.
    """
    return scan.plus(lambda n, c, tr: severity * _oscillation(n, c, tr, _RESPIRATION_HZ, rng))


def heartbeat(scan: Scan, severity: float, rng: Generator) -> Scan:
    """Add an oscillation of 0.8 to 1.4 Hz, aliased as the scanner's TR aliases it.

    Parameters
    ----------
    severity : float
        Root mean square over ROIs and time.
    """
    return scan.plus(lambda n, c, tr: severity * _oscillation(n, c, tr, _HEARTBEAT_HZ, rng))


def _oscillation(
    n_times: int, n_rois: int, tr: float, band: tuple[float, float], rng: Generator
) -> Array:
    """Return a rhythm whose rate wanders by some percent, shared by ROIs of different gain."""
    hertz = rng.uniform(*band)
    # The rate drifts over half a minute, as breathing and heart rate do.
    knots = np.arange(0, n_times * tr + 60, 30.0)
    rate = hertz * (1 + 0.05 * rng.standard_normal(len(knots)))
    rate = np.interp(np.arange(n_times) * tr, knots, rate)
    phase = 2 * np.pi * np.cumsum(rate) * tr + rng.uniform(0, 2 * np.pi)
    gain = rng.lognormal(0.0, 0.5, n_rois)
    wave = np.sin(phase[:, None] + rng.normal(0.0, 0.5, n_rois)) * gain
    return np.asarray(wave / np.sqrt(np.square(wave).mean()))


def slow_drift(scan: Scan, severity: float, rng: Generator) -> Scan:
    """Add changes slower than 0.01 Hz: scanner heating, settling of the head.

    Parameters
    ----------
    severity : float
        Root mean square over ROIs and time.
    """

    def make(n_times: int, n_rois: int, tr: float) -> Array:
        n_waves = max(int(2 * n_times * tr * _DRIFT_HZ), 1)
        order = np.arange(1, n_waves + 1)
        waves = np.cos(np.pi * (np.arange(n_times)[:, None] + 0.5) * order / n_times)
        weight = rng.standard_normal((n_waves, 1)) + 0.5 * rng.standard_normal((n_waves, n_rois))
        drift = waves @ (weight / order[:, None])  # a steeper part for the slower waves
        return np.asarray(severity * drift / np.sqrt(np.square(drift).mean()))

    return scan.plus(make)


# -- losses of data -----------------------------------------------------------------------------


def slower_sampling(scan: Scan, severity: float, rng: Generator) -> Scan:  # noqa: ARG001
    """Sample at a longer TR and come back to the store's, losing what is above the new Nyquist.

    Parameters
    ----------
    severity : float
        The longer TR over the store's, minus 1: 0.5 makes 2 s to 3 s.
    """
    tr = scan.preprocessing.tr
    slow = min(tr * (1 + severity), (len(scan.signal) - 1) * tr)
    kept = resampled_kept(resampled_kept(scan.kept, tr, slow), slow, tr)
    return scan.after_scaling(resample(resample(scan.signal, tr, slow), slow, tr), kept)


def shorter_scan(scan: Scan, severity: float, rng: Generator) -> Scan:
    """Keep one stretch at a random place.

    Parameters
    ----------
    severity : float
        Share of the volumes that is lost; at least 20 volumes, which a store asks for, remain.
    """
    n_times = len(scan.signal)
    kept = min(max(round((1 - severity) * n_times), MIN_TIMES), n_times)
    start = int(rng.random() * (n_times - kept + 1))
    stretch = slice(start, start + kept)
    return scan.after_scaling(scan.signal[stretch], scan.kept[stretch])


def missing_regions(scan: Scan, severity: float, rng: Generator) -> Scan:
    """Lose single ROIs at random: zero, and marked as missing.

    Parameters
    ----------
    severity : float
        Share of the ROIs; at least one is lost and one remains.
    """
    n_rois = scan.signal.shape[1]
    count = min(max(round(severity * n_rois), 1), n_rois - 1)
    return _without(scan, rng.permutation(n_rois)[:count])


def missing_networks(scan: Scan, severity: float, rng: Generator) -> Scan:
    """Lose whole functional networks: zero, and marked as missing.

    Parameters
    ----------
    severity : float
        Share of the networks; at least one is lost and one remains.
    """
    n = len(scan.networks)
    if n < 2:
        raise InputError("a parcellation of one network has none to lose", field="networks")
    count = min(max(round(severity * n), 1), n - 1)
    return _without(scan, np.concatenate([scan.networks[i] for i in rng.permutation(n)[:count]]))


def _without(scan: Scan, rois: NDArray[np.intp]) -> Scan:
    lost = np.isin(np.arange(scan.signal.shape[1]), rois)
    return replace(scan, signal=np.where(lost, 0.0, scan.signal), missing=scan.missing | lost)


# -- whole stores ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """An artefact or loss of data, of adjustable severity.

    Parameters
    ----------
    apply : callable
        From a `Scan`, a severity above 0 and a generator to a `Scan`.
    unit : str
        What a severity counts.
    severities : tuple of float
        From mild to severe; those of `corruption_curves` by default.
    methods : str
        What it adds or removes, as the methods paragraph lists it.
    """

    apply: Callable[[Scan, float, Generator], Scan]
    unit: str
    severities: tuple[float, ...]
    methods: str


_SD = "standard deviations"

#: By the names under which results show them.
CORRUPTIONS: dict[str, Corruption] = {
    "motion spikes": Corruption(
        apply=motion_spikes,
        unit="movements per minute",
        severities=(0.5, 1.0, 2.0, 4.0),
        methods="simulated motion spikes (Satterthwaite et al., 2013; Power et al., 2014)",
    ),
    "respiration": Corruption(
        apply=respiration,
        unit=_SD,
        severities=(0.25, 0.5, 1.0, 2.0),
        methods="simulated respiratory noise",
    ),
    "heartbeat": Corruption(
        apply=heartbeat,
        unit=_SD,
        severities=(0.25, 0.5, 1.0, 2.0),
        methods="simulated cardiac noise",
    ),
    "slow drift": Corruption(
        apply=slow_drift,
        unit=_SD,
        severities=(0.5, 1.0, 2.0, 4.0),
        methods="simulated slow drift",
    ),
    "slower sampling": Corruption(
        apply=slower_sampling,
        unit="TR added, share",
        severities=(0.5, 1.0, 2.0, 3.0),
        methods="a longer TR",
    ),
    "shorter scan": Corruption(
        apply=shorter_scan,
        unit="share of volumes lost",
        severities=(0.25, 0.5, 0.75),
        methods="fewer volumes",
    ),
    "missing regions": Corruption(
        apply=missing_regions,
        unit="share of ROIs lost",
        severities=(0.05, 0.1, 0.2, 0.4),
        methods="missing regions",
    ),
    "missing networks": Corruption(
        apply=missing_networks,
        unit="share of networks lost",
        severities=(0.15, 0.3, 0.5),
        methods="missing networks",
    ),
}


class CorruptedStore(RecordingStore):
    """A store whose signals are held in memory instead of read from its files.

    Parameters
    ----------
    clean : RecordingStore
    scans : list of Scan
        One per recording.
    """

    def __init__(self, clean: RecordingStore, scans: list[Scan]) -> None:
        self.__dict__.update(clean.__dict__)
        lengths = [len(scan.signal) for scan in scans]
        labels = np.asarray(clean.parcellation.labels)
        self.table = clean.table.assign(
            shard=0,
            start=np.cumsum([0, *lengths[:-1]]),
            length=lengths,
        )
        self.table["missing_rois"] = [tuple(labels[scan.missing].tolist()) for scan in scans]
        self._kept, self._first = np.concatenate([scan.kept for scan in scans]), np.zeros(1, int)
        self._shards = [np.concatenate([scan.signal.astype(np.float16) for scan in scans])]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the clean store's, of the signals in memory and of the ROIs without data."""
        missing = self.table["missing_rois"].tolist()
        return sha256(f"{super().fingerprint}\n{self._content}\n{missing}".encode()).hexdigest()

    @cached_property
    def _content(self) -> str:
        assert self._kept is not None
        digest = sha256(self._shards[0].tobytes())
        digest.update(self._kept.tobytes())
        return digest.hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def corrupted(
    store: RecordingStore, corruption: str | Corruption, severity: float, *, seed: int
) -> CorruptedStore:
    """Return the store with every recording corrupted.

    Every recording has a generator of its own, the same at all severities: neither the order of the
    recordings nor the other recordings matter.

    Parameters
    ----------
    store : RecordingStore
    corruption : str or Corruption
        A name of `CORRUPTIONS`, or another corruption.
    severity : float
        In the corruption's unit; 0 changes nothing.
    seed : int

    Returns
    -------
    CorruptedStore
        Its signals are in memory: 2 bytes per ROI and volume.

    Raises
    ------
    InputError
        The name is unknown, or the severity is negative or not a number.
    """
    if isinstance(corruption, str):
        corruption = known_corruption(corruption)
    if not (np.isfinite(severity) and severity >= 0):
        raise InputError("must be 0 or more", field="severity", value=severity)
    labels, scans = np.asarray(store.parcellation.labels), []
    for i, row in enumerate(store.table.to_dict("records")):
        scan = Scan(
            signal=store.signal(i).astype(np.float64),
            kept=store.kept(i),
            missing=np.isin(labels, row["missing_rois"]),
            networks=store.parcellation.network_indices,
            source_tr=float(row["source_tr"]),
            preprocessing=store.preprocessing,
        )
        if severity > 0:
            number = int(sha256(str(row["id"]).encode()).hexdigest()[:16], 16)
            scan = corruption.apply(scan, severity, np.random.default_rng([seed, number]))
        scans.append(scan)
    return CorruptedStore(store, scans)


def known_corruption(name: str) -> Corruption:
    """Return one of `CORRUPTIONS`.

    Raises
    ------
    InputError
        The name is unknown.
    """
    if name not in CORRUPTIONS:
        rule, fix = "is not a corruption", nearest(name, CORRUPTIONS)
        raise InputError(rule, field="corruption", value=name, fix=fix)
    return CORRUPTIONS[name]
