"""Predictions of a target: ROC, operating points and calibration, or scatter plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semantoks.assess.parts.section import Column, Pictures, SectionBlock, Table, Text
from semantoks.evaluate.compare.result import ProbeResult
from semantoks.evaluate.compare.roles import CHANCE, CONNECTIVITY, role
from semantoks.evaluate.compare.scoring import Outcomes, score_models
from semantoks.evaluate.stats.operating import OPERATING, RocCurve, roc_curve
from semantoks.figures import scores as charts
from semantoks.figures import sites as of_sites
from semantoks.figures.picture import Picture

#: Models in one figure, or figures of one model each.
SHOWN = 4
#: The specificity at which the sensitivity is stated.
SPECIFICITY = 0.9

_Predicted = Mapping[str, NDArray[np.float64]]


def shown_models(models: Sequence[str]) -> list[str]:
    """Return the models whose predictions are drawn: those in question and connectivity.

    Without a model in question, the first baselines.
    """
    asked = [m for m in models if role(m) == "model"][: SHOWN - 1]
    others = [m for m in models if role(m) == "baseline"]
    chosen = asked or [m for m in others if m != CONNECTIVITY][: SHOWN - 1]
    return [*chosen, *(m for m in models if m == CONNECTIVITY)]


def prediction_blocks(result: ProbeResult, target: str) -> list[SectionBlock]:
    """Return figures and tables of what was predicted of one target."""
    facts = result.meta["targets"][target]
    scores = result.scores[result.scores["target"] == target]
    models = list(dict.fromkeys(scores["model"]))
    tested = result.outcomes(target, models)
    drawn = {m: tested.predicted[m].mean(axis=0) for m in shown_models(models)}
    if facts["kind"] != "classification":
        return _numbers(tested, drawn, target)
    classes = [str(name) for name in facts["classes"]]
    if len(classes) > 2:
        return _classes(tested, drawn, classes, target)
    return _two_classes(tested, drawn, classes, target)


def _numbers(tested: Outcomes, drawn: _Predicted, target: str) -> list[SectionBlock]:
    pictures = [
        Picture(
            of_sites.predictions(tested.y, values, tested.sites, model, target),
            f"{target} predicted by {model} against the true values, coloured by site",
        )
        for model, values in drawn.items()
    ]
    note = (
        "One dot per person. Dashed: prediction = truth. Coloured lines: least squares within a "
        "site; a model that only knows the site has flat lines."
    )
    return [Pictures(pictures), Text(note)]


def _two_classes(
    tested: Outcomes, drawn: _Predicted, classes: Sequence[str], target: str
) -> list[SectionBlock]:
    positive = classes[1]
    curves: dict[str, RocCurve] = {}
    for model in drawn:
        curve = roc_curve(tested.y, tested.balanced(model)[:, 1], tested.strata[0])
        if curve is not None:
            curves[model] = curve
    rows, _ = score_models(tested, (), CHANCE, OPERATING, verdict=False)
    at = {(row["model"], row["metric"]): row for row in rows}
    points = {
        model: (1.0 - at[model, "specificity"]["value"], at[model, "sensitivity"]["value"])
        for model in curves
    }
    pictures = [_calibration(tested.y, drawn, positive, target)]
    if curves:
        roc = Picture(charts.roc(curves, points, positive), f"ROC curves of {target}")
        pictures.insert(0, roc)
    models = [m for m in tested.predicted if m != CHANCE]
    table = Table(
        caption=f"{target}: sensitivity and specificity for {positive} at the chosen threshold",
        columns=[
            Column("model"),
            *(Column(name, "estimate") for name in OPERATING),
            Column(f"sensitivity at specificity {SPECIFICITY:g}", "number"),
        ],
        rows=[
            [model, *(at[model, name] for name in OPERATING), _at(tested, model)]
            for model in models
        ],
    )
    where = "sites" if tested.within_sites else "folds"
    note = (
        f"ROC curves compare people within {where}, so that the area is the AUROC of the table. "
        "Dots and the table are over all people at the threshold of every fold; a dot lies off its "
        f"curve where scores are shifted between {where}. Intervals of the table are over people, "
        f"for the models as they were fitted. Calibration: observed share of {positive} against "
        "its predicted probability; a calibrated model lies on the dashed line."
    )
    return [Pictures(pictures), table, Text(note)]


def _at(tested: Outcomes, model: str) -> float:
    curve = roc_curve(tested.y, tested.balanced(model)[:, 1], tested.strata[0])
    return float("nan") if curve is None else curve.sensitivity_at(SPECIFICITY)


def _classes(
    tested: Outcomes, drawn: _Predicted, classes: Sequence[str], target: str
) -> list[SectionBlock]:
    pictures = [
        Picture(
            charts.confusion(tested.y, tested.balanced(model).argmax(axis=1), classes, model),
            f"Confusion matrix of {model}, {target}",
        )
        for model in drawn
    ]
    pictures.append(_calibration(tested.y, drawn, "the predicted class", target))
    note = (
        "Confusion matrices: share of the true class, and number of people. Calibration: observed "
        "share of people of the predicted class against its predicted probability; a calibrated "
        "model lies on the dashed line."
    )
    return [Pictures(pictures), Text(note)]


def _calibration(y: NDArray[Any], drawn: _Predicted, of: str, target: str) -> Picture:
    figure = charts.calibration(y, drawn, of)
    return Picture(figure, f"Calibration of the probabilities of {target}")
