"""What the weights of a model have seen: recordings, hashed subjects, sites, stores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import pandas as pd

from semantoks.config import parse, to_tree
from semantoks.data.mixture import Recordings, StoreMixture
from semantoks.data.reader import RecordingStore
from semantoks.data.recording import person_key, subject_key

#: Column of the index that states the data set of every recording.
DATA_SET = "dataset"
#: Names of folders that say how data were processed, and not whose they are.
_GENERIC = {"bids", "cpac", "data", "derivatives", "fmriprep", "halfpipe", "rawdata", "timeseries"}
_GENERIC |= {"xcp_d", "xcpd"}

#: A data set, and the name of a subject in it.
Person = tuple[str, str]


def data_sets(store: RecordingStore) -> pd.Series[str]:
    """Return the data set of every recording of a store.

    It is what the column ``dataset`` of the index states; else the name of what the store was
    prepared from; else, or where that name is a pipeline's, the name of the store's folder.
    """
    source = str(store.header.get("provenance", {}).get("source") or "")
    name = store.path.name if source.casefold() in {"", *_GENERIC} else source
    stated = store.table.get(DATA_SET)
    if stated is None:
        return pd.Series(name, index=store.table.index, dtype=object)
    return stated.astype(object).where(stated.notna(), name).astype(str)


def people_of(store: RecordingStore) -> set[Person]:
    """Return the people of a store."""
    return set(zip(data_sets(store), store.table["subject"].astype(str), strict=True))


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Which of some subjects weights have seen."""

    people: tuple[str, ...] = ()
    """Those of the same name in the same data set."""
    names: tuple[str, ...] = ()
    """Those of the same name in another data set, who are other people as far as is stated."""
    unstated: tuple[str, ...] = ()
    """Those of the same name where older weights do not state the data set."""


@dataclass(frozen=True, kw_only=True)
class SeenStore:
    """A store that weights have seen, or a part of one."""

    name: str
    """Name of its folder."""
    fingerprint: str
    """`RecordingStore.fingerprint`."""
    data_sets: tuple[str, ...] | None = None
    """Data sets of its recordings; None where an older model does not state them."""


@dataclass(frozen=True, kw_only=True)
class SeenData:
    """What weights have seen in pretraining and fine-tuning; None is unknown, not nothing."""

    n_recordings: int | None = None
    """Number of recordings."""
    n_subjects: int | None = None
    """Number of subjects."""
    subjects: tuple[str, ...] | None = None
    """Hashed names of subjects, sorted; see `semantoks.data.recording.subject_key`."""
    people: tuple[str, ...] | None = None
    """Hashed subjects with their data set, sorted; see `semantoks.data.recording.person_key`."""
    sites: tuple[str, ...] | None = None
    """Sites, sorted."""
    stores: tuple[SeenStore, ...] = ()
    """Stores."""
    epochs: int | None = None
    """Epochs of pretraining."""
    steps: int | None = None
    """Steps of pretraining, where an older model states them."""
    source: str | None = None
    """File of the authors' that the weights come from and that states nothing."""
    fine_tuned: bool = False
    """Labels were seen, too."""

    @classmethod
    def of(cls, recordings: Recordings, *, epochs: int | None = None) -> Self:
        """Return what is seen in training on some recordings.

        Subjects of a mixture are recorded by the names that they have in their stores.

        Parameters
        ----------
        recordings : RecordingStore or StoreMixture
        epochs : int, optional
        """
        parts = recordings.stores if isinstance(recordings, StoreMixture) else (recordings,)
        stores = [store for store in parts if len(store)]
        people = set[Person]().union(*(people_of(store) for store in stores))
        sites = {str(s) for store in stores for s in store.table["site"].dropna()}
        return cls(
            n_recordings=len(recordings),
            n_subjects=int(recordings.table["subject"].nunique()),
            subjects=_sorted(subject_key(subject) for _, subject in people),
            people=_sorted(person_key(*person) for person in people),
            sites=_sorted(sites),
            stores=tuple(
                SeenStore(
                    name=s.path.name, fingerprint=s.fingerprint, data_sets=_sorted(data_sets(s))
                )
                for s in stores
            ),
            epochs=epochs,
        )

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Self:
        """Return what `to_json` described.

        Raises
        ------
        ConfigError
            If a key is unknown or a value ill-typed.
        """
        return parse(cls, tree)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; what few models state is left out where it is not stated."""
        rare = {f.name: f.default for f in fields(self) if f.name in _RARE}
        tree = {k: v for k, v in to_tree(self).items() if k not in rare or v != rare[k]}
        stores = [{k: v for k, v in store.items() if v is not None} for store in tree["stores"]]
        return tree | {"stores": stores}

    @property
    def data_sets(self) -> tuple[str, ...] | None:
        """All data sets seen; None where a store's are unknown."""
        stated = [store.data_sets for store in self.stores]
        if not stated or None in stated:
            return None
        return _sorted(name for names in stated for name in names or ())

    def seen_among(self, people: Iterable[Person]) -> Overlap | None:
        """Return which of these people were seen; None if unknown.

        Parameters
        ----------
        people : iterable of (str, str)
            Data sets and names of subjects, e.g. `people_of` a store.
        """
        if self.subjects is None:
            return None
        names, keys = set(self.subjects), set(self.people or ())
        alike = [person for person in people if subject_key(person[1]) in names]
        seen = {person for person in alike if person_key(*person) in keys}
        others = _sorted(subject for data_set, subject in alike if (data_set, subject) not in seen)
        # Every name belongs to one person at least: with fewer people, some have no data set.
        stated = len(keys) >= len(names)
        return Overlap(
            people=_sorted(subject for _, subject in seen),
            names=others if stated else (),
            unstated=() if stated else others,
        )

    def sites_among(self, names: Iterable[str]) -> list[str] | None:
        """Return which of these sites were seen, each once and sorted; None if unknown."""
        return None if self.sites is None else sorted(set(self.sites) & set(names))


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))


_RARE = ("people", "steps", "source", "fine_tuned")
_NOTHING = SeenData(n_recordings=0, n_subjects=0, subjects=(), people=(), sites=())


def after_fine_tuning(before: SeenData | None, store: RecordingStore | None) -> SeenData:
    """Return what weights have seen after a fine-tuning.

    Parameters
    ----------
    before : SeenData or None
        None for random weights.
    store : RecordingStore or None
        None if the recordings were arrays, whose subjects are unknown.
    """
    before = replace(before or _NOTHING, fine_tuned=True)
    if before.subjects is None or store is None:
        unknown = replace(before, n_recordings=None, n_subjects=None, subjects=None, sites=None)
        return replace(unknown, people=None)
    now = SeenData.of(store)
    subjects = {*before.subjects, *(now.subjects or ())}
    people = {*(before.people or ()), *(now.people or ())}
    return replace(
        before,
        n_recordings=(before.n_recordings or 0) + len(store),
        n_subjects=max(len(subjects), len(people)),
        subjects=_sorted(subjects),
        people=_sorted(people),
        sites=_sorted({*(before.sites or ()), *(now.sites or ())}),
        stores=(*before.stores, *now.stores),
    )
