"""`RecordingStore`: many recordings in one folder, memory-mapped, as `StoreWriter` lays it out."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from semantoks.atlas.parcellation import Parcellation
from semantoks.data.encode import INDEX_COLUMNS
from semantoks.data.layout import (
    HEADER,
    INDEX,
    KEPT,
    RESTORE,
    ROIS,
    checked,
    read_header,
    read_index,
    stated_preprocessing,
)
from semantoks.errors import InputError, StoreError, entry, readable


class RecordingStore:
    """Preprocessed recordings of one parcellation at one TR, read from a folder.

    Nothing is loaded but the index; signals are memory-mapped float16. Without this package, a
    shard is ``numpy.load("signals-00000.npy", mmap_mode="r")`` and the index a Parquet table.

    Parameters
    ----------
    path : str or path
        Folder that `StoreWriter` made.

    Raises
    ------
    StoreError
        The folder is no store, half-written, damaged, or written by a newer version.

    See Also
    --------
    prepare_store : Writes one.

    Examples
    --------
    >>> from semantoks import RecordingStore, prepare_store
    >>> report = prepare_store("abide-sample", "stores/abide")
    >>> store = RecordingStore("stores/abide")
    >>> len(store), store.tr, store.signal(0).shape[1]
    (202, 2.0, 200)
    >>> yale = store.select(store.table["site"] == "YALE")
    >>> len(yale)
    29
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.header = read_header(self.path)
        with readable(self.path / HEADER, StoreError):
            name = str(entry(self.header, "parcellation", "name"))
            self.preprocessing = stated_preprocessing(self.header, self.path / HEADER)
        rois = checked(self.path, ROIS, self.header["rois_sha256"])
        with readable(rois, StoreError):
            frame = pd.read_csv(rois, sep="\t", dtype=str, keep_default_na=False)
            self.parcellation = Parcellation.from_frame(frame, name=name, source=rois)
        self.table = read_index(checked(self.path, INDEX, self.header["index_sha256"]))
        self._shards = self._map_shards()
        rows = np.array([len(shard) for shard in self._shards])
        self._first = np.cumsum([0, *rows])
        self._kept = self._map_kept()
        shard, start, length = (self.table[n].to_numpy() for n in ("shard", "start", "length"))
        there = (shard >= 0) & (shard < len(rows)) & (start >= 0) & (length > 0)
        there[there] = (start + length)[there] <= rows[shard[there]]
        if not there.all():
            raise StoreError(
                "lists a recording that its shard does not hold",
                file=self.path / INDEX,
                field="id",
                value=self.table["id"][np.flatnonzero(~there)[0]],
                fix=RESTORE,
            )

    def _map_shards(self) -> list[NDArray[np.float16]]:
        shards = []
        for shard in self.header["shards"]:
            file = self.path / shard["file"]
            shape = (shard["rows"], len(self.parcellation))
            if not file.is_file():
                raise StoreError("a shard is missing", file=file, fix=RESTORE)
            with readable(file, StoreError, fix=RESTORE):
                signals = np.load(file, mmap_mode="r", allow_pickle=False)
            # A damaged beginning can make an archive of it, which is no array at all.
            found = getattr(signals, "shape", None), getattr(signals, "dtype", None)
            if found != (shape, np.float16):
                rule = f"a shard must hold float16 of shape {shape}"
                value = f"{found[1]} {found[0]}"
                raise StoreError(rule, file=file, field="signals", value=value, fix=RESTORE)
            shards.append(np.asarray(signals))  # plain views of the map are quicker to slice
        return shards

    def _map_kept(self) -> NDArray[np.bool_] | None:
        """Return which time points of all shards are kept, None of a store that does not tell."""
        if self.header["format_version"] < 2:
            return None
        file = checked(self.path, KEPT, self.header["kept_sha256"])
        with readable(file, StoreError, fix=RESTORE):
            kept = np.load(file, mmap_mode="r", allow_pickle=False)
        if kept.shape != (self._first[-1],) or kept.dtype != bool:
            rule = f"must hold a truth value for each of {self._first[-1]} time points"
            value = f"{kept.dtype} {kept.shape}"
            raise StoreError(rule, file=file, field="kept", value=value, fix=RESTORE)
        return np.asarray(kept)

    def __getstate__(self) -> dict[str, Any]:
        # A pickled memory map would carry the data itself; worker processes map the files again.
        return {k: value for k, value in self.__dict__.items() if k not in ("_shards", "_kept")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shards, self._kept = self._map_shards(), self._map_kept()

    def __len__(self) -> int:
        return len(self.table)

    # What scikit-learn's splitters need: `cross_val_score` and its like take a store as X.
    __iter__ = None

    @property
    def shape(self) -> tuple[int]:
        """Number of recordings."""
        return (len(self),)

    def __getitem__(self, rows: Any) -> RecordingStore:
        """Return a store of some of the recordings, as `select` does."""
        return self.select(rows[0] if isinstance(rows, tuple) else rows)

    def __repr__(self) -> str:
        atlas = f"{self.parcellation.name} ({len(self.parcellation)} ROIs)"
        return (
            f"RecordingStore({str(self.path)!r}: {len(self)} recordings, {atlas}, TR {self.tr:g} s)"
        )

    @property
    def tr(self) -> float:
        """Repetition time of the stored signals, seconds."""
        return self.preprocessing.tr

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the header, which holds all checksums, and of the stretches chosen."""
        header = json.dumps(self.header, sort_keys=True)
        chosen = self.table[["id", "shard", "start", "length"]].astype(str)
        lines = ["\t".join(row) for row in chosen.itertuples(index=False)]
        return sha256("\n".join([header, *lines]).encode()).hexdigest()

    def raw(self, i: int) -> NDArray[np.float16]:
        """Return recording `i` as a view of the memory map, float16 (n_times, n_rois)."""
        row = self.table.iloc[i]
        shard, start = self._shards[int(row["shard"])], int(row["start"])
        return shard[start : start + int(row["length"])]

    def kept(self, i: int) -> NDArray[np.bool_]:
        """Return which time points of recording `i` are data, bool (n_times,).

        The others are interpolated across volumes censored for motion. A store written before
        format version 2 does not tell: all of them count as kept.
        """
        row = self.table.iloc[i]
        if self._kept is None:
            return np.ones(int(row["length"]), bool)
        start = int(self._first[int(row["shard"])]) + int(row["start"])
        return self._kept[start : start + int(row["length"])]

    def kept_minutes(self) -> NDArray[np.float64]:
        """Return how many minutes of every recording are data, (n_recordings,); see `kept`."""
        return np.array([self.kept(i).sum() for i in range(len(self))]) * self.tr / 60

    def first_minutes(self, minutes: float) -> RecordingStore:
        """Return a store of the first minutes of data of every recording, on the same files.

        Time points that are not kept do not count. Preprocessing was of the whole recording.

        Parameters
        ----------
        minutes : float

        Raises
        ------
        InputError
            `minutes` is less than one time point, or a recording has less.
        """
        n = round(minutes * 60 / self.tr)
        data = [np.flatnonzero(self.kept(i)) for i in range(len(self))]
        short = next((i for i, at in enumerate(data) if len(at) < n), None)
        if n < 1 or short is not None:
            rule = f"must be at least one time point ({self.tr / 60:g})"
            if short is not None:
                held = len(data[short]) * self.tr / 60
                rule = f"recording {self.table['id'].iloc[short]} has {held:.3g} minutes of data"
            raise InputError(rule, file=self.path, field="minutes", value=minutes)
        view = self.select(np.arange(len(self)))
        view.table["length"] = np.array([at[n - 1] + 1 for at in data], np.int64)
        return view

    def signal(self, i: int) -> NDArray[np.float32]:
        """Return recording `i`, float32 (n_times, n_rois)."""
        return np.asarray(self.raw(i), np.float32)

    def gather(self, recordings: ArrayLike, starts: ArrayLike, length: int) -> NDArray[np.float16]:
        """Return contiguous crops of many recordings at once.

        Parameters
        ----------
        recordings : array of int, shape (B,)
            Which recordings.
        starts : array of int, shape (V, B)
            First time point of every crop, one per view and recording.
        length : int
            Time points per crop.

        Returns
        -------
        ndarray of float16, shape (V, B, length, n_rois)
            The crops; zeros past the end of a recording.

        Raises
        ------
        InputError
            A recording or start is out of range.
        """
        which, begin = np.asarray(recordings, np.int64), np.asarray(starts, np.int64)
        if begin.ndim != 2 or begin.shape[1:] != which.shape:
            rule = f"must have the shape (V, B) with B = {which.size} recordings"
            raise InputError(rule, field="starts", value=begin.shape)
        if which.size and not (which.min() >= 0 and which.max() < len(self)):
            rule = f"must be in [0, {len(self)})"
            raise InputError(rule, field="recordings", value=[which.min(), which.max()])
        ends = self.table["length"].to_numpy()[which]
        if (begin < 0).any() or (begin >= ends).any():
            rule = "every crop must start within its recording"
            raise InputError(
                rule, field="starts", value=int(begin[(begin < 0) | (begin >= ends)][0])
            )
        return self._take(which, begin, length, ends)

    def _take(
        self,
        which: NDArray[np.int64],
        begin: NDArray[np.int64],
        length: int,
        ends: NDArray[np.int64],
    ) -> NDArray[np.float16]:
        shard, first = (self.table[name].to_numpy()[which] for name in ("shard", "start"))
        held = np.minimum(ends - begin, length)  # time points of every crop
        crops = np.empty((*begin.shape, length, len(self.parcellation)), np.float16)
        for v, b in np.ndindex(begin.shape):
            start, n = first[b] + begin[v, b], held[v, b]
            crops[v, b, :n] = self._shards[shard[b]][start : start + n]
            crops[v, b, n:] = 0
        return crops

    def select(self, recordings: ArrayLike) -> RecordingStore:
        """Return a store of some of the recordings, on the same files, its table re-indexed.

        Parameters
        ----------
        recordings : array of int or bool
            Indices, in the order wanted, or one truth value per recording.

        Raises
        ------
        InputError
            The mask has another length, or an index is out of range.
        """
        chosen = np.asarray(recordings)
        if chosen.dtype == bool:
            if chosen.shape != (len(self),):
                rule = f"a mask needs one value for each of the {len(self)} recordings"
                raise InputError(rule, field="recordings", value=chosen.shape)
            chosen = np.flatnonzero(chosen)
        chosen = chosen.astype(np.int64)
        if chosen.size and not (chosen.min() >= 0 and chosen.max() < len(self)):
            rule = f"must be in [0, {len(self)})"
            raise InputError(rule, field="recordings", value=[chosen.min(), chosen.max()])
        view = object.__new__(type(self))
        view.__dict__.update(self.__dict__)
        view.table = self.table.iloc[chosen].reset_index(drop=True)
        return view

    def trials(self, events: pd.DataFrame, *, delay: float = 0.0) -> RecordingStore:
        """Return a store of trials, on the same files: one row per event.

        A trial is a stretch of its recording, preprocessed and z-scored with the whole recording.

        Parameters
        ----------
        events : DataFrame
            Columns ``id`` (of the recording), ``onset`` and ``duration`` (seconds, from the start
            of the acquisition, as in BIDS events files), and any others (``trial_type``), which
            become columns of the table.
        delay : float
            Seconds by which the haemodynamic response lags: added to every onset.

        Raises
        ------
        InputError
            A column is missing, a recording unknown, or a trial is not within its recording.
        """
        for column in ("id", "onset", "duration"):
            if column not in events.columns:
                raise InputError(
                    f"events need the column {column!r}", field="columns", value=[*events.columns]
                )
        place = {name: i for i, name in enumerate(self.table["id"])}
        unknown = [name for name in events["id"] if name not in place]
        if unknown:
            raise InputError(f"is no recording of {self.path}", field="id", value=unknown[0])
        extra = [c for c in events.columns if c not in ("id", "onset", "duration")]
        taken = [c for c in extra if c in self.table.columns]
        if taken:
            raise InputError("is a column of the store already", field="events", value=taken[0])
        view = self.select([place[name] for name in events["id"]])
        onset = events["onset"].to_numpy(float) + delay - view.table["offset"].to_numpy(float)
        first = np.rint(onset / self.tr).astype(np.int64)
        length = np.rint(events["duration"].to_numpy(float) / self.tr).astype(np.int64)
        outside = (first < 0) | (length < 1) | (first + length > view.table["length"].to_numpy())
        if outside.any():
            i = int(np.flatnonzero(outside)[0])
            raise InputError(
                f"is not within the recording's {view.table['length'][i] * self.tr:g} s",
                file=events["id"].iloc[i],
                field="onset, duration",
                value=(float(events["onset"].iloc[i]), float(events["duration"].iloc[i])),
            )
        number = events.groupby("id", sort=False).cumcount().to_numpy() + 1
        view.table["id"] = [
            f"{name}_trial-{k}" for name, k in zip(events["id"], number, strict=True)
        ]
        view.table["start"] += first
        view.table["length"] = length
        for column in extra:
            view.table[column] = events[column].to_numpy()
        return view

    def verify(self) -> None:
        """Read everything once and compare the checksums; refuse a file that has changed."""
        if self.header["format_version"] >= 2:
            checked(self.path, KEPT, self.header["kept_sha256"])
        for shard in self.header["shards"]:
            checked(self.path, shard["file"], shard["sha256"])
        for name, expected in self.header.get("extras", {}).items():
            checked(self.path, name, expected)

    @property
    def phenotypes(self) -> tuple[str, ...]:
        """Names of the further columns of the table: diagnosis, age, ..."""
        return tuple(name for name in self.table.columns if name not in INDEX_COLUMNS)

    def info(self) -> dict[str, Any]:
        """Return what is in the store, as plain values for people and JSON."""
        minutes = self.table["length"] * self.tr / 60
        sites = self.table["site"].value_counts()
        return {
            "path": str(self.path),
            "package_version": self.header["package_version"],
            "parcellation": self.parcellation.name,
            "n_rois": len(self.parcellation),
            "networks": {
                name: len(rois)
                for name, rois in zip(
                    self.parcellation.network_names, self.parcellation.network_indices, strict=True
                )
            },
            "tr": self.tr,
            "steps": self.header["steps"],
            "n_recordings": len(self),
            "n_subjects": int(self.table["subject"].nunique()),
            "sites": {str(site): int(count) for site, count in sites.items()},
            "minutes": {what: float(minutes.agg(what)) for what in ("min", "max", "sum")},
            "with_missing_rois": int((self.table["missing_rois"].map(len) > 0).sum()),
            "phenotypes": {name: int(self.table[name].count()) for name in self.phenotypes},
            "megabytes": sum(file.stat().st_size for file in self.path.iterdir()) / 1e6,
            "fingerprint": self.fingerprint,
        }
