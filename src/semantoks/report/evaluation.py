"""The section of an evaluation: the answer first, then what it rests on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from semantoks.assess.assessment import Assessment
from semantoks.assess.parts.section import Column, Pictures, Section, SectionBlock, Table, Text
from semantoks.assess.parts.table import PARTS
from semantoks.evaluate.compare.result import ProbeResult
from semantoks.evaluate.compare.roles import CHANCE, CONNECTIVITY, role
from semantoks.evaluate.compare.scoring import UNDECIDED
from semantoks.figures import runs as plots
from semantoks.figures import scores as charts
from semantoks.figures.picture import Picture
from semantoks.report.choices import choice_table
from semantoks.report.methods import methods_paragraph
from semantoks.report.names import metric_name
from semantoks.report.predictions import prediction_blocks, shown_models
from semantoks.report.sections import Facts
from semantoks.report.sites import Pair, forest_blocks, site_table
from semantoks.report.verdicts import (
    battery_sentence,
    battery_verdicts,
    counted_sentence,
    design_sentences,
    minutes_sentence,
    seen_facts,
    verdicts,
)


def evaluation_section(name: str, found: Assessment) -> Facts:
    """Return what is shown of one evaluation: the comparison, and the section of every part."""
    result = found.comparison
    targets = list(result.meta["targets"])
    questions = [(part.load(), found.parts[n]) for n, part in PARTS.items() if n in found.parts]
    return {
        "name": name,
        "meta": result.meta,
        "on_top": [question.show(part) for question, part in questions if question.on_top],
        "answers": [_answer(result, target) for target in targets],
        "first": [
            Section("", [_headline(result)]),
            Section("All targets together", _battery(result)),
            Section("Sites", _main_comparison(result, targets[0])),
        ],
        "design": design_sentences(result.meta),
        "details": [
            *(Section(target, _target_blocks(result, target)) for target in targets),
            Section("Comparisons", _comparisons(result)),
            *(question.show(part) for question, part in questions if not question.on_top),
        ],
        "why_not": found.why_not,
        "methods": methods_paragraph(found),
        "folds": [_folds(target, facts) for target, facts in result.meta["targets"].items()],
    }


# -- the answer ------------------------------------------------------------------------------------


def _answer(result: ProbeResult, target: str) -> Facts:
    """Return the verdicts of one target, and the scores that they are about as a figure."""
    facts = result.meta["targets"][target]
    scores = result.scores[result.scores["target"] == target]
    gaps = result.differences[result.differences["target"] == target]
    first = str(facts["metric"])
    drawn = scores[(scores["metric"] == first) & (scores["model"] != CHANCE)]
    drawn = drawn.assign(role=lambda t: t["model"].map(role))
    chance = float(drawn["chance"].iloc[0])
    alt = "; ".join(
        f"{r.model} {r.value:.2f}, interval {r.ci_low:.2f} to {r.ci_high:.2f}"
        for r in drawn.itertuples()
    )
    return {
        "name": target,
        "metric": metric_name(result, target, first),
        "verdicts": verdicts(scores, gaps, facts["counted"]["why_not"], facts.get("constant", ())),
        "counted": counted_sentence(facts["counted"]),
        "picture": Picture(
            plots.score_intervals(drawn, None if np.isnan(chance) else (chance, "chance")),
            f"{first} of {target} with 95 % intervals: {alt}",
        ),
    }


def _headline(result: ProbeResult) -> Table:
    """Return models x targets: the deciding metric, its interval and what its tests decide."""
    firsts = {target: facts["metric"] for target, facts in result.meta["targets"].items()}
    deciding = result.scores["metric"] == result.scores["target"].map(firsts)
    scores = result.scores[deciding & (result.scores["model"] != CHANCE)]
    cells: dict[tuple[str, str], Facts] = {
        (row["model"], row["target"]): {**row, "note": _decided(result, row)}
        for row in [{str(k): v for k, v in r.items()} for r in scores.to_dict("records")]
    }
    return Table(
        caption=f"Scores with 95 % intervals, and what they differ from significantly, of {CHANCE} "
        f"and {CONNECTIVITY}; n.s.: from neither. Detectable: the difference from {CONNECTIVITY} "
        "that would be found with a power of 80 %",
        columns=[
            Column("model"),
            *(
                Column(f"{target}, {metric_name(result, target, metric)}", "estimate", ".3f")
                for target, metric in firsts.items()
            ),
        ],
        rows=[
            [model, *(cells[model, target] for target in firsts)]
            for model in dict.fromkeys(scores["model"])
        ],
    )


def _decided(result: ProbeResult, score: Facts) -> str:
    """Return what the tests of one score decide, in a few words."""
    if not score["verdict"]:
        return ""
    of: dict[str, list[str]] = {"better": [], "worse": []}
    detectable = []
    gaps = result.differences
    same = [gaps[key] == score[key] for key in ("target", "model", "metric")]
    rows = np.logical_and.reduce([*same, gaps["against"] == CONNECTIVITY])
    for gap in gaps[rows & (gaps["verdict"] != "")].to_dict("records"):
        if gap["verdict"] == UNDECIDED:
            detectable.append(f"detectable {gap['detectable']:.2g}")
        else:
            of[gap["verdict"]].append(CONNECTIVITY)
    if score["verdict"] != UNDECIDED:
        of[score["verdict"]].append(CHANCE)
    words = [f"{verdict} than {' and '.join(names)}" for verdict, names in of.items() if names]
    return "; ".join([*(words or ["n.s."]), *detectable])


def _battery(result: ProbeResult) -> list[SectionBlock]:
    """Return the verdicts over all targets together and their table, where there are several."""
    table = result.battery
    if table.empty:
        return []
    words = " ".join(f"{v.claim} {v.rest}".rstrip() for v in battery_verdicts(table))
    rows = [{str(k): v for k, v in row.items()} for row in table.to_dict("records")]
    heads = [Column("better on", "number", "d"), Column("of targets", "number", "d")]
    tests = Table(
        caption="Differences over all targets together",
        columns=[
            Column("model"),
            Column("against"),
            *heads,
            Column("standardised difference", "estimate", "+.3f"),
            Column("p", "p"),
            Column("p (Holm)", "p"),
            Column("detectable", "number", ".3f"),
            Column("verdict", "verdict"),
        ],
        rows=[
            [r["model"], r["against"], r["n_better"], r["n_targets"], r, r["p_value"],
             r["p_holm"], r["detectable"], r["verdict"]]
            for r in rows
        ],
        fold="closed",
    )  # fmt: skip
    return [Text(words), tests, Text(battery_sentence(table))]


def _main_comparison(result: ProbeResult, target: str) -> list[SectionBlock]:
    """Return the forest plot of the first model in question against connectivity."""
    return forest_blocks(result, target, _pairs(result)[:1], explained=True)


def _pairs(result: ProbeResult) -> list[Pair]:
    """Return the models whose forest plots are drawn, against connectivity where it was run."""
    models = list(dict.fromkeys(result.scores["model"]))
    against = CONNECTIVITY if CONNECTIVITY in models else ""
    asked = [m for m in shown_models(models) if m != against]
    return [(m, against) for m in asked] or [(models[0], "")]


# -- what it rests on ------------------------------------------------------------------------------


def _target_blocks(result: ProbeResult, target: str) -> list[SectionBlock]:
    facts = result.meta["targets"][target]
    scores = result.scores[result.scores["target"] == target]
    metrics = list(dict.fromkeys(scores["metric"]))
    cells = scores.set_index(["model", "metric"]).to_dict("index")
    n_folds = len(facts["folds"])
    of = f" of {', '.join(facts['classes'])}" if facts["classes"] else ""
    about = f"{facts['kind']}{of} · {int(scores['n_subjects'].iloc[0])} tested people in {n_folds} "
    about += f"fold{'s' * (n_folds > 1)} · tests on {facts['metric']}"
    if facts["n_left_out"]:
        about += f" · {facts['n_left_out']} recordings without a value excluded"
    table = Table(
        caption=f"Scores of {target}",
        columns=[
            Column("model"),
            *(Column(metric_name(result, target, metric), "estimate") for metric in metrics),
        ],
        rows=[
            [model, *(cells[model, metric] for metric in metrics)]
            for model in dict.fromkeys(scores["model"])
        ],
    )
    blocks: list[SectionBlock] = [Text(about), table, *prediction_blocks(result, target)]
    first = next(iter(result.meta["targets"]))
    blocks += forest_blocks(result, target, _pairs(result)[int(target == first) :])
    folded = (site_table(result, target), choice_table(result, target))
    blocks += [table for table in folded if table is not None]
    metric = str(facts["metric"])
    blocks += _curve(result.curve, target, metric, "n_train", "number of training subjects")
    return blocks + _minutes(result, target, metric)


def _minutes(result: ProbeResult, target: str, metric: str) -> list[SectionBlock]:
    """Return scores against minutes of scan, if asked for, and who they are of."""
    blocks = _curve(result.minutes, target, metric, "minutes", "minutes of scan")
    return [*blocks, Text(minutes_sentence(result.meta["minutes"]))] if blocks else []


def _curve(rows: pd.DataFrame, target: str, metric: str, of: str, label: str) -> list[SectionBlock]:
    """Return scores against how much there is to learn from, if asked for."""
    rows = rows[(rows["target"] == target) & (rows["metric"] == metric) & (rows["model"] != CHANCE)]
    if rows.empty:
        return []
    alt = f"{metric} of {target} against {label}"
    chance = float(rows["chance"].iloc[0])
    level = None if np.isnan(chance) else chance
    figure = charts.sample_sizes(rows, level, of=of, label=label)
    table = Table(
        caption=f"{target}: scores against {label}",
        columns=[
            Column("model"),
            Column(label, "number", "g"),
            Column(metric, "estimate", ".3f"),
        ],
        rows=[[row["model"], row[of], row] for row in rows.to_dict("records")],
        fold="closed",
    )
    note = Text("Bands: 95 % intervals over people, for the models as they were fitted.")
    return [Pictures([Picture(figure, alt)], size="half"), note, table]


def _comparisons(result: ProbeResult) -> list[SectionBlock]:
    """Return the tested differences, each pair of models once, and what models had seen."""
    table = result.differences[result.differences["p_value"].notna()]
    rows: dict[tuple[str, frozenset[str]], Facts] = {}
    for row in table.to_dict("records"):
        # b - a repeats a - b.
        pair = frozenset((row["model"], row["against"]))
        rows.setdefault((row["target"], pair), {str(k): v for k, v in row.items()})
    blocks: list[SectionBlock] = [_tests(list(rows.values()))] if rows else []
    note = (
        "Tests are of the first metric of each target, which is fixed beforehand. Holm adjusts "
        "over all models and targets that are compared with one control. Detectable: the true "
        "difference that this comparison would find with a power of 80 %, unadjusted."
    )
    return [*blocks, *[Text(note)] * bool(rows), _seen(result)]


def _tests(rows: Sequence[Facts]) -> Table:
    return Table(
        caption=f"All {len(rows)} tested differences",
        columns=[
            Column("target"),
            Column("model"),
            Column("against"),
            Column("difference", "estimate", "+.3f"),
            Column("p", "p"),
            Column("p (Holm)", "p"),
            Column("detectable", "number", ".3f"),
            Column("verdict", "verdict"),
        ],
        rows=[
            [r["target"], r["model"], r["against"], r, r["p_value"], r["p_holm"], r["detectable"],
             r["verdict"]]
            for r in rows
        ],
        fold="closed",
    )  # fmt: skip


def _seen(result: ProbeResult) -> Table:
    """Return what models saw of the tested people in pretraining; open if one saw any."""
    seen = {name: seen_facts(facts) for name, facts in result.meta["models"].items()}
    trained = {name: facts for name, facts in seen.items() if facts["pretraining"] != "none"}
    doubtful = any(facts["leak"] is not False for facts in trained.values())
    return Table(
        caption="Tested people and sites that each model saw in pretraining",
        columns=[
            Column("model"),
            Column("pretraining"),
            Column("tested people seen", "flag"),
            Column("test sites seen", "flag"),
        ],
        rows=[
            [
                name,
                facts["pretraining"],
                {"text": facts["people"], "flagged": facts["leak"] is not False},
                {"text": facts["sites"], "flagged": facts["sites"] != "none"},
            ]
            for name, facts in seen.items()
        ],
        fold="open" if doubtful else "closed",
    )


def _folds(target: str, facts: Facts) -> Table:
    n, left_out = facts["n_recordings"], facts["n_left_out"]
    return Table(
        caption=f"Folds of {target}: {n} recordings, {left_out} excluded",
        columns=[
            Column("test part"),
            Column("training recordings", "number", "d"),
            Column("test recordings", "number", "d"),
        ],
        rows=[[fold["name"], fold["n_train"], fold["n_test"]] for fold in facts["folds"]],
    )
