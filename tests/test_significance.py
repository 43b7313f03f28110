"""Metrics, intervals and tests, against scikit-learn, SciPy and themselves on known nulls."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, permutation_test
from sklearn.calibration import calibration_curve
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score

from semantoks.errors import InputError
from semantoks.evaluate.compare.scoring import Outcomes
from semantoks.evaluate.stats import metrics as statistics
from semantoks.evaluate.stats import significance as tests


@pytest.mark.parametrize("n_classes", [2, 3])
def test_metrics_equal_scikit_learn_s(n_classes):
    rng = np.random.default_rng(n_classes)
    y = rng.integers(0, n_classes, 61)
    scores = rng.dirichlet(np.ones(n_classes), 61).round(1)  # with ties
    scores = scores / scores.sum(axis=1, keepdims=True)
    hot = np.eye(n_classes)[y]
    assert statistics.average_precision(y, scores) == pytest.approx(
        average_precision_score(hot, scores, average="macro")
    )
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


def test_sites_are_drawn_before_their_people():
    sites = np.repeat(list("abcdef"), [9, 4, 7, 5, 8, 6])
    subjects = np.array([f"{s}{i // 2}" for i, s in enumerate(sites)])
    samples = statistics.hierarchical_resamples(sites, subjects, 300, seed=1)
    n_sites = [len(set(sites[rows])) for rows in samples]
    assert min(n_sites) < 4, "some sites are drawn several times"
    for rows in samples[:20]:
        counts = np.bincount(rows, minlength=39)
        for subject in set(subjects):
            assert len(set(counts[subjects == subject])) == 1, "a person's rows stay together"
    again = statistics.hierarchical_resamples(sites, subjects, 300, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(samples, again, strict=True))


def test_an_interval_over_sites_is_wider_where_sites_differ():
    rng = np.random.default_rng(2)
    sites = np.repeat([f"s{i}" for i in range(12)], 20)
    right = rng.uniform(size=240) < np.repeat(rng.uniform(0.2, 1.0, 12), 20)
    y = np.arange(240) % 2
    predicted = np.eye(2)[np.where(right, y, 1 - y)][None]
    metric = statistics.balanced_accuracy
    people = statistics.resamples(240, 400, 0)
    both = statistics.hierarchical_resamples(sites, np.arange(240).astype(str), 400, 0)
    narrow = np.ptp(statistics.interval(statistics.resampled_scores(metric, y, predicted, people)))
    wide = np.ptp(statistics.interval(statistics.resampled_scores(metric, y, predicted, both)))
    assert wide > 1.5 * narrow


# -- tests -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, 0.4, 0.9])
def test_sign_flips_equal_scipy_s(shift):
    x = np.random.default_rng(5).standard_normal(13) + shift
    exact = permutation_test(
        (x,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=True
    )
    found = tests.sign_flip_p(x, np.arange(13), 20_000, seed=0)
    assert found == pytest.approx(exact.pvalue, abs=0.012)
    assert found == tests.sign_flip_p(x, np.arange(13), 20_000, seed=0)


def test_what_is_one_cluster_flips_as_a_whole():
    x = np.repeat(np.random.default_rng(1).standard_normal(8) + 0.8, 25)
    clusters = np.repeat(np.arange(8), 25)
    assert tests.sign_flip_p(x, np.arange(200), 999, 0) == 0.001
    assert tests.sign_flip_p(x, clusters, 999, 0) > 0.005, "eight facts are not two hundred"


def test_swaps_find_a_difference_and_no_other():
    rng = np.random.default_rng(3)
    y = rng.standard_normal(70)
    good, other = y + rng.standard_normal(70), y + rng.standard_normal(70)
    bad = rng.standard_normal(70)
    assert tests.swap_p(statistics.pearson_r, y, good, bad, np.arange(70), 499, 0) < 0.01
    assert tests.swap_p(statistics.pearson_r, y, good, other, np.arange(70), 499, 0) > 0.05
    two = np.column_stack([good, good])
    assert (
        tests.swap_p(lambda y, p: p[:, 0] @ y, y, two, two.copy(), np.arange(70), 99, 0) == 1.0
    ), "the same predictions"


def test_the_corrected_t_test_by_hand():
    x = np.array([0.03, 0.01, 0.05, -0.01, 0.04, 0.02])
    t = x.mean() / np.sqrt((1 / 6 + 1 / 4) * x.var(ddof=1))
    from scipy.stats import t as student

    assert tests.corrected_t_p(x, 1 / 4) == pytest.approx(2 * (1 - student.cdf(t, 5)))
    from scipy.stats import ttest_1samp

    assert tests.corrected_t_p(x, 0.0) == pytest.approx(ttest_1samp(x, 0).pvalue)
    assert tests.corrected_t_p(x, 1 / 4) > 2 * ttest_1samp(x, 0).pvalue
    assert tests.corrected_t_p(np.zeros(5), 0.25) == 1.0
    with pytest.raises(InputError, match="at least 2 folds"):
        tests.corrected_t_p(np.ones(1), 0.25)


def test_holm_by_hand():
    found = tests.holm([0.01, np.nan, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(found, [0.03, np.nan, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(tests.holm([0.6, 0.7]), [1.0, 1.0])
    assert not len(tests.holm([]))


def test_the_truth_is_permuted_within_strata_only():
    """Predictions that know the site and nothing else are right as often as sites differ."""
    sites = np.repeat([0, 1], 40)
    y = (np.random.default_rng(0).uniform(size=80) < np.where(sites, 0.9, 0.1)).astype(int)
    predicted = np.eye(2)[sites][None]
    metric = statistics.balanced_accuracy
    assert metric(y, predicted[0]) > 0.8
    assert tests.permutation_p(metric, y, predicted, np.zeros(80), 199, 0) == 1 / 200
    assert tests.permutation_p(metric, y, predicted, sites, 199, 0) > 0.3
    worse = tests.permutation_p(
        statistics.brier, y, predicted, np.zeros(80), 199, 0, lower_is_better=True
    )
    assert worse == 1 / 200


def test_losses_add_up_to_the_metrics():
    rng = np.random.default_rng(4)
    y = rng.integers(0, 3, 50)
    scores = rng.dirichlet(np.ones(3), (2, 50))
    losses = tests.person_losses(y, scores, True)
    expected = 1 - statistics.mean_score(statistics.balanced_accuracy, y, scores)
    assert losses.mean() == pytest.approx(expected)
    truth, predicted = rng.standard_normal(50), rng.standard_normal((2, 50))
    expected = statistics.mean_score(statistics.mean_absolute_error, truth, predicted)
    assert tests.person_losses(truth, predicted, False).mean() == pytest.approx(expected)


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
    assert {tuple(np.bincount(y[15:][s])) for s in part.samples(20, 0)} == {(7, 8)}


def test_what_is_not_known_is_not_significant():
    """A model that predicts one value has no correlation."""
    y, constant = np.arange(9.0), np.ones(9)
    assert np.isnan(tests.swap_p(statistics.pearson_r, y, constant, y, np.arange(9), 19, 0))
    assert np.isnan(tests.permutation_p(statistics.pearson_r, y, constant[None], y, 19, 0))


def test_effect_sizes():
    assert tests.cohen_dz(np.array([1.0, 2.0, 3.0])) == pytest.approx(2.0)
    assert np.isnan(tests.cohen_dz(np.ones(4)))


def test_false_positives_stay_at_the_level_where_nothing_is_there():
    """Two models of equal merit; the bounds leave out one set of 200 seeds in a thousand."""
    low, high = binom.ppf([0.0005, 0.9995], 200, 0.05)
    flips, swaps, chance, level = 0, 0, 0, 0.05
    for seed in range(200):
        rng = np.random.default_rng(seed)
        y = rng.integers(0, 2, 60)
        a, b = (rng.dirichlet([1, 1], 60)[None] for _ in range(2))
        gain = tests.person_losses(y, b, True) - tests.person_losses(y, a, True)
        flips += tests.sign_flip_p(gain, np.arange(60), 199, seed) <= level
        chance += tests.permutation_p(statistics.auroc, y, a, np.arange(60) % 3, 199, seed) <= level
        truth, left, right = rng.standard_normal((3, 60))
        left, right = left + truth, right + truth
        swaps += (
            tests.swap_p(statistics.pearson_r, truth, left, right, np.arange(60), 199, seed)
            <= level
        )
    for name, found in {"flips": flips, "swaps": swaps, "chance": chance}.items():
        assert low <= found <= high, name
