"""Figures of sampled recordings beside real ones."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from semantoks.arrays import Array
from semantoks.figures.style import FAINT, INK, PALETTE, panel_axes


def spectra(hertz: Array, power: Mapping[str, Array]) -> Figure:
    """Draw mean spectra.

    Parameters
    ----------
    hertz : array of shape (n,)
    power : mapping of str to array of shape (n,)
        Shares of the power by group of recordings.
    """
    figure = Figure(figsize=(4.6, 3.2), layout="constrained")
    axes = panel_axes(figure, "power spectra")
    for (name, values), color in zip(power.items(), PALETTE, strict=False):
        axes.plot(hertz, values, color=color, lw=1.4, label=name)
    axes.set_xlabel("frequency (Hz)", fontsize=9, color=INK)
    axes.set_ylabel("share of the power", fontsize=9, color=INK)
    figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=3)
    return figure


def edges(real: Array, generated: Array) -> Figure:
    """Draw the connectivity of generated recordings over that of real ones, a dot per edge."""
    figure = Figure(figsize=(3.6, 3.6), layout="constrained")
    axes = panel_axes(figure, "mean connectivity")
    limits = (min(real.min(), generated.min()), max(real.max(), generated.max()))
    axes.plot(limits, limits, color=FAINT, ls=(0, (4, 3)), lw=1.2)
    axes.plot(real, generated, ".", ms=2, color=PALETTE[0], alpha=0.4, rasterized=True)
    axes.set_xlabel("real recordings (r)", fontsize=9, color=INK)
    axes.set_ylabel("generated recordings (r)", fontsize=9, color=INK)
    return figure
