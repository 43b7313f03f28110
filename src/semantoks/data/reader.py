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
from semantoks.config import parse
from semantoks.data.encode import INDEX_COLUMNS
from semantoks.data.signal import Preprocessing
from semantoks.errors import InputError, StoreError, entry, readable

FORMAT = "semantoks-store"
FORMAT_VERSION = 1
HEADER, ROIS, INDEX = "store.json", "rois.tsv", "recordings.parquet"
#: Written into a finished store, from what it holds; so the header has no checksum of it.
QUALITY_PAGE = "quality.html"


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
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.header = read_header(self.path)
        with readable(self.path / HEADER, StoreError):
            name = str(entry(self.header, "parcellation", "name"))
            self.preprocessing = _preprocessing(self.header, self.path / HEADER)
        rois = _checked(self.path, ROIS, self.header["rois_sha256"])
        with readable(rois, StoreError):
            frame = pd.read_csv(rois, sep="\t", dtype=str, keep_default_na=False)
            self.parcellation = Parcellation.from_frame(frame, name=name, source=rois)
        self.table = read_index(_checked(self.path, INDEX, self.header["index_sha256"]))
        self._shards = self._map_shards()
        rows = np.array([len(shard) for shard in self._shards])
        shard, start, length = (self.table[n].to_numpy() for n in ("shard", "start", "length"))
        there = (shard >= 0) & (shard < len(rows)) & (start >= 0) & (length > 0)
        there[there] = (start + length)[there] <= rows[shard[there]]
        if not there.all():
            raise StoreError(
                "lists a recording that its shard does not hold",
                file=self.path / INDEX,
                field="id",
                value=self.table["id"][np.flatnonzero(~there)[0]],
                fix=_RESTORE,
            )

    def _map_shards(self) -> list[NDArray[np.float16]]:
        shards = []
        for shard in self.header["shards"]:
            file = self.path / shard["file"]
            shape = (shard["rows"], len(self.parcellation))
            if not file.is_file():
                raise StoreError("a shard is missing", file=file, fix=_RESTORE)
            with readable(file, StoreError, fix=_RESTORE):
                signals = np.load(file, mmap_mode="r", allow_pickle=False)
            # A damaged beginning can make an archive of it, which is no array at all.
            found = getattr(signals, "shape", None), getattr(signals, "dtype", None)
            if found != (shape, np.float16):
                rule = f"a shard must hold float16 of shape {shape}"
                value = f"{found[1]} {found[0]}"
                raise StoreError(rule, file=file, field="signals", value=value, fix=_RESTORE)
            shards.append(signals)
        return shards

    def __getstate__(self) -> dict[str, Any]:
        # A pickled memory map would carry the data itself; worker processes map the files again.
        return {key: value for key, value in self.__dict__.items() if key != "_shards"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._shards = self._map_shards()

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
        """SHA-256 of the header, which holds the hashes of all files, and the recordings chosen."""
        header = json.dumps(self.header, sort_keys=True)
        return sha256("\n".join([header, *self.table["id"]]).encode()).hexdigest()

    def raw(self, i: int) -> NDArray[np.float16]:
        """Return recording `i` as a view of the memory map, float16 (n_times, n_rois)."""
        row = self.table.iloc[i]
        shard, start = self._shards[int(row["shard"])], int(row["start"])
        return shard[start : start + int(row["length"])]

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
        shard = self.table["shard"].to_numpy()[which]
        times = begin[..., None] + np.arange(length)
        rows = self.table["start"].to_numpy()[which][:, None] + np.minimum(times, ends[:, None] - 1)
        crops = np.empty((*times.shape, len(self.parcellation)), np.float16)
        for number in np.unique(shard):
            here = shard == number
            crops[:, here] = self._shards[number][rows[:, here]]
        crops[times >= ends[:, None]] = 0
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
            Columns ``id`` (of the recording), ``onset`` and ``duration`` (seconds, from the first
            volume of the source, as in BIDS events files), and any others (``trial_type``), which
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
        """Read everything once and compare the checksums; refuse a shard that has changed."""
        for shard in self.header["shards"]:
            _checked(self.path, shard["file"], shard["sha256"])
        for name, expected in self.header.get("extras", {}).items():
            _checked(self.path, name, expected)

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


_RESTORE = "Restore the folder from its source, or write the store again"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    digest = sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _checked(folder: Path, name: str, expected: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise StoreError("a file of the store is missing", file=path, fix=_RESTORE)
    if file_sha256(path) != expected:
        raise StoreError("is not what was written (its checksum differs)", file=path, fix=_RESTORE)
    return path


def read_index(path: Path) -> pd.DataFrame:
    """Read the index and check that it can be used."""
    with readable(path, StoreError):
        table = pd.read_parquet(path)
    if "offset" not in table.columns:  # written before recordings could be cut
        table = table.assign(offset=0.0, acquisition=None)
    absent = [name for name in INDEX_COLUMNS if name not in table.columns]
    if absent:
        raise StoreError("lacks columns", file=path, field="columns", value=absent, fix=_RESTORE)
    with readable(path, StoreError):
        table["missing_rois"] = table["missing_rois"].map(_names)
        for name in ("shard", "start", "length"):
            table[name] = table[name].astype(np.int64)
        for name in ("id", "subject"):
            table[name] = table[name].astype(str)
    return table


def _names(cell: object) -> tuple[str, ...]:
    if not isinstance(cell, (np.ndarray, list, tuple)):
        raise ValueError("missing_rois must hold lists of names")
    return tuple(map(str, cell))


def _preprocessing(header: dict[str, Any], file: Path) -> Preprocessing:
    stated = entry(header, "preprocessing")
    if not isinstance(stated, dict):
        raise ValueError("preprocessing must be a mapping")
    return parse(Preprocessing, stated, file=file)


def read_header(folder: Path) -> dict[str, Any]:
    """Read and check the header of a store.

    Raises
    ------
    StoreError
        The folder is no store, half-written, damaged, or written by a newer version.
    """
    path = folder / HEADER
    if not folder.is_dir():
        fix = "Make a store with `semantoks prepare`"
        raise StoreError("there is no such folder", file=folder, fix=fix)
    if not path.is_file():
        rule, fix = "is no store (it holds no store.json)", "Make one with `semantoks prepare`"
        if any(folder.glob("signals-*.npy")):
            rule = "is a half-written store (no store.json, which is written last)"
            fix = "Delete the folder and write the store again"
        raise StoreError(rule, file=folder, fix=fix)
    try:
        header: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StoreError(f"is not JSON ({error})", file=path, fix=_RESTORE) from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise StoreError(f"is not the header of a store ({FORMAT})", file=path)
    version = header.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        rule = f"is newer than this version of the package reads ({FORMAT_VERSION})"
        fix = "Update semantoks, or write the store again with this version"
        raise StoreError(rule, file=path, field="format_version", value=version, fix=fix)
    with readable(path, StoreError):
        for name in ("package_version", "steps", "rois_sha256", "index_sha256"):
            entry(header, name)
        shards = entry(header, "shards")
        if not isinstance(shards, list):
            raise ValueError("shards must be a list")
        for shard in shards:
            if not (isinstance(entry(shard, "rows"), int) and entry(shard, "sha256")):
                raise ValueError("a shard must state its rows and its checksum")
        names = [str(entry(shard, "file")) for shard in shards]
    outside = [name for name in names if Path(name).name != name]
    if outside:
        rule = "a shard must lie in the folder of the store"
        raise StoreError(rule, file=path, field="shards", value=outside[0])
    return header
