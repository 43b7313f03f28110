"""The store of recordings: `StoreWriter` checks and writes it, `RecordingStore` reads it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks import __version__
from semantoks.atlas.parcellation import Parcellation
from semantoks.data.reader import (
    FORMAT,
    FORMAT_VERSION,
    HEADER,
    INDEX,
    INDEX_COLUMNS,
    ROIS,
    RecordingStore,
    concatenated,
    file_sha256,
)
from semantoks.data.recording import Phenotype, Recording
from semantoks.data.signal import Preprocessing, check_tr, detrend, resampled_length
from semantoks.errors import InputError, StoreError

__all__ = ["RecordingStore", "StoreWriter", "write_store"]

SHARD_ROWS = 250_000  # time points; 230 MB with 457 ROIs
MIN_TIMES = 20  # time points at the target TR; one patch of the method (METHOD "Notation": L)
_FLAT = 1e-6  # a column varying less than this part of its largest value is rounding noise


class StoreWriter:
    """Write a `RecordingStore`, recording by recording; use it in a ``with`` statement.

    The folder holds ``signals-NNNNN.npy`` (float16, time-major: the recordings of a shard one after
    the other), ``rois.tsv`` (the parcellation), ``recordings.parquet`` (one row per recording) and
    ``store.json`` (format version, parcellation with the hash of its ROI names, TR, preprocessing,
    checksums). The header is written last, by rename: without it there is no store. If anything
    fails, the files written here, and only they, are removed.

    Parameters
    ----------
    path : str or path
        Folder to make; it must not exist, or be empty.
    parcellation : Parcellation
        The ROIs to store, in its order; recordings are put into that order by name.
    preprocessing : Preprocessing
        What is done to every signal.
    shard_rows : int
        A shard is closed before it exceeds this number of time points.
    min_times : int
        Recordings shorter than this after preprocessing are refused (time points; one patch).
    missing_rois : {"refuse", "mark"}
        What to do with ROIs without data (zero variance, not a number throughout, or listed in
        `Recording.missing_rois`): refuse the recording, or store zeros and list them in the index.
    varying : sequence of str
        Phenotypes given as text or truth values that may change between recordings of a subject.
        All others, diagnosis and sex say, have to agree; numbers, age say, may always change.

    Raises
    ------
    StoreError
        The folder exists and is not empty, or the device is full.
    InputError
        From `add`: the recording breaks a rule, named with the recording, the ROI and the way out.
    """

    def __init__(
        self,
        path: str | Path,
        parcellation: Parcellation,
        preprocessing: Preprocessing,
        *,
        shard_rows: int = SHARD_ROWS,
        min_times: int = MIN_TIMES,
        missing_rois: Literal["refuse", "mark"] = "refuse",
        varying: Sequence[str] = (),
    ) -> None:
        if missing_rois not in ("refuse", "mark"):
            rule = "has to be 'refuse' or 'mark'"
            raise InputError(rule, field="missing_rois", value=missing_rois)
        self.path, self.parcellation, self.preprocessing = Path(path), parcellation, preprocessing
        self.shard_rows, self.min_times = shard_rows, min_times
        self.missing_rois, self.varying = missing_rois, tuple(varying)
        self._rows: list[dict[str, Any]] = []
        self._sources: dict[str, str] = {}
        self._labels: dict[tuple[str, str], tuple[Phenotype, str]] = {}
        self._pending: list[NDArray[np.float16]] = []
        self._shards: list[dict[str, Any]] = []
        self._written: list[Path] = []
        self._made_folder = False

    def __enter__(self) -> StoreWriter:
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            what = "a store" if (self.path / HEADER).exists() else "something else"
            rule = f"exists already and holds {what}; nothing is overwritten"
            fix = "Choose another folder, or delete this one first"
            raise StoreError(rule, file=self.path, fix=fix)
        self._made_folder = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            rule = f"cannot be made ({error.strerror or error})"
            raise StoreError(rule, file=self.path, fix="Choose another folder") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._undo()
            return
        try:
            self._finish()
        except BaseException:
            self._undo()
            raise

    # -- one recording -----------------------------------------------------------------------------

    def add(self, recording: Recording) -> None:
        """Check a recording, preprocess it and put it into the store."""
        where = f"{recording.source} ({recording.id})"
        tr = check_tr(recording.tr, where)
        self._check_identity(recording, where)
        self._check_length(recording, tr, where)
        signal, missing = self._in_order(recording, where)
        stored = self.preprocessing.apply(signal, tr, where)
        with np.errstate(over="ignore"):
            half = stored.astype(np.float16)
        if not np.isfinite(half).all():
            rule = "exceeds the range of float16 (65504)"
            fix = "Store z-scored signals (zscore=True)"
            raise InputError(
                rule, file=where, field="signal", value=float(abs(stored).max()), fix=fix
            )
        self._remember(recording, where)
        if self._pending and self._pending_rows() + len(half) > self.shard_rows:
            self._flush()
        row = {name: getattr(recording, name) for name in ("id", "subject", "session", "task")}
        row |= {"run": recording.run, "site": recording.site, "source_tr": tr}
        row |= {"shard": len(self._shards), "start": self._pending_rows(), "length": len(half)}
        row |= {name: getattr(recording, name) for name in ("mean_fd", "censored_fraction")}
        self._rows.append(row | {"missing_rois": missing} | dict(recording.phenotypes))
        self._pending.append(half)

    def _check_identity(self, recording: Recording, where: str) -> None:
        if recording.id in self._sources:
            rule = f"the same recording is there already, from {self._sources[recording.id]}"
            fix = "Tell them apart by session, task or run, or leave one out"
            raise InputError(rule, file=where, field="id", value=recording.id, fix=fix)
        for name, value in recording.phenotypes.items():
            if name in INDEX_COLUMNS:
                rule = "is a column of the index; a phenotype needs another name"
                raise InputError(rule, file=where, field="phenotype", value=name)
            before, other = self._labels.get((recording.subject, name), (None, ""))
            constant = isinstance(value, (str, bool, np.bool_)) and name not in self.varying
            if constant and before is not None and value != before:
                rule = f"subject {recording.subject!r} has {name} = {before!r} in {other}"
                fix = f"Correct the label, or declare that it may vary: varying=[{name!r}]"
                raise InputError(rule, file=where, field=name, value=value, fix=fix)

    def _check_length(self, recording: Recording, tr: float, where: str) -> None:
        target = self.preprocessing.tr
        length = resampled_length(len(recording.signal), tr, target)
        if length < self.min_times:
            rule = f"is shorter than {self.min_times} time points of {target:g} s"
            fix = "Leave the recording out, or choose shorter patches"
            value = f"{length} ({length * target:g} s)"
            raise InputError(rule, file=where, field="length", value=value, fix=fix)

    def _remember(self, recording: Recording, where: str) -> None:
        self._sources[recording.id] = where
        for name, value in recording.phenotypes.items():
            if not _missing(value):
                self._labels[recording.subject, name] = (value, where)

    def _in_order(self, recording: Recording, where: str) -> tuple[NDArray[np.floating], list[str]]:
        """Return the signal in the order of the parcellation, and its ROIs without data."""
        shape = np.shape(recording.signal)
        if len(shape) != 2 or shape[1] != len(recording.roi_names):
            rule = (
                f"has to have the shape (n_times, {len(recording.roi_names)}), one column per name"
            )
            raise InputError(rule, file=where, field="signal", value=shape)
        columns = self.parcellation.columns_of(recording.roi_names, source=where)
        signal = np.asarray(recording.signal, np.float64)[:, columns]
        given = {recording.roi_names[column]: roi for roi, column in enumerate(columns)}
        unknown = [name for name in recording.missing_rois if name not in given]
        if unknown:
            rule = f"lists ROIs that it does not have: {concatenated(unknown)}"
            raise InputError(rule, file=where, field="missing_rois")
        finite = np.isfinite(signal)
        empty = np.logical_not(finite.any(axis=0))
        partly = np.logical_not(finite.all(axis=0) | empty)
        if partly.any():
            rule = f"holds values that are not finite in {self._names(partly)}"
            fix = "Remove or interpolate those time points, or leave the recording out"
            raise InputError(rule, file=where, field="signal", fix=fix)
        signal[:, empty] = 0
        flat = detrend(signal).std(axis=0) <= _FLAT * abs(signal).max(axis=0)
        flat[[given[name] for name in recording.missing_rois]] = True
        if flat.any() and self.missing_rois == "refuse":
            what = "are not a number" if empty.any() else "have zero variance or are missing"
            rule = f"{flat.sum()} ROIs {what}: {self._names(flat)}"
            fix = "Leave the recording out, or store it with missing_rois='mark'"
            raise InputError(rule, file=where, field="signal", fix=fix)
        if flat.all():
            raise InputError("no ROI has data", file=where, field="signal")
        signal[:, flat] = 0
        return signal, [self.parcellation.labels[i] for i in np.flatnonzero(flat)]

    def _names(self, mask: NDArray[np.bool_]) -> str:
        return concatenated([self.parcellation.labels[i] for i in np.flatnonzero(mask)])

    # -- files -------------------------------------------------------------------------------------

    def _pending_rows(self) -> int:
        return sum(map(len, self._pending))

    def _flush(self) -> None:
        path = self.path / f"signals-{len(self._shards):05d}.npy"
        # Time-major whatever the layout of the parts, so that a crop is one contiguous read.
        signals = np.ascontiguousarray(np.concatenate(self._pending))
        self._write(path, lambda stream: _save(stream, signals))
        shard = {"file": path.name, "rows": len(signals), "sha256": file_sha256(path)}
        self._shards.append(shard)
        self._pending = []

    def _finish(self) -> None:
        if not self._rows:
            raise InputError("a store needs one recording at least", file=self.path)
        self._flush()
        rois, index = self.path / ROIS, self.path / INDEX
        table = self.parcellation.to_frame().to_csv(sep="\t", index=False, lineterminator="\n")
        self._write(rois, lambda stream: stream.write(table.encode()))
        frame = self._index()
        self._write(index, lambda stream: frame.to_parquet(stream, index=False))
        header = json.dumps(self._header(rois, index), indent=1) + "\n"
        partial = self.path / (HEADER + ".partial")
        self._write(partial, lambda stream: stream.write(header.encode()))
        partial.replace(self.path / HEADER)
        _sync_folder(self.path)

    def _index(self) -> pd.DataFrame:
        phenotypes = dict.fromkeys(key for row in self._rows for key in row)
        frame = pd.DataFrame(self._rows, columns=list(phenotypes))
        frame = frame.astype({"mean_fd": float, "censored_fraction": float})
        for name in set(phenotypes) - set(INDEX_COLUMNS):
            kinds = {_kind(value) for value in frame[name] if not _missing(value)}
            if len(kinds) > 1:
                rule = f"mixes {' and '.join(sorted(kinds))} over the recordings"
                raise InputError(rule, file=self.path, field=name, fix="Give values of one kind")
        return frame

    def _header(self, rois: Path, index: Path) -> dict[str, Any]:
        trs = sorted({row["source_tr"] for row in self._rows})
        parcellation = self.parcellation
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "package_version": __version__,
            "parcellation": {
                "name": parcellation.name,
                "hash": parcellation.hash,
                "n_rois": len(parcellation),
            },
            "tr": self.preprocessing.tr,
            "preprocessing": self.preprocessing.to_dict(),
            "steps": {f"{tr:g}": self.preprocessing.steps(tr) for tr in trs},
            "dtype": "float16",
            "n_recordings": len(self._rows),
            "shards": self._shards,
            "rois_sha256": file_sha256(rois),
            "index_sha256": file_sha256(index),
        }

    def _write(self, path: Path, write: Callable[[BinaryIO], object]) -> None:
        """Write one new file to the device, not only to its cache."""
        try:
            with path.open("xb") as stream:
                self._written.append(path)
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
        except FileExistsError as error:
            rule = "another process is writing a store into this folder"
            raise StoreError(rule, file=path, fix="Give every store its own folder") from error
        except OSError as error:
            rule = f"cannot be written ({error.strerror or error})"
            fix = "Free space or choose another folder; what was written so far is removed again"
            raise StoreError(rule, file=path, fix=fix) from error

    def _undo(self) -> None:
        for path in self._written:
            path.unlink(missing_ok=True)
        if self._made_folder and not any(self.path.iterdir()):
            self.path.rmdir()


def write_store(
    path: str | Path,
    recordings: Iterable[Recording],
    parcellation: Parcellation,
    preprocessing: Preprocessing,
    *,
    shard_rows: int = SHARD_ROWS,
    min_times: int = MIN_TIMES,
    missing_rois: Literal["refuse", "mark"] = "refuse",
    varying: Sequence[str] = (),
) -> RecordingStore:
    """Write recordings into a new store and open it; for the parameters see `StoreWriter`."""
    with StoreWriter(
        path,
        parcellation,
        preprocessing,
        shard_rows=shard_rows,
        min_times=min_times,
        missing_rois=missing_rois,
        varying=varying,
    ) as writer:
        for recording in recordings:
            writer.add(recording)
    return RecordingStore(path)


def _save(stream: BinaryIO, signals: NDArray[np.float16]) -> None:
    # As numpy.save, which on a full device can lose the last kilobytes without an error: it writes
    # through a buffer of the C library whose last flush is not checked.
    header = np.lib.format.header_data_from_array_1_0(signals)
    np.lib.format.write_array_header_1_0(stream, header)
    stream.write(signals.tobytes())


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and np.isnan(value))


def _kind(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "truth values"
    return "text" if isinstance(value, str) else "numbers"


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
