"""Figures of the report: pure functions from data to a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

# Okabe and Ito's colours, told apart by colour-blind readers too.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#B5A900", "#555555")
INK, FAINT = "#222222", "#8a8a8a"


def _axes(figure: Figure, *places: int) -> Axes:
    axes = figure.add_subplot(*places)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=8)
    return axes


def training_curves(metrics: pd.DataFrame) -> Figure:
    """Draw loss terms, learning rate and gradient norm over epochs.

    Parameters
    ----------
    metrics : DataFrame
        The lines of a run's metrics.jsonl.
    """
    figure = Figure(figsize=(9.6, 2.7), layout="constrained")
    loss, rate, norm = (_axes(figure, 1, 3, i) for i in (1, 2, 3))
    names = {"loss_cls": "CLS", "loss_network": "network (TTR)", "loss_mask": "mask"}
    for (column, label), color in zip(names.items(), PALETTE, strict=False):
        # A term that a step does not compute is logged as zero: leave it out of its curve.
        shown = metrics[metrics[column] != 0]
        loss.plot(shown["epoch"], shown[column], ".-", ms=3, color=color, label=label, lw=1.2)
    loss.set_title("loss terms (before their weights)", fontsize=9)
    loss.legend(fontsize=7, frameon=False)
    rate.plot(metrics["epoch"], metrics["lr"], color=PALETTE[0], lw=1.4)
    rate.set_title("learning rate", fontsize=9)
    rate.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    rate.yaxis.get_offset_text().set_fontsize(7)
    norm.plot(metrics["epoch"], metrics["grad_norm"], color=PALETTE[0], lw=1.0)
    norm.set_yscale("log")
    norm.set_title("norm of the gradient (before clipping)", fontsize=9)
    for axes in (loss, rate, norm):
        axes.set_xlabel("epoch", fontsize=8)
    return figure


def collapse_monitors(metrics: pd.DataFrame) -> Figure:
    """Draw effective rank and mean cosine of the teacher's embeddings over epochs.

    Parameters
    ----------
    metrics : DataFrame
    """
    figure = Figure(figsize=(9.6, 2.4), layout="constrained")
    for i, (column, title) in enumerate(
        {
            "effective_rank": "effective rank of a batch's embeddings",
            "mean_cosine": "mean cosine between recordings",
        }.items()
    ):
        axes = _axes(figure, 1, 2, i + 1)
        axes.plot(metrics["epoch"], metrics[column], color=PALETTE[i], lw=1.4)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("epoch", fontsize=8)
    figure.axes[0].set_ylim(bottom=0)
    figure.axes[1].set_ylim(min(0.0, float(metrics["mean_cosine"].min())), 1.02)
    return figure


def score_intervals(rows: pd.DataFrame, chance: float | None) -> Figure:
    """Draw one metric of several models as dots with their intervals.

    Parameters
    ----------
    rows : DataFrame
        Columns model, metric, value, ci_low, ci_high; one row per model, the first on top.
    chance : float, optional
        Drawn as a dashed line.
    """
    figure = Figure(figsize=(6.4, 0.55 + 0.32 * len(rows)), layout="constrained")
    axes = _axes(figure, 1, 1, 1)
    places = np.arange(len(rows))[::-1]
    value = rows["value"].to_numpy(float)
    for y, x, low, high, color in zip(
        places, value, rows["ci_low"], rows["ci_high"], _model_colors(len(rows)), strict=True
    ):
        axes.plot([low, high], [y, y], color=color, lw=2.2, solid_capstyle="round")
        axes.plot(x, y, "o", color=color, ms=6)
    if chance is not None:
        axes.axvline(chance, color=FAINT, ls="--", lw=1)
        axes.annotate(
            "chance", (chance, 1.0), xycoords=("data", "axes fraction"), fontsize=7, color=FAINT,
            ha="center", va="bottom",
        )  # fmt: skip
    axes.set_yticks(places, [str(m) for m in rows["model"]], fontsize=8)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(str(rows["metric"].iloc[0]), fontsize=8)
    axes.grid(axis="x", color="#e8e8e8", lw=0.8)
    axes.set_axisbelow(True)
    return figure


def _model_colors(n: int) -> list[str]:
    return [PALETTE[i % len(PALETTE)] for i in range(n)]


def embedding_map(
    points: NDArray[np.floating],
    shares: Sequence[float],
    colorings: Mapping[str, pd.Series],
) -> Figure:
    """Draw embeddings in two dimensions, once per colouring.

    Parameters
    ----------
    points : array of shape (n, 2)
    shares : (float, float)
        Shares of the variance that the two axes explain.
    colorings : mapping of str to Series of length n
        Text is coloured by value, numbers by a colour bar; unknown values are grey.
    """
    n_columns = 2 if len(colorings) in (2, 4) else min(len(colorings), 3)
    n_rows = -(-len(colorings) // n_columns)
    figure = Figure(figsize=(3.2 * n_columns, 3.3 * n_rows), layout="constrained")
    for i, (name, values) in enumerate(colorings.items()):
        axes = _axes(figure, n_rows, n_columns, i + 1)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel(f"PC 1 ({shares[0]:.0%})", fontsize=8)
        axes.set_ylabel(f"PC 2 ({shares[1]:.0%})", fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
        _scatter(axes, points, values.reset_index(drop=True))
    return figure


def _scatter(axes: Axes, points: NDArray[np.floating], values: pd.Series) -> None:
    unknown = values.isna().to_numpy(bool)
    style: dict[str, Any] = {"s": 14, "alpha": 0.8, "linewidths": 0}
    axes.scatter(*points[unknown].T, color="#cccccc", **style)
    if pd.api.types.is_numeric_dtype(values) and values.dtype != bool:
        x, y = points[~unknown].T
        drawn = axes.scatter(x, y, c=values[~unknown].to_numpy(float), cmap="viridis", **style)
        bar = axes.figure.colorbar(drawn, ax=axes, shrink=0.8)
        bar.ax.tick_params(labelsize=7)
        return
    kinds = sorted(set(values[~unknown].astype(str)))
    for kind, color in zip(kinds, PALETTE * (len(kinds) // len(PALETTE) + 1), strict=False):
        mine = (values.astype(str) == kind).to_numpy() & ~unknown
        axes.scatter(*points[mine].T, color=color, label=_short(kind), **style)
    if len(kinds) <= 12:
        axes.legend(
            fontsize=7,
            frameon=False,
            handletextpad=0.1,
            columnspacing=0.8,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.08),
            ncols=4,
        )


def _short(text: str) -> str:
    # A dollar sign would start a formula.
    return (text if len(text) <= 24 else f"{text[:23]}…").replace("$", r"\$")
