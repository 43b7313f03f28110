"""Crops as objectives ask for them: several, of unequal lengths, one after the other."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semantoks.objectives import registry
from semantoks.objectives.distillation import SelfDistillation
from semantoks.objectives.objective import Losses, Objective
from semantoks.train.trainer import Trainer
from semantoks.views.crops import CropConfig, CropGroup, ViewPlan, draw_group

PLANS = {
    "multi-crop": ViewPlan(groups=(CropGroup(), CropGroup(n_views=3, n_patches=2))),
    "unequal": ViewPlan(groups=(CropGroup(n_views=1), CropGroup(n_views=1, n_patches=3))),
    "successive": ViewPlan(groups=(CropGroup(n_views=3, n_patches=2, successive=True),)),
    "clean": ViewPlan(clean=True),
}


class Outputs(NamedTuple):
    """CLS tokens of the first and of all further groups."""

    first: torch.Tensor
    more: torch.Tensor


class Learner(torch.nn.Module):
    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, groups):
        found = [
            self.encoder.read(g.flatten(0, 1), m)[0].unflatten(0, g.shape[:2]) for g, m in groups
        ]
        return Outputs(found[0], torch.cat(found))


class Pulling(Objective):
    """Pulls all crops of a recording together: it tests the views, not what is learned."""

    roles = ("online",)
    trained = "online"
    batch_axes: ClassVar = {"first": 1, "more": 1}

    def __init__(self, encoder, _config):
        super().__init__()
        self.online = Learner(encoder)
        self.seen = []

    def plan(self, batch, _moment):
        self.seen.append(batch)

    def inputs(self, part, _plan):
        return ([(b.views, b.missing) for b in [part, *part.more]],)

    def loss(self, outputs, _targets, _plan):
        total = outputs.more.square().mean() + (outputs.more - outputs.first[:1]).square().mean()
        return Losses(total, {"spread": total}, outputs.first[0].detach())


@pytest.fixture
def trainer(tiny_run, tmp_path, monkeypatch):
    """Return a maker of trainers whose objective asks for a plan of `PLANS`."""

    def make(name):
        kind = type("Planned", (Pulling,), {"views": PLANS[name]})
        config = tiny_run(optim__epochs=2)
        monkeypatch.setitem(registry.OBJECTIVES, "distillation", (type(config.objective), kind))
        return Trainer(config, tmp_path / "run")

    return make


@pytest.mark.parametrize("name", PLANS)
def test_an_objective_gets_the_crops_that_it_asks_for(trainer, name):
    plan, trainer = PLANS[name], trainer(name)
    config = trainer.config
    before = [p.detach().clone() for p in trainer.objective.parameters()]
    trainer.fit()
    assert trainer.step == trainer.n_steps
    assert any(
        not torch.equal(a, b) for a, b in zip(before, trainer.objective.parameters(), strict=True)
    )
    lengths = trainer._loader._store.table["length"].to_numpy()
    L, P = config.encoder.patch_length, config.encoder.n_patches
    for batch in trainer.objective.seen:
        assert len(batch.more) == len(plan.groups) - 1
        for group, views in zip(plan.groups, [batch, *batch.more], strict=True):
            n_patches = group.n_patches or P
            assert views.views.shape[0] == group.n_views
            assert views.views.shape[3] == n_patches * L
            assert torch.equal(views.recordings, batch.recordings)
            assert views.starts.shape == views.views.shape[:2]
            assert (views.starts >= 0).all()
            assert (views.clean is not None) is plan.clean
            if group.successive:
                room = (
                    torch.tensor(lengths.copy())[views.recordings] - n_patches * L * group.n_views
                )
                gaps = views.starts.diff(dim=0)
                assert (gaps[:, room >= 0] == n_patches * L).all()
                assert (gaps <= n_patches * L).all()
        same = batch.subjects[:, None] == batch.subjects[None]
        assert same.sum() == len(batch.subjects), "one recording per subject"


def test_parts_hold_their_own_crops(trainer):
    batch = trainer("multi-crop")._batch()
    parts = batch.split(2)
    assert [len(p.recordings) for p in parts] == [p.views.shape[1] for p in parts]
    for join, whole in (
        (lambda b: b.views, batch.views),
        (lambda b: b.more[0].views, batch.more[0].views),
        (lambda b: b.starts, batch.starts),
    ):
        assert torch.equal(torch.cat([join(p) for p in parts], dim=1), whole)
    assert torch.equal(torch.cat([p.subjects for p in parts]), batch.subjects)
    assert batch.double().more[0].views.dtype == torch.float64


def test_clean_views_are_those_before_augmentation(trainer):
    trainer = trainer("clean")
    batch = trainer._batch()
    length = trainer.config.encoder.view_length
    for v in range(2):
        for b, recording in enumerate(batch.recordings.tolist()):
            start = int(batch.starts[v, b])
            signal = trainer._loader._store.signal(recording)[start : start + length]
            found = batch.clean[v, b, :, : len(signal)].T.numpy()
            np.testing.assert_array_equal(found, np.asarray(signal, np.float32))
    assert not torch.equal(batch.clean, batch.views)


def test_self_distillation_asks_for_two_crops():
    assert SelfDistillation.views == ViewPlan()
    assert ViewPlan().groups == (CropGroup(n_views=2, n_patches=None),)


@given(
    n_views=st.integers(1, 5),
    length=st.integers(1, 90),
    view=st.integers(1, 20),
    successive=st.booleans(),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_crops_begin_within_their_recording(n_views, length, view, successive, seed):
    group = CropGroup(n_views=n_views, successive=successive)
    lengths = np.array([length, 90, 7])
    starts = draw_group(group, lengths, view, CropConfig(), np.random.default_rng(seed))
    assert starts.shape == (n_views, 3)
    assert (starts >= 0).all()
    assert (starts <= np.maximum(lengths - view, 0)).all()
