"""Metrics, the jackknife, and what follows from it: against SciPy and known answers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, kendalltau, ttest_1samp
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score

from semantoks.errors import InputError
from semantoks.evaluate.compare.scoring import Outcomes, adjusted, score_models
from semantoks.evaluate.stats import metrics as statistics
from semantoks.evaluate.stats.heterogeneity import random_effects
from semantoks.evaluate.stats.inference import (
    MAX_BLOCKS,
    Inference,
    Jackknife,
    Measured,
    inference_blocks,
    mean_jackknife,
    replicate_variance,
)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_metrics_equal_scikit_learn_s(n_classes):
    rng = np.random.default_rng(n_classes)
    y = rng.integers(0, n_classes, 61)
    scores = rng.dirichlet(np.ones(n_classes), 61).round(1)  # with ties
    scores = scores / scores.sum(axis=1, keepdims=True)
    hot = np.eye(n_classes)[y]
    precision = average_precision_score(hot, scores, average="macro")
    area = roc_auc_score(hot, scores, average="macro")
    if n_classes == 2:  # the second class is the positive one
        precision, area = (f(y, scores[:, 1]) for f in (average_precision_score, roc_auc_score))
    assert statistics.average_precision(y, scores) == pytest.approx(precision)
    assert statistics.auroc(y, scores) == pytest.approx(area)
    assert statistics.f1_macro(y, scores) == pytest.approx(
        f1_score(y, scores.argmax(axis=1), average="macro")
    )
    reference = brier_score_loss(y, scores[:, 1] if n_classes == 2 else scores)
    assert statistics.brier(y, scores) == pytest.approx(reference)


def test_reliability_equals_scikit_learn_s():
    rng = np.random.default_rng(0)
    p = rng.uniform(size=400)
    y = (rng.uniform(size=400) < p**2).astype(int)
    curve = statistics.reliability_curve(y, np.column_stack([1 - p, p]), n_bins=8)
    observed, predicted = calibration_curve(y, p, n_bins=8, strategy="quantile")
    np.testing.assert_allclose(curve["observed"], observed)
    np.testing.assert_allclose(curve["predicted"], predicted)
    assert curve["n"].tolist() == [50] * 8
    three = statistics.reliability_curve(np.array([0, 2, 1, 1]), np.eye(3)[[0, 2, 1, 0]], n_bins=2)
    assert three["observed"].tolist() == [0.75]


# -- within strata ---------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.floats(-50, 50))
@settings(max_examples=40, deadline=None)
def test_an_offset_between_sites_does_not_change_a_score_within_them(seed, shift):
    rng = np.random.default_rng(seed)
    sites, y = rng.integers(0, 5, 83), rng.integers(0, 2, 83)
    score = rng.integers(0, 9, 83).astype(float)
    moved = score + np.round(shift) * sites
    two = [np.column_stack([-s, s]) for s in (score, moved)]
    assert statistics.auroc(y, two[0], sites) == statistics.auroc(y, two[1], sites)
    assert statistics.concordance(y, score, sites) == statistics.concordance(y, moved, sites)
    number = rng.standard_normal(83)
    r = [statistics.pearson_r(number + s * sites, score, sites) for s in (0.0, shift)]
    assert r[0] == pytest.approx(r[1], abs=1e-9)


def test_scores_within_strata_are_weighted_means_of_those_of_strata():
    rng = np.random.default_rng(3)
    sites = np.repeat(np.arange(4), [9, 14, 23, 5])
    y = rng.integers(0, 2, 51)
    y[sites == 3] = 1  # a site with one class says nothing
    scores = np.column_stack([np.zeros(51), rng.integers(0, 7, 51)])
    areas, weights = [], []
    for site in range(3):
        at = sites == site
        n1, n0 = y[at].sum(), (1 - y[at]).sum()
        areas.append(roc_auc_score(y[at], scores[at, 1]))
        weights.append(n1 * n0 / (n1 + n0))
    assert statistics.auroc(y, scores, sites) == pytest.approx(np.average(areas, weights=weights))
    number = rng.standard_normal(51)
    dummies = np.eye(4)[sites]
    both = np.column_stack([number, scores[:, 1]])
    partial = both - dummies @ np.linalg.lstsq(dummies, both)[0]  # as statsmodels' ANCOVA
    found = statistics.pearson_r(number, scores[:, 1], sites)
    assert found == pytest.approx(np.corrcoef(partial.T)[0, 1])
    tau = kendalltau(np.arange(51), scores[:, 1], variant="b").statistic
    ranks = statistics.concordance(np.arange(51.0), scores[:, 1])
    ties = 1 - sum(c * (c - 1) for c in np.bincount(scores[:, 1].astype(int))) / (51 * 50)
    assert 2 * ranks - 1 == pytest.approx(tau * np.sqrt(ties))


def test_gains_are_over_the_mean_of_the_training_part():
    y, predicted, base = np.array([1.0, 4, 7]), np.array([2.0, 4, 5]), np.array([3.0, 3, 3])
    assert statistics.mae_gain(y, predicted, base) == pytest.approx(7 / 3 - 1)
    assert statistics.r_squared(y, predicted, base) == pytest.approx(1 - 5 / 21)
    assert np.isnan(statistics.pearson_r(y, np.full(3, 0.1))), "one value has no correlation"


def test_a_metric_that_fits_no_target_is_refused():
    with pytest.raises(InputError, match=r"metric = 'Brier': must be a metric of these targets"):
        statistics.check_chosen(["Brier"], ["regression"])
    chosen = statistics.ordered_metrics("classification", ["R2", "Brier"])
    assert next(iter(chosen)) == "Brier"
    assert set(chosen) == set(statistics.METRICS["classification"])


# -- the jackknife ---------------------------------------------------------------------------------


def outcome(seed=0, n_blocks=7):
    rng = np.random.default_rng(seed)
    blocks = np.repeat(np.arange(n_blocks), 5)
    n = len(blocks)
    return rng, Measured(
        rng.standard_normal(n), np.zeros((1, n), np.intp), blocks, np.zeros((1, n)), n_folds=1
    )


def test_of_a_mean_it_is_the_t_test_over_blocks():
    rng, tested = outcome()
    predicted = rng.standard_normal((1, len(tested.y)))
    found = Jackknife.of(statistics.METRICS["regression"]["MAE gain"], tested, predicted, None)
    gains = np.abs(tested.y) - np.abs(tested.y - predicted[0])
    per_block = [gains[tested.blocks == b].mean() for b in range(7)]
    t = ttest_1samp(per_block, 0)
    inference = Inference.of(found)
    assert inference.p_value(0.0) == pytest.approx(t.pvalue)
    assert inference.interval() == pytest.approx(tuple(t.confidence_interval(0.95)))
    assert inference.df == pytest.approx(6)


def test_what_is_trained_on_enters_the_variance():
    rng, single = outcome()
    several = Measured(single.y, single.strata, single.blocks, single.base, n_folds=7)
    metric = statistics.METRICS["regression"]["MAE"]
    predicted = rng.standard_normal((1, len(single.y)))
    alone = Jackknife.of(metric, single, predicted, None).variance
    assert Jackknife.of(metric, several, predicted, None).variance == pytest.approx(2 * alone)
    same = np.repeat(predicted[:, :, None], 7, axis=2)  # training without a block changes nothing
    assert Jackknife.of(metric, several, predicted, same).variance == pytest.approx(alone)


def test_products_of_two_blocks_count_once():
    """Of pure noise, a score is a mean of y_s y_t k_st over pairs: its variance is known."""
    rng = np.random.default_rng(0)
    n, values, estimates, naive = 31, [], [], []
    for _ in range(3000):
        k = np.triu(rng.standard_normal((n, n)), 1)
        y = rng.choice([-1.0, 1.0], n)
        pairs = y[:, None] * y * (k + k.T)  # tested block, block trained on
        gains = pairs.sum(axis=1)
        value = gains.mean()
        own = value - (gains.sum() - gains) / (n - 1)
        full = value - (gains.sum() - gains - pairs.sum(axis=0)) / (n - 1)
        values.append(value)
        estimates.append(Jackknife(value, own, full, np.ones(n)).variance)
        naive.append(Jackknife(value, own, None, np.ones(n), single=True).variance)
    assert np.var(values) == pytest.approx(2 * np.mean(naive), rel=0.12)
    assert np.var(values) == pytest.approx(np.mean(estimates), rel=0.12)


def test_a_detectable_difference_is_found_with_its_power():
    rng = np.random.default_rng(1)
    found = 0
    shift = Inference(0.0, 1 / np.sqrt(30), 29).detectable
    for _ in range(600):
        x = rng.standard_normal(30) + shift
        found += Inference(x.mean(), x.std(ddof=1) / np.sqrt(30), 29).p_value(0.0) < 0.05
    assert 0.76 < found / 600 < 0.84


def test_sites_that_a_score_does_not_depend_on_are_not_counted():
    """Of 20 sites, 6 have people of two classes: as many units as the AUROC has."""
    rng, metric = np.random.default_rng(5), statistics.METRICS["classification"]["AUROC"]
    sites, n_studies, p = np.repeat(np.arange(20), 10), 200, []
    y = np.where(sites < 6, np.arange(200) % 2, sites % 2)
    of_site = np.random.default_rng(6).standard_normal((n_studies, 20))[:, sites]
    for shift in of_site:  # the score is better at some sites and worse at others
        score = rng.standard_normal(200) + 0.7 * shift * (2 * y - 1)
        guess = np.column_stack([-score, score])[None]
        measured = Measured(y, sites[None], sites, np.zeros((1, 200, 2)), n_folds=1)
        found = Jackknife.of(metric, measured, guess, None)
        assert 3 <= found.df <= 5, "a site whose area is the mean is not counted either"
        p.append(Inference.of(found).p_value(0.5))
    assert np.sum(np.array(p) < 0.05) <= binom.ppf(0.999, n_studies, 0.05)


def test_draws_of_one_model_are_a_distribution():
    """One of six random models is not better than the five others, but by their spread."""
    rng = np.random.default_rng(2)

    def draw(mean):
        own = rng.standard_normal(40) / 400
        return Jackknife(mean, own, None, np.ones(40), single=True)

    five = [draw(m) for m in (0.50, 0.58, 0.44, 0.61, 0.47)]
    assert 0.03 < replicate_variance(five) ** 0.5 < 0.08
    assert replicate_variance(five[:1]) == 0
    assert replicate_variance([five[0]] * 3) == 0
    one = draw(0.63)
    taken = one.minus(mean_jackknife(five))
    assert Inference.of(taken).p_value(0.0) < 0.01, "against their mean alone it seems better"
    between = replicate_variance(five) * (1 + 1 / 5)
    assert Inference.of(taken, between, 5).p_value(0.0) > 0.1
    assert mean_jackknife(five).value == pytest.approx(0.52)


def test_blocks_of_many_people_are_alike_and_keep_families():
    rng = np.random.default_rng(4)
    family = rng.integers(0, 130, 311).astype(str)
    sites, y = rng.integers(0, 3, 311), rng.integers(0, 2, 311)
    blocks = inference_blocks(family, sites, y, 0)
    assert len(set(blocks)) == MAX_BLOCKS
    table = pd.DataFrame({"family": family, "block": blocks})
    assert table.groupby("family")["block"].nunique().max() == 1
    assert np.ptp(table.groupby("block")["family"].nunique()) <= 1
    few = inference_blocks(np.array(["b", "a", "b", "c"]), np.zeros(4), np.zeros(4), 0)
    assert few.tolist() == [1, 0, 1, 2]


def test_a_part_of_the_outcomes_is_that_of_these_people():
    rng = np.random.default_rng(0)
    names = np.arange(30).astype(str)
    scores = {"m": rng.dirichlet([1, 1], (2, 30))}
    y, folds = np.arange(30) % 2, np.stack([names, names[::-1]])
    whole = Outcomes("classification", y, scores, names, names, np.repeat(["a", "b"], 15), folds)
    part = whole.part(np.arange(15, 30))
    assert set(part.sites) == {"b"}
    np.testing.assert_array_equal(part.predicted["m"], scores["m"][:, 15:])
    np.testing.assert_array_equal(part.folds[1], names[14::-1])
    assert part.subjects.tolist() == part.clusters.tolist() == names[15:].tolist()


def test_estimate_sign_interval_and_p_are_of_one_number():
    """Whatever the predictions: a verdict says the sign of the estimate that is shown."""
    for seed in range(30):
        rng = np.random.default_rng(seed)
        names, y = np.arange(60).astype(str), rng.integers(0, 2, 60)
        predicted = {m: rng.dirichlet([1, 1], (3, 60)) for m in ("m", "connectivity")}
        predicted["m"][:, :, 1] += 0.5 * y
        predicted["chance"] = np.full((3, 60, 2), 0.5)
        folds = rng.integers(0, 4, (3, 60)).astype(str)
        outcomes = Outcomes(
            "classification", y, predicted, names, names, np.full(60, ""), folds, np.arange(60)
        )
        rows = score_models(outcomes, ["connectivity"], "chance")
        _, gaps = adjusted(*map(pd.DataFrame, rows))
        for gap in gaps[gaps["p_value"].notna()].to_dict("records"):
            outside = not gap["ci_low"] <= 0 <= gap["ci_high"]
            assert (gap["p_value"] < 0.05) == outside
            assert gap["ci_low"] <= gap["value"] <= gap["ci_high"]
            if gap["verdict"] in ("better", "worse"):
                assert (gap["verdict"] == "better") == (gap["value"] > 0)


@given(st.floats(0, 1), st.floats(0.01, 2), st.floats(1.5, 40), st.floats(0.01, 0.99))
@settings(max_examples=100, deadline=None)
def test_an_interval_is_cut_off_where_no_true_value_can_be(value, se, df, null):
    found = Inference(value, se, df)
    whole, cut = found.interval(), found.interval((0.0, 1.0))
    assert 0 <= cut[0] <= value <= cut[1] <= 1
    assert (cut[0] <= null <= cut[1]) == (whole[0] <= null <= whole[1]), "it decides the same"


def test_every_metric_states_what_it_can_be():
    rng = np.random.default_rng(0)
    y, codes = rng.standard_normal(40), rng.integers(0, 3, 40)
    p = rng.dirichlet([0.2] * 3, 40)
    for kind, of_kind in statistics.METRICS.items():
        for name, metric in of_kind.items():
            truth, guess = (codes, p) if kind == "classification" else (y, -9 * y)
            low, high = metric.limits
            assert low <= metric(truth, guess, None, None) <= high, name
            assert metric.difference_limits == (low - high, high - low)


# -- sites -----------------------------------------------------------------------------------------


def test_the_summary_over_sites_equals_a_published_example():
    """Seven trials of aspirin after infarction (Fleiss 1993): Q = 9.95, p = 0.127, I2 = 39.7 %."""
    deaths = [[49, 67], [44, 64], [102, 126], [32, 38], [85, 52], [246, 219], [1570, 1720]]
    people = [
        [615, 624],
        [758, 771],
        [832, 850],
        [317, 309],
        [810, 406],
        [2267, 2257],
        [8587, 8600],
    ]
    dead, alive = np.array(deaths, float), np.array(people, float) - np.array(deaths)
    odds = np.log(dead[:, 0] * alive[:, 1] / (dead[:, 1] * alive[:, 0]))
    error = np.sqrt((1 / dead + 1 / alive).sum(axis=1))
    found = random_effects(odds, error)
    assert found.i2 == pytest.approx(0.397, abs=5e-4)
    assert found.p_value == pytest.approx(0.1269, abs=5e-5)
    assert found.low < found.mean - 2 * found.se
    v = error**2 + found.tau**2
    assert (odds - found.mean) ** 2 @ (1 / v) == pytest.approx(6, abs=1e-6)
    equal = random_effects(np.array([0.1, 0.1, 0.1, np.nan]), np.array([0.2, 0.3, 0.1, 0.1]))
    assert equal.se == pytest.approx((1 / 0.2**2 + 1 / 0.3**2 + 1 / 0.1**2) ** -0.5), "not zero"
    assert (equal.tau, equal.i2, equal.n_sites) == (0.0, 0.0, 3)
    assert random_effects(np.ones(2), np.ones(2)) is None


def test_the_summary_over_sites_equals_that_of_another_program():
    """Thirteen BCG trials (Colditz 1994) as R's metafor has them: tau2 0.3181 (PM), Q(12) 152.2."""
    trials = np.array(
        [
            [4, 119, 11, 128],
            [6, 300, 29, 274],
            [3, 228, 11, 209],
            [62, 13536, 248, 12619],
            [33, 5036, 47, 5761],
            [180, 1361, 372, 1079],
            [8, 2537, 10, 619],
            [505, 87886, 499, 87892],
            [29, 7470, 45, 7232],
            [17, 1699, 65, 1600],
            [186, 50448, 141, 27197],
            [5, 2493, 3, 2338],
            [27, 16886, 29, 17825],
        ],
        float,
    )
    ill, well = trials[:, ::2], trials[:, 1::2]
    risk = np.log(ill / (ill + well))
    error = np.sqrt((1 / ill - 1 / (ill + well)).sum(axis=1))
    found = random_effects(risk[:, 0] - risk[:, 1], error)
    assert found.tau**2 == pytest.approx(0.3181, abs=5e-5)
    assert found.i2 == pytest.approx(1 - 12 / 152.233, abs=1e-4)
    # At the slightly smaller tau2 of REML (0.3132), metafor's mean is -0.7145 [-1.1082, -0.3208].
    assert (found.mean, found.ci_low, found.ci_high) == pytest.approx(
        (-0.7145, -1.1082, -0.3208), abs=2e-3
    )


