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
from click.testing import CliRunner

from semantoks.commands.main import app
from semantoks.errors import InputError
from semantoks.workflow.slurm import SlurmError, SlurmJob, batch_script, submit

# Slurm's own semantics (man srun): USR1 is forwarded to the tasks, SIGTERM kills them at once.
SRUN = """
[ "$1" = --cpus-per-task=8 ] || exit 99
while [[ "$1" == --* ]]; do shift; done
"$@" & task=$!
trap 'kill -USR1 "$task"' USR1
trap 'kill -KILL "$task"' TERM
wait "$task"; code=$?
while kill -0 "$task" 2>/dev/null; do wait "$task"; code=$?; done
exit "$code"
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Path:
    """Put sbatch, srun and scontrol of our own first on the path; they write down what they do."""
    folder = tmp_path / "bin"
    folder.mkdir()
    programs = {
        "sbatch": f'cat > {tmp_path}/submitted; echo "4711;cluster"',
        "srun": SRUN,
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
        time="8:00:00", nodes=2, gpus=4, cpus=11, memory="64G", partition="gpu", account="lab"
    )
    script = batch_script(["pretrain", "runs/with space", "optim.epochs=3"], job)
    assert options(script) == {
        "job-name": "semantoks-pretrain",
        "output": "%x-%j.log",
        "open-mode": "append",
        "time": "8:00:00",
        "nodes": "2",
        "ntasks-per-node": "4",
        "cpus-per-task": "2",
        "gpus-per-node": "4",
        "mem": "64G",
        "partition": "gpu",
        "account": "lab",
        "signal": "B:USR1@300",
        "requeue": "",
    }
    (start,) = (line for line in script.splitlines() if line.startswith("srun "))
    words = shlex.split(start.removesuffix(" &"))
    assert words[1:5] == ["--cpus-per-task=2", "--wait=300", "bash", "-c"]
    assert "RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS" in words[5]
    assert words[6:] == [
        *("task", sys.executable, "-m", "semantoks", "pretrain", "runs/with space"),
        *("optim.epochs=3", "--auto-resume"),
    ]
    assert "export MASTER_PORT" in script


def test_one_gpu_needs_no_launcher_and_prepare_is_divided():
    script = batch_script(["pretrain", "runs/a"], SlurmJob(gpus=1))
    assert "MASTER_PORT" not in script
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
        (["embed", "a"], {"gpus": 9}, r"cpus = 8: must be at least one per task \(9\)"),
        (["embed", "a"], {"time": "4:59"}, r"warning = 300: must be shorter than the time limit"),
        (["embed", "a"], {"time": "soon"}, "time = 'soon': must be minutes"),
        (["pretrain", "--preset", "tiny", "a"], {}, "RUN = '--preset': must come right after"),
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


def test_without_slurm_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SlurmError, match=r"no sbatch on this machine\. Submit on.*--print"):
        submit("#!/bin/bash\n")


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            "sbatch: error: invalid partition specified: nosuch\n"
            "sbatch: error: Batch job submission failed: Invalid partition name specified",
            r"^--partition = 'nosuch': Slurm refuses the job \(invalid partition specified.*; "
            r"Batch.*\)\. `sinfo --summarize` lists the partitions\.$",
        ),
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition "
            "combination specified",
            r"^--account = 'lab': .*Invalid account.*sacctmgr",
        ),
        (
            "sbatch: error: Batch job submission failed: Requested node configuration is not "
            "available",
            r"^Slurm refuses the job \(.*is not available\)\. .*--test-only",
        ),
    ],
)
def test_what_slurm_refuses_is_named(cluster, reply, message):
    (cluster / "bin" / "sbatch").write_text(f"#!/bin/bash\necho '{reply}' >&2; exit 1\n")
    script = batch_script(["embed", "a"], SlurmJob(partition="nosuch", account="lab"))
    with pytest.raises(SlurmError, match=message):
        submit(script)
    done = CliRunner().invoke(app, ["slurm", "--partition", "nosuch", "embed", "a"])
    assert done.exit_code == 1


def test_a_folder_that_cannot_hold_the_log_is_refused(cluster, monkeypatch):
    monkeypatch.chdir("/proc")  # nor may root write there
    with pytest.raises(InputError, match=r"^/proc: the job must be able to write its log here"):
        submit("#!/bin/bash\n")
    assert not (cluster / "submitted").exists()


STUB = """
import signal, sys, time, pathlib
log = pathlib.Path(sys.argv[0]).with_name("log")
checkpoints = pathlib.Path(sys.argv[3])
def stop(*_):
    time.sleep(0.3)
    log.write_text(log.read_text() + "saved ")
    if len(sys.argv) > 4:
        (checkpoints / sys.argv[4]).mkdir(parents=True)
    sys.exit(130)
