"""What the report shows of an evaluation: its parts as plain values and figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from semantoks.assess.assessment import Assessment
from semantoks.assess.parts import Found
from semantoks.evaluate.compare.result import ProbeResult
from semantoks.evaluate.compare.roles import CHANCE, role
from semantoks.figures import runs as plots
from semantoks.figures import scores as charts
from semantoks.figures.brain import glass_brain_figure, occlusion_figure
from semantoks.figures.picture import Picture
from semantoks.report.methods import methods_paragraph
from semantoks.report.sections import Section
from semantoks.report.verdicts import design_sentences, reference, seen_facts, verdicts

_MEANS_RUN_AGAINST = (
    "Chance predicts the mean of those trained on. With a site left out, that mean is the lower "
    "the higher the site's own is: the correlation of knowing nothing is below zero here. "
    "Prediction begins above zero."
)
_COLUMNS = {"site": "Site", "source_tr": "TR at the scanner, s", "mean_fd": "Motion (mean FD)"}
_MEASURES = (
    "identification rate",
    "differential identifiability",
    "discriminability",
    "median ICC(3,1)",
)
#: What names people; the page does not.
_PEOPLE = ("shared members", "duplicate recordings")
#: Baselines in one calibration plot where there is no model.
_CURVES = 4


def evaluation_section(name: str, found: Assessment) -> Section:
    """Return what is shown of one evaluation."""
    result = found.comparison
    parts = found.parts
    return {
        "name": name,
        "meta": result.meta,
        "design": design_sentences(result.meta),
        "models": {m: seen_facts(facts) for m, facts in result.meta["models"].items()},
        "alarms": _alarms(parts["alarms"]) if "alarms" in parts else None,
        "targets": [_target_block(result, target) for target in result.meta["targets"]],
        "tests": _tests(result),
        "subgroups": _subgroups(parts["subgroups"]) if "subgroups" in parts else [],
        "confounds": _confounds(parts["confounds"]) if "confounds" in parts else None,
        "adjusted": _adjusted(parts["adjusted"]) if "adjusted" in parts else None,
        "corruption": _corruption(parts["corruption"]) if "corruption" in parts else None,
        "reliability": _reliability(parts["reliability"]) if "reliability" in parts else None,
        "maps": _maps(parts["maps"]) if "maps" in parts else [],
        "importance": _importance(parts["importance"]) if "importance" in parts else None,
        "why_not": found.why_not,
        "methods": methods_paragraph(found),
    }


# -- the comparison --------------------------------------------------------------------------------


def _target_block(result: ProbeResult, target: str) -> Section:
    facts = result.meta["targets"][target]
    scores = result.scores[result.scores["target"] == target]
    gaps = result.differences[result.differences["target"] == target]
    first = str(scores["metric"].iloc[0])
    drawn = scores[scores["metric"] == first].assign(role=lambda t: t["model"].map(role))
    by_site = facts["kind"] == "regression" and result.meta["design"]["group"] == "site"
    alt = "; ".join(
        f"{r.model} {r.value:.2f}, interval {r.ci_low:.2f} to {r.ci_high:.2f}"
        for r in drawn.itertuples()
    )
    return {
        "name": target,
        "facts": facts,
        "n_subjects": int(scores["n_subjects"].iloc[0]),
        "metrics": list(dict.fromkeys(scores["metric"])),
        "rows": _rows(scores, ["model"]),
        "picture": Picture(
            plots.score_intervals(drawn, reference(first, facts["classes"])),
            f"{first} of {target} with 95 % intervals: {alt}",
        ),
        "verdicts": verdicts(scores, gaps),
        "caution": _MEANS_RUN_AGAINST if by_site else "",
        "predictions": _predictions(result, target, facts),
        "curve": _curve(result, target, first),
    }


def _rows(table: pd.DataFrame, keys: list[str]) -> list[Section]:
    """Return a row per combination of keys, with its metrics under ``cells``."""
    rows: dict[tuple[Any, ...], Section] = {}
    for record in table.to_dict("records"):
        key = tuple(record[k] for k in keys)
        row = rows.setdefault(key, {k: record[k] for k in keys} | {"cells": {}})
        row["cells"][record["metric"]] = record
    return list(rows.values())


def _predictions(result: ProbeResult, target: str, facts: Section) -> list[Picture]:
    """Return confusion matrices and calibration, or predicted against true values."""
    scores = result.scores[result.scores["target"] == target]
    with_predictions = ("model", "connectivity", "baseline")
    shown = [m for m in dict.fromkeys(scores["model"]) if role(m) in with_predictions]
    y, predicted = result.arrays(target, shown)
    if facts["kind"] == "regression":
        return [
            Picture(
                charts.predictions(y, values, model, target),
                f"{target} predicted by {model} against the true values",
            )
            for model, values in zip(shown, predicted, strict=True)
        ]
    classes = [str(c) for c in facts["classes"]]
    pictures = [
        Picture(
            charts.confusion(y, values.argmax(axis=1), classes, model),
            f"Confusion matrix of {model}, {target}",
        )
        for model, values in zip(shown, predicted, strict=True)
    ]
    of = classes[1] if len(classes) == 2 else "the class predicted"
    in_question = [role(m) != "baseline" for m in shown]
    if sum(in_question) < 2:  # no model: connectivity and the first baselines
        in_question = [i < _CURVES for i in range(len(shown))]
    curves = zip(shown, predicted, in_question, strict=True)
    curve = charts.calibration(y, {name: scores for name, scores, asked in curves if asked}, of)
    return [*pictures, Picture(curve, f"Calibration of the probabilities of {target}")]


def _curve(result: ProbeResult, target: str, metric: str) -> Picture | None:
    curve = result.curve
    rows = curve[
        (curve["target"] == target) & (curve["metric"] == metric) & (curve["model"] != CHANCE)
    ]
    if rows.empty:
        return None
    return Picture(charts.sample_sizes(rows), f"{metric} against the number of people trained on")


def _tests(result: ProbeResult) -> list[Section]:
    """Return the tested differences, every pair of models once."""
    table = result.differences[result.differences["p_value"].notna()]
    rows: dict[tuple[str, frozenset[str]], Section] = {}
    for record in table.to_dict("records"):
        row = {str(name): value for name, value in record.items()}
        # b - a says nothing new after a - b.
        rows.setdefault((row["target"], frozenset((row["model"], row["against"]))), row)
    return list(rows.values())


# -- what makes it too good ------------------------------------------------------------------------


def _alarms(found: Found) -> list[Section]:
    """Return the alarms; of people only how many there are."""
    shown = []
    for alarm in found.facts["alarms"]:
        people = alarm["kind"] in _PEOPLE or (
            alarm["kind"] == "seen in pretraining" and alarm["severity"] == "leak"
        )
        what, names = alarm["what"], alarm["found"]
        if alarm["kind"] == "duplicate recordings":
            for i, name in enumerate(names):
                what = what.replace(name, ("one recording", "another")[i])
        said = f"{len(names)} named in alarms/part.json" if people else ", ".join(names)
        shown.append({"severity": alarm["severity"], "what": what, "found": said})
    return shown


# -- what else could explain it --------------------------------------------------------------------


def _subgroups(found: Found) -> list[Section]:
    """Return a table per target and column: groups down, models across."""
    table = found.tables["scores"]
    table = table[table["model"].map(role).isin(["model", "random", "connectivity"])]
    blocks = []
    for (target, column), rows in table.groupby(["target", "column"], sort=False):
        metric = rows["metric"].iloc[0]
        rows = rows[rows["metric"] == metric]
        groups: dict[str, Section] = {}
        for row in rows.to_dict("records"):
            one = groups.setdefault(row["group"], {"n": row["n_subjects"], "cells": {}})
            one["cells"][row["model"]] = row
        blocks.append(
            {
                "target": target,
                "column": _COLUMNS.get(str(column), str(column)),
                "metric": metric,
                "models": list(dict.fromkeys(rows["model"])),
                "groups": groups,
            }
        )
    return blocks


def _confounds(found: Found) -> Section:
    readable = found.tables.get("readable", pd.DataFrame())
    rows: dict[str, Section] = {}
    for row in readable.to_dict("records"):
        rows.setdefault(row["model"], {})[row["confound"]] = row
    heads = {
        row["confound"]: f"{row['confound']}, {row['metric']} ({row['chance']:.2f} by chance)"
        for row in readable.to_dict("records")
    }
    return {
        "heads": heads,
        "rows": rows,
        "left_out": found.facts["left_out"],
        "associations": found.tables["associations"].to_dict("records"),
    }


def _adjusted(found: Found) -> Section:
    """Return a row per target, model and variant, next to the scores as they are."""
    scores, gaps = found.tables["scores"], found.tables["differences"]
    first = {t: rows["metric"].iloc[0] for t, rows in scores.groupby("target", sort=False)}
    of_first = [table["metric"] == table["target"].map(first) for table in (scores, gaps)]
    keys = ["target", "model", "variant"]
    scores = scores[of_first[0]]
    cleaned = scores[scores["cleaned"]].set_index(keys)
    plain = scores[~scores["cleaned"]].set_index(keys)
    rows = []
    for gap in gaps[of_first[1]].to_dict("records"):
        key = tuple(gap[k] for k in keys)
        rows.append(
            {**{k: gap[k] for k in keys}, "metric": gap["metric"], "gap": gap}
            | {"plain": plain.loc[key].to_dict(), "cleaned": cleaned.loc[key].to_dict()}
        )
    facts = found.facts
    confounds = [f"{c} (unknown of {n})" if n else c for c, n in facts["unknown"].items()]
    return {"rows": rows, "left_out": facts["left_out"], "confounds": confounds}


def _corruption(found: Found) -> Section:
    curves = found.tables["curves"]
    metric = curves["metric"].iloc[0]
    curves = curves[curves["metric"] == metric]
    clean = curves[curves["corruption"] == "none"]
    worse = curves[curves["corruption"] != "none"]
    return {
        "target": curves["target"].iloc[0],
        "metric": metric,
        "pictures": [
            Picture(charts.corruption_panel(rows, clean), f"{metric} against {what}")
            for what, rows in worse.groupby("corruption", sort=False)
        ],
    }


# -- reliability, maps, networks -------------------------------------------------------------------


def _reliability(found: Found) -> Section:
    of, models = found.facts["of"], found.facts["models"]
    rows: dict[str, Section] = {}
    for row in found.tables["scores"].to_dict("records"):
        if row["measure"] in _MEASURES:
            one = rows.setdefault(row["measure"], {"chance": row["chance"], "cells": {}})
            one["cells"][row["model"]] = row
    matrices = [found.tables[f"similarity{i}"].to_numpy(np.float32) for i in range(len(models))]
    n = min(found.facts["n_subjects"], charts.FINGERPRINTS)
    chosen = np.linspace(0, found.facts["n_subjects"] - 1, n).astype(int)
    return {
        "of": of,
        "n": found.facts["n_subjects"],
        "shown": n,
        "models": models,
        "rows": rows,
        "pictures": [
            Picture(
                charts.fingerprint(matrix[np.ix_(chosen, chosen)], model, of),
                f"Fingerprint matrix of {model}: correlations of first and second {of}",
            )
            for model, matrix in zip(models, matrices, strict=True)
        ],
    }


def _maps(found: Found) -> list[Section]:
    blocks = []
    for i, (model, shares) in enumerate(found.facts["shares"].items()):
        table = found.tables[f"points{i}"]
        points = table[["PC 1", "PC 2"]].to_numpy(np.float64)
        blocks.append(
            {
                "model": model,
                "n": len(table),
                "shares": sum(shares),
                "pictures": [
                    Picture(
                        plots.embedding_map(points, shares, column, table[column]),
                        f"First two principal components of the embeddings, coloured by {column}",
                    )
                    for column in found.facts["columns"]
                ],
            }
        )
    return blocks


def _importance(found: Found) -> Section:
    networks = found.tables["networks"]
    blocks = []
    for i, model in enumerate(found.facts["models"]):
        rois = found.tables[f"rois{i}"]
        summary = networks[networks["model"] == model]
        brain = glass_brain_figure(
            rois[["x", "y", "z"]].to_numpy(np.float64), rois["value"].to_numpy(np.float64)
        )
        pictures = [Picture(occlusion_figure(summary), f"Distances of masked networks, {model}")]
        if brain is not None:
            pictures.insert(0, Picture(brain, f"Glass brain: importance of networks, {model}"))
        blocks.append({"model": model, "pictures": pictures})
    return {"models": blocks, "n": found.facts["n_recordings"]}
