"""Masked connectivity: blocks of pairs of hidden networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from semantoks import config as trees
from semantoks.errors import ConfigError
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.model.pretrained import newest_checkpoint
from semantoks.objectives.blocks import Blocks, BlocksConfig
from semantoks.train.run import RunConfig
from semantoks.train.trainer import Trainer
from semantoks.views.batch import ViewBatch
from test_distributed import assert_close, weights

ENCODER = {
    "width": 16,
    "depth": 1,
    "head_width": 8,
    "granularity": "connectome",
    "patch_length": 24,
    "n_patches": 1,
    "layer_scale": 1.0,
    "connectome": {"n_components": 6, "dropout": 0.0, "shortest": 20},
}


@pytest.fixture
def method(parcellation, preprocessing) -> Blocks:
    config = trees.parse(EncoderConfig, ENCODER)
    encoder = Encoder.random(config, parcellation, preprocessing, seed=0)
    made = Blocks(encoder, BlocksConfig(n_components=3)).eval()
    made.fit(torch.randn(30, 11, 24, generator=torch.Generator().manual_seed(1)))
    return made


def test_blocks_of_hidden_networks_are_compared_by_hand(method, parcellation):
    """Networks 0 and 2 are hidden in the first recording, 1 and 2 in the second, 2 has no data."""
    x = torch.randn(2, 11, 24, generator=torch.Generator().manual_seed(2))
    masks = torch.tensor([[1, 0, 1], [0, 1, 1]], dtype=torch.bool)[None, :, :, None]
    missing = torch.zeros_like(masks)
    missing[0, 1, 2] = True
    learner = method.learner
    with torch.no_grad():
        learner.weight.zero_()
        learner.bias.fill_(0.5)
    batch = ViewBatch(x[None], masks, missing)
    losses = method.loss(learner(*method.inputs(batch, None)), None, None)
    centred = learner.tokenizer.centred(x)
    pairs = learner.pairs.T.tolist()
    assert pairs == [[0, 0], [0, 1], [0, 2], [1, 1], [1, 2], [2, 2]]
    errors = []
    for person, pair in ((0, (0, 0)), (0, (0, 2)), (0, (2, 2)), (1, (1, 1))):
        n, m = (parcellation.group_indices[k] for k in pair)
        block = centred[person][np.ix_(n, m)].flatten()
        axes = learner.get_buffer(f"axes_{pairs.index(list(pair))}")
        errors.append(block @ axes - 0.5)
    expected = torch.stack(errors).square().mean()
    assert losses.total.item() == pytest.approx(expected.item(), rel=1e-4)


def test_tokens_of_the_first_order_are_refused(parcellation, preprocessing):
    encoder = Encoder.random(EncoderConfig(width=64, depth=1), parcellation, preprocessing, seed=0)
    with pytest.raises(ConfigError, match=r"needs second-order tokens.*preset connectome-small"):
        Blocks(encoder, BlocksConfig())


@pytest.fixture
def run(tiny_run):
    """Return a maker of small runs."""

    def make(**changes) -> RunConfig:
        tree = trees.to_tree(tiny_run(optim__epochs=2, train__precision="float64", **changes))
        tree["encoder"] = ENCODER
        masks = {"kind": "network", "frequency": 1.0, "ratio_min": 0.4, "ratio_max": 0.9}
        none = dict.fromkeys(("roi_dropout", "time_dropout", "amplitude", "noise"), "none")
        tree["views"] = {"masks": masks, "augment": none}
        tree["objective"] = {"kind": "blocks", "n_components": 3}
        return trees.parse(RunConfig, tree)

    return make


def test_parts_are_the_whole_and_a_resumed_run_the_uninterrupted_one(run, tmp_path):
    import os
    import signal

    def stop(values):
        if values["step"] == 2:
            os.kill(os.getpid(), signal.SIGUSR1)

    Trainer(run(), tmp_path / "whole").fit()
    whole = weights(tmp_path / "whole")
    Trainer(run(train__accumulate=2), tmp_path / "parts").fit()
    assert_close(whole, weights(tmp_path / "parts"))
    Trainer(run(), tmp_path / "run", reporter=stop).fit()
    assert newest_checkpoint(tmp_path / "run").name == "step-00000002"
    Trainer(run(), tmp_path / "run", resume=True).fit()
    again = weights(tmp_path / "run")
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


def test_masked_connectivity_learns(method):
    """One strength of coupling per person enters all blocks: hidden ones follow from those seen."""
    rng = np.random.default_rng(0)

    def people(n: int) -> torch.Tensor:
        common = rng.standard_normal((n, 1, 24)) * rng.uniform(0, 3, (n, 1, 1))
        return torch.from_numpy(common + rng.standard_normal((n, 11, 24))).float()

    method.fit(people(200))
    masks = torch.zeros(1, 100, 3, 1, dtype=torch.bool)
    masks[0, :50, 0] = masks[0, 50:, 2] = True

    def unexplained(x: torch.Tensor) -> torch.Tensor:
        outputs = method.learner(*method.inputs(ViewBatch(x[None], masks), None))
        return outputs.error.sum() / outputs.energy.sum()

    fresh = people(100)
    assert unexplained(fresh).item() > 1
    optimizer = torch.optim.AdamW(method.learner.parameters(), lr=0.01)
    for _ in range(60):
        loss = unexplained(people(100))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert unexplained(fresh).item() < 0.9
