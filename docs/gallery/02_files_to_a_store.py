"""
From fMRIPrep and XCP-D to a store
==================================

A store is one folder with the signals of one parcellation and one TR, checked, preprocessed, with a
table of recordings. This tutorial makes two tiny folders of derivatives by code and reads them as
``semantoks prepare`` does. With real derivatives you need the last lines of each section only.
"""

# %%
# A folder of XCP-D
# -----------------
# Two people, time series of the 200 ROIs of CC200, with names, motion and TR as XCP-D
# writes them. The signals come from the ABIDE sample.

import json
from pathlib import Path
from tempfile import mkdtemp

import nibabel as nib
import numpy as np
import pandas as pd

from semantoks import Parcellation
from semantoks.datasets import load_abide_sample

work = Path(mkdtemp())
people = [r for r in load_abide_sample() if r.site == "YALE"][:2]
atlas = Parcellation.load("cc200")

xcpd = work / "xcp_d"
for person in people:
    func = xcpd / f"sub-{person.subject}" / "func"
    func.mkdir(parents=True)
    stem = f"{func}/sub-{person.subject}_task-rest"
    frame = pd.DataFrame(person.signal, columns=list(atlas.labels))
    series = f"{stem}_space-MNI152NLin6Asym_seg-CC200_stat-mean_timeseries"
    frame.to_csv(f"{series}.tsv", sep="\t", index=False)
    Path(f"{series}.json").write_text(json.dumps({"RepetitionTime": 2.0}))
    motion = pd.DataFrame({"framewise_displacement": np.full(len(frame), 0.12)})
    motion.to_csv(f"{stem}_motion.tsv", sep="\t", index=False)
participants = pd.DataFrame(
    {
        "participant_id": [f"sub-{person.subject}" for person in people],
        "age": [person.phenotypes["age"] for person in people],
    }
)
participants.to_csv(xcpd / "participants.tsv", sep="\t", index=False)
sorted(str(p.relative_to(xcpd)) for p in xcpd.rglob("*.tsv"))

# %%
# On the command line: ``semantoks prepare xcp_d stores/xcpd --atlas cc200``. In Python:

from semantoks import Reading, RecordingStore, prepare_store

report = prepare_store(str(xcpd), work / "stores" / "xcpd", reading=Reading(atlas=atlas))
report.quality[["id", "status", "minutes", "mean_fd"]]

# %%
# ROIs are identified by name, the TR by metadata, phenotypes by subject. The store is plain: a
# table, and arrays that are read as they are needed.

store = RecordingStore(work / "stores" / "xcpd")
store.table[["id", "subject", "task", "length", "mean_fd", "age"]]

# %%
store.signal(0).shape, store.tr, len(store.parcellation)

# %%
# A folder of fMRIPrep
# --------------------
# Images need the image of an atlas and a strategy for the confounds. This atlas has three cubes; a
# table gives its ROIs names and networks.

affine = np.diag([4.0, 4.0, 4.0, 1.0])
values = np.zeros((8, 8, 8), np.int16)
values[1:3, 1:3, 1:3], values[4:6, 1:3, 1:3], values[1:3, 5:7, 4:6] = 1, 2, 3
nib.save(nib.Nifti1Image(values, affine), work / "cubes.nii.gz")
table = pd.DataFrame(
    {
        "index": [1, 2, 3],
        "label": ["Vis_1", "Default_1", "Default_2"],
        "network": ["Vis", "Default", "Default"],
    }
)
table.to_csv(work / "cubes.tsv", sep="\t", index=False)

rng = np.random.default_rng(0)
func = work / "fmriprep" / "sub-01" / "func"
func.mkdir(parents=True)
stem = f"{func}/sub-01_task-rest"
signal = rng.standard_normal((200, 3)).cumsum(axis=0)
bold = 1000 + rng.standard_normal((8, 8, 8, 200)).astype(np.float32)
for roi in range(3):
    bold[values == roi + 1] += signal[:, roi].astype(np.float32)
image = nib.Nifti1Image(bold, affine)
image.header.set_zooms((4, 4, 4, 2.0))
image.header.set_xyzt_units("mm", "sec")
nib.save(image, f"{stem}_space-MNI152NLin6Asym_desc-preproc_bold.nii.gz")
Path(f"{stem}_space-MNI152NLin6Asym_desc-preproc_bold.json").write_text('{"RepetitionTime": 2.0}')
mask = nib.Nifti1Image(np.ones((8, 8, 8), np.uint8), affine)
nib.save(mask, f"{stem}_space-MNI152NLin6Asym_desc-brain_mask.nii.gz")

# %%
# The confounds are those that fMRIPrep writes: motion, tissue signals, cosines, and what each
# strategy of nilearn needs.

confounds = pd.DataFrame({"framewise_displacement": np.full(200, 0.1)})
for name in ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z", "white_matter", "csf"):
    walk = rng.standard_normal(200).cumsum()
    step = np.diff(walk, prepend=walk[0])
    confounds[name], confounds[f"{name}_derivative1"] = walk, step
    confounds[f"{name}_power2"], confounds[f"{name}_derivative1_power2"] = walk**2, step**2
confounds["cosine00"] = np.cos(np.pi * (np.arange(200) + 0.5) / 200)
confounds.to_csv(f"{stem}_desc-confounds_timeseries.tsv", sep="\t", index=False)
Path(f"{stem}_desc-confounds_timeseries.json").write_text("{}")

# %%
# ``semantoks prepare fmriprep stores/fmriprep --atlas cubes.tsv --atlas-image cubes.nii.gz``:

reading = Reading(
    atlas=Parcellation.load(work / "cubes.tsv"), atlas_images=(work / "cubes.nii.gz",)
)
report = prepare_store(str(work / "fmriprep"), work / "stores" / "fmriprep", reading=reading)
report.quality[["id", "status", "minutes", "mean_fd", "tsnr"]]

# %%
for remark in report.remarks:
    print("-", remark)

# %%
# What is missing is refused
# --------------------------
# Without a JSON file that states the TR, nothing is assumed:

from semantoks import InputError

for sidecar in xcpd.rglob("*timeseries.json"):
    sidecar.unlink()
try:
    prepare_store(str(xcpd), work / "stores" / "no-tr", reading=Reading(atlas=atlas))
except InputError as error:
    print(str(error).replace(str(work), "..."))

# %%
# :doc:`/preparing` has all sources, the options, and what is done to the signals.
