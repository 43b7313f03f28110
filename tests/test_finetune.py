from __future__ import annotations

import copy
import dataclasses
import inspect

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.utils import get_tags

from semantoks.data.splits import hold_out, three_parts
from semantoks.errors import CheckpointError, ConfigError, InputError
from semantoks.evaluate.checks.leaks import seen_in_pretraining
from semantoks.evaluate.compare.paper import paper_probe
from semantoks.evaluate.features.embed import Embedder
from semantoks.evaluate.predictors.finetune import FineTuner, FineTunerRegressor
from semantoks.evaluate.predictors.lora import LowRank, add_low_rank, merge_low_rank
from semantoks.evaluate.predictors.training import FineTuned, layer_groups
from semantoks.evaluate.predictors.tuning import Tuning
from semantoks.model.encoder import Encoder, EncoderConfig


@pytest.fixture(scope="module")
def encoder(parcellation, preprocessing):
    config = EncoderConfig(width=16, depth=3, head_width=8, patch_length=6, n_patches=4)
    return Encoder.random(config, parcellation, preprocessing, seed=2).eval()


@pytest.fixture(scope="module")
def easy(parcellation):
    """Signals whose second network oscillates in one class and not in the other."""
    rng = np.random.default_rng(3)
    y = np.array(["slow", "wild", "slow"] * 8)
    signals = []
    for i, label in enumerate(y):
        x = rng.standard_normal((40 + i, 11))
        if label == "slow":
            wave = np.sin(2 * np.pi * 0.03 * 2.0 * np.arange(len(x)) + i)
            x[:, parcellation.network_indices[1]] += 4 * wave[:, None]
        signals.append(x)
    return signals, y


FAST = {"tr": 2.0, "epochs": 30, "batch_size": 4, "lr": 3e-3, "n_crops": 3}


def test_fine_tuning_learns_what_is_there(encoder, easy):
    signals, y = easy
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    tuner = FineTuner(encoder, **FAST).fit(signals[:16], y[:16])
    assert (tuner.predict(signals[16:]) == y[16:]).mean() > 0.85
    np.testing.assert_allclose(tuner.predict_proba(signals[:3]).sum(axis=1), 1)
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]), "the model that was handed in never changes"
    moved = tuner.encoder_.state_dict()
    assert not torch.equal(moved["blocks.0.mlp.0.weight"], before["blocks.0.mlp.0.weight"])


