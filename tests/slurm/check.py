"""What `semantoks slurm` writes, run by a real Slurm: `make slurm` (15 minutes on 2 cores).

Every row submits a script, disturbs its job as a cluster does, and compares the weights that come
out with those of an undisturbed run. The table goes to docs/results/slurm.md.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
SEMANTOKS = [sys.executable, "-m", "semantoks"]
TRAINING = ["--preset", "tiny", "--store", "store", "optim.epochs=60"]
TRAINING += ["train.device=cpu", "train.precision=float32"]
STEPS = 420


def sh(*words: str | Path) -> str:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def submit(arguments: list[str], *options: str, change: Callable[[str], str] = str) -> str:
    script = sh(*SEMANTOKS, "slurm", "--print", "--cpus", "1", *options, *arguments)
    return sh("sbatch", "--parsable", Path(_written(change(script + "\n"))))


def _written(script: str) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".sh", dir=".", delete=False) as file:
        file.write(script)
    return file.name


def two_tasks(script: str) -> str:
    """Ask for two tasks as two GPUs would, on a machine without a GPU."""
    lines = [line for line in script.splitlines() if "--gpus-per-node" not in line]
    return "\n".join(lines) + "\n"


def until(what: Callable[[], bool], seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            raise TimeoutError(sh("squeue", "--all") + log_tail())
        time.sleep(0.5)


def log_tail() -> str:
    newest = max(Path.cwd().glob("*.log"), key=lambda p: p.stat().st_mtime)
    return f"\n{newest}: {newest.read_text()[-2000:]}"


def state(job: str) -> str:
    """Return the state of a job, empty once Slurm has forgotten it."""
    done = subprocess.run(
        ["squeue", "-h", "-j", job, "-o", "%T", "--states=all"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def over(job: str) -> bool:
    """Return whether a job has ended; one that waits to run again starts now."""
    states = set(state(job).split())
    if "PENDING" in states:
        subprocess.run(
            ["scontrol", "update", f"jobid={job}", "StartTime=now"],
            capture_output=True,
            check=False,
        )
    return not states & {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED"}


def steps_logged(run: str) -> int:
    file = Path(run, "metrics.jsonl")
    return sum(1 for _ in file.open()) if file.exists() else 0


def newest_step(run: str) -> int:
    steps = [int(p.name[5:]) for p in Path(run, "checkpoints").glob("step-*")]
    return max(steps, default=0)


def weights(run: str) -> str:
    (file,) = Path(run, "checkpoints", f"step-{STEPS:08d}").glob("model*.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def warned_by_the_limit(job: str, run: str) -> None:
    """Wait until Slurm's own warning has stopped and requeued the job once."""
    until(lambda: 0 < newest_step(run) < STEPS and state(job) == "PENDING")


def warned(job: str, run: str) -> None:
    until(lambda: steps_logged(run) > 3)
    sh("scancel", "--batch", "--signal=USR1", job)
    until(lambda: newest_step(run) > 0 and state(job) != "RUNNING")


def preempted(job: str, run: str) -> None:
    until(lambda: steps_logged(run) > 3)
    sh("scontrol", "requeue", job)
    until(lambda: state(job) == "PENDING")


def cancelled(job: str, run: str) -> None:
    until(lambda: steps_logged(run) > 3)
    sh("scancel", job)
    until(lambda: over(job))


def node_lost(job: str, run: str) -> None:
    until(lambda: steps_logged(run) > 3)
    conf = Path(os.environ["SLURM_CONF"])
    for name in ("slurmd", "slurmstepd"):
        subprocess.run(["pkill", "-KILL", name], check=False)
    subprocess.run(["pkill", "-KILL", "-f", f"semantoks pretrain {run}"], check=False)
    sh("scontrol", "update", f"nodename={os.uname().nodename}", "state=down", "reason=test")
    until(lambda: state(job) != "RUNNING")
    subprocess.run(["slurmd", "-f", str(conf)], check=True)  # and it returns to service
    until(lambda: "idle" in sh("sinfo", "-h", "-o", "%t"))


def pretraining(
    name: str, disturb: Callable[[str, str], None], *options: str, two: bool = False
) -> tuple[int, str, bool]:
    """Return the step at which a disturbed job stopped, how it went on, and if it ended equal."""
    run = f"run-{name}"
    extra = ["--gpus", "2", "--cpus", "2"] if two else []
    job = submit(["pretrain", run, *TRAINING], *extra, *options, change=two_tasks if two else str)
    disturb(job, run)
    stopped = newest_step(run)
    again = ""
    if disturb is cancelled:
        again = "not requeued; submitted again"
        job = submit(["pretrain", run, *TRAINING], *options)
    until(lambda: over(job))
    same = weights(run) == weights("two" if two else "reference")
    return stopped, again or "requeued by the script or by Slurm", same


