from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone

from semantoks.data.designs import GroupedKFold, LeaveOneSiteOut
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import write_store
from semantoks.errors import InputError
from semantoks.evaluate.checks.adjusted import Harmonised, Residualised
from semantoks.evaluate.checks.combat import ComBat
from semantoks.evaluate.checks.confounds import ConfoundRegressor
from semantoks.evaluate.compare.evaluation import evaluate_probes
from semantoks.evaluate.features.connectivity import ConnectivityBaseline
from semantoks.evaluate.features.tangent import TangentBaseline


@pytest.fixture(scope="module")
def confounded(tmp_path_factory, parcellation):
    """73 people: patients come from the site whose scanner couples all ROIs, nothing else does.

    The coupling of ROIs 0 and 1 tells sex.
    """
    rng = np.random.default_rng(21)
    recordings = []
    for person in range(73):
        site = ("east", "north", "west")[person % 3]
        ill = rng.random() < (0.85 if site == "east" else 0.2)
        x = rng.standard_normal((131, 11)) + (1.5 if site == "east" else 0.2) * rng.standard_normal(
            (131, 1)
        )
        if person % 2:
            x[:, 1] = 0.8 * x[:, 0] + 0.6 * x[:, 1]
        recordings.append(
            Recording(
                signal=x,
                roi_names=parcellation.labels,
                tr=2.0,
                subject=f"p{person:02}",
                site=site,
                mean_fd=float(rng.gamma(2, 0.1)),
                phenotypes={
                    "diagnosis": "patient" if ill else "control",
                    "sex": ("female", "male")[person % 2],
                    "age": float(rng.uniform(20, 60)),
                },
            )
        )
    plain = Preprocessing(tr=2.0, low_hz=None, high_hz=None)
    return write_store(tmp_path_factory.mktemp("c") / "store", recordings, parcellation, plain)


def parts(store):
    rows = np.arange(len(store))
    return store.select(rows[rows % 4 > 0]), store.select(rows[rows % 4 == 0])


def test_they_are_what_they_wrap(confounded):
    train, test = parts(confounded)
    fc = ConnectivityBaseline().fit(train)
    X = [fc.transform(s).astype(np.float64) for s in (train, test)]
    model = Harmonised(ConnectivityBaseline(), keep=("age", "sex")).fit(train)
    kept = [s.table[["age", "sex"]] for s in (train, test)]
    combat = ComBat().fit(X[0], batch=train.table["site"], covariates=kept[0])
    expected = combat.transform(X[1], batch=test.table["site"], covariates=kept[1])
    np.testing.assert_allclose(model.transform(test), expected, rtol=1e-5, atol=1e-6)
    model = Residualised(ConnectivityBaseline(), confounds=("site", "mean_fd")).fit(train)
    columns = [s.table[["site", "mean_fd"]] for s in (train, test)]
    regressor = ConfoundRegressor().fit(X[0], confounds=columns[0])
    expected = regressor.transform(X[1], confounds=columns[1])
    np.testing.assert_allclose(model.transform(test), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [Harmonised, Residualised])
def test_prepared_rows_are_what_the_store_gives(confounded, make):
    model = make(ConnectivityBaseline())
    prepared = model.prepare(confounded)
    rows = np.random.default_rng(0).permutation(len(confounded))
    train, test = rows[:50], rows[50:]
    found = clone(model).fit_prepared(prepared[train]).transform_prepared(prepared[test])
    expected = clone(model).fit(confounded.select(train)).transform(confounded.select(test))
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32
    # What is learned does not depend on the recordings transformed.
    alone = clone(model).fit_prepared(prepared[train]).transform_prepared(prepared[test[:1]])
    np.testing.assert_allclose(alone[0], found[0], rtol=1e-5)


def test_a_score_that_was_the_scanner_goes_and_one_that_was_the_brain_stays(confounded):
    fc = ConnectivityBaseline()
    models = {
        "fc": fc,
        "ComBat": Harmonised(fc),
        "residuals": Residualised(fc, confounds=("site",)),
    }
    result = evaluate_probes(
        confounded,
        models,
        ["diagnosis", "sex"],
        design=GroupedKFold(n_folds=4),
        against=["fc"],
    )
    scores = result.scores.query("metric == 'pooled AUROC'")
    scores = scores.set_index(["target", "model"])["value"]
    assert scores["diagnosis", "fc"] > 0.72
    for name in ("ComBat", "residuals"):
        assert scores["diagnosis", name] < scores["diagnosis", "fc"] - 0.12
        assert scores["sex", name] > 0.9


def test_a_left_out_site(confounded):
    fc = ConnectivityBaseline()
    run = {"design": LeaveOneSiteOut()}
    with pytest.raises(InputError, match=r"\['east'\].*have no row in the training part"):
        evaluate_probes(confounded, {"h": Harmonised(fc)}, ["sex"], **run)
    models = {"h": Harmonised(fc, unseen="adapt"), "r": Residualised(fc)}
    scores = evaluate_probes(confounded, models, ["sex"], **run).scores
    scores = scores.query("metric == 'AUROC'").set_index("model")["value"]
    assert scores["h"] > 0.9
    assert scores["r"] > 0.6  # the site's own shift stays


def test_the_target_is_never_kept_nor_removed(confounded):
    fc = ConnectivityBaseline()
    assert Harmonised(fc, keep=("sex", "age")).for_target("sex").keep == ("age",)
    assert Residualised(fc, confounds=("sex", "site")).for_target("sex").confounds == ("site",)
    # Keeping a diagnosis that follows the site would tell it; evaluation must not.
    told = {"kept": Harmonised(fc, keep=("diagnosis",)), "plain": Harmonised(fc)}
    result = evaluate_probes(confounded, told, ["diagnosis"], against=[])
    scores = result.scores.set_index(["model", "metric"])["value"]
    np.testing.assert_array_equal(scores["kept"], scores["plain"])


def test_what_cannot_be_cleaned_is_refused(confounded):
    fc = ConnectivityBaseline()
    with pytest.raises(InputError, match="a model that learns nothing"):
        Harmonised(TangentBaseline()).fit(confounded)
    with pytest.raises(InputError, match="Did you mean 'site'"):
        Harmonised(fc, batch="sites").fit(confounded)
    gap = confounded.select(np.arange(len(confounded)))
    gap.table.loc[5, "mean_fd"] = np.nan
    with pytest.raises(InputError, match=r"confounds\['mean_fd'\].*1 of 73 recordings"):
        Residualised(fc, unseen="refuse").fit(gap)


def test_nothing_is_subtracted_for_an_unknown_value(confounded):
    """One unknown motion among many known ones changes what is learned a little, no more."""
    fc = ConnectivityBaseline()
    gap = confounded.select(np.arange(len(confounded)))
    gap.table.loc[5, "mean_fd"] = np.nan
    cleaned = Residualised(fc, confounds=("mean_fd",)).fit(gap).transform(gap)
    known = np.delete(np.arange(len(gap)), 5)
    raw = fc.fit_transform(gap)
    np.testing.assert_allclose(cleaned[5], raw[5], atol=1e-6)
    without = gap.select(known)
    expected = Residualised(fc, confounds=("mean_fd",)).fit(without)
    # The row without a value moves the mean of the features a little, and so the slopes.
    np.testing.assert_allclose(cleaned[known], expected.transform(without), atol=0.02)
    assert np.abs(raw[known] - cleaned[known]).max() > 0.1
