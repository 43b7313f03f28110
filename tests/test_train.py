from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from itertools import pairwise

import numpy as np
import pytest
import torch

from semantoks.errors import CheckpointError, ConfigError, InputError
from semantoks.model.pretrained import load_pretrained
from semantoks.objectives import schedules
from semantoks.objectives.schedules import OptimConfig
from semantoks.train import checkpoint as checkpoints
from semantoks.train import setup
from semantoks.train.trainer import Trainer


def state(trainer):
    tensors = dict(trainer.objective.state_dict())
    for i, entries in trainer._optimizer.state_dict()["state"].items():
        tensors |= {f"{i}.{name}": value for name, value in entries.items()}
    return tensors


def metrics(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    timing = {"seconds", "seconds_left", "recordings_per_s"}
    return [{k: v for k, v in json.loads(line).items() if k not in timing} for line in lines]


def stop_after(n):
    def reporter(values):
        if values["step"] == n:
            os.kill(os.getpid(), signal.SIGINT)

    return reporter


def assert_equal_states(one, two):
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name


# -- schedules -------------------------------------------------------------------------------------


def test_learning_rate_warms_up_then_falls_to_zero():
    config = OptimConfig(epochs=10, warmup_epochs=2, batch_size=512, base_lr=7e-4)
    rates = [schedules.learning_rate(step, 7, config, batch_size=512) for step in range(70)]
    assert max(rates) == pytest.approx(14e-4, rel=0.01)
    assert np.argmax(rates) == 14
    assert 0 == rates[0] < rates[1] < rates[13] < rates[14]
    assert all(a > b for a, b in pairwise(rates[14:]))
    assert schedules.learning_rate(70, 7, config, batch_size=512) == pytest.approx(0, abs=1e-12)


def test_other_schedules_have_the_paper_s_ends():
    config = OptimConfig()
    assert schedules.weight_decay(0, 99, config) == pytest.approx(0.05)
    assert schedules.weight_decay(99, 99, config) == pytest.approx(0.3)
    assert schedules.teacher_momentum(7, 100, config) == pytest.approx(0.9901204161903062)
    assert schedules.teacher_momentum(100, 100, config) == pytest.approx(1.0)
    weights = [schedules.network_weight(e, 0.5, "cosine", 5) for e in (0, 2.5, 5, 80)]
    assert weights == pytest.approx([0.5, 0.25, 0, 0])
    assert schedules.network_weight(1, 0.5, "linear", 5) == pytest.approx(0.4)
    assert schedules.network_weight(80, 0.5, "never", 5) == 0.5


@pytest.mark.parametrize(("at_most", "real"), [(512, 10), (4, 10 / 3), (5, 5)])
def test_the_learning_rate_follows_the_batches_that_there_are(tiny_run, tmp_path, at_most, real):
    config = tiny_run(
        optim__batch_size=at_most, optim__base_lr=0.0512, optim__epochs=2, optim__warmup_epochs=0
    )
    Trainer(config, tmp_path / "run").fit()
    first = metrics(tmp_path / "run")[0]["lr"]
    assert first == pytest.approx(0.0512 * real / 256)


# -- a run -----------------------------------------------------------------------------------------


def test_training_learns_and_writes_what_it_did(tiny_run, tmp_path, store):
    config = tiny_run(optim__epochs=12)
    trainer = Trainer(config, tmp_path / "run")
    before = {k: v.clone() for k, v in trainer.objective.state_dict().items()}
    folder = trainer.fit()
    lines = metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 37))
    assert all(np.isfinite(v) for line in lines for v in line.values())
    assert np.mean([x["loss_cls"] for x in lines[-6:]]) < np.mean(
        [x["loss_cls"] for x in lines[:6]]
    )
    assert lines[-1]["loss_network"] == 0, "TTR is over"
    assert lines[0]["loss_network"] != 0
    assert {x["loss_mask"] == 0 for x in lines} == {True, False}, "some steps have masks"
    assert 1 <= lines[-1]["effective_rank"] <= 4
    after = trainer.objective.state_dict()
    for name, old in before.items():
        learned = not name.endswith(("multiplier", "kernel_norm"))
        assert torch.equal(old, after[name]) != learned, name

    assert folder == tmp_path / "run" / "checkpoints" / "step-00000036"
    kept = sorted(path.name for path in folder.parent.iterdir())
    best = checkpoints.best_checkpoint(tmp_path / "run")
    assert kept == sorted({best.name, "step-00000033", "step-00000036"}), "newest two and best"
    encoder = load_pretrained(tmp_path / "run")
    assert_equal_states(
        dict(encoder.state_dict()), dict(trainer.objective.teacher.encoder.state_dict())
    )
    assert encoder.pretraining.n_subjects == 10
    assert encoder.pretraining.sites == ("east", "north", "west")
    assert encoder.pretraining.stores[0].fingerprint == store.fingerprint
    assert "p00" not in json.dumps(encoder.pretraining.to_json()), "subjects are hashed"
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["versions"]["torch"] == str(torch.__version__)


