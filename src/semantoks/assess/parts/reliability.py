"""Reliability of embeddings between sessions, or between halves of a scan."""

from __future__ import annotations

import numpy as np
import pandas as pd

from semantoks.assess.parts.base import Found, Question, Work
from semantoks.assess.parts.section import Column, Pictures, Section, Table, Text
from semantoks.errors import InputError
from semantoks.evaluate.checks.reliability import (
    measure_reliability,
    reliability_differences,
    reliability_scores,
)
from semantoks.evaluate.checks.repeated import comparable, session_pairs
from semantoks.evaluate.compare.roles import CONNECTIVITY
from semantoks.figures import scores as charts
from semantoks.figures.picture import Picture

#: Seconds between the halves of a scan, which a filter would otherwise smear into each other.
GAP = 10.0
_MEASURES = (
    "identification rate",
    "differential identifiability",
    "discriminability",
    "median ICC(3,1)",
)


def compute(work: Work) -> Found:
    """Measure the reliability of features between sessions, or else between halves."""
    table = work.store.table
    try:
        comparable(table.iloc[session_pairs(table)[0]])
        of = "sessions"
    except InputError:
        of = "halves"
    found = measure_reliability(
        work.store,
        work.everything,
        of=of,  # type: ignore[arg-type]
        gap=GAP,
        seed=work.plan.seed,
        n_bootstrap=work.plan.n_bootstrap,
    )
    tables = {
        "scores": reliability_scores(found),
        "differences": reliability_differences(found, CONNECTIVITY),
        "icc": pd.concat(
            pd.DataFrame({"model": name, "icc": one.icc}) for name, one in found.items()
        ).reset_index(drop=True),
    }
    one = next(iter(found.values()))
    order = np.argsort(one.sites, kind="stable")
    for i, each in enumerate(found.values()):
        matrix = pd.DataFrame(each.similarity[np.ix_(order, order)].astype(np.float32))
        tables[f"similarity{i}"] = matrix.rename(columns=str)
    facts = {"of": of, "models": [*found], "n_subjects": len(one.subjects)}
    counts = {"n_sites": len(set(one.sites)), "n_left_out": len(one.left_out)}
    return Found(tables, facts | counts)


def sentence(found: Found) -> str:
    """Return the part's sentence in the methods paragraph."""
    halves = f"the two halves of a scan ({GAP:g} s between them)"
    of = "two sessions" if found.facts["of"] == "sessions" else halves
    return (
        f"Reliability between {of} of {found.facts['n_subjects']} people{_where(found)} was "
        "measured by identification rate (Finn et al., 2015), differential identifiability (Amico "
        "and Goñi, 2018), discriminability (Bridgeford et al., 2021) and intraclass correlation "
        "(Shrout and Fleiss, 1979). People were compared with people of their site; measures of "
        "sites were averaged by their number of people, and mean squares pooled by degrees of "
        "freedom. Chance levels are means over permutations of people within sites."
    )


def _where(found: Found) -> str:
    n, left_out = found.facts.get("n_sites", 1), found.facts.get("n_left_out", 0)
    at = f" at {n} sites" if n > 1 else ""
    return f"{at} ({left_out} alone at their site left out)" if left_out else at


def show(found: Found) -> Section:
    """Return fingerprint matrices and a table of measures."""
    of, models, n = (found.facts[name] for name in ("of", "models", "n_subjects"))
    scores = found.tables["scores"]
    scores = scores[scores["measure"].isin(_MEASURES)]
    cells = scores.set_index(["measure", "model"]).to_dict("index")
    chosen = np.linspace(0, n - 1, min(n, charts.FINGERPRINTS)).astype(int)
    matrices = [found.tables[f"similarity{i}"].to_numpy(np.float32) for i in range(len(models))]
    pictures = [
        Picture(
            charts.fingerprint(matrix[np.ix_(chosen, chosen)], model, of),
            f"Fingerprint matrix of {model}: correlations of first and second {of}",
        )
        for model, matrix in zip(models, matrices, strict=True)
    ]
    some = f"; the matrices show {len(chosen)} of them" if len(chosen) < n else ""
    some += "; people are ordered by site" if found.facts.get("n_sites", 1) > 1 else ""
    table = Table(
        caption=f"{n} people{_where(found)}, measured twice and compared within sites{some}",
        columns=[
            Column("measure"),
            Column("chance", "number"),
            *(Column(model, "estimate") for model in models),
        ],
        rows=[
            [measure, cells[measure, models[0]]["chance"], *(cells[measure, m] for m in models)]
            for measure in dict.fromkeys(scores["measure"])
        ],
    )
    note = "A model can recognise people without predicting anything about them: reliability is "
    note += "necessary, not sufficient."
    if of == "halves":
        note = (
            "The halves of a scan share the day, the scanner and the position of the head: "
            f"sessions would agree less. {note}"
        )
    return Section(f"Reliability between {of}", [Pictures(pictures), table, Text(note)])


QUESTION = Question(compute=compute, sentence=sentence, show=show)
