"""What lies beside the data of a scan: motion, confounds, outliers, coverage."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.data.sources.bids import BidsFile
from semantoks.errors import InputError, listed
from semantoks.tables import as_numbers, read_words

#: XCP-D's ``exact_100``: volumes that a random choice of 100 leaves out, good ones among them.
_CHOICES = "exact_"
_TRUTH = {"true": "1", "false": "0"}


@dataclass(frozen=True, eq=False)
class Tree:
    """The files of a derivatives folder.

    Parameters
    ----------
    root : Path
    files : tuple of BidsFile
    """

    root: Path
    files: tuple[BidsFile, ...]

    def of_scan(self, file: BidsFile) -> list[BidsFile]:
        """Return the files of the same scan."""
        return self._by_scan[file.scan]

    @functools.cached_property
    def _by_scan(self) -> dict[tuple[str | None, ...], list[BidsFile]]:
        scans: dict[tuple[str | None, ...], list[BidsFile]] = defaultdict(list)
        for file in self.files:
            scans[file.scan].append(file)
        return scans


def beside(
    tree: Tree, file: BidsFile, suffix: str, desc: str | None, shared: Sequence[str] = ()
) -> tuple[Path, ...]:
    """Return the files of the same scan with this suffix and description.

    Their other entities are those of the file: a mask or confounds with another ``space`` or
    ``hash`` belong to another image. The entities `shared` must be equal, the others may be absent.
    """
    return tuple(
        other.path
        for other in tree.of_scan(file)
        if other.suffix == suffix
        and other.extension in (".tsv", ".nii.gz", ".nii")
        and (desc is None or other.entities.get("desc") == desc)
        and _fits(other, file, shared)
    )


def coverage_files(tree: Tree, file: BidsFile) -> tuple[Path, ...]:
    """Return the tables of coverage of the same parcels, by the names of all releases of XCP-D."""
    return tuple(
        other.path
        for other in tree.of_scan(file)
        if (other.suffix == "coverage" or other.entities.get("stat") == "coverage")
        and other.extension == ".tsv"
        and _fits(other, file, ("atlas", "seg", "space", "res", "cohort"))
    )


def _fits(other: BidsFile, file: BidsFile, shared: Sequence[str]) -> bool:
    """Return whether a file may lie beside another, by the entities that say how they were made."""
    own, wanted = dict(other.variant), dict(file.variant)
    told = {key: value for key, value in own.items() if key not in ("desc", "stat")}
    return told.items() <= wanted.items() and all(own.get(k) == wanted.get(k) for k in shared)


def confound_files(tree: Tree, file: BidsFile) -> tuple[Path, ...]:
    """Return fMRIPrep's confounds of the scan, by the name of now, or of releases up to 20.1."""
    return beside(tree, file, "timeseries", "confounds") or beside(
        tree, file, "regressors", "confounds"
    )


def motion_files(tree: Tree, file: BidsFile) -> tuple[Path, ...]:
    """Return the confounds of the scan, or its files of motion if there are none."""
    return confound_files(tree, file) or beside(tree, file, "motion", None)


def only(files: Sequence[Path], file: Path) -> Path | None:
    """Return the only file, None if there is none.

    Of files with and without a description, the one without is meant: XCP-D writes motion as it
    was, and again filtered (``desc-filtered``).

    Raises
    ------
    InputError
        Several could be meant.
    """
    if len(files) > 1:
        plain = [path for path in files if "desc" not in BidsFile(path).entities]
        files = plain if len(plain) == 1 else files
    if len(files) > 1:
        suffix = BidsFile(files[0]).suffix
        rule = f"has several files {suffix}: {', '.join(path.name for path in files[:3])}"
        fix = "Leave only the one that belongs to it in the folder"
        raise InputError(rule, file=file, field=suffix, fix=fix)
    return files[0] if files else None


def motion_file(files: Sequence[Path], file: Path) -> Path | None:
    """Return the file of motion that is meant: unfiltered, or the only one with displacement."""
    if len(files) > 1 and all("desc" in BidsFile(path).entities for path in files):
        column = "framewise_displacement"
        files = [path for path in files if column in read_words(path).columns] or files
    return only(files, file)


