"""The style of all figures: colours, axes, and names that fit."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind readers too.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#B5A900", "#555555")
INK, SOFT, FAINT, GRID = "#1d2129", "#5b6472", "#8a919c", "#e6e9ed"
UNKNOWN = "#c9ced6"


def panel_axes(figure: Figure, title: str = "") -> Axes:
    """Return axes in the style of the reports."""
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=SOFT, labelcolor=INK, labelsize=9, length=3)
    axes.grid(color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    # Names come from data: a dollar sign in them is no formula.
    axes.set_title(title, fontsize=10, loc="left", color=INK, parse_math=False)
    return axes


def short(text: str, length: int = 26) -> str:
    """Return the text, its middle replaced by an ellipsis where it is longer than `length`."""
    if len(text) <= length:
        return text
    tail = length // 3  # names of runs often differ at the end
    return f"{text[: length - 1 - tail]}…{text[-tail:]}"
