from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from semantoks.data.designs import GroupedKFold, LeaveOneSiteOut, design_for
from semantoks.data.recording import subject_key
from semantoks.data.seen import SeenData
from semantoks.errors import InputError
from semantoks.evaluate.compare.evaluation import evaluate_probes
from semantoks.evaluate.compare.result import ProbeResult
from semantoks.evaluate.compare.targets import Target
from semantoks.evaluate.features.connectivity import ConnectivityBaseline
from semantoks.evaluate.features.embed import Embedder
from semantoks.model.encoder import Encoder, EncoderConfig


class Frame:
    """A store's face for evaluation, with any table."""

    def __init__(self, store, table):
        self.table, self.path, self.fingerprint = table, store.path, store.fingerprint
        self.parcellation, self.tr, self.header = store.parcellation, store.tr, store.header

    def __len__(self):
        return len(self.table)


@pytest.fixture
def cohort(store):
    """60 people at 4 sites, 20 of them twice; sex, age and a site offset to play with."""
    rng = np.random.default_rng(11)
    people = np.repeat(np.arange(60), np.where(np.arange(60) < 20, 2, 1))
    table = pd.DataFrame(
        {
            "subject": [f"p{i:02}" for i in people],
            "site": [f"s{i % 4}" for i in people],
            "sex": np.where(people % 3 == 0, "female", "male"),
            "age": 20 + (people * 7 % 23) + 0.5,
        }
    )
    noise = rng.standard_normal((80, 9)).astype(np.float32)
    return Frame(store, table), noise


def value(result, target, model, metric):
    scores = result.scores.set_index(["target", "model", "metric"])
    return scores.loc[(target, model, metric)]


@pytest.mark.parametrize("groups", ["subject", "site"])
def test_what_is_there_is_found_and_what_is_not_is_not(cohort, groups):
    store, noise = cohort
    signal = noise.copy()
    signal[:, 2] += 4 * (store.table["sex"] == "female")
    signal[:, 5] += 0.5 * store.table["age"]
    models = {"informed": signal, "connectivity": noise}
    result = evaluate_probes(store, models, ["sex", "age"], design=design_for(groups))
    good, bad = (value(result, "sex", m, "balanced accuracy") for m in models)
    assert good["ci_low"] > 0.8
    assert bad["ci_low"] < 0.5 < bad["ci_high"]
    assert good["n_subjects"] == 60, "people count once"
    assert value(result, "age", "informed", "r")["value"] > 0.8
    for metric in ("AUROC", "balanced accuracy"):
        assert value(result, "sex", "chance", metric)["value"] == 0.5
    assert value(result, "age", "chance", "R2")["value"] < 0.05
    gap = result.differences.query("target == 'sex' and metric == 'AUROC'").iloc[0]
    assert (gap["model"], gap["against"]) == ("informed", "connectivity")
    assert gap["ci_low"] > 0
    again = evaluate_probes(store, models, ["sex", "age"], design=design_for(groups))
    pd.testing.assert_frame_equal(result.scores, again.scores)


def test_a_feature_that_only_tells_subjects_apart_does_not_help(cohort):
    """With a person in both parts, a personal code would predict sex perfectly."""
    store, _ = cohort
    codes = pd.get_dummies(store.table["subject"]).to_numpy(np.float32) * 10
    result = evaluate_probes(store, {"connectivity": codes}, ["sex"])
    assert value(result, "sex", "connectivity", "AUROC")["value"] < 0.6


def test_only_test_sites_are_tested_and_all_others_train(cohort):
    store, noise = cohort
    result = evaluate_probes(store, {"a": noise}, ["sex"], design=design_for("site", ["s1", "s3"]))
    assert set(result.predictions["site"]) == {"s1", "s3"}
    folds = result.meta["targets"]["sex"]["folds"]
    assert [f["name"] for f in folds] == ["s1", "s3"]
    assert folds[0]["n_train"] == (store.table["site"] != "s1").sum()
    assert set(result.predictions["fold"]) == {"s1", "s3"}
    assert not len(result.differences), "no connectivity, no difference"


