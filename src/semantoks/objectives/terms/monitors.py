"""Collapse monitors: how different the embeddings of a batch are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def effective_rank(z: Tensor) -> float:
    """Exponential of the entropy of the normalised singular values of the centred rows.

    Source: Roy and Vetterli, EUSIPCO 2007. 1 = collapsed to a line; at most min(m - 1, d).

    Parameters
    ----------
    z : Tensor of shape (m, d)
    """
    centred = z.detach().double() - z.detach().double().mean(dim=0)
    # The smaller Gram matrix has their squares as eigenvalues, at a third of the time.
    gram = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    squares = torch.linalg.eigvalsh(gram)
    noise = len(gram) * torch.finfo(gram.dtype).eps * squares[-1]
    s = torch.where(squares > noise, squares, 0.0).clamp(min=0.0).sqrt()
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
