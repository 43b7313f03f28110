"""Remarks on a cohort: what is worth a look, in one line each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from semantoks.errors import listed

_EXAMPLES = 2


def gathered(notes: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    """Return the notes of recordings, alike ones in one line.

    Parameters
    ----------
    notes : iterable of (str, sequence of str)
        Identifier of a recording, and its notes.

    Examples
    --------
    >>> gathered([("sub-1", ["TR 2 s (sidecar) overrides 1 s (header)"]), ("sub-2", [])])
    ['TR 2 s (sidecar) overrides 1 s (header): sub-1']
    """
    alike: dict[str, list[str]] = defaultdict(list)
    for id_, own in notes:
        for note in own:
            alike[note].append(id_)
    return [f"{note}: {listed(ids, shown=_EXAMPLES)}" for note, ids in alike.items()]


def doubled(digests: Mapping[str, str]) -> list[str]:
    """Return which recordings hold the same signal, of identifiers and digests of signals.

    Examples
    --------
    >>> doubled({"sub-1": "a", "sub-2": "b", "sub-3": "a"})
    ['sub-1 and sub-3 hold the same signal: keep one, or correct the list of files']
    """
    same: dict[str, list[str]] = defaultdict(list)
    for id_, digest in digests.items():
        same[digest].append(id_)
    return [
        f"{' and '.join(ids)} hold the same signal: keep one, or correct the list of files"
        for ids in same.values()
        if len(ids) > 1
    ]


def mixed_tasks(tasks: Sequence[str | None], *, folder: bool) -> list[str]:
    """Return that recordings of several tasks come into one store, and how one is chosen.

    Parameters
    ----------
    tasks : sequence of str or None
        Of every recording.
    folder : bool
        Whether the source is a derivatives folder, of which entities choose.
    """
    counts = Counter(task or "not stated" for task in tasks)
    if len(counts) < 2:
        return []
    told = ", ".join(f"{task} {n}" for task, n in counts.most_common())
    first = next((task for task, _ in counts.most_common() if task != "not stated"), "")
    way = f"; --where task={first} reads one" if folder else ""
    return [f"several tasks in one store: {told}{way}"]
