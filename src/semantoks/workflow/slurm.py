"""Long commands on a cluster: a batch script for Slurm that stops, requeues and resumes by itself.

Slurm warns the script some minutes before the end of its time, or of its machine. The script hands
the warning on as SIGTERM; ``pretrain`` saves and ends; the script puts itself into the queue again,
and the next start resumes from the checkpoint. Only ``sbatch`` is needed, no further package.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from semantoks.errors import InputError, SemantoksError
from semantoks.flags import Flag

COMMANDS = ("pretrain", "prepare", "embed")
DIVIDED = ("prepare", "embed")
_PORT = 29400  # torchrun's own


class SlurmError(SemantoksError):
    """There is no Slurm on this machine, or it refuses the job."""


@dataclass(frozen=True, kw_only=True)
class SlurmJob:
    """What a job asks the cluster for."""

    time: Annotated[str, Flag(metavar="TIME")] = "24:00:00"
    """Limit the time of a job; a longer training is requeued as often as it takes."""
    nodes: Annotated[int, Flag(metavar="N")] = 1
    """Ask for this many machines."""
    gpus: Annotated[int, Flag(metavar="N")] = 0
    """Ask for this many GPUs per machine; one process each."""
    cpus: Annotated[int, Flag(metavar="N")] = 8
    """Ask for this many cores per machine."""
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
    return "\n".join([*_header(command, job), *_body(arguments, job)]) + "\n"


def _header(command: str, job: SlurmJob) -> list[str]:
    options = {
        "job-name": f"semantoks-{command}",
        "output": "%x-%j.log" if job.shards == 1 else "%x-%A_%a.log",
        "open-mode": "append",
        "time": job.time,
        "nodes": job.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": job.cpus,
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
    python, rest = shlex.quote(sys.executable), shlex.join(arguments)
    lines, start = [], f"{python} -m semantoks {rest}"
    if arguments[0] == "pretrain":
        rest += " --auto-resume"
        start = f"{python} -m semantoks {rest}"
        if job.nodes * max(job.gpus, 1) > 1:
            lines = ['head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)']
            start = (
                f"{python} -m torch.distributed.run --nnodes {job.nodes} "
                f"--nproc-per-node {max(job.gpus, 1)} --max-restarts 3 --rdzv-backend c10d "
                f'--rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$head:{_PORT}" -m semantoks {rest}'
            )
    if job.shards > 1:
        start += f' --shard "$SLURM_ARRAY_TASK_ID/{job.shards}"'
    return [
        *lines,
        "warned=0",
        """trap 'warned=1; kill -TERM "$child" 2>/dev/null' USR1 TERM""",
        f"srun --cpus-per-task={job.cpus} {start} &",  # srun does not inherit it
        "child=$!",
        'wait "$child"; code=$?',
        "# A signal ends the waiting, not the command: it is saving.",
        'while kill -0 "$child" 2>/dev/null; do wait "$child"; code=$?; done',
        'if [ "$warned" = 1 ] && [ "$code" -ne 0 ]; then',
        '  scontrol requeue "$SLURM_JOB_ID"',
        "fi",
        'exit "$code"',
    ]


def submit(script: str) -> str:
    """Hand a batch script to Slurm.

    Returns
    -------
    str
        Number of the job.

    Raises
    ------
    SlurmError
        If there is no ``sbatch`` here, or it refuses the job.
    """
    program = shutil.which("sbatch")
    if program is None:
        raise SlurmError(
            "there is no sbatch on this machine. Run this on a login node of a cluster with Slurm, "
            "or add --print to see the batch script"
        )
    done = subprocess.run(
        [program, "--parsable"], input=script, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SlurmError(f"sbatch refuses the job: {done.stderr.strip()}")
    return done.stdout.strip().partition(";")[0]
