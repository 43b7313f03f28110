"""Remarks on a cohort: what is worth a look, in one line each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from semantoks.data.labels import spelled
from semantoks.data.phenotypes import JoinReport
from semantoks.errors import listed

_EXAMPLES = 2


def gathered(notes: Iterable[tuple[str, Sequence[str]]]) -> list[str]:
    """Return the notes of recordings, alike ones in one line; those of all name none.

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
    n = 0
    for id_, own in notes:
        n += 1
        for note in dict.fromkeys(own):
            alike[note].append(id_)
    return [
        note if len(ids) == n else f"{note}: {listed(ids, shown=_EXAMPLES)}"
        for note, ids in alike.items()
    ]


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


def mixed_tasks(tasks: Sequence[str | None]) -> list[str]:
    """Return that recordings of several tasks come into one store, and how one is chosen.

    Parameters
    ----------
    tasks : sequence of str or None
        Of every recording.
    """
    counts = Counter(task or "not stated" for task in tasks)
    if len(counts) < 2:
        return []
    told = ", ".join(f"{task} {n}" for task, n in counts.most_common())
    first = next((task for task, _ in counts.most_common() if task != "not stated"), "")
    return [f"several tasks in one store: {told}; --where task={first} reads one"]


def partly_joined(join: JoinReport) -> list[str]:
    """Return that a part of the recordings has no row in the tables of phenotypes."""
    n = join.n_joined + len(join.without_row)
    if not join.without_row:
        return []
    without = listed(join.without_row, shown=_EXAMPLES)
    lost = {spelled(subject) for subject in join.without_recording}
    zeros = any(spelled(id_.split("_")[0].removeprefix("sub-")) in lost for id_ in join.without_row)
    way = " (some differ from the table by leading zeros only: write the subjects alike)"
    told = f"phenotypes: {join.n_joined} of {n} recordings have a row; none has {without}"
    return [told + (way if zeros else "")]


def one_spelling(name: str, values: Sequence[object]) -> tuple[dict[object, str], list[str]]:
    """Return the spelling that stands for others, which differ in spelling only (`spelled`).

    Parameters
    ----------
    name : str
        Column of the values, for the remarks.
    values : sequence
        Values of all recordings; only texts are spelled.

    Returns
    -------
    dict
        The most frequent spelling, by the others.
    list of str
        A remark for each.

    Examples
    --------
    >>> one_spelling("sex", ["F", "M", "f", "F"])[0]
    {'f': 'F'}
    """
    alike: dict[str, Counter[str]] = defaultdict(Counter)
    for value in values:
        if isinstance(value, str):
            alike[spelled(value)][value] += 1
    spelling: dict[object, str] = {}
    remarks = []
    for counts in alike.values():
        (first, n), *others = counts.most_common()
        spelling |= {other: first for other, _ in others}
        told = ", ".join(f"{other!r} ({k})" for other, k in others)
        if others:
            way = f"--keep-case {name} keeps them apart"
            remarks.append(f"{name}: {told} is taken for {first!r} ({n}); {way}")
    return spelling, remarks
