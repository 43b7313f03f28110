"""Figures of sites: a forest plot, and predictions within sites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from semantoks.figures.style import FAINT, INK, PALETTE, SOFT, UNKNOWN, panel_axes, short

#: Sites in one forest plot: the largest ones.
FOREST_SITES = 40


@dataclass(frozen=True)
class Diamond:
    """A summary over sites.

    Parameters
    ----------
    name : str
    value, ci_low, ci_high : float
    filled : bool
        Whether it is the estimate that the verdict rests on.
    """

    name: str
    value: float
    ci_low: float
    ci_high: float
    filled: bool


def forest(
    sites: pd.DataFrame, summaries: Sequence[Diamond], label: str, null: float | None
) -> Figure:
    """Draw one number of every site with its interval, and summaries as diamonds.

    Parameters
    ----------
    sites : DataFrame
        Columns site, n, value, ci_low, ci_high (NaN where not known); the first on top.
    summaries : sequence of Diamond
    label : str
        What the number is.
    null : float, optional
        The number where there is no effect, drawn as a dashed line.
    """
    n = len(sites) + len(summaries)
    figure = Figure(figsize=(5.0, 0.75 + 0.215 * n), layout="constrained")
    axes = panel_axes(figure)
    if null is not None:
        axes.axvline(null, color=FAINT, ls=(0, (4, 3)), lw=1.2)
    places = np.arange(n)[::-1]
    sizes = 2.5 + 5.0 * np.sqrt(sites["n"] / sites["n"].max())
    for y, size, row in zip(places, sizes, sites.to_dict("records"), strict=False):
        axes.plot([row["ci_low"], row["ci_high"]], [y, y], color=SOFT, lw=1.3)
        axes.plot(row["value"], y, "s", color=PALETTE[0], mew=0, ms=float(size))
    for y, diamond in zip(places[len(sites) :], summaries, strict=True):
        _diamond(axes, float(y), diamond)
    axes.axhline(len(summaries) - 0.5, color=FAINT, lw=0.6)
    names = [f"{short(str(r.site), 20)}  ({r.n})" for r in sites.itertuples()]
    names += [diamond.name for diamond in summaries]
    axes.set_yticks(places, names, parse_math=False, fontsize=8)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(-0.7, n - 0.3)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlabel(label, fontsize=9, color=INK, parse_math=False)
    axes.grid(False, axis="y")
    return figure


def _diamond(axes: Axes, y: float, diamond: Diamond) -> None:
    x = [diamond.ci_low, diamond.value, diamond.ci_high, diamond.value]
    color = INK if diamond.filled else "none"
    axes.fill(x, [y, y + 0.3, y, y - 0.3], facecolor=color, edgecolor=INK, lw=1.2)


def predictions(
    y: NDArray[np.float64],
    predicted: NDArray[np.float64],
    sites: NDArray[np.str_],
    title: str,
    name: str,
) -> Figure:
    """Draw predicted against true values, people coloured by site, with a line for every site.

    Parameters
    ----------
    y, predicted : array of shape (n,)
    sites : array of str, shape (n,)
        Empty where not known. The largest sites have a colour of their own, the others are grey.
    title : str
    name : str
        Of the target.
    """
    figure = Figure(figsize=(3.4, 3.4), layout="constrained")
    axes = panel_axes(figure, short(title))
    low, high = float(np.min(y)), float(np.max(y))
    axes.plot([low, high], [low, high], color=FAINT, ls=(0, (4, 3)), lw=1.2)
    names, counts = np.unique(sites[sites != ""], return_counts=True)
    largest = sorted(names[np.argsort(-counts, kind="stable")[: len(PALETTE)]].tolist())
    color = dict(zip(largest, PALETTE, strict=False)) if len(names) > 1 else {}
    shades = [color.get(site, UNKNOWN if color else PALETTE[0]) for site in sites]
    axes.scatter(y, predicted, s=9, c=shades, alpha=0.65, lw=0, rasterized=len(y) > 2000)
    for site in names if color else ():
        at = sites == site
        if len(set(y[at])) > 2:
            slope, start = np.polyfit(y[at], predicted[at], 1)
            ends = np.array([y[at].min(), y[at].max()])
            axes.plot(ends, slope * ends + start, color=color.get(site, FAINT), lw=1.4)
    axes.set_xlabel(f"true {short(name, 18)}", fontsize=9, color=INK, parse_math=False)
    axes.set_ylabel("predicted", fontsize=9, color=INK)
    entries = [(short(site, 12), color[site]) for site in largest] if color else []
    if len(names) > len(largest):
        entries.append((f"{len(names) - len(largest)} others", UNKNOWN))
    if entries:
        legend = figure.legend(
            [Line2D([], [], marker="o", ls="", ms=4, color=shade) for _, shade in entries],
            [text for text, _ in entries],
            fontsize=7,
            frameon=False,
            loc="outside lower center",
            ncols=3,
            handletextpad=0.1,
            columnspacing=1.0,
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure
