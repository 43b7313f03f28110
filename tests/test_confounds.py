from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import config_context
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline

from semantoks.errors import InputError
from semantoks.evaluate.checks.combat import ComBat, shrunken_effects
from semantoks.evaluate.checks.confounds import ConfoundRegressor, confound_table
from semantoks.evaluate.predictors.probe import LinearProbe

GOLDEN = Path(__file__).parent / "golden" / "neurocombat.npz"


@pytest.fixture
def sites():
    """53 rows of 3 sites with a shift and a scale per site and feature; age and sex matter."""
    rng = np.random.default_rng(4)
    site = np.repeat(["north", "east", "west"], [12, 17, 24])[rng.permutation(53)]
    table = pd.DataFrame({"age": rng.uniform(8, 60, 53), "sex": rng.choice(["f", "m"], 53)})
    effect = {s: (rng.normal(2, 1, 29), rng.uniform(0.6, 1.8, 29)) for s in np.unique(site)}
    slope = rng.normal(0, 0.1, 29)
    biology = 0.3 * rng.standard_normal((53, 29)) + table["age"].to_numpy()[:, None] * slope
    noise = rng.standard_normal((53, 29))
    X = biology + np.stack([effect[s][0] + effect[s][1] * e for s, e in zip(site, noise)])  # noqa: B905
    return X, site, table


# -- ComBat ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariates", [False, True])
def test_combat_equals_neurocombat(covariates):
    gold = np.load(GOLDEN)
    kept = pd.DataFrame({"age": gold["age"], "sex": gold["sex"]}) if covariates else None
    found = ComBat().fit_transform(gold["X"], batch=gold["batch"], covariates=kept)
    expected = gold["kept" if covariates else "plain"]
    assert np.abs(expected - gold["X"]).max() > 1
    np.testing.assert_allclose(found, expected, atol=1e-5)


def literal_effects(Z):
    """Johnson et al. 2007, section 3.2: priors by moments, posterior means in turn, per feature."""
    n, n_features = Z.shape
    gamma_hat = [sum(Z[:, g]) / n for g in range(n_features)]
    delta_hat = [sum((Z[:, g] - gamma_hat[g]) ** 2) / (n - 1) for g in range(n_features)]
    gamma_bar = sum(gamma_hat) / n_features
    tau2 = sum((x - gamma_bar) ** 2 for x in gamma_hat) / (n_features - 1)
    v = sum(delta_hat) / n_features
    s2 = sum((x - v) ** 2 for x in delta_hat) / (n_features - 1)
    lam, theta = (v**2 + 2 * s2) / s2, (v**3 + v * s2) / s2
    gamma, delta = [], []
    for g in range(n_features):
        d = delta_hat[g]
        for _ in range(500):
            c = (n * tau2 * gamma_hat[g] + d * gamma_bar) / (n * tau2 + d)
            d = (theta + 0.5 * sum((Z[:, g] - c) ** 2)) / (n / 2 + lam - 1)
        gamma.append(c)
        delta.append(d)
    return gamma, delta


def test_shrunken_effects_are_the_paper_s_equations():
    rng = np.random.default_rng(8)
    Z = rng.normal(0.7, rng.uniform(0.5, 2, 6), (11, 6)) + rng.normal(0, 1, 6)
    gamma, delta = shrunken_effects(Z)
    expected = literal_effects(Z)
    np.testing.assert_allclose(gamma, expected[0], rtol=1e-6)
    np.testing.assert_allclose(delta, expected[1], rtol=1e-6)
    assert np.ptp(gamma) < np.ptp(Z.mean(axis=0)), "shifts move towards their mean"


def test_equal_variances_have_a_prior_without_spread():
    Z = np.column_stack([np.array([-1.0, 0.0, 1.0, 4.0]) + k for k in range(5)])
    gamma, delta = shrunken_effects(Z)
    assert np.isfinite(gamma).all()
    np.testing.assert_allclose(delta, Z[:, 0].var(ddof=1))


def test_combat_removes_shift_and_scale_and_keeps_age(sites):
    X, site, table = sites
    clean = ComBat().fit_transform(X, batch=site, covariates=table)

    def spread(values):
        rest = values - LinearRegression().fit(table[["age"]], values).predict(table[["age"]])
        means = np.stack([rest[site == s].mean(axis=0) for s in np.unique(site)])
        stds = np.stack([rest[site == s].std(axis=0) for s in np.unique(site)])
        return np.ptp(means, axis=0).mean(), np.ptp(np.log(stds), axis=0).mean()

    (shift, scale), (left_shift, left_scale) = spread(X), spread(clean)
    assert shift > 1
    assert scale > 0.4
    assert left_shift < 0.15 * shift
    assert left_scale < 0.6 * scale  # the prior holds scales back where a site has 12 rows
    before = LinearRegression().fit(table[["age"]], X).coef_[:, 0]
    after = LinearRegression().fit(table[["age"]], clean).coef_[:, 0]
    assert np.corrcoef(before, after)[0, 1] > 0.95
    assert 0.9 < np.polyfit(before, after, 1)[0] < 1.1


def test_combat_takes_away_what_tells_sites_apart(sites):
    X, site, table = sites
    features = {"raw": X, "harmonised": ComBat().fit_transform(X, batch=site, covariates=table)}
    people = table.assign(subject=[f"p{i}" for i in range(53)], site=site)
    found = confound_table(features, people, n_bootstrap=200).set_index("model")["value"]
    assert found["raw"] > 0.9
    assert found["harmonised"] < 0.5


def test_combat_learns_from_the_training_part_only(sites):
    X, site, _ = sites
    train, test = np.arange(40), np.arange(40, 53)
    model = ComBat().fit(X[train], batch=site[train])
    whole = model.transform(X[test], batch=site[test])
    one_by_one = [model.transform(X[[i]], batch=site[[i]])[0] for i in test]
    np.testing.assert_allclose(one_by_one, whole, rtol=1e-12)


def test_order_and_units_do_not_matter(sites):
    X, site, table = sites
    clean = ComBat().fit_transform(X, batch=site, covariates=table)
    order = np.random.default_rng(1).permutation(len(X))
    again = ComBat().fit_transform(X[order], batch=site[order], covariates=table.iloc[order])
    np.testing.assert_allclose(again, clean[order], atol=1e-6)
    scale, offset = np.linspace(0.1, 50, 29), np.linspace(-9, 9, 29)
    months = table.assign(age=table["age"] * 12 - 400)
    scaled = ComBat().fit_transform(X * scale + offset, batch=site, covariates=months)
    np.testing.assert_allclose(scaled, clean * scale + offset, atol=1e-5)


def test_features_that_do_not_vary_stay(sites):
    X, site, _ = sites
    X = X.copy()
    X[:, 3], X[:, 7] = 0.0, 1e3 / 3
    clean = ComBat().fit_transform(X, batch=site)
    np.testing.assert_array_equal(clean[:, [3, 7]], X[:, [3, 7]])
    assert np.isfinite(clean).all()
    without = np.delete(np.arange(29), [3, 7])
    np.testing.assert_allclose(
        clean[:, without], ComBat().fit_transform(X[:, without], batch=site), rtol=1e-9
    )


def test_a_site_never_seen(sites):
    X, site, _ = sites
    train, test = site != "west", site == "west"
    with pytest.raises(InputError, match=r"\['west'\].*no row in the training part.*'keep'"):
        ComBat().fit(X[train], batch=site[train]).transform(X, batch=site)
    kept = ComBat(unseen="keep").fit(X[train], batch=site[train])
    np.testing.assert_array_equal(kept.transform(X[test], batch=site[test]), X[test])
    adapted = ComBat(unseen="adapt").fit(X[train], batch=site[train])
    clean = adapted.transform(X, batch=site)
    known = clean[train].mean(axis=0)
    before = np.abs(X[test].mean(axis=0) - known).mean()
    assert np.abs(clean[test].mean(axis=0) - known).mean() < 0.2 * before
    with pytest.raises(InputError, match="one row only"):
        adapted.transform(X[:1], batch=["elsewhere"])


def test_combat_refuses(sites):
    X, site, table = sites
    lonely = np.where(np.arange(53) == 5, "alone", site)
    with pytest.raises(InputError, match=r"\['alone'\].*one row only"):
        ComBat().fit(X, batch=lonely)
    with pytest.raises(InputError, match="cannot be separated from the batches"):
        ComBat().fit(X, batch=site, covariates=pd.DataFrame({"country": site == "west"}))
    gap = table.assign(age=table["age"].where(table.index != 2))
    with pytest.raises(InputError, match=r"covariates\['age'\].*1 of 53 recordings have no value"):
        ComBat().fit(X, batch=site, covariates=gap)
    with pytest.raises(InputError, match="a value for each of the 53 rows"):
        ComBat().fit(X, batch=site[:-1])
    with pytest.raises(InputError, match="at least 2"):
        ComBat().fit(X[:, :1], batch=site)
    model = ComBat().fit(X, batch=site, covariates=table)
    with pytest.raises(InputError, match="covariates = 'age': lack a column"):
        model.transform(X, batch=site)
    with pytest.raises(InputError, match=r"\['other'\]"):
        model.transform(X, batch=site, covariates=table.assign(sex="other"))
    with pytest.raises(InputError, match="must be refuse, keep or adapt"):
        ComBat(unseen="guess").fit(X, batch=site)


