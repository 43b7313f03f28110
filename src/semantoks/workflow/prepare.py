"""Recordings to a store; an atlas to a parcellation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from semantoks.atlas.assign import assign_by_overlap, weak
from semantoks.atlas.parcellation import Parcellation
from semantoks.data.denoise import Censoring
from semantoks.data.encode import RoiRules, StoreSpec
from semantoks.data.layout import QUALITY_PAGE
from semantoks.data.phenotypes import PhenotypeRules
from semantoks.data.prepare import PrepareReport, Progress, prepare
from semantoks.data.quality import QualityRules
from semantoks.data.remarks import mixed_tasks
from semantoks.data.shards import Running
from semantoks.data.signal import Preprocessing
from semantoks.data.sources.bids import BidsFile
from semantoks.data.sources.find import find_items, transfer_of
from semantoks.data.sources.images import is_image
from semantoks.data.sources.items import Item, Reading
from semantoks.datasets import DATASETS, sample_items
from semantoks.errors import InputError, nearest
from semantoks.files import refuse_existing, staged_file
from semantoks.report.quality import write_quality_page
from semantoks.tables import as_numbers, read_words

_log = logging.getLogger(__name__)


def prepare_store(
    source: str,
    path: str | Path,
    *,
    reading: Reading | None = None,
    preprocessing: Preprocessing | None = None,
    for_model: str | Path | None = None,
    censoring: Censoring | None = None,
    rois: RoiRules | None = None,
    phenotypes: PhenotypeRules | None = None,
    quality: QualityRules | None = None,
    running: Running | None = None,
    progress: Progress | None = None,
) -> PrepareReport:
    """Read recordings, check and preprocess them, and write a store and its page of quality.

    Parameters
    ----------
    source : str
        A sample (``abide-sample``, ``stages``), ``abide`` (downloads all of it), or the path of a
        derivatives folder (fMRIPrep, XCP-D, HALFpipe, C-PAC), of a table of files, of an HDF5 file,
        or of a single image or file of time series (`semantoks.data.sources.find.find_items`).
    path : path
        Folder of the new store.
    reading : Reading, optional
        The parcellation, and what the files do not say; the shipped samples know theirs.
    preprocessing : Preprocessing, optional
        The paper's by default.
    for_model : path or str, optional
        Preprocess as this model expects (`load_pretrained`), in place of `preprocessing`.
    censoring : Censoring, optional
        What is done about censored volumes.
    rois : RoiRules, optional
        What is done about missing and extra ROIs.
    phenotypes : PhenotypeRules, optional
        Tables joined by subject and session; by default ``participants.tsv`` of the source.
    quality : QualityRules, optional
        What excludes a recording.
    running : Running, optional
        Processes, and the shard.
    progress : callable, optional
        Called with the numbers of recordings tried, failed, and altogether.

    Returns
    -------
    PrepareReport

    Raises
    ------
    InputError
        If the source is unknown, the atlas is not stated, no recording can be used, or both a
        model and other preprocessing are given.
    StoreError
        If the folder exists or cannot be written.

    See Also
    --------
    RecordingStore : Reads what this function writes.

    Examples
    --------
    >>> from semantoks import prepare_store
    >>> report = prepare_store("abide-sample", "stores/abide")
    >>> report.count("stored")
    202
    """
    items, atlas, how = _items(source, reading)
    notes = [] if reading is None else _notes(items, reading)
    tasks = [BidsFile(Path(item.id)).entities.get("task") for item in items]
    notes += mixed_tasks(tasks)
    _log.debug("%d recordings in %s, parcellation %s", len(items), source, atlas.name)
    rois, running = rois or RoiRules(), running or Running()
    phenotypes = phenotypes or PhenotypeRules()
    spec = StoreSpec(
        parcellation=atlas,
        preprocessing=_preprocessing(preprocessing or Preprocessing(), for_model),
        censoring=censoring or Censoring(),
        missing_rois=rois.missing_rois,
        extra_rois=rois.extra_rois,
        min_coverage=rois.min_coverage,
    )
    report = prepare(
        items,
        path,
        spec,
        phenotypes=phenotypes.read(source),
        rules=quality,
        varying=phenotypes.varying,
        keep_case=phenotypes.keep_case,
        n_jobs=running.n_jobs,
        shard=running.shard,
        provenance={"source": Path(source).name, "reading": how, "notes": notes},
        progress=progress,
    )
    if report.finished and not (report.store / QUALITY_PAGE).exists():
        write_quality_page(report.store)
    return report


def _preprocessing(given: Preprocessing, for_model: str | Path | None) -> Preprocessing:
    if for_model is None:
        return given
    from semantoks.model.pretrained import load_pretrained  # slow to import

    if given != Preprocessing():
        rule, fix = "states the preprocessing itself", "Leave TR, band and scaling out"
        raise InputError(rule, field="for_model", value=str(for_model), fix=fix)
    return load_pretrained(for_model).preprocessing


def _notes(items: Sequence[Item], reading: Reading) -> list[str]:
    """Return what was assumed of spaces, and what moving to another atlas costs."""
    if reading.from_atlas is not None:
        transfer = transfer_of(reading)
        assert transfer is not None
        table = transfer.report()
        low = table[(table["covered"] < 0.5) | (table["purity"] < 0.5)]
        return [
            f"moved from {reading.from_atlas.name} to {reading.atlas.name} by overlap, an "
            f"approximation: ROIs are covered by {table['covered'].median():.0%}, the source ROIs "
            f"used lie in them by {table['purity'].median():.0%} (medians); {len(low)} of "
            f"{len(table)} ROIs have one of the two below 50 %"
            + (f": {', '.join(low['label'][:5])}" if len(low) else "")
        ]
    if not reading.atlas_images or not is_image(items[0].files[0]):
        return []
    own = BidsFile(reading.atlas_images[0]).entities
    atlas = own.get("space") or own.get("tpl") or reading.atlas.space
    spaces = sorted({BidsFile(item.files[0]).entities.get("space", "unknown") for item in items})
    note = f"images in {', '.join(spaces)}, atlas in {atlas}"
    if spaces == [atlas]:
        return [note]
    return [f"{note}: read through the affines, taken for one space and not warped"]


def _items(
    source: str, reading: Reading | None
) -> tuple[Sequence[Item], Parcellation, dict[str, Any]]:
    """Return the recordings of a source, their parcellation, and how they are read."""
    if source in DATASETS:
        sample = DATASETS[source]
        if reading is not None:
            raise InputError(
                f"{source} is in {sample.parcellation} and states its own TRs",
                field="reading",
                fix="Leave the atlas and the TR out",
            )
        return sample_items(source), Parcellation.load(sample.parcellation), {}
    if not Path(source).exists():
        raise InputError(
            "is neither a file or folder nor a sample",
            field="source",
            value=source,
            fix=nearest(source, DATASETS),
        )
    if reading is None:
        raise InputError(
            "the parcellation of the recordings is not stated",
            file=source,
            field="atlas",
            fix="Give a built-in one (e.g. schaefer400, cc200 or aal116), or a table of your own",
        )
    return find_items(source, reading), reading.atlas, reading.to_dict()


def assign_atlas(
    image: str | Path, out: str | Path, labels: str | Path | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Assign networks to the ROIs of a volume and write the table of the parcellation.

    Parameters
    ----------
    image : path
        See `semantoks.atlas.assign.assign_by_overlap`.
    out : path
        New .tsv that `Parcellation.load` reads.
    labels : path, optional
        Table (`semantoks.tables`) with the columns ``index`` (value in the image) and ``label``.

    Returns
    -------
    DataFrame, list of str
        The table, and the weak assignments in words.

    Raises
    ------
    InputError
        The file exists, or labels and image do not match.
    """
    file = Path(out)
    refuse_existing(file)
    names = None
    if labels is not None:
        names = _labels_of_values(Path(labels))
    table = assign_by_overlap(image, names)
    Parcellation.from_frame(table, name=file.stem, source=image)  # refuses repeated labels
    with staged_file(file) as partial:
        table.to_csv(partial, sep="\t", index=False, lineterminator="\n")
    return table, weak(table)


def _labels_of_values(file: Path) -> dict[int, str]:
    """Return the label of every value of an image, from a table."""
    table = read_words(file)
    if not {"index", "label"} <= {*table.columns}:
        rule, fix = "must have the columns index and label", "Name its columns so"
        raise InputError(rule, file=file, field="columns", value=[*table.columns], fix=fix)
    values = as_numbers(table["index"])
    whole = [value.is_integer() for value in values]  # not of NaN
    if not all(whole):
        at = whole.index(False)
        rule = "must be a whole number: the value of the ROI in the image"
        raise InputError(rule, file=file, field="index", value=table["index"][at])
    return dict(zip(map(int, values), table["label"], strict=True))
