"""Loss terms as pure functions. Source: Brain-Semantoks (ICLR 2026), objective (SimDINO)."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from semantoks.objectives.parallel import count, n_processes, total

Spread = Literal["batch", "process"]


def _at_least_float32(x: Tensor) -> Tensor:
    return x.double() if x.dtype == torch.float64 else x.float()


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
    z = _at_least_float32(z)
    m, d = z.shape
    gram = z.T @ z
    if whole_batch:
        gram, m = total(gram), count(m, device=z.device)
    gram = gram * (d / (m * n_processes * eps))
    # The argument is positive definite, so the Cholesky factor gives the determinant; the unchecked
    # form hands NaN on, for the trainer to stop at.
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
        student, teacher = _at_least_float32(student), _at_least_float32(teacher)
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
    cosine = F.cosine_similarity(_at_least_float32(student), _at_least_float32(teacher), dim=-1)
    n_masked = mask.sum(dim=1)
    share = 1.0 / n_masked.clamp(min=1).to(cosine.dtype)
    agreement = (cosine * share[mask.nonzero()[:, 0]]).sum()
    return -total(agreement) / total((n_masked > 0).sum()).clamp(min=1)


def effective_rank(z: Tensor) -> float:
    """Exponential of the entropy of the normalised singular values of the centred rows.

    Source: Roy and Vetterli, EUSIPCO 2007. 1 = collapsed to a line; at most min(m - 1, d).

    Parameters
    ----------
    z : Tensor of shape (m, d)
    """
    centred = z.detach().double() - z.detach().double().mean(dim=0)
    s = torch.linalg.svdvals(centred)
    p = s / s.sum().clamp(min=1e-12)
    return float(torch.exp(-(p * (p + 1e-12).log()).sum()))


def mean_cosine(z: Tensor) -> float:
    """Mean cosine similarity between different rows: near 1 when all embeddings are alike.

    Parameters
    ----------
    z : Tensor of shape (m, d), m >= 2
    """
    unit = F.normalize(z.detach().double(), dim=-1)
    m = unit.shape[0]
    total = unit.sum(dim=0).square().sum()
    return float((total - m) / (m * (m - 1)))
