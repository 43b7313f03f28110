"""Terms that contrast rows with one another.

Sources: Chen et al., ICML 2020 (SimCLR), equation 1; Khosla et al., NeurIPS 2020, equation 2, for
several positives; Sablayrolles et al., ICLR 2019, for KoLeo.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from semantoks.objectives.parallel import at_least_float32, gather_rows


def info_nce(similarity: Tensor, positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of every anchor: how hard its positives are to tell from its negatives.

    ``-mean_p log(exp(s_p) / sum_c exp(s_c))`` over the positives p; c runs over positives and
    negatives.

    Parameters
    ----------
    similarity : Tensor of shape (..., n, m)
        Cosine of every anchor with every candidate, divided by the temperature.
    positive, negative : Tensor of bool, of the same shape
        Candidates that are neither do not count.

    Returns
    -------
    loss : Tensor of shape (..., n)
        0 for an anchor that lacks positives or negatives.
    counted : Tensor of bool, shape (..., n)
        Which anchors have both.
    """
    counted = positive.any(dim=-1) & negative.any(dim=-1)
    # An anchor without candidates would have a gradient of NaN, even where it does not count.
    seen = positive | negative | ~counted[..., None]
    partition = similarity.masked_fill(~seen, -torch.inf).logsumexp(dim=-1)
    n_positive = positive.sum(dim=-1).clamp(min=1)
    attraction = (similarity * positive).sum(dim=-1) / n_positive
    return torch.where(counted, partition - attraction, 0.0), counted


def two_view_info_nce(z: Tensor, temperature: float) -> Tensor:
    """Return the mean InfoNCE of 2 B rows: the positive is the other view, all others negative.

    Parameters
    ----------
    z : Tensor of shape (2, B, d), B >= 2
        Embeddings of two views, of any length: those of all processes.
    temperature : float

    Returns
    -------
    Tensor of shape ()
    """
    unit = F.normalize(at_least_float32(z), dim=-1).flatten(0, 1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    positive = itself.roll(len(unit) // 2, dims=0)
    loss, _ = info_nce(unit @ unit.T / temperature, positive, ~(positive | itself))
    return loss.mean()


def koleo(z: Tensor, *, eps: float = 1e-8) -> Tensor:
    """Return ``-mean_i log d_i``: the distance of every unit row from its nearest neighbour.

    Parameters
    ----------
    z : Tensor of shape (m, d)
        m >= 2 over all processes, whose rows count together.
    eps : float
        Added to the distances.

    Returns
    -------
    Tensor of shape ()
    """
    unit = F.normalize(gather_rows(at_least_float32(z)), dim=-1)
    with torch.no_grad():
        cosine = unit @ unit.T
        nearest = cosine.fill_diagonal_(-2).argmax(dim=1)
    distance = (unit - unit[nearest] + eps).square().sum(dim=-1).sqrt()
    return -(distance + eps).log().mean()
