"""`StoreMixture`: several stores read as one, in the parcellation and at the TR of the first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from semantoks.atlas.channels import Channels, TokenRows
from semantoks.atlas.parcellation import Parcellation
from semantoks.data.reader import RecordingStore
from semantoks.data.signal import Preprocessing, resampled_length, resampling_window
from semantoks.errors import InputError

_FAR = 5.0  # millimetres between two centroids of one ROI: editions of an atlas lie farther apart


class StoreMixture:
    """Several stores read as one.

    The first store decides: its parcellation and its TR are those of the mixture. Another store may
    lack whole networks, which are then without data in its recordings, and may have another TR:
    crops of the same duration are resampled when they are read, with the kernel of `resample`.
    Everything else that was done to the signals must be the same. The z-score stays that of the
    store's own samples: of a short recording it is some per cent off that of the resampled ones.

    Equal names in two stores are two subjects, sites or recordings: in the table they are called
    ``STORE:NAME``, after the folder of their store.

    Parameters
    ----------
    stores : sequence of RecordingStore

    Attributes
    ----------
    table : DataFrame
        One row per recording: id, subject, site, length (time points at the TR of the mixture),
        missing_rois (names in its parcellation) and store (place in `stores`).

    Raises
    ------
    InputError
        Two stores have one name, or a store does not fit the first one: its ROIs, networks,
        preprocessing or TR.
    """

    def __init__(self, stores: Sequence[RecordingStore]) -> None:
        self.stores = tuple(stores)
        self.path = stores[0].path
        self.parcellation: Parcellation = stores[0].parcellation
        self.preprocessing: Preprocessing = stores[0].preprocessing
        for i, store in enumerate(stores):
            if store.path.name in {other.path.name for other in stores[:i]}:
                raise InputError(
                    "another store of this mixture has the same name",
                    file=store.path,
                    field="store",
                    value=store.path.name,
                    fix="Rename its folder",
                )
        self._parts = [_Part.of(self, store) for store in stores]
        tables = [part.table().assign(store=i) for i, part in enumerate(self._parts)]
        self.table = pd.concat(tables, ignore_index=True)
        counts = [len(store) for store in stores]
        self._row = np.concatenate([np.arange(n) for n in counts])
        self._part_of = np.repeat(np.arange(len(counts)), counts)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def tr(self) -> float:
        """Repetition time of the mixture, seconds."""
        return self.preprocessing.tr

    def gather(self, recordings: ArrayLike, starts: ArrayLike, length: int) -> NDArray[np.float16]:
        """Return crops of many recordings at once.

        Parameters
        ----------
        recordings : array of int, shape (B,)
            Rows of the table.
        starts : array of int, shape (V, B)
            First time point of every crop, one per view and recording, at the TR of the mixture. In
            a store of another TR the crop begins with the last sample that is not later.
        length : int
            Time points per crop.

        Returns
        -------
        ndarray of float16, shape (V, B, length, n_rois)
            The crops; zeros past the end of a recording and in ROIs that its store lacks.
        """
        which, begin = np.asarray(recordings, np.int64), np.asarray(starts, np.int64)
        crops = np.zeros((*begin.shape, length, len(self.parcellation)), np.float16)
        for number in np.unique(self._part_of[which]):
            here = self._part_of[which] == number
            part, rows = self._parts[number], self._row[which[here]]
            crops[:, here] = part.gather(rows, begin[:, here], length)
        return crops

    def select(self, recordings: NDArray[np.bool_]) -> StoreMixture:
        """Return the mixture of the recordings for which the mask is true, in their order."""
        return StoreMixture(
            [store.select(recordings[self._part_of == i]) for i, store in enumerate(self.stores)]
        )


#: What pretraining reads.
Recordings = RecordingStore | StoreMixture


@dataclass(frozen=True, eq=False)
class _Part:
    """One store of a mixture.

    Parameters
    ----------
    store : RecordingStore
    place : int array
        ROI of the mixture of every column of the store.
    atlas : Parcellation
        Of the mixture.
    tr : float
        Of the mixture, seconds.
    lengths : int array
        Time points of the recordings at that TR.
    """

    store: RecordingStore
    place: NDArray[np.intp]
    atlas: Parcellation
    tr: float
    lengths: NDArray[np.int64]

    @classmethod
    def of(cls, mixture: StoreMixture, store: RecordingStore) -> _Part:
        """Return a store that fits the mixture."""
        atlas, tr = mixture.parcellation, mixture.preprocessing.tr
        _check_preprocessing(store, mixture.preprocessing)
        place = places(atlas, store, TokenRows.by_group(atlas))
        lengths = [resampled_length(int(n), store.tr, tr) for n in store.table["length"]]
        _check_atlas(store, atlas, place)
        return cls(store, np.asarray(place), atlas, tr, np.asarray(lengths, np.int64))

    def table(self) -> pd.DataFrame:
        """Return its part of the mixture's table."""
        name, old = self.store.path.name, self.store.table
        labels = self.atlas.labels
        lacking = tuple(labels[i] for i in np.setdiff1d(np.arange(len(labels)), self.place))
        own = self.store.parcellation.labels
        names = dict(zip(own, (labels[i] for i in self.place), strict=True))
        missing = {m: (*(names[n] for n in m), *lacking) for m in set(old["missing_rois"])}
        return pd.DataFrame(
            {
                **{key: f"{name}:" + old[key] for key in ("id", "subject")},
                "site": (f"{name}:" + old["site"].astype(str)).where(old["site"].notna(), None),
                "length": self.lengths,
                "missing_rois": [missing[m] for m in old["missing_rois"]],
            }
        )

    def gather(
        self, which: NDArray[np.int64], starts: NDArray[np.int64], length: int
    ) -> NDArray[np.float16]:
        """Return crops in the ROIs and at the TR of the mixture, shape (V, B, length, n_rois)."""
        if self.store.tr == self.tr:
            crops = self.store.gather(which, starts, length)
        else:
            crops = self._resampled(which, starts, length)
            past = starts[..., None] + np.arange(length) >= self.lengths[which][:, None]
            crops[past] = 0
        if np.array_equal(self.place, np.arange(len(self.atlas))):
            return crops
        out = np.zeros((*crops.shape[:3], len(self.atlas)), np.float16)
        out[..., self.place] = crops
        return out

    def _resampled(
        self, which: NDArray[np.int64], starts: NDArray[np.int64], length: int
    ) -> NDArray[np.float16]:
        weights, margin = resampling_window(length, self.store.tr, self.tr)
        n_old = weights.shape[1]
        ends = np.broadcast_to(self.store.table["length"].to_numpy()[which], starts.shape)
        # Starts are on the grid of the store, so that all crops share one matrix.
        first = (starts * self.tr / self.store.tr + 1e-6).astype(np.int64) - margin
        begin = np.clip(first, 0, np.maximum(ends - n_old, 0))
        old = self.store.gather(which, begin, n_old).astype(np.float32)
        for v, b in np.argwhere((first < 0) | (first + n_old > ends)):
            inside = old[v, b, : ends[v, b]]  # of a short recording, all of it
            offset, n_times = first[v, b] - begin[v, b], ends[v, b] - begin[v, b]
            old[v, b] = _continued(inside[:n_times], int(offset), n_old)
        return np.asarray(np.matmul(weights.astype(np.float32), old), np.float16)


