"""Verdicts: sentences about scores that adjusted tests decide, never point estimates."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from semantoks.evaluate.compare.roles import CHANCE, CONNECTIVITY, RANDOM, beside, role
from semantoks.evaluate.compare.scoring import UNDECIDED
from semantoks.evaluate.predictors.tuning import untuned_name


@dataclass(frozen=True)
class Verdict:
    """The result of one comparison, in words.

    Parameters
    ----------
    claim : str
        Which models are significantly better or worse, by how much, with 95 % intervals.
    rest : str
        Which do not differ significantly, with the difference that would be found with a power of
        80 %; may be empty.
    """

    claim: str
    rest: str


def verdicts(
    scores: pd.DataFrame,
    differences: pd.DataFrame,
    why_not: str = "",
    constant: Sequence[str] = (),
) -> list[Verdict]:
    """Return what the tests of the first metric of one target show.

    Differences are those of the models in question; without any, those of the baselines.

    Parameters
    ----------
    scores, differences : DataFrame
        The rows of one target of a `ProbeResult`; its adjusted p-values decide.
    why_not : str
        Why nothing is tested; empty where it is.
    constant : sequence of str
        Models that predict the same for everyone.

    Returns
    -------
    list of Verdict
        Against functional connectivity, against random weights (trained models only), and
        against chance, as far as the result holds them.
    """
    metric = str(scores["metric"].iloc[0])
    gaps = differences[differences["metric"] == metric]
    same = [name for name in constant if name in set(scores["model"])]
    found = []
    if same:
        claim = f"The same prediction for everyone: {', '.join(same)}."
        found.append(Verdict(claim, f"Not tested against {CHANCE}."))
    if why_not:
        return [Verdict(f"No verdict: {why_not}.", _untested(gaps)), *found]
    scores = scores[(scores["metric"] == metric) & (scores["verdict"] != "")]
    found += _compared(gaps[gaps["verdict"] != ""])
    if len(scores):
        level = float(scores["chance"].iloc[0])
        found.append(_verdict(scores, f"{CHANCE} ({level:g})", numbers=False))
    return found


def battery_verdicts(battery: pd.DataFrame) -> list[Verdict]:
    """Return what the tests over all targets together show; see `ProbeResult.battery`."""
    return _compared(battery)


def battery_sentence(battery: pd.DataFrame) -> str:
    """Return what a difference over all targets is, and that it is another question."""
    return (
        f"Over {int(battery['n_targets'].max())} targets together: the mean of their differences, "
        "each divided by its root mean square over units, between -1 and 1. Intervals and tests "
        "leave every unit out of all targets at once. Holm adjusts over the models compared with "
        "one control. Which target a difference is on, this does not tell."
    )


def _compared(gaps: pd.DataFrame) -> list[Verdict]:
    """Return a verdict for every control of the models in question, or of the baselines."""
    found = []
    asked = gaps["model"].map(role).eq("model") | gaps["model"].map(beside).eq(gaps["against"])
    gaps = gaps[asked] if asked.any() else gaps
    for against, rows in gaps.groupby("against", sort=False):
        other = str(against)
        if role(other) == "random":
            of = other.removeprefix(f"{RANDOM} (").removesuffix(")")
            rows = rows[rows["model"].map(role) == "model"]
            rows = rows if other == RANDOM else rows[rows["model"].map(untuned_name) == of]
        if len(rows):
            found.append(_verdict(rows, other, numbers=True))
    return found


def _verdict(rows: pd.DataFrame, name: str, *, numbers: bool) -> Verdict:
    of: dict[str, list[str]] = {"better": [], "worse": [], UNDECIDED: []}
    for row in rows.to_dict("records"):
        known = [_numbers(row)] if numbers else []
        if row["verdict"] == UNDECIDED:  # what could have been found, not silence
            known.append(f"detectable: {row['detectable']:.2g}")
        of[row["verdict"]].append(f"{row['model']} ({'; '.join(known)})" if known else row["model"])
    claims = [
        f"{word.capitalize()} than {name}: {', '.join(of[word])}."
        for word in ("better", "worse")
        if of[word]
    ]
    rest = f"{', '.join(of[UNDECIDED])}." if of[UNDECIDED] else ""
    if not claims:
        return Verdict(f"No model differs significantly from {name}.", rest)
    return Verdict(" ".join(claims), f"{UNDECIDED.capitalize()}: {rest}" if rest else "")


def _untested(gaps: pd.DataFrame) -> str:
    """Return the differences between models and connectivity, which nothing tests."""
    rows = gaps[(gaps["against"] == CONNECTIVITY) & gaps["model"].map(role).eq("model")]
    named = [f"{row['model']} {_numbers(row)}" for row in rows.to_dict("records")]
    return f"Difference from {CONNECTIVITY}, untested: {', '.join(named)}." if named else ""


def _numbers(row: Mapping[Hashable, Any]) -> str:
    low, high = (format(row[name], ".3f") for name in ("ci_low", "ci_high"))
    return f"{row['value']:+.3f} [{low}, {high}]"


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


def counted_sentence(counted: Mapping[str, Any]) -> str:
    """Return what intervals and tests of a target count, in words.

    Parameters
    ----------
    counted : mapping
        ``meta["targets"][name]["counted"]`` of a `ProbeResult`.
    """
    what = "Intervals" if counted["why_not"] else "Intervals and tests"
    return f"{what} are over {counted['n']} {counted['units']}."


def minutes_sentence(facts: Mapping[str, Any]) -> str:
    """Return who is behind scores against minutes of scan; see `MinutesCurve`."""
    left = facts["models_left_out"]
    text = (
        f"Every point is of the same {facts['n_people']} people in the same folds, trained and "
        "tested on the first minutes of data of every recording; volumes censored for motion do "
        f"not count. {facts['n_excluded']} people have less than {facts['minutes'][-1]:g} minutes "
        "and are excluded from all points."
    )
    return f"{text} Not computed for {', '.join(left)}." if left else text


def design_sentences(meta: dict[str, Any]) -> str:
    """Return how people were divided and scores computed, in words."""
    tuned = any("fine_tuned" in facts for facts in meta["models"].values())
    fitted = "the linear model and fine-tuned models" if tuned else "the linear model"
    return (
        f"{meta['design']['sentence']} No person is in both parts of a fold. Scaling, the "
        f"strength of the penalty, thresholds and {fitted} are fitted in the training part only. "
        "Several recordings of a person count once. AUROC, concordance and r compare "
        "people of one site (of one fold where sites are unknown) and are then averaged over "
        "sites. The estimate, its 95 % interval and the verdict are of one number, from a "
        "jackknife over the units of the question that counts each of them as tested and as "
        "trained on. A model is called better or worse only where the test is significant "
        "after adjustment for the number of "
        "models and targets (Holm). Intervals are not adjusted. They cover the variation between "
        "pretraining runs only where several runs of a model are given."
    )
