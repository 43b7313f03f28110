"""Tiny but valid derivatives for tests, made by code: fMRIPrep, XCP-D, HALFpipe, HDF5, tables.

All hold the same signals: `Study.signals[subject]`, of `Study.atlas`, at `Study.tr`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from nibabel.cifti2.cifti2_axes import BrainModelAxis, LabelAxis, ParcelsAxis, SeriesAxis

from semantoks.atlas.parcellation import Parcellation

SHAPE, AFFINE = (
    (9, 10, 11),
    np.array([[4.0, 0, 0, -16], [0, 4, 0, -18], [0, 0, 4, -20], [0, 0, 0, 1]]),
)
N_ROIS = 7
SPACE = "MNI152NLin2009cAsym"


@dataclass(frozen=True)
class Study:
    atlas: Parcellation
    signals: dict[str, np.ndarray]
    tr: float = 2.0

    @property
    def subjects(self) -> list[str]:
        return list(self.signals)


def make_study(n_subjects: int = 3, n_times: int = 160, tr: float = 2.0) -> Study:
    rng = np.random.default_rng(5)
    networks = ("Vis", "Cont", "Vis", "Default", "Cont", "Default", "Default")
    labels = tuple(f"{network}_{i}" for i, network in enumerate(networks))
    atlas = Parcellation(
        name="seven", labels=labels, networks=networks, index=tuple(range(3, 3 + N_ROIS))
    )
    signals = {}
    for i in range(n_subjects):
        noise = rng.standard_normal((n_times + 4 * i, N_ROIS)).cumsum(axis=0)
        # Whole multiples of 1/32 around 1000 are exact in float32, as images hold them.
        signals[f"{i + 1:02}"] = 1000 + np.round(32 * (noise - noise.mean(axis=0))) / 32
    return Study(atlas, signals, tr)


def atlas_volume(path: Path, atlas: Parcellation) -> Path:
    """Save the atlas's image: every ROI a block of voxels in a corner of its own."""
    nib.save(nib.Nifti1Image(_places(atlas), AFFINE), path)
    return path


def _places(atlas: Parcellation) -> np.ndarray:
    values = np.zeros(SHAPE, np.int16)
    for k, value in enumerate(atlas.index):
        i, j = divmod(k, 3)
        values[2 * i + 1 : 2 * i + 3, 3 * j + 1 : 3 * j + 3, 2 : 4 + k] = value
    return values


