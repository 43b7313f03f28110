"""Scores on recordings with simulated artefacts."""

from __future__ import annotations

from semantoks.assess.parts.base import Found, Question, Work, listed
from semantoks.assess.parts.section import Pictures, Section, Text
from semantoks.evaluate.checks.corruption import CORRUPTIONS
from semantoks.evaluate.checks.sensitivity import CLEAN, corruption_curves
from semantoks.figures import scores as charts
from semantoks.figures.picture import Picture


def compute(work: Work) -> Found:
    """Score models under every corruption of the table, for the first target."""
    plan = work.plan
    curves = corruption_curves(
        work.store,
        work.in_question,
        plan.targets[0],
        design=plan.design,
        probe=plan.probe,
        missing=plan.missing,
        seed=plan.seed,
    )
    return Found({"curves": curves})


def sentence(found: Found) -> str:
    """Return the part's sentence in the methods paragraph."""
    names = [name for name in found.tables["curves"]["corruption"].unique() if name != CLEAN]
    what = [CORRUPTIONS[name].methods if name in CORRUPTIONS else name for name in names]
    return (
        "Robustness was measured by training on the original recordings and testing on recordings "
        f"with {listed(what)}."
    )


def show(found: Found) -> Section:
    """Return a panel per corruption: one metric against severity."""
    curves = found.tables["curves"]
    metric = curves["metric"].iloc[0]
    curves = curves[curves["metric"] == metric]
    clean = curves[curves["corruption"] == CLEAN]
    worse = curves[curves["corruption"] != CLEAN]
    pictures = [
        Picture(charts.corruption_panel(rows, clean), f"{metric} against {what}")
        for what, rows in worse.groupby("corruption", sort=False)
    ]
    note = (
        f"{metric} of {curves['target'].iloc[0]} for models trained on the original recordings and "
        "tested on corrupted ones. Severity 0: the original recordings. Bands: 95 % intervals over "
        "people."
    )
    return Section("Robustness to artefacts", [Pictures(pictures), Text(note)])


QUESTION = Question(compute=compute, sentence=sentence, show=show)
