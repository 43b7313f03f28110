"""The yardstick of the benchmarks computes what our step computes."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from semantoks.data.store import RecordingStore
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.model.tokenizers.branches import DenseBranch, SeparableBranch, StructuredBranch
from semantoks.objectives.distillation import DistillationConfig, SelfDistillation
from semantoks.objectives.objective import Losses
from semantoks.train.run import RunConfig
from semantoks.views.batch import ViewBatch

sys.path.insert(0, str(Path(__file__).parents[1]))
plain = pytest.importorskip("benchmarks.plain", reason="needs a clone of the repository")
large_store = pytest.importorskip("benchmarks.large_store")

B, C, T, N, P, L = 5, 11, 24, 3, 4, 6
BRANCHES = (DenseBranch(width=4), StructuredBranch(), SeparableBranch(width=6))


@pytest.fixture
def method(parcellation, preprocessing) -> SelfDistillation:
    config = EncoderConfig(
        width=20, depth=2, head_width=5, patch_length=L, n_patches=P, branches=BRANCHES
    )
    encoder = Encoder.random(config, parcellation, preprocessing, seed=1)
    torch.manual_seed(2)
    objective = DistillationConfig(projection_hidden=9, projection_width=7)
    out = SelfDistillation(encoder, objective).double()
    for parameter in out.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return out


def batch(kind: str) -> ViewBatch:
    generator = torch.Generator().manual_seed(3)
    views = torch.randn(2, B, C, T, generator=generator).double()
    masks = torch.rand(2, B, N, P, generator=generator) < 0.6
    masks[..., 0] = True
    if kind == "one network never seen":
        masks[:, :, 1] = True
    return ViewBatch(views, None if kind == "whole" else masks)


def losses(method: SelfDistillation, views: ViewBatch, weight: float) -> Losses:
    plan = method.plan_with(views, weight)
    outputs = method.learner(*method.inputs(views, plan))
    return method.loss(outputs, method.targets(views, plan), plan)


@pytest.mark.parametrize("weight", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["whole", "masked", "one network never seen"])
def test_the_plain_step_is_ours(method, kind, weight):
    plainly = copy.deepcopy(method)
    views = batch(kind)
    ours, theirs = losses(method, views, weight), plain.losses(plainly, views, weight)
    torch.testing.assert_close(ours.total, theirs.total, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.embeddings, theirs.embeddings, rtol=1e-12, atol=1e-12)
    for name, term in ours.terms.items():
        torch.testing.assert_close(term, theirs.terms[name], rtol=1e-12, atol=1e-12)
    ours.total.backward()
    theirs.total.backward()
    for (name, mine), its in zip(
        method.student.named_parameters(), plainly.student.parameters(), strict=True
    ):
        assert (mine.grad is None) == (its.grad is None), name
        if mine.grad is not None:
            torch.testing.assert_close(mine.grad, its.grad, rtol=1e-9, atol=1e-12, msg=name)


def test_the_teacher_follows_alike(method):
    plainly = copy.deepcopy(method)
    step = plain.PlainStep(plainly, lr=0.01, weight_decay=0.1)
    step(batch("masked"), 0.3, 0.9)
    method.student.load_state_dict(plainly.student.state_dict())
    method.update_teacher(0.9)
    for ours, theirs in zip(method.teacher.parameters(), plainly.teacher.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["whole", "masked"])
def test_checkpointing_changes_no_gradient(method, kind):
    sparing = copy.deepcopy(method)
    sparing.student.encoder.checkpoint = True
    for one in (method, sparing):
        losses(one, batch(kind), 0.3).total.backward()
    for mine, its in zip(method.parameters(), sparing.parameters(), strict=True):
        assert (mine.grad is None) == (its.grad is None)
        if mine.grad is not None:
            assert torch.equal(mine.grad, its.grad)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory as Linux counts it")
def test_a_large_store_is_written_whole_and_measured(tmp_path):
    large_store.write(tmp_path / "s", 301)
    store = RecordingStore(tmp_path / "s")
    store.verify()
    assert len(store) == store.table["subject"].nunique() == 301
    assert (store.table["missing_rois"].map(len) > 0).sum() == 7
    assert large_store.opened(tmp_path / "s")["seconds"] > 0


def test_the_roofline_counts_the_work_of_a_step():
    """Student forward and backward, teacher forward: four times the encoder, for both views."""
    from benchmarks import gpu_pretrain, machine, pretrain, steps

    config = RunConfig.preset("tiny")
    batch = steps.some_batch(config, 3, masked=False)
    names = ("float32", "bfloat16")
    for_all, few = (
        [machine.flops_of(pretrain.step(name, config), batch, weight) for name in names]
        for weight in (0.3, 0.0)
    )
    encoder = steps.distillation(config).student.encoder
    assert for_all[0] == pytest.approx(3 * 2 * 4 * gpu_pretrain.encoder_flops(encoder), rel=0.1)
    assert for_all[1] == for_all[0], "products with a fused bias count, too"
    assert few[1] == few[0] < 0.8 * for_all[0], "without L_net the last block is for CLS alone"


def test_rotated_features_give_the_same_predictions():
    """Of 200 features of 30 people, the 30 numbers that tell them apart are enough."""
    from benchmarks.abide import rotated

    from semantoks.evaluate.predictors.probe import LinearProbeRegressor

    rng = np.random.default_rng(1)
    X = (3 * rng.standard_normal((30, 200)) + 5).astype(np.float32)
    y, groups = rng.standard_normal(30), np.arange(30) % 5
    few = rotated(X)
    assert few.shape == (30, 30)
    assert rotated(few[:, :7]).shape == (30, 7)
    found = [
        LinearProbeRegressor().fit(x[:22], y[:22], groups=groups[:22]).predict(x[22:])
        for x in (X, few)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_few_people_are_drawn_inside_the_training_sites():
    from benchmarks.abide import FewPeople, groups_of

    sites = np.repeat([f"s{i}" for i in range(7)], [20, 4, 9, 11, 6, 8, 12])
    table = pd.DataFrame({"site": sites, "subject": [f"p{i}" for i in range(len(sites))]})
    folds = FewPeople(share=0.5).folds(table, np.arange(len(sites)) % 2, seed=0)
    assert len(folds) == 7 * 3
    for fold in folds:
        assert set(sites[fold.test]) == {fold.name}
        assert fold.name not in sites[fold.train]
        assert len(fold.train) == 25, "half of the 50 people without the largest site"
    drawn = {tuple(fold.train) for fold in folds}
    assert len(drawn) == 7 * 3
    groups = groups_of(sites)
    assert sorted(sum(groups, ())) == sorted(set(sites.tolist()))
    assert groups[0] == ("s0", "s5"), "the largest site is dealt out first"