def _continued(x: NDArray[np.float32], first: int, n: int) -> NDArray[np.float32]:
    """Return `n` samples from number `first` on, `x` continued by odd reflection at both ends."""
    if len(x) == 1:
        return np.repeat(x, n, axis=0)
    turns, place = np.divmod(np.arange(first, first + n), 2 * (len(x) - 1))
    back = place >= len(x)
    out = x[np.where(back, 2 * (len(x) - 1) - place, place)]
    out[back] = 2 * x[-1] - out[back]
    return np.asarray(out + 2 * turns[:, None] * (x[-1] - x[0]), np.float32)


def places(channels: Channels, store: RecordingStore, rows: TokenRows) -> list[int]:
    """Return the channel of every column of a store, which may lack whole rows.

    Parameters
    ----------
    channels : Channels
        What the recordings are to be read in.
    store : RecordingStore
    rows : TokenRows
        Which channels are present together, or not at all, e.g. those of a network.

    Raises
    ------
    InputError
        A ROI is unknown, or a row has some of its channels only.
    """
    place = channels.indices_of(store.parcellation.labels, store.path)
    there = set(place)
    for name, rois in zip(rows.names, rows.channels, strict=True):
        found = sum(int(roi) in there for roi in rois)
        if 0 < found < len(rois):
            raise InputError(
                f"has {found} of the {len(rois)} ROIs of the network {name}; a network must be "
                "complete, or absent",
                file=store.path,
                field="ROI names",
                fix=f"Prepare the recordings with {channels.name} and mark the ROIs without data",
            )
    return place


def _check_atlas(store: RecordingStore, atlas: Parcellation, place: Sequence[int]) -> None:
    """Refuse a store that means other ROIs by the same names."""
    own, fix = store.parcellation, "Prepare the recordings with one parcellation"
    for label, network, i in zip(own.labels, own.networks, place, strict=True):
        if network != atlas.networks[i]:
            raise InputError(
                f"the ROI {label} belongs to {network} here and to {atlas.networks[i]} in "
                f"{atlas.name}",
                file=store.path,
                field="networks",
                value=own.name,
                fix=fix,
            )
    if own.space == atlas.space:
        apart = np.linalg.norm(own.coordinates - atlas.coordinates[list(place)], axis=1)
        if (apart > _FAR).any():  # unknown ones are NaN and never far
            far = int(np.nanargmax(apart))
            raise InputError(
                f"the ROI {own.labels[far]} lies {apart[far]:.0f} mm from that of {atlas.name}",
                file=store.path,
                field="coordinates",
                value=own.name,
                fix=fix,
            )


def _check_preprocessing(store: RecordingStore, wanted: Preprocessing) -> None:
    """Refuse a store whose signals, brought to another TR, would not be like those of the first."""
    if replace(store.preprocessing, tr=wanted.tr) != wanted:
        raise InputError(
            f"was preprocessed in another way than the first store of the mixture, {wanted}; only "
            "the TR may differ",
            file=store.path,
            field="preprocessing",
            value=store.preprocessing,
            fix="Prepare one of them again with the other's settings",
        )
    nyquist = 0.5 / wanted.tr
    if store.tr < wanted.tr and (wanted.high_hz is None or wanted.high_hz >= nyquist):
        raise InputError(
            f"holds frequencies above {nyquist:.4g} Hz, which a TR of {wanted.tr:g} s has no room "
            "for: without them its z-scored signals would be too small",
            file=store.path,
            field="high_hz",
            value=wanted.high_hz,
            fix=f"Prepare it again at a TR of {wanted.tr:g} s, or put it first",
        )