def whole(
    signal: NDArray[np.float64],
    outliers: NDArray[np.bool_] | None,
    motion: pd.DataFrame | None,
    file: Path,
) -> tuple[NDArray[np.float64], NDArray[np.bool_] | None]:
    """Put a censored series back onto the scan's time axis; censored volumes are no data."""
    n = len(signal)
    if outliers is None:
        if motion is not None and len(motion) > n:
            rule = f"has {n} rows where the scan has {len(motion)} volumes: it is censored"
            fix = "Keep the outliers.tsv beside it, or have the time series written interpolated"
            raise InputError(rule, file=file, field="censoring", fix=fix)
        return signal, None
    kept = ~outliers
    if n == len(outliers):
        return signal, kept
    if n != kept.sum():
        rule = (
            f"has {n} rows, which is neither the scan ({len(outliers)} volumes) nor what its "
            f"outliers leave ({kept.sum()})"
        )
        raise InputError(rule, file=file, field="censoring")
    filled = np.full((len(outliers), signal.shape[1]), np.nan)
    filled[kept] = signal
    return filled, kept


def read_outliers(path: Path) -> NDArray[np.bool_]:
    """Return which volumes are outliers in any column of the file (XCP-D: displacement)."""
    table = read_words(path)
    chosen = [name for name in table.columns if not name.startswith(_CHOICES)]
    cells = table[chosen].map(lambda cell: _TRUTH.get(cell.lower(), cell))
    values = np.array([as_numbers(cells[name]) for name in chosen]).reshape(len(chosen), len(table))
    if not np.isin(values, (0, 1)).all():
        fix = "Write 1 for an outlier and 0 for all others"
        raise InputError("must hold 0 and 1", file=path, field="outliers", fix=fix)
    return np.asarray((values > 0).any(axis=0))


def dummy_scans(table: pd.DataFrame | None) -> int:
    """Return how many volumes at the beginning fMRIPrep found to precede the steady state."""
    if table is None:
        return 0
    return sum(name.startswith("non_steady_state_outlier") for name in table.columns)


def removed(n: int) -> tuple[str, ...]:
    """Return the note that dummy scans were removed, if there are any."""
    return (f"{n} dummy scans at the beginning removed (non-steady state)",) if n else ()


def mean(table: pd.DataFrame | None, column: str) -> float | None:
    """Return the mean of a column, None if it is absent or has no numbers."""
    if table is None or column not in table.columns:
        return None
    values = np.array(as_numbers(table[column]))
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def coverage_of(
    path: Path | None,
    names: tuple[str, ...],
    found: Mapping[str, tuple[Any, Path]],
    file: Path,
) -> NDArray[np.float64] | None:
    """Return the coverage of every ROI, from XCP-D's table or HALFpipe's sidecar."""
    if path is None:
        stated, where = found.get("Coverage", (None, file))
        if stated is None:
            return None
        if not isinstance(stated, list) or len(stated) != len(names):
            rule = f"needs one value for each of the {len(names)} ROIs"
            raise InputError(rule, file=where, field="Coverage")
        return np.nan_to_num(np.array([0 if v is None else v for v in stated], np.float64))
    table = read_words(path)
    if len(table.columns) == 2:  # XCP-D: Node, coverage
        values = dict(zip(table.iloc[:, 0], as_numbers(table.iloc[:, 1]), strict=True))
    elif len(table) == 1:
        values = dict(zip(table.columns, as_numbers(table.iloc[0]), strict=True))
    else:
        rule = "must have two columns, or one row"
        raise InputError(rule, file=path, field="columns", value=[*table.columns][:4])
    unknown = [name for name in names if name not in values]
    if unknown:
        rule = f"must state the coverage of all ROIs, and lacks {len(unknown)}: {listed(unknown)}"
        raise InputError(rule, file=path, field="coverage")
    return np.nan_to_num(np.array([values[name] for name in names], np.float64))
