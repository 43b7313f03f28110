from __future__ import annotations

import numpy as np
import pytest
import torch

from semantoks.data.splits import three_parts
from semantoks.errors import InputError
from semantoks.evaluate.embed import Embedder
from semantoks.evaluate.finetune import FineTuner, FineTunerRegressor
from semantoks.evaluate.protocol import paper_probe
from semantoks.evaluate.tuning import layer_groups
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
    assert id(encoder.network_embedding) in lowest
    names = {id(p): n for n, p in encoder.named_parameters()}
    assert {
        names[id(p)].split(".")[1] for p in groups[1]["params"] if "blocks" in names[id(p)]
    } == {"2"}


def test_what_cannot_be_fine_tuned(encoder, easy):
    signals, y = easy
    for options, labels, message in (
        ({**FAST, "head": "tree"}, y, "must be linear or mlp"),
        (FAST, y[:5], "24 recordings and 5 labels"),
        (FAST, ["same"] * 24, "needs at least 2 classes"),
    ):
        with pytest.raises(InputError, match=message):
            FineTuner(encoder, **options).fit(signals, labels)


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
