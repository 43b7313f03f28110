"""Objectives with a decoder or predictor over tokens: parts, processes, resuming, learning."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from semantoks import config as trees
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import write_store
from semantoks.errors import ConfigError
from semantoks.model.decoder import DecoderConfig, SignalHead, TokenDecoder
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.model.pretrained import load_pretrained, newest_checkpoint
from semantoks.objectives.autoregressive import Autoregressive, AutoregressiveConfig
from semantoks.objectives.jepa import JEPA, JEPAConfig, Latents, split_regions
from semantoks.objectives.objective import Moment
from semantoks.objectives.reconstruction import (
    Reconstructed,
    Reconstruction,
    ReconstructionConfig,
    compare,
)
from semantoks.objectives.schedules import OptimConfig
from semantoks.train.run import RunConfig
from semantoks.train.trainer import Trainer
from semantoks.views.batch import ViewBatch
from test_distributed import assert_close, spawn, weights

DECODER = {"width": 12, "depth": 1, "head_width": 6}
MASKS = {"kind": "random", "frequency": 1.0, "ratio_min": 0.3, "ratio_max": 0.7}

# Name -> changes of the tiny run.
RUNS: dict[str, dict[str, Any]] = {
    "reconstruction": {"objective": {"kind": "reconstruction", "decoder": DECODER}},
    "autoregressive": {
        "objective": {"kind": "autoregressive"},
        "encoder": {"attention": "causal"},
        "views": {"masks": {"kind": "none"}},
    },
    "jepa": {
        "objective": {"kind": "jepa", "decoder": DECODER},
        "encoder": {"granularity": "rois", "positions": "gradients"},
        "views": {"masks": {"kind": "cross"}},
    },
    "reconstruction-rois": {
        "objective": {"kind": "reconstruction", "decoder": DECODER},
        "encoder": {"granularity": "rois"},
    },
}


@pytest.fixture(scope="module")
def data(tmp_path_factory, recordings, parcellation, preprocessing) -> Path:
    """Return a store in which one recording is shorter than a view and one lacks a ROI."""
    path = tmp_path_factory.mktemp("data") / "store"
    cut = list(recordings)
    cut[5] = replace(cut[5], signal=cut[5].signal[:20])
    cut[7] = replace(cut[7], signal=np.delete(cut[7].signal, 3, axis=1),
                     roi_names=tuple(np.delete(parcellation.labels, 3)))  # fmt: skip
    write_store(path, cut, parcellation, preprocessing, min_times=18, missing_rois="mark")
    return path


@pytest.fixture(scope="module")
def make(tiny_run, data):
    """Return a maker of small float64 runs of an objective."""

    def one(name: str, **changes: Any) -> RunConfig:
        changes = {"train__precision": "float64", "optim__epochs": 2} | changes
        tree = trees.to_tree(tiny_run(data__store=str(data), **changes))
        tree["views"]["masks"] = MASKS
        tree["objective"] = {}
        return trees.parse(RunConfig, trees.merge(tree, RUNS[name]))

    return one


@pytest.fixture(scope="module")
def trained(make, tmp_path_factory) -> Path:
    """Return the folder of runs of every objective: of one process, and of two."""
    folder = tmp_path_factory.mktemp("runs")
    jobs = []
    for name in RUNS:
        Trainer(make(name), folder / name / "alone").fit()
        (folder / f"{name}.yaml").write_text(make(name).to_yaml(), encoding="utf-8")
        jobs += [f"{folder / name}.yaml", str(folder / name / "two"), "0"]
    spawn(2, "train", *jobs)
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_parts_and_processes_are_the_whole(name, make, trained, tmp_path):
    whole = weights(trained / name / "alone")
    assert_close(whole, weights(trained / name / "two"))
    Trainer(make(name, train__accumulate=2), tmp_path / "parts").fit()
    assert_close(whole, weights(tmp_path / "parts"))


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_is_the_uninterrupted_one(name, make, trained, tmp_path):
    def stop(values):
        if values["step"] == 2:
            os.kill(os.getpid(), signal.SIGUSR1)

    Trainer(make(name), tmp_path / "run", reporter=stop).fit()
    assert newest_checkpoint(tmp_path / "run").name == "step-00000002"
    Trainer(make(name), tmp_path / "run", resume=True).fit()
    one, two = weights(trained / name / "alone"), weights(tmp_path / "run")
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[key]) for key, value in one.items())


@pytest.mark.parametrize("name", RUNS)
def test_a_run_leaves_an_encoder(name, make, trained):
    encoder = load_pretrained(trained / name / "alone")
    assert encoder.config == make(name).encoder
    x = torch.randn(2, 11, 24)
    assert encoder(x).cls_avg.isfinite().all()


def test_a_step_without_masks_is_refused_at_the_door(make):
    tree = trees.to_tree(make("reconstruction"))
    for masks, fix in (({"kind": "none"}, "kind=random"), ({"frequency": 0.5}, "frequency=1")):
        changed = trees.merge(tree, {"views": {"masks": masks}})
        rule = rf"views\.masks.*must hide tokens on every step.*Set views\.masks\.{fix}"
        with pytest.raises(ConfigError, match=rule):
            trees.parse(RunConfig, changed)


def test_tokens_of_second_order_are_refused(parcellation, preprocessing):
    second = EncoderConfig(
        width=16, depth=1, head_width=8, granularity="connectome", patch_length=24, n_patches=1
    )
    encoder = Encoder.random(second, parcellation, preprocessing, seed=0)
    with pytest.raises(ConfigError, match=r"needs tokens of signals.*granularity=networks"):
        Reconstruction(encoder, ReconstructionConfig())


@pytest.mark.clone
@pytest.mark.parametrize("name", RUNS)
def test_every_objective_has_its_run(name):
    folder = Path(__file__).parents[1] / "runs" / "objectives"
    config = RunConfig.load(folder / f"{name}.yaml")
    assert config.objective.kind == RUNS[name]["objective"]["kind"]
    assert config.encoder.width == 192
    assert f"{name}.yaml" in (folder / "PAPERS.md").read_text(encoding="utf-8")


# -- decoder ---------------------------------------------------------------------------------------

CONFIG = EncoderConfig(width=20, depth=1, head_width=5, patch_length=6, n_patches=4)


@pytest.mark.parametrize("granularity", ["networks", "one", "rois"])
def test_signals_go_back_to_their_channels(parcellation, preprocessing, granularity):
    """A head whose maps are zero but for their bias gives every channel its own values."""
    config = replace(CONFIG, granularity=granularity)
    encoder = Encoder.random(config, parcellation, preprocessing, seed=0)
    head = SignalHead(encoder.rows, 7, 6)
    places = np.concatenate(encoder.rows.channels)
    assert sorted(places) == list(range(11))
    x = torch.randn(3, 11, 24)
    patches = head.patches(x)
    for m, channel in enumerate(places):
        assert torch.equal(patches[:, m].flatten(1), x[:, channel])
    found = head(torch.zeros(3, len(encoder.rows), 4, 7))
    assert found.shape == patches.shape
    # What a channel is given depends on the token of its row alone.
    tokens = torch.randn(3, len(encoder.rows), 4, 7, requires_grad=True)
    for m in (0, 5, 10):
        (gradient,) = torch.autograd.grad(head(tokens)[:, m].sum(), tokens)
        row = next(n for n, own in enumerate(encoder.rows.channels) if places[m] in own)
        assert gradient.abs().sum(dim=(0, 2, 3)).nonzero().flatten().tolist() == [row]
    grid = torch.arange(len(encoder.rows)).view(1, -1, 1).expand(3, -1, 4)
    rows = head.by_channel(grid)[0, :, 0]
    assert all(places[m] in encoder.rows.channels[n] for m, n in enumerate(rows.tolist()))


def test_a_decoder_sees_nothing_at_hidden_places(parcellation, preprocessing):
    encoder = Encoder.random(CONFIG, parcellation, preprocessing, seed=0)
    decoder = TokenDecoder(encoder, DecoderConfig(width=12, depth=1, head_width=6))
    hidden = torch.rand(2, 3, 4) < 0.5
    cls, tokens = torch.randn(2, 20), torch.randn(2, 12, 20)
    other = torch.where(hidden.flatten(1).unsqueeze(-1), 9.0, tokens)
    assert torch.equal(decoder(cls, tokens, hidden), decoder(cls, other, hidden))
    assert not torch.equal(decoder(cls, tokens, hidden), decoder(cls, tokens + 1, hidden))
    with pytest.raises(ConfigError, match=r"decoder\.width = 13: must be even and a multiple"):
        DecoderConfig(width=13, head_width=13)


# -- reconstruction --------------------------------------------------------------------------------


def test_reconstruction_is_computed_by_hand():
    """Two channels, two patches of two values; one patch is seen, one holds no data."""
    target = torch.tensor([[[[1.0, 2.0], [3.0, 0.0]], [[0.0, 0.0], [2.0, 2.0]]]])
    found = torch.tensor([[[[0.0, 0.0], [1.0, 1.0]], [[5.0, 5.0], [2.0, 5.0]]]])
    compared = torch.tensor([[[False, True], [True, True]]])
    error, energy, count = compare(found, target, compared)
    # Patches (0, 1) and (1, 1): errors 2, 1 and 0, 3; (1, 0) is zero throughout.
    assert (error.item(), energy.item(), count.item()) == (4 + 1 + 0 + 9, 9 + 0 + 4 + 4, 4)


def test_the_loss_counts_values_not_recordings(parcellation, preprocessing):
    method = Reconstruction(
        Encoder.random(CONFIG, parcellation, preprocessing, seed=0), ReconstructionConfig()
    )
    sums = [torch.tensor(x) for x in ([6.0, 2.0], [10.0, 6.0], [3.0, 1.0])]
    losses = method.loss(Reconstructed(torch.zeros(2, 40), *sums), None, None)
    assert float(losses.total) == pytest.approx(8 / 4)
    assert float(losses.terms["unexplained"]) == pytest.approx(8 / 16)


def test_the_target_is_the_crop_before_augmentation(parcellation, preprocessing):
    method = Reconstruction(
        Encoder.random(CONFIG, parcellation, preprocessing, seed=0), ReconstructionConfig()
    )
    views, masks = torch.randn(1, 3, 11, 24), torch.rand(1, 3, 3, 4) < 0.5
    missing = torch.zeros_like(masks)
    missing[0, 1, :, 2:] = True

    def loss(x: torch.Tensor, clean: torch.Tensor) -> float:
        batch = ViewBatch(x, masks, missing, clean)
        return method.loss(method.learner(*method.inputs(batch, None)), None, None).total.item()

    clean = views.clone()
    clean[0, 1, :, 12:] = 0.0  # as the loader pads
    seen = loss(views, clean)
    other = views.clone()
    hidden = (masks | missing)[0].repeat_interleave(6, dim=2)
    rows = Encoder.random(CONFIG, parcellation, preprocessing, seed=0).rows
    for n, places in enumerate(rows.channels):
        other[0, :, places] += 5 * hidden[:, n : n + 1]  # what is hidden is not seen
    assert loss(other, clean) == pytest.approx(seen, rel=1e-6)
    assert loss(views, 2 * clean) != pytest.approx(seen, rel=1e-3)


# -- latent prediction -----------------------------------------------------------------------------


def jepa(parcellation, preprocessing, **changes: Any) -> JEPA:
    encoder = Encoder.random(replace(CONFIG, **changes), parcellation, preprocessing, seed=0)
    return JEPA(encoder, JEPAConfig(decoder=DecoderConfig(**DECODER)))


def test_regions_are_those_of_the_block_that_is_seen():
    """Of 3 rows and 4 patches, row 1 is seen at patches 0 and 1; row 2 has no data at patch 0."""
    hidden = torch.ones(1, 3, 4, dtype=torch.bool)
    hidden[0, 1, :2] = False
    missing = torch.zeros_like(hidden)
    missing[0, 2, 0] = True
    cross_roi, cross_time, double = split_regions(hidden, missing)[0].int().tolist()
    assert cross_roi == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
    assert cross_time == [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]]
    assert double == [[0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 1, 1]]


def test_latent_prediction_is_computed_by_hand(parcellation, preprocessing):
    """Errors of 0.5 and 3 in one region, of 1 in another, none in the third."""
    regions = torch.zeros(1, 3, 2, 2, dtype=torch.bool)
    regions[0, 0, 0] = regions[0, 1, 1, 0] = True
    target = torch.randn(1, 2, 2, 5)
    error = torch.tensor([[0.5, 3.0], [1.0, 7.0]])[None, :, :, None]
    blank = torch.zeros(1, 40)
    losses = jepa(parcellation, preprocessing).loss(
        Latents(blank, target + error, regions), Latents(blank, target, None), None
    )
    # e^2 / 2 below 1, then |e| - 1/2.
    first, second = (0.125 + 2.5) / 2, 0.5
    terms = [term.item() for term in losses.terms.values()]
    assert terms == pytest.approx([first, second, 0.0], rel=1e-5)
    assert losses.total.item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_the_target_encoder_sees_everything_and_follows(parcellation, preprocessing):
    method = jepa(parcellation, preprocessing, drop_path=0.5, depth=2).train()
    assert not any(module.training for module in method.target.modules())
    views = torch.randn(1, 3, 11, 24)
    masks = torch.ones(1, 3, 3, 4, dtype=torch.bool)
    masks[..., 0, 0] = False
    batch = ViewBatch(views, masks, None, views)
    target = method.targets(batch, None)
    whole = method.encoder("target")(views[0]).tokens.unflatten(1, (3, 4))
    centred = whole - whole.mean(dim=-1, keepdim=True)
    expected = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(target.tokens, expected, rtol=1e-4, atol=1e-5)
    outputs = method.learner(*method.inputs(batch, None))
    method.loss(outputs, target, None).total.backward()
    assert all(p.grad is None for p in method.target.parameters())
    assert method.context.encoder.cls_token.grad.any()
    with torch.no_grad():
        method.context.encoder.cls_token += 1
    before = method.encoder("target").cls_token.clone()
    optim = OptimConfig(teacher_momentum=0.75)
    assert method.after_step(Moment(0, 9, 3), optim) == {"teacher_momentum": 0.75}
    torch.testing.assert_close(method.encoder("target").cls_token, before + 0.25)


# -- next-patch prediction ------------------------------------------------------------------------


def autoregressive(parcellation, preprocessing, **changes: Any) -> Autoregressive:
    config = replace(CONFIG, attention="causal", depth=2, **changes)
    encoder = Encoder.random(config, parcellation, preprocessing, seed=0)
    return Autoregressive(encoder, AutoregressiveConfig())


@pytest.mark.parametrize("granularity", ["networks", "rois"])
def test_a_causal_token_sees_no_later_patch(parcellation, preprocessing, granularity):
    encoder = autoregressive(parcellation, preprocessing, granularity=granularity).encoder().eval()
    x = torch.randn(2, 11, 24)
    later = x.clone()
    later[:, :, 12:] += 3
    one, two = (encoder(v).tokens.unflatten(1, (-1, 4)) for v in (x, later))
    torch.testing.assert_close(one[:, :, :2], two[:, :, :2])
    assert not torch.allclose(one[:, :, 2], two[:, :, 2], atol=1e-3)
    earlier = x.clone()
    earlier[:, 3, :6] += 3  # reaches every row of every later patch
    moved = (encoder(earlier).tokens.unflatten(1, (-1, 4)) - one).abs().amax(dim=(0, 3))
    assert (moved[:, 1:] > 1e-5).all()
    # Of a whole view and of its beginning alone.
    torch.testing.assert_close(encoder(x[:, :, :12]).tokens.unflatten(1, (-1, 2)), one[:, :, :2])
    cls, _ = encoder.read(x)
    torch.testing.assert_close(cls, encoder(x).cls)
    assert not torch.allclose(encoder(later).cls, cls, atol=1e-3)


def test_next_patches_are_computed_by_hand(parcellation, preprocessing):
    """Of a head that always gives its bias, the errors are those of a constant."""
    method = autoregressive(parcellation, preprocessing, granularity="rois")
    (only,) = method.online.head.maps
    with torch.no_grad():
        only.weight.zero_()
        only.bias.fill_(0.5)
    x = torch.randn(1, 2, 11, 24)
    missing = torch.zeros(1, 2, 11, 4, dtype=torch.bool)
    missing[0, 1, :, 3] = True
    batch = ViewBatch(x, None, missing, x)
    losses = method.loss(method.learner(*method.inputs(batch, None)), None, None)
    values = torch.cat([x[0, 0, :, 6:].flatten(), x[0, 1, :, 6:18].flatten()])
    assert losses.total.item() == pytest.approx((values - 0.5).square().mean().item(), rel=1e-5)


def test_what_cannot_be_predicted_is_refused(parcellation, preprocessing):
    for changes, match in (
        ({}, r"attention = 'full': must be causal .* Set encoder\.attention=causal"),
        ({"attention": "causal", "n_patches": 1}, r"n_patches = 1: must be at least 2"),
    ):
        encoder = Encoder.random(replace(CONFIG, **changes), parcellation, preprocessing, seed=0)
        with pytest.raises(ConfigError, match=match):
            Autoregressive(encoder, AutoregressiveConfig())
    with pytest.raises(ConfigError, match=r"encoder\.attention = 'none': must be full or c"):
        replace(CONFIG, attention="none")


# -- learning --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted(tmp_path_factory, parcellation) -> Path:
    """Return a store of 24 people whose ROIs oscillate with a period of three views.

    People are of two kinds: in the one all networks are in phase, in the other the third network
    has the opposite phase. A ROI has its own strength; a fifth of the variance is noise.
    """
    rng = np.random.default_rng(5)
    strength = rng.uniform(0.5, 1.5, 11)
    third = np.array(parcellation.networks) == "Default"
    out = []
    for person in range(24):
        sign = np.where(third & (person % 2 == 1), -1, 1)
        phase = 2 * np.pi * (np.arange(144)[:, None] / 72 + rng.random())
        signal = np.cos(phase) * sign * strength + 0.35 * rng.standard_normal((144, 11))
        out.append(
            Recording(
                signal=signal,
                roi_names=parcellation.labels,
                tr=2.0,
                subject=f"p{person:02}",
                phenotypes={"kind": "ab"[person % 2]},
                source=f"r{person}",
            )
        )
    path = tmp_path_factory.mktemp("planted") / "store"
    write_store(path, out, parcellation, Preprocessing(tr=2.0, low_hz=None, high_hz=0.1))
    return path


@pytest.fixture(scope="module")
def learn(tiny_run, planted, tmp_path_factory):
    """Return a function that trains for 60 steps and returns the trainer and its logs."""

    def one(
        objective: dict[str, Any],
        encoder: dict[str, Any] | None = None,
        masks: str = "random",
    ) -> tuple[Trainer, list[dict[str, Any]]]:
        lines: list[dict[str, Any]] = []
        run = tiny_run(
            data__store=str(planted),
            optim__epochs=60,
            optim__batch_size=24,
            optim__base_lr=0.1,
            train__checkpoint_epochs=100,
            train__keep_best=False,
            train__collapse_rank=0.0,
        )
        tree = trees.to_tree(run)
        none = dict.fromkeys(("roi_dropout", "time_dropout", "amplitude", "noise"), "none")
        tree["views"] = {"masks": MASKS | {"kind": masks}, "augment": none}
        size = {"width": 24, "depth": 1, "head_width": 12, "layer_scale": 1.0}
        tree["encoder"] = trees.merge(tree["encoder"], size | (encoder or {}))
        config = trees.parse(RunConfig, tree | {"objective": objective})
        trainer = Trainer(config, tmp_path_factory.mktemp("learn") / "run", reporter=lines.append)
        trainer.fit()
        return trainer, lines

    return one


WIDE = {"width": 24, "depth": 1, "head_width": 12}


def test_reconstruction_learns(learn):
    """Random weights explain nothing of hidden signals; after 60 steps a seventh at least."""
    _, lines = learn({"kind": "reconstruction", "decoder": WIDE})
    unexplained = [line["loss_unexplained"] for line in lines]
    assert unexplained[0] > 1
    assert np.mean(unexplained[-6:]) < 6 / 7
    assert lines[-1]["effective_rank"] > 2


def test_latent_prediction_learns(learn):
    """After 60 steps a tenth of what distinguishes recordings is predicted, and none collapses.

    The reference is the mean target of every place over recordings, which needs no data to predict;
    a collapse would shrink both alike.
    """
    objective = {"kind": "jepa", "decoder": WIDE}
    trainer, lines = learn(objective, {"granularity": "rois", "positions": "gradients"})
    method, batch = trainer.objective.eval(), trainer._loader.batch(1)

    @torch.no_grad()
    def unexplained() -> float:
        found, target = method.learner(*method.inputs(batch, None)), method.targets(batch, None)
        counted = found.regions.any(dim=1).unsqueeze(-1).float()
        mean = (target.tokens * counted).sum(dim=0) / counted.sum(dim=0).clamp(min=1)
        errors = [((x - target.tokens) * counted).square().sum() for x in (found.tokens, mean)]
        return float(errors[0] / errors[1])

    assert unexplained() < 0.9
    assert lines[-1]["effective_rank"] > 2
    for parameter in method.learner.exit.parameters():  # as predictions are at the start
        torch.nn.init.normal_(parameter, std=0.02)
    assert unexplained() > 0.95


def test_next_patch_prediction_learns(learn):
    """After 60 steps two fifths of the coming patches are explained; at the start nothing is."""
    _, lines = learn({"kind": "autoregressive"}, {"attention": "causal"})
    unexplained = [line["loss_unexplained"] for line in lines]
    assert unexplained[0] > 1
    assert np.mean(unexplained[-6:]) < 0.6
    assert lines[-1]["effective_rank"] > 2
