"""Repeated measurements: two recordings of every person, or the halves of one."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.data.store import RecordingStore
from semantoks.errors import InputError


def session_pairs(table: pd.DataFrame) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows of the first two sessions at one site of every person who has two.

    Of a session its first recording counts: two runs of one session share the day and the position
    of the head. Where no session is stated, recordings count.

    Parameters
    ----------
    table : DataFrame
        Columns ``subject``, ``site``, ``session``, ``run`` and ``id``; recordings of a subject are
        ordered by session, run and id.

    Returns
    -------
    first, second : int arrays of shape (n_subjects,)
        In the order of the subjects' names.

    Raises
    ------
    InputError
        Fewer than 2 subjects have two sessions at one site.
    """
    keys = ["subject", "site", "session", "run", "id"]
    text = table[keys].fillna("").astype(str).assign(row=np.arange(len(table)))
    ordered = text.sort_values(keys)
    if table["session"].notna().any():
        ordered = ordered.drop_duplicates(["subject", "site", "session"])
    of_site = ordered.groupby(["subject", "site"], sort=False)
    pairs = ordered[(of_site["row"].transform("size") > 1) & (of_site.cumcount() < 2)]
    rows = pairs.groupby("subject").head(2)["row"].to_numpy().reshape(-1, 2)
    if len(rows) < 2:
        raise InputError(
            f"{len(rows)} of {text['subject'].nunique()} subjects have two sessions at one site; "
            "at least 2 are needed",
            field="subject",
            fix="Compare the halves of every scan",
        )
    return rows[:, 0], rows[:, 1]


def halves(store: RecordingStore, *, gap: float = 0.0) -> tuple[RecordingStore, RecordingStore]:
    """Return the first and the second half of every recording, on the same files.

    Subjects with several recordings keep their first one. Halves are equally long; a volume in the
    middle is left out where their number is odd.

    Parameters
    ----------
    store : RecordingStore
    gap : float
        Seconds left out in the middle, so that what a filter smears over the border counts in
        neither half.

    Raises
    ------
    InputError
        The gap is negative, or leaves a recording fewer than two volumes per half.
    """
    if gap < 0:
        raise InputError("must not be negative", field="gap", value=gap)
    order = store.table.assign(**{"": np.arange(len(store))}).sort_values(
        ["subject", "session", "run", "id"], na_position="first"
    )
    chosen = store.select(order.drop_duplicates("subject")[""].sort_values().to_numpy())
    lengths = chosen.table["length"].to_numpy(np.int64)
    half = (lengths - int(np.ceil(gap / store.tr - 1e-9))) // 2
    if (half < 2).any():
        i = int(np.flatnonzero(half < 2)[0])
        rule = f"is too short for two halves and a gap of {gap:g} s"
        value = f"{lengths[i] * store.tr:g} s"
        raise InputError(rule, file=chosen.table["id"].iloc[i], field="length", value=value)
    times = {"id": chosen.table["id"], "duration": half * store.tr}
    start = chosen.table["offset"].to_numpy(
        np.float64
    )  # onsets count from the source's first volume
    first = chosen.trials(pd.DataFrame({**times, "onset": start}))
    second = chosen.trials(pd.DataFrame({**times, "onset": start + (lengths - half) * store.tr}))
    return first, second


def comparable(table: pd.DataFrame) -> tuple[NDArray[np.str_], NDArray[np.bool_]]:
    """Return everyone's site, and who shares it with another person.

    Parameters
    ----------
    table : DataFrame
        One row per person. Where no site is stated, all people are compared.

    Returns
    -------
    sites : array of str, shape (n,)
    kept : bool array of shape (n,)
        Not the people who are alone at their site, or whose site is unknown.

    Raises
    ------
    InputError
        Fewer than 3 people are kept.
    """
    known = table["site"].notna()
    if not known.any():
        return np.full(len(table), ""), np.ones(len(table), bool)
    sites = table["site"].where(known, "").astype(str)
    kept = (known & (sites.groupby(sites).transform("size") > 1)).to_numpy(bool)
    if kept.sum() < 3:
        raise InputError(
            f"{int(kept.sum())} of {len(table)} people measured twice share their site with "
            "another; at least 3 are needed: people are compared within sites",
            field="site",
        )
    return sites.to_numpy(str), kept
