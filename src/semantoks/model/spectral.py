"""Spectral connectivity: a concave function of the eigenvalues of the correlation matrix R.

Fisher-z correlations are nearly linear in R; its large eigenvalues (global and motion-related
fluctuations) dominate them. R^a with a < 1 and log(I + b R) compress the eigenvalues, without
anything that is fitted on other people. Source: matrix power normalisation for second-order pooling
(Li et al., ICCV 2017); log(I + b R) up to a constant is the matrix whose trace is the coding rate
(Yu et al., NeurIPS 2020).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Compression = Literal["power", "log"]


def correlation_factors(x: Tensor) -> Tensor:
    """Return Y with R = Y Y^T, R the correlations of the channels.

    Parameters
    ----------
    x : Tensor of shape (B, C, T)
        A volume that is zero in every channel holds no data, e.g. past the end of a recording.

    Returns
    -------
    Tensor of shape (B, C, T)
        A channel without variance is zero.
    """
    kept = (x != 0).any(dim=1, keepdim=True)
    mean = x.sum(dim=2, keepdim=True) / kept.sum(dim=2, keepdim=True).clamp(min=1)
    centred = (x - mean) * kept
    norm = centred.norm(dim=2, keepdim=True)
    # What rounding leaves of a constant is no variance.
    noise = 8 * torch.finfo(x.dtype).eps * x.norm(dim=2, keepdim=True)
    return torch.where(norm > noise, centred / norm.clamp(min=torch.finfo(x.dtype).tiny), 0.0)


def spectral_connectivity(x: Tensor, kind: Compression, strength: float) -> Tensor:
    """Return R^a or log(I + b R) of the correlations R of every recording.

    With fewer volumes than channels the eigenvalues come from the smaller matrix of volumes; both
    functions are zero at zero, so that the null space of R contributes nothing.

    Parameters
    ----------
    x : Tensor of shape (B, C, T)
        As for `correlation_factors`.
    kind : {"power", "log"}
    strength : float
        The exponent a in (0, 1], or the factor b > 0.

    Returns
    -------
    Tensor of shape (B, C, C)
        Symmetric; a channel without variance has zeros in its row and column.
    """
    y = correlation_factors(x)
    wide = y.shape[2] < y.shape[1]
    values, vectors = torch.linalg.eigh(y.mT @ y if wide else y @ y.mT)
    # What rounding makes of a zero eigenvalue, a small power would make large.
    smallest = values[:, -1:] * values.shape[1] * torch.finfo(x.dtype).eps
    positive = values > smallest
    gain = FUNCTIONS[kind](values.clamp(min=torch.finfo(x.dtype).tiny), strength) * positive
    if wide:
        vectors = y @ vectors
        gain = torch.where(positive, gain / values, 0.0)
    found: Tensor = (vectors * gain.unsqueeze(1)) @ vectors.mT
    present = (y != 0).any(dim=2)  # exactly: eigenvectors are zero up to rounding
    return found * (present.unsqueeze(1) & present.unsqueeze(2))


def _log(values: Tensor, factor: float) -> Tensor:
    return torch.log1p(factor * values)


#: The functions by their kind: eigenvalues and strength to eigenvalues.
FUNCTIONS: dict[str, Callable[[Tensor, float], Tensor]] = {"power": torch.pow, "log": _log}


def triangle(matrices: Tensor) -> Tensor:
    """Return the lower triangles with the diagonals, off-diagonal values times the root of 2.

    Euclidean distances between triangles are Frobenius distances between the matrices.

    Parameters
    ----------
    matrices : Tensor of shape (B, C, C)

    Returns
    -------
    Tensor of shape (B, C (C + 1) / 2)
    """
    rows, columns = torch.tril_indices(*matrices.shape[1:], device=matrices.device)
    scale = torch.where(rows == columns, 1.0, 2.0**0.5).to(matrices)
    return matrices[:, rows, columns] * scale


def principal_axes(x: Tensor, k: int) -> Tensor:
    """Return scaled principal axes of centred rows, the largest first.

    From the Gram matrix of the rows, which are fewer than the columns. The sign of an axis makes
    its largest entry positive, so that the axes are a function of the rows alone.

    Parameters
    ----------
    x : Tensor of shape (n, p)
    k : int
        Number of axes.

    Returns
    -------
    Tensor of float32, shape (p, k)
        The coordinates ``x @ axes`` have a mean square of 1. Axes are zero where the rows span
        fewer directions.
    """
    values, vectors = torch.linalg.eigh((x @ x.T).double())
    values, vectors = values.flip(0)[:k], vectors.flip(1)[:, :k]
    real = values > values[0] * len(x) * torch.finfo(x.dtype).eps
    values, vectors = values[real], vectors[:, real]
    axes = x.T.double() @ (vectors / values.sqrt())
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    scale = (values.sum() / len(x) / k).sqrt()
    out = torch.zeros(x.shape[1], k)
    out[:, : len(values)] = axes * largest.sign() / scale
    return out
