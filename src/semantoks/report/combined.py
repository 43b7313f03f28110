"""The section on several evaluations together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from semantoks.assess.parts.section import Column, Pictures, Section, Table, Text
from semantoks.evaluate.compare.combine import Combined, combined_table
from semantoks.evaluate.compare.roles import CONNECTIVITY, role
from semantoks.figures.picture import Picture
from semantoks.figures.sites import Diamond, forest


def combined_section(found: Sequence[Combined]) -> Section:
    """Return forest plots of models against connectivity over data sets, and all means."""
    drawn = [one for one in found if one.against == CONNECTIVITY and _in_question(one.model)]
    drawn = drawn or [one for one in found if not one.against and _in_question(one.model)]
    blocks = [Pictures([_picture(one) for one in drawn], size="half")] if drawn else []
    return Section("", [*blocks, _means(found), Text(_note(found))])


def _in_question(model: str) -> bool:
    return role(model) in ("model", "joint")


def _picture(one: Combined) -> Picture:
    """Return the forest plot of one number over data sets."""
    diamonds = []
    if one.summary is not None:
        ends = (one.summary.mean, one.summary.ci_low, one.summary.ci_high)
        diamonds.append(Diamond("random effects", *ends, True))
    what = f"{one.model} − {one.against}" if one.against else one.model
    title = f"{one.metric} of {one.target}: {what}"
    null = None if np.isnan(one.chance) else one.chance
    drawn = forest(one.rows.rename(columns={"result": "site"}), diamonds, title, null)
    values = [f"{r.result} {r.value:.2f}" for r in one.rows.itertuples()]
    means = [f"{d.name} {d.value:.2f}, {d.ci_low:.2f} to {d.ci_high:.2f}" for d in diamonds]
    return Picture(drawn, f"Forest plot over data sets, {title}: {'; '.join([*values, *means])}")


def _means(found: Sequence[Combined]) -> Table:
    rows = combined_table(found).to_dict("records")
    return Table(
        caption="Means over data sets with 95 % intervals (random effects)",
        columns=[
            Column("target"),
            Column("model"),
            Column("minus"),
            Column("metric"),
            Column("data sets", "number", "d"),
            Column("people", "number", "d"),
            Column("mean", "estimate", ".3f"),
            Column("p", "p"),
            Column("tau", "number", ".3f"),
            Column("I²", "number", ".0%"),
        ],
        rows=[
            [r["target"], r["model"], r["against"], r["metric"], r["n_results"], r["n"], r,
             r["p_value"], r["tau"], r["i2"]]
            for r in rows
        ],
    )  # fmt: skip


def _note(found: Sequence[Combined]) -> str:
    """Return what the means assume, and which were not computed."""
    text = (
        "Squares: one data set each, in brackets the people tested. Data sets are independent, of "
        "other people, and a sample of those to which a claim extends: the mean weighs them by "
        "precision and by how much they differ (Paule and Mandel, 1982), its interval and p-value "
        "(against chance, or against no difference; not adjusted) count data sets (Hartung and "
        "Knapp, 2001)."
    )
    few = any(one.summary is None for one in found)
    return f"{text} No mean of fewer than three data sets." if few else text