def test_fine_tuning_is_deterministic_and_takes_stores(encoder, store):
    y = store.table["sex"].to_numpy(str)
    options = {**FAST, "epochs": 2, "tr": None, "head": "mlp"}
    one, two = (FineTuner(encoder, **options).fit(store, y).predict_proba(store) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    other = FineTuner(encoder, **options, seed=1).fit(store, y).predict_proba(store)
    assert not np.array_equal(one, other)


def test_a_fine_tuned_encoder_says_whom_it_has_seen(encoder, easy, store):
    options = {**FAST, "epochs": 1, "tr": None}
    y = store.table["sex"].to_numpy(str)
    models = {train: FineTuner(encoder, train=train, **options) for train in ("full", "head")}
    seen = {train: model.fit(store, y).encoder_ for train, model in models.items()}
    people = store.table["subject"].nunique()
    assert seen["full"].pretraining.n_subjects == people
    alarms = seen_in_pretraining(store, {"tuned": seen["full"]})
    assert "leak" in {alarm.severity for alarm in alarms}
    assert seen["head"].pretraining is encoder.pretraining is None, "its weights are the old ones"
    again = FineTuner(seen["full"], **options).fit(store, y).encoder_.pretraining
    assert (again.n_subjects, again.n_recordings) == (people, 2 * len(store))
    signals, labels = easy
    unknown = FineTuner(encoder, **FAST | {"epochs": 1}).fit(signals[:8], labels[:8]).encoder_
    assert unknown.pretraining.subjects is None


def test_regression_is_in_the_unit_of_the_target(encoder, easy):
    signals, y = easy
    years = np.where(y == "slow", 70.0, 20.0)
    tuner = FineTunerRegressor(encoder, **FAST).fit(signals[:16], years[:16])
    assert np.abs(tuner.predict(signals[16:]) - years[16:]).mean() < 15


def test_the_learning_rate_falls_from_layer_to_layer(encoder):
    head = torch.nn.Linear(32, 2)
    groups = layer_groups(encoder, head, 1.0, 0.5)
    assert [group["lr"] for group in groups] == [0.5**k for k in range(5)]
    counted = sum(len(group["params"]) for group in groups)
    assert counted == len(list(encoder.parameters())) + 2
    lowest = {id(p) for p in groups[-1]["params"]}
    assert id(encoder.cls_token) in lowest
    assert id(encoder.tokenizer.positions.table) in lowest
    names = {id(p): n for n, p in encoder.named_parameters()}
    assert {
        names[id(p)].split(".")[1] for p in groups[1]["params"] if "blocks" in names[id(p)]
    } == {"2"}


def test_what_cannot_be_fine_tuned(encoder, easy):
    signals, y = easy
    for options, labels, message in (
        ({**FAST, "head": "tree"}, y, "must be linear or mlp"),
        ({**FAST, "train": "all"}, y, "train = 'all': must be one of full, frozen-then-full, lora"),
        ({**FAST, "precision": "low"}, y, "precision = 'low': must be float32 or bfloat16"),
        ({**FAST, "validation": 1.0}, y, "validation = 1.0: must lie between 0 and 1"),
        (FAST, y[:5], "24 recordings and 5 labels"),
        (FAST, ["same"] * 24, "needs at least 2 classes"),
    ):
        with pytest.raises(InputError, match=message):
            FineTuner(encoder, **options).fit(signals, labels)


# -- what is trained -------------------------------------------------------------------------------


QUICK = {**FAST, "epochs": 4, "n_crops": 2}
LINEAR_MAPS = ("attention.qkv", "attention.projection", "mlp.0", "mlp.2")


def changes(encoder, tuner):
    before, after = encoder.state_dict(), tuner.encoder_.state_dict()
    assert list(before) == list(after), "an ordinary encoder"
    return {k: after[k] - before[k] for k in before if not torch.equal(before[k], after[k])}


def encoder_at(tuner, epoch, monkeypatch, signals, y):
    """Return the encoder's weights as they are after some epochs of a fit."""
    seen = []
    plain = type(tuner)._epoch

    def watched(self, *arguments):
        loss = plain(self, *arguments)
        state = self.encoder_.state_dict()
        seen.append({name: value.clone() for name, value in state.items()})
        return loss

    with monkeypatch.context() as patched:
        patched.setattr(type(tuner), "_epoch", watched)
        tuner.fit(signals, y)
    return seen[epoch - 1]


def test_head_only_leaves_the_encoder_as_it_was(encoder, easy):
    signals, y = easy
    tuner = FineTuner(encoder, train="head", **QUICK).fit(signals, y)
    assert not changes(encoder, tuner)
    assert tuner.history_[-1]["loss"] < tuner.history_[0]["loss"]


def test_frozen_then_full_is_frozen_and_then_full(encoder, easy, monkeypatch):
    signals, y = easy
    tuner = FineTuner(encoder, train="frozen-then-full", frozen_epochs=2, **QUICK)
    for name, value in encoder_at(tuner, 2, monkeypatch, signals, y).items():
        assert torch.equal(value, encoder.state_dict()[name]), name
    moved = changes(encoder, tuner)
    assert "blocks.0.mlp.0.weight" in moved
    assert "tokenizer.positions.table" in moved
    with pytest.raises(InputError, match="frozen_epochs = 4: must be fewer than the 4 epochs"):
        FineTuner(encoder, train="frozen-then-full", frozen_epochs=4, **QUICK).fit(signals, y)


def test_lora_changes_the_linear_maps_of_the_blocks_by_a_low_rank(encoder, easy, monkeypatch):
    signals, y = easy
    tuner = FineTuner(encoder, train="lora", lora_rank=3, lora_alpha=4.0, **QUICK)
    inside = encoder_at(tuner, 4, monkeypatch, signals, y)
    for name, value in encoder.state_dict().items():
        kept = inside.get(name)
        if kept is None:  # a map with a low-rank one beside it
            part, _, kind = name.rpartition(".")
            kept = inside[f"{part}.base.{kind}"]
        assert torch.equal(kept, value), f"{name}: the base does not move"
    moved = changes(encoder, tuner)
    assert sorted(moved) == sorted(f"blocks.{i}.{m}.weight" for i in range(3) for m in LINEAR_MAPS)
    for name, change in moved.items():
        sizes = torch.linalg.svdvals(change.double())
        assert (sizes > 1e-6).sum() == 3, name


def test_a_low_rank_map_begins_as_its_base_and_can_be_merged(encoder):
    adapted = copy.deepcopy(encoder)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 11, 24))).float()
    with torch.no_grad():
        before = encoder(x).cls_avg
        torch.manual_seed(0)
        add_low_rank(adapted, 2, 8.0)
        assert torch.equal(adapted(x).cls_avg, before)
        trained = [n for n, p in adapted.named_parameters() if p.requires_grad]
        assert {name.rpartition(".")[2] for name in trained} == {"down", "up"}
        assert len(trained) == 3 * 4 * 2
        for part in adapted.modules():
            if isinstance(part, LowRank):
                part.up.normal_(std=0.2)
        for mode in (True, False):  # the same path in training and in prediction
            adapted.train(mode)
            unmerged = adapted(x).cls_avg
            assert (unmerged - before).abs().max() > 0.05
        unread, _ = adapted.read(x)
        merge_low_rank(adapted)
        assert not any(isinstance(part, LowRank) for part in adapted.modules())
        torch.testing.assert_close(adapted(x).cls_avg, unmerged, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(adapted.read(x)[0], unread, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("train", ["frozen-then-full", "lora"])
def test_every_way_of_training_learns_what_is_there(encoder, easy, train):
    signals, y = easy
    options = {**FAST, "train": train, "lr": 3e-2 if train == "lora" else 3e-3}
    tuner = FineTuner(encoder, **options).fit(signals[:16], y[:16])
    assert (tuner.predict(signals[16:]) == y[16:]).mean() > 0.8


def test_class_weights_are_those_of_the_probe(encoder, easy):
    """One against two: balanced, the rare class gets more; a dictionary says the same."""
    signals, y = easy
    options = {**QUICK, "train": "head", "lr": 3e-2, "epochs": 6}
    rare = {}
    for weight in (None, "balanced", {"slow": 24 / 32, "wild": 24 / 16}, {"wild": 10.0}):
        tuner = FineTuner(encoder, class_weight=weight, **options).fit(signals, y)
        rare[str(weight)] = tuner.predict_proba(signals)[:, 1].mean()
    none, balanced, same, many = rare.values()
    assert none < balanced < many
    assert balanced == pytest.approx(same, rel=1e-6)


def test_bfloat16_is_close_to_float32(encoder, easy):
    signals, y = easy
    both = [
        FineTuner(encoder, precision=precision, **QUICK).fit(signals, y)
        for precision in ("float32", "bfloat16")
    ]
    one, two = (tuner.predict_proba(signals) for tuner in both)
    assert 0 < np.abs(one - two).max() < 0.02
    assert {p.dtype for p in both[1].encoder_.parameters()} == {torch.float32}


def test_threads_do_not_draw_each_other_s_numbers(encoder, easy):
    """Stochastic depth draws from the generator of the process."""
    signals, y = easy
    config = dataclasses.replace(encoder.config, drop_path=0.5)
    dropping = Encoder.random(config, encoder.channels, encoder.preprocessing, seed=0)

    def fit(seed):
        tuner = FineTuner(dropping, seed=seed, **{**QUICK, "epochs": 2})
        return tuner.fit(signals, y).predict_proba(signals[:3])

    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    alone = [fit(seed) for seed in range(3)]
    assert torch.equal(torch.rand(1), expected), "the generator is left as it was"
    together = Parallel(n_jobs=3, prefer="threads")(delayed(fit)(seed) for seed in range(3))
    np.testing.assert_array_equal(alone, together)


# -- early stopping --------------------------------------------------------------------------------


def test_training_stops_and_goes_back_to_the_best_epoch(encoder, easy, monkeypatch):
    signals, _ = easy
    y = np.random.default_rng(0).permutation(["a", "b"] * 12)  # nothing to learn but by heart
    options = {**FAST, "epochs": 60, "lr": 1e-2, "seed": 1}
    tuner = FineTuner(encoder, patience=3, **options)
    at = []
    plain = FineTuner._validation_loss

    def watched(self, part):
        at.append({k: v.clone() for k, v in self.encoder_.state_dict().items()})
        return plain(self, part)

    monkeypatch.setattr(FineTuner, "_validation_loss", watched)
    tuner.fit(signals, y)
    losses = [facts["validation_loss"] for facts in tuner.history_]
    assert len(losses) == tuner.best_epoch_ + 3 < 60
    assert losses[tuner.best_epoch_ - 1] == min(losses)
    assert [facts["epoch"] for facts in tuner.history_] == list(range(1, len(losses) + 1))
    for name, value in tuner.encoder_.state_dict().items():
        assert torch.equal(value, at[tuner.best_epoch_ - 1][name]), name


def test_without_patience_everybody_is_trained_on(encoder, easy):
    signals, y = easy
    tuner = FineTuner(encoder, **QUICK).fit(signals, y, held_out=[np.array([0])])
    assert tuner.best_epoch_ == len(tuner.history_) == 4
    assert "validation_loss" not in tuner.history_[0]
    plain = FineTuner(encoder, **QUICK).fit(signals, y)
    np.testing.assert_array_equal(tuner.predict_proba(signals), plain.predict_proba(signals))


def test_freezing_ends_before_training_may_stop(encoder, easy):
    signals, _ = easy
    y = np.random.default_rng(0).permutation(["a", "b"] * 12)
    options = {**FAST, "lr": 0.3, "patience": 1, "train": "frozen-then-full", "frozen_epochs": 9}
    assert len(FineTuner(encoder, **options).fit(signals, y).history_) >= 10


def parts_of(tuner, X, y, monkeypatch, **inside):
    """Return the rows that a fit trains on and holds out."""
    found = []

    def look(_, part, *__):
        found.append((part.train, part.held))

    with monkeypatch.context() as patched:
        patched.setattr(FineTuner, "_loop", look)
        tuner.fit(X, y, **inside)
    return found[0]


def test_people_of_a_store_and_stated_groups_stay_whole(encoder, store, monkeypatch):
    y = store.table["sex"].to_numpy(str)
    tuner = FineTuner(encoder, patience=2, **{**QUICK, "tr": None})
    subjects = store.table["subject"].to_numpy(str)
    train, held = parts_of(tuner, store, y, monkeypatch)
    assert len(held) >= 2
    assert len(train) + len(held) == len(store)
    assert not set(subjects[train]) & set(subjects[held])
    assert set(y[train]) == set(y[held]) == {"female", "male"}
    sites = store.table["site"].to_numpy(str)
    train, held = parts_of(tuner, store, y, monkeypatch, groups=sites)
    assert not set(sites[train]) & set(sites[held])
    moved = np.where(np.arange(13) == 1, "elsewhere", sites)  # the second session of p00
    train, held = parts_of(tuner, store, y, monkeypatch, groups=moved)
    assert not set(subjects[train]) & set(subjects[held])
    train, held = parts_of(tuner, store, y, monkeypatch, held_out=[np.array([4, 2])])
    np.testing.assert_array_equal(held, [2, 4])
    assert not set(subjects[train]) & set(subjects[held])
    with pytest.raises(InputError, match="held_out = '2 parts': training stops on one part"):
        tuner.fit(store, y, held_out=[np.array([1]), np.array([2])])
    with pytest.raises(InputError, match="leaves no training data of some class"):
        tuner.fit(store, y, held_out=[np.flatnonzero(y == "male")])


@given(data=st.data(), share=st.floats(0.05, 0.95), seed=st.integers(0, 10))
def test_what_is_held_out_shares_no_group_and_leaves_every_class(data, share, seed):
    n = data.draw(st.integers(2, 40))
    groups = data.draw(st.lists(st.integers(0, 12), min_size=n, max_size=n))
    labels = data.draw(st.none() | st.lists(st.sampled_from("abc"), min_size=n, max_size=n))
    groups = np.array(groups)
    try:
        train, held = hold_out(groups, labels, share, seed=seed)
    except InputError:
        of = [0] * n if labels is None else labels
        for group in set(groups.tolist()):  # indeed nobody can be held out
            assert {c for c, g in zip(of, groups, strict=True) if g != group} != set(of)
        return
    assert len(held)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, held])), np.arange(n))
    assert not set(groups[train]) & set(groups[held])
    if labels is not None:
        assert {labels[i] for i in train} == set(labels)
    again = hold_out(groups, labels, share, seed=seed)
    np.testing.assert_array_equal(again[1], held)


