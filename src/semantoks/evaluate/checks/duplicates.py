"""The same scan under two names, found by its signals.

1. Recordings of equal bytes are the same.
2. Functional connectivity does not care for shifts and scales: a copy of a scan is among the
   nearest neighbours of the scan in it.
3. Neighbours are compared volume by volume at every shift. Two scans, even of one person, do not
   fluctuate together; a scan and its copy do, with volumes dropped or signals scaled.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft

from semantoks.data.encode import MIN_TIMES
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.features.connectivity import fisher_z_connectivity

_N_SIGNATURE, _N_COMPARED = 100, 50  # ROIs that tell scans apart well enough
_NEIGHBOURS, _BLOCK = 5, 512
_FRACTION = 4  # shifts are tried in quarters of a volume: dropped volumes had the scanner's TR
_COLUMNS = ["first", "second", "first_subject", "second_subject", "correlation", "shift_s"]


def find_duplicates(
    store: RecordingStore, other: RecordingStore | None = None, *, threshold: float = 0.5
) -> pd.DataFrame:
    """Find pairs of recordings that are the same scan.

    Parameters
    ----------
    store : RecordingStore
    other : RecordingStore, optional
        Pairs of one recording of each store, instead of pairs within `store`; of the same ROIs and
        TR.
    threshold : float
        Correlation over volumes and ROIs at the best shift. On 974 people of ABIDE I it is 0.22 at
        most for different scans, and 0.94 for one that was registered twice.

    Returns
    -------
    DataFrame
        One row per pair: first, second (ids), first_subject, second_subject, correlation, shift_s
        (seconds by which the second one starts later in the scan).

    Raises
    ------
    InputError
        The stores do not have the same ROIs and TR.
    """
    stores = [store] if other is None else [store, other]
    if other is not None and (
        other.parcellation.labels != store.parcellation.labels or other.tr != store.tr
    ):
        raise InputError(
            f"needs the ROIs and the TR of {store.path}",
            file=other.path,
            field="parcellation, tr",
            value=(other.parcellation.name, other.tr),
            fix="Prepare both with the same parcellation and TR",
        )
    place = [(s, i) for s in stores for i in range(len(s))]
    side = np.repeat(np.arange(len(stores)), [len(s) for s in stores])
    found: list[dict[str, Any]] = []
    pairs = _identical(place, side) | _neighbours(place, side)
    for i, j, correlation, shift in _compare(place, sorted(pairs)):
        if correlation >= threshold:
            a, b = (s.table.iloc[k] for s, k in (place[i], place[j]))
            names = (a["id"], b["id"], str(a["subject"]), str(b["subject"]))
            row = (*names, correlation, shift * store.tr)
            found.append(dict(zip(_COLUMNS, row, strict=True)))
    return pd.DataFrame(found, columns=_COLUMNS)


Place = list[tuple[RecordingStore, int]]
Pairs = set[tuple[int, int]]


def _identical(place: Place, side: NDArray[np.intp]) -> Pairs:
    """Return each recording paired with the first one of the same bytes (in the other store)."""
    seen: dict[bytes, list[int]] = {}
    for k, (store, i) in enumerate(place):
        seen.setdefault(sha256(store.raw(i).tobytes()).digest(), []).append(k)
    pairs = set()
    for members in seen.values():
        for k in members[1:]:
            partners = [m for m in members if m < k and (not side.any() or side[m] != side[k])]
            pairs |= {(partners[0], k)} if partners else set()
    return pairs


def _neighbours(place: Place, side: NDArray[np.intp]) -> Pairs:
    """Return the pairs of every recording with those of the most similar connectivity."""
    rois = _spread(len(place[0][0].parcellation), _N_SIGNATURE)
    signatures = np.stack(
        [fisher_z_connectivity(s.signal(i)[:, rois]).astype(np.float32) for s, i in place]
    )
    if signatures.shape[1] == 0 or len(place) < 2:
        return set()
    signatures -= signatures.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(signatures, axis=1, keepdims=True)
    signatures /= np.where(norm > 0, norm, 1)
    pairs = set()
    count = min(_NEIGHBOURS, len(place) - 1)
    for start in range(0, len(place), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(place)))
        similarity = signatures[rows] @ signatures.T
        similarity[np.arange(len(rows)), rows] = -np.inf
        if side.any():
            similarity[side[rows][:, None] == side] = -np.inf
        nearest = np.argpartition(-similarity, count - 1, axis=1)[:, :count]
        for row, columns in zip(rows.tolist(), nearest.tolist(), strict=True):
            allowed = [c for c in columns if not side.any() or side[c] != side[row]]
            pairs |= {(min(row, c), max(row, c)) for c in allowed}
    return pairs


def _compare(place: Place, pairs: list[tuple[int, int]]) -> list[tuple[int, int, float, float]]:
    """Return every pair with its correlation at the best shift, and the shift in volumes."""
    rois = _spread(len(place[0][0].parcellation), _N_COMPARED)
    longest = max(int(s.table["length"].max()) for s, _ in place)
    n_fft = int(next_fast_len(2 * longest, real=True))
    out, held = [], -1
    for i, j in pairs:
        if i != held:
            first, held = _Spectrum(place[i], rois, n_fft), i
        correlation, shift = first.best(_Spectrum(place[j], rois, n_fft))
        out.append((i, j, correlation, shift))
    return out


class _Spectrum:
    """Standardised signals of one recording and their Fourier transform."""

    def __init__(self, where: tuple[RecordingStore, int], rois: NDArray[np.intp], n_fft: int):
        store, i = where
        x = store.signal(i)[:, rois]
        x = x - x.mean(axis=0)
        std = x.std(axis=0)
        x = x / np.where(std > 0, std, 1)
        if x.shape[1] > 2:
            # The signal that all ROIs share has few degrees of freedom: two scans can share it.
            x = x - x.mean(axis=1, keepdims=True)
        self.n_fft, self.length = n_fft, len(x)
        self.transform = rfft(x, n_fft, axis=0)
        self.energy = np.concatenate([[0.0], np.square(x).sum(axis=1).cumsum(dtype=np.float64)])

    def best(self, later: _Spectrum) -> tuple[float, float]:
        """Return the largest correlation over shifts, and the shift of the other, in volumes."""
        cross = (self.transform * later.transform.conj()).sum(axis=1)
        products = irfft(cross, _FRACTION * self.n_fft) * _FRACTION
        shorter = min(self.length, later.length)
        overlap_needed = min(max(MIN_TIMES, shorter // 2), shorter)
        lags = np.arange(
            _FRACTION * (overlap_needed - later.length),
            _FRACTION * (self.length - overlap_needed) + 1,
        )
        whole = np.rint(lags / _FRACTION).astype(int)
        start, stop = np.maximum(whole, 0), np.minimum(self.length, later.length + whole)
        mine = self.energy[stop] - self.energy[start]
        theirs = later.energy[stop - whole] - later.energy[start - whole]
        scale = np.sqrt(mine * theirs)
        correlation = np.divide(
            products[lags % len(products)], scale, out=np.zeros(len(lags)), where=scale > 0
        )
        k = int(correlation.argmax())
        return float(correlation[k].clip(-1, 1)), float(lags[k] / _FRACTION)


def _spread(n: int, most: int) -> NDArray[np.intp]:
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.intp))
