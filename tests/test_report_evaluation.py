"""The report of an evaluation: numbers of the page are those of the result."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from sklearn import metrics as sk

from semantoks.assess.assessment import Assessment
from semantoks.assess.parts.section import Column, Table
from semantoks.data.designs import GroupedKFold
from semantoks.evaluate.compare.evaluation import evaluate_probes
from semantoks.evaluate.compare.result import ProbeResult
from semantoks.evaluate.compare.scoring import UNDECIDED
from semantoks.evaluate.compare.targets import Target
from semantoks.evaluate.stats.heterogeneity import random_effects
from semantoks.evaluate.stats.operating import OPERATING, roc_curve
from semantoks.figures.sites import Diamond, forest, predictions
from semantoks.figures.style import PALETTE, UNKNOWN
from semantoks.report.cells import cell, download
from semantoks.report.choices import choice_table
from semantoks.report.evaluation import evaluation_section
from semantoks.report.page import write_report
from semantoks.report.sites import forest_blocks


@pytest.fixture(scope="module")
def result(store):
    rng = np.random.default_rng(0)
    models = {"features": rng.standard_normal((13, 4)), "other": rng.standard_normal((13, 3))}
    return evaluate_probes(
        store,
        {name: values.astype(np.float32) for name, values in models.items()},
        [Target("sex", "classification", "male"), "age"],
        baselines=("connectivity",),
        design=GroupedKFold(n_folds=3),
    )


def saved(link):
    """Return the table that a download link holds."""
    data = re.search(r"base64,([^\"]*)\"", link)[1]
    return pd.read_csv(io.BytesIO(base64.b64decode(data)), sep="\t")


# -- tables ----------------------------------------------------------------------------------------


def test_every_table_of_the_page_can_be_saved_with_all_digits(result, tmp_path):
    result.save(tmp_path / "r")
    write_report(tmp_path / "r.html", results=[tmp_path / "r"])
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    links = re.findall(r'<a class="download".*?</a>', page)
    assert len(links) == page.count("<table") > 6
    names = [re.search(r'download="([^"]*)"', link)[1] for link in links]
    assert len(set(names)) == len(names)
    sex = saved(links[names.index("scores-of-sex.tsv")]).set_index("model")
    held = result.scores.query("target == 'sex'").set_index(["model", "metric"])
    for model in ("features", "connectivity"):
        for column, name in (("AUROC", "value"), ("AUROC, ci_low", "ci_low")):
            assert sex.loc[model, column] == held.loc[(model, "AUROC"), name]


def test_cells_with_tabs_and_quotes_survive_the_download():
    odd = 'a\t"b"\nc'
    columns = [Column("who"), Column("score", "estimate"), Column("seen", "flag")]
    value = {"value": 1 / 3, "ci_low": -0.5, "ci_high": float("nan"), "note": odd}
    row = [odd, value, {"text": "all", "flagged": True}]
    table = saved(download(Table(columns=columns, rows=[row], caption="A, b: C")))
    assert table.columns.tolist() == [
        "who",
        "score",
        "score, ci_low",
        "score, ci_high",
        "score, note",
        "seen",
    ]
    assert table.iloc[0, 0] == table.iloc[0, 4] == odd
    assert table.iloc[0, 1] == 1 / 3
    assert pd.isna(table.iloc[0, 3])


def test_an_estimate_without_an_interval_shows_none():
    known = {"value": -0.123, "ci_low": -0.2, "ci_high": 0.05}
    assert "−0.12 <span>[−0.20, 0.05]</span>" in cell(known, Column("x", "estimate"))
    unknown = known | {"ci_low": float("nan"), "ci_high": float("nan")}
    assert cell(unknown, Column("x", "estimate")) == '<td class="number">−0.12</td>'
    assert "[−0.20, 0.05]" in cell(known, Column("x", "range"))
    assert "0.12" not in cell(known, Column("x", "range"))


def test_the_positive_class_and_its_prevalence_are_named(result):
    section = evaluation_section("r", Assessment(result, {}, {}, {}))
    details = {part.title: part for part in section["details"]}
    heads = [column.head for column in details["sex"].blocks[1].columns]
    truth = result.predictions.query("target == 'sex' and model == 'chance' and repeat == 0")
    share = truth.drop_duplicates("unit")["truth"].eq("male").mean()
    assert f"AUPRC of male (prevalence {share:.2f})" in heads
    assert "macro F1" in heads
    assert "F1" not in heads
    captions = [block.caption for block in details["sex"].blocks if block.block == "table"]
    assert "sex: sensitivity and specificity for male at the chosen threshold" in captions


def test_the_first_table_says_what_tests_decide(result):
    def note(score, gap):
        scores = result.scores.assign(verdict=lambda t: np.where(t["p_value"].notna(), score, ""))
        gaps = result.differences.assign(detectable=0.0123)
        gaps = gaps.assign(verdict=lambda t: np.where(t["p_value"].notna(), gap, ""))
        changed = replace(result, scores=scores, differences=gaps)
        section = evaluation_section("r", Assessment(changed, {}, {}, {}))
        rows = {row[0]: row for row in section["first"][0].blocks[0].rows}
        return rows["features"][1]["note"]

    assert note("better", "worse") == "better than chance; worse than connectivity"
    assert note("better", "better") == "better than connectivity and chance"
    assert note(UNDECIDED, UNDECIDED) == "n.s.; detectable 0.012"
    assert note("", "") == "", "nothing was tested"


def test_what_inner_folds_chose_is_shown(result):
    table = choice_table(result, "sex")
    held = result.choices.query("target == 'sex' and model == 'features' and size == 0")
    row = next(row for row in table.rows if row[0] == "features")
    assert row[1]["value"] == np.median(held["strength"])
    assert row[1]["ci_high"] == held["strength"].max()
    ends = [s in (min(g), max(g)) for s, g in zip(held["strength"], held["strengths"], strict=True)]
    assert row[2] == np.mean(ends)
    male = [limits[1] for limits in held["thresholds"]]
    assert (row[3]["ci_low"], row[3]["ci_high"]) == (min(male), max(male))
    assert len(choice_table(result, "age").columns) == 3, "numbers have no threshold"


# -- sites -----------------------------------------------------------------------------------------


def test_the_forest_plot_shows_sites_the_verdict_and_the_other_summary(result):
    pictures, table = forest_blocks(result, "age", [("features", "connectivity")])
    axes = pictures.pictures[0].figure.axes[0]
    of = (result.sites["model"] == "features") & (result.sites["against"] == "connectivity")
    sites = result.sites[of & (result.sites["target"] == "age")]
    squares = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "s"]
    assert sorted(squares) == sorted(sites["value"])
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert [int(n) for n in re.findall(r"\((\d+)\)", " ".join(names))] == sorted(
        sites["n"], reverse=True
    )
    gap = result.differences.query(
        "target == 'age' and metric == 'MAE gain' and model == 'features' "
        "and against == 'connectivity'"
    ).iloc[0]
    filled, *others = axes.patches
    assert {*filled.get_xy()[:, 0]} == {gap["ci_low"], gap["value"], gap["ci_high"]}
    other = random_effects(sites["value"].to_numpy(float), sites["se"].to_numpy(float))
    if other is None:
        assert not others
    else:
        assert {*others[0].get_xy()[:, 0]} == {other.ci_low, other.mean, other.ci_high}
        assert table.rows[0][2]["value"] == other.mean
    assert table.rows[0][1]["value"] == gap["value"]


def test_no_forest_plot_where_sites_are_unknown(result):
    bare = ProbeResult(result.scores, result.differences, result.predictions, result.meta)
    assert forest_blocks(bare, "age", [("features", "connectivity")]) == []


def test_a_site_without_an_error_is_drawn_without_an_interval():
    sites = pd.DataFrame(
        {"site": ["$a$", "b"], "n": [4, 16], "value": [0.2, 0.7]}
        | {"ci_low": [np.nan, 0.6], "ci_high": [np.nan, 0.8]}
    )
    axes = forest(sites, [Diamond("all", 0.5, 0.4, 0.6, True)], "AUROC", 0.5).axes[0]
    assert [list(line.get_xdata()) for line in axes.lines[1:-1:2]][1] == [0.6, 0.8]
    assert axes.get_yticklabels()[0].get_text() == "$a$  (4)"


def test_people_are_coloured_by_site_with_a_line_for_every_site():
    rng = np.random.default_rng(0)
    names = [f"s{i:02}" for i in range(10)]
    sites = np.repeat(names, range(3, 13))
    y = rng.standard_normal(len(sites))
    slopes = dict(zip(names, np.linspace(-1, 1, 10), strict=True))
    predicted = np.array([slopes[s] * v + 5 for s, v in zip(sites, y, strict=True)])
    axes = predictions(y, predicted, sites, "m", "age").axes[0]
    _, *lines = axes.lines
    found = [float(np.diff(line.get_ydata())[0] / np.diff(line.get_xdata())[0]) for line in lines]
    assert found == pytest.approx(list(slopes.values()))
    shades = [to_hex(c) for c in axes.collections[0].get_facecolors()]
    assert {shades[i] for i in np.flatnonzero(sites == "s09")} == {PALETTE[7].lower()}
    assert {shades[i] for i in np.flatnonzero(sites == "s00")} == {UNKNOWN}, "8 colours, 10 sites"
    alone = predictions(y, predicted, np.full(len(y), ""), "m", "age").axes[0]
    assert len(alone.lines) == 1, "no site, no line"


# -- two classes -----------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.booleans())
def test_the_area_of_the_curve_is_the_auroc_within_strata(seed, n_strata, ties):
    rng = np.random.default_rng(seed)
    y, strata = rng.integers(0, 2, 60), rng.integers(0, n_strata, 60)
    score = y + rng.standard_normal(60) * 2
    score = score.round() if ties else score
    areas, weights = [], []
    for s in set(strata):
        at = strata == s
        n1, n0 = y[at].sum(), (1 - y[at]).sum()
        if n1 and n0:
            areas.append(sk.roc_auc_score(y[at], score[at]))
            weights.append(n1 * n0 / (n1 + n0))
    curve = roc_curve(y, score, strata)
    assert curve.area == pytest.approx(np.average(areas, weights=weights))
    assert curve.sensitivity[-1] == pytest.approx(1)
    assert (np.diff(curve.false_positives) > 0).all()


def test_the_curve_of_one_stratum_is_that_of_scikit_learn():
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 83)
    score = rng.standard_normal(83) + y
    wrong, right, _ = sk.roc_curve(y, score)
    curve = roc_curve(y, score)
    for specificity in (0.99, 0.9, 0.5):
        best = right[wrong <= 1 - specificity + 1e-12].max()
        assert curve.sensitivity_at(specificity) == pytest.approx(best)
    assert roc_curve(np.ones(4, int), score[:4]) is None


def test_sensitivity_and_specificity_are_those_of_scikit_learn():
    rng = np.random.default_rng(2)
    y, p = rng.integers(0, 2, 71), rng.random(71)
    scores, said = np.column_stack([1 - p, p]), p > 0.5
    assert OPERATING["sensitivity"](y, scores) == sk.recall_score(y, said)
    assert OPERATING["specificity"](y, scores) == sk.recall_score(1 - y, ~said)
    assert OPERATING["positive predictive value"](y, scores) == sk.precision_score(y, said)