def volume(path: Path, study: Study, subject: str, tr: float | None = None) -> Path:
    """Save a volume whose voxels carry the signal of their ROI, half of them above it."""
    signal, values = study.signals[subject], _places(study.atlas)
    data = np.zeros((*SHAPE, len(signal)), np.float32)
    for column, value in enumerate(study.atlas.index):
        inside = np.argwhere(values == value)
        away = np.where(np.arange(len(inside)) % 2 == 0, 8.0, -8.0)
        for place, shift in zip(inside, away, strict=True):
            data[tuple(place)] = signal[:, column] + shift
    image = nib.Nifti1Image(data, AFFINE)
    image.header.set_zooms((4, 4, 4, study.tr if tr is None else tr))
    image.header.set_xyzt_units("mm", "sec")
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def confounds(path: Path, n_times: int, seed: int = 0, spikes: tuple[int, ...] = ()) -> None:
    """Save confounds as fMRIPrep writes them, with the JSON file that describes them."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame()
    motion = ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z"]
    for name in [*motion, "white_matter", "csf", "global_signal"]:
        values = rng.standard_normal(n_times).cumsum()
        change = np.r_[np.nan, np.diff(values)]
        table[name], table[f"{name}_derivative1"] = values, change
        table[f"{name}_power2"], table[f"{name}_derivative1_power2"] = values**2, change**2
    for k in range(2):
        table[f"cosine{k:02}"] = np.cos(np.pi * (k + 1) * (np.arange(n_times) + 0.5) / n_times)
    for k in range(3):
        table[f"a_comp_cor_{k:02}"] = rng.standard_normal(n_times)
    fd = np.r_[np.nan, np.full(n_times - 1, 0.1)]
    fd[list(spikes)] = 2.0
    table["framewise_displacement"] = fd
    table["std_dvars"] = np.r_[np.nan, np.full(n_times - 1, 1.1)]
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")
    described = {
        f"a_comp_cor_{k:02}": {
            "Method": "aCompCor",
            "Mask": "combined",
            "Retained": True,
            "CumulativeVarianceExplained": 0.2 * (k + 1),
        }
        for k in range(3)
    }
    path.with_suffix(".json").write_text(json.dumps(described))


def description(root: Path, name: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    facts = {"Name": name, "BIDSVersion": "1.9.0", "DatasetType": "derivative"}
    text = json.dumps(facts | {"GeneratedBy": [{"Name": name}]})
    (root / "dataset_description.json").write_text(text)


def fmriprep(root: Path, study: Study, spikes: tuple[int, ...] = ()) -> Path:
    """Make a tree of fMRIPrep: volumes in two spaces, masks, confounds, sidecars."""
    description(root, "fMRIPrep")
    for subject, signal in study.signals.items():
        func = root / f"sub-{subject}" / "func"
        stem = f"sub-{subject}_task-rest"
        volume(func / f"{stem}_space-{SPACE}_desc-preproc_bold.nii.gz", study, subject)
        sidecar = json.dumps({"RepetitionTime": study.tr, "TaskName": "rest"})
        (func / f"{stem}_space-{SPACE}_desc-preproc_bold.json").write_text(sidecar)
        mask = nib.Nifti1Image(np.ones(SHAPE, np.uint8), AFFINE)
        nib.save(mask, func / f"{stem}_space-{SPACE}_desc-brain_mask.nii.gz")
        native = nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.float32), np.eye(4))
        nib.save(native, func / f"{stem}_space-T1w_desc-preproc_bold.nii.gz")
        confounds(func / f"{stem}_desc-confounds_timeseries.tsv", len(signal), 3, spikes)
    return root


def xcpd(
    root: Path,
    study: Study,
    censored: dict[str, tuple[int, ...]] | None = None,
    uncovered: dict[str, str] | None = None,
    atlas_name: str = "Seven",
) -> Path:
    """Make a tree of XCP-D: time series with names, outliers, motion, coverage.

    Parameters
    ----------
    censored : dict
        Subject to volumes that its series lacks.
    uncovered : dict
        Subject to a ROI with too little coverage, written as n/a.
    """
    description(root, "XCP-D")
    for subject, signal in study.signals.items():
        func = root / f"sub-{subject}" / "func"
        func.mkdir(parents=True)
        stem, made = f"sub-{subject}_task-rest", f"space-{SPACE}_seg-{atlas_name}"
        out = list((censored or {}).get(subject, ()))
        flags = np.zeros(len(signal), int)
        flags[out] = 1
        frame = pd.DataFrame(signal, columns=list(study.atlas.labels))
        coverage = pd.Series(1.0, index=study.atlas.labels)
        if subject in (uncovered or {}):
            frame[uncovered[subject]] = np.nan
            coverage[uncovered[subject]] = 0.2
        series = func / f"{stem}_{made}_stat-mean_timeseries.tsv"
        frame[flags == 0].to_csv(series, sep="\t", index=False, na_rep="n/a")
        series.with_suffix(".json").write_text(json.dumps({"SamplingFrequency": "TR"}))
        table = coverage.rename("coverage").rename_axis("Node").reset_index()
        table.to_csv(func / f"{stem}_{made}_stat-coverage_bold.tsv", sep="\t", index=False)
        bold = func / f"{stem}_space-{SPACE}_desc-denoised_bold.json"
        bold.write_text(json.dumps({"RepetitionTime": study.tr}))
        outliers = pd.DataFrame({"framewise_displacement": flags})
        outliers.to_csv(func / f"{stem}_outliers.tsv", sep="\t", index=False)
        motion = pd.DataFrame({"framewise_displacement": np.r_[0, np.full(len(signal) - 1, 0.15)]})
        motion.to_csv(func / f"{stem}_motion.tsv", sep="\t", index=False)
        other = pd.DataFrame(signal[flags == 0][:, :2], columns=["x", "y"])
        name = f"{stem}_space-{SPACE}_seg-Other_stat-mean_timeseries.tsv"
        other.to_csv(func / name, sep="\t", index=False)
    return root


def halfpipe(root: Path, study: Study) -> Path:
    """Make a tree of HALFpipe: time series without names, sampling frequency beside them."""
    description(root, "HALFpipe")
    for subject, signal in study.signals.items():
        func = root / f"sub-{subject}" / "func" / "task-rest"
        func.mkdir(parents=True)
        stem = f"sub-{subject}_task-rest_feature-corrMatrix1_atlas-seven"
        np.savetxt(func / f"{stem}_timeseries.tsv", signal, delimiter="\t")
        facts = {"SamplingFrequency": 1 / study.tr, "Coverage": [1.0] * N_ROIS}
        (func / f"{stem}_timeseries.json").write_text(json.dumps(facts))
    return root


def table(root: Path, study: Study) -> Path:
    """Make a table of NumPy files."""
    root.mkdir(parents=True, exist_ok=True)
    rows = []
    for subject, signal in study.signals.items():
        np.save(root / f"{subject}.npy", signal)
        rows.append((f"{subject}.npy", subject, "rest", study.tr))
    frame = pd.DataFrame(rows, columns=["file", "subject", "task", "tr"])
    frame.to_csv(root / "recordings.tsv", sep="\t", index=False)
    return root / "recordings.tsv"


def hdf5(path: Path, study: Study) -> Path:
    """Make the HDF5 file of Brain-Semantoks's README."""
    import h5py

    longest = max(map(len, study.signals.values()))
    series = np.full((len(study.signals), N_ROIS, longest), np.nan)
    for row, signal in zip(series, study.signals.values(), strict=True):
        row[:, : len(signal)] = signal.T
    with h5py.File(path, "w") as file:
        file["timeseries/seven"] = series
        names = [f"sub-{subject}_task-rest" for subject in study.subjects]
        file["long_subject_id"] = np.array(names, dtype=h5py.string_dtype())
    return path


