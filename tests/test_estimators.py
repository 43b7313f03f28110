"""Every estimator against scikit-learn's checks, and those of recordings against ours."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy.sparse import issparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GroupKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator, parametrize_with_checks

from estimator_checks import CHECKS, Example
from semantoks import load_estimator, save_estimator
from semantoks.errors import CheckpointError, InputError
from semantoks.evaluate.checks.adjusted import Harmonised, Residualised
from semantoks.evaluate.checks.combat import ComBat
from semantoks.evaluate.checks.confounds import ConfoundRegressor
from semantoks.evaluate.features.baselines import BASELINES, make_baselines
from semantoks.evaluate.features.connectivity import ConnectivityBaseline
from semantoks.evaluate.features.covariates import ConfoundsBaseline
from semantoks.evaluate.features.embed import Embedder
from semantoks.evaluate.predictors import probe as probes
from semantoks.evaluate.predictors.finetune import FineTuner, FineTunerRegressor
from semantoks.evaluate.predictors.probe import LinearProbe, LinearProbeRegressor
from semantoks.evaluate.predictors.saving import HEADER
from semantoks.model.encoder import Encoder, EncoderConfig

# -- scikit-learn's checks -------------------------------------------------------------------------


class OneBatch(ComBat):
    """ComBat as scikit-learn can call it: all rows of one scanner."""

    def fit(self, X, y=None):
        return super().fit(X, y, batch=_codes(X))

    def transform(self, X):
        return super().transform(X, batch=_codes(X))

    def fit_transform(self, X, y=None):
        return self.fit(X, y).transform(X)


class FirstColumn(ConfoundRegressor):
    """The regression as scikit-learn can call it: the first feature is the confound."""

    def fit(self, X, y=None):
        return super().fit(X, y, confounds=_column(X))

    def transform(self, X):
        return super().transform(X, confounds=_column(X))

    def fit_transform(self, X, y=None):
        return self.fit(X, y).transform(X)


def _codes(X):
    return np.zeros(X.shape[0] if hasattr(X, "shape") else len(np.asarray(X)), int)


def _column(X):
    array = X if issparse(X) else np.asarray(X)
    usable = not issparse(X) and array.ndim == 2 and array.dtype.kind in "fiu" and array.size
    return array[:, 0] if usable and np.isfinite(array).all() else _codes(X)


FOLDS = "inner folds of repeated rows are others than those of weighted rows"
XFAIL = {"check_sample_weight_equivalence_on_dense_data": FOLDS}
EXPECTED = {LinearProbe: XFAIL, LinearProbeRegressor: XFAIL}
OF_TABLES = [
    LinearProbe(),
    LinearProbe("logistic"),
    LinearProbe("svm"),
    LinearProbeRegressor(),
    OneBatch(),
    FirstColumn(),
]


@parametrize_with_checks(OF_TABLES, expected_failed_checks=lambda e: EXPECTED.get(type(e), {}))
def test_scikit_learn_s_checks(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore:Can't test estimator")  # with its 2-D data, that is
@pytest.mark.parametrize("estimator", [
    ConfoundsBaseline(), Harmonised(ConnectivityBaseline()), Residualised(ConnectivityBaseline()),
], ids=lambda estimator: type(estimator).__name__)  # fmt: skip
def test_scikit_learn_s_checks_without_data(estimator):
    """Of what reads a store."""
    check_estimator(estimator)


def test_the_first_two_arguments_are_no_secret():
    """Without its batch or its confounds a transformer says what is missing."""
    X = np.zeros((4, 3))
    with pytest.raises(TypeError, match="'batch'"):
        ComBat().fit(X)
    with pytest.raises(TypeError, match="'confounds'"):
        ConfoundRegressor().fit(X)


# -- ours, of recordings ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(parcellation, preprocessing):
    config = EncoderConfig(width=16, depth=1, head_width=8, patch_length=6, n_patches=4)
    return Encoder.random(config, parcellation, preprocessing, seed=2).eval()


@pytest.fixture(scope="module")
def example():
    rng = np.random.default_rng(4)
    X = rng.standard_normal((9, 41, 11)) @ rng.standard_normal((11, 11)) * 3 + 5
    return Example(X, np.array(["slow", "wild", "slow"] * 3))


QUICK = {"tr": 2.0, "epochs": 1, "batch_size": 4, "n_crops": 2}
MAKERS = {
    **{
        name: lambda _, name=name: make_baselines([name])[name]
        for name in BASELINES
        if name not in ("confounds", "spectrum", "network amplitude")
    },
    "spectrum": lambda _: make_baselines(["spectrum"])["spectrum"].set_params(
        tr=2.0, bands=((0.01, 0.1), (0.1, 0.2))
    ),
    "network amplitude": lambda _: make_baselines(["network amplitude"])[
        "network amplitude"
    ].set_params(level="roi"),
    "embedder": lambda encoder: Embedder(encoder, tr=2.0, n_crops=2),
    "tuner": lambda encoder: FineTuner(encoder, **QUICK),
    "tuner of an MLP": lambda encoder: FineTuner(encoder, **QUICK, head="mlp", train="lora"),
    "regressor": lambda encoder: FineTunerRegressor(encoder, **QUICK),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", MAKERS)
def test_checks_of_recordings(name, check, encoder, example, tmp_path):
    if name == "regressor":
        example = Example(example.X, np.linspace(20.5, 71.5, len(example.X)))
    check(MAKERS[name](encoder), example, tmp_path)


def test_every_transformer_of_recordings_is_checked():
    assert {*BASELINES} - {*MAKERS} == {"confounds"}


# -- what belongs to the caller --------------------------------------------------------------------


def state_of(encoder):
    weights = {name: value.clone() for name, value in encoder.state_dict().items()}
    flags = [(p.requires_grad, p.device) for p in encoder.parameters()]
    return encoder.training, [m.training for m in encoder.modules()], flags, weights


@pytest.mark.parametrize("training", [True, False])
def test_the_caller_s_model_is_left_as_it_was(training, encoder, example):
    mine = copy.deepcopy(encoder).train(training).requires_grad_(True)
    mode, modes, flags, weights = state_of(mine)
    embedder = Embedder(mine, tr=2.0, n_crops=2).fit(example.X)
    found = embedder.transform(example.X)
    for tuner in (FineTuner(mine, **QUICK), FineTuner(mine, **QUICK, train="head")):
        tuner.fit(example.X, example.y).predict(example.X)
    after = state_of(mine)
    assert after[:3] == (mode, modes, flags)
    for name, value in weights.items():
        assert torch.equal(after[3][name], value)
    # And the embedding is that of a model that evaluates.
    expected = Embedder(encoder, tr=2.0, n_crops=2).fit(example.X).transform(example.X)
    np.testing.assert_array_equal(found, expected)


def test_a_model_elsewhere_is_copied_to_the_device(encoder):
    far = copy.deepcopy(encoder).to("meta")  # a device without data
    embedder = Embedder(encoder, device="meta").fit([np.zeros((30, 11))])
    assert embedder.encoder_.cls_token.device.type == "meta"
    assert encoder.cls_token.device.type == "cpu"
    assert Embedder(far, device="meta").fit([np.zeros((30, 11))]).encoder_ is far


# -- classes or numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize("ages", [
    np.linspace(20.5, 71.5, 9), np.arange(20, 29), [20.0, 21, 22, 23, 24, 25, 25, 26, 27],
], ids=["years and months", "years", "years as floats"])  # fmt: skip
def test_ages_are_no_classes(ages, encoder, example):
    tuner = FineTuner(encoder, **QUICK)
    with pytest.raises(InputError, match=r"different numbers in 9 rows.*FineTunerRegressor"):
        tuner.fit(example.X, ages)
    FineTunerRegressor(encoder, **QUICK).fit(example.X, ages)
    tuner.fit(example.X, [str(int(age) // 60) for age in [30, 65, *ages[2:]]])


@pytest.mark.parametrize("classes", [[0, 1, 2] * 3, [True, False, True] * 3, [1.0, 4.0, 4.0] * 3])
def test_numbers_of_classes_are_classes(classes, encoder, example):
    tuner = FineTuner(encoder, **QUICK).fit(example.X, classes)
    assert set(tuner.predict(example.X)) <= set(classes)


def test_a_missing_class_is_no_class(encoder, example):
    for labels in (["a", "b", None] * 3, [0.0, 1.0, np.nan] * 3):
        with pytest.raises(InputError, match=r"3 missing.*class of every recording"):
            FineTuner(encoder, **QUICK).fit(example.X, np.array(labels))


# -- metadata routing ------------------------------------------------------------------------------


def test_groups_reach_the_inner_folds_of_the_probe(monkeypatch, example):
    """Through cross-validation and a pipeline, as scikit-learn routes them."""
    seen, plain = [], probes.inner_folds

    def watched(codes, n_rows, groups, n_folds, seed):
        seen.append(groups)
        return plain(codes, n_rows, groups, n_folds, seed)

    monkeypatch.setattr(probes, "inner_folds", watched)
    groups = np.array(["p1", "p1", "p2", "p2", "p3", "p3", "p4", "p4", "p4"])
    with config_context(enable_metadata_routing=True):
        probe = LinearProbe().set_fit_request(groups=True)
        pipe = make_pipeline(ConnectivityBaseline(), probe)
        cv = GroupKFold(3)
        cross_validate(pipe, example.X, example.y, cv=cv, params={"groups": groups},
                       error_score="raise")  # fmt: skip
        expected = [groups[train] for train, _ in cv.split(example.X, groups=groups)]
    assert [g.tolist() for g in seen] == [g.tolist() for g in expected]


def test_sites_reach_combat_in_a_pipeline(example):
    X = ConnectivityBaseline().fit(example.X).transform(example.X)
    X, y = np.tile(X, (4, 1)) + np.arange(36)[:, None] % 5, np.tile(example.y, 4)
    site = np.array(["east", "west", "north"])[np.arange(36) // 2 % 3]
    with config_context(enable_metadata_routing=True):
        combat = ComBat().set_fit_request(batch=True).set_transform_request(batch=True)
        pipe = make_pipeline(combat, LinearProbe()).fit(X, y, batch=site)
        found = pipe.predict(X, batch=site)
        alone = ComBat().fit(X, batch=site)
        probe = LinearProbe().fit(alone.transform(X, batch=site), y)
        assert found.tolist() == probe.predict(alone.transform(X, batch=site)).tolist()
        scores = cross_validate(pipe, X, y, params={"batch": site}, cv=3, error_score="raise")
        assert np.isfinite(scores["test_score"]).all()
        with pytest.raises(TypeError, match="'batch'"):
            pipe.predict(X)


# -- saved estimators ------------------------------------------------------------------------------


def test_a_pipeline_is_saved_whole(encoder, example, tmp_path):
    pipe = make_pipeline(Embedder(encoder, tr=2.0, n_crops=2), StandardScaler(), LinearProbe())
    pipe.set_output(transform="pandas").fit(example.X, example.y)
    folder = save_estimator(tmp_path / "pipe", pipe)
    again = load_estimator(folder)
    expected = pipe.predict_proba(example.X)
    np.testing.assert_array_equal(again.predict_proba(example.X), expected)
    assert isinstance(again[:-1].transform(example.X), type(pipe[:-1].transform(example.X)))
    assert {file.suffix for file in folder.rglob("*") if file.is_file()} <= {
        ".json", ".safetensors", ".tsv", ".md"
    }  # fmt: skip
    assert len([*folder.glob("encoder-*")]) == 1  # parameter and fitted attribute are one
    assert clone(again).fit(example.X, example.y).predict(example.X).tolist()
    with pytest.raises(InputError, match="exists already"):
        save_estimator(folder, pipe)


def test_routing_is_saved(tmp_path):
    with config_context(enable_metadata_routing=True):
        probe = LinearProbe().set_fit_request(groups=True, held_out=False)
        again = load_estimator(save_estimator(tmp_path / "probe", probe))
        assert str(again.get_metadata_routing()) == str(probe.get_metadata_routing())


def test_what_is_no_data_is_not_saved(tmp_path):
    X, y = np.random.default_rng(0).standard_normal((20, 3)), [0, 1] * 10
    forest = RandomForestClassifier(2, random_state=0).fit(X, y)
    with pytest.raises(InputError, match=r"RandomForestClassifier\..*tree_.*skops"):
        save_estimator(tmp_path / "forest", forest)
    assert not [*tmp_path.iterdir()]


PROBE = f"{LinearProbe.__module__}:LinearProbe"


@pytest.mark.parametrize(("old", "new", "message"), [
    (PROBE, "os:system", "is no estimator"),
    (PROBE, "semantoks.files:write_file", "is no estimator"),
    (PROBE, "sklearn.utils:Bunch", "is no estimator"),
    ('"format": 1', '"format": 2', "newer version"),
    ('"format": 1', '"format": "1"', "whole number"),
    ('"array": "0"', '"array": "none"', "is damaged"),
    ('{', "", "estimator.json"),
])  # fmt: skip
def test_a_folder_runs_nothing_and_damage_is_named(old, new, message, tmp_path):
    X, y = np.random.default_rng(0).standard_normal((20, 3)), [0, 1] * 10
    folder = save_estimator(tmp_path / "probe", LinearProbe().fit(X, y))
    text = (folder / HEADER).read_text()
    assert old in text
    (folder / HEADER).write_text(text.replace(old, new, 1))
    with pytest.raises(CheckpointError, match=message):
        load_estimator(folder)
    with pytest.raises(CheckpointError):
        load_estimator(tmp_path / "nowhere")
