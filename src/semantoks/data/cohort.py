"""What is decided over a cohort, before its recordings are read: labels that agree, of one kind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from semantoks.data.labels import spelled
from semantoks.data.phenotypes import Phenotypes
from semantoks.errors import InputError


def contradictions(
    facts: Mapping[str, Mapping[str, Any]],
    phenotypes: Phenotypes | None,
    *,
    varying: Collection[str] = (),
    keep_case: Collection[str] = (),
) -> dict[str, str]:
    """Return the recordings that contradict their tables or their subject's others, and how.

    Parameters
    ----------
    facts : mapping
        By identifier of the recording: ``subject``, ``session``, and what the source's table states
        of it. Empty where the source states nothing before it is read.
    phenotypes : Phenotypes, optional
    varying : collection of str
        Columns whose labels may differ within a subject.
    keep_case : collection of str
        Columns whose labels differ by spelling, too.

    Raises
    ------
    InputError
        A column mixes kinds of values: no recording is to blame.
    """
    found: dict[str, str] = {}
    labels: dict[tuple[str, str], dict[str, list[tuple[str, Any]]]]
    labels = defaultdict(lambda: defaultdict(list))
    columns: dict[str, list[Any]] = defaultdict(list)
    for id_, own in facts.items():
        try:
            row = phenotypes.fill(own, id_) if phenotypes else own
        except InputError as error:
            found[id_] = str(error)
            continue
        for name, value in row.items():
            columns[name].append(value)
            if isinstance(value, (str, bool, np.bool_)) and name not in varying:
                key = str(value) if name in keep_case else spelled(str(value))
                labels[str(own["subject"]), name][key].append((id_, value))
    for name, values in columns.items():
        one_kind(name, values)
    for (subject, name), alike in labels.items():
        if len(alike) > 1 and name not in _OF_RECORDINGS:
            why = str(differing(subject, name, [held[0] for held in alike.values()]))
            found |= {id_: why for held in alike.values() for id_, _ in held}
    return found


#: Facts of a recording, which differ within a subject.
_OF_RECORDINGS = ("session", "task", "acquisition", "run", "site")


def differing(subject: str, name: str, held: Iterable[tuple[str, Any]]) -> InputError:
    """Return the error for labels of one subject that differ.

    Parameters
    ----------
    subject, name : str
        Whose labels, and their column.
    held : iterable of (str, object)
        A recording or file, and its label.
    """
    told = ", ".join(f"{label!r} ({where})" for where, label in held)
    rule = f"subject {subject!r} has several: {told}"
    fix = f"Correct the labels, or declare that they may vary (varying, --varying {name})"
    return InputError(rule, field=name, fix=fix)


def one_kind(name: str, values: Iterable[Any], file: Path | None = None) -> None:
    """Refuse a column that mixes text, numbers and truth values; unknown ones are of any kind."""
    kinds = {_kind(value) for value in values if not is_unknown(value)}
    if len(kinds) > 1:
        rule = f"mixes {' and '.join(sorted(kinds))} over the recordings"
        raise InputError(rule, file=file, field=name, fix="Give values of one kind")


def is_unknown(value: Any) -> bool:
    """Return whether a value is None or NaN."""
    return value is None or (isinstance(value, float) and np.isnan(value))


def _kind(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "truth values"
    return "text" if isinstance(value, str) else "numbers"
