"""Figures of what is inside an encoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.cluster.hierarchy import dendrogram

from semantoks.explain.filters import NetworkFilters
from semantoks.explain.geometry import Geometry
from semantoks.figures.style import PALETTE
from semantoks.model.encoder import Encoder


def occlusion_figure(summary: pd.DataFrame) -> Figure:
    """Draw the mean distances of `Occlusion.summary` with their intervals."""
    figure = Figure(figsize=(8.4, 0.8 + 0.3 * summary["network"].nunique()), layout="constrained")
    titles = {"alone": "all others masked", "without": "this one masked"}
    for i, (measure, title) in enumerate(titles.items()):
        axes = figure.add_subplot(1, 2, i + 1)
        rows = summary[summary["measure"] == measure].iloc[::-1]
        places = np.arange(len(rows))
        axes.hlines(places, rows["ci_low"], rows["ci_high"], color=PALETTE[i], lw=2)
        axes.plot(rows["mean"], places, "o", color=PALETTE[i], ms=5)
        axes.set_yticks(places, rows["network"] if i == 0 else [""] * len(rows), fontsize=8)
        axes.set_xlim(left=0)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("cosine distance to the whole embedding", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="x", color="#e8e8e8")
        axes.set_axisbelow(True)
    return figure


def roi_values(encoder: Encoder, summary: pd.DataFrame, measure: str) -> NDArray[np.float64]:
    """Return the mean distance of every ROI's network, NaN where it has none, shape (n_rois,).

    Parameters
    ----------
    encoder : Encoder
    summary : DataFrame
        See `Occlusion.summary`.
    measure : {"alone", "without"}
    """
    means = summary[summary["measure"] == measure].set_index("network")["mean"]
    values = np.full(len(encoder.channels), np.nan)
    for name, rois in zip(encoder.rows.names, encoder.rows.channels, strict=True):
        values[rois] = means.get(name, np.nan)
    return values


def glass_brain_figure(
    coordinates: NDArray[np.float64], values: NDArray[np.float64]
) -> Figure | None:
    """Draw every ROI at its centroid, coloured by its value.

    Parameters
    ----------
    coordinates : ndarray of shape (n_rois, 3)
        Millimetres; NaN where unknown.
    values : ndarray of shape (n_rois,)
        See `roi_values`.

    Returns
    -------
    Figure or None
        None where no ROI has coordinates and a value.
    """
    shown = np.isfinite(coordinates).all(axis=1) & np.isfinite(values)
    if not shown.any():
        return None
    from nilearn.plotting import plot_markers  # a second to import, and needed only here

    figure = Figure(figsize=(9, 3))
    plot_markers(
        values[shown],
        coordinates[shown],
        node_size=18,
        node_cmap="viridis",
        node_vmin=0.0,
        figure=figure,
        colorbar=True,
        title=None,
    )
    return figure


def filter_figure(
    filters: Sequence[NetworkFilters], band: tuple[float | None, float | None]
) -> Figure:
    """Draw the amplitude responses of every network: median, and the middle half of its filters.

    Parameters
    ----------
    filters : sequence of NetworkFilters
    band : (float or None, float or None)
        Edges of the band-pass of the encoder's data, Hz; outside there was nothing to learn from.
    """
    n_columns = 3
    n_rows = -(-len(filters) // n_columns)
    figure = Figure(figsize=(9.0, 1.9 * n_rows), layout="constrained")
    for i, one in enumerate(filters):
        axes = figure.add_subplot(n_rows, n_columns, i + 1)
        low, middle, high = np.quantile(one.gain, [0.25, 0.5, 0.75], axis=0)
        axes.fill_between(one.frequencies, low, high, color=PALETTE[0], alpha=0.25, lw=0)
        axes.plot(one.frequencies, middle, color=PALETTE[0])
        axes.axvspan(band[0] or 0.0, band[1] or one.frequencies[-1], color="#000000", alpha=0.05)
        axes.set_ylim(bottom=0)
        axes.set_title(one.network, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        if i >= len(filters) - n_columns:
            axes.set_xlabel("frequency, Hz", fontsize=8)
        if i % n_columns == 0:
            axes.set_ylabel("|H(f)|", fontsize=8)
    return figure


def geometry_figure(found: Geometry) -> Figure:
    """Draw the similarity matrix in the canonical order next to the tree of the networks."""
    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    matrix, tree = figure.subplots(1, 2)
    limit = float(np.abs(found.similarity - np.eye(len(found.networks))).max())
    image = matrix.imshow(found.similarity, cmap="RdBu_r", vmin=-limit, vmax=limit)
    ticks = range(len(found.networks))
    matrix.set_xticks(ticks, found.networks, rotation=60, ha="right", fontsize=8)
    matrix.set_yticks(ticks, found.networks, fontsize=8)
    matrix.set_title("cosine between networks, canonical order", fontsize=9)
    figure.colorbar(image, ax=matrix, shrink=0.8).ax.tick_params(labelsize=7)
    dendrogram(
        found.tree,
        labels=list(found.networks),
        orientation="right",
        ax=tree,
        color_threshold=0,
        above_threshold_color=PALETTE[0],
        leaf_font_size=8,
    )
    tree.set_title(f"average linkage, cophenetic r = {found.cophenetic:.2f}", fontsize=9)
    tree.set_xlabel("1 - cosine", fontsize=8)
    tree.spines[["top", "right", "left"]].set_visible(False)
    return figure