def test_classes_are_spread_over_who_is_held_out():
    groups = np.repeat(np.arange(40), 2)
    labels = np.repeat(np.where(np.arange(40) % 4 == 0, "rare", "common"), 2)
    train, held = hold_out(groups, labels, 0.2, seed=3)
    assert (len(train), len(held)) == (64, 16)
    assert (labels[held] == "rare").mean() == 0.25


# -- going on --------------------------------------------------------------------------------------


class Killed(Exception):
    pass


def interrupt(monkeypatch, after, method="_epoch"):
    """Have a fit end after some calls of a method."""
    plain, calls = getattr(FineTuned, method), []

    def until(self, *arguments):
        if len(calls) == after:
            raise Killed
        calls.append(1)
        return plain(self, *arguments)

    monkeypatch.setattr(FineTuned, method, until)


@pytest.mark.parametrize(
    ("train", "method", "after"),
    [("full", "_outputs", 9), ("frozen-then-full", "_epoch", 1), ("lora", "_epoch", 3),
     ("head", "_outputs", 14)],
)  # fmt: skip
def test_a_killed_fit_ends_with_the_same_weights(
    encoder, easy, tmp_path, monkeypatch, train, method, after
):
    signals, y = easy
    config = dataclasses.replace(encoder.config, drop_path=0.3)
    encoder = Encoder.random(config, encoder.channels, encoder.preprocessing, seed=0)
    options = {**QUICK, "train": train, "epochs": 5, "frozen_epochs": 2, "patience": 4}
    whole = FineTuner(encoder, **options).fit(signals, y)
    file = tmp_path / "new" / "fit.safetensors"
    tuner = FineTuner(encoder, checkpoint=file, **options)
    with monkeypatch.context() as patched:
        interrupt(patched, after, method)
        with pytest.raises(Killed):
            tuner.fit(signals, y)
    assert [f.name for f in file.parent.iterdir()] == ["fit.safetensors"], "nothing half-written"
    again = clone(tuner).fit(signals, y)
    finished = clone(tuner).fit(signals, y)  # of which nothing is left to do
    for other in (again, finished):
        assert other.history_ == whole.history_
        assert other.best_epoch_ == whole.best_epoch_
        for part in ("encoder_", "head_"):
            for name, value in getattr(whole, part).state_dict().items():
                assert torch.equal(value, getattr(other, part).state_dict()[name]), name


