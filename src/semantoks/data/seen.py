"""What the weights of a model have seen: recordings, hashed subjects, sites, stores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

from semantoks.config import parse, to_tree
from semantoks.data.mixture import Recordings, StoreMixture
from semantoks.data.reader import RecordingStore
from semantoks.data.recording import subject_key


@dataclass(frozen=True, kw_only=True)
class SeenStore:
    """A store that weights have seen, or a part of one."""

    name: str
    """Name of its folder."""
    fingerprint: str
    """`RecordingStore.fingerprint`."""


@dataclass(frozen=True, kw_only=True)
class SeenData:
    """What weights have seen in pretraining and fine-tuning; None is unknown, not nothing."""

    n_recordings: int | None = None
    """Number of recordings."""
    n_subjects: int | None = None
    """Number of subjects."""
    subjects: tuple[str, ...] | None = None
    """Hashed subjects, sorted; see `semantoks.data.recording.subject_key`."""
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

        Subjects of a mixture are recorded by the names that they have in their stores: a subject
        who is evaluated later counts as seen if any of the stores has the name.

        Parameters
        ----------
        recordings : RecordingStore or StoreMixture
        epochs : int, optional
        """
        parts = recordings.stores if isinstance(recordings, StoreMixture) else (recordings,)
        stores = [store for store in parts if len(store)]
        subjects = {subject_key(s) for store in stores for s in store.table["subject"]}
        sites = {str(s) for store in stores for s in store.table["site"].dropna()}
        return cls(
            n_recordings=len(recordings),
            n_subjects=int(recordings.table["subject"].nunique()),
            subjects=tuple(sorted(subjects)),
            sites=tuple(sorted(sites)),
            stores=tuple(SeenStore(name=s.path.name, fingerprint=s.fingerprint) for s in stores),
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
        return {k: v for k, v in to_tree(self).items() if k not in rare or v != rare[k]}

    def subjects_among(self, names: Iterable[str]) -> list[str] | None:
        """Return which of these subjects were seen, each once and sorted; None if unknown."""
        if self.subjects is None:
            return None
        keys = set(self.subjects)
        return sorted({name for name in names if subject_key(name) in keys})

    def sites_among(self, names: Iterable[str]) -> list[str] | None:
        """Return which of these sites were seen, each once and sorted; None if unknown."""
        return None if self.sites is None else sorted(set(self.sites) & set(names))


_RARE = ("steps", "source", "fine_tuned")
_NOTHING = SeenData(n_recordings=0, n_subjects=0, subjects=(), sites=())


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
        return replace(before, n_recordings=None, n_subjects=None, subjects=None, sites=None)
    now = SeenData.of(store)
    subjects = {*before.subjects, *(now.subjects or ())}
    return replace(
        before,
        n_recordings=(before.n_recordings or 0) + len(store),
        n_subjects=len(subjects),
        subjects=tuple(sorted(subjects)),
        sites=tuple(sorted({*(before.sites or ()), *(now.sites or ())})),
        stores=(*before.stores, *now.stores),
    )