def test_predictions_of_a_person_s_recordings_are_averaged(cohort):
    store, noise = cohort
    result = evaluate_probes(store, {"a": noise}, ["sex"])
    predictions = result.predictions.query("model == 'a'")
    assert predictions["subject"].is_unique
    scores = np.stack(predictions["scores"].to_list())
    np.testing.assert_allclose(scores.sum(axis=1), 1)
    classes = np.array(result.meta["targets"]["sex"]["classes"])
    decided = (scores / np.stack(predictions["thresholds"].to_list())).argmax(axis=1)
    assert (classes[decided] == predictions["predicted"]).all()


def test_a_result_survives_its_folder(cohort, tmp_path):
    store, noise = cohort
    result = evaluate_probes(store, {"a": noise}, ["sex", "age"])
    result.save(tmp_path / "r")
    back = ProbeResult.load(tmp_path / "r")
    pd.testing.assert_frame_equal(back.scores, result.scores)
    pd.testing.assert_frame_equal(
        back.predictions.drop(columns="scores"), result.predictions.drop(columns="scores")
    )
    assert back.meta == json.loads(json.dumps(result.meta))
    with pytest.raises(InputError, match="exists already and is not overwritten"):
        result.save(tmp_path / "r")
    (tmp_path / "r" / "result.json").unlink()
    with pytest.raises(InputError, match="holds no whole result"):
        ProbeResult.load(tmp_path / "r")


def test_what_a_model_saw_in_pretraining_is_reported(store, parcellation, preprocessing):
    config = EncoderConfig(width=8, depth=1, head_width=8, patch_length=6, n_patches=4)
    encoder = Encoder.random(config, parcellation, preprocessing, seed=0)
    encoder.pretraining = SeenData(
        n_recordings=4,
        n_subjects=3,
        subjects=tuple(subject_key(s) for s in ("p01", "p04", "elsewhere")),
        sites=("north", "moon"),
        epochs=2,
    )
    models = {"trained": Embedder(encoder), "connectivity": ConnectivityBaseline()}
    result = evaluate_probes(store, models, ["sex"], design=GroupedKFold(n_folds=3))
    seen = result.meta["models"]["trained"]
    assert seen["n_test_subjects_seen"] == 2
    assert seen["test_sites_seen"] == ["north"]
    assert "subjects" not in seen["pretraining"]
    assert result.meta["models"]["connectivity"] == {
        "n_test_subjects": 10,
        "pretrained": False,
        "n_replicates": 1,
    }


def test_trials_are_decoded_one_by_one_with_subjects_whole(store, parcellation, preprocessing):
    config = EncoderConfig(width=8, depth=1, head_width=8, patch_length=6, n_patches=4)
    encoder = Encoder.random(config, parcellation, preprocessing, seed=0)
    events = pd.DataFrame(
        [
            {"id": name, "onset": 30.0 * k, "duration": 20.0, "trial_type": "ab"[k]}
            for name in store.table["id"]
            for k in range(2)
        ]
    )
    trials = store.trials(events, delay=4.0)
    assert len(trials) == 26
    assert trials.table["id"][3] == "sub-p00_ses-2_trial-2"
    np.testing.assert_array_equal(trials.signal(3), store.signal(1)[17:27])
    models = {"encoder": Embedder(encoder), "connectivity": ConnectivityBaseline()}
    result = evaluate_probes(
        trials,
        models,
        ["trial_type"],
        unit="recording",
        design=GroupedKFold(n_folds=3),
    )
    predictions = result.predictions.query("model == 'encoder'")
    assert len(predictions) == 26
    assert predictions.groupby("subject")["fold"].nunique().max() == 1
    row = value(result, "trial_type", "encoder", "balanced accuracy")
    assert row["n_subjects"] == 10
    assert row["ci_low"] < row["value"] < row["ci_high"]
    with pytest.raises(InputError, match=r"has different labels.*unit='recording'"):
        evaluate_probes(trials, models, ["trial_type"])


