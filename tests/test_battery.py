"""A battery of targets: one test over all of them, valid whatever their correlation."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom, ttest_1samp

from semantoks.data.designs import GroupedKFold, LeaveOneSiteOut
from semantoks.evaluate.compare.battery import (
    OfTarget,
    battery_differences,
    over_targets,
    share_blocks,
)
from semantoks.evaluate.compare.cohort import Cohort
from semantoks.evaluate.compare.evaluation import Probe, outcomes_of
from semantoks.evaluate.compare.prediction import make_task, predict
from semantoks.evaluate.compare.scoring import ModelScore
from semantoks.evaluate.compare.targets import Target
from semantoks.evaluate.stats.inference import MAX_BLOCKS, Jackknife
from semantoks.evaluate.stats.metrics import METRICS


def scored(gains):
    """Return the score of a model that was not fitted: a mean over units."""
    n, value = len(gains), gains.mean()
    own = value - (gains.sum() - gains) / (n - 1)
    return ModelScore.of([Jackknife(value, own, None, np.ones(n), single=True)])


NOTHING = scored(np.zeros(9))


def together(gains, blocks=None):
    """Test gains (units, targets) against a model that gains nothing."""
    blocks = [np.arange(len(gains))] * gains.shape[1] if blocks is None else blocks
    pairs = [(scored(of), scored(np.zeros(len(of)))) for of in gains.T]
    return over_targets(pairs, blocks, "a", "connectivity")


def test_one_target_many_times_is_one_target():
    gains = np.random.default_rng(1).standard_normal(13) + 0.4
    found = together(np.column_stack([gains, 1000 * gains, 0.01 * gains]))
    assert found["p_value"] == pytest.approx(ttest_1samp(gains, 0).pvalue)
    assert found["value"] == pytest.approx(gains.mean() / np.sqrt(np.mean(gains**2)))
    assert (found["n_targets"], found["n_better"]) == (3, 3)


def test_it_is_the_t_test_of_the_units_means_over_standardised_targets():
    gains = np.random.default_rng(2).standard_normal((17, 4)) * [1, 10, 100, 0.1] + 0.3
    found = together(gains)
    means = (gains / np.sqrt(np.mean(gains**2, axis=0))).mean(axis=1)
    reference = ttest_1samp(means, 0)
    assert found["p_value"] == pytest.approx(reference.pvalue)
    assert found["value"] == pytest.approx(means.mean())
    low, high = reference.confidence_interval()
    assert (found["ci_low"], found["ci_high"]) == pytest.approx((low, high))


def test_one_large_target_does_not_outvote_the_others():
    rng = np.random.default_rng(3)
    gains = 0.1 * rng.standard_normal((20, 3)) + [50.0, -0.2, -0.2]
    found = together(gains)
    assert found["n_better"] == 1
    assert found["value"] < 0


def test_one_target_is_no_battery_and_equal_models_do_not_differ():
    gains = np.random.default_rng(4).standard_normal((9, 2))
    assert not over_targets([(scored(gains[:, 0]), NOTHING)], [np.arange(9)], "a", "b")
    same = over_targets([(scored(g), scored(g)) for g in gains.T], [np.arange(9)] * 2, "a", "b")
    assert (same["value"], same["p_value"]) == (0.0, 1.0)


# -- nothing planted -------------------------------------------------------------------------------


def of_noise(rng, n, n_targets, correlation):
    """Scores of two models of noise: means of y_s y_t k_st, as in `test_inference`."""
    common = rng.standard_normal((n, 1))
    own = rng.standard_normal((n, n_targets))
    truths = np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own
    kernels = [k + k.T for k in np.triu(rng.standard_normal((2, n, n)), 1)]
    pairs = []
    for y in truths.T:
        two = []
        for kernel in kernels:
            products = y[:, None] * y * kernel  # unit tested, unit trained on
            gains = products.sum(axis=1)
            value = gains.mean()
            less = (gains.sum() - gains) / (n - 1)
            full = value - less + products.sum(axis=0) / (n - 1)
            two.append(ModelScore.of([Jackknife(value, value - less, full, np.ones(n))]))
        pairs.append((two[0], two[1]))
    return pairs


@pytest.mark.parametrize(
    ("n", "n_targets", "correlation"), [(8, 3, 0.0), (8, 6, 0.9), (19, 5, 0.5), (30, 2, 0.0)]
)
def test_false_verdicts_are_as_rare_as_their_level(n, n_targets, correlation):
    rng, n_studies = np.random.default_rng(n), 200
    units = [np.arange(n)] * n_targets
    p = [
        over_targets(of_noise(rng, n, n_targets, correlation), units, "a", "b")["p_value"]
        for _ in range(n_studies)
    ]
    assert np.sum(np.array(p) < 0.05) <= binom.ppf(0.999, n_studies, 0.05)


def study(design, seed, planted):
    """Evaluate two models on three correlated targets, one of which a fifth of the people lack."""
    rng = np.random.default_rng(seed)
    site = np.repeat(np.arange(7), 12)
    n = len(site)
    table = pd.DataFrame({name: [f"{name}{i}" for i in range(n)] for name in ("id", "subject")})
    table["site"] = [f"s{i}" for i in site]
    truth = rng.standard_normal((n, 3)) + rng.standard_normal((n, 1))
    features = {name: rng.standard_normal((n, 5)) for name in ("mine", "connectivity")}
    features["mine"][:, :3] += planted * truth
    some = np.sort(rng.permutation(n)[: n * 4 // 5])
    labels = [
        (np.arange(n), np.where(truth[:, 0] > 0, "x", "y"), "classification"),
        (some, truth[some, 1], "regression"),
        (np.arange(n), truth[:, 2] * 100, "regression"),
    ]
    cohort = Cohort((), table)
    tasks = [
        make_task(cohort, Target(f"t{i}", label[2]), label, design, None, "subject", seed)
        for i, label in enumerate(labels)
    ]
    tasks = share_blocks(cohort, tasks, seed)
    models = {**features, "chance": np.zeros((n, 1))}
    probe = partial(Probe().make, seed=seed)
    rows = [
        part.rows.assign(replicate=0)
        for name, X in models.items()
        for part in predict(cohort, name, X.astype(np.float32), tasks, probe, 1)
    ]
    predictions = pd.concat(rows, ignore_index=True)
    found = [
        OfTarget(outcomes_of(predictions, task), next(iter(METRICS[task.kind].values())))
        for task in tasks
    ]
    (row,) = battery_differences(found, ["connectivity"]).to_dict("records")
    return row, tasks


@pytest.mark.parametrize("design", [LeaveOneSiteOut(), GroupedKFold(n_folds=3)])
def test_models_of_noise_do_not_differ_and_planted_ones_do(design):
    verdicts = [study(design, seed, 0.0)[0]["verdict"] for seed in range(6)]
    assert sum(verdict in ("better", "worse") for verdict in verdicts) <= 2
    row, tasks = study(design, 0, 1.0)
    assert (row["verdict"], row["n_better"], row["n_targets"]) == ("better", 3, 3)
    blocks = [dict(zip(task.rows, task.counted.blocks, strict=True)) for task in tasks]
    assert all(blocks[0][row] == block for of in blocks for row, block in of.items())
    assert len(set(blocks[0].values())) == (7 if design.group == "site" else MAX_BLOCKS)