signal.signal(signal.SIGUSR1, stop)
log.write_text("started ")
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    time.sleep(0.02)
log.write_text(log.read_text() + "done ")
sys.exit(int(sys.argv[2]))
"""


def start(cluster: Path, *arguments: object) -> subprocess.Popen[bytes]:
    """Start the real script with `STUB` in the place of ``python -m semantoks``."""
    script = batch_script(["pretrain", "runs/a"], SlurmJob())
    stub = cluster / "stub.py"
    stub.write_text(STUB)
    real = f"{shlex.quote(sys.executable)} -m semantoks pretrain runs/a --auto-resume"
    assert real in script
    words = [sys.executable, str(stub), *map(str, arguments)]
    (cluster / "job").write_text(script.replace(real, shlex.join(words)))
    environment = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "semantoks-pretrain"}
    return subprocess.Popen(
        ["bash", str(cluster / "job")], env=os.environ | environment, cwd=cluster
    )


def warn(cluster: Path, job: subprocess.Popen[bytes], number: signal.Signals) -> None:
    while not (cluster / "log").exists() or not (cluster / "log").read_text():
        time.sleep(0.02)
    job.send_signal(number)


def requeues(cluster: Path) -> int:
    file = cluster / "scontrol"
    return file.read_text().count("requeue 4711") if file.exists() else 0


@pytest.mark.parametrize(
    ("seconds", "own_code", "warned", "log", "code"),
    [
        (60, 0, True, "started saved ", 130),
        (0, 0, False, "started done ", 0),
        (0, 3, False, "started done ", 3),
    ],
)
def test_a_script_saves_requeues_and_returns_the_exit_code(
    cluster, seconds, own_code, warned, log, code
):
    job = start(cluster, seconds, own_code, "runs/a/checkpoints", "step-00000007")
    if warned:
        warn(cluster, job, signal.SIGUSR1)
    assert job.wait(timeout=30) == code
    assert (cluster / "log").read_text() == log
    assert requeues(cluster) == warned


def test_a_requeue_that_slurm_refuses_is_told_in_the_log(cluster, capfd):
    (cluster / "bin" / "scontrol").write_text("#!/bin/bash\necho disabled >&2; exit 1\n")
    job = start(cluster, 60, 0, "runs/a/checkpoints", "step-00000007")
    warn(cluster, job, signal.SIGUSR1)
    assert job.wait(timeout=30) == 130
    told = "disabled\nSlurm refuses to requeue the job. Submit the same command again: it resumes."
    assert told in capfd.readouterr().err


def test_a_cancelled_job_is_not_requeued(cluster):
    """`scancel` sends SIGTERM to the shell, and to the tasks by itself."""
    job = start(cluster, 1, 3, "runs/a/checkpoints")
    warn(cluster, job, signal.SIGTERM)
    assert job.wait(timeout=30) == 3
    assert (cluster / "log").read_text() == "started done "  # the shell told no task anything
    assert requeues(cluster) == 0


def test_a_job_without_progress_stops_the_second_time(cluster, capfd):
    for requeued in (1, 1):
        (cluster / "log").unlink(missing_ok=True)
        job = start(cluster, 60, 0, "runs/a/checkpoints")
        warn(cluster, job, signal.SIGUSR1)
        job.wait(timeout=30)
        assert requeues(cluster) == requeued
    assert job.returncode == 1
    assert "No checkpoint was written in two jobs in a row" in capfd.readouterr().err
    (cluster / "log").unlink()
    job = start(cluster, 60, 0, "runs/a/checkpoints", "step-00000009")  # submitted again, longer
    warn(cluster, job, signal.SIGUSR1)
    job.wait(timeout=30)
    assert requeues(cluster) == 2