def test_combat_works_in_a_pipeline_with_metadata_routing(sites):
    X, site, _ = sites
    y = np.where(np.arange(53) % 2 == 0, "a", "b")
    with config_context(enable_metadata_routing=True):
        combat = ComBat(unseen="keep").set_fit_request(batch=True).set_transform_request(batch=True)
        pipe = make_pipeline(combat, LinearProbe().set_fit_request(groups=True))
        pipe.fit(X[:40], y[:40], batch=site[:40], groups=np.arange(40) // 2)
        found = pipe.predict(X[40:], batch=site[40:])
    clean = ComBat().fit(X[:40], batch=site[:40])
    probe = LinearProbe().fit(
        clean.transform(X[:40], batch=site[:40]), y[:40], groups=np.arange(40) // 2
    )
    expected = probe.predict(clean.transform(X[40:], batch=site[40:]))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("model", [ComBat(), ConfoundRegressor()])
def test_columns_keep_their_names(sites, model):
    X, site, _ = sites
    frame = pd.DataFrame(X, columns=[f"roi {k}" for k in range(29)], index=[*range(100, 153)])
    given = {"batch": site} if isinstance(model, ComBat) else {"confounds": site}
    found = model.set_output(transform="pandas").fit_transform(frame, **given)
    assert found.columns.tolist() == frame.columns.tolist()
    assert found.index.tolist() == frame.index.tolist()
    assert model.n_features_in_ == 29


# -- regression ------------------------------------------------------------------------------------


def test_residuals_equal_scikit_learn_s(sites):
    X, site, table = sites
    train, test = np.arange(40), np.arange(40, 53)
    confounds = table.assign(site=site)
    model = ConfoundRegressor().fit(X[train], confounds=confounds.iloc[train])
    found = model.transform(X[test], confounds=confounds.iloc[test])
    dummies = pd.get_dummies(confounds, drop_first=True).astype(float)
    line = LinearRegression().fit(dummies.iloc[train], X[train])
    expected = X[test] - line.predict(dummies.iloc[test]) + X[train].mean(axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_residuals_of_the_training_part_do_not_follow_the_confounds(sites):
    X, _, table = sites
    clean = ConfoundRegressor().fit_transform(X, confounds=table[["age"]].to_numpy())
    r = [np.corrcoef(clean[:, k], table["age"])[0, 1] for k in range(29)]
    np.testing.assert_allclose(r, 0, atol=1e-10)
    np.testing.assert_allclose(clean.mean(axis=0), X.mean(axis=0))


def test_an_unseen_category_of_a_confound(sites):
    X, site, table = sites
    confounds = table.assign(site=site)
    train, test = site != "west", site == "west"
    with pytest.raises(
        InputError, match=r"confounds\['site'\].*\['west'\].*training part does not"
    ):
        ConfoundRegressor().fit(X[train], confounds=confounds[train]).transform(
            X[test], confounds=confounds[test]
        )
    model = ConfoundRegressor(unseen="keep").fit(X[train], confounds=confounds[train])
    found = model.transform(X[test], confounds=confounds[test])
    # What is left is what the model of age and sex within sites subtracts.
    by_hand = X[test] - model.coding_.apply(confounds[test].assign(site="east"), "") @ model.coef_
    offset = found - by_hand
    np.testing.assert_allclose(offset, np.broadcast_to(offset[0], offset.shape), atol=1e-9)
    assert np.abs(offset).max() > 0.1


def test_confounds_that_explain_everybody_are_refused(sites):
    X, _, _ = sites
    with pytest.raises(InputError, match="explain 53 rows completely"):
        ConfoundRegressor().fit(X, confounds=[f"person {i}" for i in range(53)])
    with pytest.raises(InputError, match="one row for each of the 53"):
        ConfoundRegressor().fit(X, confounds=np.zeros((52, 2)))


# -- the table -------------------------------------------------------------------------------------


@pytest.fixture
def cohort():
    """97 recordings of 71 people: the first feature knows the TR, the second the motion."""
    rng = np.random.default_rng(2)
    people = np.repeat(np.arange(71), np.where(np.arange(71) < 26, 2, 1))
    table = pd.DataFrame(
        {
            "subject": [f"p{i}" for i in people],
            "site": [f"s{i % 3}" for i in people],
            "source_tr": np.where(people % 3 == 2, 3.0, 2.0),
            "mean_fd": rng.gamma(2, 0.1, len(people)),
            "censored_fraction": 0.5,
        }
    )
    X = rng.standard_normal((len(people), 8))
    X[:, 0] += 4 * (table["source_tr"] == 3.0)
    X[:, 1] += 30 * table["mean_fd"]
    return X, table


def test_the_table_finds_what_is_there_and_not_what_is_not(cohort):
    X, table = cohort
    noise = np.random.default_rng(3).standard_normal((97, 5))
    found = confound_table({"model": X, "noise": noise}, table, n_bootstrap=300)
    assert found[["model", "confound"]].apply(tuple, axis=1).tolist() == [
        (m, c) for c in ("site", "source_tr", "mean_fd") for m in ("model", "noise")
    ]
    at = found.set_index(["model", "confound"])
    assert at.loc[("model", "source_tr"), "ci_low"] > 0.85
    assert at.loc[("model", "mean_fd"), "ci_low"] > 0.8
    assert at.loc[("model", "site"), "value"] == pytest.approx(0.66, abs=0.12)
    for confound in ("site", "source_tr", "mean_fd"):
        row = at.loc[("noise", confound)]
        assert row["value"] < row["chance"] + 0.15  # pooled folds push r below 0
        assert row["ci_low"] < row["value"] < row["ci_high"]
    assert at.loc[("model", "site"), "chance"] == pytest.approx(1 / 3)
    assert at.loc[("model", "site"), "n_classes"] == 3
    again = confound_table({"model": X, "noise": noise}, table, n_bootstrap=300)
    pd.testing.assert_frame_equal(found, again)


def test_a_personal_code_does_not_tell_the_site(cohort):
    """Two recordings of a person stay together: knowing persons is not knowing sites."""
    _, table = cohort
    codes = pd.get_dummies(table["subject"]).to_numpy(float)
    found = confound_table({"codes": codes}, table, ["site"], n_bootstrap=50)
    assert found["value"].iloc[0] < 0.5


def test_what_cannot_be_tested_is_counted_or_refused(cohort):
    X, table = cohort
    table = table.assign(scanner=np.where(table["subject"].isin(["p1", "p2"]), "rare", "a"))
    table.loc[table["subject"].isin([f"p{i}" for i in range(30, 60)]), "scanner"] = "b"
    table.loc[table["subject"] == "p9", "scanner"] = None
    found = confound_table({"m": X}, table, ["scanner"], n_bootstrap=20).iloc[0]
    assert found["n_left_out"] == 2 + 2 + 2
    assert found["n_classes"] == 2
    with pytest.raises(InputError, match="does not vary"):
        confound_table({"m": X}, table, ["censored_fraction"])
    with pytest.raises(InputError, match="Did you mean 'scanner'"):
        confound_table({"m": X}, table, ["scaner"])
    with pytest.raises(InputError, match="fewer than 2 classes of at least 40 subjects"):
        confound_table({"m": X}, table, ["scanner"], n_folds=40)
    with pytest.raises(InputError, match="one row for each of the 97"):
        confound_table({"m": X[:-1]}, table)
