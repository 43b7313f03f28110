"""The same scan under two names, found by its signals, within a store or between two.

1. Recordings of equal bytes are the same.
2. Functional connectivity does not care for shifts and scales: a copy of a scan is among the
   nearest neighbours of the scan in it.
3. Neighbours are compared volume by volume at every shift, ROI by ROI. Two scans, even of one
   person, do not fluctuate together; a scan and its copy do in most ROIs, with volumes dropped,
   signals scaled or filtered. A common task drives some ROIs: the median over ROIs does not follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft, rfftfreq

from semantoks.data.encode import MIN_TIMES
from semantoks.data.signal import resample
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.features.connectivity import fisher_z_connectivity

#: Median over ROIs of the correlation of two recordings from which they count as one scan.
THRESHOLD = 0.6
_N_SIGNATURE, _N_COMPARED = 100, 50  # ROIs that tell scans apart well enough
_NEIGHBOURS, _BLOCK = 5, 512
_FRACTION = 4  # shifts are tried in quarters of a volume: dropped volumes had the scanner's TR
_FAR = 5.0  # millimetres between two centroids of one ROI: editions of an atlas lie farther apart
_COLUMNS = ["first", "second", "first_subject", "second_subject", "correlation", "shift_s"]
_COLUMNS += ["first_row", "second_row"]


def find_duplicates(
    store: RecordingStore, other: RecordingStore | None = None, *, threshold: float = THRESHOLD
) -> pd.DataFrame:
    """Find pairs of recordings that are the same scan.

    Parameters
    ----------
    store : RecordingStore
    other : RecordingStore, optional
        Pairs of one recording of each store, instead of pairs within `store`. ROIs that both have
        are compared, at the longer of the two TRs.
    threshold : float
        Median over ROIs of the correlation over volumes at the best shift. In 1102 recordings of
        ABIDE I it is 0.21 at most for different scans, and 0.92 at least for three that are in the
        data twice. Scans of 20 to 40 volumes, and runs of one person in one auditory task, reach
        0.40; a copy with another filter, or at another TR, stays above 0.70.

    Returns
    -------
    DataFrame
        One row per pair: first, second (ids), first_subject, second_subject, correlation, shift_s
        (seconds by which the second one starts later in the scan), first_row, second_row.

    Raises
    ------
    InputError
        The stores have fewer than half of their ROIs in common: another atlas.
    """
    scans, side = _scans(store, other)
    found: list[dict[str, Any]] = []
    pairs = _identical(scans, side) | _neighbours(scans, side)
    for i, j, correlation, shift in _compare(scans, sorted(pairs)):
        if correlation >= threshold:
            one, two = scans[i], scans[j]
            a, b = one.store.table.iloc[one.row], two.store.table.iloc[two.row]
            names = (a["id"], b["id"], str(a["subject"]), str(b["subject"]))
            row = (*names, correlation, shift * one.tr, one.row, two.row)
            found.append(dict(zip(_COLUMNS, row, strict=True)))
    return pd.DataFrame(found, columns=_COLUMNS)


@dataclass(frozen=True, eq=False)
class _Scan:
    """One recording in the ROIs and at the TR that all scans are compared in."""

    store: RecordingStore
    row: int
    columns: NDArray[np.intp]
    tr: float

    def signal(self, rois: NDArray[np.intp]) -> NDArray[np.float64]:
        """Return the signals of some of the ROIs compared, shape (n_times, n_rois)."""
        x = self.store.signal(self.row)[:, self.columns[rois]]
        return resample(x, self.store.tr, self.tr)


Pairs = set[tuple[int, int]]


def _scans(
    store: RecordingStore, other: RecordingStore | None
) -> tuple[list[_Scan], NDArray[np.intp]]:
    """Return the recordings to compare, and the store of each; zeros for a single store."""
    stores, columns = [store], [np.arange(len(store.parcellation))]
    if other is not None:
        stores, columns = [store, other], [*_common_rois(store, other)]
    tr = max(one.tr for one in stores)
    scans = [
        _Scan(one, row, place, tr)
        for one, place in zip(stores, columns, strict=True)
        for row in range(len(one))
    ]
    return scans, np.repeat(np.arange(len(stores)), [len(one) for one in stores])


def _common_rois(
    store: RecordingStore, other: RecordingStore
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the columns of the ROIs of both stores: of one name, and at one place."""
    mine, theirs = store.parcellation, other.parcellation
    where = {label: i for i, label in enumerate(theirs.labels)}
    pairs = [(i, where[label]) for i, label in enumerate(mine.labels) if label in where]
    a, b = np.array(pairs, np.intp).reshape(-1, 2).T
    if mine.space == theirs.space:
        apart = np.linalg.norm(mine.coordinates[a] - theirs.coordinates[b], axis=1) > _FAR
        a, b = a[~apart], b[~apart]  # unknown places are NaN and never apart
    fewer = min(len(mine), len(theirs))
    if len(a) < max(2, fewer / 2):
        raise InputError(
            f"has {len(a)} of {fewer} ROIs in common with {store.path.name} ({mine.name})",
            file=other.path,
            field="parcellation",
            value=theirs.name,
            fix="Prepare both with the same parcellation",
        )
    return a, b


