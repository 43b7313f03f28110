"""BIDS derivatives: fMRIPrep's images, and time series of XCP-D, HALFpipe and their like.

1. Candidates are found by their names and grouped by how they were made (space, resolution, atlas).
2. One way of being made is chosen: the one asked for, or the only one there is. Of time series, the
   ones whose ROIs are those of the parcellation, told by the names inside the files.
3. What belongs to a scan (mask, confounds, motion, outliers, coverage, sidecars) is found by its
   entities.
"""

from __future__ import annotations

import functools
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.data.recording import Recording
from semantoks.data.sources.bids import (
    BidsFile,
    agreed_tr,
    bids_files,
    metadata,
    read_json,
    stated_tr,
)
from semantoks.data.sources.images import read_image, read_ptseries
from semantoks.data.sources.items import Item, Reading
from semantoks.data.sources.series import named_columns, read_series
from semantoks.errors import InputError

_SERIES = (".tsv", ".ptseries.nii")
_NOT_SIGNALS = ("confounds", "motion", "outliers", "physio")

Variant = tuple[tuple[str, str], ...]


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


def derivative_items(root: str | Path, reading: Reading) -> list[Item]:
    """Return the recordings of a derivatives folder.

    With an image of the atlas, fMRIPrep's images in MNI152 or fsLR space are read; without, time
    series of ROIs (XCP-D, HALFpipe, ...).

    Raises
    ------
    InputError
        There are none, none has the ROIs of the parcellation, several kinds are there and none is
        chosen, or two files are the same recording.
    """
    folder = Path(root).resolve()
    tree = Tree(folder, tuple(bids_files(folder)))
    images = bool(reading.atlas_images)
    candidates = [f for f in tree.files if (_is_bold(f) if images else _is_series(f))]
    what = "preprocessed BOLD images in MNI152 or fsLR space" if images else "time series of ROIs"
    if not candidates:
        other = sum(map(_is_series if images else _is_bold, tree.files))
        fix = None
        if other and images:
            fix = f"There are {other} time series: leave the image of the atlas out to read them"
        elif other:
            fix = f"There are {other} BOLD images: give the image of the atlas (--atlas-image)"
        raise InputError(f"holds no {what}", file=folder, fix=fix)
    chosen = [file for file in candidates if file.fits(reading.entities)]
    if not chosen:
        kinds = ", ".join(sorted({_words(file.variant) for file in candidates})[:6])
        rule = f"no file of {len(candidates)} has these entities; there are: {kinds}"
        raise InputError(rule, file=folder, field="entities", value=dict(reading.entities))
    chosen = _one_variant(chosen, reading, folder, images)
    _refuse_duplicates(chosen)
    make = _image_item if images else _series_item
    return [make(file, tree, reading) for file in chosen]


# -- finding and choosing --------------------------------------------------------------------------


def _is_bold(file: BidsFile) -> bool:
    if file.suffix != "bold" or file.entities.get("desc", "preproc") != "preproc":
        return False
    space = file.entities.get("space", "")
    volume = file.extension in (".nii.gz", ".nii") and space.startswith("MNI152")
    return volume or file.extension == ".dtseries.nii"


def _is_series(file: BidsFile) -> bool:
    named = file.suffix == "timeseries" and file.extension in _SERIES
    return named and file.entities.get("desc") not in _NOT_SIGNALS


def _one_variant(
    files: Sequence[BidsFile], reading: Reading, folder: Path, images: bool
) -> list[BidsFile]:
    groups: dict[Variant, list[BidsFile]] = defaultdict(list)
    for file in files:
        groups[file.variant].append(file)
    if not images:
        groups = _fitting(groups, reading, folder)
    if len(groups) > 1:
        kinds = "; ".join(f"{_words(v)} ({len(g)} files)" for v, g in sorted(groups.items()))
        rule = f"holds several kinds of files that could be meant: {kinds}"
        fix = "Choose by entities (--where space=..., --where atlas=...)"
        raise InputError(rule, file=folder, field="entities", fix=fix)
    (found,) = groups.values()
    # XCP-D writes the series of a CIFTI scan twice, as .tsv and as .ptseries.nii.
    text = {file.scan for file in found if file.extension == ".tsv"}
    return [f for f in found if f.extension != ".ptseries.nii" or f.scan not in text]


def _fitting(
    groups: dict[Variant, list[BidsFile]], reading: Reading, folder: Path
) -> dict[Variant, list[BidsFile]]:
    """Return the groups whose first file names the ROIs of the parcellation."""
    reasons = {}
    fitting = {}
    for variant, files in groups.items():
        try:
            names = _names_in(files[0], reading)
            reading.atlas.columns_of(names, source=files[0].path, extra=True, absent=True)
            fitting[variant] = files
        except InputError as error:
            reasons[variant] = error.rule
    if not fitting:
        told = "; ".join(f"{_words(v)}: {why}" for v, why in sorted(reasons.items())[:4])
        rule = f"no time series has the ROIs of {reading.atlas.name} ({told})"
        fix = "Choose the parcellation of the files (--atlas), or name their columns (--roi-names)"
        raise InputError(rule, file=folder, field="atlas", fix=fix)
    return fitting


