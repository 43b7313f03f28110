"""Soft assignments of crops to prototypes.

Sources: Caron et al., ICCV 2021 (DINO), equations 1 and 3; Caron et al., NeurIPS 2020 (SwAV),
equations 3 and 5 and its supplement, for Sinkhorn-Knopp.
"""

from __future__ import annotations

import torch
from torch import Tensor

from semantoks.objectives.parallel import count, total


@torch.no_grad()
def assign(
    scores: Tensor, temperature: float, centre: Tensor | None, *, iterations: int = 3
) -> Tensor:
    """Return the teacher's distributions over prototypes.

    Parameters
    ----------
    scores : Tensor of shape (V, B, K)
        Cosines with the prototypes.
    temperature : float
    centre : Tensor of shape (K,), or None
        Taken from the scores before the softmax; None: Sinkhorn-Knopp balances the prototypes
        over the crops of all processes instead.
    iterations : int
        Of Sinkhorn-Knopp.

    Returns
    -------
    Tensor of shape (V, B, K)
        Sums over the last axis are 1.
    """
    if centre is not None:
        return ((scores - centre) / temperature).softmax(dim=-1)
    # Cosines are at most 1; float64, as exp(-2 / temperature) may be below what float32 holds.
    share = ((scores.double() - 1) / temperature).exp().flatten(0, 1)
    n = count(len(share), device=share.device)
    for _ in range(iterations):
        share = share / (total(share.sum(dim=0)) * share.shape[1])
        share = share / (share.sum(dim=1, keepdim=True) * n)
    return (share * n).to(scores.dtype).view_as(scores)


def cross_view_entropy(given: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean cross-entropy between a crop and every other crop of its recording.

    Parameters
    ----------
    given : Tensor of shape (V, B, K)
        The student's scores over their temperature, of the teacher's crops first.
    wanted : Tensor of shape (W, B, K), W <= V
        The teacher's distributions; crop i of both is the same, and that pair does not count.

    Returns
    -------
    Tensor of shape ()
        Over the recordings of all processes.
    """
    pairs = -torch.einsum("wbk,vbk->wv", wanted, given.log_softmax(dim=-1))
    same = torch.eye(*pairs.shape, dtype=torch.bool, device=pairs.device)
    n = count(given.shape[1], device=given.device) * (pairs.numel() - len(pairs))
    return total(pairs.masked_fill(same, 0.0).sum()) / n
