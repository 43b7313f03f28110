"""Advice about evaluation: targets, features, confounds and names, followed."""

from __future__ import annotations

import numpy as np
import pandas as pd

from advice import advised
from semantoks.assess.parts.table import chosen_parts
from semantoks.assess.plan import _size
from semantoks.evaluate.checks.associations import associations
from semantoks.evaluate.checks.combat import ComBat
from semantoks.evaluate.checks.confounds import ConfoundRegressor, confound_table
from semantoks.evaluate.checks.corruption import known_corruption
from semantoks.evaluate.features.baselines import baseline_names
from semantoks.evaluate.features.given import read_features
from semantoks.evaluate.features.inputs import signal_list
from semantoks.evaluate.predictors.base import class_labels

RNG = np.random.default_rng(4)
X = RNG.standard_normal((12, 5))
SITES = np.repeat(["a", "b"], 6)


# -- names -----------------------------------------------------------------------------------------


def test_names_that_are_none():
    with advised("assess/parts/table.chosen_parts", "Did you mean"):
        chosen_parts(["reliabilty"])
    assert chosen_parts(["reliability"]) == ("reliability",)
    with advised("evaluate/checks/corruption.known_corruption", "Known: "):
        known_corruption("xyz")
    with advised("evaluate/features/baselines.baseline_names", "Did you mean"):
        baseline_names(["tangnt"])
    assert len(baseline_names(["tangent"])) == 1
    with advised("assess/plan._size", "Give e.g. 64 or 25%"):
        _size("many")
    assert (_size("64"), _size("25%")) == (64, 0.25)


# -- features --------------------------------------------------------------------------------------


def test_features_of_others(tmp_path, store):
    file, place = tmp_path / "features.tsv", "evaluate/features/given.read_features"
    good = pd.DataFrame({"id": store.table["id"], "x": 1.5, "y": np.arange(len(store)) + 0.5})

    def read(frame):
        frame.to_csv(file, sep="\t", index=False)
        return read_features(file, store)

    advice = "Call the column of the recordings, named as in the store, id"
    with advised(place, advice):
        read(good.rename(columns={"id": "recording"}))
    with advised(place, "Name the rows as the column "):
        read(good.assign(id=[f"r{i}" for i in range(len(good))]))
    with advised(place, "Add the rows, or prepare a store without these recordings"):
        read(good[2:])
    with advised(place, "Fill the cell, or delete the column"):
        read(good.assign(y=[None, *good["y"][1:]]))
    assert read(good).shape == (13, 2)
    assert read(good.drop(columns="y")).shape == (13, 1)
    file.unlink()
    good[2:].to_csv(file, sep="\t", index=False)
    assert read_features(file, store[np.arange(2, 13)]).shape == (11, 2)


def test_signals_that_are_turned():
    signals = [RNG.standard_normal((n, 4)) for n in (20, 30)]
    with advised(
        "evaluate/features/inputs.signal_list", "Time comes first, as nilearn's maskers return it"
    ):
        signal_list([x.T for x in signals])
    assert len(signal_list(signals)) == 2


def test_numbers_as_classes():
    advice = "Fit a regressor (FineTunerRegressor); numbers that do name classes, as text"
    ages = np.arange(20.0, 26.0)
    with advised("evaluate/predictors/base.class_labels", advice):
        class_labels(ages)
    assert len(class_labels(ages.astype(str))) == 6


# -- confounds -------------------------------------------------------------------------------------


def test_batches():
    def fitted(rows, **options):
        return ComBat(**options).fit(X[rows], batch=SITES[rows])

    few = np.r_[0:6, 6]
    advice = "Leave these batches out, or merge them with others of the same scanner"
    with advised("evaluate/checks/combat._check_batches", advice):
        fitted(few)
    fitted(np.r_[0:6, 6:9])
    ComBat().fit(X[few], batch=["a", "a", "a", "a", "b", "b", "b"])
    place, new = "evaluate/checks/combat._check_unseen", ["c"] * 3
    advice = "Test within the sites trained on, or choose unseen='keep' or 'adapt'"
    with advised(place, advice):
        fitted(slice(None)).transform(X[:3], batch=new)
    fitted(slice(None)).transform(X[:3], batch=["a"] * 3)
    for unseen in ("keep", "adapt"):
        fitted(slice(None), unseen=unseen).transform(X[:3], batch=new)
    advice = "Leave the rows out, or choose unseen='keep'"
    with advised(place, advice):
        fitted(slice(None), unseen="adapt").transform(X[:3], batch=["c", "a", "a"])
    fitted(slice(None), unseen="adapt").transform(X[1:3], batch=["a", "a"])
    fitted(slice(None), unseen="keep").transform(X[:3], batch=["c", "a", "a"])


def test_covariates_that_are_the_batches():
    table = pd.DataFrame({"scanner": SITES, "age": RNG.standard_normal(12)})
    advice = "Leave out the covariate that does not vary within batches"
    with advised("evaluate/checks/combat._check_separable", advice):
        ComBat().fit(X, batch=SITES, covariates=table)
    ComBat().fit(X, batch=SITES, covariates=table[["age"]])


def test_confounds_that_are_incomplete():
    table = pd.DataFrame({"age": [None, *RNG.standard_normal(11)], "fd": RNG.random(12)})
    advice = "Leave these recordings or this column out"
    with advised("evaluate/checks/confounds._complete", advice):
        ConfoundRegressor().fit(X, confounds=table)
    ConfoundRegressor().fit(X[1:], confounds=table[1:])
    ConfoundRegressor().fit(X, confounds=table[["fd"]])
    sites = pd.DataFrame({"site": SITES})
    with advised("evaluate/checks/confounds._raw", advice):
        ConfoundRegressor().fit(X[:8], confounds=sites[:8]).transform(
            X[8:9], confounds=pd.DataFrame({"site": ["c"]})
        )
    fitted = ConfoundRegressor().fit(X[:8], confounds=sites[:8])
    fitted.transform(X[8:9], confounds=sites[8:9])
    many = pd.DataFrame(RNG.standard_normal((12, 14)), columns=[f"c{i}" for i in range(14)])
    with advised("evaluate/checks/confounds.fit", "Leave some out"):
        ConfoundRegressor().fit(X, confounds=many)
    ConfoundRegressor().fit(X, confounds=many.iloc[:, :4])


def test_columns_that_are_none(store):
    table = store.table
    with advised("evaluate/checks/associations.associations", "Did you mean"):
        associations(table, ["age"], ["sexx"])
    assert len(associations(table, ["age"], ["sex"])) == 1
    with advised("evaluate/checks/confounds._confounds", "Did you mean"):
        confound_table({"model": RNG.standard_normal((len(store), 3))}, table, ["sitee"])
