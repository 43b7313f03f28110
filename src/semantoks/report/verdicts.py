"""What may be said about scores: sentences that intervals decide, never point estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from semantoks.evaluate.evaluation import CHANCE, CONNECTIVITY, RANDOM
from semantoks.evaluate.statistics import LOWER_IS_BETTER


@dataclass(frozen=True)
class Verdict:
    """One comparison, in words.

    Parameters
    ----------
    claim : str
        What the intervals allow to be said of the better ones.
    rest : str
        Which models it is not said of; may be empty.
    """

    claim: str
    rest: str


def role(model: str) -> str:
    """Return what a model of a result is: model, random, connectivity or chance."""
    if model == CHANCE:
        return "chance"
    if model == CONNECTIVITY:
        return "connectivity"
    return "random" if model == RANDOM or model.startswith(f"{RANDOM} (") else "model"


def reference(metric: str, classes: Sequence[str] | None) -> tuple[float, str] | None:
    """Return the score of knowing nothing, and what it is called; None where there is none.

    For a correlation that is zero and not the score of the chance model: that one's predictions,
    the means of the training parts, correlate negatively with the truth over folds.
    """
    if metric == "balanced accuracy" and classes:
        return 1.0 / len(classes), "chance"
    return (0.0, "zero") if metric == "Pearson r" else None


def verdicts(
    scores: pd.DataFrame, differences: pd.DataFrame, classes: Sequence[str] | None
) -> list[Verdict]:
    """Say for one target what its first metric shows.

    Parameters
    ----------
    scores, differences : DataFrame
        The rows of one target of a `ProbeResult`.
    classes : sequence of str, optional
        Of a classification.

    Returns
    -------
    list of Verdict
        Against functional connectivity, against random weights (trained models only), and
        against knowing nothing, as far as the result holds them.
    """
    metric = str(scores["metric"].iloc[0])
    scores = scores[scores["metric"] == metric]
    gaps = differences[differences["metric"] == metric]
    if metric in LOWER_IS_BETTER:
        gaps = gaps.assign(ci_low=-gaps["ci_high"], ci_high=-gaps["ci_low"])
    gaps = gaps[gaps["model"] != CHANCE]
    found = []
    for against, rows in gaps.groupby("against", sort=False):
        if role(str(against)) == "random":
            rows = rows[rows["model"].map(role) == "model"]
        if len(rows):
            found.append(_verdict(rows, 0.0, str(against)))
    level = reference(metric, classes)
    if level is not None:
        found.append(_verdict(scores[scores["model"] != CHANCE], *level))
    return found


def _verdict(rows: pd.DataFrame, level: float, name: str) -> Verdict:
    """Compare intervals with a level; an interval that is not known decides nothing."""
    low, high = rows["ci_low"].to_numpy(float), rows["ci_high"].to_numpy(float)
    models = rows["model"].to_numpy(str)
    above, below = low > level, high < level
    claim = (
        f"Above {name}: {_names(models[above])}." if above.any() else f"No model is above {name}."
    )
    undecided = ~above & ~below
    rest = {"Below it": below, "Not told apart from it by these people": undecided}
    said = [f"{what}: {_names(models[who])}." for what, who in rest.items() if who.any()]
    return Verdict(claim, " ".join(said))


def _names(models: np.ndarray[Any, Any]) -> str:
    return ", ".join(models.tolist())


def seen_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Return what a model saw in pretraining of those it is tested on, in words.

    Parameters
    ----------
    facts : dict
        ``meta["models"][name]`` of a `ProbeResult`.

    Returns
    -------
    dict
        pretraining, people and sites (texts), and leak: True, False, or None where unknown.
    """
    if not facts["pretrained"]:
        return {"pretraining": "none", "people": "none", "sites": "none", "leak": False}
    seen, total = facts["n_test_subjects_seen"], facts["n_test_subjects"]
    sites, record = facts["test_sites_seen"], facts["pretraining"]
    said = record["n_recordings"] is not None and record["n_subjects"] is not None
    return {
        "pretraining": f"{record['n_recordings']} recordings of {record['n_subjects']} people"
        if said
        else "not stated",
        "people": f"not stated; some of the {total} may be among them"
        if seen is None
        else f"{seen} of {total}",
        "sites": "not stated" if sites is None else ", ".join(sites) or "none",
        "leak": None if seen is None else bool(seen),
    }


def design_sentences(meta: dict[str, Any]) -> str:
    """Return how people were divided and scores computed, in words."""
    return (
        f"{meta['design']['sentence']} Nobody is in both parts of a fold. Standardisation, the "
        "strength of the penalty and the linear model are fitted in the training part only. "
        "Several recordings of a person count once. Scores are over all tested people together, "
        f"with 95 % bootstrap intervals over people ({meta['n_bootstrap']} samples, seed "
        f"{meta['seed']}); differences are paired on the same samples. Intervals are not "
        "corrected for the number of models and targets, and they do not cover the chance in "
        "pretraining and in the folds."
    )
