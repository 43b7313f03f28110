"""Pictures of the method, drawn by the package's own code from a recording of the ABIDE sample.

The build of the site draws them. The picture of the README holds scores of `semantoks demo demo`:

    python docs/_ext/pictures.py demo docs/overview.png
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from semantoks import Encoder, EncoderConfig, Parcellation, Preprocessing, Recording, RunConfig
from semantoks.datasets import load_abide_sample
from semantoks.explain.filters import network_filters
from semantoks.figures.brain import filter_figure
from semantoks.figures.style import GRID, INK, PALETTE, SOFT
from semantoks.model.spectral import spectral_connectivity
from semantoks.views.masks import MASKS, MaskConfig, draw_masks

PATCH, N_PATCHES = 20, 5


def example() -> tuple[Recording, Parcellation]:
    """Return the recording that is drawn, and its parcellation."""
    recording = next(r for r in load_abide_sample() if r.site == "YALE")
    return recording, Parcellation.load("cc200")


def order(atlas: Parcellation) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the ROIs by network, the borders between networks, and the networks' names."""
    groups = atlas.network_indices
    borders = np.cumsum([0, *map(len, groups)])
    return np.concatenate(groups), borders, [*atlas.network_names]


def bare(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9, loc="left", color=INK)
    axes.tick_params(length=0, labelsize=8, labelcolor=SOFT)
    axes.spines[:].set_visible(False)


def label_networks(axes: Axes, borders: np.ndarray, names: list[str]) -> None:
    axes.set_yticks((borders[1:] + borders[:-1]) / 2 - 0.5, names)
    for border in borders[1:-1]:
        axes.axhline(border - 0.5, color="white", lw=1)


def carpet(recording: Recording, atlas: Parcellation) -> Figure:
    """Draw the signals by network, and the patches of one view."""
    rois, borders, names = order(atlas)
    x = Preprocessing().apply(recording.signal, recording.tr)[:, rois].T
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(x, aspect="auto", cmap="gray", vmin=-2.5, vmax=2.5, interpolation="none")
    label_networks(axes, borders, names)
    start = 10
    for patch in range(N_PATCHES + 1):
        axes.axvline(start + PATCH * patch - 0.5, color=PALETTE[1], lw=1.5)
    axes.set_xlabel("volumes of 2 s", fontsize=8, color=SOFT)
    bare(axes, f"One view: {len(names)} networks, {N_PATCHES} patches of {PATCH} volumes")
    return figure


def masks(n_networks: int) -> Figure:
    """Draw what every kind of mask hides."""
    kinds = [kind for kind in MASKS if kind != "slice"]
    figure = Figure(figsize=(8, 2.4), layout="constrained")
    colours = ListedColormap([GRID, PALETTE[0]])
    for i, kind in enumerate(kinds):
        axes = figure.add_subplot(1, len(kinds), i + 1)
        drawn = draw_masks(
            1,
            n_networks,
            N_PATCHES,
            MaskConfig(kind=kind, frequency=1),
            torch.Generator().manual_seed(1),
        )
        axes.imshow(drawn[0].numpy(), cmap=colours, aspect="auto", vmin=0, vmax=1)
        axes.set_xticks(np.arange(N_PATCHES - 1) + 0.5, [""] * (N_PATCHES - 1))
        axes.set_yticks(np.arange(n_networks - 1) + 0.5, [""] * (n_networks - 1))
        axes.grid(color="white", lw=1.5)
        axes.set_ylabel("networks" if i == 0 else "", fontsize=8, color=SOFT)
        axes.set_xlabel("patches", fontsize=8, color=SOFT)
        bare(axes, kind)
    return figure


def connections(recording: Recording, atlas: Parcellation) -> Figure:
    """Draw the correlations of a recording beside log(I + b R)."""
    rois, borders, names = order(atlas)
    x = Preprocessing().apply(recording.signal, recording.tr)[:, rois]
    e = spectral_connectivity(torch.as_tensor(x.T[None]), "log", 2 / 3)[0].numpy()
    figure = Figure(figsize=(8, 3.9), layout="constrained")
    for i, (matrix, title) in enumerate(
        ((np.corrcoef(x.T), "R, correlations"), (e, "E = log(I + b R)"))
    ):
        axes = figure.add_subplot(1, 2, i + 1)
        limit = np.quantile(abs(matrix[~np.eye(len(matrix), dtype=bool)]), 0.99)
        axes.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="none")
        label_networks(axes, borders, names if i == 0 else [""] * len(names))
        for border in borders[1:-1]:
            axes.axvline(border - 0.5, color="white", lw=1)
        axes.set_xticks([])
        bare(axes, title)
    return figure