def test_a_checkpoint_of_another_fit_or_a_damaged_one_is_refused(encoder, easy, tmp_path):
    signals, y = easy
    file = tmp_path / "fit.safetensors"
    options = {**QUICK, "epochs": 2, "checkpoint": file}
    FineTuner(encoder, **options).fit(signals, y)
    before = file.read_bytes()
    other = Encoder.random(encoder.config, encoder.channels, encoder.preprocessing, seed=9)
    flipped = np.where(np.arange(24) == 3, "wild", y)
    for model, changed, labels, X, message in (
        (encoder, {"lr": 1e-3}, y, signals, "another fit: lr differ"),
        (encoder, {"train": "lora"}, y, signals, "another fit: train differ"),
        (encoder, {}, flipped, signals, "another fit: y differ"),
        (encoder, {"class_weight": "balanced"}, y, signals, "another fit: weights of rows differ"),
        (encoder, {}, y, [-x for x in signals], "another fit: recordings differ"),
        (other, {}, y, signals, "another fit: model differ"),
    ):
        with pytest.raises(CheckpointError, match=message):
            FineTuner(model, **{**options, **changed}).fit(X, labels)
    assert file.read_bytes() == before, "and left as it is"
    for damaged in (before[:-40], before[:-1] + bytes([before[-1] ^ 1]), b"{}", b""):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="is damaged"):
            FineTuner(encoder, **options).fit(signals, y)