def test_same_seed_same_numbers(tiny_run, tmp_path):
    runs = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        trainer = Trainer(tiny_run(seed=seed), tmp_path / name)
        torch.manual_seed(len(runs))  # the global generator must not matter
        trainer.fit()
        runs.append(state(trainer))
    assert_equal_states(runs[0], runs[1])
    assert not torch.equal(
        runs[0]["student.encoder.cls_token"], runs[2]["student.encoder.cls_token"]
    )
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")


@pytest.mark.parametrize("stop", [1, 4, 6])
def test_resume_equals_uninterrupted_after_ctrl_c(tiny_run, tmp_path, stop):
    config = tiny_run()
    whole = Trainer(config, tmp_path / "whole")
    whole.fit()

    first = Trainer(config, tmp_path / "parts", reporter=stop_after(stop))
    folder = first.fit()
    assert first.step == stop < first.n_steps
    assert folder.name == f"step-{stop:08d}"
    assert load_pretrained(folder).config == config.encoder, "a stopped run is usable"

    second = Trainer(config, tmp_path / "parts", resume=True)
    assert second.step == stop
    second.fit()
    assert_equal_states(state(whole), state(second))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")
    third = Trainer(config, tmp_path / "parts", resume=True)
    third.fit()  # nothing left to do
    assert_equal_states(state(whole), state(third))


def test_resume_after_a_crash_repeats_the_steps_since_the_checkpoint(tiny_run, tmp_path):
    config = tiny_run()
    whole = Trainer(config, tmp_path / "whole")
    whole.fit()

    def crash(values):
        if values["step"] == 5:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        Trainer(config, tmp_path / "parts", reporter=crash).fit()
    second = Trainer(config, tmp_path / "parts", resume=True)
    assert second.step == 3, "one checkpoint per epoch of 3 steps"
    second.fit()
    assert_equal_states(state(whole), state(second))
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")


def test_resume_is_exact_with_stochastic_depth_and_leaves_the_global_generator(tiny_run, tmp_path):
    config = tiny_run(encoder__drop_path=0.3)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    whole = Trainer(config, tmp_path / "whole")
    whole.fit()
    assert torch.equal(torch.rand(3), expected)
    Trainer(config, tmp_path / "parts", reporter=stop_after(4)).fit()
    second = Trainer(config, tmp_path / "parts", resume=True)
    second.fit()
    assert_equal_states(state(whole), state(second))


KILLED = """
import os, signal, sys
from semantoks.train.run import RunConfig
from semantoks.train.trainer import Trainer

def reporter(values):
    if values["step"] == 6:
        os.kill(os.getpid(), signal.SIGKILL)

Trainer(RunConfig.load(sys.argv[1]), sys.argv[2], reporter=reporter).fit()
"""


