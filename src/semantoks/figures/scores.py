"""Figures of an evaluation: predictions, corruption, fingerprints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from semantoks.evaluate.compare.roles import role
from semantoks.evaluate.stats.metrics import reliability_curve
from semantoks.evaluate.stats.operating import RocCurve
from semantoks.figures.style import FAINT, INK, PALETTE, SOFT, panel_axes, short

_PANEL = (3.4, 2.7)
#: People in one fingerprint matrix; more would be smaller than a dot.
FINGERPRINTS = 150


def model_colors(models: Sequence[str]) -> dict[str, str]:
    """Return a colour per model; connectivity is black, random weights are grey."""
    free = iter(PALETTE * (len(models) // len(PALETTE) + 1))
    fixed = {"connectivity": INK, "random": SOFT, "chance": FAINT}
    return {m: fixed[role(m)] if role(m) in fixed else next(free) for m in models}


def confusion(
    y: NDArray[np.intp], predicted: NDArray[np.intp], classes: Sequence[str], title: str
) -> Figure:
    """Draw a confusion matrix: shares of the true class, and numbers of people.

    Parameters
    ----------
    y, predicted : int arrays of shape (n,)
        Codes of the classes.
    classes : sequence of str
    title : str
    """
    k = len(classes)
    counts = np.bincount(y * k + predicted, minlength=k * k).reshape(k, k)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(2.4, 0.9 + 0.5 * k)
    figure = Figure(figsize=(side + 0.7, side + 0.3), layout="constrained")
    axes = panel_axes(figure, short(title))
    axes.grid(visible=False)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    names = [short(name, 12) for name in classes]
    axes.set_xticks(range(k), names, parse_math=False, rotation=0 if k < 4 else 60, fontsize=8)
    axes.set_yticks(range(k), names, parse_math=False, fontsize=8)
    for i, j in np.ndindex(k, k):
        color = "white" if share[i, j] > 0.6 else INK
        text = f"{share[i, j]:.0%}\n{counts[i, j]}" if k < 6 else f"{share[i, j]:.0%}"
        axes.text(j, i, text, ha="center", va="center", fontsize=9 if k < 6 else 6, color=color)
    axes.set_xlabel("predicted", fontsize=9, color=INK)
    axes.set_ylabel("true", fontsize=9, color=INK)
    return figure


def calibration(
    y: NDArray[np.intp], scores: Mapping[str, NDArray[np.float64]], label: str
) -> Figure:
    """Draw the observed share of a class against its predicted probability.

    Parameters
    ----------
    y : int array of shape (n,)
    scores : mapping of model to array of shape (n, n_classes)
    label : str
        Name of the class.
    """
    rows_of_legend = -(-len(scores) // 2)
    figure = Figure(figsize=(3.4, 3.0 + 0.18 * rows_of_legend), layout="constrained")
    axes = panel_axes(figure, "calibration")
    axes.plot([0, 1], [0, 1], color=FAINT, ls=(0, (4, 3)), lw=1.2)
    for model, color in model_colors([*scores]).items():
        n_bins = int(np.clip(len(y) // 20, 3, 10))
        curve = reliability_curve(y, scores[model], n_bins)
        axes.plot(
            curve["predicted"], curve["observed"], ".-", color=color, label=short(model), lw=1.4
        )
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_xlabel(
        f"predicted probability of {short(label, 14)}", fontsize=9, color=INK, parse_math=False
    )
    axes.set_ylabel("observed share", fontsize=9, color=INK)
    _legend(figure)
    return figure


def roc(
    curves: Mapping[str, RocCurve], points: Mapping[str, tuple[float, float]], label: str
) -> Figure:
    """Draw ROC curves, and where the chosen threshold is.

    Parameters
    ----------
    curves : mapping of model to RocCurve
    points : mapping of model to (float, float)
        Share of false positives and sensitivity at the threshold, over all people.
    label : str
        Name of the positive class.
    """
    figure = Figure(figsize=(3.4, 3.0 + 0.18 * -(-len(curves) // 2)), layout="constrained")
    axes = panel_axes(figure, "ROC curve")
    axes.plot([0, 1], [0, 1], color=FAINT, ls=(0, (4, 3)), lw=1.2)
    for model, color in model_colors([*curves]).items():
        x = np.concatenate([[0.0], curves[model].false_positives, [1.0]])
        y = np.concatenate([[0.0], curves[model].sensitivity, [1.0]])
        axes.step(x, y, where="post", color=color, lw=1.4, label=short(model))
        axes.plot(*points[model], "o", color=color, ms=6.5, mec="white", mew=0.8)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    axes.set_xlabel("1 − specificity", fontsize=9, color=INK)
    axes.set_ylabel(f"sensitivity ({short(label, 14)})", fontsize=9, color=INK, parse_math=False)
    _legend(figure)
    return figure


def corruption_panel(curves: pd.DataFrame, clean: pd.DataFrame) -> Figure:
    """Draw one metric of all models against the severity of one corruption.

    Parameters
    ----------
    curves : DataFrame
        Rows of one corruption and metric of `corruption_curves`.
    clean : DataFrame
        The same on clean recordings, severity 0.
    """
    figure = Figure(figsize=_PANEL, layout="constrained")
    axes = panel_axes(figure, str(curves["corruption"].iloc[0]))
    for model, color in model_colors(curves["model"].unique().tolist()).items():
        rows = pd.concat([clean, curves])
        rows = rows[rows["model"] == model].sort_values("severity")
        axes.fill_between(
            rows["severity"], rows["ci_low"], rows["ci_high"], color=color, alpha=0.13, lw=0
        )
        axes.plot(rows["severity"], rows["value"], ".-", color=color, label=short(model), lw=1.4)
    axes.set_xlabel(str(curves["unit"].iloc[0]), fontsize=9, color=INK)
    axes.set_ylabel(str(curves["metric"].iloc[0]), fontsize=9, color=INK)
    _legend(figure)
    return figure


def sample_sizes(
    curve: pd.DataFrame,
    chance: float | None = None,
    *,
    of: str = "n_train",
    label: str = "training subjects",
) -> Figure:
    """Draw one metric of all models with its intervals against how much there is to learn from.

    Parameters
    ----------
    curve : DataFrame
        Columns model, metric, value, ci_low, ci_high, and that of `of`.
    chance : float, optional
    of, label : str
        Column of the sizes, and what they are.
    """
    figure = Figure(figsize=(4.8, 3.2), layout="constrained")
    axes = panel_axes(figure)
    if chance is not None:
        axes.axhline(chance, color=FAINT, ls=(0, (4, 3)), lw=1.2)
    for model, color in model_colors(curve["model"].unique().tolist()).items():
        rows = curve[curve["model"] == model].sort_values(of)
        low, high = rows["ci_low"], rows["ci_high"]
        axes.fill_between(rows[of], low, high, color=color, alpha=0.13, lw=0)
        axes.plot(rows[of], rows["value"], ".-", color=color, label=short(model), lw=1.4)
    sizes = sorted(curve[of].unique())
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{n:g}" for n in sizes])
    axes.minorticks_off()
    axes.set_xlabel(label, fontsize=9, color=INK)
    axes.set_ylabel(str(curve["metric"].iloc[0]), fontsize=9, color=INK)
    _legend(figure)
    return figure


def fingerprint(similarity: NDArray[np.float32], title: str, of: str) -> Figure:
    """Draw the correlations of first (rows) and second (columns) measurements of people.

    Parameters
    ----------
    similarity : array of shape (n, n)
    title : str
    of : str
        What was measured twice: sessions, or halves.
    """
    figure = Figure(figsize=(3.2, 3.0), layout="constrained")
    axes = panel_axes(figure, short(title))
    axes.grid(visible=False)
    axes.set_xticks([])
    axes.set_yticks([])
    image = axes.imshow(similarity, cmap="viridis", interpolation="nearest")
    one = of.removesuffix("s").replace("halve", "half")
    axes.set_xlabel(f"second {one}", fontsize=9, color=INK)
    axes.set_ylabel(f"first {one}", fontsize=9, color=INK)
    bar = figure.colorbar(image, ax=axes, shrink=0.85)
    bar.ax.tick_params(labelsize=8, colors=SOFT)
    bar.locator = MaxNLocator(4)
    bar.outline.set_visible(False)
    return figure


def _legend(figure: Figure) -> None:
    legend = figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=2)
    for text in legend.get_texts():
        text.set_parse_math(False)
