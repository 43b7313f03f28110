"""Several processes train as one: loss, gradients, weights, the order of recordings, resuming."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from semantoks.atlas.channels import TokenRows
from semantoks.data.store import write_store
from semantoks.errors import CheckpointError, InputError
from semantoks.model.pretrained import newest_checkpoint
from semantoks.objectives.terms.coding_rate import coding_rate, coding_rate_weight
from semantoks.train.gradient import joined
from semantoks.train.trainer import Trainer
from semantoks.views.loader import ViewLoader

WORKER = Path(__file__).with_name("distributed_worker.py")


def spawn(n: int, *arguments: str) -> None:
    """Run the worker in n processes, as torchrun would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(n):
        environment = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(n),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
        processes.append(
            subprocess.Popen(
                [sys.executable, str(WORKER), *arguments],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    out = [process.communicate(timeout=300)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * n, "\n".join(out)


@pytest.fixture(scope="module")
def data(tmp_path_factory, recordings, parcellation, preprocessing) -> Path:
    """Return a store in which one person's recording is shorter than a view.

    On steps without masks only that recording needs the mask vector: one process has a gradient
    that the other has not.
    """
    path = tmp_path_factory.mktemp("data") / "store"
    short = recordings[5]
    cut = [replace(short, signal=short.signal[:20]) if r is short else r for r in recordings]
    write_store(path, cut, parcellation, preprocessing, min_times=18)
    return path


@pytest.fixture(scope="module")
def wide(tiny_run, data):
    """Return a maker of float64 runs; batches of 4 and 3 recordings: shares are unequal."""

    def make(**changes):
        base = {"train__precision": "float64", "optim__epochs": 2, "data__store": str(data)}
        return tiny_run(**(base | changes))

    return make


def weights(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    folder = newest_checkpoint(run)
    return load_file(folder / "model.safetensors") | load_file(folder / "optimizer.safetensors")


def assert_close(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        scale = max(float(tensor.abs().max()), 1e-3)
        assert float((tensor - two[name]).abs().max()) <= 1e-9 * scale, name


def lines(run: Path) -> list[dict[str, float]]:
    out = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in out:
        for name in ("seconds", "seconds_left", "recordings_per_s"):
            line.pop(name)
    return out


@pytest.fixture(scope="module")
def runs(wide, tmp_path_factory) -> Path:
    """Return the folder of runs of one process and of two: whole, in parts, and stopped."""
    folder = tmp_path_factory.mktemp("runs")
    Trainer(wide(), folder / "alone").fit()
    jobs = []
    for name, config, stop in (
        ("two", wide(), 0),
        ("parts", wide(train__accumulate=2), 0),
        ("stopped", wide(), 2),
    ):
        (folder / f"{name}.yaml").write_text(config.to_yaml(), encoding="utf-8")
        jobs += [f"{folder / name}.yaml", str(folder / name), str(stop)]
    spawn(2, "train", *jobs)
    return folder


@pytest.mark.parametrize("name", ["two", "parts"])
def test_two_processes_are_one(runs, name):
    assert_close(weights(runs / "alone"), weights(runs / name))
    for one, two in zip(lines(runs / "alone"), lines(runs / name), strict=True):
        assert two == pytest.approx(one, rel=1e-9)
    assert {line["loss_mask"] == 0 for line in lines(runs / name)} == {True, False}
    assert {line["loss_network"] == 0 for line in lines(runs / name)} == {True, False}
    assert json.loads((runs / name / "environment.json").read_text())["processes"] == 2


@pytest.mark.parametrize("n_parts", [2, 3])
def test_parts_of_batches_are_the_whole(wide, tmp_path, runs, n_parts):
    Trainer(wide(train__accumulate=n_parts), tmp_path / "run").fit()
    assert_close(weights(runs / "alone"), weights(tmp_path / "run"))
    for one, two in zip(lines(runs / "alone"), lines(tmp_path / "run"), strict=True):
        assert two == pytest.approx(one, rel=1e-9)


def test_parts_repeat_their_random_numbers(wide, tmp_path):
    """Gradient caching goes forward twice: with stochastic depth both have to drop the same."""
    config = wide(encoder__drop_path=0.5, train__accumulate=2)
    trainer = Trainer(config, tmp_path / "run")
    batch, method = trainer._batch(), trainer.objective.train()
    plan = method.plan_with(batch, 0.5)
    losses, backward = trainer._gradient.losses(batch, plan, trainer._context)
    backward()
    cached = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    method.zero_grad()
    parts, outputs, targets = batch.split(2), [], []
    for i, part in enumerate(parts):
        with trainer._context(i):
            outputs.append(method.learner(*method.inputs(part, plan)))
            targets.append(method.targets(part, plan))
    axes = method.batch_axes
    plain = method.loss(joined(outputs, axes), joined(targets, axes), plan)
    plain.total.backward()
    torch.testing.assert_close(losses.total, plain.total, rtol=1e-12, atol=0)
    for name, p in method.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(cached[name], p.grad, rtol=1e-9, atol=1e-12)


def test_a_run_goes_on_with_another_number_of_processes(runs, wide):
    """One process of two was sent SIGUSR1 after step 2; both stopped there, one went on alone."""
    run = runs / "stopped"
    assert newest_checkpoint(run).name == "step-00000002"
    trainer = Trainer(wide(), run, resume=True)
    assert trainer.step == 2
    trainer.fit()
    assert_close(weights(runs / "alone"), weights(run))
    assert [line["step"] for line in lines(run)] == list(range(1, trainer.n_steps + 1))


def test_the_coding_rate_per_process_is_the_papers_formula(tmp_path):
    """Loss and gradient of two processes against the equation, written out here."""
    out = tmp_path / "terms.pt"
    spawn(2, "terms", str(out))
    found = torch.load(out, weights_only=True)
    student, teacher = found["student"].requires_grad_(), found["teacher"]
    _, m, d = student.shape
    part = m // 2
    agreement = (teacher * student.flip(0)).sum(-1).mean()
    rates = [
        coding_rate((student[v, rows] + teacher[v, rows]) / 2, n_processes=2)
        for v in range(2)
        for rows in (slice(0, part), slice(part, None))
    ]
    loss = -agreement - coding_rate_weight(part, d, n_processes=2) * torch.stack(rates).mean()
    loss.backward()
    torch.testing.assert_close(found["process"], loss.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(found["process_gradient"], student.grad, rtol=1e-10, atol=1e-14)


def test_every_subject_comes_once_per_epoch_whatever_the_number_of_processes(tiny_run, store):
    def loader(process, n):
        config = tiny_run()
        return ViewLoader(
            store,
            TokenRows.of(store.parcellation, ("a", "b"), [range(3), range(3, 11)]),
            patch_length=6,
            n_patches=4,
            batch_size=5,
            crops=config.views.crops,
            augmentation=config.views.augment,
            masks=config.views.masks,
            seed=2,
            device=torch.device("cpu"),
            process=process,
            n_processes=n,
        )

    whole = loader(0, 1)
    for n in (2, 3, 5):
        for epoch in range(3):
            seen = []
            for step in range(epoch * whole.steps_per_epoch, (epoch + 1) * whole.steps_per_epoch):
                batch = whole.batch(step)
                parts = [loader(i, n) for i in range(n)]
                for name in ("views", "masks"):
                    tensors = [getattr(part.batch(step), name) for part in parts]
                    if getattr(batch, name) is None:
                        assert tensors == [None] * n
                    else:
                        assert torch.equal(torch.cat(tensors, dim=1), getattr(batch, name))
                rows = whole.recordings(step)
                seen += [store.table["subject"][rows[part.part(len(rows))]] for part in parts]
            assert sorted(np.concatenate(seen)) == sorted(store.table["subject"].unique())
    with pytest.raises(InputError, match=r"6 processes needs a recording.*fewer processes"):
        loader(0, 6)


def test_processes_that_see_different_checkpoints_are_refused(tiny_run, tmp_path, monkeypatch):
    from semantoks.train import distributed

    monkeypatch.setattr(distributed, "gather_rows", lambda _: torch.tensor([3, 6]))
    with pytest.raises(CheckpointError, match=r"steps = \[3, 6\].*file system that all machines"):
        Trainer(tiny_run(), tmp_path / "run")
