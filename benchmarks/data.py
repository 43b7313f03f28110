"""Data path on one core: read, crop, cast, augment, mask, collate, two views of every recording.

python -m benchmarks.data
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.common import Line, encoder_for, show, side_by_side, use_threads
from benchmarks.pretrain import step
from benchmarks.steps import KINDS, NETWORK_WEIGHT, some_batch
from semantoks.data.mixture import StoreMixture
from semantoks.data.recording import Recording
from semantoks.data.store import RecordingStore, write_store
from semantoks.train.run import RunConfig
from semantoks.views.loader import ViewLoader

GOAL, SHARE_GOAL = 1500.0, 0.05
N_RECORDINGS, N_TIMES, FAST_TR = 512, 240, 0.8


def make_store(folder: Path, tr: float = 2.0, n_recordings: int = N_RECORDINGS) -> RecordingStore:
    """Write recordings of noise on the paper's 457 ROIs, of one duration whatever the TR."""
    encoder = encoder_for(RunConfig.preset("tiny"))
    parcellation, preprocessing = encoder.channels, replace(encoder.preprocessing, tr=tr)
    rng, n_times = np.random.default_rng(0), int(2 * N_TIMES / tr)
    recordings = (
        Recording(
            signal=rng.standard_normal((n_times, len(parcellation)), dtype=np.float32),
            roi_names=parcellation.labels,
            tr=tr,
            subject=f"s{i:04d}",
            source=f"recording {i}",
        )
        for i in range(n_recordings)
    )
    write_store(folder, recordings, parcellation, preprocessing)
    return RecordingStore(folder)


def make_loader(store: RecordingStore, config: RunConfig, batch_size: int) -> ViewLoader:
    """Return the loader that `Trainer` would use."""
    encoder = encoder_for(config)
    return ViewLoader(
        store,
        encoder.rows,
        patch_length=config.encoder.patch_length,
        n_patches=config.encoder.n_patches,
        batch_size=batch_size,
        crops=config.views.crops,
        augmentation=config.views.augment,
        masks=config.views.masks,
        seed=0,
        device=torch.device("cpu"),
    )


def measure(batch_size: int, repeats: int) -> list[Line]:
    config = RunConfig.preset("small")
    with TemporaryDirectory() as folder:
        store = make_store(Path(folder) / "store")
        loader = make_loader(store, config, batch_size)
        steps = iter(range(10**9))
        ours = step("bfloat16", config)
        runs = {"data": lambda: loader.batch(next(steps))}
        for masked, network in KINDS:
            batch = some_batch(config, batch_size, masked=masked)
            weight = NETWORK_WEIGHT if network else 0.0
            runs[f"{masked}{network}"] = lambda b=batch, w=weight: ours(b, w, 0.99)
        seconds = side_by_side(runs, repeats)
        length = config.encoder.view_length
        recordings = loader.recordings(0)
        starts = np.zeros((2, len(recordings)), np.int64)
        fast = make_store(Path(folder) / "fast", tr=FAST_TR, n_recordings=batch_size)
        mixture = StoreMixture([store, fast])
        rows = len(store) + np.arange(batch_size)
        middle = np.full((2, batch_size), N_TIMES // 3)
        read = side_by_side(
            {
                "read": lambda: store.gather(recordings, starts, length),
                "resampled": lambda: mixture.gather(rows, middle, length),
            },
            repeats,
        )
    rate = batch_size / seconds["data"]
    of_step = sum(share * seconds[f"{m}{n}"] for (m, n), share in KINDS.items())
    share = seconds["data"] / (seconds["data"] + of_step)
    return [
        Line(
            f"data path, batch {batch_size}",
            f">= {GOAL:g} samples/s",
            f"{rate:.0f} samples/s",
            round(rate / GOAL, 2),
            rate >= GOAL,
        ),
        Line(
            "data path, share of a bfloat16 step, small",
            f"<= {SHARE_GOAL:.0%}",
            f"{share:.1%}",
            None,
            share <= SHARE_GOAL,
        ),
        Line(
            f"raw reads, batch {batch_size}",
            "",
            f"{2 * len(recordings) / read['read']:.0f} crops/s",
            None,
            None,
        ),
        Line(
            f"reads of a store at {FAST_TR:g} s, resampled, batch {batch_size}",
            "",
            f"{2 * batch_size / read['resampled']:.0f} crops/s",
            None,
            None,
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    use_threads(1)
    show(measure(options.batch_size, options.repeats))


if __name__ == "__main__":
    main()
