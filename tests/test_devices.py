"""Device discipline, without a GPU: nothing mixes the tensors of two devices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from elsewhere import DEVICE, device
from semantoks.evaluate.features.embed import Embedder
from semantoks.model.encoder import Encoder, EncoderConfig
from semantoks.model.pretrained import load_pretrained
from semantoks.train import distributed
from semantoks.train import trainer as trainer_module
from semantoks.train.run import RunConfig
from semantoks.train.trainer import Trainer


def test_tensors_of_two_devices_are_noticed():
    with device() as waits:
        x = torch.ones(3, 2).to(DEVICE).requires_grad_()
        y = (2 * x * torch.tensor(3.0)).sum()
        y.backward()
        assert x.grad.device == y.device == DEVICE
        assert waits == []
        assert x.grad.cpu().tolist() == [[6.0, 6.0]] * 3
        assert float(y.detach()) == 36
        assert len(waits) == 2
        for wrong in (lambda: x + torch.ones(2), lambda: x @ torch.ones(2, 2)):
            with pytest.raises(RuntimeError, match="tensors of two devices"):
                wrong()
        with torch.no_grad():
            x += 1
            x[1].zero_()
        assert x.tolist() == [[2, 2], [0, 0], [2, 2]]


@pytest.fixture
def there(monkeypatch):
    """Train on the device that is not there."""
    monkeypatch.setattr(trainer_module, "pick_device", lambda _: DEVICE)
    with device() as waits:
        yield waits


SMALL = {"width": 16, "depth": 2, "head_width": 8, "patch_length": 6, "n_patches": 4}
CONNECTOME = {
    "width": 20,
    "head_width": 5,
    "patch_length": 23,
    "connectome": {"n_components": 6, "shortest": 10},
}


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("paper", {"encoder": SMALL}),
        ("paper", {"encoder": SMALL, "objective": {"kind": "vicreg", "expander_width": 9}}),
        ("paper", {"encoder": SMALL, "objective": {"kind": "contrastive", "positives": "time"}}),
        ("paper", {"encoder": SMALL, "objective": {"kind": "barlow", "projector_width": 9}}),
        ("paper", {"encoder": SMALL, "objective": {"kind": "dino", "n_prototypes": 13}}),
        ("paper", {"encoder": SMALL, "objective": {"kind": "order"}}),
        ("connectome-small", {"encoder": CONNECTOME, "objective": {"n_components": 7}}),
    ],
    ids=["distillation", "vicreg", "time", "barlow", "dino", "order", "prediction"],
)
@pytest.mark.parametrize("in_parts", [False, True])
def test_a_run_stays_on_its_device_and_resumes(store_path, tmp_path, preset, changes, in_parts):
    tree = {
        "data": {"store": str(store_path)},
        "optim": {"epochs": 2, "batch_size": 5, "warmup_epochs": 1.0},
        "train": {"precision": "float32", "collapse_rank": 0.0, "keep_best": True},
    }
    if in_parts:
        tree["train"] |= {"accumulate": 2, "checkpoint_activations": True}
    config = RunConfig.preset(preset, tree | changes)
    trainer = Trainer(config, tmp_path / "run")
    assert {p.device for p in trainer.objective.parameters()} == {DEVICE}
    trainer.fit()
    again = Trainer(config, tmp_path / "run", resume=True)
    assert again.step == trainer.n_steps
    states = (one.objective.state_dict().values() for one in (again, trainer))
    for one, two in zip(*states, strict=True):
        assert one.tolist() == two.tolist()
    assert all(p.isfinite().all() for p in load_pretrained(tmp_path / "run").parameters())


def test_a_step_seldom_waits_for_its_device(there, tiny_run, tmp_path):
    """Wait for the coin of the masks and whether the step is usable; with masks, for three counts.

    More would keep a GPU idle.
    """
    counts = set()
    trainer = Trainer(tiny_run(train__precision="float32"), tmp_path / "run")
    for trainer.step in range(6):  # of 9: with L_net and without
        there.clear()
        trainer._learn(trainer._batch(), None)
        counts.add(len(there))
    assert counts == {2, 2 + 3}


def test_embeddings_are_those_of_the_cpu(parcellation, preprocessing):
    config = EncoderConfig(width=20, depth=2, head_width=5, patch_length=6, n_patches=4)
    encoder = Encoder.random(config, parcellation, preprocessing, seed=2)
    signals = [np.random.default_rng(n).standard_normal((n, 11)) for n in (31, 29, 17)]
    expected = Embedder(encoder, tr=2.0, n_crops=3).fit_transform(signals)
    with device():
        found = Embedder(encoder, tr=2.0, n_crops=3, device="meta").fit_transform(signals)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("n_gpus", "own"), [(4, "cuda:2"), (1, "cuda:0")])
def test_processes_with_gpus_join_by_nccl_each_on_its_own(monkeypatch, n_gpus, own):
    """Slurm may show every task only its own GPU. NCCL is replaced by Gloo."""
    environment = {"RANK": "0", "LOCAL_RANK": "2", "WORLD_SIZE": "2"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    chosen, begun = [], []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    store = torch.distributed.HashStore()
    monkeypatch.setattr(distributed, "rendezvous", lambda _: iter([(store, 0, 1)]))
    begin = torch.distributed.init_process_group
    monkeypatch.setattr(
        torch.distributed,
        "init_process_group",
        lambda backend, **options: (begun.append(backend), begin("gloo", **options)),
    )
    with distributed.process_group("auto"):
        assert distributed.local_device("auto") == own
        distributed.wait_for_all()
    assert (chosen, begun) == ([own], ["nccl"])
    with distributed.process_group("cpu"):
        assert begun == ["nccl", "gloo"]
