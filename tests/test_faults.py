"""What goes wrong while a model trains: bad data, collapse, damaged files, signals; and privacy."""

from __future__ import annotations

import json
import os
import shutil
import signal
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from semantoks.data.store import RecordingStore
from semantoks.errors import CheckpointError, ConfigError, InputError
from semantoks.evaluate.features.embed import Embedder
from semantoks.model.encoder import Encoder
from semantoks.model.pretrained import load_pretrained, newest_checkpoint
from semantoks.objectives.objective import Losses
from semantoks.objectives.terms.monitors import effective_rank
from semantoks.report.page import write_report
from semantoks.train import checkpoint as checkpoints
from semantoks.train.checkpoint import best_checkpoint, check_checkpoints
from semantoks.train.guard import MAX_SKIPPED, CollapseGuard, TrainingWarning
from semantoks.train.logs import RunLogs
from semantoks.train.trainer import Trainer


def weights(trainer):
    return {k: v.clone() for k, v in trainer.objective.state_dict().items()}


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def poisoned(store_path, tmp_path):
    """Return a store in which one person's only recording is not finite any more, and the person.

    As after a fault of the disk: the files still open.
    """
    path = shutil.copytree(store_path, tmp_path / "poisoned")
    store = RecordingStore(path)
    row = store.table[store.table["subject"] == "p07"].iloc[0]
    file = path / f"signals-{row['shard']:05d}.npy"
    signals = np.load(file)
    signals[row["start"] : row["start"] + row["length"], 4] = np.nan
    np.save(file, signals)
    return path, row["id"]


# -- batches that are not finite -------------------------------------------------------------------


def test_a_bad_recording_stops_the_run_and_is_named(tiny_run, tmp_path, poisoned):
    path, bad = poisoned
    trainer = Trainer(tiny_run(data__store=str(path)), tmp_path / "run")
    with pytest.raises(InputError, match="the loss is not finite at step") as caught:
        trainer.fit()
    assert caught.value.value == bad, "this one, and not its batch-mates"
    assert all(bool(torch.isfinite(v).all()) for v in weights(trainer).values())


def test_a_stop_keeps_the_last_good_weights_and_the_run_can_be_resumed(
    tiny_run, tmp_path, poisoned
):
    config = tiny_run(data__store=str(poisoned[0]), train__checkpoint_epochs=9, seed=3)
    skipping = replace(config, train=replace(config.train, on_nan="skip"))
    trainer = Trainer(config, tmp_path / "run")
    with pytest.raises(InputError, match=r"resume with train\.on_nan=skip"):
        trainer.fit()
    assert trainer.step > 0
    assert newest_checkpoint(tmp_path / "run").name == f"step-{trainer.step:08d}"
    again = Trainer(skipping, tmp_path / "run", resume=True)
    assert all(torch.equal(v, weights(again)[k]) for k, v in weights(trainer).items())
    whole = Trainer(skipping, tmp_path / "whole")
    for one in (again, whole):
        with pytest.warns(TrainingWarning):
            one.fit()
    assert all(torch.equal(v, weights(again)[k]) for k, v in weights(whole).items())


def test_weights_that_are_not_finite_are_not_saved(tiny_run, tmp_path):
    trainer = Trainer(tiny_run(), tmp_path / "run")
    with torch.no_grad():
        trainer.objective.student.encoder.norm.weight[0] = torch.inf
    with pytest.raises(InputError, match="the loss is not finite"):
        trainer.fit()
    assert newest_checkpoint(tmp_path / "run") is None


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_bad_recording_can_be_skipped(tiny_run, tmp_path, poisoned, accumulate):
    path, bad = poisoned
    config = tiny_run(
        data__store=str(path), train__on_nan="skip", train__accumulate=accumulate, optim__epochs=4
    )
    trainer = Trainer(config, tmp_path / "run")
    with pytest.warns(TrainingWarning, match=f"the batch was skipped. Look at {bad}") as caught:
        trainer.fit()
    assert trainer.step == trainer.n_steps
    assert all(bool(torch.isfinite(v).all()) for v in weights(trainer).values())
    events = lines(tmp_path / "run" / "events.jsonl")
    assert len(events) == len(caught) == 4, "once per epoch"
    row = list(RecordingStore(path).table["id"]).index(bad)
    assert {tuple(e["rows"]) for e in events} == {(row,)}
    logged = [line["step"] for line in lines(tmp_path / "run" / "metrics.jsonl")]
    skipped = [e["step"] + 1 for e in events]
    assert sorted(logged + skipped) == list(range(1, trainer.n_steps + 1))
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_a_skipped_batch_changes_nothing(tiny_run, tmp_path, poisoned):
    """Weights, teacher and the optimiser's moments are those of the step before."""
    path, _ = poisoned
    config = tiny_run(data__store=str(path), train__on_nan="skip")
    trainer = Trainer(config, tmp_path / "run")
    log = RunLogs(trainer.run, tensorboard=False, reporter=None, write=True)
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        for _ in range(trainer.n_steps):
            before = weights(trainer), json.dumps(str(trainer._optimizer.state_dict()["state"]))
            losses, _norm = trainer._learn(trainer._batch(), log)
            same = all(torch.equal(v, before[0][k]) for k, v in weights(trainer).items())
            moments = json.dumps(str(trainer._optimizer.state_dict()["state"])) == before[1]
            assert same == moments == (losses is None)
            seen.append(same)
            trainer.step += 1
    assert sum(seen) == 3


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(tiny_run, tmp_path, monkeypatch):
    """The loss is finite, its gradient is not: a square root at zero, say."""
    trainer = Trainer(tiny_run(), tmp_path / "run")
    loss = trainer.objective.loss

    def steep(*arguments):
        losses = loss(*arguments)
        fields = vars(losses) | {"total": losses.total + (losses.total * 0).sqrt()}
        return Losses(**fields)

    monkeypatch.setattr(trainer.objective, "loss", steep)
    before = weights(trainer)
    with pytest.raises(InputError, match="the gradient is not finite at step 0"):
        trainer.fit()
    assert all(torch.equal(v, before[k]) for k, v in weights(trainer).items())


