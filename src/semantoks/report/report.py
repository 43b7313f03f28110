"""`write_report`: one self-contained HTML page about runs, results and stores."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from semantoks import __version__
from semantoks import config as trees
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError, SemantoksError
from semantoks.evaluate.embed import Embedder
from semantoks.evaluate.evaluation import CHANCE, ProbeResult
from semantoks.evaluate.statistics import LOWER_IS_BETTER
from semantoks.model.pretrained import load_pretrained
from semantoks.report import plots
from semantoks.train.run import RunConfig
from semantoks.train.trainer import CONFIG, ENVIRONMENT, METRICS

Paths = Sequence[str | Path]


def write_report(
    path: str | Path, *, runs: Paths = (), results: Paths = (), stores: Paths = ()
) -> None:
    """Write one HTML page that needs nothing else: no network, no scripts.

    Parameters
    ----------
    path : path
        New file.
    runs : sequence of path
        Folders of pretraining runs: curves, collapse monitors, configuration, environment.
    results : sequence of path
        Folders of probe results: scores, intervals, design, what the models had seen.
    stores : sequence of path
        Recording stores: what they hold, and the embeddings of the runs that fit them.

    Raises
    ------
    InputError
        If the file exists, cannot be written, or a folder is not what it should be.
    """
    file = Path(path)
    if file.exists():
        raise InputError("exists already and is not overwritten", file=file)
    opened = [RecordingStore(store) for store in stores]
    shown = [ProbeResult.load(result) for result in results]
    targets = list(dict.fromkeys(t for result in shown for t in result.meta["targets"]))
    page = _template().render(
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        results=[_result_section(result) for result in shown],
        runs=[_run_section(Path(run), opened, targets) for run in runs],
        stores=[_store_section(store) for store in opened],
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.partial")
        partial.write_text(page, encoding="utf-8")
        partial.replace(file)
    except OSError as error:
        raise InputError(f"cannot be written ({error.strerror})", file=file) from error


def _template() -> Any:
    environment = Environment(
        loader=PackageLoader("semantoks.report", ""), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["image"] = _image
    return environment.get_template("template.html")


@dataclass(frozen=True)
class Picture:
    """A figure with the text that stands for it where it cannot be seen."""

    figure: Figure
    alt: str


def _image(picture: Picture) -> Markup:
    """Return an ``<img>`` with the picture inside."""
    stream = io.BytesIO()
    picture.figure.savefig(stream, format="png", dpi=160)
    data = base64.b64encode(stream.getvalue()).decode()
    return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(picture.alt, data)


# -- results ---------------------------------------------------------------------------------------


_MEANS_RUN_AGAINST = (
    "Chance predicts the mean of those trained on. With a site left out, that mean is lower where "
    "the tested site is higher, and the other way round: the correlation of knowing nothing is "
    "below zero here."
)


def _result_section(result: ProbeResult) -> dict[str, Any]:
    return {
        "meta": result.meta,
        "targets": [_target_block(result, target) for target in result.meta["targets"]],
        "models": [
            {"name": name, "sentence": _seen_sentence(facts)}
            for name, facts in result.meta["models"].items()
        ],
        "design": _design_sentence(result.meta),
    }


def _target_block(result: ProbeResult, target: str) -> dict[str, Any]:
    scores = result.scores[result.scores["target"] == target]
    gaps = result.differences[result.differences["target"] == target]
    first = scores["metric"].iloc[0]
    drawn = scores[scores["metric"] == first]
    chance = drawn.loc[drawn["model"] == CHANCE, "value"]
    models = drawn[drawn["model"] != CHANCE]
    facts = result.meta["targets"][target]
    return {
        "name": target,
        "facts": facts,
        "n_subjects": int(scores["n_subjects"].iloc[0]),
        "metrics": list(dict.fromkeys(scores["metric"])),
        "rows": [
            _score_row(model, rows, gaps) for model, rows in scores.groupby("model", sort=False)
        ],
        "picture": Picture(
            plots.score_intervals(models, float(chance.iloc[0]) if len(chance) else None),
            f"{first} of {target} per model, with 95 % intervals",
        ),
        "verdicts": [
            _verdict(rows, str(first))
            for _, rows in gaps[gaps["metric"] == first].groupby("against", sort=False)
        ],
        "caution": _MEANS_RUN_AGAINST
        if facts["kind"] == "regression" and result.meta["design"]["groups"] == "site"
        else "",
    }


def _score_row(model: object, rows: pd.DataFrame, gaps: pd.DataFrame) -> dict[str, Any]:
    cells = {}
    for row in rows.to_dict("records"):
        mine = gaps[(gaps["model"] == model) & (gaps["metric"] == row["metric"])]
        cells[row["metric"]] = {**row, "gaps": mine.to_dict("records")}
    return {"model": model, "cells": cells}


def _verdict(gaps: pd.DataFrame, metric: str) -> str:
    """Say how the models compare with one of them, by the paired intervals alone."""
    against = gaps["against"].iloc[0]
    sign = -1.0 if metric in LOWER_IS_BETTER else 1.0
    low, high = (sign * gaps[c] for c in ("ci_low", "ci_high"))
    better = gaps.loc[np.minimum(low, high) > 0, "model"].tolist()
    worse = gaps.loc[np.maximum(low, high) < 0, "model"].tolist()
    parts = []
    if better:
        parts.append(f"Above {against}: {', '.join(better)}.")
    if worse:
        parts.append(f"Below {against}: {', '.join(worse)}.")
    rest = [m for m in gaps["model"] if m not in better + worse]
    if rest:
        parts.append(f"Not told apart from {against} by these people: {', '.join(rest)}.")
    return " ".join(parts)


def _seen_sentence(facts: dict[str, Any]) -> str:
    if not facts["pretrained"]:
        return "has seen no recording in pretraining"
    n, total = facts["n_test_subjects_seen"], facts["n_test_subjects"]
    if n is None:
        return (
            f"does not say which people it has seen; some of the {total} tested may be among them"
        )
    text = f"was pretrained on {facts['pretraining']['n_recordings']} recordings of "
    text += f"{facts['pretraining']['n_subjects']} people; it saw {n} of the {total} tested people"
    sites = facts["test_sites_seen"]
    return text + (f" and the test sites {', '.join(sites)}" if sites else " and no test site")


def _design_sentence(meta: dict[str, Any]) -> str:
    design = meta["design"]
    if design["groups"] == "site":
        which = f" ({', '.join(design['test_sites'])})" if design["test_sites"] else ""
        how = f"One site is left out at a time{which}; all other sites train."
    else:
        how = f"{design['n_folds']} folds over subjects."
    bootstrap = f"{meta['n_bootstrap']} samples, seed {meta['seed']}"
    return (
        f"{how} Nobody is in both parts of a fold. Standardisation, the strength of the penalty "
        "and the linear model are fitted in the training part only. Scores are over all tested "
        f"people together, with 95 % bootstrap intervals over people ({bootstrap})."
    )


# -- runs ------------------------------------------------------------------------------------------


def _run_section(run: Path, stores: Sequence[RecordingStore], targets: list[str]) -> dict[str, Any]:
    config = RunConfig.load(run / CONFIG)
    try:
        lines = (run / METRICS).read_text(encoding="utf-8").splitlines()
        environment = json.loads((run / ENVIRONMENT).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"is no whole run ({error})", file=run) from None
    if not lines:
        raise InputError("has no metrics yet", file=run / METRICS)
    metrics = pd.DataFrame([json.loads(line) for line in lines])
    encoder = load_pretrained(run)
    return {
        "name": run.name,
        "last": metrics.iloc[-1].to_dict(),
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "pretraining": encoder.pretraining,
        "encoder": encoder.config,
        "networks": encoder.network_names,
        "curves": Picture(plots.training_curves(metrics), "Loss terms, learning rate, gradient"),
        "monitors": Picture(plots.collapse_monitors(metrics), "Effective rank and mean cosine"),
        "maps": [m for store in stores if (m := _embedding_map(run, store, targets))],
        "differences": trees.to_yaml(trees.differences(config, RunConfig())),
        "yaml": config.to_yaml(),
        "environment": environment,
    }


def _embedding_map(run: Path, store: RecordingStore, targets: list[str]) -> dict[str, Any] | None:
    """Return the map of a store's recordings, or None if the run cannot read that store."""
    try:
        embeddings = Embedder(run).fit_transform(store)
    except SemantoksError:
        return None  # another parcellation or preprocessing: the run has nothing to say about it
    if len(store) < 3:
        return None
    pca = PCA(2, svd_solver="full").fit(embeddings)
    colorings = {
        name: store.table[name]
        for name in ["site", *targets]
        if name in store.table.columns and store.table[name].notna().any()
    }
    figure = plots.embedding_map(
        pca.transform(embeddings),
        pca.explained_variance_ratio_,
        colorings or {"recordings": pd.Series(["recording"] * len(store))},
    )
    alt = f"First two principal components of the embeddings of {store.path.name}"
    return {"store": store.path.name, "n": len(store), "picture": Picture(figure, alt)}


