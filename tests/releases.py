"""Derivatives as releases of tools name them, from public listings: names are facts, data are made.

A `Release` maps names to what the file holds; `build` writes it for every subject and scan.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd

import trees
from trees import Study

SIX, C2009 = "space-MNI152NLin6Asym", "space-MNI152NLin2009cAsym"
RUNS = ("task-rest_run-01", "task-rest_run-02")


@dataclass(frozen=True)
class Release:
    """A tool's output at a release.

    Parameters
    ----------
    tool, version : str
    files : mapping
        Name after the scan's entities, to what the file holds (a key of `WRITERS`).
    scans : tuple of str
        Entities of every scan after the subject's.
    joined : mapping
        Files of the concatenation of runs, under their name without ``run`` and ``dir``.
    folder : str
        Where a scan's files lie; ``{sub}`` and ``{ses}`` are filled in.
    commands : tuple of str
        Names of the documented commands that apply (`test_releases.COMMANDS`).
    """

    tool: str
    version: str
    files: Mapping[str, str]
    scans: tuple[str, ...] = RUNS
    joined: Mapping[str, str] = field(default_factory=dict)
    folder: str = "sub-{sub}/func"
    commands: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.tool} {self.version}"


@dataclass(frozen=True)
class Scan:
    """A scan, or several joined, whose files are written."""

    study: Study
    subject: str
    n_runs: int = 1

    @property
    def signal(self) -> np.ndarray:
        return np.tile(self.study.signals[self.subject], (self.n_runs, 1))


Writer = Callable[[Path, Scan], None]


def build(root: Path, release: Release, study: Study) -> Path:
    """Write the tree of a release."""
    trees.description(root, release.tool)
    runs = [re.sub("_(run|dir)-[^_]+", "", scan) for scan in release.scans if "_run-" in scan]
    scans = [(scan, release.files, 1) for scan in release.scans]
    if release.joined:
        scans += [(scan, release.joined, n) for scan, n in Counter(runs).items()]
    for subject in study.subjects:
        for scan, files, n_runs in scans:
            session = scan.partition("_task-")[0] if scan.startswith("ses-") else ""
            folder = root / release.folder.format(sub=subject, ses=session)
            folder.mkdir(parents=True, exist_ok=True)
            for name, kind in files.items():
                path = folder / f"sub-{subject}_{scan}_{name}"
                WRITERS[kind](path, Scan(study, subject, n_runs))
    return root


# -- what files hold -------------------------------------------------------------------------------


def _series(path: Path, scan: Scan) -> None:
    frame = pd.DataFrame(scan.signal, columns=list(scan.study.atlas.labels))
    frame.to_csv(path, sep="\t", index=False)


def _bare(path: Path, scan: Scan) -> None:
    np.savetxt(path, scan.signal, delimiter="\t")


def _correlations(path: Path, scan: Scan) -> None:
    np.savetxt(path, np.corrcoef(scan.signal.T), delimiter="\t")


def _ptseries(path: Path, scan: Scan) -> None:
    trees.ptseries(path, Study(scan.study.atlas, {"": scan.signal}, scan.study.tr), "")


def _coverage(path: Path, scan: Scan) -> None:
    rows = {"Node": scan.study.atlas.labels, "coverage": np.full(trees.N_ROIS, 0.75)}
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False)


def _column(value: float) -> Writer:
    def write(path: Path, scan: Scan) -> None:
        column = {"framewise_displacement": np.full(len(scan.signal), value)}
        pd.DataFrame(column).to_csv(path, sep="\t", index=False)

    return write


def _outliers_exact(path: Path, scan: Scan) -> None:
    n = len(scan.signal)
    flags = pd.DataFrame({"framewise_displacement": np.zeros(n, int)})
    flags.assign(exact_20=(np.arange(n) >= 20).astype(int)).to_csv(path, sep="\t", index=False)


def _json(**facts: object) -> Writer:
    def write(path: Path, scan: Scan) -> None:
        text = {
            key: value(scan.study) if callable(value) else value for key, value in facts.items()
        }
        path.write_text(json.dumps(text))

    return write


def _volume(path: Path, scan: Scan) -> None:
    trees.volume(path, scan.study, scan.subject)


def _mask(path: Path, _scan: Scan) -> None:
    nib.save(nib.Nifti1Image(np.ones(trees.SHAPE, np.uint8), trees.AFFINE), path)


def _native(path: Path, _scan: Scan) -> None:
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.float32), np.eye(4)), path)


def _dense(path: Path, scan: Scan) -> None:
    made, labels = trees.dense_cifti(path.parent, scan.study, scan.subject)
    labels.unlink()
    made.rename(path)


def _gifti(path: Path, scan: Scan) -> None:
    """Write both hemispheres, by the name of the left one."""
    made, labels = trees.gifti(path.parent, scan.study, scan.subject)
    for label in labels:
        label.unlink()
    for side in "LR":
        one = made.with_name(made.name.replace("hemi-L", f"hemi-{side}"))
        one.rename(path.with_name(path.name.replace("hemi-L", f"hemi-{side}")))


def _confounds(path: Path, scan: Scan) -> None:
    trees.confounds(path, len(scan.signal))


WRITERS: dict[str, Writer] = {
    "series": _series,
    "bare": _bare,
    "correlations": _correlations,
    "ptseries": _ptseries,
    "coverage": _coverage,
    "motion": _column(0.1),
    "outliers": _column(0),
    "outliers of equal lengths": _outliers_exact,
    "TR": _json(RepetitionTime=lambda study: study.tr),
    "TR as text": _json(RepetitionTime=lambda study: str(study.tr)),
    "frequency as text": _json(SamplingFrequency="TR"),
    "frequency": _json(
        SamplingFrequency=lambda study: round(1 / study.tr, 2), Coverage=[1.0] * trees.N_ROIS
    ),
    "volume": _volume,
    "mask": _mask,
    "native": _native,
    "dense": _dense,
    "gifti": _gifti,
    "confounds": _confounds,
}


# -- tools -----------------------------------------------------------------------------------------


def xcpd(
    version: str,
    space: str,
    series: str,
    coverage: str | None,
    motion: tuple[str, ...],
    *,
    cifti: bool = False,
    own_json: bool = True,
    scans: tuple[str, ...] = RUNS,
    outliers: str = "outliers",
) -> Release:
    """XCP-D: series of two atlases, motion, outliers, coverage, the denoised image's sidecar."""
    den = "_den-91k" if cifti else ""
    shared = {f"{name}.tsv": "motion" for name in motion} | {"outliers.tsv": outliers}
    joined = dict(shared)
    for atlas, kind in (("Seven", "series"), ("Other", "correlations")):
        name = f"{space}_{series.format(atlas)}"
        joined[f"{name}.tsv"] = kind
        if own_json:
            joined[f"{name}.json"] = "frequency as text"
        if cifti and kind == "series":
            dense = f"{space}_{series.format(f'{atlas}{den}')}"
            joined[f"{dense}.ptseries.nii"] = "ptseries"
            joined[f"{dense}.json"] = "frequency as text"
    files = joined | {f"{space}{den}_desc-denoised_bold.json": "TR"}
    if coverage:
        files[f"{space}_{coverage.format('Seven')}.tsv"] = "coverage"
    return Release(
        "XCP-D",
        version,
        files,
        scans=scans,
        joined=joined,
        folder="sub-{sub}/{ses}/func",
        commands=("time series", "options"),
    )