def _names_in(file: BidsFile, reading: Reading) -> tuple[str, ...]:
    if file.extension == ".ptseries.nii":
        return read_ptseries(file.path)[1]
    names = named_columns(file.path)
    if names is not None:
        return names
    return read_series(file.path, reading)[1]  # of another number of columns than names: refused


def _words(variant: Variant) -> str:
    return "_".join(f"{key}-{value}" for key, value in variant) or "without further entities"


def _refuse_duplicates(files: Sequence[BidsFile]) -> None:
    seen: dict[str, BidsFile] = {}
    for file in files:
        if file.id in seen:
            rule = f"is the same recording as {seen[file.id].path}"
            fix = "Remove one, or choose by entities (--where)"
            raise InputError(rule, file=file.path, field="id", value=file.id, fix=fix)
        seen[file.id] = file


def _beside(
    tree: Tree, file: BidsFile, suffix: str, desc: str | None, shared: Mapping[str, str | None]
) -> Path | None:
    """Return the file of the same scan with this suffix and description, if there is one.

    Raises
    ------
    InputError
        There are several.
    """
    found = [
        other
        for other in tree.of_scan(file)
        if other.suffix == suffix
        and other.extension in (".tsv", ".nii.gz", ".nii")
        and (desc is None or other.entities.get("desc") == desc)
        and all(other.entities.get(key) == value for key, value in shared.items())
    ]
    if len(found) > 1:
        rule = f"has several files {suffix}: {', '.join(f.path.name for f in found[:3])}"
        raise InputError(rule, file=file.path)
    return found[0].path if found else None


# -- fMRIPrep --------------------------------------------------------------------------------------


def _image_item(file: BidsFile, tree: Tree, reading: Reading) -> Item:
    shared = {key: file.entities.get(key) for key in ("space", "res")}
    volume = file.extension != ".dtseries.nii"
    mask = _beside(tree, file, "mask", "brain", shared) if volume else None
    confounds = _beside(tree, file, "timeseries", "confounds", {})
    files = tuple(path for path in (file.path, mask, confounds) if path is not None)
    load = functools.partial(_load_image, file, mask, confounds, tree.root, reading)
    return Item(file.id, files, load)


def _load_image(
    file: BidsFile, mask: Path | None, confounds: Path | None, root: Path, reading: Reading
) -> Recording:
    image = read_image(file.path, reading, mask)
    found = metadata(file, root, ("bold",))
    tr = agreed_tr(
        file.path, {"argument": reading.tr, file.path.name: image.tr, **stated_tr(found)}
    )
    table = _read_motion(confounds) if confounds else None
    regressors, kept = None, None
    if reading.denoise is not None:
        regressors, kept = _denoising(file.path, confounds, len(image.signal), reading)
    return Recording(
        signal=image.signal,
        roi_names=image.names,
        coverage=image.coverage,
        tr=tr,
        confounds=regressors,
        kept=kept,
        mean_fd=_mean(table, "framewise_displacement"),
        dvars=_mean(table, "std_dvars"),
        **_identity(file),
    )


def _denoising(
    file: Path, confounds: Path | None, n_times: int, reading: Reading
) -> tuple[NDArray[np.float64] | None, NDArray[np.bool_] | None]:
    """Return confounds and kept volumes by one of nilearn's strategies."""
    from nilearn.interfaces.fmriprep import load_confounds_strategy

    if confounds is None:
        rule = "has no confounds (desc-confounds_timeseries.tsv) to denoise with"
        fix = "Add them, or say that no denoising is wanted (denoise=None, --denoise none)"
        raise InputError(rule, file=file, field="confounds", fix=fix)
    options: dict[str, Any] = dict(reading.denoise_options)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            frame, sample = load_confounds_strategy(
                str(file), denoise_strategy=reading.denoise, **options
            )
    except (ValueError, KeyError, TypeError, OSError, IndexError, Warning) as error:
        text = " ".join(str(error).split())
        rule = f"the strategy {reading.denoise!r} cannot be used ({text})"
        raise InputError(rule, file=confounds, field="denoise", value=options or None) from None
    if frame is None or len(frame) != n_times:
        rows = 0 if frame is None else len(frame)
        rule = f"has {rows} rows where the image has {n_times} volumes"
        raise InputError(rule, file=confounds, field="confounds")
    kept = None
    if sample is not None:
        kept = np.zeros(n_times, bool)
        kept[sample] = True
    return frame.to_numpy(np.float64), kept


