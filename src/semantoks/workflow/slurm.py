"""Batch scripts for Slurm that save, requeue and resume.

Slurm signals the batch shell (USR1) some minutes before the time limit. The shell forwards USR1
through ``srun`` to the tasks (``srun`` answers SIGTERM by killing them), ``pretrain`` saves a
checkpoint and ends, the shell requeues its job, and the next start resumes from the checkpoint.
SIGTERM, which Slurm sends to every task when a job is cancelled or preempted, makes ``pretrain``
save as well; whether the job runs again is then Slurm's decision. Only ``sbatch`` is needed.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from semantoks.errors import InputError, SemantoksError
from semantoks.flags import Flag

COMMANDS = ("pretrain", "prepare", "embed")
DIVIDED = ("prepare", "embed")

# What torchrun would set, from what Slurm sets for every task.
_TASK = 'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS exec "$@"'
_STALLED = (
    "No checkpoint was written in two jobs in a row, so this job is not requeued. "
    "Raise --time, or --warning if a step and a checkpoint take longer than it."
)
_REFUSED = "Slurm refuses to requeue the job. Submit the same command again: it resumes."
# What Slurm may refuse, and where its values are listed.
_LISTED = {
    "account": "`sacctmgr show associations user=$USER` lists your accounts",
    "partition": "`sinfo --summarize` lists the partitions",
}


class SlurmError(SemantoksError):
    """Slurm is missing, or refuses the job."""


@dataclass(frozen=True, kw_only=True)
class SlurmJob:
    """What a job asks the cluster for."""

    time: Annotated[str, Flag(metavar="TIME")] = "24:00:00"
    """Limit the time of a job; a longer training is requeued as often as it takes."""
    nodes: Annotated[int, Flag(metavar="N")] = 1
    """Ask for this many machines."""
    gpus: Annotated[int, Flag(metavar="N")] = 0
    """Ask for this many GPUs per machine; one task each."""
    cpus: Annotated[int, Flag(metavar="N")] = 8
    """Ask for this many cores per machine, shared by its tasks."""
    memory: Annotated[str | None, Flag(metavar="SIZE")] = None
    """Ask for this memory per machine, e.g. 64G."""
    partition: Annotated[str | None, Flag(metavar="NAME")] = None
    """Run in this partition of the cluster."""
    account: Annotated[str | None, Flag(metavar="NAME")] = None
    """Charge this account."""
    shards: Annotated[int, Flag(metavar="N")] = 1
    """Divide the recordings of prepare or embed over an array of N jobs; the same command without
    shards merges them."""
    warning: Annotated[int, Flag(metavar="SECONDS")] = 300
    """Save and stop this long before the time is up; a step and a checkpoint must fit into it."""

    def __post_init__(self) -> None:
        for name in ("nodes", "cpus", "shards", "warning"):
            if getattr(self, name) < 1:
                raise InputError("must be at least 1", field=name, value=getattr(self, name))
        if self.gpus < 0:
            raise InputError("must not be negative", field="gpus", value=self.gpus)
        for name in ("time", "memory", "partition", "account"):
            value = getattr(self, name)
            if value is not None and not re.fullmatch(r"[\w:.,-]+", value):
                raise InputError(
                    "holds characters that Slurm does not know", field=name, value=value
                )
        if self.cpus < self.tasks:
            raise InputError(
                f"must be at least one per task ({self.tasks})", field="cpus", value=self.cpus
            )
        if self.warning >= _seconds(self.time):
            raise InputError(
                f"must be shorter than the time limit ({self.time})",
                field="warning",
                value=self.warning,
                fix="Raise --time, or lower --warning",
            )

    @property
    def tasks(self) -> int:
        """Tasks per machine."""
        return max(self.gpus, 1)


def _seconds(time: str) -> float:
    """Return a time limit in seconds: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S (see ``man sbatch``)."""
    if not re.fullmatch(r"(\d+-\d+(:\d+){0,2})|(\d+(:\d+){0,2})", time):
        raise InputError("must be minutes, or like 8:00:00 or 2-12:00:00", field="time", value=time)
    days, _, clock = time.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    hours = [0, *parts] if not days and len(parts) < 3 else parts
    units = (3600, 60, 1)
    return 86400 * int(days or 0) + sum(n * unit for n, unit in zip(hours, units, strict=False))


def batch_script(arguments: Sequence[str], job: SlurmJob) -> str:
    """Return the batch script that runs a command of this package.

    Parameters
    ----------
    arguments : sequence of str
        The command and what follows it, as on the command line: ``["pretrain", "runs/a", ...]``.
    job : SlurmJob

    Returns
    -------
    str

    Raises
    ------
    InputError
        If the command is not one of `COMMANDS`, or is not divided into shards or machines.
    """
    command = arguments[0] if arguments else ""
    if command not in COMMANDS:
        rule = f"must be one of {', '.join(COMMANDS)}"
        raise InputError(rule, field="command", value=command)
    if job.shards > 1 and command not in DIVIDED:
        rule = f"only {' and '.join(DIVIDED)} can be divided into shards"
        raise InputError(rule, field="shards", value=job.shards)
    if job.nodes > 1 and command != "pretrain":
        raise InputError("only pretrain runs on several machines", field="nodes", value=job.nodes)
    if command == "pretrain" and (len(arguments) < 2 or arguments[1].startswith("-")):
        raise InputError(
            "must come right after pretrain",
            field="RUN",
            value=arguments[1] if len(arguments) > 1 else "",
            fix="semantoks slurm [OPTIONS] pretrain RUN [...]",
        )
    return "\n".join([*_header(command, job), *_body(arguments, job)]) + "\n"


def _header(command: str, job: SlurmJob) -> list[str]:
    options = {
        "job-name": f"semantoks-{command}",
        "output": "%x-%j.log" if job.shards == 1 else "%x-%A_%a.log",
        "open-mode": "append",
        "time": job.time,
        "nodes": job.nodes,
        "ntasks-per-node": job.tasks,
        "cpus-per-task": job.cpus // job.tasks,
        "gpus-per-node": job.gpus or None,
        "mem": job.memory,
        "partition": job.partition,
        "account": job.account,
        "array": f"1-{job.shards}" if job.shards > 1 else None,
        "signal": f"B:USR1@{job.warning}",
    }
    lines = [f"#SBATCH --{name}={value}" for name, value in options.items() if value is not None]
    return ["#!/bin/bash", *lines, "#SBATCH --requeue"]


def _body(arguments: Sequence[str], job: SlurmJob) -> list[str]:
    start = f"{shlex.quote(sys.executable)} -m semantoks {shlex.join(arguments)}"
    before: list[str] = []
    after: list[str] = []
    if arguments[0] == "pretrain":
        start += " --auto-resume"
        before = [
            f"newest() {{ ls {shlex.quote(arguments[1])}/checkpoints 2>/dev/null | tail -n 1; }}",
            'checkpoint=$(newest); stalled="$SLURM_JOB_NAME-$SLURM_JOB_ID.stalled"',
        ]
        after = [
            '  if [ "$(newest)" != "$checkpoint" ]; then rm -f "$stalled"',
            '  elif [ ! -e "$stalled" ]; then touch "$stalled"',
            "  else",
            f'    echo {shlex.quote(_STALLED)} >&2; rm -f "$stalled"; exit 1',
            "  fi",
        ]
        if job.nodes * job.tasks > 1:
            before += [
                'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
                "export MASTER_PORT=$((10000 + SLURM_JOB_ID % 50000))  # one per job",
            ]
            start = f"bash -c {shlex.quote(_TASK)} task {start}"
    if job.shards > 1:
        start += f' --shard "$SLURM_ARRAY_TASK_ID/{job.shards}"'
    # srun does not inherit the cores; without --wait, the tasks that a crash leaves would wait for
    # the lost one until the time limit.
    srun = f"srun --cpus-per-task={job.cpus // job.tasks} --wait={job.warning}"
    return [
        *before,
        "warned=0",
        """trap 'warned=1; kill -USR1 "$child" 2>/dev/null' USR1""",
        "trap : TERM  # Slurm sends it to the tasks as well",
        f"{srun} {start} &",
        "child=$!",
        'wait "$child"; code=$?',
        "# A signal ends the waiting, not the command: it is saving.",
        'while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done',
        'if [ "$warned" = 1 ] && [ "$code" -ne 0 ]; then',
        *after,
        f'  scontrol requeue "$SLURM_JOB_ID" || echo {shlex.quote(_REFUSED)} >&2',
        "fi",
        'exit "$code"',
    ]


def submit(script: str) -> str:
    """Submit a batch script to Slurm.

    Returns
    -------
    str
        Number of the job.

    Raises
    ------
    SlurmError
        If there is no ``sbatch`` here, or it refuses the job.
    InputError
        If the job could not write its log into the current folder.
    """
    program = shutil.which("sbatch")
    if program is None:
        raise SlurmError(
            "there is no sbatch on this machine. Submit on a login node of a cluster with Slurm, "
            "or print the script with --print"
        )
    try:  # Without its log a job fails at once and leaves no message.
        tempfile.TemporaryFile(dir=Path.cwd()).close()
    except OSError as error:
        raise InputError(
            f"the job must be able to write its log here ({error.strerror})",
            file=Path.cwd(),
            fix="Submit from a folder that you may write to",
        ) from None
    done = subprocess.run(
        [program, "--parsable"], input=script, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise _refusal(done.stderr, script)
    return done.stdout.strip().partition(";")[0]


def _refusal(message: str, script: str) -> SlurmError:
    """Return what ``sbatch`` refuses, with the option that it names."""
    reason = "; ".join(re.sub(r"^sbatch: (error|fatal): ", "", x) for x in message.splitlines())
    refused = f"Slurm refuses the job ({reason})."
    for name, fix in _LISTED.items():
        value = re.search(rf"^#SBATCH --{name}=(.*)$", script, re.MULTILINE)
        if value and name in reason.lower():
            return SlurmError(f"--{name} = {value[1]!r}: {refused} {fix}.")
    return SlurmError(f"{refused} Try the script that --print shows with `sbatch --test-only`.")
