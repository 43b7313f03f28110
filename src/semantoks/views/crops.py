"""Crops: where views start, in time points of the store's TR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from semantoks.errors import ConfigError

IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """How the two views of a recording lie to each other; the default is the paper's."""

    spacing: Literal["random", "even"] = "random"
    """random: drawn anew each time; even: the first and the last place of the recording, in
    random order."""
    min_distance: int = 0
    """Smallest distance between the two starts, time points; 0 leaves them independent."""
    max_distance: int | None = None
    """Largest distance between the two starts, time points; null sets no limit."""

    def __post_init__(self) -> None:
        if self.spacing == "even" and (self.min_distance or self.max_distance is not None):
            raise ConfigError(
                "leaves no distance to choose",
                field="views.crops.spacing",
                value=self.spacing,
                fix="Leave min_distance and max_distance out, or choose random",
            )
        if self.min_distance < 0:
            raise ConfigError(
                "must not be negative", field="views.crops.min_distance", value=self.min_distance
            )
        if self.max_distance is not None and self.max_distance < self.min_distance:
            raise ConfigError(
                f"must be at least min_distance ({self.min_distance})",
                field="views.crops.max_distance",
                value=self.max_distance,
            )


@dataclass(frozen=True, kw_only=True)
class CropGroup:
    """Crops of one length that an objective asks for, of every recording."""

    n_views: int = 2
    """Crops per recording."""
    n_patches: int | None = None
    """Patches per crop; None: `encoder.n_patches`."""
    successive: bool = False
    """Crops follow one another without a gap, in time; else each is drawn by itself, or two of them
    as `views.crops` says."""
    halves: bool = False
    """Two crops that share no volume: what lies before and after a random place in the middle of
    the recording, each as long as a crop at most, and filled up with zeros."""
    pair_gap: int | None = None
    """Crops come in pairs, 0 and 1, 2 and 3, ..., that share no volume and have a gap of so many
    time points at most between them; every pair is drawn by itself, in random order."""
    across: bool = False
    """Every crop of a subject comes from another of its recordings, as far as there are any."""

    def __post_init__(self) -> None:
        for name in ("n_views", "n_patches"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError("must be at least 1", field=name, value=value)
        if self.halves and (self.n_views != 2 or self.successive):
            raise ConfigError("are two crops of their own kind", field="halves", value=True)
        if self.pair_gap is not None and (self.pair_gap < 0 or self.n_views % 2):
            raise ConfigError("needs pairs, and no negative gap", field="pair_gap")
        kinds = (self.halves, self.successive, self.across, self.pair_gap is not None)
        if sum(kinds) > 1:
            raise ConfigError("only one of halves, successive, across and pair_gap can hold")


@dataclass(frozen=True, kw_only=True)
class ViewPlan:
    """What an objective asks the loader for."""

    groups: tuple[CropGroup, ...] = (CropGroup(),)
    """Crops by length; the first group is the batch itself, the others are its `more`."""
    clean: bool = False
    """Also give the views before augmentation."""


def draw_group(
    group: CropGroup,
    lengths: IntArray,
    view_length: int,
    config: CropConfig,
    rng: np.random.Generator,
) -> IntArray:
    """Draw the starts of a group's crops.

    Parameters
    ----------
    group : CropGroup
    lengths : int array of shape (B,), or (n_views, B) with `CropGroup.across`
        Time points of the recordings.
    view_length : int
        Time points of a crop of this group.
    config : CropConfig
        Applies to two crops that are drawn.
    rng : numpy Generator

    Returns
    -------
    int array of shape (n_views, B)
        Successive crops of a recording that is too short for them overlap, all by the same share.
    """
    room = np.maximum(np.asarray(lengths) - view_length, 0)
    if group.pair_gap is not None:
        shape = (group.n_views // 2, room.size)
        distance = np.minimum(view_length + rng.integers(0, group.pair_gap + 1, size=shape), room)
        first = rng.integers(0, room - distance + 1)
        pairs = rng.permuted(np.stack([first, first + distance], axis=1), axis=1)
        return pairs.reshape(group.n_views, room.size)
    if group.across:
        return rng.integers(0, room + 1)
    if group.n_views == 2 and not group.successive:
        return draw_starts(lengths, view_length, config, rng)
    if not group.successive:
        return rng.integers(0, room + 1, size=(group.n_views, room.size))
    gap = np.minimum(view_length, room // max(group.n_views - 1, 1))
    first = rng.integers(0, room - gap * (group.n_views - 1) + 1)
    starts: IntArray = first + gap * np.arange(group.n_views)[:, None]
    return starts


def draw_halves(
    lengths: IntArray, view_length: int, rng: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Draw two crops per recording that share no volume, before and after a random place.

    The place lies between 30 and 70 % of the recording.

    Parameters
    ----------
    lengths : int array of shape (B,)
        Time points of the recordings, 2 at least.
    view_length : int
        Longest crop.
    rng : numpy Generator

    Returns
    -------
    starts, lengths : int arrays of shape (2, B)
    """
    low = np.maximum(3 * lengths // 10, 1)
    place = rng.integers(low, np.maximum(7 * lengths // 10, low) + 1)
    starts = np.stack([np.maximum(place - view_length, 0), place])
    ends = np.stack([place, np.minimum(place + view_length, lengths)])
    return starts, ends - starts


def draw_starts(
    lengths: IntArray, view_length: int, config: CropConfig, rng: np.random.Generator
) -> IntArray:
    """Draw the starts of two views per recording.

    Without distances the two are independent and uniform in [0, length - view_length]
    (paper, views). With them the distance is drawn first, then the place of the pair; a
    recording too short for the smallest distance gets the largest that it has room for.

    Parameters
    ----------
    lengths : int array of shape (B,)
        Time points of the recordings; one shorter than a view starts at 0.
    view_length : int
    config : CropConfig
    rng : numpy Generator

    Returns
    -------
    int array of shape (2, B)
    """
    room = np.maximum(np.asarray(lengths) - view_length, 0)
    if config.spacing == "even":
        return rng.permuted(np.stack([np.zeros_like(room), room]), axis=0)
    if config.min_distance == 0 and config.max_distance is None:
        return rng.integers(0, room + 1, size=(2, room.size))
    farthest = room if config.max_distance is None else np.minimum(room, config.max_distance)
    distance = rng.integers(np.minimum(config.min_distance, farthest), farthest + 1)
    first = rng.integers(0, room - distance + 1)
    pair = np.stack([first, first + distance])
    swap = rng.random(room.size) < 0.5
    return np.where(swap, pair[::-1], pair)


def evenly_spaced_starts(length: int, view_length: int, n_crops: int) -> IntArray:
    """Return the starts of `n_crops` crops spread evenly from the first to the last place.

    Parameters
    ----------
    length : int
        Time points of the recording; one not longer than a view gives one crop.
    view_length : int
    n_crops : int

    Returns
    -------
    int array of shape (n,)
        Sorted, distinct; n <= n_crops.
    """
    room = max(length - view_length, 0)
    return np.unique(np.rint(np.linspace(0, room, n_crops)).astype(np.int64))
