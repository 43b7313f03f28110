"""Sums over the processes of a distributed run, so that the loss is the whole batch's.

Every process computes the same loss, and its gradient is the number of processes times its own
recordings' share. `torch.nn.parallel.DistributedDataParallel` averages gradients over processes,
which makes the gradient of the whole batch of it, also when processes hold different numbers of
recordings.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def n_processes() -> int:
    """Return the number of processes of the run: 1 unless a process group has been set up."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def total(x: Tensor) -> Tensor:
    """Return the sum of `x` over all processes.

    Parameters
    ----------
    x : Tensor
        Of the same shape on every process.

    Returns
    -------
    Tensor
        The same on every process. Its gradient reaches this process's `x` only, multiplied by the
        number of processes, so that the average over processes is the gradient of the sum.
    """
    if n_processes() == 1:
        return x
    summed = x.detach().clone()
    dist.all_reduce(summed)
    return summed + n_processes() * (x - x.detach())


def count(n: int, *, device: torch.device) -> int:
    """Return the sum of a whole number over all processes."""
    if n_processes() == 1:
        return n
    summed = torch.tensor(n, device=device)
    dist.all_reduce(summed)
    return int(summed)


def gather_rows(x: Tensor) -> Tensor:
    """Return the rows of all processes, those of process 0 first.

    Parameters
    ----------
    x : Tensor of shape (m, ...)
        m may differ between processes.

    Returns
    -------
    Tensor of shape (M, ...)
        The same on every process. Its gradient reaches this process's rows only, multiplied by the
        number of processes, as that of `total`.
    """
    if n_processes() == 1:
        return x
    mine = x.detach()
    lengths = [torch.zeros((), dtype=torch.int64, device=x.device) for _ in range(n_processes())]
    dist.all_gather(lengths, torch.tensor(len(x), device=x.device))
    longest = max(int(n) for n in lengths)
    padded = mine.new_zeros((longest, *x.shape[1:]))
    padded[: len(x)] = mine
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    rows = [part[: int(n)] for part, n in zip(parts, lengths, strict=True)]
    if x.requires_grad:
        rows[dist.get_rank()] = mine + n_processes() * (x - mine)
    return torch.cat(rows)


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float32, or in float64 where it is."""
    return x.double() if x.dtype == torch.float64 else x.float()