# -- known answers ---------------------------------------------------------------------------------

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
calibration = pytest.importorskip("calibration", reason="the simulations come with a clone")

SUBSET = [
    calibration.Row("8 sites left out", "number", "site means of the target differ"),
    calibration.Row(
        "8 sites left out", "two classes", "classes unequal over sites, with a site offset"
    ),
    calibration.Row("5 folds over people", "two classes", "nothing"),
    calibration.Row("5 folds over families", "two classes", "several recordings per person"),
]


@pytest.mark.parametrize("row", SUBSET, ids=lambda row: f"{row.design}, {row.target}")
def test_verdicts_on_noise_are_as_rare_as_their_level(row):
    """A part of `make calibrate`; the rate is passed by one set of 40 seeds in a thousand."""
    found = pd.DataFrame([calibration.simulate(row, seed) for seed in range(40)])
    assert found["decided"].sum() <= 7
    covered = (found["gap_low"] <= 0) & (found["gap_high"] >= 0)
    assert covered.sum() >= 33


def test_a_planted_difference_is_found():
    row = calibration.Row("8 sites left out", "two classes", "nothing", "one model")
    found = pd.DataFrame([calibration.simulate(row, seed) for seed in range(6)])
    assert (found["gap"] > 0).all()
    assert found["better"].sum() >= 2
