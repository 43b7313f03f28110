"""Alarms over one scan under two names; see `semantoks.evaluate.checks.duplicates`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.data.splits import Fold
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.evaluate.checks.alarm import Alarm, Severity
from semantoks.evaluate.checks.duplicates import find_duplicates

KIND = "duplicate recordings"


def duplicate_recordings(store: RecordingStore, folds: Sequence[Fold] = ()) -> list[Alarm]:
    """Find pairs of recordings of a store that are one scan.

    Parameters
    ----------
    store : RecordingStore
    folds : sequence of Fold
        Rows of the store's table. A pair that one of them divides is a leak; one that is only
        trained on, only tested together, or not used at all affects no score: a notice. Without
        folds it is unknown, a warning.
    """
    pairs = find_duplicates(store)
    divided = _divided(pairs, folds)
    if not folds:
        return _alarm(pairs, "are one scan each", "warning")
    return [
        *_alarm(pairs[divided], "are one scan each, trained on and tested in one fold", "leak"),
        *_alarm(pairs[~divided], "are one scan each; no fold trains on one and tests the other"),
    ]


def shared_recordings(
    tested: RecordingStore, other: RecordingStore, use: Literal["training", "pretraining"]
) -> list[Alarm]:
    """Find tested recordings that are scans of another store, under any name.

    Parameters
    ----------
    tested, other : RecordingStore
    use : {"training", "pretraining"}
        What the other store is used for.

    Returns
    -------
    list of Alarm
        A leak, or a notice that the stores cannot be compared, with the reason.
    """
    try:
        pairs = find_duplicates(tested, other)
    except InputError as error:
        what = f"scans were not compared with those of the {use} store: it {error.rule}"
        return [Alarm(kind=KIND, what=what, severity="notice", found=(other.path.name,))]
    return _alarm(pairs, f"of a tested recording and one of the {use} store are one scan", "leak")


def _divided(pairs: pd.DataFrame, folds: Sequence[Fold]) -> NDArray[np.bool_]:
    """Return which pairs have one recording in the training and one in the test part of a fold."""
    first, second = (pairs[c].to_numpy(np.intp) for c in ("first_row", "second_row"))
    divided = np.zeros(len(pairs), bool)
    for fold in folds:
        for train, test in ((first, second), (second, first)):
            divided |= np.isin(train, fold.train) & np.isin(test, fold.test)
    return divided


def _alarm(pairs: pd.DataFrame, what: str, severity: Severity = "notice") -> list[Alarm]:
    if pairs.empty:
        return []
    strangers = int((pairs["first_subject"] != pairs["second_subject"]).sum())
    counted = f"{len(pairs)} pair{'s' if len(pairs) > 1 else ''}"
    names = f" ({strangers} under two subjects)" if strangers else ""
    found = []
    for row in pairs.to_dict("records"):
        shift = f", {row['shift_s']:+g} s" if row["shift_s"] else ""
        found.append(f"{row['first']} = {row['second']} (r = {row['correlation']:.2f}{shift})")
    what = f"{counted} {what}{names}"
    return [Alarm(kind=KIND, what=what, severity=severity, found=tuple(found), of_people=True)]
