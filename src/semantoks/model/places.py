"""Batches of few different sizes: which patches or tokens are computed.

Every step masks something else. A matrix product of a size that was not met before has its code
generated first (oneDNN), or its kernel chosen (cuBLAS), and caches of both grow: on a CPU that took
a third of a small model's step. So a few are computed that are not needed.
"""

from __future__ import annotations

from torch import Tensor

_MOST_SIZES, _UNIT = 16, 16


def few_sizes(n: int, most: int) -> int:
    """Round `n` up to one of at most 16 sizes, multiples of 16 up to `most`."""
    step = -(-most // (_MOST_SIZES * _UNIT)) * _UNIT
    return min(most, -(-n // step) * step)


def places(needed: Tensor) -> list[tuple[Tensor, int]]:
    """Return for every row where to compute, and how many of these places are needed.

    Parameters
    ----------
    needed : Tensor of bool, shape (K, M)

    Returns
    -------
    list of (places, n_needed), length K
        Places: int64, the needed ones in their order, then others up to `few_sizes` of their
        number.
    """
    counts = needed.sum(dim=1).tolist()  # the one wait for a device
    order = needed.byte().argsort(dim=1, descending=True, stable=True)
    most = needed.shape[1]
    return [(row[: few_sizes(n, most)], n) for row, n in zip(order, counts, strict=True)]
