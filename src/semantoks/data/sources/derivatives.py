"""BIDS derivatives: fMRIPrep's images, and time series of XCP-D, HALFpipe and their like.

1. Candidates are found by their names and grouped by how they were made (space, resolution, atlas).
2. One way of being made is chosen: the one asked for, or the only one there is. Of time series, the
   ones whose ROIs are those of the parcellation, told by the names inside the files.
3. What belongs to a scan (mask, confounds, motion, outliers, coverage, sidecars) is found by its
   entities.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
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
from semantoks.data.sources.columns import named_columns
from semantoks.data.sources.images import read_image, read_ptseries
from semantoks.data.sources.items import Item, Reading
from semantoks.data.sources.scans import (
    Tree,
    beside,
    coverage_files,
    coverage_of,
    mean,
    motion_file,
    motion_files,
    only,
    read_motion,
    read_outliers,
    whole,
)
from semantoks.data.sources.series import read_series
from semantoks.errors import InputError

_SERIES = (".tsv", ".ptseries.nii")
_NOT_SIGNALS = ("confounds", "motion", "outliers", "physio")

Variant = tuple[tuple[str, str], ...]


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
        # XCP-D states the density in the name of the .ptseries.nii, not in that of the .tsv.
        variant = tuple(pair for pair in file.variant if images or pair[0] != "den")
        groups[variant].append(file)
    if not images:
        groups = _fitting(groups, reading, folder)
    if len(groups) > 1:
        kinds = "; ".join(f"{_words(v)} ({len(g)} files)" for v, g in sorted(groups.items()))
        rule = f"holds several kinds of files that could be meant: {kinds}"
        differ = sorted({key for v in groups for key, _ in set(v) ^ set(next(iter(groups)))})
        ways = ", ".join(f"--where {key}=..." for key in differ)
        fix = f"Choose by entities ({ways}; without a value: files without this entity)"
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
    return (
        read_series(file.path, reading).names or ()
    )  # of another number of columns than names: refused


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


# -- fMRIPrep --------------------------------------------------------------------------------------


def _image_item(file: BidsFile, tree: Tree, reading: Reading) -> Item:
    shared = {key: file.entities.get(key) for key in ("space", "res")}
    volume = file.extension != ".dtseries.nii"
    masks = beside(tree, file, "mask", "brain", shared) if volume else ()
    confounds = beside(tree, file, "timeseries", "confounds", {})
    load = functools.partial(_load_image, file, masks, confounds, tree.root, reading)
    return Item(file.id, (file.path, *masks, *confounds), load)


def _load_image(
    file: BidsFile,
    masks: tuple[Path, ...],
    tables: tuple[Path, ...],
    root: Path,
    reading: Reading,
) -> Recording:
    image = read_image(file.path, reading, only(masks, file.path))
    confounds = only(tables, file.path)
    found = metadata(file, root, ("bold",))
    tr = agreed_tr(
        file.path, {"argument": reading.tr, file.path.name: image.tr, **stated_tr(found)}
    )
    table = read_motion(confounds) if confounds else None
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
        mean_fd=mean(table, "framewise_displacement"),
        dvars=mean(table, "std_dvars"),
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
    around = {
        "outliers": beside(tree, file, "outliers", None, {}),
        "motion": motion_files(tree, file),
        "coverage": coverage_files(tree, file),
    }
    # XCP-D states the TR beside the denoised images of the scan, not beside its time series.
    bolds = [f.path for f in tree.of_scan(file) if f.suffix == "bold" and f.extension == ".json"]
    files = (file.path, *itertools.chain(*around.values()), *bolds)
    load = functools.partial(_load_series, file, around, bolds, tree.root, reading)
    return Item(file.id, files, load)


def _load_series(
    file: BidsFile,
    around: Mapping[str, tuple[Path, ...]],
    bolds: Sequence[Path],
    root: Path,
    reading: Reading,
) -> Recording:
    series = read_series(file.path, reading)
    signal, names, own_tr = series.signal, series.names or (), series.tr
    found = metadata(file, root, ("timeseries", "bold"))
    stated = {"argument": reading.tr, file.path.name: own_tr, **stated_tr(found)}
    for path in bolds:
        stated[path.name] = read_json(path).get("RepetitionTime")
    tr = agreed_tr(file.path, stated)
    moved = motion_file(around["motion"], file.path)
    censored = only(around["outliers"], file.path)
    motion = read_motion(moved) if moved else None
    outliers = read_outliers(censored) if censored else None
    signal, kept = whole(signal, outliers, motion, file.path)
    coverage = coverage_of(only(around["coverage"], file.path), names, found, file.path)
    return Recording(
        signal=signal,
        roi_names=names,
        tr=tr,
        kept=kept,
        coverage=coverage,
        mean_fd=mean(motion, "framewise_displacement"),
        dvars=mean(motion, "std_dvars"),
        **_identity(file),
    )


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
