"""Recordings with planted structure, and how well a probe finds it in the embeddings of a model.

Every volume is the pattern of a person, times its trait, plus the pattern of a state that rises
in the course of the scan, plus noise that drifts in many directions and is stronger. The
neighbours of a crop are alike in what the embedding holds most of: the noise, until it learns what
to neglect.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy.signal import lfilter
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from semantoks.atlas.parcellation import Parcellation
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import RecordingStore, write_store
from semantoks.model.encoder import Encoder

N_PEOPLE, N_RUNS, N_TIMES, N_ROIS, N_NOISE = 60, 2, 150, 24, 12
SIZES = {"a": 5, "b": 8, "c": 11}


def planted_store(
    path: Path, trait: float = 1.0, state: float = 1.5, noise: float = 2.0
) -> RecordingStore:
    """Write a store of 60 people with two runs each."""
    rng = np.random.default_rng(5)
    patterns = np.linalg.qr(rng.standard_normal((N_ROIS, N_ROIS)))[0].T * np.sqrt(N_ROIS)
    names = [f"{network}{i}" for network, size in SIZES.items() for i in range(size)]
    recordings = []
    for person in range(N_PEOPLE):
        of_person = rng.standard_normal(3)
        for run in range(N_RUNS):
            drift = lfilter([1], [1, -0.95], rng.standard_normal((N_NOISE, N_TIMES)))
            drift *= noise / drift.std()
            progress = np.linspace(-1, 1, N_TIMES)
            x = rng.standard_normal((N_TIMES, N_ROIS))
            x += trait * of_person @ patterns[:3]
            x += state * progress[:, None] * patterns[3]
            x += drift.T @ patterns[4 : 4 + N_NOISE]
            recordings.append(
                Recording(
                    signal=x,
                    roi_names=names,
                    tr=2.0,
                    subject=f"p{person:02}",
                    run=str(run + 1),
                    phenotypes={"trait": of_person[0]},
                )
            )
    atlas = Parcellation(
        name="planted", labels=tuple(names), networks=tuple(name[0] for name in names)
    )
    plain = Preprocessing(tr=2.0, detrend=False, low_hz=None, high_hz=None, zscore=False)
    write_store(path, recordings, atlas, plain)
    return RecordingStore(path)


@torch.no_grad()
def found(encoder: Encoder, store: RecordingStore, what: str) -> float:
    """Return how well the nearest neighbours tell the trait or the state of people left out.

    Of every recording there are 4 crops; the measure is the correlation over crops.
    """
    length = encoder.config.view_length
    starts = np.linspace(0, N_TIMES - length, 4).astype(int)
    signals = [store.signal(i) for i in range(len(store.table))]
    crops = np.stack([x[start : start + length].T for x in signals for start in starts])
    z = encoder.eval()(torch.from_numpy(crops).float()).cls_avg.numpy()
    person = np.repeat(store.table["subject"].to_numpy(), 4)
    trait = np.repeat(store.table["trait"].to_numpy(float), 4)
    y = {"trait": trait, "state": np.tile(starts, len(signals)).astype(float)}[what]
    model = make_pipeline(StandardScaler(), KNeighborsRegressor(10, metric="cosine"))
    predicted = cross_val_predict(model, z, y, groups=person, cv=GroupKFold(3))
    return float(np.corrcoef(predicted, y)[0, 1])
