"""Figures of the report: pure functions from data to a matplotlib figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from semantoks.figures.style import FAINT, INK, PALETTE, SOFT, UNKNOWN, panel_axes, short
from semantoks.train.logs import TERM

#: Marker and colour of the controls; models take theirs from the palette.
_CONTROLS = {"random": ("o", SOFT), "connectivity": ("s", INK), "chance": ("D", FAINT)}
_PANEL = (3.6, 2.3)  # inches; panels stand in a grid that a narrow screen makes one column


# -- scores ----------------------------------------------------------------------------------------


def score_intervals(rows: pd.DataFrame, level: tuple[float, str] | None) -> Figure:
    """Draw one metric of several models as dots with their intervals.

    Parameters
    ----------
    rows : DataFrame
        Columns model, role (model, random, connectivity, chance), metric, value, ci_low, ci_high;
        one row per model, the first on top.
    level : (float, str), optional
        Score at chance and its name, drawn as a dashed line.
    """
    figure = Figure(figsize=(4.8, 0.75 + 0.27 * len(rows)), layout="constrained")
    axes = panel_axes(figure)
    places = np.arange(len(rows))[::-1]
    if level is not None:
        axes.axvline(level[0], color=FAINT, ls=(0, (4, 3)), lw=1.2)
        at = (level[0], 1.0)
        style: dict[str, Any] = {"fontsize": 8, "color": SOFT, "ha": "center", "va": "bottom"}
        axes.annotate(level[1], at, xycoords=("data", "axes fraction"), **style)
    for y, row, color in zip(places, rows.to_dict("records"), _colors(rows["role"]), strict=True):
        marker, _ = _CONTROLS.get(row["role"], ("o", ""))
        hollow = row["role"] in ("random", "chance")
        axes.plot([row["ci_low"], row["ci_high"]], [y, y], color=color, lw=2.4)
        axes.plot(row["value"], y, marker, color=color, mfc="white" if hollow else color, ms=6.5)
    axes.set_yticks(places, [short(str(m)) for m in rows["model"]], parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel(str(rows["metric"].iloc[0]), fontsize=9, color=INK)
    axes.grid(False, axis="y")
    return figure


def _colors(roles: pd.Series) -> list[str]:
    models = iter(PALETTE * (len(roles) // len(PALETTE) + 1))
    return [_CONTROLS[r][1] if r in _CONTROLS else next(models) for r in roles]


# -- training --------------------------------------------------------------------------------------


def loss_terms(metrics: pd.DataFrame) -> Figure:
    """Draw the terms of the loss over epochs.

    Parameters
    ----------
    metrics : DataFrame
        The lines of a run's metrics.jsonl.
    """
    figure = Figure(figsize=_PANEL, layout="constrained")
    axes = panel_axes(figure, "loss terms, before their weights")
    columns = [str(column) for column in metrics if str(column).startswith(TERM)]
    for column, color in zip(columns, PALETTE, strict=False):
        label = column.removeprefix(TERM)
        # A term that a step does not compute is logged as zero: leave it out of its curve.
        shown = metrics[metrics[column] != 0]
        if len(shown):
            axes.plot(
                shown["epoch"],
                shown[column],
                ".-",
                ms=3,
                color=color,
                label=label,
                lw=1.4,
            )
    axes.set_xlabel("epoch", fontsize=9, color=INK)
    if axes.lines:
        figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=3)
    return figure


def curve(
    metrics: pd.DataFrame,
    column: str,
    title: str,
    *,
    log: bool = False,
    limits: tuple[float | None, float | None] = (None, None),
    bound: float | None = None,
) -> Figure:
    """Draw one column of the metrics over epochs.

    Parameters
    ----------
    metrics : DataFrame
    column, title : str
    log : bool
        Logarithmic axis.
    limits : (float or None, float or None)
        Of the axis.
    bound : float, optional
        The largest value possible, drawn as a dashed line.
    """
    figure = Figure(figsize=_PANEL, layout="constrained")
    axes = panel_axes(figure, title)
    axes.plot(metrics["epoch"], metrics[column], ".-", ms=3, color=PALETTE[0], lw=1.4)
    if bound is not None:
        axes.axhline(bound, color=FAINT, ls=(0, (4, 3)), lw=1.2)
    if log and (metrics[column] > 0).all():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.ticklabel_format(axis="y", scilimits=(-3, 4))
        axes.yaxis.get_offset_text().set_fontsize(8)
    axes.set_ylim(*limits)
    axes.set_xlabel("epoch", fontsize=9, color=INK)
    return figure


# -- embeddings ------------------------------------------------------------------------------------


def embedding_map(
    points: NDArray[np.floating], shares: Sequence[float], title: str, values: pd.Series
) -> Figure:
    """Draw embeddings in two dimensions, coloured by one column.

    Parameters
    ----------
    points : array of shape (n, 2)
    shares : (float, float)
        Shares of the variance that the two axes explain.
    title : str
    values : Series of length n
        Text is coloured by value, numbers by a colour bar; unknown values are grey.
    """
    figure = Figure(figsize=(3.4, 3.5), layout="constrained")
    axes = panel_axes(figure, title)
    axes.set_xlabel(f"PC 1, {shares[0]:.0%} of the variance", fontsize=9, color=INK)
    axes.set_ylabel(f"PC 2, {shares[1]:.0%}", fontsize=9, color=INK)
    axes.set_xticks([])
    axes.set_yticks([])
    order = np.random.default_rng(0).permutation(len(points))  # no group hides another
    points, values = points[order], values.iloc[order]
    if pd.api.types.is_numeric_dtype(values) and values.dtype != bool:
        _draw_numbers(figure, axes, points, values.to_numpy(float, na_value=np.nan))
    else:
        _draw_groups(figure, axes, points, values)
    return figure


def _dots(n: int) -> dict[str, Any]:
    # Thousands of vector dots would make a page of many megabytes.
    return {"s": 22 if n < 500 else 9, "linewidths": 0.4, "edgecolors": "white", "alpha": 0.9,
            "rasterized": n > 2000}  # fmt: skip


def _draw_numbers(
    figure: Figure, axes: Axes, points: NDArray[np.floating], values: NDArray[np.float64]
) -> None:
    known = np.isfinite(values)
    axes.scatter(*points[~known].T, color=UNKNOWN, **_dots(len(points)))
    if not known.any():
        return
    low, high = np.quantile(values[known], [0.02, 0.98])  # one extreme must not take all colours
    style = _dots(len(points)) | {"edgecolors": SOFT, "linewidths": 0.2}
    x, y = points[known].T
    drawn = axes.scatter(x, y, c=values[known], cmap="viridis", vmin=low, vmax=high, **style)
    extend = ("neither", "min", "max", "both")[
        bool((values[known] < low).any()) + 2 * bool((values[known] > high).any())
    ]
    bar = figure.colorbar(
        drawn, ax=axes, orientation="horizontal", extend=extend, aspect=34, pad=0.02
    )
    bar.ax.tick_params(labelsize=8, colors=SOFT)
    bar.outline.set_visible(False)


def _draw_groups(
    figure: Figure, axes: Axes, points: NDArray[np.floating], values: pd.Series
) -> None:
    names = values.astype(object).where(values.notna(), None).to_numpy()
    texts = np.array(["" if name is None else str(name) for name in names])
    unknown = np.array([name is None for name in names])
    kinds, counts = np.unique(texts[~unknown], return_counts=True)
    if len(kinds) > len(PALETTE):  # the most frequent ones get colours of their own
        kinds = np.sort(kinds[np.argsort(-counts, kind="stable")[: len(PALETTE)]])
    color = dict(zip(kinds.tolist(), PALETTE, strict=False))
    other = len(counts) - len(kinds)
    colors = [UNKNOWN if u else color.get(t, UNKNOWN) for t, u in zip(texts, unknown, strict=True)]
    x, y = points.T
    axes.scatter(x, y, c=colors, **_dots(len(points)))
    entries = [(short(kind, 18), c) for kind, c in color.items()]
    if other or unknown.any():
        grey = [f"{other} others"] * bool(other) + ["not stated"] * bool(unknown.any())
        entries.append((", ".join(grey), UNKNOWN))
    handles = [Line2D([], [], marker="o", ls="", ms=5, color=c) for _, c in entries]
    legend = figure.legend(
        handles, [name for name, _ in entries], fontsize=8, frameon=False,
        loc="outside lower center", ncols=3 if len(entries) > 4 else 2,
        handletextpad=0.1, columnspacing=1.0,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_parse_math(False)
