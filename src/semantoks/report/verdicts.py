"""What may be said about scores: sentences that corrected tests decide, never point estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from semantoks.evaluate.compare.roles import CHANCE, RANDOM, role
from semantoks.evaluate.compare.scoring import ALPHA
from semantoks.evaluate.predictors.tuning import untuned_name


@dataclass(frozen=True)
class Verdict:
    """One comparison, in words.

    Parameters
    ----------
    claim : str
        What the tests allow to be said of the better ones.
    rest : str
        Which models it is not said of; may be empty.
    """

    claim: str
    rest: str


def reference(metric: str, classes: Sequence[str] | None) -> tuple[float, str] | None:
    """Return the score of knowing nothing, and what it is called; None where there is none.

    For a correlation that is zero and not the score of the chance model: that one's predictions,
    the means of the training parts, correlate negatively with the truth over folds.
    """
    if metric == "balanced accuracy" and classes:
        return 1.0 / len(classes), "chance"
    return (0.0, "zero") if metric == "Pearson r" else None


def verdicts(scores: pd.DataFrame, differences: pd.DataFrame) -> list[Verdict]:
    """Say for one target what the tests of its first metric show.

    Parameters
    ----------
    scores, differences : DataFrame
        The rows of one target of a `ProbeResult`: p-values adjusted for their number decide.

    Returns
    -------
    list of Verdict
        Against functional connectivity, against random weights (trained models only), and
        against knowing nothing, as far as the result holds them.
    """
    metric = str(scores["metric"].iloc[0])
    scores = scores[(scores["metric"] == metric) & (scores["model"] != CHANCE)]
    gaps = differences[(differences["metric"] == metric) & (differences["verdict"] != "")]
    # Less wrong than a control is no prediction: where r is not above zero, that is said.
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
        said = np.where(scores["p_holm"] < ALPHA, "better", "not told apart")
        found.append(_verdict(scores["model"], pd.Series(said), "knowing nothing", useless))
    return found


def _verdict(models: pd.Series, said: pd.Series, name: str, useless: set[str]) -> Verdict:
    of = {what: models[(said == what).to_numpy()].to_list() for what in ("better", *_REST)}
    better = [f"{m} (but r is not above zero)" if m in useless else m for m in of["better"]]
    rest = [f"{text} {', '.join(of[what])}." for what, text in _REST.items() if of[what]]
    none = f"No model is better than {name}."
    claim = f"Better than {name}: {', '.join(better)}." if better else none
    return Verdict(claim, " ".join(rest))


_REST = {
    "worse": "Worse:",
    "not told apart": "Not told apart from it by these people:",
}


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
    tuned = any("fine_tuned" in facts for facts in meta["models"].values())
    return (
        f"{meta['design']['sentence']} Nobody is in both parts of a fold. Standardisation, the "
        "strength of the penalty and the linear model are fitted in the training part only"
        f"{', and so are fine-tuned models' if tuned else ''}. "
        "Several recordings of a person count once. Scores are over all tested people together, "
        f"with 95 % bootstrap intervals over people ({meta['n_bootstrap']} samples, seed "
        f"{meta['seed']}); differences are paired on the same samples. A model is called better "
        "or worse only where a test says so whose p-value is adjusted for the number of models "
        "and targets (Holm). Intervals are not adjusted; neither they nor the tests cover the "
        "chance in pretraining."
    )
