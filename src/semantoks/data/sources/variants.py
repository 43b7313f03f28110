"""Which files of a derivatives folder are read: one kind of image, or of time series.

1. Candidates are told by their names. The image of the atlas tells whether volumes, CIFTI or GIFTI
   series are read; without one, time series are.
2. They are grouped by how they were made (space, resolution, atlas). One group is chosen: the one
   asked for, or the only one. Of time series, those that name the ROIs of the parcellation inside.
3. The concatenation of runs that are read is left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from semantoks.data.sources.bids import BidsFile
from semantoks.data.sources.columns import named_columns
from semantoks.data.sources.images import VOLUMES, read_ptseries
from semantoks.data.sources.items import Reading
from semantoks.data.sources.scans import Tree
from semantoks.data.sources.series import chosen_names, is_series, read_series
from semantoks.errors import InputError, listed
from semantoks.tables import is_table

_NOT_SIGNALS = ("confounds", "motion", "outliers", "physio")
#: Spaces of a person, in which no atlas is.
_INDIVIDUAL = ("", "T1w", "T2w", "anat", "func", "orig", "run", "boldref", "scanner", "fsnative")
#: The images that nilearn's strategy ``ica_aroma`` is for (fMRIPrep up to 23.0).
_AROMA = "smoothAROMAnonaggr"
_DOUBLED = "the concatenation of its runs is left out; --where run= reads it instead"

Variant = tuple[tuple[str, str], ...]


def choose(tree: Tree, reading: Reading) -> dict[BidsFile, tuple[str, ...]]:
    """Return the files that are read, with what was decided about them.

    Parameters
    ----------
    tree : Tree
    reading : Reading
        Atlas, its images, entities wanted, strategy of denoising.

    Raises
    ------
    InputError
        There are none, none has the ROIs of the parcellation, or there are several kinds.
    """
    images = bool(reading.atlas_images)
    candidates = [f for f in tree.files if (_is_bold(f, reading) if images else _is_series(f))]
    if not candidates:
        raise _nothing(tree, reading)
    chosen = [file for file in candidates if file.fits(reading.entities)]
    if not chosen:
        raise _no_such_entities(candidates, reading, tree.root)
    files = _one_variant(chosen, reading, tree.root)
    joined = _concatenations(files)
    cohorts = sorted({file.entities.get("cohort", "") for file in files})
    told = f"cohorts {', '.join(cohorts)} of the space in one store; {_ways('cohort', cohorts)}"
    mixed = (told,) if len(cohorts) > 1 else ()
    return {
        file: (*mixed, *((_DOUBLED,) if file in joined.values() else ()))
        for file in files
        if file not in joined
    }


def _is_bold(file: BidsFile, reading: Reading) -> bool:
    """Return whether a file is an image of the kind of the atlas, in a standard space."""
    entities = file.entities
    wanted = _AROMA if reading.denoise == "ica_aroma" else "preproc"
    wanted = reading.entities.get("desc") or wanted
    if file.suffix != "bold" or entities.get("desc", wanted) != wanted:
        return False
    if len(reading.atlas_images) == 2:  # the right hemisphere is read with the left one
        ending, hemisphere = file.extension == ".func.gii", entities.get("hemi", "L") == "L"
        return ending and hemisphere and entities.get("space", "") not in _INDIVIDUAL
    if reading.atlas_images[0].name.endswith(".dlabel.nii"):
        return file.extension == ".dtseries.nii"
    return file.extension in VOLUMES and entities.get("space", "") not in _INDIVIDUAL


def _is_series(file: BidsFile) -> bool:
    named = file.suffix == "timeseries" and is_series(file.path)
    return named and file.entities.get("desc") not in _NOT_SIGNALS


def _nothing(tree: Tree, reading: Reading) -> InputError:
    """Return the error for a folder without candidates: what it holds, and how that is read."""
    series = sum(map(_is_series, tree.files))
    bolds = [f for f in tree.files if f.suffix == "bold" and ".json" not in f.extension]
    kinds = sorted({f.extension for f in bolds})
    if not reading.atlas_images:
        what, fix = "time series of ROIs", "Check that it is a derivatives folder with sub-*"
        if bolds:
            fix = f"There are {len(bolds)} BOLD images: give the image of the atlas (--atlas-image)"
        return InputError(f"holds no {what}", file=tree.root, fix=fix)
    atlas = ", ".join(path.name for path in reading.atlas_images)
    rule = f"holds no preprocessed BOLD image in a standard space of the kind of {atlas}"
    fix = "Check that it is a derivatives folder with sub-*"
    if reading.denoise == "ica_aroma":
        rule = f"holds no image desc-{_AROMA}, which the strategy ica_aroma is for"
        fix = "Choose another strategy (--denoise simple)"
    elif series:
        fix = f"There are {series} time series: leave the image of the atlas out to read them"
    elif bolds and set(kinds) <= {*VOLUMES} and reading.atlas_images[0].name.endswith(VOLUMES):
        fix = "Its images are raw or in the space of a person: preprocess them with fMRIPrep, "
        fix += "--output-spaces MNI152NLin6Asym"
    elif bolds:
        fix = f"There are {', '.join(kinds)}: give an atlas of that kind (--atlas-image)"
    return InputError(rule, file=tree.root, fix=fix)


def _no_such_entities(candidates: Sequence[BidsFile], reading: Reading, folder: Path) -> InputError:
    for key, value in reading.entities.items():
        present = sorted({file.entities.get(key, "") for file in candidates})
        if value not in present:
            rule = f"no file of {len(candidates)} has this entity"
            fix = f"The files have {_ways(key, present)}"
            return InputError(rule, file=folder, field=f"--where {key}", value=value, fix=fix)
    rule = f"no file of {len(candidates)} has all of these entities"
    return InputError(
        rule, file=folder, field="--where", value=dict(reading.entities), fix="Leave one out"
    )


def _ways(key: str, values: Iterable[str]) -> str:
    texts = [f"--where {key}={value}" + ("" if value else " (without it)") for value in values]
    return listed(texts, shown=8)


def _one_variant(files: Sequence[BidsFile], reading: Reading, folder: Path) -> list[BidsFile]:
    images = bool(reading.atlas_images)
    groups: dict[Variant, list[BidsFile]] = defaultdict(list)
    for file in files:
        # XCP-D states the density in the name of the .ptseries.nii, not in that of the .tsv.
        variant = tuple(pair for pair in file.variant if images or pair[0] != "den")
        groups[variant].append(file)
    if not images:
        groups = _with_cohorts(_fitting(groups, reading, folder))
    if len(groups) > 1:
        kinds = "; ".join(f"{_words(v)} ({len(g)} files)" for v, g in sorted(groups.items()))
        rule = f"holds several kinds of files that could be meant: {kinds}"
        differ = sorted({key for v in groups for key, _ in set(v) ^ set(next(iter(groups)))})
        ways = "; ".join(
            _ways(key, sorted({dict(v).get(key, "") for v in groups})) for key in differ
        )
        fix = f"Choose one kind: {ways}"
        raise InputError(rule, file=folder, field="entities", fix=fix)
    (found,) = groups.values()
    # XCP-D writes the series of a CIFTI scan twice, as .tsv and as .ptseries.nii.
    text = {file.scan for file in found if file.extension == ".tsv"}
    return [f for f in found if f.extension != ".ptseries.nii" or f.scan not in text]


def _with_cohorts(groups: dict[Variant, list[BidsFile]]) -> dict[Variant, list[BidsFile]]:
    """Return one group of series that differ in the cohort of their space only.

    The template of an infant is chosen by age, and its ROIs have the same names in all.
    """
    files = [file for group in groups.values() for file in group]
    merged = {tuple(pair for pair in variant if pair[0] != "cohort") for variant in groups}
    if len(groups) == 1 or len(merged) > 1 or len({file.id for file in files}) < len(files):
        return groups
    return {merged.pop(): files}


def _fitting(
    groups: dict[Variant, list[BidsFile]], reading: Reading, folder: Path
) -> dict[Variant, list[BidsFile]]:
    """Return the groups whose first readable file names the ROIs of the parcellation."""
    reasons = {}
    fitting = {}
    for variant, files in groups.items():
        reason = None
        for file in files:
            try:
                names = _names_in(file, reading)
            except InputError as error:  # a damaged file says nothing of the others
                reason = reason or error.rule
                continue
            try:
                reading.atlas.columns_of(names, source=file.path, extra=True, absent=True)
                fitting[variant] = files
            except InputError as error:
                reason = error.rule
            break
        if variant not in fitting:
            reasons[variant] = reason
    if not fitting:
        told = "; ".join(f"{_words(v)}: {why}" for v, why in sorted(reasons.items())[:4])
        rule = f"no time series has the ROIs of {reading.atlas.name} ({told})"
        fix = "Choose the parcellation of the files (--atlas), or name their columns (--roi-names)"
        raise InputError(rule, file=folder, field="atlas", fix=fix)
    return fitting


def _names_in(file: BidsFile, reading: Reading) -> tuple[str, ...]:
    if file.extension == ".ptseries.nii":
        return read_ptseries(file.path)[1]
    names = named_columns(file.path, reading) if is_table(file.path) else None
    if names is not None:
        return chosen_names(names, file.path, reading)[0] or ()
    # Names of another number than the columns are refused there.
    return read_series(file.path, reading).names or ()


def _words(variant: Variant) -> str:
    return "_".join(f"{key}-{value}" for key, value in variant) or "without further entities"


def _concatenations(files: Sequence[BidsFile]) -> dict[BidsFile, BidsFile]:
    """Return the files that join several runs, or repeat a single one, with the first of the runs.

    XCP-D writes them under the name of the runs without ``run`` and ``dir``.
    """
    scans: dict[Variant, list[BidsFile]] = defaultdict(list)
    for file in files:
        told = {k: v for k, v in file.entities.items() if k not in ("run", "dir")}
        scans[tuple(told.items())].append(file)
    joined = {}
    for scan in scans.values():
        runs = [file for file in scan if "run" in file.entities]
        for file in scan:
            own = [run for run in runs if file.entities.items() <= run.entities.items()]
            if file not in runs and own:
                joined[file] = own[0]
    return joined
