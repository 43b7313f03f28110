"""Explanations of one encoder: network occlusion, filters and geometry, in a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from semantoks.data.store import RecordingStore
from semantoks.explain.filters import network_filters
from semantoks.explain.geometry import geometry
from semantoks.explain.networks import network_embeddings, occlusion
from semantoks.figures import brain as plots
from semantoks.files import refuse_existing, staged_folder
from semantoks.model.pretrained import load_pretrained


def explain_model(
    model: str | Path, store: str | Path, out: str | Path, *, n_crops: int = 8, seed: int = 0
) -> list[Path]:
    """Write network occlusion, filters and geometry of an encoder on the recordings of a store.

    Parameters
    ----------
    model : path or str
        What `load_pretrained` takes.
    store : path
    out : path
        New folder: occlusion.tsv and .png, glass_brain.png, filters.tsv and .png, similarity.tsv,
        geometry.png.
    n_crops : int
        Evenly spaced crops per recording.
    seed : int
        Seed of the bootstrap.

    Returns
    -------
    list of Path
        What was written.

    Raises
    ------
    InputError
        If the folder exists and is not empty, or the encoder has no networks to look at.

    References
    ----------
    Brain-Semantoks, ICLR 2026, network occlusion.
    """
    folder = Path(out)
    refuse_existing(folder, folder=True)
    encoder, recordings = load_pretrained(model), RecordingStore(store)
    filters = network_filters(encoder)
    summary = occlusion(encoder, recordings, n_crops=n_crops).summary(
        recordings.table["subject"].to_numpy(str), seed=seed
    )
    embeddings = network_embeddings(encoder, recordings, n_crops=n_crops)
    found = geometry(embeddings, encoder.rows.names)
    band = (encoder.preprocessing.low_hz, encoder.preprocessing.high_hz)
    names = list(found.networks)
    tables = {
        "occlusion.tsv": summary,
        "filters.tsv": pd.concat(
            pd.DataFrame(
                {
                    "network": f.network,
                    "hz": f.frequencies,
                    "median_gain": np.median(f.gain, axis=0),
                }
            )
            for f in filters
        ),
        "similarity.tsv": pd.DataFrame(found.similarity, names, names)
        .rename_axis("network")
        .reset_index(),
    }
    figures = {
        "occlusion.png": plots.occlusion_figure(summary),
        "glass_brain.png": plots.glass_brain_figure(
            encoder.channels.coordinates, plots.roi_values(encoder, summary, "without")
        ),
        "filters.png": plots.filter_figure(filters, band),
        "geometry.png": plots.geometry_figure(found),
    }
    drawn = {name: figure for name, figure in figures.items() if figure is not None}
    with staged_folder(folder) as new:
        for name, table in tables.items():
            table.to_csv(new / name, sep="\t", index=False, float_format="%.6g")
        for name, figure in drawn.items():
            figure.savefig(new / name, dpi=160)
    return [folder / name for name in (*tables, *drawn)]
