"""Scores of features with confounds regressed out, and after ComBat harmonisation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from semantoks.assess.parts.base import Found, Question, Work, listed
from semantoks.assess.parts.section import Column, Section, Table, Text
from semantoks.assess.plan import confound_columns
from semantoks.errors import InputError
from semantoks.evaluate.checks.adjusted import Harmonised, Residualised
from semantoks.evaluate.compare.evaluation import evaluate_probes
from semantoks.evaluate.compare.result import ProbeResult
from semantoks.evaluate.compare.roles import CHANCE
from semantoks.evaluate.compare.scoring import adjusted

#: Name of the features that confounds were regressed out of.
REGRESSED = "confounds regressed out"


def compute(work: Work) -> Found:
    """Compare models with themselves after confound regression, and after ComBat."""
    plan, store = work.plan, work.store
    columns = plan.confounds if plan.confounds is not None else confound_columns(store)
    variants: dict[str, Callable[[Any], Any]] = {}
    if any({*columns} - {target.column} for target in plan.targets):
        variants[REGRESSED] = lambda model: Residualised(model, confounds=columns, unseen="keep")
    if plan.harmonise is not None and store.table[plan.harmonise].notna().any():
        batch, keep = plan.harmonise, plan.keep
        name = f"ComBat over {batch}" + (f", keeping {listed(keep)}" if keep else "")
        variants[name] = lambda model: Harmonised(model, batch=batch, keep=keep, unseen="adapt")
    scores, differences, why_not = [], [], {}
    for what, wrap in variants.items():
        try:
            result = _against_itself(work, {n: wrap(m) for n, m in work.in_question.items()})
        except InputError as error:
            why_not[what] = str(error)
            continue
        scores.append(result.scores.assign(variant=what))
        differences.append(result.differences.assign(variant=what))
    if not scores:
        rule = "; ".join(why_not.values()) or "no confound is known of nine in ten recordings"
        raise InputError(rule, field="adjusted")
    # Every model was compared with itself: these tests alone are one family for Holm.
    old = ["p_holm", "verdict"]
    both = (pd.concat(parts, ignore_index=True) for parts in (scores, differences))
    all_scores, gaps = adjusted(*(table.drop(columns=old, errors="ignore") for table in both))
    return Found(
        {"scores": all_scores, "differences": gaps},
        {
            "variants": [*variants],
            "left_out": why_not,
            "confounds": [*columns],
            "unknown": {c: int(store.table[c].isna().sum()) for c in columns},
        },
    )


def _against_itself(work: Work, wrapped: Mapping[str, Any]) -> ProbeResult:
    """Return scores of models and their cleaned selves, and those differences alone."""
    plan = work.plan
    own = {f"{name}, cleaned": name for name in wrapped}
    result = evaluate_probes(
        work.store,
        {**work.in_question, **{f"{name}, cleaned": model for name, model in wrapped.items()}},
        plan.targets,
        design=plan.design,
        probe=plan.probe,
        missing=plan.missing,
        against=[*wrapped],
        seed=plan.seed,
        metric=plan.metric,
        n_jobs=work.n_jobs,
    )
    kept = result.scores["model"] != CHANCE
    gaps = result.differences
    mine = gaps["model"].map(own) == gaps["against"]
    scores = result.scores[kept].assign(
        cleaned=lambda t: t["model"].isin([*own]), model=lambda t: t["model"].replace(own)
    )
    gaps = gaps[mine].assign(model=lambda t: t["against"])
    return ProbeResult(scores, gaps, result.predictions, result.meta)


def sentence(found: Found) -> str:
    """Return the part's sentence in the methods paragraph."""
    facts = found.facts
    done = [variant for variant in facts["variants"] if variant not in facts["left_out"]]
    how = []
    if REGRESSED in done and facts["confounds"]:
        columns = listed(facts["confounds"])
        how.append(f"with {columns} regressed out of the features (Snoek et al., 2019)")
    fitted = ["Regressions were fitted in the training part; a target was never its own confound."]
    text = [] if not how else fitted
    for variant in (v for v in done if v.startswith("ComBat")):
        how.append(f"after {variant} (Johnson et al., 2007)")
        text.append(
            "ComBat was fitted in the training part; a batch that the training part did not hold "
            "was adapted to it from the features of its own people, without labels."
        )
    return " ".join([f"Models were also scored {listed(how)}.", *text])


def show(found: Found) -> Section:
    """Return a row per target, model and variant, next to the scores of the original features."""
    scores, gaps = found.tables["scores"], found.tables["differences"]
    first = {t: rows["metric"].iloc[0] for t, rows in scores.groupby("target", sort=False)}
    scores, gaps = (t[t["metric"] == t["target"].map(first)] for t in (scores, gaps))
    keys = ["target", "model", "variant"]
    cleaned = scores[scores["cleaned"]].set_index(keys).to_dict("index")
    original = scores[~scores["cleaned"]].set_index(keys).to_dict("index")
    rows = []
    for gap in gaps.to_dict("records"):
        key = (gap["target"], gap["model"], gap["variant"])
        rows.append([*key, original[key], cleaned[key], gap, gap["p_holm"], gap["verdict"]])
    table = Table(
        caption="Scores with confounds regressed out, or sites harmonised",
        columns=[
            Column("target"),
            Column("model"),
            Column("features"),
            Column("original", "estimate"),
            Column("adjusted", "estimate"),
            Column("change", "estimate", "+.2f"),
            Column("p (Holm)", "p"),
            Column("verdict", "verdict"),
        ],
        rows=rows,
    )
    facts = found.facts
    names = [f"{c} (unknown in {n})" if n else c for c, n in facts["unknown"].items()]
    note = (
        f"Confounds: {', '.join(names) or 'none'}; a target is never among its own. Both are "
        "fitted in the training part. Regression keeps the offset of a site that the training part "
        "does not hold, and that of an unknown value. ComBat estimates the offset of such a site "
        "from the features of all its people together, without labels."
    )
    missing = [
        Text(f"{variant} was not computed: {why}.") for variant, why in facts["left_out"].items()
    ]
    return Section("Scores adjusted for confounds", [table, *missing, Text(note)])


QUESTION = Question(compute=compute, sentence=sentence, show=show)
