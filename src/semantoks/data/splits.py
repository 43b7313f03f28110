"""Splits of people into training and test parts: the only place where people are divided.

A person is in one part only, in every design. Indices are rows of the table handed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from semantoks.errors import InputError, nearest


@dataclass(frozen=True, eq=False)
class Fold:
    """One division into a training and a test part.

    Parameters
    ----------
    name : str
        The site that is tested, or the number of the fold.
    train, test : int arrays
        Rows, sorted; no subject has rows in both.
    repeat : int
        Number of the repetition to which the fold belongs; every repetition tests every person.
    validation : int array, optional
        Rows of `train` on which the strength of the penalty is chosen; inner folds otherwise.
    """

    name: str
    train: NDArray[np.intp]
    test: NDArray[np.intp]
    repeat: int = 0
    validation: NDArray[np.intp] | None = None


def grouped_folds(
    table: pd.DataFrame,
    n_folds: int,
    *,
    group: str = "subject",
    labels: ArrayLike | None = None,
    seed: int,
) -> list[Fold]:
    """Divide the subjects into `n_folds` parts, each of them tested once.

    Groups with the same class and site are dealt out in turn, in random order: every fold has the
    classes of every site, as far as whole groups allow. Otherwise a model that knows the site would
    expect of a test part what the training part has too much of, and noise would score below
    chance within sites.

    A person who belongs to two groups (scanned at two sites) is in no training part of the fold
    that tests one of them.

    Parameters
    ----------
    table : DataFrame
        One row per recording, with the column ``subject`` and that of the groups.
    n_folds : int
    group : str
        Column whose values stay together: subject, family, site.
    labels : array of shape (n_rows,), optional
        Class of every row, of which a group goes by its most frequent one.
    seed : int

    Returns
    -------
    list of Fold

    Raises
    ------
    InputError
        If a recording has no group, or there are fewer groups, or fewer groups with a class, than
        folds.
    """
    groups = column_values(table, group)
    _check_counts(groups, group, labels, n_folds)
    names, first, of = np.unique(groups, return_index=True, return_inverse=True)
    alike = [np.random.default_rng(seed).permutation(len(names))]
    if "site" in table:
        site = pd.factorize(table["site"])[0]
        if len(names) > len(np.unique(site)):  # else sites are groups
            alike.append(site[first])
    if labels is not None:
        codes = pd.factorize(np.asarray(labels))[0]
        alike.append(pd.crosstab(of, codes).to_numpy().argmax(axis=1))
    fold = np.empty(len(names), np.intp)
    fold[np.lexsort(alike)] = np.arange(len(names)) % n_folds
    subjects = table["subject"].to_numpy(str)
    parts = [(np.flatnonzero(fold[of] != i), np.flatnonzero(fold[of] == i)) for i in range(n_folds)]
    return [
        Fold(str(i + 1), without(subjects, train, test), test)
        for i, (train, test) in enumerate(parts)
    ]


def without(
    subjects: NDArray[np.str_], train: NDArray[np.intp], test: NDArray[np.intp]
) -> NDArray[np.intp]:
    """Return the training rows whose subject has no row in the test part."""
    return train[~np.isin(subjects[train], subjects[test])]


def check_column(
    table: pd.DataFrame, name: str, file: Path | None = None, field: str | None = None
) -> None:
    """Refuse the name of a column that a store's table does not have.

    Parameters
    ----------
    table : DataFrame
    name : str
    file : path, optional
        The store.
    field : str, optional
        What named the column, where that is not the column itself.

    Raises
    ------
    InputError
    """
    if name not in table:
        named = {"field": name} if field is None else {"field": field, "value": name}
        fix = nearest(name, map(str, table.columns))
        raise InputError("the store has no such column", file=file, fix=fix, **named)


def column_values(table: pd.DataFrame, name: str) -> NDArray[np.str_]:
    """Return a column by which people are divided, as text.

    Raises
    ------
    InputError
        If there is no such column, or a recording has no value.
    """
    check_column(table, name)
    values = table[name]
    if values.isna().any():
        raise InputError(
            f"{int(values.isna().sum())} of {len(table)} recordings have no {name}",
            field=name,
            fix=f"State the {name} of every recording, or group by subject",
        )
    return values.astype(str).to_numpy(str)


def leave_one_site_out(table: pd.DataFrame, test_sites: Sequence[str] | None = None) -> list[Fold]:
    """Test every site in turn, training on all others.

    A person who was scanned at the tested site and elsewhere is in no training part: the
    recordings from elsewhere are left out.

    Parameters
    ----------
    table : DataFrame
        One row per recording, with the columns ``subject`` and ``site``.
    test_sites : sequence of str, optional
        Only these sites are ever tested; the others are always trained on.

    Returns
    -------
    list of Fold
        In the order of the sites' names.

    Raises
    ------
    InputError
        If a recording has no site, there is one site only, or a test site does not exist.
    """
    at = column_values(table, "site")
    known = sorted(set(at.tolist()))
    if len(known) < 2:
        raise InputError(
            "leaving one site out needs at least 2 sites",
            field="site",
            value=known,
            fix="Group by subject",
        )
    for site in test_sites or ():
        if site not in known:
            raise InputError("is no site", field="test_sites", value=site, fix=nearest(site, known))
    subjects = table["subject"].to_numpy(str)
    folds = []
    for site in known:
        if test_sites is not None and site not in test_sites:
            continue
        train, test = np.flatnonzero(at != site), np.flatnonzero(at == site)
        folds.append(Fold(site, without(subjects, train, test), test))
    return folds


def _check_counts(
    groups: NDArray[np.str_], group: str, labels: ArrayLike | None, n_folds: int
) -> None:
    if n_folds < 2:
        raise InputError("needs at least 2", field="n_folds", value=n_folds)
    what = "subjects" if group == "subject" else f"groups by {group}"
    n_groups = len(set(groups))
    if n_groups < n_folds:
        raise InputError(
            f"there are only {n_groups} {what}",
            field="n_folds",
            value=n_folds,
            fix=f"Use at most {n_groups} folds",
        )
    if labels is None:
        return
    per_class = pd.DataFrame({"s": groups, "y": np.asarray(labels)}).groupby("y")["s"].nunique()
    smallest = per_class.idxmin()
    if per_class.min() < n_folds:
        fix = "Merge the class with another, leave it out, or predict numbers (column:regression)"
        if per_class.min() > 1:
            fix = f"Use at most {per_class.min()} folds, or merge or leave out the class"
        raise InputError(
            f"the class {smallest!r} has {per_class.min()} {what}, fewer than the folds",
            field="n_folds",
            value=n_folds,
            fix=fix,
        )


def three_parts(
    subjects: ArrayLike,
    labels: ArrayLike | None,
    shares: tuple[float, float, float],
    *,
    seed: int,
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Divide subjects at random into training, validation and test, classes spread evenly.

    Parameters
    ----------
    subjects : array of shape (n_rows,)
    labels : array of shape (n_rows,), optional
        One class per subject.
    shares : (float, float, float)
        Shares of the subjects; they sum to 1.
    seed : int

    Returns
    -------
    train, validation, test : int arrays
        Rows, sorted.

    Raises
    ------
    InputError
        If the shares are not three positive numbers that sum to 1, or a part would miss a class.
    """
    if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
        raise InputError("must be positive and sum to 1", field="shares", value=shares)
    who, first, row_of = np.unique(np.asarray(subjects), return_index=True, return_inverse=True)
    strata = np.zeros(len(who), int) if labels is None else np.asarray(labels)[first]
    part = np.empty(len(who), int)
    rng = np.random.default_rng(seed)
    edges = np.cumsum(shares)[:2]
    for value in np.unique(strata):
        members = rng.permutation(np.flatnonzero(strata == value))
        cuts = np.rint(edges * len(members)).astype(int)
        if min(cuts[0], cuts[1] - cuts[0], len(members) - cuts[1]) < 1:
            raise InputError(
                f"{value!s} has {len(members)} subjects, too few for three parts",
                field="labels",
                fix="Leave the class out, or use folds",
            )
        part[members] = np.searchsorted(cuts, np.arange(len(members)), side="right")
    rows = part[row_of]
    return np.flatnonzero(rows == 0), np.flatnonzero(rows == 1), np.flatnonzero(rows == 2)