def filters(atlas: Parcellation) -> Figure:
    """Draw the long convolution's filters as they are before training."""
    paper = RunConfig.preset("paper").encoder
    config = EncoderConfig(width=96, depth=1, head_width=32, branches=paper.branches)
    encoder = Encoder.random(config, atlas, Preprocessing(), seed=0)
    return filter_figure(network_filters(encoder), (0.01, 0.1))


def overview(recording: Recording, atlas: Parcellation, scores: pd.DataFrame) -> Figure:
    """Draw what comes in, what the model reads, and what it predicts beside its controls.

    Parameters
    ----------
    recording : Recording
    atlas : Parcellation
    scores : DataFrame
        ``result/comparison/scores.parquet`` of `semantoks demo`.
    """
    rois, borders, names = order(atlas)
    x = Preprocessing().apply(recording.signal, recording.tr)[:, rois]
    e = spectral_connectivity(torch.as_tensor(x.T[None]), "log", 2 / 3)[0].numpy()
    figure = Figure(figsize=(11, 3.5), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.25, 1, 1.05))
    left.imshow(x.T, aspect="auto", cmap="gray", vmin=-2.5, vmax=2.5, interpolation="none")
    label_networks(left, borders, names)
    left.set_xlabel("time, volumes of 2 s", fontsize=8, color=SOFT)
    bare(left, "1  A recording: 200 regions in 9 networks")
    limit = np.quantile(abs(e[~np.eye(len(e), dtype=bool)]), 0.99)
    middle.imshow(e, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="none")
    label_networks(middle, borders, [""] * len(names))
    for border in borders[1:-1]:
        middle.axvline(border - 0.5, color="white", lw=1)
    middle.set_xticks([])
    bare(middle, "2  Its connections, one token per network")
    rows = scores[(scores["target"] == "diagnosis") & (scores["metric"] == "AUROC")]
    controls = ("connectivity", "spectral connectivity", "random weights (connectome-base)")
    rows = rows.set_index("model").loc[["chance", *controls, "connectome-base"]]
    heights = np.arange(len(rows))
    colours = [SOFT, PALETTE[1], PALETTE[3], PALETTE[2], PALETTE[0]]
    right.hlines(heights[1:], rows["ci_low"][1:], rows["ci_high"][1:], color=colours[1:], lw=3)
    right.scatter(rows["value"], heights, color=colours, s=40, zorder=3)
    right.set_yticks(heights, [n.replace(" (connectome-base)", "") for n in rows.index])
    right.axvline(0.5, color=GRID, zorder=0)
    right.set_xlabel("AUROC, 95 % interval", fontsize=8, color=SOFT)
    bare(right, "3  Autism or control, 4 sites never seen")
    return figure


def draw(folder: Path) -> None:
    """Write every picture that does not exist."""
    folder.mkdir(exist_ok=True)
    recording, atlas = example()
    pictures: dict[str, Callable[[], Figure]] = {
        "carpet": lambda: carpet(recording, atlas),
        "masks": lambda: masks(len(atlas.network_names)),
        "connections": lambda: connections(recording, atlas),
        "filters": lambda: filters(atlas),
    }
    for name, picture in pictures.items():
        file = folder / f"{name}.png"
        if not file.is_file():
            picture().savefig(file, dpi=160)


def setup(app):
    """Draw before the pages are read."""
    app.connect("builder-inited", lambda app: draw(Path(app.srcdir) / "pictures"))
    return {"parallel_read_safe": True}


if __name__ == "__main__":
    demo, out = map(Path, sys.argv[1:])
    found = pd.read_parquet(demo / "result" / "comparison" / "scores.parquet")
    overview(*example(), found).savefig(out, dpi=110)