def no_progress() -> str:
    """Let the limit come twice before a checkpoint: the job stops the second time."""
    command = f"{sys.executable} -m semantoks"
    job = submit(
        ["pretrain", "run-stalled", *TRAINING],
        change=lambda s: s.replace(command, "bash -c 'sleep 600'"),
    )
    for _ in range(2):
        until(lambda: over(job) or state(job) == "RUNNING")
        time.sleep(3)
        sh("scancel", "--batch", "--signal=USR1", job)
        until(lambda: state(job) != "RUNNING")
    until(lambda: over(job))
    text = Path(f"semantoks-pretrain-{job}.log").read_text()
    assert text.count("No checkpoint was written") == 1, text
    return "stopped with a message after two jobs without a checkpoint"


def refusals() -> list[tuple[str, str, str]]:
    """Name a partition that does not exist, and requeue a job that may not be requeued."""
    job = ["embed", "reference", "store", "a.tsv"]
    words = ["slurm", "--cpus", "1", "--partition", "nosuch", *job]
    done = subprocess.run([*SEMANTOKS, *words], capture_output=True, text=True, check=False)
    assert "--partition = 'nosuch': Slurm refuses" in " ".join(done.stderr.split()), done
    run = "run-kept"
    training = ["pretrain", run, *TRAINING]
    number = submit(training, change=lambda s: s.replace("--requeue", "--no-requeue"))
    until(lambda: steps_logged(run) > 3)
    sh("scancel", "--batch", "--signal=USR1", number)
    until(lambda: over(number))
    stopped = newest_step(run)
    assert "Slurm refuses to requeue the job. Submit" in log_tail(), log_tail()
    again = submit(training)
    until(lambda: over(again))
    how = f"stopped at step {stopped}; message in the log; submitted again"
    same = "equal" if weights(run) == weights("reference") else "DIFFERENT"
    return [("unknown partition", "refused with its name", "-"), ("requeue refused", how, same)]


def arrays() -> list[tuple[str, str, str]]:
    sh(*SEMANTOKS, "embed", "reference", "store", "whole.tsv")
    job = submit(["embed", "reference", "store", "array.tsv"], "--shards", "3")
    until(lambda: over(job))
    sh(*SEMANTOKS, "embed", "reference", "store", "array.tsv")
    same = pd.read_csv("whole.tsv", sep="\t").equals(pd.read_csv("array.tsv", sep="\t"))
    rows = [("embed, array of 3", "merged", "equal" if same else "DIFFERENT")]
    job = submit(["prepare", "abide-sample", "again"], "--shards", "3")
    until(lambda: over(job))
    sh(*SEMANTOKS, "prepare", "abide-sample", "again")
    files = [p.name for p in Path("store").iterdir() if p.suffix in (".npy", ".parquet")]
    same = all(Path("store", n).read_bytes() == Path("again", n).read_bytes() for n in files)
    return [*rows, ("prepare, array of 3", "merged", "equal" if same else "DIFFERENT")]


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.chdir(folder)
    os.environ["OMP_NUM_THREADS"] = "1"
    version = sh("sinfo", "--version").replace("slurm-wlm", "Slurm")
    sh(*SEMANTOKS, "prepare", "abide-sample", "store")
    sh(*SEMANTOKS, "pretrain", "reference", *TRAINING)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    sh(*torchrun, "-m", "semantoks", "pretrain", "two", *TRAINING)
    rows = []
    limit = ("--time", "0:01:00", "--warning", "35")
    for name, disturb, options, two in [
        ("limit", warned_by_the_limit, limit, False),
        ("limit-two", warned, (), True),
        ("preempted", preempted, (), False),
        ("preempted-two", preempted, (), True),
        ("cancelled", cancelled, (), False),
        ("node-lost", node_lost, (), False),
    ]:
        stopped, how, same = pretraining(name, disturb, *options, two=two)
        rows.append((name, f"stopped at step {stopped}; {how}", "equal" if same else "DIFFERENT"))
        print(*rows[-1], sep=" | ", flush=True)
    rows.append(("stalled", no_progress(), "-"))
    rows += [*refusals(), *arrays()]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    text = (
        f"# Slurm\n\n`make slurm` on {version}, one node, CPUs.\n\n"
        f"| job | what happened | weights against an undisturbed run |\n|---|---|---|\n{table}\n"
    )
    (ROOT / "docs" / "results" / "slurm.md").write_text(text, encoding="utf-8")
    print(text)
    if "DIFFERENT" in text:
        sys.exit(1)


if __name__ == "__main__":
    main()
