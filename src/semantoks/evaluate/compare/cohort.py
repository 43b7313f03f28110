"""Recordings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from semantoks.arrays import Rows
from semantoks.data.designs import AcrossStores, Design
from semantoks.data.store import RecordingStore


@dataclass(frozen=True, eq=False)
class Cohort:
    """The recordings of an evaluation: those of one store, or of a training and a tested store.

    Parameters
    ----------
    stores : tuple of RecordingStore
        The tested store is the last.
    table : DataFrame
        Their indices below each other, numbered from 0.
    """

    stores: tuple[RecordingStore, ...]
    table: pd.DataFrame

    @property
    def path(self) -> Any:
        """Folder of the tested store, for messages."""
        return self.stores[-1].path

    def __len__(self) -> int:
        return len(self.table)

    @classmethod
    def of(cls, store: RecordingStore, design: Design) -> Cohort:
        """Return the recordings that a design needs; see `AcrossStores.table_with`."""
        if not isinstance(design, AcrossStores):
            return cls((store,), store.table.reset_index(drop=True))
        return cls((design.train, store), design.table_with(store))

    def select(self, rows: Rows) -> RecordingStore:
        """Return the recordings of rows that are all of one store, as a store."""
        start = 0
        for store in self.stores:
            if rows.min() >= start and rows.max() < start + len(store):
                return store.select(rows - start)
            start += len(store)
        raise ValueError("rows of two stores")  # a design's fold never mixes them
