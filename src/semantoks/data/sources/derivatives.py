"""BIDS derivatives: fMRIPrep's images, and time series of XCP-D, HALFpipe, C-PAC and their like.

1. One kind of file is chosen among those of the folder (`semantoks.data.sources.variants`).
2. What belongs to a scan (mask, confounds, motion, outliers, coverage, sidecars) is found by its
   entities (`semantoks.data.sources.scans`).
"""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semantoks.data.recording import Recording
from semantoks.data.sources.bids import (
    BidsFile,
    Stated,
    bids_files,
    metadata,
    read_json,
    settle_tr,
    sidecar_trs,
    start_time,
)
from semantoks.data.sources.images import VOLUMES, image_tr, read_image, right_of
from semantoks.data.sources.items import Item, Reading
from semantoks.data.sources.scans import (
    Tree,
    beside,
    confound_files,
    coverage_files,
    coverage_of,
    dummy_scans,
    mean,
    motion_file,
    motion_files,
    only,
    read_outliers,
    removed,
    whole,
)
from semantoks.data.sources.series import read_series
from semantoks.data.sources.variants import choose
from semantoks.errors import InputError
from semantoks.tables import read_words, table_cells
from semantoks.text import has_decimal_commas


def derivative_items(root: str | Path, reading: Reading) -> list[Item]:
    """Return the recordings of a derivatives folder.

    With an image of the atlas, fMRIPrep's images in a standard space are read; without, time
    series of ROIs (XCP-D, HALFpipe, C-PAC, ...). The concatenation of several runs of a scan is
    left out where the runs are read, and a note says so.

    Raises
    ------
    InputError
        There are none, none has the ROIs of the parcellation, or it holds several kinds of files
        and none is chosen.
    """
    folder = Path(root).resolve()
    tree = Tree(folder, tuple(bids_files(folder)))
    make = _image_item if reading.atlas_images else _series_item
    return [
        replace(make(file, tree, reading), notes=notes)
        for file, notes in choose(tree, reading).items()
    ]


# -- fMRIPrep --------------------------------------------------------------------------------------


def _image_item(file: BidsFile, tree: Tree, reading: Reading) -> Item:
    volume = file.extension in VOLUMES
    masks = beside(tree, file, "mask", "brain", ("space", "res")) if volume else ()
    tables = confound_files(tree, file)
    load = functools.partial(_load_image, file, masks, tables, tree.root, reading)
    return Item(file.id, (file.path, *masks, *tables), load)


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
    timing = settle_tr(file.path, reading.tr, [*sidecar_trs(found), image_tr(file.path, image)])
    table = read_words(confounds) if confounds else None
    if table is not None and len(table) != len(image.signal):
        rule = f"has {len(table)} rows where the image has {len(image.signal)} volumes"
        raise InputError(rule, file=confounds, field="confounds")
    n_dummies = dummy_scans(table)
    regressors, kept = None, None
    if reading.denoise is not None:
        regressors, kept = _denoising(file.path, confounds, len(image.signal), reading)
    return Recording(
        signal=image.signal,
        roi_names=image.names,
        coverage=image.coverage,
        tr=timing.tr,
        start_time=start_time(found),
        dummy_scans=n_dummies,
        notes=(*timing.notes, *removed(n_dummies)),
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
    cells = table_cells(confounds)
    commas = any(has_decimal_commas(row) for row in cells.rows[1:3])
    if commas or not cells.read_as.startswith("UTF-8, separated by tabs"):
        rule = f"is not as fMRIPrep writes it ({cells.read_as}{', decimal commas' * commas})"
        fix = "Save it again as UTF-8 text, separated by tabs, with decimal points"
        raise InputError(rule, file=confounds, field="confounds", fix=fix)
    options: dict[str, Any] = dict(reading.denoise_options)
    images = [str(file), str(right_of(file))] if file.name.endswith(".gii") else str(file)
    try:  # nilearn raises KeyError and TypeError, too, over columns that are missing or no numbers
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            frame, sample = load_confounds_strategy(
                images, denoise_strategy=reading.denoise, **options
            )
    except (ValueError, KeyError, TypeError, OSError, Warning) as error:
        text = " ".join(str(error).split())
        rule = f"the strategy {reading.denoise!r} cannot be used ({text})"
        fix = "Choose another strategy or option (--denoise, --denoise-option)"
        raise InputError(
            rule, file=confounds, field="denoise", value=options or reading.denoise, fix=fix
        ) from None
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
        "outliers": beside(tree, file, "outliers", None),
        "motion": motion_files(tree, file),
        "coverage": coverage_files(tree, file),
    }
    # XCP-D states the TR beside the denoised images of the scan, not beside its time series.
    bolds = [f.path for f in tree.of_scan(file) if f.suffix == "bold" and f.path.suffix == ".json"]
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
    stated = sidecar_trs(found)
    for path in bolds:
        stated.append(Stated("sidecar", read_json(path).get("RepetitionTime"), path.name))
    stated.sort(key=lambda one: one.rounded)
    header = Stated("header", own_tr, file.path.name)
    timing = settle_tr(file.path, reading.tr, [*stated, header])
    moved = motion_file(around["motion"], file.path)
    censored = only(around["outliers"], file.path)
    motion = read_words(moved) if moved else None
    outliers = read_outliers(censored) if censored else None
    n_dummies, n_rows = dummy_scans(motion), len(signal if outliers is None else outliers)
    start = start_time(found)
    if n_dummies and motion is not None and len(motion) == n_rows + n_dummies:
        start += n_dummies * timing.tr  # the tool has removed them
        motion, n_dummies = motion[n_dummies:], 0
    if motion is not None and len(motion) < n_rows:
        rule = f"has {len(motion)} rows where the scan has {n_rows} volumes"
        fix = "Restore the file, or move it out of the folder"
        raise InputError(rule, file=moved, field="motion", fix=fix)
    signal, kept = whole(signal, outliers, motion, file.path)
    coverage = coverage_of(only(around["coverage"], file.path), names, found, file.path)
    return Recording(
        signal=signal,
        roi_names=names,
        tr=timing.tr,
        start_time=start,
        dummy_scans=n_dummies,
        notes=(*timing.notes, *removed(n_dummies), *series.notes),
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
