"""Blocks of features: which columns are scaled together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from semantoks.errors import InputError

#: How the columns of a block come to one scale: as a whole, or every column on its own.
Scaling = Literal["block", "feature"]


@dataclass(frozen=True, kw_only=True)
class FeatureBlock:
    """Columns of features that are scaled together.

    Several blocks side by side weigh the same, whatever their numbers of columns and their units.

    Parameters
    ----------
    name : str
    n_columns : int
    scaling : {"block", "feature"}
        Divide the centred block by the root of its total variance, so that the proportions between
        its columns stay (entries of a matrix, coordinates of an embedding); or standardise every
        column first (an age, a site and a mean FD have no common unit).

    Raises
    ------
    InputError
        If there is no column, or the scaling is unknown.
    """

    name: str
    n_columns: int
    scaling: Scaling = "block"

    def __post_init__(self) -> None:
        if self.n_columns < 1:
            rule = f"the block {self.name!r} must have at least 1 column"
            raise InputError(rule, field="n_columns", value=self.n_columns)
        if self.scaling not in get_args(Scaling):
            rule = f"must be {' or '.join(get_args(Scaling))}"
            raise InputError(rule, field="scaling", value=self.scaling)


def check_blocks(blocks: Sequence[FeatureBlock], n_columns: int) -> tuple[FeatureBlock, ...]:
    """Return blocks side by side, after comparing them with the features.

    Raises
    ------
    InputError
        If they do not have the columns of the features, or two have one name.
    """
    names = [block.name for block in blocks]
    if len(set(names)) < len(names):
        raise InputError("must have names that differ", field="blocks", value=names)
    total = sum(block.n_columns for block in blocks)
    if total != n_columns:
        rule = f"must have the {n_columns} columns of the features together"
        raise InputError(rule, field="blocks", value=total)
    return tuple(blocks)


def blocks_of(model: Any, n_columns: int) -> tuple[FeatureBlock, ...]:
    """Return the blocks of a model's features.

    A model with several states them in the attribute `blocks_`, once it is fitted; one with a
    single block may state its `scaling`.

    Parameters
    ----------
    model : array or transformer
    n_columns : int
        Columns of its features.

    Raises
    ------
    InputError
        If the blocks do not have the columns of the features, or a scaling is unknown.
    """
    stated = getattr(model, "blocks_", None)
    if stated is not None:
        return check_blocks(stated, n_columns)
    scaling: Scaling = getattr(model, "scaling", "block")
    return (FeatureBlock(name="features", n_columns=n_columns, scaling=scaling),)
