"""Every objective: parts equal the whole, processes equal one, resuming, and that it learns.

`SMALL` holds an example of each; values computed by hand are in test_contrastive.py and others.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from planted import found, planted_store
from semantoks import config as trees
from semantoks.model.pretrained import load_pretrained, newest_checkpoint
from semantoks.train.run import RunConfig
from semantoks.train.trainer import Trainer
from test_distributed import assert_close, spawn, weights

HEAD = {"projection_hidden": 12, "projection_width": 7}
DINO = {
    "kind": "dino",
    "n_prototypes": 13,
    "head_hidden": 10,
    "bottleneck": 7,
    "n_short": 1,
    "short_patches": 2,
}
TIME = {"n_pairs": 2, "n_patches": 2, "gap": 2}
#: Small examples, named by what they show.
SMALL: dict[str, dict[str, Any]] = {
    "crop": {"kind": "contrastive", **HEAD},
    "subject": {"kind": "contrastive", "positives": "subject", **HEAD},
    "time": {"kind": "contrastive", "positives": "time", "time": TIME, **HEAD},
    "barlow": {"kind": "barlow", "projector_width": 9},
    "dino": DINO | {"freeze_epochs": 0.0},
    "centring": DINO | {"balance": "centring", "koleo_weight": 0.0},
    "order": {"kind": "order", "min_distance": 2},
}


@pytest.fixture(scope="module")
def small(tiny_run):
    """Return a maker of small float64 runs; the last batch of an epoch is smaller."""

    def make(name, **changes):
        once = {"train__precision": "float64", "optim__epochs": 1, "optim__warmup_epochs": 0.5}
        tree = trees.to_tree(tiny_run(**once, **changes))
        tree["objective"] = SMALL[name]
        return trees.parse(RunConfig, tree)

    return make


@pytest.fixture(scope="module")
def alone(small, tmp_path_factory):
    """Return a maker of runs by one process, whole and uninterrupted; each is made once."""
    folder = tmp_path_factory.mktemp("alone")

    def make(name):
        if not (folder / name).exists():
            Trainer(small(name), folder / name).fit()
        return weights(folder / name)

    return make


@pytest.mark.parametrize("name", SMALL)
def test_parts_of_batches_are_the_whole(small, alone, tmp_path, name):
    Trainer(small(name, train__accumulate=2), tmp_path / "parts").fit()
    assert_close(alone(name), weights(tmp_path / "parts"))


@pytest.mark.parametrize("name", SMALL)
def test_a_resumed_run_is_the_uninterrupted_one(small, alone, tmp_path, name):
    def stop(values):
        if values["step"] == 2:
            os.kill(os.getpid(), signal.SIGUSR1)

    Trainer(small(name), tmp_path / "run", reporter=stop).fit()
    assert newest_checkpoint(tmp_path / "run").name == "step-00000002"
    Trainer(small(name), tmp_path / "run", resume=True).fit()
    resumed = weights(tmp_path / "run")
    assert alone(name).keys() == resumed.keys()
    assert all(torch.equal(value, resumed[key]) for key, value in alone(name).items())
    assert all(p.isfinite().all() for p in load_pretrained(tmp_path / "run").parameters())


def test_two_processes_are_one(small, alone, tmp_path):
    jobs = []
    for name in SMALL:
        (tmp_path / f"{name}.yaml").write_text(small(name).to_yaml(), encoding="utf-8")
        jobs += [str(tmp_path / f"{name}.yaml"), str(tmp_path / name), "0"]
    spawn(2, "train", *jobs)
    for name in SMALL:
        assert_close(alone(name), weights(tmp_path / name))


@pytest.mark.clone
def test_every_file_of_runs_is_told_of():
    """Each loads, has its own settings, and PAPERS.md says what was taken from its paper."""
    folder = Path(__file__).parents[1] / "runs" / "objectives"
    files = sorted(folder.glob("*.yaml"))
    papers = (folder / "PAPERS.md").read_text(encoding="utf-8")
    configs = {file.name: RunConfig.load(file) for file in files}
    assert [name for name in configs if name not in papers] == []
    assert len({config.to_yaml() for config in configs.values()}) == len(files) > 8
    kinds = {config.objective.kind for config in configs.values()}
    assert {SMALL[name]["kind"] for name in SMALL} <= kinds


# -- learning --------------------------------------------------------------------------------------

WIDE = {"projection_hidden": 64, "projection_width": 32}
LEARNED: dict[str, tuple[dict[str, Any], str, dict[str, float]]] = {
    "crop": ({"kind": "contrastive", **WIDE}, "trait", {}),
    "subject": ({"kind": "contrastive", "positives": "subject", **WIDE}, "trait", {}),
    "time": (
        {"kind": "contrastive", "positives": "time", "time": {"gap": 5}, **WIDE},
        "state",
        {},
    ),
    "barlow": ({"kind": "barlow", "projector_width": 64}, "trait", {}),
    "dino": (
        {
            "kind": "dino",
            "n_prototypes": 64,
            "head_hidden": 64,
            "bottleneck": 16,
            "n_short": 1,
            "freeze_epochs": 0.0,
        },
        "trait",
        {"epochs": 30, "teacher_momentum": 0.8},
    ),
    "order": ({"kind": "order"}, "state", {}),
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Return a store with planted structure."""
    return planted_store(tmp_path_factory.mktemp("planted") / "store")


@pytest.mark.parametrize("name", LEARNED)
def test_planted_structure_is_learned(planted, tmp_path, name):
    """After 40 or 60 steps, neighbours tell it by 0.1 better in correlation than at random."""
    objective, what, optim = LEARNED[name]
    base = {"epochs": 20, "batch_size": 30, "warmup_epochs": 2.0, "base_lr": 0.05}
    config = RunConfig.preset(
        "paper",
        {
            "data": {"store": str(planted.path)},
            "encoder": {
                "width": 32,
                "depth": 1,
                "head_width": 8,
                "patch_length": 10,
                "n_patches": 4,
            },
            "views": {"masks": {"kind": "none"}},
            "objective": objective,
            "optim": base | optim,
            "train": {"device": "cpu", "precision": "float32", "keep_best": False},
        },
    )
    Trainer(config, tmp_path / "run").fit()
    encoder = load_pretrained(tmp_path / "run")
    random = [found(encoder.with_random_weights(seed), planted, what) for seed in range(3)]
    assert found(encoder, planted, what) > sum(random) / 3 + 0.1