# -- time series -----------------------------------------------------------------------------------


def _series_item(file: BidsFile, tree: Tree, reading: Reading) -> Item:
    parcels = {key: file.entities.get(key) for key in ("atlas", "seg", "space", "res", "den")}
    beside = {
        "outliers": _beside(tree, file, "outliers", None, {}),
        "motion": _motion(tree, file),
        "coverage": _coverage_file(tree, file, parcels),
    }
    # XCP-D states the TR beside the denoised images of the scan, not beside its time series.
    bolds = [f.path for f in tree.of_scan(file) if f.suffix == "bold" and f.extension == ".json"]
    files = tuple(path for path in (file.path, *beside.values(), *bolds) if path is not None)
    load = functools.partial(_load_series, file, beside, bolds, tree.root, reading)
    return Item(file.id, files, load)


def _motion(tree: Tree, file: BidsFile) -> Path | None:
    confounds = _beside(tree, file, "timeseries", "confounds", {})
    return confounds or _beside(tree, file, "motion", None, {})


def _coverage_file(tree: Tree, file: BidsFile, shared: Mapping[str, str | None]) -> Path | None:
    found = [
        other.path
        for other in tree.of_scan(file)
        if other.entities.get("stat") == "coverage"
        and other.extension == ".tsv"
        and all(other.entities.get(key) == value for key, value in shared.items())
    ]
    return found[0] if found else None


def _load_series(
    file: BidsFile,
    beside: Mapping[str, Path | None],
    bolds: Sequence[Path],
    root: Path,
    reading: Reading,
) -> Recording:
    signal, names, own_tr = read_series(file.path, reading)
    found = metadata(file, root, ("timeseries", "bold"))
    stated = {"argument": reading.tr, file.path.name: own_tr, **stated_tr(found)}
    for path in bolds:
        stated[path.name] = read_json(path).get("RepetitionTime")
    tr = agreed_tr(file.path, stated)
    motion = _read_motion(beside["motion"]) if beside["motion"] else None
    outliers = _read_outliers(beside["outliers"]) if beside["outliers"] else None
    signal, kept = _whole(signal, outliers, motion, file.path)
    coverage = _coverage(beside["coverage"], names, found, file.path)
    return Recording(
        signal=signal,
        roi_names=names,
        tr=tr,
        kept=kept,
        coverage=coverage,
        mean_fd=_mean(motion, "framewise_displacement"),
        dvars=_mean(motion, "std_dvars"),
        **_identity(file),
    )


def _whole(
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
    whole = np.full((len(outliers), signal.shape[1]), np.nan)
    whole[kept] = signal
    return whole, kept


def _read_outliers(path: Path) -> NDArray[np.bool_]:
    """Return which volumes are outliers in any column of the file (XCP-D: one column)."""
    frame = _read_motion(path)
    values = frame.to_numpy(np.float64)
    if not np.isin(values, (0, 1)).all():
        raise InputError("has to hold 0 and 1", file=path, field="outliers")
    return np.asarray((values > 0).any(axis=1))


def _read_motion(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path, sep="\t", na_values=["n/a"])
    except (ValueError, OSError) as error:
        raise InputError(f"is not a table that can be read ({error})", file=path) from None
    return frame


def _mean(table: pd.DataFrame | None, column: str) -> float | None:
    if table is None or column not in table.columns:
        return None
    value = pd.to_numeric(table[column], errors="coerce").mean()
    return None if np.isnan(value) else float(value)


def _coverage(
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
        return np.array([np.nan if v is None else v for v in stated], np.float64)
    frame = pd.read_csv(path, sep="\t", na_values=["n/a"])
    if len(frame.columns) == 2:  # XCP-D: Node, coverage
        values = dict(zip(frame.iloc[:, 0].astype(str), frame.iloc[:, 1], strict=True))
    elif len(frame) == 1:
        values = {str(name): value for name, value in frame.iloc[0].items()}
    else:
        rule = "has to have two columns, or one row"
        raise InputError(rule, file=path, field="columns", value=[*frame.columns][:4])
    unknown = [name for name in names if name not in values]
    if unknown:
        rule = f"says nothing about {len(unknown)} ROIs: {', '.join(unknown[:3])}"
        raise InputError(rule, file=path, field="coverage")
    coverage = pd.to_numeric(pd.Series([values[name] for name in names]), errors="coerce")
    return coverage.fillna(0).to_numpy(np.float64)


def _identity(file: BidsFile) -> dict[str, Any]:
    subject, session, task, acquisition, run = file.scan
    return {
        "subject": subject or "",
        "session": session,
        "task": task,
        "acquisition": acquisition,
        "run": run,
        "source": str(file.path),
    }