def hold_out(
    groups: ArrayLike, labels: ArrayLike | None, share: float, *, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Hold a share of the groups out of a training part, the classes spread evenly.

    Parameters
    ----------
    groups : array of shape (n_rows,)
        What stays together: subjects, families, sites.
    labels : array of shape (n_rows,), optional
        Class of every row; each is left in the training part.
    share : float
        Share of the groups that is held out, of those with the same classes; one group at least.
    seed : int

    Returns
    -------
    train, held : int arrays
        Rows, sorted.

    Raises
    ------
    InputError
        If no group can be held out so that every class is left.
    """
    who, row_of = np.unique(np.asarray(groups), return_inverse=True)
    y = np.zeros(len(row_of), int) if labels is None else np.asarray(labels)
    has = pd.crosstab(row_of, y).to_numpy() > 0  # (groups, classes)
    order = np.random.default_rng(seed).permutation(len(who))
    strata = np.unique(has, axis=0, return_inverse=True)[1].ravel()
    held = np.zeros(len(who), bool)
    for stratum in np.unique(strata):
        members = order[strata[order] == stratum]
        held[members[: min(round(share * len(members)), len(members) - 1)]] = True
    if not held.any():
        left = has.sum(axis=0) - has  # of every class, without the group
        possible = order[(left[order] > 0).all(axis=1)]
        if not len(possible):
            raise InputError(
                f"there are too few groups ({len(who)}) to hold one out and keep every class",
                field="groups",
                fix="Train without early stopping",
            )
        held[possible[0]] = True
    rows = held[row_of]
    return np.flatnonzero(~rows), np.flatnonzero(rows)
