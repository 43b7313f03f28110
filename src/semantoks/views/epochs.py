"""Order of subjects in an epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from semantoks.errors import ConfigError
from semantoks.views.crops import IntArray


class WeightedEpochs:
    """Epochs in which every group of people makes up its share.

    An epoch has as many places as there are people, divided among the groups by their weights (the
    largest remainders get the places left over) and spread evenly, so that every batch has the same
    shares, too, to the nearest place or two. A group with more people than places shows a random
    part of them, one with fewer shows all before any again, and no person twice in a batch.

    Parameters
    ----------
    group_of : int array of shape (n_people,)
        Group of every person, 0 to G - 1.
    weights : sequence of G float
        Positive.
    steps : int
        Batches of an epoch.

    Raises
    ------
    ConfigError
        If a group would get no place, or a batch more places than the group has people.
    """

    def __init__(self, group_of: IntArray, weights: Sequence[float], steps: int) -> None:
        n = len(group_of)
        self._people = [np.flatnonzero(group_of == g) for g in range(len(weights))]
        exact = n * np.asarray(weights, float) / sum(weights)
        counts = np.floor(exact).astype(np.int64)
        counts[np.argsort(counts - exact, kind="stable")[: n - counts.sum()]] += 1
        # Group g's places lie at (k + 1/2) / count of the epoch.
        when = np.concatenate([(np.arange(c) + 0.5) / max(c, 1) for c in counts])
        self._slots = np.repeat(np.arange(len(counts)), counts)[np.argsort(when, kind="stable")]
        batches = np.array_split(self._slots, steps)
        self._most = np.max([np.bincount(b, minlength=len(counts)) for b in batches], axis=0)
        for g, people in enumerate(self._people):
            if counts[g] == 0 or self._most[g] > len(people):
                raise ConfigError(
                    f"gives store number {g + 1}, of {len(people)} people, {counts[g]} of {n} "
                    f"places of an epoch and up to {self._most[g]} of a batch; it needs one, and "
                    "no person comes twice in a batch",
                    field="data.weights",
                    value=tuple(weights),
                    fix="Weigh it otherwise, leave it out, or use smaller batches",
                )

    def draw(self, rng: np.random.Generator) -> IntArray:
        """Return the people of an epoch in order, shape (n_people,)."""
        order = np.empty_like(self._slots)
        for g, people in enumerate(self._people):
            mine = self._slots == g
            order[mine] = _rounds(people, int(mine.sum()), int(self._most[g]), rng)
        return order


def _rounds(people: IntArray, n: int, apart: int, rng: np.random.Generator) -> IntArray:
    """Return n of the people, all before any comes again, no person twice within `apart` places."""
    shown = rng.permutation(people)
    while len(shown) < n:
        # The last ones of a round come last again, in their order.
        late = shown[-apart:]
        others = rng.permutation(np.setdiff1d(people, late))
        shown = np.concatenate([shown, others, late])
    return shown[:n]
