"""Which patches or tokens are computed, in batches of few different sizes.

Every step masks something else. A matrix product of a size that was not met before has its code
generated first (oneDNN), or its kernel chosen (cuBLAS), and caches of both grow: on a CPU that took
a third of a small model's step. So a few that nobody needs are computed, too.
"""

from __future__ import annotations

from torch import Tensor

_MOST_SIZES, _UNIT = 16, 16


def few_sizes(n: int, most: int) -> int:
    """Round `n` up to one of at most 16 sizes, multiples of 16 up to `most`."""
    step = -(-most // (_MOST_SIZES * _UNIT)) * _UNIT
    return min(most, -(-n // step) * step)


def places(needed: Tensor) -> tuple[Tensor, int]:
    """Return where to compute, and how many of these places are needed.

    Parameters
    ----------
    needed : Tensor of bool, shape (M,)

    Returns
    -------
    places : Tensor of int64, shape (R,)
        The needed ones in their order, then others: R is `few_sizes` of their number.
    n_needed : int
    """
    n_needed = int(needed.sum())
    order = needed.byte().argsort(descending=True, stable=True)
    return order[: few_sizes(n_needed, len(needed))], n_needed