def fmriprep(
    version: str,
    *,
    confounds: str = "desc-confounds_timeseries",
    gifti: str = "hemi-L_space-fsaverage5_bold.func.gii",
    spaces: tuple[str, ...] = (C2009,),
    aroma: bool = False,
    dense_json: str = "bold.json",
    scans: tuple[str, ...] = RUNS,
    hashes: tuple[str, ...] = ("",),
    tool: str = "fMRIPrep",
    surfaces: bool = True,
) -> Release:
    """fMRIPrep: volumes, CIFTI and GIFTI series, masks, sidecars, confounds."""
    files = {}
    for hash_ in hashes:
        files[f"{hash_}{confounds}.tsv"] = "confounds"
        files[f"{hash_}desc-preproc_bold.nii.gz"] = "native"
        for space in spaces:
            files[f"{hash_}{space}_desc-preproc_bold.nii.gz"] = "volume"
            files[f"{hash_}{space}_desc-preproc_bold.json"] = "TR"
            files[f"{hash_}{space}_desc-brain_mask.nii.gz"] = "mask"
        files[f"{hash_}space-T1w_desc-preproc_bold.nii.gz"] = "native"
        if surfaces:
            files[f"{hash_}space-fsLR_den-91k_bold.dtseries.nii"] = "dense"
            files[f"{hash_}space-fsLR_den-91k_{dense_json}"] = "TR as text"
            files[f"{hash_}{gifti}"] = "gifti"
            files[f"{hash_}{gifti.replace('.func.gii', '.json')}"] = "TR"
    if aroma:
        files[f"{SIX}_desc-smoothAROMAnonaggr_bold.nii.gz"] = "volume"
        files[f"{SIX}_desc-smoothAROMAnonaggr_bold.json"] = "TR"
    commands = ("simple", "scrubbing", "compcor", "none", "options on images")
    commands += ("ica_aroma",) if aroma else ()
    commands += ("CIFTI", "GIFTI") if surfaces else ()
    return Release(tool, version, files, scans, folder="sub-{sub}/{ses}/func", commands=commands)


