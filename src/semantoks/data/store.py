"""The store of recordings: `StoreWriter` checks and writes it, `RecordingStore` reads it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks import __version__
from semantoks.atlas.parcellation import Parcellation
from semantoks.data.cohort import differing, is_unknown, one_kind
from semantoks.data.encode import INDEX_COLUMNS, MIN_TIMES, Encoded, StoreSpec, encode
from semantoks.data.layout import (
    FORMAT,
    FORMAT_VERSION,
    HEADER,
    INDEX,
    KEPT,
    ROIS,
    file_sha256,
)
from semantoks.data.reader import RecordingStore
from semantoks.data.recording import Phenotype, Recording
from semantoks.data.signal import Preprocessing
from semantoks.errors import InputError, StoreError
from semantoks.files import refuse_existing, staged_file

__all__ = ["RecordingStore", "StoreSpec", "StoreWriter", "write_store"]

SHARD_ROWS = 250_000  # time points; 230 MB with 457 ROIs


class StoreWriter:
    """Write a `RecordingStore`, recording by recording; use it in a ``with`` statement.

    The folder holds ``signals-NNNNN.npy`` (float16, time-major: the recordings of a shard one after
    the other), ``kept.npy`` (one truth value per time point of all shards, false where a signal is
    interpolated across censored volumes), ``rois.tsv`` (the parcellation), ``recordings.parquet``
    (one row per recording) and ``store.json`` (format version, parcellation with the hash of its
    ROI names, TR, preprocessing, checksums). The header is written last, by rename: without it
    there is no store. If anything fails, the files written here, and only they, are removed.

    Parameters
    ----------
    path : str or path
        Folder to make; it must not exist, or be empty.
    spec : StoreSpec
        What every recording is brought to.
    shard_rows : int
        A shard is closed before it exceeds this number of time points.
    varying : sequence of str
        Phenotypes given as text or truth values that may change between recordings of a subject.
        All others (e.g. diagnosis, sex) must agree; numbers (e.g. age) may always change.
    provenance : mapping, optional
        Where the recordings come from, for the header; plain values.

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
        spec: StoreSpec,
        *,
        shard_rows: int = SHARD_ROWS,
        varying: Sequence[str] = (),
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self.spec = Path(path), spec
        self.shard_rows, self.varying = shard_rows, tuple(varying)
        self._provenance = dict(provenance or {})
        self._extras: list[Path] = []
        self._rows: list[dict[str, Any]] = []
        self._sources: dict[str, str] = {}
        self._labels: dict[tuple[str, str], tuple[Phenotype, str]] = {}
        self._pending: list[NDArray[np.float16]] = []
        self._kept: list[NDArray[np.bool_]] = []
        self._shards: list[dict[str, Any]] = []
        self._written: list[Path] = []
        self._made_folder = False

    def __enter__(self) -> StoreWriter:
        refuse_existing(self.path, folder=True, kind=StoreError)
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
        """Check a recording, preprocess it and add it to the store."""
        self.append(encode(recording, self.spec))

    def append(self, encoded: Encoded) -> None:
        """Put an encoded recording into the store, if it goes with those that are there."""
        self._check_identity(encoded)
        self._remember(encoded)
        if self._pending and self._pending_rows() + len(encoded.signal) > self.shard_rows:
            self._flush()
        place = {"shard": len(self._shards), "start": self._pending_rows()}
        self._rows.append(encoded.row | place)
        self._pending.append(encoded.signal)
        kept = np.ones(len(encoded.signal), bool) if encoded.kept is None else encoded.kept
        if kept.shape != (len(encoded.signal),):
            rule = f"must have one value for each of the {len(encoded.signal)} time points"
            raise InputError(rule, file=encoded.source, field="kept", value=kept.shape)
        self._kept.append(kept)

    def attach(self, name: str, content: bytes) -> None:
        """Put a further file into the folder, whose checksum the header records."""
        path = self.path / name
        self._write(path, lambda stream: stream.write(content))
        self._extras.append(path)

    def _check_identity(self, encoded: Encoded) -> None:
        row, where = encoded.row, encoded.source
        if row["id"] in self._sources:
            rule = f"the same recording is there already, from {self._sources[row['id']]}"
            fix = "Tell them apart by session, task or run, or leave one out"
            raise InputError(rule, file=where, field="id", value=row["id"], fix=fix)
        for name in encoded.phenotypes:
            value = row[name]
            before, other = self._labels.get((row["subject"], name), (None, ""))
            constant = isinstance(value, (str, bool, np.bool_)) and name not in self.varying
            if constant and before is not None and value != before:
                raise differing(row["subject"], name, [(other, before), (where, value)])

    def _remember(self, encoded: Encoded) -> None:
        self._sources[encoded.row["id"]] = encoded.source
        for name in encoded.phenotypes:
            if not is_unknown(encoded.row[name]):
                label = (encoded.row[name], encoded.source)
                self._labels[encoded.row["subject"], name] = label

    # -- files -------------------------------------------------------------------------------------

    def _pending_rows(self) -> int:
        return sum(map(len, self._pending))

    def _flush(self) -> None:
        path = self.path / f"signals-{len(self._shards):05d}.npy"
        self._write(path, lambda stream: _save(stream, self._pending))
        shard = {"file": path.name, "rows": self._pending_rows(), "sha256": file_sha256(path)}
        self._shards.append(shard)
        self._pending = []

    def _finish(self) -> None:
        if not self._rows:
            raise InputError("a store needs one recording at least", file=self.path)
        self._flush()
        rois, index, kept = self.path / ROIS, self.path / INDEX, self.path / KEPT
        self._write(kept, lambda stream: _save(stream, self._kept))
        table = self.spec.parcellation.to_frame().to_csv(sep="\t", index=False, lineterminator="\n")
        self._write(rois, lambda stream: stream.write(table.encode()))
        frame = self._index()
        self._write(index, lambda stream: frame.to_parquet(stream, index=False))
        header = json.dumps(self._header(rois, index, kept), indent=1) + "\n"
        self._write(self.path / HEADER, lambda stream: stream.write(header.encode()))

    def _index(self) -> pd.DataFrame:
        known = dict.fromkeys([*INDEX_COLUMNS, *(key for row in self._rows for key in row)])
        frame = pd.DataFrame(self._rows, columns=list(known))
        frame = frame.astype({"mean_fd": float, "censored_fraction": float})
        for name in set(known) - set(INDEX_COLUMNS):
            one_kind(str(name), frame[name], self.path)
        return frame

    def _header(self, rois: Path, index: Path, kept: Path) -> dict[str, Any]:
        trs = sorted({row["source_tr"] for row in self._rows})
        parcellation, preprocessing = self.spec.parcellation, self.spec.preprocessing
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "package_version": __version__,
            "parcellation": {
                "name": parcellation.name,
                "hash": parcellation.hash,
                "n_rois": len(parcellation),
            },
            "tr": preprocessing.tr,
            "preprocessing": preprocessing.to_dict(),
            "steps": {f"{tr:g}": preprocessing.steps(tr) for tr in trs},
            "dtype": "float16",
            "n_recordings": len(self._rows),
            "shards": self._shards,
            "rois_sha256": file_sha256(rois),
            "index_sha256": file_sha256(index),
            "kept_sha256": file_sha256(kept),
            "extras": {path.name: file_sha256(path) for path in self._extras},
            "provenance": self._provenance,
        }

    def _write(self, path: Path, write: Callable[[BinaryIO], object]) -> None:
        if path.exists():
            rule = "another process is writing a store into this folder"
            raise StoreError(rule, file=path, fix="Give every store its own folder")
        fix = "Free space or choose another folder; what was written so far is removed again"
        with staged_file(path, kind=StoreError, fix=fix) as partial, partial.open("xb") as stream:
            write(stream)
        self._written.append(path)

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
    """Write recordings into a new store and open it; see `StoreSpec` and `StoreWriter`."""
    spec = StoreSpec(
        parcellation=parcellation,
        preprocessing=preprocessing,
        min_times=min_times,
        missing_rois=missing_rois,
    )
    with StoreWriter(path, spec, shard_rows=shard_rows, varying=varying) as writer:
        for recording in recordings:
            writer.add(recording)
    return RecordingStore(path)


def _save(stream: BinaryIO, signals: Sequence[NDArray[Any]]) -> None:
    """Write recordings one after the other as a single array, without a copy of them all."""
    # As numpy.save, which on a full device can lose the last kilobytes without an error: it writes
    # through a buffer of the C library whose last flush is not checked.
    header = np.lib.format.header_data_from_array_1_0(signals[0])
    header |= {"shape": (sum(map(len, signals)), *signals[0].shape[1:]), "fortran_order": False}
    np.lib.format.write_array_header_1_0(stream, header)
    for signal in signals:
        # Time-major whatever its layout, so that a crop is one contiguous read.
        stream.write(np.ascontiguousarray(signal).data)