# -- stores ----------------------------------------------------------------------------------------


def _store_section(store: RecordingStore) -> dict[str, Any]:
    table = store.table.assign(site=store.table["site"].fillna("not stated").astype(str))
    sites = [
        {
            "site": site,
            "n": len(rows),
            "subjects": rows["subject"].nunique(),
            "source_tr": ", ".join(f"{tr:g}" for tr in sorted(rows["source_tr"].unique())),
            "minutes": _range(rows["length"] * store.tr / 60, "{:.1f}"),
            "mean_fd": _range(rows["mean_fd"].dropna(), "{:.2f}"),
        }
        for site, rows in table.groupby("site")
    ]
    sizes = zip(store.parcellation.network_names, store.parcellation.network_indices, strict=True)
    return {
        "name": store.path.name,
        "n": len(store),
        "subjects": table["subject"].nunique(),
        "tr": store.tr,
        "parcellation": store.parcellation.name,
        "n_rois": len(store.parcellation),
        "networks": ", ".join(f"{name} {len(rois)}" for name, rois in sizes),
        "preprocessing": trees.to_tree(store.preprocessing),
        "sites": sites,
        "missing": int((table["missing_rois"].map(len) > 0).sum()),
        "fingerprint": store.fingerprint[:16],
    }


def _range(values: pd.Series, form: str) -> str:
    if not len(values):
        return "–"
    low, high = form.format(values.min()), form.format(values.max())
    return low if low == high else f"{low} – {high}"
