"""Terms of self-distillation. Source: Brain-Semantoks (ICLR 2026), objective (SimDINO)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from semantoks.objectives.parallel import at_least_float32, count, n_processes, total

Spread = Literal["batch", "process"]


def coding_rate(
    z: Tensor, *, eps: float = 0.05, n_processes: int = 1, whole_batch: bool = False
) -> Tensor:
    """Return ``R(Z) = 1/2 logdet(I + d / (m W eps) Z^T Z)``, in float32 or wider.

    Parameters
    ----------
    z : Tensor of shape (m, d)
    eps : float
        Precision of the code.
    n_processes : int
        W.
    whole_batch : bool
        Z and m are those of all processes of the run together, W is 1: only the d x d second
        moments travel.
    """
    z = at_least_float32(z)
    m, d = z.shape
    gram = z.T @ z
    if whole_batch:
        gram, m = total(gram), count(m, device=z.device)
    gram = gram * (d / (m * n_processes * eps))
    # The argument is positive definite, so the Cholesky factor gives the determinant; the unchecked
    # form returns NaN, which stops the trainer.
    argument = torch.eye(d, dtype=z.dtype, device=z.device) + gram
    factor: Tensor = torch.linalg.cholesky_ex(argument).L
    return factor.diagonal().log().sum()


def coding_rate_weight(m: int, d: int, *, n_processes: int = 1) -> float:
    """Return ``gamma = (d + W m) / (d W m)``."""
    return (d + n_processes * m) / (d * n_processes * m)


def simdino(
    student: Tensor, teacher: Tensor, *, eps: float = 0.05, spread: Spread = "batch"
) -> Tensor:
    """Cross-view agreement minus the coding rate that keeps the embeddings spread out.

    Parameters
    ----------
    student, teacher : Tensor of shape (2, m, d)
        Unit vectors of the two views, this process's part of the batch; the teacher's carry no
        gradient.
    eps : float
        Precision of the coding rate.
    spread : {"batch", "process"}
        What the coding rate spreads out: the rows of all processes together, or every process's
        own (the paper's formula with W processes, averaged over them).

    Returns
    -------
    Tensor of shape ()
        The same on every process (see `semantoks.objectives.parallel`).
    """
    with torch.autocast(student.device.type, enabled=False):
        student, teacher = at_least_float32(student), at_least_float32(teacher)
        _, m, d = student.shape
        n_rows = count(m, device=student.device)
        agreement = total((teacher * student.flip(0)).sum(dim=-1).mean() * (m / n_rows))
        whole = spread == "batch"
        processes = 1 if whole else n_processes()
        rates = torch.stack(
            [
                coding_rate((s + t) / 2, eps=eps, n_processes=processes, whole_batch=whole)
                for s, t in zip(student, teacher, strict=True)
            ]
        ).mean()
        weight = coding_rate_weight(n_rows if whole else m, d, n_processes=processes)
        return -agreement - (weight * rates if whole else total(weight * rates / processes))


def masked_agreement(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Mean over recordings of the mean over their masked tokens of ``-cos(teacher, student)``.

    Parameters
    ----------
    student, teacher : Tensor of shape (R, d)
        Unit vectors of the masked tokens, in the order of ``mask.nonzero()``.
    mask : Tensor of bool, shape (M, S)
        True = masked; R in all. Recordings without a masked token do not count. The recordings of
        all processes of the run are averaged.

    Returns
    -------
    Tensor of shape ()
        Zero if no token is masked anywhere.
    """
    cosine = F.cosine_similarity(at_least_float32(student), at_least_float32(teacher), dim=-1)
    n_masked = mask.sum(dim=1)
    share = 1.0 / n_masked.clamp(min=1).to(cosine.dtype)
    # `output_size` is known: without it a GPU would be waited for.
    agreement = (cosine * share.repeat_interleave(n_masked, output_size=len(cosine))).sum()
    return -total(agreement) / total((n_masked > 0).sum()).clamp(min=1)
