"""Sections of the report about runs and stores: plain values and figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA

from semantoks import config as trees
from semantoks.assess.parts.section import Column, Table
from semantoks.data.seen import people_of
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.features.embed import Embedder
from semantoks.figures import runs as plots
from semantoks.figures.picture import Picture
from semantoks.figures.style import short
from semantoks.model.encoder import Encoder
from semantoks.model.pretrained import load_pretrained
from semantoks.train.logs import TERM
from semantoks.train.run import RunConfig
from semantoks.train.setup import CONFIG, ENVIRONMENT, METRICS

#: Recordings in one embedding map; of a larger store, so many evenly spaced ones.
MAP_RECORDINGS = 2000
#: Columns in a store's table of labels.
LABEL_COLUMNS = 6

Facts = dict[str, Any]
_WAS_SEEN = {True: "seen", False: "not seen"}


# -- runs ------------------------------------------------------------------------------------------


def run_section(run: Path, stores: Sequence[RecordingStore], targets: Sequence[str]) -> Facts:
    """Return what is shown of one pretraining run.

    Raises
    ------
    InputError
        If the folder holds no whole run, or no step was logged yet.
    """
    config = RunConfig.load(run / CONFIG)
    metrics, environment = _read_run(run)
    encoder = load_pretrained(run)
    return {
        "name": run.name,
        "last": metrics.iloc[-1].to_dict(),
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "pretraining": encoder.pretraining,
        "encoder": encoder.config,
        "n_networks": encoder.n_networks,
        "curves": _curves(metrics),
        "monitors": _monitors(metrics, config),
        "maps": [_embedding_maps(encoder, store, targets) for store in stores],
        "differences": trees.to_yaml(trees.differences(config, RunConfig())),
        "yaml": config.to_yaml(),
        "environment": environment,
    }


def _read_run(run: Path) -> tuple[pd.DataFrame, Facts]:
    try:
        lines = (run / METRICS).read_text(encoding="utf-8").splitlines()
        metrics = pd.DataFrame([json.loads(line) for line in lines])
        environment = json.loads((run / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"is no whole run ({error})", file=run) from None
    if metrics.empty:
        raise InputError("has no metrics yet", file=run / METRICS)
    return metrics, environment


def _curves(metrics: pd.DataFrame) -> list[Picture]:
    first, last = metrics.iloc[0], metrics.iloc[-1]

    def from_to(column: str) -> str:
        return f"from {first[column]:.3g} to {last[column]:.3g}"

    columns = [str(column) for column in metrics if str(column).startswith(TERM)]
    terms = [f"{column.removeprefix(TERM)} {from_to(column)}" for column in columns]
    norm = plots.curve(metrics, "grad_norm", "norm of the gradient, before clipping", log=True)
    return [
        Picture(
            plots.loss_terms(metrics),
            f"Loss terms over epochs: {', '.join(terms)}",
        ),
        Picture(
            plots.curve(metrics, "lr", "learning rate"),
            f"Learning rate over epochs, at most {metrics['lr'].max():.3g}",
        ),
        Picture(norm, f"Norm of the gradient over epochs, {from_to('grad_norm')}"),
    ]


def _monitors(metrics: pd.DataFrame, config: RunConfig) -> Facts:
    bound = float(min(config.optim.batch_size - 1, config.encoder.width))
    last = metrics.iloc[-1]
    lowest = min(0.0, float(metrics["mean_cosine"].min()))
    rank = plots.curve(
        metrics, "effective_rank", "effective rank of a batch", limits=(0, None), bound=bound
    )
    cosine = plots.curve(
        metrics, "mean_cosine", "mean cosine between recordings", limits=(lowest, 1.03), bound=1.0
    )
    return {
        "rank": last["effective_rank"],
        "bound": bound,
        "cosine": last["mean_cosine"],
        "pictures": [
            Picture(rank, f"Effective rank, at last {last['effective_rank']:.1f} of {bound:.0f}"),
            Picture(cosine, f"Mean cosine, at last {last['mean_cosine']:.2f}"),
        ],
    }


def _embedding_maps(encoder: Encoder, store: RecordingStore, targets: Sequence[str]) -> Facts:
    """Return maps of a store's recordings, or why there are none."""
    section: Facts = {"store": store.path.name, "n": len(store), "pictures": [], "why_not": ""}
    if len(store) > MAP_RECORDINGS:
        store = store.select(np.linspace(0, len(store) - 1, MAP_RECORDINGS).astype(int))
    section["shown"] = len(store)
    try:
        embeddings = Embedder(encoder).fit_transform(store)
    except InputError as error:
        return section | {"why_not": error.rule}
    if len(store) < 3 or not np.ptp(embeddings, axis=0).any():
        return section | {"why_not": "fewer than three different embeddings"}
    pca = PCA(2, svd_solver="full").fit(embeddings)
    points, shares = pca.transform(embeddings), pca.explained_variance_ratio_
    section["shares"] = float(shares.sum())
    section["pictures"] = [
        Picture(
            plots.embedding_map(points, shares, name, values),
            f"First two principal components of the embeddings, coloured by {name}",
        )
        for name, values in _colorings(encoder, store, targets).items()
    ]
    return section


