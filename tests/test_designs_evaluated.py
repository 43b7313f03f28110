"""The designs, the fold-wise features and the tests, through `evaluate_probes`."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.pipeline import make_pipeline

from semantoks.data.designs import (
    AcrossStores,
    FixedSplit,
    GroupedKFold,
    LeaveOneSiteOut,
    SmallSamples,
)
from semantoks.data.seen import SeenData
from semantoks.data.signal import Preprocessing
from semantoks.data.store import write_store
from semantoks.errors import InputError
from semantoks.evaluate.compare.evaluation import Probe, evaluate_probes
from semantoks.evaluate.compare.models import Inductive, SideBySide
from semantoks.evaluate.compare.result import ProbeResult
from semantoks.evaluate.compare.targets import Target
from semantoks.evaluate.features.baselines import make_baselines
from semantoks.evaluate.features.blocks import FeatureBlock
from semantoks.evaluate.features.connectivity import ConnectivityBaseline
from semantoks.evaluate.features.embed import Embedder
from semantoks.evaluate.features.spectral_connectivity import SpectralConnectivityBaseline
from semantoks.evaluate.features.tangent import TangentBaseline
from semantoks.evaluate.predictors.base import person_weights
from semantoks.evaluate.predictors.probe import LinearProbe, LinearProbeRegressor
from semantoks.evaluate.stats.metrics import METRICS
from semantoks.model.encoder import Encoder, EncoderConfig

THREE = GroupedKFold(n_folds=3)


@pytest.fixture(scope="module")
def people(tmp_path_factory, parcellation, preprocessing, recordings):
    """48 recordings of 44 people at 5 sites; sex shows in one coupling, age in nothing."""
    rng = np.random.default_rng(3)
    out = []
    for i in [*range(44), *range(4)]:
        x = rng.standard_normal((60, 11)).cumsum(axis=0)
        female = i * 7 % 11 < 5
        if female:
            x[:, 1] = x[:, 0] + 0.2 * x[:, 1]
        out.append(
            dataclasses.replace(
                recordings[0],
                signal=x,
                subject=f"p{i:02}",
                session=str(sum(r.subject == f"p{i:02}" for r in out) + 1),
                site=f"s{i % 5}",
                mean_fd=None if i == 7 else 0.1 * (i % 7),
                phenotypes={
                    "sex": "female" if female else "male",
                    "age": 20.5 + i,
                    "stage": ("one", "two", "three")[i % 3],
                    "family": f"f{i // 2}",
                    "split": ("train", "train", "validation", "test")[i // 2 % 4],
                },
                source=f"made {len(out)}",
            )
        )
    return write_store(tmp_path_factory.mktemp("people") / "s", out, parcellation, preprocessing)


def first(result, target, metric="balanced accuracy"):
    rows = result.scores
    return rows[(rows["target"] == target) & (rows["metric"] == metric)].set_index("model")


def test_repeated_folds_are_scored_by_repetition_and_tested_over_families(people):
    design = GroupedKFold(n_folds=4, n_repeats=2, group="family")
    noise = np.random.default_rng(0).standard_normal((48, 5))
    signal = noise + 3 * (people.table[["sex"]] == "male").to_numpy()
    models = {"connectivity": signal, "noise": noise}
    result = evaluate_probes(people, models, ["sex", "stage"], design=design)
    table = result.predictions.query("target == 'sex' and model == 'noise'")
    assert len(table) == 2 * 44
    assert table.groupby("repeat")["unit"].nunique().tolist() == [44, 44]
    per_repeat = [
        np.mean(
            [(r["truth"] == r["predicted"])[r["truth"] == c].mean() for c in ("male", "female")]
        )
        for _, r in table.groupby("repeat")
    ]
    assert first(result, "sex").loc["noise", "value"] == pytest.approx(np.mean(per_repeat))
    gap = result.differences.query("p_value.notna()").set_index("target").loc["sex"]
    assert (gap["metric"], gap["verdict"]) == ("AUROC", "worse")
    assert result.meta["targets"]["sex"]["counted"]["units"] == "groups of people (family)"
    y, (scores,) = result.arrays("sex", ["noise"])
    assert (len(y), scores.shape) == (44, (44, 2))
    families = people.table.set_index("subject")["family"]
    folds = table.assign(family=table["subject"].map(families[~families.index.duplicated()]))
    assert folds.groupby(["repeat", "family"])["fold"].nunique().max() == 1
    assert len(result.meta["targets"]["sex"]["folds"]) == 8
    assert (table["cluster"].to_numpy() == folds["family"].to_numpy()).all()


def test_intervals_are_over_families_where_they_stay_whole(people):
    """Families are right or wrong as a whole: half as many facts as people."""
    right = np.random.default_rng(0).uniform(size=(22, 1)) < 0.8
    male = (people.table[["sex"]] == "male").to_numpy()
    family = people.table["family"].str[1:].astype(int).to_numpy()
    X = np.where(right[family], male, ~male).astype(np.float32)
    width = {}
    for group in ("subject", "family"):
        design = GroupedKFold(group=group, n_folds=4)
        result = evaluate_probes(people, {"x": X}, ["sex"], design=design)
        row = first(result, "sex")
        width[group] = np.ptp(row.loc["x", ["ci_low", "ci_high"]].to_numpy(float))
        counted = result.meta["targets"]["sex"]["counted"]
        assert counted["n"] == people.table[group].nunique()
    assert width["family"] > width["subject"]


def test_better_is_said_by_the_adjusted_test_only(people):
    rng = np.random.default_rng(0)
    signal = rng.standard_normal((48, 3)) + 3 * (people.table[["sex"]] == "male").to_numpy()
    noise = {name: rng.standard_normal((48, 3)) for name in ("noise", "connectivity")}
    models = {"good": signal, **noise}
    result = evaluate_probes(people, models, ["sex", "stage"])
    gaps = result.differences.query("p_value.notna()").set_index(["target", "model"])
    assert set(gaps["against"]) == {"connectivity"}
    assert gaps.loc[("sex", "good"), "verdict"] == "better"
    assert gaps.loc[("stage", "noise"), "verdict"] == "no significant difference"
    assert (gaps["p_holm"] >= gaps["p_value"]).all()
    assert gaps["p_holm"].min() == pytest.approx(4 * gaps["p_value"].min()), "four comparisons"
    untested = result.differences.query("p_value.isna()")
    of_first = untested[untested["metric"] == "AUROC"]
    assert set(of_first["model"]) == {"chance"}
    assert set(untested["metric"]) == {*METRICS["classification"]}
    assert (untested["verdict"] == "").all()
    scores = result.scores.query("model == 'chance'")
    assert scores["p_value"].isna().all()


class Spy(TransformerMixin, BaseEstimator):
    """Features of one number per recording, and a record of what it was fitted on."""

    seen: list[set[str]] = []  # noqa: RUF012 - clones share it

    def fit(self, X, y=None):
        assert y is None
        Spy.seen.append(set(X.table["subject"]))
        self.fitted_ = True
        return self

    def transform(self, X):
        return np.array([[float(X.signal(i).std())] for i in range(len(X))])


class PreparedSpy(Spy):
    def prepare(self, X):
        return X.table["subject"].to_numpy(str)[:, None]

    def fit_prepared(self, prepared):
        Spy.seen.append(set(prepared[:, 0]))
        return self

    def transform_prepared(self, prepared):
        return np.array([[float(name[1:])] for name in prepared[:, 0]])


@pytest.mark.parametrize("spy", [Spy(), PreparedSpy()])
def test_what_is_fitted_sees_the_training_part_only(people, spy):
    Spy.seen = []
    result = evaluate_probes(people, {"spy": spy}, ["sex", "age"], design=LeaveOneSiteOut())
    everybody = set(people.table["subject"])
    tested = result.predictions.query("model == 'spy' and target == 'sex'").groupby("fold")[
        "subject"
    ]
    assert [everybody - seen for seen in Spy.seen] == [set(who) for _, who in tested]
    assert len(Spy.seen) == 5, "both targets have the same folds: fitted once"


def test_tangent_space_in_the_folds_equals_a_pipeline_that_sees_the_training_part(people):
    pipe = make_pipeline(TangentBaseline(), LinearProbe())
    with_groups = {"tangent": TangentBaseline(), "pipe": pipe}
    result = evaluate_probes(people, with_groups, ["sex"], design=THREE)
    _, (ours, theirs) = result.arrays("sex", ["tangent", "pipe"])
    # The pipeline's inner folds know no groups; strengths, and so probabilities, may differ.
    assert np.corrcoef(ours[:, 0], theirs[:, 0])[0, 1] > 0.95


def test_threads_change_nothing(people):
    models = {"tangent": TangentBaseline(), "connectivity": ConnectivityBaseline()}
    one = evaluate_probes(people, models, ["sex", "age"], design=THREE)
    two = evaluate_probes(people, models, ["sex", "age"], design=THREE, n_jobs=2)
    pd.testing.assert_frame_equal(one.scores, two.scores)
    pd.testing.assert_frame_equal(one.predictions, two.predictions)


def test_baselines_by_name_and_confounds_without_the_target(people):
    names = ["connectivity", "confounds"]
    result = evaluate_probes(people, {}, ["sex", "age"], baselines=names, design=THREE)
    assert set(result.scores["model"]) == {"connectivity", "confounds", "chance"}
    # With itself among the confounds, age would be known, and sex too.
    assert first(result, "sex").loc["confounds", "value"] < 0.8
    assert first(result, "age", "R2").loc["confounds", "value"] < 0.9
    with pytest.raises(InputError, match=r"'connectivity': is the name of a baseline"):
        evaluate_probes(people, {"connectivity": np.eye(48)}, ["sex"], baselines=names)


def test_a_fixed_split_tunes_on_its_validation_part(people):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((48, 60)).astype(np.float32)
    design = FixedSplit()
    result = evaluate_probes(people, {"x": X}, ["age"], design=design)
    part = people.table["split"].to_numpy(str)
    train, test = np.flatnonzero(part != "test"), np.flatnonzero(part == "test")
    held = np.flatnonzero(part[train] == "validation")
    age = people.table["age"].to_numpy()
    weight = person_weights(people.table["subject"].to_numpy(str)[train])
    probe = LinearProbeRegressor().fit(X[train], age[train], held_out=[held], sample_weight=weight)
    expected = pd.Series(probe.predict(X[test])).groupby(people.table["subject"].to_numpy()[test])
    _, (found,) = result.arrays("age", ["x"])
    np.testing.assert_allclose(found, expected.mean(), rtol=1e-6)


def test_a_logarithm_is_another_target(people):
    X = np.random.default_rng(6).standard_normal((48, 9)).astype(np.float32)
    X[:, 0] += people.table["age"].to_numpy()
    log_age = Target.parse("age:regression:log")
    result = evaluate_probes(people, {"x": X}, ["age", log_age], design=FixedSplit())
    assert set(result.scores["target"]) == {"age", "log age"}
    y, _ = result.arrays("age", ["x"])
    logs, (found,) = result.arrays("log age", ["x"])
    np.testing.assert_allclose(logs, np.log(y))
    gain = first(result, "log age", "MAE gain").loc["x", "value"]
    base = result.arrays("log age", ["chance"])[1][0]
    expected = np.abs(logs - base).mean() - np.abs(logs - found).mean()
    assert gain == pytest.approx(expected)
    assert Target.parse("sex:classification:male") == Target("sex", "classification", "male")
    for wrong in ("age:ordinal:log", "age:regression:square", "age:log"):
        with pytest.raises(InputError, match="column:regression:log takes the logarithm"):
            Target.parse(wrong)
    negative = people.select(np.arange(48))
    negative.table = people.table.assign(age=people.table["age"] - people.table["age"].min())
    with pytest.raises(InputError, match=r"age = 0\.0: a logarithm needs positive numbers"):
        evaluate_probes(negative, {"x": X}, [log_age], design=FixedSplit())


def test_models_side_by_side_weigh_the_same(people):
    """An array and connectivity, in other units and numbers of features, are two blocks."""
    X = 50 * np.random.default_rng(4).standard_normal((48, 7)).astype(np.float32)
    both = SideBySide({"x": X, "connectivity": ConnectivityBaseline()})
    models = {"x": X, "x + connectivity": both}
    result = evaluate_probes(
        people, models, ["age"], baselines=["connectivity"], design=FixedSplit()
    )
    part = people.table["split"].to_numpy(str)
    train, test = np.flatnonzero(part != "test"), np.flatnonzero(part == "test")
    held = np.flatnonzero(part[train] == "validation")
    F = np.hstack([X, ConnectivityBaseline().fit_transform(people)])
    blocks = [FeatureBlock(name="x", n_columns=7), FeatureBlock(name="c", n_columns=55)]
    weight = person_weights(people.table["subject"].to_numpy(str)[train])
    age = people.table["age"].to_numpy()
    probe = LinearProbeRegressor(blocks=blocks)
    probe.fit(F[train], age[train], held_out=[held], sample_weight=weight)
    expected = pd.Series(probe.predict(F[test])).groupby(people.table["subject"].to_numpy()[test])
    _, (found,) = result.arrays("age", ["x + connectivity"])
    np.testing.assert_allclose(found, expected.mean(), rtol=1e-5)
    pairs = set(zip(result.differences["model"], result.differences["against"], strict=True))
    assert ("x + connectivity", "connectivity") in pairs


def test_the_exponent_is_chosen_in_inner_folds(people):
    """Every fold keeps the exponent with the smallest inner error, and predicts as it does."""
    single = {f"{a:g}": SpectralConnectivityBaseline(strength=a) for a in (0.2, 1.0)}
    tuned = SpectralConnectivityBaseline(strength=(0.2, 1.0))
    given = np.random.default_rng(9).standard_normal((48, 3)).astype(np.float32)
    models = {**single, "tuned": tuned, "beside": SideBySide({"x": given, "fc": tuned})}
    targets = ["sex", "age"]
    few = SmallSamples(n_subjects=(24,), n_draws=1)
    result = evaluate_probes(people, models, targets, design=THREE, curve=few)
    choices = result.choices.assign(loss=result.choices["losses"].map(min))
    where = ["target", "size", "repeat", "fold"]
    loss = choices.set_index(["model", *where])["loss"].unstack("model")
    chosen = choices[choices["model"] == "tuned"].set_index(where)["features"].sort_index()
    assert (chosen == loss[[*single]].idxmin(axis=1)).all()
    assert chosen.nunique() == 2, "one exponent would be chosen by accident"
    np.testing.assert_array_equal(loss["tuned"], loss[[*single]].min(axis=1))
    assert set(choices.loc[choices["model"] == "beside", "features"]) <= {*single}
    assert set(choices.loc[choices["model"] == "0.2", "features"]) == {""}
    rows = result.predictions.set_index(["target", "fold", "unit"]).sort_index()
    for (target, size, _, fold), name in chosen.items():
        if size == 0:
            of_fold = rows.loc[(target, fold)]
            found, expected = (of_fold[of_fold["model"] == m]["scores"] for m in ("tuned", name))
            np.testing.assert_array_equal(np.stack(found), np.stack(expected))


def test_models_pretrained_without_some_sites_are_tested_there_alone(people):
    """The predictions at a site are those of the model that has not seen it, probe and all."""
    rng = np.random.default_rng(8)
    X, Z = (rng.standard_normal((48, n)).astype(np.float32) for n in (6, 13))
    unseen = {("s0", "s3"): X, ("s1", "s2", "s4"): Z}
    joint = SideBySide({"one": Inductive(unseen), "fc": ConnectivityBaseline()})
    models = {"x": X, "z": Z, "both": Inductive(unseen), "both + fc": joint}
    result = evaluate_probes(people, models, ["age"], design=LeaveOneSiteOut())
    by = result.predictions.set_index(["model", "site", "unit"])["scores"].sort_index()
    for site in ("s0", "s1", "s2", "s3", "s4"):
        expected = by.loc["x" if site in ("s0", "s3") else "z", site]
        other = by.loc["z" if site in ("s0", "s3") else "x", site]
        np.testing.assert_array_equal(np.stack(by.loc["both", site]), np.stack(expected))
        assert not np.array_equal(np.stack(expected), np.stack(other))
    for wrong in (Inductive({("s0",): X}), Inductive({("s0", "s1"): X, ("s2", "s3"): Z})):
        with pytest.raises(InputError, match=r"must hold a model that was pretrained without") as e:
            evaluate_probes(people, {"x": wrong}, ["age"], design=LeaveOneSiteOut())
        assert "Leave one site out at a time" in str(e.value)
    with pytest.raises(InputError, match="without the sites of every fold"):
        evaluate_probes(people, {"x": Inductive(unseen)}, ["age"], design=THREE)


def test_what_models_have_seen_counts_where_they_are_tested(people, parcellation, preprocessing):
    """Each has seen the people of the other sites: none of those that it is tested on."""
    groups = (("s0", "s3"), ("s1", "s2", "s4"))
    site = people.table["site"].to_numpy(str)
    once = people.select(np.arange(44))  # without four people's second scans, elsewhere
    config = EncoderConfig(width=8, depth=1, head_width=8, patch_length=6, n_patches=4)

    def pretrained_on(store):
        encoder = Encoder.random(config, parcellation, preprocessing, seed=0)
        encoder.pretraining = SeenData.of(store)
        return Embedder(encoder, n_crops=1)

    honest = {g: pretrained_on(once.select(~np.isin(site[:44], g))) for g in groups}
    leaky = {g: pretrained_on(once) for g in groups}
    models = {"honest": Inductive(honest), "leaky": Inductive(leaky)}
    meta = evaluate_probes(once, models, ["age"], design=LeaveOneSiteOut()).meta["models"]
    assert meta["honest"]["n_test_subjects_seen"] == 0
    assert meta["honest"]["test_sites_seen"] == []
    assert meta["leaky"]["n_test_subjects_seen"] == meta["leaky"]["n_test_subjects"] == 44
    assert meta["leaky"]["test_sites_seen"] == ["s0", "s1", "s2", "s3", "s4"]


def test_confounds_beside_features_leave_the_target_out(people):
    X = np.random.default_rng(5).standard_normal((48, 4)).astype(np.float32)
    known = make_baselines(["confounds"])["confounds"]
    models = {"x + confounds": SideBySide({"x": X, "confounds": known}), "confounds": known}
    result = evaluate_probes(people, models, ["sex", "age"], design=THREE, against=["confounds"])
    assert first(result, "age", "R2").loc["x + confounds", "value"] < 0.9, "age is no confound"
    assert set(result.differences["model"]) == {"x + confounds", "chance"}


def test_what_is_chosen_depends_on_the_training_part_only(people):
    """Test rows with other features and the other class change no choice."""
    rng = np.random.default_rng(2)
    X = rng.standard_normal((48, 60)).astype(np.float32)
    design = FixedSplit(validation="none")
    test = (people.table["split"] == "test").to_numpy()
    other = X.copy()
    other[test] = 100 * rng.standard_normal((test.sum(), 60))
    table = people.table.copy()
    table.loc[test, "age"] = 200.0 - table.loc[test, "age"]
    table.loc[test, "sex"] = np.where(table.loc[test, "sex"] == "male", "female", "male")
    changed = people.select(np.arange(48))
    changed.table = table
    targets = ["age", Target("sex", positive="female")]
    before = evaluate_probes(people, {"x": X}, targets, design=design)
    after = evaluate_probes(changed, {"x": other}, targets, design=design)
    assert len(before.choices) == 4
    pd.testing.assert_frame_equal(before.choices, after.choices)
    assert not before.predictions["scores"].equals(after.predictions["scores"])


def test_training_on_one_store_and_testing_on_another(people, recordings, tmp_path):
    others = ~people.table["subject"].isin([f"p{i:02}" for i in range(10)])
    kept = people.select(np.flatnonzero(others))
    small = write_store(tmp_path / "t", recordings, people.parcellation, people.preprocessing)
    models = {"connectivity": ConnectivityBaseline(), "tangent": TangentBaseline()}
    design = AcrossStores(train=kept)
    result = evaluate_probes(small, models, ["sex"], design=design)
    assert set(result.predictions["subject"]) == set(small.table["subject"])
    (fold,) = result.meta["targets"]["sex"]["folds"]
    assert (fold["n_train"], fold["n_test"]) == (len(kept), len(small))
    probe = LinearProbe().fit(
        ConnectivityBaseline().fit_transform(kept),
        kept.table["sex"],
        groups=kept.table["subject"],
        sample_weight=person_weights(kept.table["subject"]),
    )
    p = probe.predict_proba(ConnectivityBaseline().fit_transform(small))
    p = p[:, np.searchsorted(probe.classes_, result.meta["targets"]["sex"]["classes"])]
    mean = pd.DataFrame(p).groupby(small.table["subject"].to_numpy()).mean()
    np.testing.assert_allclose(result.arrays("sex", ["connectivity"])[1][0], mean, atol=1e-6)
    with pytest.raises(InputError, match=r"10 subjects are in both stores"):
        evaluate_probes(small, models, ["sex"], design=AcrossStores(train=people))
    wide = write_store(tmp_path / "w", recordings, people.parcellation, Preprocessing(high_hz=0.2))
    with pytest.raises(InputError, match="has other preprocessing than the tested store"):
        evaluate_probes(wide, models, ["sex"], design=design)


def test_a_curve_of_few_people_rises_where_there_is_something(people, tmp_path):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((48, 4)).astype(np.float32)
    X[:, 0] += 2 * (people.table["sex"] == "male")
    curve = SmallSamples(n_subjects=(6, 24), n_draws=3)
    result = evaluate_probes(people, {"x": X}, ["sex"], design=LeaveOneSiteOut(), curve=curve)
    found = result.curve.query("metric == 'AUROC'").set_index(["model", "n_train"])["value"]
    assert found["x", 6] < found["x", 24] <= first(result, "sex", "AUROC").loc["x", "value"] + 0.05
    assert (found["chance"] == 0.5).all()
    assert len(result.predictions) == 2 * 44, "the main result is that of all people"
    result.save(tmp_path / "r")
    pd.testing.assert_frame_equal(ProbeResult.load(tmp_path / "r").curve, result.curve)


def test_the_probe_is_a_choice(people):
    X = np.random.default_rng(0).standard_normal((48, 6))
    scores = [
        evaluate_probes(people, {"x": X}, ["stage"], probe=Probe(model=model, class_weight=weight))
        for model, weight in (("logistic", None), ("ridge", "balanced"), ("svm", "balanced"))
    ]
    values = [first(result, "stage", "Brier").loc["x", "value"] for result in scores]
    assert len(set(values)) == 3
    facts = {"model": "ridge", "class_weight": "balanced", "criterion": None}
    assert scores[1].meta["design"]["probe"] == facts


def test_a_fine_tuned_model_is_a_model_too(people, parcellation, preprocessing):
    from semantoks.evaluate.predictors.finetune import FineTuner

    config = EncoderConfig(width=8, depth=1, head_width=8, patch_length=6, n_patches=4)
    encoder = Encoder.random(config, parcellation, preprocessing, seed=0)
    tuner = FineTuner(encoder, epochs=1, n_crops=1)
    result = evaluate_probes(people, {"tuned": tuner}, ["sex"], design=THREE)
    assert len(result.predictions.query("model == 'tuned'")) == 44
    assert not hasattr(tuner, "head_"), "a copy is fitted in every fold"
    assert result.meta["models"]["tuned"]["pretrained"] is False
    with pytest.raises(InputError, match=r"'tuned'\]: predicts classes; the target age is a regr"):
        evaluate_probes(people, {"tuned": tuner}, ["age"], design=THREE)


def test_one_fine_tuned_model_per_kind_of_target_on_the_folds_of_the_others(
    people, parcellation, preprocessing, monkeypatch
):
    from semantoks.evaluate.predictors.finetune import FineTuner, FineTunerRegressor
    from semantoks.evaluate.predictors.training import FineTuned

    config = EncoderConfig(width=8, depth=1, head_width=8, patch_length=6, n_patches=4)
    encoder = Encoder.random(config, parcellation, preprocessing, seed=0)
    options = {"epochs": 2, "n_crops": 1, "train": "head", "patience": 1}
    both = {
        "classification": FineTuner(encoder, class_weight={"female": 2.0}, **options),
        "regression": FineTunerRegressor(encoder, **options),
    }
    told, plain = [], FineTuned._divide

    def noted(self, X, codes, groups, held_out):
        train, held = plain(self, X, codes, groups, held_out)
        told.append((X.table.iloc[train], X.table.iloc[held], groups, held_out))
        return train, held

    monkeypatch.setattr(FineTuned, "_divide", noted)
    design = GroupedKFold(n_folds=3, group="family")
    models = {"tuned": both, "x": np.eye(48)}
    result = evaluate_probes(people, models, ["sex", "age"], design=design)
    assert len(told) == 6
    for train, held, groups, held_out in told:
        assert held_out is None
        assert set(groups) == set(train["family"]) | set(held["family"])
        assert not set(train["family"]) & set(held["family"])
    folds = result.predictions.set_index(["target", "subject"])
    for target in ("sex", "age"):
        ours, theirs = (
            folds[folds["model"] == name].loc[target]["fold"].sort_index()
            for name in ("tuned", "x")
        )
        pd.testing.assert_series_equal(ours, theirs)
    facts = result.meta["models"]["tuned"]["fine_tuned"]
    assert (facts["train"], facts["class_weight"]) == ("head", {"female": 2.0})
    assert "fine_tuned" not in result.meta["models"]["x"]

    told.clear()
    evaluate_probes(people, {"tuned": both}, ["sex"], design=FixedSplit())
    ((train, held, _, held_out),) = told
    assert held_out is not None
    assert (set(train["split"]), set(held["split"])) == ({"train"}, {"validation"})
    message = r"\['tuned'\]: has no predictor for a regression, as the target age is"
    one = {"classification": both["classification"]}
    with pytest.raises(InputError, match=message):
        evaluate_probes(people, {"tuned": one}, ["age"], design=THREE)


def test_features_that_are_none(people):
    X = np.full((48, 3), np.nan)
    with pytest.raises(InputError, match=r"models\['x'\]: features hold NaN"):
        evaluate_probes(people, {"x": X}, ["sex"])
    with pytest.raises(InputError, match=r"\['x'\] = \(48, 3, 2\): features must have one row"):
        evaluate_probes(people, {"x": np.zeros((48, 3, 2))}, ["sex"])
