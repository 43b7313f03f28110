"""Functional gradients: axes along which the connectivity of ROIs changes most slowly.

1. The correlations of all ROIs, Fisher-transformed, are averaged over crops.
2. Of every ROI the strongest tenth of its positive connections is kept.
3. The affinity of two ROIs is the cosine of their connections, A.
4. Diffusion map: with L = A_ij / (d_i d_j)^alpha, d the row sums of A, and P = D^-1 L, the
   gradients are the right eigenvectors of P after the constant one, each times
   lambda / (1 - lambda).

Source: Margulies et al., PNAS 2016; diffusion maps: Coifman and Lafon, 2006.
"""

from __future__ import annotations

import torch
from torch import Tensor

from semantoks.model.spectral import correlation_factors

_AT_ONCE = 64  # crops


def functional_gradients(
    crops: Tensor, n_gradients: int, *, kept: float = 0.1, alpha: float = 0.5
) -> Tensor:
    """Return the functional gradients of the channels.

    Parameters
    ----------
    crops : Tensor of shape (B, C, T)
        A channel without variance has no data in that crop.
    n_gradients : int
        K, at most C - 1.
    kept : float
        Share of the connections of a channel that are kept, the strongest ones.
    alpha : float
        How far the density of the channels is divided out: 0 not at all, 1 entirely.

    Returns
    -------
    Tensor of shape (C, K)
        float64, the slowest first, the mean square of the first is 1; the largest entry of every
        gradient is positive. Zero for a channel without data, and past the rank of the affinity.
    """
    return diffusion_map(_affinity(_group_connectivity(crops), kept), n_gradients, alpha=alpha)


def diffusion_map(affinity: Tensor, n_axes: int, *, alpha: float = 0.5) -> Tensor:
    """Return the coordinates of a diffusion map, see the module.

    Parameters
    ----------
    affinity : Tensor of shape (C, C)
        Symmetric, not negative; a row of zeros is a point without neighbours.
    n_axes : int
        K, at most C - 1.
    alpha : float

    Returns
    -------
    Tensor of shape (C, K)
    """
    kernel = affinity * _outer(_power(affinity.sum(dim=1), -alpha))
    scale = _power(kernel.sum(dim=1), -0.5)
    # Symmetric, with the eigenvalues of P; D^-1/2 makes the eigenvectors of P of its own.
    values, vectors = torch.linalg.eigh(kernel * _outer(scale))
    values, vectors = values.flip(0)[1 : n_axes + 1], vectors.flip(1)[:, 1 : n_axes + 1]
    vectors = vectors * scale[:, None]
    vectors = vectors / vectors.norm(dim=0).clamp(min=1e-12)
    signs = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True)).sign()
    values = torch.where(values > 1e-9, values.clamp(max=1 - 1e-6), 0.0)
    found = vectors * signs * (values / (1 - values))
    out: Tensor = found / found[:, 0].square().mean().sqrt().clamp(min=1e-12)
    return out


def _group_connectivity(crops: Tensor) -> Tensor:
    """Return the mean correlations (C, C), averaged as Fisher z, 0 where no crop has both."""
    n_channels = crops.shape[1]
    summed = crops.new_zeros(n_channels, n_channels, dtype=torch.float64)
    n_seen = torch.zeros_like(summed)
    for some in crops.split(_AT_ONCE):
        y = correlation_factors(some.double())
        z = torch.atanh((y @ y.mT).clamp(-0.999, 0.999))
        present = (y != 0).any(dim=2).double()
        summed += z.sum(dim=0)
        n_seen += present.T @ present
    return torch.tanh(summed / n_seen.clamp(min=1))


def _affinity(connectivity: Tensor, kept: float) -> Tensor:
    """Return the cosines of the strongest positive connections of the channels, (C, C)."""
    n_channels = len(connectivity)
    n_kept = max(1, round(kept * n_channels))
    weakest = connectivity.topk(n_kept, dim=1).values[:, -1:]
    strong = torch.where(connectivity >= weakest, connectivity, 0.0).clamp(min=0)
    rows: Tensor = strong / strong.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return rows @ rows.T


def _power(x: Tensor, exponent: float) -> Tensor:
    return torch.where(x > 1e-12, x.clamp(min=1e-12) ** exponent, 0.0)


def _outer(x: Tensor) -> Tensor:
    return x[:, None] * x
