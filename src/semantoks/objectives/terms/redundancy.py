"""Terms of VICReg and Barlow Twins.

Sources: Bardes, Ponce and LeCun, ICLR 2022, section 4; Zbontar et al., ICML 2021, equation 2.
With a process group the statistics are those of the rows of all processes
(see `semantoks.objectives.parallel`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from semantoks.objectives.parallel import at_least_float32, count, total


def invariance(one: Tensor, two: Tensor) -> Tensor:
    """Return the mean squared distance between the embeddings of two views (equation 5).

    Parameters
    ----------
    one, two : Tensor of shape (m, d)
        Row i of both is recording i.

    Returns
    -------
    Tensor of shape ()
    """
    distance = (at_least_float32(one) - at_least_float32(two)).square().sum()
    return total(distance) / count(len(one), device=one.device)


def covariance_matrix(z: Tensor) -> Tensor:
    """Return the unbiased covariance matrix of the rows (equation 3).

    Parameters
    ----------
    z : Tensor of shape (m, d)

    Returns
    -------
    Tensor of shape (d, d)
    """
    centred, n = _centred(z)
    return total(centred.T @ centred) / max(n - 1, 1)


def cross_correlation(one: Tensor, two: Tensor, *, eps: float = 1e-5) -> Tensor:
    """Return the correlations over rows of every dimension of one view with those of the other.

    Parameters
    ----------
    one, two : Tensor of shape (m, d)
        Row i of both is recording i.
    eps : float
        Added to the variances, against an infinite gradient.

    Returns
    -------
    Tensor of shape (d, d)
    """
    (one, n), (two, _) = _centred(one), _centred(two)
    covariance = total(one.T @ two) / n
    variances = [total(z.square().sum(dim=0)) / n + eps for z in (one, two)]
    return covariance * variances[0].rsqrt()[:, None] * variances[1].rsqrt()


def _centred(z: Tensor) -> tuple[Tensor, int]:
    """Return the rows less the mean of those of all processes, and how many these are."""
    z = at_least_float32(z)
    n = count(len(z), device=z.device)
    # The derivative by the mean is zero over all rows, but not over those of one process.
    return z - (total(z.detach().sum(dim=0)) / n).detach(), n


def variance_hinge(covariance: Tensor, *, target: float = 1.0, eps: float = 1e-4) -> Tensor:
    """Return how far the standard deviations stay below a target (equations 1 and 2).

    Parameters
    ----------
    covariance : Tensor of shape (d, d)
    target : float
        gamma.
    eps : float
        Added to the variances, against an infinite gradient.

    Returns
    -------
    Tensor of shape ()
    """
    deviation = (covariance.diagonal() + eps).sqrt()
    return torch.relu(target - deviation).mean()


def off_diagonal(covariance: Tensor) -> Tensor:
    """Return the sum of squared covariances of different dimensions, over d (equation 4).

    Parameters
    ----------
    covariance : Tensor of shape (d, d)

    Returns
    -------
    Tensor of shape ()
    """
    squares = covariance.square()
    return (squares.sum() - squares.diagonal().sum()) / len(covariance)