def _colorings(
    encoder: Encoder, store: RecordingStore, targets: Sequence[str]
) -> dict[str, pd.Series]:
    table = store.table
    known = [name for name in ["site", *targets] if name in table and table[name].notna().any()]
    colorings = {name: table[name] for name in dict.fromkeys(known)}
    record = encoder.pretraining
    seen = None if record is None else record.seen_among(people_of(store))
    if seen is not None:
        who = table["subject"].isin((*seen.people, *seen.unstated))
        colorings["in pretraining"] = who.map(_WAS_SEEN)
    return colorings or {"recordings": pd.Series("recording", index=table.index)}


# -- stores ----------------------------------------------------------------------------------------


def store_section(store: RecordingStore, targets: Sequence[str]) -> Facts:
    """Return what is shown of one store: sites, labels, parcellation, preprocessing."""
    table = store.table.assign(site=store.table["site"].fillna("not stated").astype(str))
    sizes = zip(store.parcellation.network_names, store.parcellation.network_indices, strict=True)
    first = [name for name in targets if name in store.phenotypes]
    columns = list(dict.fromkeys([*first, *store.phenotypes]))
    sites = [(str(site), rows) for site, rows in table.groupby("site")]
    return {
        "name": store.path.name,
        "info": store.info(),
        "networks": {name: len(rois) for name, rois in sizes},
        "steps": trees.to_yaml(store.header["steps"]),
        "preprocessing": store.preprocessing,
        "sites": Table(
            caption=f"Sites of {store.path.name}",
            columns=[
                Column("site"),
                Column("recordings", "number", "d"),
                Column("people", "number", "d"),
                Column("TR at the source, s"),
                Column("length, min"),
                Column("mean FD, mm"),
            ],
            rows=[_site_row(site, rows, store.tr) for site, rows in sites],
        ),
        "labels": _labels(store.path.name, columns, sites) if columns else None,
    }


def _site_row(site: str, rows: pd.DataFrame, tr: float) -> list[Any]:
    return [
        site,
        len(rows),
        rows["subject"].nunique(),
        ", ".join(f"{tr:g}" for tr in sorted(rows["source_tr"].unique())),
        _range(rows["length"] * tr / 60, "{:.1f}"),
        _range(rows["mean_fd"].dropna(), "{:.2f}"),
    ]


def _labels(name: str, columns: list[str], sites: Sequence[tuple[str, pd.DataFrame]]) -> Table:
    shown, n_more = columns[:LABEL_COLUMNS], len(columns[LABEL_COLUMNS:])
    more = f"; {n_more} more columns are not shown" if n_more else ""
    return Table(
        caption=f"Labels of {name} by site: counts, or median and range{more}",
        columns=[Column("site"), *(Column(column) for column in shown)],
        rows=[[site, *(_label_summary(rows[column]) for column in shown)] for site, rows in sites],
    )


def _label_summary(values: pd.Series) -> str:
    """Return counts of classes, or median and range of numbers, and how many are unknown."""
    known = values.dropna()
    unknown = f"{len(values) - len(known)} unknown" if len(known) < len(values) else ""
    if known.empty:
        return "unknown"
    if pd.api.types.is_numeric_dtype(known) and known.dtype != bool:
        text = f"{known.median():.3g} ({known.min():.3g} – {known.max():.3g})"
    else:
        counts = known.astype(str).value_counts().sort_index()
        shown = [f"{short(str(name))} {n}" for name, n in counts.items()]
        text = ", ".join(shown) if len(shown) <= 4 else f"{len(shown)} different"
    return f"{text}; {unknown}" if unknown else text


def _range(values: pd.Series, form: str) -> str:
    if not len(values):
        return "–"
    low, high = form.format(values.min()), form.format(values.max())
    return low if low == high else f"{low} – {high}"
