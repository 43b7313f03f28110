"""`Channels`: what a model binds to. `TokenRows`: which of them every token reads."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.atlas.networks import canonical_network, in_canonical_order
from semantoks.errors import InputError
from semantoks.files import staged_file


class Channels(ABC):
    """Named channels in a fixed order, each with a group and, where known, a place.

    The ROIs of a `Parcellation` are channels, grouped by functional network.

    Attributes
    ----------
    name : str
        What the channels together are called, in messages.
    labels : tuple of str, length C
        Name of every channel, in order.
    coordinates : ndarray of shape (C, 3)
        Places in millimetres, NaN where unknown.
    space : str
        Space of the coordinates.
    groups : tuple of str, length C
        Group of every channel.
    """

    name: str
    labels: tuple[str, ...]
    coordinates: NDArray[np.float64]
    space: str

    @property
    @abstractmethod
    def groups(self) -> tuple[str, ...]:
        """Group of every channel, length C."""

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def group_names(self) -> tuple[str, ...]:
        """Groups present: networks of the method in its order, then others by first appearance."""
        return in_canonical_order(self.groups)

    @cached_property
    def group_indices(self) -> tuple[NDArray[np.int64], ...]:
        """Places of the channels of every group, in the order of `group_names`."""
        groups = np.array(self.groups)
        return tuple(np.flatnonzero(groups == name) for name in self.group_names)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the ordered labels, hexadecimal."""
        return sha256("\n".join(self.labels).encode()).hexdigest()

    @cached_property
    def _lookup(self) -> dict[str, int]:
        """Place of the channel of every name."""
        return {label: index for index, label in enumerate(self.labels)}

    def indices_of(self, names: Sequence[str], source: str | Path = "recording") -> list[int]:
        """Return the place of the channel of every name.

        Parameters
        ----------
        names : sequence of str
            Some of the channels, in any order, by any of their names.
        source : str or path
            Where the names come from, for messages.

        Raises
        ------
        InputError
            A name is unknown, a bare number, or names a channel a second time.
        """
        unknown = [name for name in names if name not in self._lookup]
        if unknown:
            numbered = all(str(name).strip().isdecimal() for name in names)
            rule = "numbers the columns instead of naming them; an order is never guessed"
            if not numbered:
                rule = f"{len(unknown)} of {len(names)} names are not ROIs of {self.name}: "
                rule += ", ".join(map(repr, unknown[:3])) + (", ..." if len(unknown) > 3 else "")
            raise self._misfit(rule, names, source)
        indices = [self._lookup[name] for name in names]
        repeated = [self.labels[i] for i, count in Counter(indices).items() if count > 1]
        if repeated:
            rule = f"names {len(repeated)} ROIs more than once: {', '.join(repeated[:3])}"
            raise InputError(rule, file=source, field="ROI names")
        return indices

    def _misfit(self, rule: str, names: Sequence[str], source: str | Path) -> InputError:  # noqa: ARG002
        """Return the error about `names` that are not those of these channels."""
        fix = f"Name every column as {self.name} does: {self.labels[0]}, ..., {self.labels[-1]}"
        return InputError(rule, file=source, field="ROI names", fix=fix)

    def to_frame(self) -> pd.DataFrame:
        """Return the table with the columns label, network (the group), x, y, z and space."""
        x, y, z = self.coordinates.T
        columns = {"label": self.labels, "network": self.groups, "x": x, "y": y, "z": z}
        return pd.DataFrame({**columns, "space": self.space})

    def save(self, path: str | Path) -> None:
        """Write the table to a new TSV file that `Parcellation.load` reads back."""
        with staged_file(path) as file:
            self.to_frame().to_csv(file, sep="\t", index=False, lineterminator="\n")


@dataclass(frozen=True, eq=False)
class TokenRows:
    """The rows of a model's token grid, and which channels each of them reads.

    Parameters
    ----------
    names : tuple of str, length N
        What every row stands for.
    channels : tuple of int arrays, length N
        Places of the channels that a row reads.
    groups : int array of shape (N,)
        Canonical group of every row: rows with the same number belong together.
    """

    names: tuple[str, ...]
    channels: tuple[NDArray[np.int64], ...]
    groups: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        channels: Channels,
        names: Sequence[str],
        members: Sequence[Sequence[int] | NDArray[np.integer]],
    ) -> TokenRows:
        """Return rows that read these channels; a row belongs where its first channel does."""
        groups = [canonical_network(channels.groups[places[0]]) for places in members]
        return cls(
            tuple(names),
            tuple(np.asarray(places, np.int64) for places in members),
            np.unique(groups, return_inverse=True)[1],
        )

    @classmethod
    def by_group(cls, channels: Channels) -> TokenRows:
        """Return one row per group of channels."""
        return cls.of(channels, channels.group_names, channels.group_indices)

    @classmethod
    def by_channel(cls, channels: Channels) -> TokenRows:
        """Return one row per channel."""
        return cls.of(channels, channels.labels, [[i] for i in range(len(channels))])

    def __len__(self) -> int:
        return len(self.names)

    def missing(self, absent: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which rows have no data: those none of whose channels have any.

        Parameters
        ----------
        absent : ndarray of bool, shape (n, C)
            Channels without data.

        Returns
        -------
        ndarray of bool, shape (n, N)
        """
        return np.stack([absent[:, places].all(axis=1) for places in self.channels], axis=1)