def test_skipping_does_not_go_on_for_ever(tiny_run, tmp_path):
    """Every batch is bad: the weights are to blame, not the recordings."""
    trainer = Trainer(tiny_run(train__on_nan="skip", optim__epochs=9), tmp_path / "run")
    with torch.no_grad():
        trainer.objective.student.encoder.norm.weight[0] = torch.inf
    with (
        pytest.warns(TrainingWarning, match="was skipped") as caught,
        pytest.raises(InputError, match=rf"\({MAX_SKIPPED} batches in a row\)"),
    ):
        trainer.fit()
    assert len(caught) == MAX_SKIPPED - 1


def test_a_collapse_is_said_once_with_advice(tmp_path):
    guard = CollapseGuard(4.0)
    log = RunLogs(tmp_path, tensorboard=False, reporter=None, write=True)
    embeddings = torch.zeros(64, 32)
    guard.look(5, 4.1, embeddings, log)
    with pytest.warns(TrainingWarning, match=r"step 6.*effective rank 3.9.*Lower optim.base_lr"):
        guard.look(6, 3.9, embeddings, log)
    guard.look(7, 1.0, embeddings, log)
    assert [e["step"] for e in lines(tmp_path / "events.jsonl")] == [6]
    CollapseGuard(4.0).look(1, 1.1, torch.zeros(5, 32), log)  # 5 rows cannot have a rank of 4
    CollapseGuard(0.0).look(1, 1.0, embeddings, log)


def test_training_says_that_it_collapses(tiny_run, tmp_path):
    """All recordings alike, by a head that maps everything to one point."""
    trainer = Trainer(tiny_run(optim__batch_size=10, optim__base_lr=1e-9), tmp_path / "run")
    with torch.no_grad():
        for role in (trainer.objective.student, trainer.objective.teacher):
            role.encoder.norm.weight.mul_(1e-9)
            role.encoder.norm.weight[0] = 1.0
    with pytest.warns(TrainingWarning, match="the embeddings are collapsing"):
        trainer.fit()


# -- checkpoints -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["optimizer.safetensors", "model.safetensors", "config.json", "rois.tsv"]
)
def test_a_flipped_bit_in_a_checkpoint_is_found(tiny_run, tmp_path, name):
    config = tiny_run(optim__epochs=2)
    folder = Trainer(config, tmp_path / "run").fit()
    assert check_checkpoints(tmp_path / "run") == []
    data = bytearray((folder / name).read_bytes())
    data[-9] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(
        CheckpointError,
        match=rf"{name}: (is missing or damaged|is damaged|cannot be read).*Delete step-0",
    ):
        Trainer(config, tmp_path / "run", resume=True)
    (problem,) = check_checkpoints(tmp_path / "run")
    assert name in problem
    shutil.rmtree(folder)  # the way out that the message names
    trainer = Trainer(config, tmp_path / "run", resume=True)
    assert trainer.step == 3
    trainer.fit()
    assert trainer.step == trainer.n_steps == 6


def test_the_best_checkpoint_stays(tiny_run, tmp_path):
    run = tmp_path / "run"
    trainer = Trainer(tiny_run(), run)
    ranks = {1: 2.0, 2: 3.5, 3: 3.0, 4: 1.0, 5: 3.5, 6: 1.0}
    for step, rank in ranks.items():
        checkpoints.save_checkpoint(
            run,
            step,
            trainer.objective,
            trainer._optimizer,
            keep=1,
            effective_rank=rank,
            keep_best=True,
        )
        names = sorted(int(p.name[-8:]) for p in (run / "checkpoints").iterdir())
        best = max(range(1, step + 1), key=lambda s: (ranks[s], s))
        assert names == sorted({best, step})
        assert best_checkpoint(run).name == f"step-{best:08d}"
    assert newest_checkpoint(run).name == "step-00000006"


