"""The same loss curve: 200 steps of the plain float32 step and of ours, on the same views.

    python -m benchmarks.curve --size tiny --plot docs/results/loss_curve.png [--store stores/mine]

The yardstick is the plain step with other seeds for weights and views: ours in bfloat16 has to stay
closer to the plain run of its own seed than runs of different seeds are to each other.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.common import Line, show, use_threads
from benchmarks.data import make_store
from benchmarks.plain import PlainStep
from benchmarks.steps import OurStep
from semantoks.data.store import RecordingStore
from semantoks.model.encoder import Encoder
from semantoks.objectives.distillation import SelfDistillation
from semantoks.train.run import RunConfig
from semantoks.views.loader import ViewLoader

N_STEPS, BATCH, LR, SMOOTH = 200, 32, 5e-4, 20


def losses(name: str, config: RunConfig, store: RecordingStore, seed: int) -> Iterator[float]:
    encoder = Encoder.random(config.encoder, store.parcellation, store.preprocessing, seed=seed)
    loader = ViewLoader(
        store,
        encoder.rows,
        patch_length=config.encoder.patch_length,
        n_patches=config.encoder.n_patches,
        batch_size=BATCH,
        crops=config.views.crops,
        augmentation=config.views.augment,
        masks=config.views.masks,
        seed=seed,
        device=torch.device("cpu"),
    )
    torch.manual_seed(seed)
    method = SelfDistillation(encoder, config.objective).train()
    step: PlainStep | OurStep
    if name == "plain":
        step = PlainStep(method, LR, 0.05)
    else:
        step = OurStep(method, LR, 0.05, bfloat16=name == "bfloat16")
    for i in range(N_STEPS):
        # L_mask comes and goes with the coin of the step; the other two are always there.
        found = step(loader.batch(i), 0.25, 0.99)
        yield float((found.cls + 0.25 * found.network).detach())


def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.convolve(values, np.ones(SMOOTH) / SMOOTH, mode="valid")


def plot(curves: dict[str, NDArray[np.float64]], file: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    ax: Any = figure.subplots()
    styles = {
        "plain, seed 0": ("#222222", "-", 2.0),
        "float32, seed 0": ("#2a9d8f", "--", 1.6),
        "bfloat16, seed 0": ("#d1495b", ":", 2.2),
    }
    for name, values in curves.items():
        colour, line, width = styles.get(name, ("#b8b8b8", "-", 1.0))
        ax.plot(np.arange(len(values)) + SMOOTH, values, line, color=colour, lw=width, label=name)
    ax.set_xlabel("step")
    ax.set_ylabel(f"L_cls + 0.25 L_net, mean of {SMOOTH} steps")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="tiny", choices=["small", "tiny"])
    parser.add_argument("--store", help="a store of recordings; noise without one")
    parser.add_argument("--plot", help="file of the figure")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    use_threads(options.threads)
    config = RunConfig.preset(options.size)
    runs = [("plain", 0), ("float32", 0), ("bfloat16", 0), ("plain", 1), ("plain", 2)]
    with TemporaryDirectory() as folder:
        store = RecordingStore(options.store) if options.store else make_store(Path(folder) / "s")
        curves = {
            f"{name}, seed {seed}": smooth(np.array(list(losses(name, config, store, seed))))
            for name, seed in runs
        }
    if options.plot:
        plot(curves, options.plot)
    own = curves["plain, seed 0"]
    gaps = {name: float(np.abs(values - own).mean()) for name, values in curves.items()}
    between_seeds = min(gaps["plain, seed 1"], gaps["plain, seed 2"])
    show(
        [
            Line(
                f"loss curve of {N_STEPS} steps, {options.size}, {name}: distance to plain",
                f"< {between_seeds:.4f} (between seeds)",
                f"{gaps[f'{name}, seed 0']:.5f}",
                None,
                gaps[f"{name}, seed 0"] < between_seeds,
            )
            for name in ("float32", "bfloat16")
        ]
    )


if __name__ == "__main__":
    main()