def dense_cifti(folder: Path, study: Study, subject: str) -> tuple[Path, Path]:
    """Save a dtseries and the dlabel of the atlas, in another order of grayordinates."""
    signal, index = study.signals[subject], np.array(study.atlas.index)
    size = 40
    left, right = np.arange(0, 20), np.arange(5, 26)
    models = BrainModelAxis.from_surface(left, size, "CortexLeft") + BrainModelAxis.from_surface(
        right, size, "CortexRight"
    )
    roi = np.arange(len(models)) % (N_ROIS + 1)  # the last value is no ROI
    data = np.zeros((len(signal), len(models)), np.float32)
    for column in range(N_ROIS):
        members = np.flatnonzero(roi == column)
        data[:, members] = signal[:, [column]] + np.linspace(-1, 1, len(members))
    series = SeriesAxis(0, study.tr, len(signal))
    dense = folder / f"sub-{subject}_task-rest_space-fsLR_den-91k_bold.dtseries.nii"
    nib.save(nib.Cifti2Image(data, (series, models)), dense)
    order = np.r_[np.arange(len(left), len(models)), np.arange(len(left))]
    turned = BrainModelAxis.from_surface(right, size, "CortexRight") + BrainModelAxis.from_surface(
        left, size, "CortexLeft"
    )
    names = {0: ("???", (0, 0, 0, 0))}
    names |= {
        int(v): (name, (1, 0, 0, 1)) for v, name in zip(index, study.atlas.labels, strict=True)
    }
    values = np.append(index, 0)[roi][order].astype(np.float32)[None]
    labels = folder / "atlas.dlabel.nii"
    nib.save(nib.Cifti2Image(values, (LabelAxis(["atlas"], [names]), turned)), labels)
    return dense, labels


def ptseries(path: Path, study: Study, subject: str) -> Path:
    """Save a parcellated series."""
    signal = study.signals[subject]
    parcels = ParcelsAxis(
        list(study.atlas.labels),
        [np.empty((0, 3), int)] * N_ROIS,
        [{"CIFTI_STRUCTURE_CORTEX_LEFT": np.array([i])} for i in range(N_ROIS)],
        np.eye(4),
        (4, 4, 4),
        {"CIFTI_STRUCTURE_CORTEX_LEFT": 40},
    )
    image = nib.Cifti2Image(
        signal.astype(np.float32), (SeriesAxis(0, study.tr, len(signal)), parcels)
    )
    nib.save(image, path)
    return path


def gifti(folder: Path, study: Study, subject: str) -> tuple[Path, tuple[Path, Path]]:
    """Save a series per hemisphere and the labels of the atlas; odd ROIs are on the right."""
    signal, files, labels = study.signals[subject], [], []
    for side, first in (("L", 0), ("R", 1)):
        columns = list(range(first, N_ROIS, 2))
        roi = np.arange(23 + first) % (len(columns) + 1)
        data = np.zeros((len(roi), len(signal)), np.float32)
        table = nib.gifti.GiftiLabelTable()
        none = nib.gifti.GiftiLabel(0)
        none.label = "???"
        table.labels.append(none)
        for k, column in enumerate(columns):
            members = np.flatnonzero(roi == k + 1)
            data[members] = signal[:, column] + np.linspace(-2, 2, len(members))[:, None]
            label = nib.gifti.GiftiLabel(k + 1)
            label.label = study.atlas.labels[column]
            table.labels.append(label)
        image = nib.gifti.GiftiImage()
        for values in data.T:
            image.add_gifti_data_array(nib.gifti.GiftiDataArray(values, datatype="float32"))
        stem = f"sub-{subject}_task-rest_hemi-{side}_space-fsaverage5"
        nib.save(image, folder / f"{stem}_bold.func.gii")
        files.append(folder / f"{stem}_bold.func.gii")
        atlas = nib.gifti.GiftiImage(labeltable=table)
        atlas.add_gifti_data_array(nib.gifti.GiftiDataArray(roi.astype(np.int32), "label"))
        nib.save(atlas, folder / f"atlas.hemi-{side}.label.gii")
        labels.append(folder / f"atlas.hemi-{side}.label.gii")
    return files[0], (labels[0], labels[1])
