"""Several processes that train one model, on PyTorch's own engine.

``torchrun --nproc-per-node 4 -m semantoks pretrain RUN ...`` or the script of ``semantoks slurm``
starts them; NCCL joins GPUs, Gloo joins CPUs. Without their environment variables there is one
process, and nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from semantoks.errors import CheckpointError
from semantoks.objectives.parallel import gather_rows, n_processes

__all__ = [
    "agree",
    "any_process",
    "gather_rows",
    "is_main",
    "local_device",
    "n_processes",
    "process_group",
    "process_number",
    "wait_for_all",
    "was_restarted",
]


def process_number() -> int:
    """Return the number of this process (its rank), 0 if it is alone."""
    return dist.get_rank() if n_processes() > 1 else 0


def is_main() -> bool:
    """Return whether this is the process that writes files and talks to people."""
    return process_number() == 0


def was_restarted() -> bool:
    """Return whether torchrun or Slurm started this process again, after a crash or preemption."""
    counts = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    return any(os.environ.get(name, "0") not in ("", "0") for name in counts)


def local_device(name: str) -> str:
    """Return the device of this process: of several on a machine each has a GPU of its own.

    Parameters
    ----------
    name : str
        ``train.device``.
    """
    if name not in ("auto", "cuda") or "LOCAL_RANK" not in os.environ:
        return name
    if not torch.cuda.is_available():
        return name
    # Slurm may show every task its own GPU only, as number 0.
    return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Join the processes that torchrun has started, for the time of a ``with`` statement.

    Parameters
    ----------
    device : str
        ``train.device``.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or dist.is_initialized():
        yield
        return
    here = local_device(device)
    if here.startswith("cuda"):
        torch.cuda.set_device(here)
    # torchrun may keep its store when it starts processes again: without a name of its own, an
    # attempt would find the addresses of the processes that died.
    store, rank, size = next(rendezvous("env://"))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    dist.init_process_group(
        "nccl" if here.startswith("cuda") else "gloo",
        store=PrefixStore(f"attempt-{attempt}", store),
        rank=rank,
        world_size=size,
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def wait_for_all() -> None:
    """Return when all processes are here."""
    if n_processes() > 1:
        dist.barrier()


def any_process(flag: bool, device: torch.device) -> bool:
    """Return whether `flag` is true on any process."""
    if n_processes() == 1:
        return flag
    flags = torch.tensor(int(flag), device=device)
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


def agree(step: int, device: torch.device, run: object) -> None:
    """Refuse to resume from different checkpoints.

    Raises
    ------
    CheckpointError
        If the processes have found different steps.
    """
    steps = gather_rows(torch.tensor([step], device=device)).tolist()
    if len(set(steps)) > 1:
        raise CheckpointError(
            "the processes see different checkpoints",
            file=str(run),
            field="steps",
            value=steps,
            fix="Put the run on a file system that all machines share",
        )