def test_a_checkpoint_that_cannot_be_written_says_so(encoder, easy, tmp_path, monkeypatch):
    signals, y = easy
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        FineTuner(encoder, checkpoint=tmp_path / "file" / "x", **QUICK).fit(signals, y)
    tuner = FineTuner(encoder, checkpoint=tmp_path / "x", **QUICK)
    with monkeypatch.context() as patched:
        interrupt(patched, 2)
        with pytest.raises(Killed):
            tuner.fit(signals, y)
    before = (tmp_path / "x").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("semantoks.files._sync", full)
    with pytest.raises(CheckpointError, match=r"No space.*is unharmed.*Free some space"):
        tuner.fit(signals, y)
    assert (tmp_path / "x").read_bytes() == before
    assert len([*tmp_path.iterdir()]) == 2, "nothing half-written"


# -- scikit-learn ----------------------------------------------------------------------------------


def test_it_is_an_estimator(encoder, store):
    options = {**QUICK, "tr": None, "epochs": 1, "train": "lora"}
    for estimator in (FineTuner(encoder, **options), FineTunerRegressor(encoder, **options)):
        with pytest.raises(NotFittedError):
            estimator.predict(store)
        copied = clone(estimator)
        assert copied.get_params().keys() == estimator.get_params().keys()
        assert copied.set_params(lora_rank=2, train="full").get_params()["lora_rank"] == 2
        assert estimator.lora_rank == 8
    tuner = FineTuner(encoder, **options)
    y = store.table["sex"].to_numpy(str)
    folds = GroupKFold(3)
    groups = store.table["subject"].to_numpy(str)
    scores = cross_val_score(tuner, store, y, cv=folds, groups=groups)
    by_hand = [
        clone(tuner).fit(store.select(train), y[train]).score(store.select(test), y[test])
        for train, test in folds.split(y, y, groups)
    ]
    np.testing.assert_array_equal(scores, by_hand)
    with pytest.raises(TypeError, match="not iterable"):
        iter(store)