def test_checkpoints_are_compared_on_one_whole_batch(tiny_run, tmp_path, monkeypatch):
    """Of other people than those trained on, if some are held out; the encoder says the rest."""
    seen, read = [], Encoder.read

    def recording_read(self, x, *rest):
        seen.append(x)
        return read(self, x, *rest)

    monkeypatch.setattr(Encoder, "read", recording_read)
    trainer = Trainer(tiny_run(data__n_held_out=3, train__precision="float32"), tmp_path / "run")
    folder = trainer.fit()
    fixed = [x for x in seen if len(x) == 3]
    assert len(fixed) == 3, "three checkpoints; the views of a step are more"
    assert all(torch.equal(x, fixed[0]) for x in fixed)
    people = set(trainer._fixed._loader._store.table["subject"])
    trained = set(trainer._loader._store.table["subject"])
    assert len(people) == 3
    assert len(trained) == 7
    assert not people & trained
    assert trainer.objective.encoder().pretraining.n_subjects == 7
    progress = json.loads((folder / "progress.json").read_text())
    encoder = load_pretrained(folder)
    found = effective_rank(encoder.read(fixed[0])[0])
    assert progress["effective_rank_of_fixed_batch"] == pytest.approx(found, rel=1e-6)


def test_a_recording_that_is_not_finite_does_not_count_for_the_best(tiny_run, tmp_path, poisoned):
    config = tiny_run(data__store=str(poisoned[0]))
    fixed = Trainer(config, tmp_path / "run")._fixed
    rank = fixed.effective_rank(Trainer(config, tmp_path / "again").objective.encoder())
    assert 1 <= rank <= 8


@pytest.mark.parametrize(("n_subjects", "n_held_out"), [(None, 9), (5, 6), (9, 2)])
def test_too_many_held_out_are_refused(tiny_run, tmp_path, n_subjects, n_held_out):
    config = tiny_run(data__n_subjects=n_subjects, data__n_held_out=n_held_out)
    with pytest.raises(ConfigError, match="there are only 10 subjects"):
        Trainer(config, tmp_path / "run")
    with pytest.raises(ConfigError, match="must be 0, or at least 2"):
        tiny_run(data__n_held_out=1)


def test_checkpoints_of_before_checksums_can_be_resumed(tiny_run, tmp_path):
    config = tiny_run(optim__epochs=2)
    folder = Trainer(config, tmp_path / "run").fit()
    (folder / "progress.json").write_text('{"step": 6}')
    assert Trainer(config, tmp_path / "run", resume=True).step == 6


# -- signals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_scheduler_s_signals_save_and_end(tiny_run, tmp_path, number):
    """As often as the scheduler sends them; only a second Ctrl-C stops at once."""

    def reporter(values):
        if values["step"] == 4:
            for _ in range(3):
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    trainer = Trainer(tiny_run(), tmp_path / "run", reporter=reporter)
    assert trainer.fit().name == "step-00000004"
    assert signal.getsignal(number) is before
    assert Trainer(tiny_run(), tmp_path / "run", resume=True).step == 4


def test_a_second_ctrl_c_stops_at_once(tiny_run, tmp_path):
    def reporter(values):
        if values["step"] == 4:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Trainer(tiny_run(), tmp_path / "run", reporter=reporter).fit()
    assert newest_checkpoint(tmp_path / "run").name == "step-00000003"


def test_a_start_that_was_killed_can_be_started_again(tiny_run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".partial-1234abcd-config.yaml").write_text("seed: ")
    Trainer(tiny_run(optim__epochs=2), tmp_path / "run").fit()


# -- privacy ---------------------------------------------------------------------------------------


def test_no_subject_is_named_in_a_run_or_a_report(tiny_run, tmp_path, poisoned, store_path):
    path, bad = poisoned
    config = tiny_run(data__store=str(path), train__on_nan="skip", optim__epochs=2)
    run = tmp_path / "run"
    with pytest.warns(TrainingWarning):
        Trainer(config, run).fit()
    with pytest.raises(InputError, match=f"{bad}: signal: holds values that are not finite"):
        Embedder(run).fit_transform(RecordingStore(path))
    # The report says why there is no map of the damaged store, but not whose recording it is.
    write_report(tmp_path / "report.html", runs=[run], results=[], stores=[path, store_path])
    assert "holds values that are not finite" in (tmp_path / "report.html").read_text()
    table = RecordingStore(path).table
    words = {f"sub-{s}" for s in table["subject"]} | {f"'{s}'" for s in table["subject"]}
    words |= {f'"{s}"' for s in table["subject"]} | set(table["id"])
    files = [p for p in [*run.rglob("*"), tmp_path / "report.html"] if p.is_file()]
    assert {"events.jsonl", "metrics.jsonl", "model.safetensors"} <= {p.name for p in files}
    for file in files:
        data = file.read_bytes()
        assert not [w for w in words if w.encode() in data], file
