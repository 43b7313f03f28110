"""Batch scripts: what they ask for, and that they stop and requeue, in a Slurm of shell."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from semantoks.cli import app
from semantoks.errors import InputError
from semantoks.workflow.slurm import SlurmError, SlurmJob, batch_script, submit


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Path:
    """Put sbatch, srun and scontrol of our own first on the path; they write down what they do."""
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {
        "sbatch": f'cat > {tmp_path}/submitted; echo "4711;cluster"',
        "srun": '[ "$1" = --cpus-per-task=8 ] || exit 99; shift; exec "$@"',
        "scontrol": f'echo "$@" >> {tmp_path}/scontrol; echo node1',
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path


def options(script: str) -> dict[str, str]:
    lines = [line.removeprefix("#SBATCH --") for line in script.splitlines() if "#SBATCH" in line]
    return dict(line.partition("=")[::2] for line in lines)


def test_a_script_asks_for_what_was_asked():
    job = SlurmJob(
        time="8:00:00", nodes=2, gpus=4, cpus=7, memory="64G", partition="gpu", account="lab"
    )
    script = batch_script(["pretrain", "runs/with space", "optim.epochs=3"], job)
    assert options(script) == {
        "job-name": "semantoks-pretrain",
        "output": "%x-%j.log",
        "open-mode": "append",
        "time": "8:00:00",
        "nodes": "2",
        "ntasks-per-node": "1",
        "cpus-per-task": "7",
        "gpus-per-node": "4",
        "mem": "64G",
        "partition": "gpu",
        "account": "lab",
        "signal": "B:USR1@300",
        "requeue": "",
    }
    (start,) = (line for line in script.splitlines() if line.startswith("srun "))
    words = shlex.split(start.removesuffix(" &"))
    assert words[1:5] == ["--cpus-per-task=7", sys.executable, "-m", "torch.distributed.run"]
    assert words[5:9] == ["--nnodes", "2", "--nproc-per-node", "4"]
    assert words[-6:] == [
        *("-m", "semantoks", "pretrain", "runs/with space", "optim.epochs=3", "--auto-resume")
    ]


def test_one_gpu_needs_no_launcher_and_prepare_is_divided():
    script = batch_script(["pretrain", "runs/a"], SlurmJob(gpus=1))
    assert "torch.distributed" not in script
    for command in (["prepare", "table.tsv", "stores/a"], ["embed", "runs/a", "stores/a", "a.tsv"]):
        script = batch_script(command, SlurmJob(shards=9))
        assert options(script)["array"] == "1-9"
        assert f'{" ".join(command)} --shard "$SLURM_ARRAY_TASK_ID/9" &' in script
        assert "--auto-resume" not in script


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        (["rm", "-rf"], {}, "must be one of pretrain, prepare, embed"),
        ([], {}, "must be one of pretrain"),
        (["pretrain", "a"], {"shards": 2}, "only prepare and embed can be divided"),
        (["embed", "a"], {"nodes": 2}, "only pretrain runs on several"),
        (["embed", "a"], {"cpus": 0}, "cpus = 0: must be at least 1"),
        (["embed", "a"], {"gpus": -1}, "gpus = -1: must not be negative"),
        (["embed", "a"], {"account": "a\n#SBATCH --uid=0"}, "characters that Slurm does not know"),
    ],
)
def test_what_cannot_be_a_job_is_refused(arguments, changes, message):
    with pytest.raises(InputError, match=message):
        batch_script(arguments, SlurmJob(**changes))


def test_submitting(cluster):
    done = CliRunner().invoke(
        app, ["slurm", "--gpus", "2", "--time", "1:00:00", "pretrain", "runs/a", "--preset", "tiny"]
    )
    assert done.exit_code == 0, done.output
    assert done.output == "Submitted job 4711\n"
    script = (cluster / "submitted").read_text()
    assert "pretrain runs/a --preset tiny --auto-resume" in script
    array = ["slurm", "--shards", "3", "embed", "runs/a", "stores/a", "a.tsv"]
    divided = CliRunner().invoke(app, array)
    assert divided.output.endswith("When all 3 are done: semantoks embed runs/a stores/a a.tsv\n")
    printed = CliRunner().invoke(
        app, ["slurm", "--print", "--gpus", "2", "--time", "1:00:00", "pretrain", "runs/a"]
    )
    assert printed.output.startswith("#!/bin/bash\n#SBATCH --job-name=semantoks-pretrain")


def test_without_slurm_it_says_so(tmp_path, monkeypatch, cluster):
    (cluster / "bin" / "sbatch").write_text("#!/bin/bash\necho 'invalid account' >&2; exit 1\n")
    with pytest.raises(SlurmError, match="sbatch refuses the job: invalid account"):
        submit("#!/bin/bash\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError, match=r"no sbatch on this machine.*--print"):
        submit("#!/bin/bash\n")


STUB = """
import signal, sys, time, pathlib
log = pathlib.Path(sys.argv[0]).with_name("log")
def stop(*_):
    time.sleep(0.3)
    log.write_text(log.read_text() + "saved ")
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
log.write_text("started ")
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    time.sleep(0.02)
log.write_text(log.read_text() + "done ")
sys.exit(int(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("seconds", "own_code", "warned", "log", "code", "requeued"),
    [
        (60, 0, True, "started saved ", 130, True),
        (0, 0, False, "started done ", 0, False),
        (0, 3, False, "started done ", 3, False),
    ],
)
def test_a_script_saves_requeues_and_hands_on_the_exit_code(
    cluster, seconds, own_code, warned, log, code, requeued
):
    """The real script, with a command in the place of python -m semantoks that needs a while."""
    script = batch_script(["pretrain", "runs/a"], SlurmJob())
    stub = cluster / "stub.py"
    stub.write_text(STUB)
    real = f"{shlex.quote(sys.executable)} -m semantoks pretrain runs/a --auto-resume"
    assert real in script
    script = script.replace(real, f"{sys.executable} {stub} {seconds} {own_code}")
    (cluster / "job").write_text(script)
    running = subprocess.Popen(
        ["bash", str(cluster / "job")], env=os.environ | {"SLURM_JOB_ID": "4711"}
    )
    if warned:
        while not (cluster / "log").exists() or not (cluster / "log").read_text():
            time.sleep(0.02)
        running.send_signal(signal.SIGUSR1)
    assert running.wait(timeout=30) == code
    assert (cluster / "log").read_text() == log
    asked = (cluster / "scontrol").read_text() if (cluster / "scontrol").exists() else ""
    assert ("requeue 4711" in asked) is requeued