def halfpipe(version: str, features: tuple[str, ...]) -> Release:
    """HALFpipe: series without names, one folder per task, features side by side."""
    files = {}
    for feature in features:
        stem = f"feature-{feature}_atlas-seven"
        files[f"{stem}_timeseries.tsv"] = "bare"
        files[f"{stem}_timeseries.json"] = "frequency"
        files[f"{stem}_desc-correlation_matrix.tsv"] = "correlations"
    folder, commands = "sub-{sub}/func/task-rest", ("without names",)
    return Release("HALFpipe", version, files, ("task-rest",), folder=folder, commands=commands)


def cpac(version: str) -> Release:
    """C-PAC: series without names, one per set of regressors; no sidecar states the TR."""
    files = {}
    for regressors in ("36Parameter", "aCompCor"):
        stem = f"atlas-Seven_space-MNI152NLin6ASym_reg-{regressors}_desc"
        files[f"{stem}-Mean_timeseries.1D"] = "bare"
        files[f"{stem}-PearsonNilearn_correlations.tsv"] = "correlations"
    scans = ("ses-1_task-rest_run-1", "ses-1_task-rest_run-2")
    folder, commands = "pipeline_default/sub-{sub}/{ses}/func", ("without names or TR",)
    return Release("C-PAC", version, files, scans, folder=folder, commands=commands)


MEAN, MAP = "stat-mean_timeseries", "stat-coverage_bold"
SESSIONS = ("ses-1_task-rest_dir-AP_run-1", "ses-1_task-rest_dir-PA_run-2", "ses-2_task-rest")
INFANT = ("ses-1mo_task-rest_acq-PA_run-001",)
FILTERED, BOTH = ("desc-filtered_motion",), ("motion", "desc-filtered_motion")

RELEASES = {
    release.name: release
    for release in (
        xcpd("0.3", "space-fsLR", "atlas-{}_timeseries", None, FILTERED, own_json=False),
        xcpd("0.6", SIX, "atlas-{}_timeseries", "atlas-{}_coverage", FILTERED, scans=SESSIONS),
        xcpd(
            "0.6 CIFTI",
            "space-fsLR",
            "atlas-{}_timeseries",
            "atlas-{}_coverage",
            FILTERED,
            cifti=True,
        ),
        xcpd("0.9", f"{C2009}_res-2", f"seg-{{}}_{MEAN}", f"seg-{{}}_{MAP}", FILTERED),
        xcpd("0.9 CIFTI", "space-fsLR", f"seg-{{}}_{MEAN}", f"seg-{{}}_{MAP}", BOTH, cifti=True),
        xcpd(
            "0.14 infants",
            "space-MNIInfant_cohort-1",
            f"atlas-{{}}_{MEAN}",
            f"atlas-{{}}_{MAP}",
            ("motion",),
            scans=INFANT,
        ),
        xcpd(
            "26",
            SIX,
            f"atlas-{{}}_{MEAN}",
            f"atlas-{{}}_{MAP}",
            ("motion",),
            outliers="outliers of equal lengths",
        ),
        xcpd("26 CIFTI", "space-fsLR", f"atlas-{{}}_{MEAN}", f"atlas-{{}}_{MAP}", BOTH, cifti=True),
        fmriprep(
            "20.0",
            confounds="desc-confounds_regressors",
            gifti="space-fsaverage5_hemi-L_bold.func.gii",
            spaces=(C2009, SIX),
            aroma=True,
            dense_json="bold.dtseries.json",
        ),
        fmriprep(
            "20.2",
            gifti="space-fsaverage5_hemi-L_bold.func.gii",
            spaces=(C2009, SIX),
            aroma=True,
            scans=("task-rest",),
        ),
        fmriprep("21.0", scans=SESSIONS),
        fmriprep("23.0", spaces=(f"{SIX}_res-2", f"{C2009}_res-2"), aroma=True),
        fmriprep("24.1", spaces=(f"{SIX}_res-1", f"{SIX}_res-2")),
        fmriprep("25.0", hashes=("hash-0a1b2c_", "hash-9f8e7d_"), scans=("task-rest",)),
        fmriprep(
            "22",
            spaces=("space-MNIInfant_cohort-1",),
            scans=INFANT,
            tool="nibabies",
            surfaces=False,
        ),
        fmriprep("25", spaces=("space-MNIInfant+1",), scans=INFANT, tool="nibabies"),
        halfpipe("1.0", ("corrMatrix1",)),
        halfpipe("1.2", ("corrMatrix1", "corrMatrix2")),
        cpac("1.8"),
    )
}
