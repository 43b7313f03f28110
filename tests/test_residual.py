"""Covariates taken from targets: fitted in the training part, and nothing of the test part."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from advice import advised
from semantoks.assess.plan import Plan
from semantoks.data.designs import GroupedKFold, LeaveOneSiteOut, SmallSamples
from semantoks.data.splits import Fold
from semantoks.errors import InputError
from semantoks.evaluate.compare.evaluation import evaluate_probes
from semantoks.evaluate.compare.residual import residuals
from semantoks.evaluate.compare.targets import Target
from test_evaluation import Frame

N = 66


@pytest.fixture
def cohort(store):
    """A number that is age, sex and a signal; features that know age, or the signal too."""
    rng = np.random.default_rng(5)
    age, signal = rng.uniform(20, 60, N), rng.standard_normal(N)
    sex = np.where(rng.integers(0, 2, N), "f", "m")
    table = pd.DataFrame(
        {
            "subject": [f"p{i:02}" for i in range(N)],
            "site": [f"s{i % 6}" for i in range(N)],
            "age": age,
            "sex": sex,
            "known": np.where(np.arange(N) < 60, age, np.nan),
            "score": 100 + 2 * age + 8 * (sex == "f") + 5 * signal,
        }
    )
    noise = rng.standard_normal((N, 4))
    of_age = np.column_stack([noise, 3 * (age - 40) / 12]).astype(np.float32)
    both = np.column_stack([of_age, 3 * signal]).astype(np.float32)
    return Frame(store, table), {"of age": of_age, "both": both}


def fold_of(table, n_train=50):
    return Fold("1", np.arange(n_train), np.arange(n_train, len(table)))


def test_the_regression_is_that_of_the_training_part_alone(cohort):
    table, fold = cohort[0].table, fold_of(cohort[0].table)
    y = table["score"].to_numpy()
    X = np.column_stack([table["age"], table["sex"] == "f"])
    found = residuals(table, y, fold, ("age", "sex"))
    reference = LinearRegression().fit(X[fold.train], y[fold.train])
    np.testing.assert_allclose(found, y - reference.predict(X), atol=1e-3)
    other = y.copy()
    other[fold.test] += np.random.default_rng(0).normal(0, 50, len(fold.test))
    moved = residuals(table, other, fold, ("age", "sex"))
    np.testing.assert_array_equal(moved[fold.train], found[fold.train])
    np.testing.assert_allclose(moved - found, other - y, atol=1e-9)


def test_people_weigh_the_same(cohort):
    table = cohort[0].table
    twice = pd.concat([table, table.iloc[:3], table.iloc[:3]], ignore_index=True)
    rows = np.r_[np.arange(50), N + np.arange(6)]
    fold = Fold("1", rows, np.arange(50, N))
    found = residuals(twice, twice["score"].to_numpy(), fold, ("age",))
    alone = residuals(table, table["score"].to_numpy(), fold_of(table), ("age",))
    np.testing.assert_allclose(found[:N], alone, atol=1e-6)


@pytest.mark.parametrize("design", [GroupedKFold(n_folds=3, n_repeats=2), LeaveOneSiteOut()])
def test_what_a_covariate_explains_is_gone_and_the_rest_is_found(cohort, design):
    store, models = cohort
    plain = evaluate_probes(store, models, ["score"], design=design)
    target = Target("score", residualise=("age", "sex"))
    cleaned = evaluate_probes(store, models, [target], design=design)
    gain = {}
    for name, result in (("plain", plain), ("cleaned", cleaned)):
        scores = result.scores.query("metric == 'MAE gain'").set_index("model")
        gain[name] = scores["value"]
        assert scores.loc["chance", "value"] == pytest.approx(0, abs=1e-5)
    assert gain["plain"]["of age"] > 10
    assert gain["cleaned"]["of age"] < 0.5
    assert gain["cleaned"]["both"] > 2
    facts = cleaned.meta["targets"]["score without age, sex"]
    assert facts["residualise"] == ["age", "sex"]
    truth = cleaned.predictions.query("model == 'chance' and repeat == 0").set_index("subject")
    truth = truth["truth"].astype(float)[store.table["subject"]]
    assert abs(truth.mean()) < 2
    assert np.corrcoef(truth, store.table["age"])[0, 1] == pytest.approx(0, abs=0.15)


def test_targets_of_a_battery_and_few_people_can_be_residualised(cohort):
    store, models = cohort
    targets = [Target("score", residualise=("sex",)), Target("age", residualise=("sex",))]
    curve = SmallSamples(n_subjects=(20,), n_draws=2)
    result = evaluate_probes(store, models, targets, curve=curve, against=["of age"])
    assert set(result.curve["target"]) == {"score without sex", "age without sex"}
    assert (result.battery["n_targets"] == 2).all()


def test_a_plan_gives_the_columns_to_all_targets_and_old_settings_stay():
    plan = Plan(targets=(Target("score"), Target("iq", "regression")), residualise=("age",))
    assert [target.residualise for target in plan.targets] == [("age",)] * 2
    assert plan.settings()["targets"][0]["residualise"] == ("age",)
    assert "residualise" not in Plan(targets=(Target("score"),)).settings()["targets"][0]


@pytest.mark.parametrize(
    ("target", "columns", "rule"),
    [
        ("sex", ("age",), "from numbers only, not from a target of classification"),
        ("age:ordinal", ("sex",), "from numbers only, not from a target of ordinal"),
        ("score", ("score",), "residualise = 'score': is the target itself"),
        ("score", ("ages",), "residualise = 'ages': the store has no such column"),
        ("score", ("known",), "6 of 66 recordings have no value of a column to residualise on"),
        ("score", ("subject",), "has no person of subject 'p"),
    ],
)
def test_what_cannot_be_residualised_is_refused(cohort, target, columns, rule):
    store, models = cohort
    base = Target.parse(target)
    asked = Target(base.column, base.kind, residualise=columns)
    with pytest.raises(InputError, match=rule.replace("'p", ".p")):
        evaluate_probes(store, models, [asked])


def test_a_site_left_out_has_no_known_effect(cohort):
    store, models = cohort
    with pytest.raises(InputError, match="fold s0 has no person of site 's0'"):
        evaluate_probes(
            store, models, [Target("score", residualise=("site",))], design=LeaveOneSiteOut()
        )


def test_recordings_without_a_covariate_can_be_left_out(cohort):
    store, models = cohort
    target = Target("score", residualise=("known",))
    result = evaluate_probes(store, models, [target], missing="drop")
    assert result.meta["targets"]["score without known"]["n_left_out"] == 6


def test_more_columns_than_people_explain_everything(cohort):
    table = cohort[0].table
    rng = np.random.default_rng(0)
    many = pd.DataFrame({f"c{i}": rng.standard_normal(N) for i in range(9)})
    table = pd.concat([table, many], axis=1)
    fold = Fold("1", np.arange(8), np.arange(8, N))
    with pytest.raises(InputError, match="explains the 8 training people"):
        residuals(table, table["score"].to_numpy(), fold, tuple(many))


def test_the_ways_out_work(cohort):
    """Every error's advice, followed."""
    store, models = cohort
    taken = "evaluate/compare/targets._with_covariates"
    with advised(taken, "evaluate this target without --residualise"):
        evaluate_probes(store, models, [Target("sex", residualise=("age",))])
    evaluate_probes(store, {"of age": models["of age"]}, [Target("sex")])
    with advised(taken, "Evaluate this target without it"):
        evaluate_probes(store, models, [Target("score", residualise=("score",))])
    with advised(taken, "or leave the column out"):
        evaluate_probes(store, models, [Target("score", residualise=("known",))])
    place = "evaluate/compare/residual.residuals"
    table = store.table
    with advised(place, "Leave the column out, or divide people otherwise"):
        residuals(table, table["score"].to_numpy(), fold_of(table), ("subject",))
    with advised(place, "Leave some columns out"):
        few = Fold("1", np.arange(2), np.arange(2, N))
        residuals(table.assign(sex="f"), table["score"].to_numpy(), few, ("age",))
    residuals(table, table["score"].to_numpy(), fold_of(table), ("age",))