def test_resume_equals_uninterrupted_after_kill_9_between_epochs(tiny_run, tmp_path):
    """The last checkpoint is one by time, in the middle of an epoch."""
    config = tiny_run(train__checkpoint_epochs=9, train__checkpoint_minutes=1e-9)
    whole = Trainer(config, tmp_path / "whole")
    whole.fit()
    file, run = tmp_path / "run.yaml", tmp_path / "parts"
    file.write_text(config.to_yaml())
    killed = subprocess.run([sys.executable, "-c", KILLED, str(file), str(run)], check=False)
    assert killed.returncode == -signal.SIGKILL
    second = Trainer(config, run, resume=True)
    assert second.step == 5
    assert second.step % second._loader.steps_per_epoch
    second.fit()
    assert_equal_states(state(whole), state(second))
    assert metrics(tmp_path / "whole") == metrics(run)


def test_checkpoints_come_by_the_clock_as_well(tiny_run, tmp_path, monkeypatch):
    """Three minutes a step: no more than ten minutes are ever unsaved."""
    config = tiny_run(train__checkpoint_epochs=9, train__keep_checkpoints=9)
    trainer = Trainer(config, tmp_path / "run")
    monkeypatch.setattr("semantoks.train.trainer.time.monotonic", lambda: 180.0 * trainer.step)
    trainer._saved_at = 0.0
    trainer.fit()
    kept = sorted(int(p.name[-8:]) for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == [3, 6, 9]


def test_training_runs_outside_the_main_thread(tiny_run, tmp_path):
    trainer = Trainer(tiny_run(optim__epochs=2), tmp_path / "run")
    thread = threading.Thread(target=trainer.fit)
    thread.start()
    thread.join()
    assert trainer.step == trainer.n_steps


def test_excluded_sites_are_never_seen(tiny_run, tmp_path, store):
    trainer = Trainer(tiny_run(data__exclude_sites=["north"]), tmp_path / "run")
    trainer.fit()
    seen = load_pretrained(tmp_path / "run").pretraining
    assert seen.sites == ("east", "west")
    assert seen.n_recordings == (store.table["site"] != "north").sum()


def test_bfloat16_and_tensorboard(tiny_run, tmp_path):
    pytest.importorskip("tensorboard")
    trainer = Trainer(
        tiny_run(train__precision="bfloat16", train__tensorboard=True, optim__epochs=2),
        tmp_path / "run",
    )
    trainer.fit()
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    assert all(p.dtype == torch.float32 for p in trainer.objective.parameters())


@pytest.mark.parametrize(("fast", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_arithmetic_is_what_the_processor_is_fast_at(
    tiny_run, tmp_path, monkeypatch, fast, precision
):
    monkeypatch.setattr(setup, "_bfloat16_pays", lambda: fast)
    runs = [
        Trainer(tiny_run(train__precision=name, optim__epochs=2), tmp_path / name)
        for name in ("auto", precision)
    ]
    for trainer in runs:
        trainer.fit()
        environment = json.loads((trainer.run / "environment.json").read_text())
        assert environment["precision"] == precision
    assert_equal_states(*map(state, runs))


@pytest.mark.parametrize(("plain", "low", "pays"), [(2.0, 1.0, True), (2.0, 1.8, False)])
def test_bfloat16_is_measured(monkeypatch, plain, low, pays):
    taken = {torch.float32: plain, torch.bfloat16: low}

    def repeat(run, *, number, repeat):
        return [number * taken[run().dtype]] * repeat

    monkeypatch.setattr(setup, "repeat", repeat)
    assert setup._bfloat16_pays.__wrapped__() is pays


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiles with g++")
@pytest.mark.filterwarnings("ignore")  # those of the compiler itself
def test_compiled_blocks_learn_the_same_and_a_checkpoint_keeps_its_names(tiny_run, tmp_path):
    pytest.importorskip("torch.utils.cpp_extension")  # torch 2.6 without setuptools
    from torch._dynamo.utils import counters

    settings = {"train__precision": "float64", "optim__epochs": 2}
    eager = Trainer(tiny_run(**settings), tmp_path / "eager")
    compiled = Trainer(tiny_run(train__compile=True, **settings), tmp_path / "compiled")
    before = counters["stats"]["unique_graphs"]
    for trainer in (eager, compiled):
        assert counters["stats"]["unique_graphs"] == before
        trainer.fit()
    assert counters["stats"]["unique_graphs"] > before
    found, expected = (trainer.objective.state_dict() for trainer in (compiled, eager))
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(found[name], values, rtol=1e-6, atol=1e-9)
    load_pretrained(tmp_path / "compiled")


# -- what can go wrong -----------------------------------------------------------------------------


def test_to_compile_without_a_compiler_is_refused(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(ConfigError, match=r"train.compile = True: needs a C\+\+ compiler"):
        Trainer(tiny_run(train__compile=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_refused(tiny_run, tmp_path):
    Trainer(tiny_run(optim__epochs=2), tmp_path / "run").fit()
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    with pytest.raises(ConfigError, match=r"run: already holds a run. Resume it with --resume"):
        Trainer(tiny_run(optim__epochs=2), tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="exists already and is not overwritten"):
        Trainer(tiny_run(optim__epochs=2), tmp_path / "other")
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}


def test_resume_with_another_configuration_is_refused(tiny_run, tmp_path):
    with pytest.raises(ConfigError, match="holds no run to resume"):
        Trainer(tiny_run(), tmp_path / "run", resume=True)
    Trainer(tiny_run(optim__epochs=2), tmp_path / "run").fit()
    with pytest.raises(ConfigError, match=r"'optim': {'epochs': 5}.*differs from the run"):
        Trainer(tiny_run(optim__epochs=5), tmp_path / "run", resume=True)
    # How a run is carried out may change.
    Trainer(tiny_run(optim__epochs=2, train__log_every=7), tmp_path / "run", resume=True)


def test_a_site_that_is_not_there_is_refused(tiny_run, tmp_path):
    with pytest.raises(ConfigError, match=r"'nort': is no site of .*Did you mean 'north'"):
        Trainer(tiny_run(data__exclude_sites=["nort"]), tmp_path / "run")
    with pytest.raises(ConfigError, match="names no recording store"):
        Trainer(tiny_run(data__store=""), tmp_path / "run")
    with pytest.raises(ConfigError, match="is no device of this machine"):
        Trainer(tiny_run(train__device="cuda:x"), tmp_path / "run")
    for name in ("mps", "mps:0", "meta", "gpu7"):
        with pytest.raises(ConfigError, match=f"device = '{name}': must be auto, cpu or cuda"):
            Trainer(tiny_run(train__device=name), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_full_disk_leaves_the_earlier_checkpoint(tiny_run, tmp_path, monkeypatch):
    save = checkpoints.save_file

    def full(tensors, file):
        if "step-00000006" in str(file) and file.name == checkpoints.OPTIMIZER:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(tensors, file)

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*unharmed"):
        Trainer(tiny_run(), tmp_path / "run").fit()
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000003"]
    monkeypatch.undo()
    trainer = Trainer(tiny_run(), tmp_path / "run", resume=True)
    trainer.fit()
    assert trainer.step == 9


def test_a_loss_that_is_not_finite_stops_before_the_weights(tiny_run, tmp_path):
    trainer = Trainer(tiny_run(), tmp_path / "run")
    with torch.no_grad():
        trainer.objective.student.encoder.norm.weight[0] = torch.inf
    before = {k: v.clone() for k, v in trainer.objective.state_dict().items()}
    with pytest.raises(InputError, match=r"sub-p0.*the loss is not finite at step 0") as caught:
        trainer.fit()
    assert "ses-" in str(caught.value)
    assert_equal_states(before, dict(trainer.objective.state_dict()))


def test_a_damaged_checkpoint_is_named(tiny_run, tmp_path):
    folder = Trainer(tiny_run(optim__epochs=2), tmp_path / "run").fit()
    optimizer = folder / checkpoints.OPTIMIZER
    optimizer.write_bytes(optimizer.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=r"optimizer.safetensors: is missing or damaged"):
        Trainer(tiny_run(optim__epochs=2), tmp_path / "run", resume=True)