def _identical(scans: list[_Scan], side: NDArray[np.intp]) -> Pairs:
    """Return each recording paired with the first one of the same bytes (in the other store)."""
    seen: dict[bytes, list[int]] = {}
    for k, scan in enumerate(scans):
        digest = sha256(scan.store.raw(scan.row).tobytes()).digest()
        seen.setdefault(digest, []).append(k)
    pairs = set()
    for members in seen.values():
        for k in members[1:]:
            partners = [m for m in members if m < k and (not side.any() or side[m] != side[k])]
            pairs |= {(partners[0], k)} if partners else set()
    return pairs


def _neighbours(scans: list[_Scan], side: NDArray[np.intp]) -> Pairs:
    """Return the pairs of every recording with those of the most similar connectivity.

    Of two stores, those of the smaller one with recordings of the other.
    """
    rois = _spread(len(scans[0].columns), _N_SIGNATURE)
    signatures = np.stack([fisher_z_connectivity(s.signal(rois)).astype(np.float32) for s in scans])
    if signatures.shape[1] == 0:
        return set()
    signatures -= signatures.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(signatures, axis=1, keepdims=True)
    signatures /= np.where(norm > 0, norm, 1)
    pairs = set()
    everyone = np.arange(len(scans))
    asked, candidates = everyone, everyone
    if side.any():
        asked, candidates = sorted((np.flatnonzero(side == 0), np.flatnonzero(side == 1)), key=len)
    count = min(_NEIGHBOURS, len(candidates) - (not side.any()))
    if count < 1:
        return set()
    for start in range(0, len(asked), _BLOCK):
        rows = asked[start : start + _BLOCK]
        similarity = signatures[rows] @ signatures[candidates].T
        similarity[rows[:, None] == candidates] = -np.inf  # itself
        nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        for row, columns in zip(rows.tolist(), candidates[nearest].tolist(), strict=True):
            pairs |= {(min(row, c), max(row, c)) for c in columns}
    return pairs


def _compare(
    scans: list[_Scan], pairs: list[tuple[int, int]]
) -> list[tuple[int, int, float, float]]:
    """Return every pair with its correlation at the best shift, and the shift in volumes."""
    rois = _spread(len(scans[0].columns), _N_COMPARED)
    longest = max(int(np.ceil(s.store.table["length"].max() * s.store.tr / s.tr)) for s in scans)
    n_fft = int(next_fast_len(2 * longest + 2, real=True))
    out, held = [], -1
    for i, j in pairs:
        if i != held:
            first, held = _Spectrum(scans[i].signal(rois), n_fft), i
        correlation, shift = first.best(_Spectrum(scans[j].signal(rois), n_fft))
        out.append((i, j, correlation, shift))
    return out


class _Spectrum:
    """Standardised signals of one recording, shape (n_times, n_rois), and their transform."""

    def __init__(self, signal: NDArray[np.float64], n_fft: int):
        x = signal - signal.mean(axis=0)
        std = x.std(axis=0)
        x = x / np.where(std > 0, std, 1)
        if x.shape[1] > 2:
            # The signal that all ROIs share has few degrees of freedom: two scans can share it.
            x = x - x.mean(axis=1, keepdims=True)
        self.n_fft, self.length, self.alive = n_fft, len(x), std > 0
        self.transform = rfft(x, n_fft, axis=0)
        zero = np.zeros((1, x.shape[1]))
        self.energy = np.concatenate([zero, np.square(x).cumsum(axis=0, dtype=np.float64)])

    def best(self, later: _Spectrum) -> tuple[float, float]:
        """Return the correlation at the best shift of the other, and that shift in volumes.

        The best shift maximises the correlation over volumes and ROIs; the correlation returned is
        the median over ROIs.
        """
        cross = self.transform * later.transform.conj()
        products = irfft(cross.sum(axis=1), _FRACTION * self.n_fft) * _FRACTION
        shorter = min(self.length, later.length)
        overlap_needed = min(max(MIN_TIMES, shorter // 2), shorter)
        lags = np.arange(
            _FRACTION * (overlap_needed - later.length),
            _FRACTION * (self.length - overlap_needed) + 1,
        )
        scale = np.sqrt(np.prod([e.sum(axis=-1) for e in self._energies(later, lags)], axis=0))
        correlation = np.divide(
            products[lags % len(products)], scale, out=np.zeros(len(lags)), where=scale > 0
        )
        lag = lags[int(correlation.argmax())]
        wave = np.exp(2j * np.pi * rfftfreq(self.n_fft) * lag / _FRACTION)
        wave[1:] *= 2
        own = (wave @ cross).real / self.n_fft
        scale = np.sqrt(np.prod(self._energies(later, lag), axis=0))
        known = self.alive & later.alive & (scale > 0)
        if not known.any():
            return 0.0, float(lag / _FRACTION)
        median = np.median(own[known] / scale[known])
        return float(median.clip(-1, 1)), float(lag / _FRACTION)

    def _energies(
        self, later: _Spectrum, lags: NDArray[np.intp]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the sums of squares of both, over the volumes that overlap at these shifts."""
        whole = np.rint(lags / _FRACTION).astype(int)
        start, stop = np.maximum(whole, 0), np.minimum(self.length, later.length + whole)
        mine = self.energy[stop] - self.energy[start]
        return mine, later.energy[stop - whole] - later.energy[start - whole]


def _spread(n: int, most: int) -> NDArray[np.intp]:
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.intp))