def test_events_that_are_none(store):
    good = {"id": "sub-p04_ses-1", "onset": 3.0, "duration": 9.0}
    for change, message in (
        ({"onset": 112.0}, "is not within the recording's 118 s"),
        ({"onset": -3.0}, "is not within"),
        ({"duration": 0.4}, "is not within"),
        ({"id": "sub-nobody"}, "'sub-nobody': is no recording of"),
        ({"sex": "x"}, "'sex': is a column of the store already"),
    ):
        with pytest.raises(InputError, match=message):
            store.trials(pd.DataFrame([{**good, **change}]))
    with pytest.raises(InputError, match="events need the column 'duration'"):
        store.trials(pd.DataFrame([{"id": "x", "onset": 1.0}]))


# -- labels that cannot be predicted ---------------------------------------------------------------


def attempt(cohort, column, values, **options):
    store, noise = cohort
    store.table[column] = values
    return evaluate_probes(store, {"a": noise}, options.pop("target", [column]), **options)


def test_missing_labels_are_named_and_dropped_only_when_asked(cohort):
    y = cohort[0].table["sex"].to_numpy(object).copy()
    y[[3, 70]] = None
    with pytest.raises(InputError, match=r"2 of 80 recordings have no value \(subjects p01, p50\)"):
        attempt(cohort, "y", y)
    result = attempt(cohort, "y", y, missing="drop")
    assert result.meta["targets"]["y"]["n_left_out"] == 2
    assert "p50" not in set(result.predictions["subject"])


def test_one_class_is_nothing_to_tell_apart(cohort):
    with pytest.raises(InputError, match=r"y = 'same': has one class only"):
        attempt(cohort, "y", "same")


def test_a_class_smaller_than_the_folds(cohort):
    y = np.where(cohort[0].table["subject"].isin(["p33", "p34"]), "rare", "common")
    with pytest.raises(InputError, match=r"class 'rare' has 2 subjects, fewer than the folds"):
        attempt(cohort, "y", y)
    y = np.where(cohort[0].table["site"] == "s2", "rare", "common")
    with pytest.raises(InputError, match=r"leaving out site 's2' leaves no .* class 'rare'"):
        attempt(cohort, "y", y, design=LeaveOneSiteOut())


def test_a_subject_with_two_labels(cohort):
    y = cohort[0].table["sex"].to_numpy(object).copy()
    y[1] = "male" if y[0] == "female" else "female"
    with pytest.raises(InputError, match=r"subject 'p00' has different labels"):
        attempt(cohort, "y", y)


def test_whole_numbers_are_not_guessed(cohort):
    y = cohort[0].table["subject"].str[1:].astype(int) % 3
    with pytest.raises(InputError, match=r"could be classes or a scale: 3 different whole numbers"):
        attempt(cohort, "y", y)
    as_classes = attempt(cohort, "y", y, target=[Target("y", "classification")])
    assert as_classes.meta["targets"]["y"]["classes"] == ["0", "1", "2"]
    as_scale = attempt(cohort, "y", y, target=[Target("y", "regression")])
    assert as_scale.meta["targets"]["y"]["kind"] == "regression"


def test_other_mistakes(cohort):
    store, noise = cohort
    with pytest.raises(
        InputError, match=r"sexx: the store has no such column\. Did you mean 'sex'"
    ):
        evaluate_probes(store, {"a": noise}, ["sexx"])
    with pytest.raises(InputError, match="regression needs numbers"):
        evaluate_probes(store, {"a": noise}, [Target("sex", "regression")])
    with pytest.raises(InputError, match=r"one row per recording \(80\)"):
        evaluate_probes(store, {"a": noise[:7]}, ["sex"])
    with pytest.raises(InputError, match="must name each column once"):
        evaluate_probes(store, {"a": noise}, ["sex", Target("sex")])
    with pytest.raises(InputError, match="Group by site, without repetitions"):
        design_for("subject", ["s1"])
    with pytest.raises(InputError, match="nothing to evaluate"):
        evaluate_probes(store, {}, ["sex"])
