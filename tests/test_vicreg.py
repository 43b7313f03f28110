"""VICReg: its equations, parts, processes, resuming, and what a run of it leaves."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from semantoks import config as trees
from semantoks.errors import CheckpointError, ConfigError, InputError
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.model.pretrained import convert, load_pretrained, newest_checkpoint
from semantoks.objectives.expanded import Expanded
from semantoks.objectives.objective import Moment
from semantoks.objectives.registry import OBJECTIVES
from semantoks.objectives.terms.redundancy import (
    covariance_matrix,
    invariance,
    off_diagonal,
    variance_hinge,
)
from semantoks.objectives.vicreg import VICReg, VICRegConfig
from semantoks.train.guard import TrainingWarning
from semantoks.train.run import RunConfig
from semantoks.train.trainer import Trainer
from semantoks.views.batch import ViewBatch
from test_distributed import assert_close, spawn, weights

CONFIG = EncoderConfig(width=20, depth=1, head_width=5, patch_length=6, n_patches=4)


def test_the_loss_is_computed_by_hand(parcellation, preprocessing):
    """Three recordings in two dimensions."""
    one = torch.tensor([[0.0, 1.0], [2.0, 1.0], [1.0, 4.0]], dtype=torch.float64)
    two = torch.tensor([[0.0, 0.0], [2.0, 2.0], [4.0, 4.0]], dtype=torch.float64)
    # Squared distances 1, 1, 9. Centred: (-1, -1), (1, -1), (0, 2); and (-2, -2), (0, 0), (2, 2).
    assert float(invariance(one, two)) == pytest.approx(11 / 3)
    first, second = covariance_matrix(one), covariance_matrix(two)
    assert first.tolist() == [[1.0, 0.0], [0.0, 3.0]]
    assert second.tolist() == [[4.0, 4.0], [4.0, 4.0]]
    assert float(off_diagonal(second)) == pytest.approx((16 + 16) / 2)
    assert float(variance_hinge(first, target=1.5, eps=0.0)) == pytest.approx(0.5 / 2)
    method = VICReg(
        Encoder.random(CONFIG, parcellation, preprocessing, seed=0),
        VICRegConfig(
            invariance_weight=3.0,
            variance_weight=5.0,
            covariance_weight=7.0,
            target_deviation=1.5,
            eps=1e-12,
        ),
    )
    losses = method.loss(Expanded(torch.zeros(2, 3, 20), torch.stack([one, two])), None, None)
    terms = {name: float(value) for name, value in losses.terms.items()}
    assert terms == pytest.approx({"invariance": 11 / 3, "variance": 0.25, "covariance": 16.0})
    assert float(losses.total) == pytest.approx(3 * 11 / 3 + 5 * 0.25 + 7 * 16)


def test_gradients_are_those_of_finite_differences():
    z = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(x: torch.Tensor) -> torch.Tensor:
        matrices = [covariance_matrix(v) for v in x]
        hinge = sum(variance_hinge(c, target=2.0) for c in matrices)
        return invariance(*x) + hinge + sum(off_diagonal(c) for c in matrices)

    assert torch.autograd.gradcheck(loss, z.requires_grad_())


def test_hidden_tokens_are_not_seen(parcellation, preprocessing):
    method = VICReg(Encoder.random(CONFIG, parcellation, preprocessing, seed=1), VICRegConfig())
    views = torch.randn(2, 3, 11, 24)
    missing = torch.zeros(2, 3, 3, 4, dtype=torch.bool)
    missing[:, 1, :, 2:] = True
    other = views.clone()
    other[:, 1, :, 12:] = 7.0
    moment = Moment(0, 9, 3)
    found = []
    for x in (views, other):
        batch = ViewBatch(x, None, missing)
        plan = method.plan(batch, moment)
        found.append(method.loss(method.learner(*method.inputs(batch, plan)), None, plan).total)
    assert torch.equal(*found)
    assert method.after_step(moment, None) == {}


@pytest.fixture
def vicreg(tiny_run):
    """Return a maker of small float64 runs of VICReg."""

    def make(**changes):
        tree = trees.to_tree(tiny_run(train__precision="float64", optim__epochs=2, **changes))
        tree["objective"] = {"kind": "vicreg", "expander_width": 9}
        return trees.parse(RunConfig, tree)

    return make


def test_parts_and_processes_are_the_whole(vicreg, tmp_path):
    Trainer(vicreg(), tmp_path / "alone").fit()
    Trainer(vicreg(train__accumulate=2), tmp_path / "parts").fit()
    assert_close(weights(tmp_path / "alone"), weights(tmp_path / "parts"))
    (tmp_path / "two.yaml").write_text(vicreg().to_yaml())
    spawn(2, "train", f"{tmp_path / 'two.yaml'}", str(tmp_path / "two"), "0")
    assert_close(weights(tmp_path / "alone"), weights(tmp_path / "two"))


def test_a_resumed_run_is_the_uninterrupted_one(vicreg, tmp_path):
    import os
    import signal

    Trainer(vicreg(), tmp_path / "whole").fit()

    def stop(values):
        if values["step"] == 2:
            os.kill(os.getpid(), signal.SIGUSR1)

    Trainer(vicreg(), tmp_path / "run", reporter=stop).fit()
    assert newest_checkpoint(tmp_path / "run").name == "step-00000002"
    Trainer(vicreg(), tmp_path / "run", resume=True).fit()
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_a_run_can_be_read_converted_and_watched(vicreg, tmp_path):
    Trainer(vicreg(), tmp_path / "run").fit()
    encoder = load_pretrained(tmp_path / "run")
    saved = weights(tmp_path / "run")
    assert torch.equal(encoder.cls_token, saved["online.encoder.cls_token"].float())
    assert encoder.pretraining.n_subjects > 0
    with pytest.raises(InputError, match="role = 'teacher': must be one of online"):
        load_pretrained(tmp_path / "run", "teacher")
    again = load_pretrained(convert(tmp_path / "run", tmp_path / "model"))
    assert torch.equal(again.cls_token, encoder.cls_token)
    with pytest.raises(CheckpointError, match="authors' form holds teacher and student"):
        convert(tmp_path / "run", tmp_path / "model.pth")
    header = json.loads((tmp_path / "model" / "config.json").read_text())
    for damaged in ([], "online", [3]):
        text = json.dumps(header | {"roles": damaged})
        (tmp_path / "model" / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match="must list the copies of the encoder"):
            load_pretrained(tmp_path / "model")
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"loss_invariance", "loss_variance", "loss_covariance", "effective_rank"} <= line.keys()
    assert "teacher_momentum" not in line


def test_a_collapse_is_reported(vicreg, tmp_path):
    config = vicreg(optim__batch_size=10)
    config = replace(config, train=replace(config.train, collapse_rank=100.0))
    trainer = Trainer(config, tmp_path / "run")
    with torch.no_grad():
        for parameter in trainer.objective.encoder().parameters():
            parameter.zero_()
    with pytest.warns(TrainingWarning, match="embeddings are collapsing"):
        trainer.fit()


# -- configuration ---------------------------------------------------------------------------------


def test_one_kind_does_not_leak_into_another():
    config = RunConfig.preset("tiny", {"objective": {"kind": "vicreg"}})
    assert config.objective == VICRegConfig()
    loaded = RunConfig.load(overrides=["objective.kind=vicreg", "objective.eps=1e-3"])
    assert loaded.objective == VICRegConfig(eps=1e-3)
    kept = RunConfig.preset("tiny", {"objective": {"kind": "distillation", "eps": 0.1}})
    assert (kept.objective.eps, kept.objective.projection_hidden) == (0.1, 96)
    assert RunConfig.preset("tiny", {"objective": {"eps": 0.1}}).objective == kept.objective
    with pytest.raises(ConfigError, match=r"unknown key objective\.cls_weight"):
        RunConfig.preset("tiny", {"objective": {"kind": "vicreg", "cls_weight": 1.0}})
    with pytest.raises(ConfigError, match=r"objective\.eps = 'x'"):
        RunConfig.preset("tiny", {"objective": {"eps": "x"}})
    with pytest.raises(ConfigError, match=r"objective = .*simclr"):
        RunConfig.preset("tiny", {"objective": {"kind": "simclr"}})


def test_the_keys_of_a_kind_are_described():
    keys = {k.path: k for k in trees.describe(RunConfig.load(overrides=["objective.kind=vicreg"]))}
    assert keys["objective.kind"].type == " | ".join(OBJECTIVES)
    assert keys["objective.invariance_weight"].default == 25.0
    assert "objective.cls_weight" not in keys


@pytest.mark.parametrize("field", ["invariance_weight", "variance_weight", "covariance_weight"])
def test_impossible_settings_are_refused(field):
    with pytest.raises(ConfigError, match=f"objective.{field} = -1.0: must not be negative"):
        VICRegConfig(**{field: -1.0})
    with pytest.raises(ConfigError, match="expander_width = 0: must be positive"):
        VICRegConfig(expander_width=0)


def test_the_expander_treats_every_recording_on_its_own(parcellation, preprocessing):
    method = VICReg(Encoder.random(CONFIG, parcellation, preprocessing, seed=1), VICRegConfig())
    assert not any(isinstance(module, nn.BatchNorm1d) for module in method.modules())
    views = torch.randn(2, 4, 11, 24)
    whole = method.learner(views, None).expanded
    torch.testing.assert_close(method.learner(views[:, 2:3], None).expanded, whole[:, 2:3])
