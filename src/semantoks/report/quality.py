"""`write_quality_page`: one page about the quality of the recordings of a store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from semantoks import __version__
from semantoks.assess.parts.section import Column, Table
from semantoks.data.layout import QUALITY_PAGE
from semantoks.data.prepare import CARPETS, QUALITY, worst_first
from semantoks.data.quality import METRICS
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.figures.picture import Picture
from semantoks.figures.style import INK, PALETTE, SOFT, panel_axes
from semantoks.files import refuse_existing, write_file
from semantoks.report.page import template

_LISTED = 200  # rows of the long table; the rest is in quality.parquet


def write_quality_page(store: str | Path, path: str | Path | None = None) -> Path:
    """Write the page about the recordings of a store: stored, excluded, failed, and how good.

    Parameters
    ----------
    store : path
        A store that `semantoks prepare` wrote.
    path : path, optional
        New file; ``quality.html`` in the store by default.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        The store has no table of quality, or the file exists.
    """
    opened = RecordingStore(store)
    file = opened.path / QUALITY_PAGE if path is None else Path(path)
    refuse_existing(file)
    try:
        quality = pd.read_parquet(opened.path / QUALITY)
        with np.load(opened.path / CARPETS, allow_pickle=False) as content:
            carpets = {name: content[name] for name in content.files}
    except (OSError, ValueError) as error:
        rule = f"has no table of quality ({error})"
        raise InputError(rule, file=opened.path, fix="Make it with `semantoks prepare`") from None
    measured = quality[quality["status"] != "failed"]
    listed = measured.loc[worst_first(quality)]
    shown = [name for name in METRICS if measured[name].notna().any()]
    page = template("quality.html").render(
        name=opened.path.name,
        version=__version__,
        counts=quality["status"].value_counts().to_dict(),
        n=len(quality),
        left_out=_table(
            "Recordings not in the store",
            quality[quality["status"] != "stored"],
            ["id", "status", "reason"],
        ),
        standing_out=_table(
            "Outliers", measured[measured["outliers"] != ""], ["id", "status", "outliers"]
        ),
        metrics={name: METRICS[name] for name in shown},
        unknown={n: int(measured[n].isna().sum()) for n in shown if measured[n].isna().any()},
        unmeasured=[name for name in METRICS if name not in shown],
        histograms=[_histogram(measured, name) for name in shown],
        worst=_carpet_pictures(carpets, quality, listed["id"].tolist()),
        by="mean framewise displacement" if measured["mean_fd"].notna().all() else "DVARS",
        recordings=_table("Recordings", listed.head(_LISTED), ["id", "status", *shown]),
        n_more=max(0, len(listed) - _LISTED),
    )
    write_file(file, page)
    return file


def _table(caption: str, rows: pd.DataFrame, columns: list[str]) -> Table:
    numbers = set(rows[columns].select_dtypes("float").columns)
    return Table(
        caption=caption,
        columns=[
            Column(name, "number", ".3g") if name in numbers else Column(name) for name in columns
        ],
        rows=rows[columns].to_numpy(object).tolist(),
    )


def _histogram(measured: pd.DataFrame, name: str) -> Picture:
    figure = Figure(figsize=(3.6, 2.3), layout="constrained")
    axes = panel_axes(figure, name)
    kept = measured.loc[measured["status"] == "stored", name].dropna()
    out = measured.loc[measured["status"] == "excluded", name].dropna()
    values = measured[name].dropna().to_numpy(np.float64)
    low, high = values.min(), values.max()
    if high - low < 1e-6 * max(abs(high), 1.0):  # all alike: one bar
        low, high = low - 0.5, high + 0.5
    bins = np.linspace(low, high, min(30, max(5, len(values) // 4)) + 1)
    axes.hist(
        [kept, out],
        bins=list(bins),
        stacked=True,
        color=[PALETTE[0], PALETTE[1]],
        label=["stored", "excluded"],
    )
    if len(out):
        axes.legend(fontsize=8, frameon=False)
    axes.set_ylabel("recordings", fontsize=9, color=INK)
    return Picture(figure, f"Histogram of {name}")


def _carpet_pictures(
    carpets: Mapping[str, NDArray[np.uint8]], quality: pd.DataFrame, order: list[str]
) -> list[Picture]:
    """Return the carpets, the worst recording first."""
    rows = {str(row["id"]): row for row in quality.to_dict("records")}
    pictures = []
    for name in sorted(carpets, key=order.index):
        figure = Figure(figsize=(5.0, 2.2), layout="constrained")
        axes = panel_axes(figure)
        axes.grid(visible=False)
        row = rows[name]
        image = carpets[name]
        extent = (0.0, float(row["minutes"]), float(len(image)), 0.0)
        axes.imshow(image, cmap="gray", aspect="auto", extent=extent, vmin=0, vmax=255)
        axes.set_yticks([])
        axes.set_xlabel("minutes", fontsize=9, color=SOFT)
        facts = [f"{key} {row[key]:.2f}" for key in ("mean_fd", "dvars", "typicality")]
        known = [fact for fact in facts if not fact.endswith("nan")]
        title = f"{name} ({row['status']}): {', '.join(known)}"
        axes.set_title(title, fontsize=8, loc="left", color=INK, parse_math=False)
        pictures.append(Picture(figure, f"Carpet plot of {name}"))
    return pictures
