"""Verdicts: sentences about scores that adjusted tests decide, never point estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from semantoks.evaluate.compare.roles import CHANCE, RANDOM, role
from semantoks.evaluate.compare.scoring import ALPHA, UNDECIDED
from semantoks.evaluate.predictors.tuning import untuned_name


@dataclass(frozen=True)
class Verdict:
    """The result of one comparison, in words.

    Parameters
    ----------
    claim : str
        Which models are significantly better.
    rest : str
        Which are worse or do not differ significantly; may be empty.
    """

    claim: str
    rest: str


def reference(metric: str, classes: Sequence[str] | None) -> tuple[float, str] | None:
    """Return the score at chance and its name; None where there is none.

    For a correlation it is zero, not the score of the chance model: the predictions of that model,
    the means of the training parts, correlate negatively with the truth over folds.
    """
    if metric == "balanced accuracy" and classes:
        return 1.0 / len(classes), "chance"
    return (0.0, "zero") if metric == "Pearson r" else None


def verdicts(scores: pd.DataFrame, differences: pd.DataFrame) -> list[Verdict]:
    """Return what the tests of the first metric of one target show.

    Parameters
    ----------
    scores, differences : DataFrame
        The rows of one target of a `ProbeResult`; its adjusted p-values decide.

    Returns
    -------
    list of Verdict
        Against functional connectivity, against random weights (trained models only), and
        against chance, as far as the result holds them.
    """
    metric = str(scores["metric"].iloc[0])
    scores = scores[(scores["metric"] == metric) & (scores["model"] != CHANCE)]
    gaps = differences[(differences["metric"] == metric) & (differences["verdict"] != "")]
    # A smaller error than a control's is no prediction: a correlation below zero is stated.
    wrong = (metric == "Pearson r") & (scores["value"] <= 0)
    useless = set(scores.loc[wrong, "model"])
    found = []
    for against, rows in gaps.groupby("against", sort=False):
        other = str(against)
        if role(other) == "random":
            of = other.removeprefix(f"{RANDOM} (").removesuffix(")")
            rows = rows[rows["model"].map(role) == "model"]
            rows = rows if other == RANDOM else rows[rows["model"].map(untuned_name) == of]
        if len(rows):
            found.append(_verdict(rows["model"], rows["verdict"], other, useless))
    if scores["p_holm"].notna().any():
        words = np.where(scores["p_holm"] < ALPHA, "better", UNDECIDED)
        found.append(_verdict(scores["model"], pd.Series(words), CHANCE, useless))
    return found


def _verdict(models: pd.Series, words: pd.Series, name: str, useless: set[str]) -> Verdict:
    of: dict[str, list[str]] = {"better": [], "worse": [], UNDECIDED: []}
    for model, word in zip(models, words, strict=True):
        of.get(word, of[UNDECIDED]).append(model)
    better = [f"{m} (but r is not above zero)" if m in useless else m for m in of["better"]]
    claim = f"Better than {name}: {', '.join(better)}." if better else ""
    rest = [("Worse", of["worse"]), (UNDECIDED.capitalize(), of[UNDECIDED])]
    return Verdict(
        claim or f"No model is significantly better than {name}.",
        " ".join(f"{title}: {', '.join(names)}." for title, names in rest if names),
    )


def seen_facts(facts: dict[str, Any]) -> dict[str, Any]:
    """Return which tested people and sites a model saw in pretraining, in words.

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
    known = record["n_recordings"] is not None and record["n_subjects"] is not None
    return {
        "pretraining": f"{record['n_recordings']} recordings of {record['n_subjects']} people"
        if known
        else "not stated",
        "people": f"not stated; some of the {total} may be among them"
        if seen is None
        else f"{seen} of {total}",
        "sites": "not stated" if sites is None else ", ".join(sites) or "none",
        "leak": None if seen is None else bool(seen),
    }


def design_sentences(meta: dict[str, Any]) -> str:
    """Return how people were divided and scores computed, in words."""
    tuned = any("fine_tuned" in facts for facts in meta["models"].values())
    fitted = "the linear model and fine-tuned models" if tuned else "the linear model"
    return (
        f"{meta['design']['sentence']} No person is in both parts of a fold. Standardisation, the "
        f"strength of the penalty and {fitted} are fitted in the training part only. Several "
        "recordings of a person count once. Scores are over all tested people together, with 95 % "
        f"bootstrap intervals over people ({meta['n_bootstrap']} samples, seed {meta['seed']}); "
        "differences are paired on the same samples. A model is called better or worse only where "
        "a test is significant after adjustment for the number of models and targets (Holm). "
        "Intervals are not adjusted. Neither intervals nor tests cover the variation between "
        "pretraining runs."
    )
