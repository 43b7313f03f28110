"""
Task fMRI and trials
====================

A trial is a stretch of a recording. ``RecordingStore.trials`` turns a table of events, as BIDS has
it, into a store with one row per trial, on the same files; everything that reads a store reads it.
"""

# %%
# Made-up task data, so that the answer is known: in blocks of the condition "go", one ROI follows
# another. Two conditions alternate every 80 s.

from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pandas as pd

from semantoks import Parcellation, Preprocessing, Recording
from semantoks.data.store import write_store

atlas = Parcellation.load("schaefer100")
rng = np.random.default_rng(0)
recordings = []
for subject in range(12):
    signal = rng.standard_normal((320, len(atlas)))
    for start in range(0, 320, 80):  # volumes; the first half of each 160 s is "go"
        signal[start : start + 40, 1] = (
            signal[start : start + 40, 0] + 0.7 * signal[start : start + 40, 1]
        )
    recordings.append(
        Recording(
            signal=signal,
            roi_names=atlas.labels,
            tr=2.0,
            subject=f"{subject + 1:02}",
            task="blocks",
        )
    )
work = Path(mkdtemp())
store = write_store(work / "store", recordings, atlas, Preprocessing(high_hz=None))

# %%
# Events
# ------
# Onset and duration in seconds from the start of the acquisition. ``delay`` shifts onsets by the
# lag of the haemodynamic response; these signals have none.

events = pd.DataFrame(
    [
        {"id": name, "onset": onset, "duration": 80.0, "trial_type": kind}
        for name in store.table["id"]
        for onset, kind in zip(range(0, 640, 80), ("go", "rest") * 4, strict=True)
    ]
)
trials = store.trials(events, delay=0.0)
trials.table[["id", "subject", "trial_type", "start", "length"]].head(4)

# %%
# Predict the condition
# ---------------------
# Trials of one subject stay together: ``groups`` keeps a person out of both parts.

from sklearn.model_selection import GroupKFold, cross_val_score

from semantoks import ConnectivityBaseline, LinearProbe

X = ConnectivityBaseline().fit_transform(trials)
y, groups = trials.table["trial_type"] == "go", trials.table["subject"]
auroc = cross_val_score(
    LinearProbe(), X, y, groups=groups, cv=GroupKFold(4), scoring="roc_auc"
).mean()
print(f"{len(trials)} trials of {groups.nunique()} people: AUROC {auroc:.2f}")

# %%
# What is not within its recording is refused:

from semantoks import InputError

try:
    store.trials(events.assign(onset=events["onset"] + 600))
except InputError as error:
    print(str(error).replace(str(work), "..."))