def test_settings_of_an_evaluation_have_the_estimators_defaults():
    parameters = inspect.signature(FineTuner).parameters
    for name, value in dataclasses.asdict(Tuning()).items():
        assert parameters[name].default == value, name
    regressor = inspect.signature(FineTunerRegressor).parameters
    assert {k: v.default for k, v in regressor.items()} == {
        k: v.default for k, v in parameters.items() if k != "class_weight"
    }
    with pytest.raises(ConfigError, match=r"patience = 0: must be at least 1"):
        Tuning(patience=0)


# -- the paper's probe -----------------------------------------------------------------------------


def test_the_paper_s_probe_finds_what_is_there(store, encoder):
    big = store.select(np.tile(np.arange(13), 4))
    big.table["subject"] = [f"p{i}" for i in range(52)]
    rng = np.random.default_rng(0)
    signal = Embedder(encoder, n_crops=3).fit_transform(big)
    big.table["easy"] = np.where(signal[:, 0] > np.median(signal[:, 0]), "a", "b")
    big.table["hard"] = rng.permutation(big.table["easy"])
    embedder = Embedder(encoder, n_crops=3)
    easy, hard = (paper_probe(big, embedder, name, n_repetitions=3) for name in ("easy", "hard"))
    assert easy["value"].mean() > 0.8
    assert 0.2 < hard["value"].mean() < 0.8
    assert (easy["n_test"] == 13).all()
    age = paper_probe(big, embedder, "age", n_repetitions=2)
    assert set(age["metric"]) == {"MAE"}
    assert (age["value"] < 10).all()
    again = paper_probe(big, embedder, "easy", n_repetitions=3)
    np.testing.assert_array_equal(easy["value"], again["value"])


def test_three_parts_are_disjoint_by_subject_and_stratified():
    subjects = np.repeat([f"s{i}" for i in range(40)], 3)
    labels = np.repeat(np.where(np.arange(40) % 4 == 0, "rare", "common"), 3)
    parts = three_parts(subjects, labels, (0.6, 0.15, 0.25), seed=4)
    assert sorted(np.concatenate(parts)) == list(range(120))
    people = [set(subjects[part]) for part in parts]
    assert not people[0] & people[1] | people[0] & people[2] | people[1] & people[2]
    assert [len(p) for p in people] == [24, 6, 10]
    assert [len({s for s in p if int(s[1:]) % 4 == 0}) for p in people] == [6, 2, 2]
    with pytest.raises(InputError, match="too few for three parts"):
        three_parts(subjects[:9], labels[:9], (0.6, 0.15, 0.25), seed=4)
    with pytest.raises(InputError, match="sum to 1"):
        three_parts(subjects, labels, (0.6, 0.3, 0.3), seed=4)


def test_it_takes_recordings_and_counts_their_rois(encoder, easy):
    signals, y = easy
    tuner = FineTuner(encoder, **{**FAST, "epochs": 1}).fit(signals[:8], y[:8])
    assert tuner.n_features_in_ == len(encoder.channels)
    tags = get_tags(tuner)
    assert (tags.input_tags.two_d_array, tags.input_tags.three_d_array) == (False, True)
    assert tags.estimator_type == "classifier"
