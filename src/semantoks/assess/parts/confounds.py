"""What features and targets share with site, scanner, TR and motion."""

from __future__ import annotations

import numpy as np
import pandas as pd

from semantoks.assess.parts.base import Found, Question, Work
from semantoks.assess.parts.section import Column, Section, SectionBlock, Table, Text
from semantoks.errors import InputError
from semantoks.evaluate.checks.associations import associations
from semantoks.evaluate.checks.confounds import ACQUISITION, confound_table


def compute(work: Work) -> Found:
    """Predict site, scanner, TR and motion from features, and test targets against them."""
    table = work.store.table
    features = {
        name: np.asarray(model.fit(work.store).transform(work.store))
        for name, model in work.everything.items()
    }
    found, left_out = [], {}
    for column in (c for c in ACQUISITION if c in table and table[c].nunique() > 1):
        try:
            part = confound_table(
                features,
                table,
                [column],
                seed=work.plan.seed,
                n_bootstrap=work.plan.n_bootstrap,
            )
        except InputError as error:  # e.g. too few people of a site; the other columns still count
            left_out[column] = str(error)
        else:
            found.append(part)
    tied = associations(table, work.plan.targets)
    if not found and tied.empty:
        rule = "; ".join(left_out.values()) or "no confound is known of these recordings"
        raise InputError(rule, field="confounds")
    tables = {"associations": tied.assign(where=tied["where"].map(list))}
    if found:
        tables["readable"] = pd.concat(found, ignore_index=True)
    return Found(tables, {"left_out": left_out})


def sentence(_: Found) -> str:
    """Return the part's sentence in the methods paragraph."""
    return (
        "The same linear model predicted acquisition variables (site, scanner, TR, motion) from "
        "the same features, and we tested the association of every target with them."
    )


def show(found: Found) -> Section:
    """Return what features tell of confounds, and how targets are associated with them."""
    blocks: list[SectionBlock] = []
    if "readable" in found.tables:
        blocks.append(_readable(found.tables["readable"]))
    blocks += [
        Text(f"{column} was not predicted: {why}.")
        for column, why in found.facts["left_out"].items()
    ]
    associated = found.tables["associations"]
    if len(associated):
        blocks.append(_associated(associated))
    return Section("Confounds", blocks)


def _readable(table: pd.DataFrame) -> Table:
    heads = {row["confound"]: row for row in table.to_dict("records")}
    cells = table.set_index(["model", "confound"]).to_dict("index")
    return Table(
        caption="How well the same linear model predicts confounds from the same features (five "
        "folds over people): the better, the more of a score may be due to them",
        columns=[
            Column("model"),
            *(
                Column(f"{name}, {row['metric']} (chance {row['chance']:.2f})", "estimate")
                for name, row in heads.items()
            ),
        ],
        rows=[
            [model, *(cells[model, name] for name in heads)]
            for model in dict.fromkeys(table["model"])
        ],
    )


def _associated(table: pd.DataFrame) -> Table:
    return Table(
        caption="Association of targets with confounds, over people",
        columns=[
            Column("target"),
            Column("confound"),
            Column("test"),
            Column("p (Holm)", "p"),
            Column("effect size"),
            Column("at least medium"),
            Column("differs most in"),
        ],
        rows=[
            [
                row["target"],
                row["confound"],
                row["test"],
                row["p_holm"],
                f"{row['effect_name']} {row['effect']:.2f}",
                "yes" if row["effect"] >= row["medium"] else "no",
                "; ".join(row["where"]),
            ]
            for row in table.to_dict("records")
        ],
    )


QUESTION = Question(compute=compute, sentence=sentence, show=show)
