"""Designs of an evaluation: which division of people answers which question.

`semantoks.data.splits` does the dividing; in every design a person is in one part only, and what
stays together in the folds stays together in the inner folds, in which a model is tuned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.data.splits import Fold, check_column, grouped_folds, leave_one_site_out
from semantoks.data.store import RecordingStore
from semantoks.errors import InputError
from semantoks.flags import Flag

Labels = NDArray[Any] | None  # a class per row; None where numbers are predicted


class Design(Protocol):
    """How people are divided into training and test parts."""

    @property
    def group(self) -> str:
        """Column whose values stay together in the inner folds.

        A person of two training sites may be in two inner parts, never in training and test.
        """

    def folds(self, table: pd.DataFrame, labels: Labels, seed: int) -> list[Fold]:
        """Return the folds; rows are positions in `table`."""

    def sentence(self) -> str:
        """Return the design in words, as a report states it."""


@dataclass(frozen=True, kw_only=True)
class LeaveOneSiteOut:
    """Every site is tested by models of all other sites: prediction at a scanner never seen.

    Parameters
    ----------
    test_sites : tuple of str
        Only these are tested; all of them by default.
    """

    test_sites: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """The sites stay whole in the inner folds too."""
        return "site"

    def folds(self, table: pd.DataFrame, labels: Labels, seed: int) -> list[Fold]:  # noqa: ARG002
        """Return one fold per tested site; see `leave_one_site_out`."""
        return leave_one_site_out(table, self.test_sites or None)

    def sentence(self) -> str:
        """Return the design in words."""
        which = f" ({', '.join(self.test_sites)})" if self.test_sites else ""
        return f"One site is left out at a time{which}; all other sites train."


@dataclass(frozen=True, kw_only=True)
class GroupedKFold:
    """Repeated k-fold cross-validation in which groups stay whole.

    Parameters
    ----------
    group : str
        Column whose values stay together: subject, family or site.
    n_folds : int
    n_repeats : int
        Repetitions with other folds; more than one makes the corrected resampled t test possible.
    stratified : bool
        Whether the classes are spread evenly over the folds; sites are in any case.
    """

    group: str = "subject"
    n_folds: int = 5
    n_repeats: int = 1
    stratified: bool = True

    def folds(self, table: pd.DataFrame, labels: Labels, seed: int) -> list[Fold]:
        """Return ``n_folds * n_repeats`` folds; see `grouped_folds`."""
        if self.n_repeats < 1:
            raise InputError("must be at least 1", field="n_repeats", value=self.n_repeats)
        out, spread = [], labels if self.stratified else None
        for repeat in range(self.n_repeats):
            parts = grouped_folds(
                table, self.n_folds, group=self.group, labels=spread, seed=seed + repeat
            )
            out += [Fold(part.name, part.train, part.test, repeat) for part in parts]
        return out

    def sentence(self) -> str:
        """Return the design in words."""
        by = "subjects" if self.group == "subject" else f"groups of subjects ({self.group})"
        often = f", repeated {self.n_repeats} times" if self.n_repeats > 1 else ""
        return f"{self.n_folds} folds over {by}{often}."


@dataclass(frozen=True, kw_only=True)
class FixedSplit:
    """Parts that a column of the store states, as a challenge or a published split gives them.

    Models are tuned on the validation part and fitted on training and validation together, as
    scikit-learn's ``PredefinedSplit`` in a grid search does. Without a validation part they are
    tuned by inner folds over subjects. Predictors with a tuning of their own get both parts.

    Parameters
    ----------
    column : str
    train, validation, test : str
        The column's values; rows with others (and without one) are left out.
    """

    column: str = "split"
    train: str = "train"
    validation: str = "validation"
    test: str = "test"

    @property
    def group(self) -> str:
        """Subjects stay whole in inner folds."""
        return "subject"

    def folds(self, table: pd.DataFrame, labels: Labels, seed: int) -> list[Fold]:  # noqa: ARG002
        """Return the one fold.

        Raises
        ------
        InputError
            If the column is unknown, training or test part is empty, or a subject is in two parts.
        """
        check_column(table, self.column)
        part = table[self.column].astype(object).to_numpy()
        rows = {name: np.flatnonzero(part == name) for name in (self.train, self.test)}
        for name, members in rows.items():
            if not len(members):
                raise InputError("no recording has this value", field=self.column, value=name)
        validation = np.flatnonzero(part == self.validation)
        known = np.isin(part.astype(str), [self.train, self.validation, self.test])
        parts_of = pd.Series(part[known]).groupby(table["subject"].to_numpy(str)[known]).nunique()
        if (parts_of > 1).any():
            raise InputError(
                f"subject {parts_of.index[parts_of > 1][0]!r} is in {parts_of.max()} parts",
                field=self.column,
                fix="Put all recordings of a subject into one part",
            )
        both = np.sort(np.concatenate([rows[self.train], validation]))
        return [Fold("test", both, rows[self.test], 0, validation if len(validation) else None)]

    def sentence(self) -> str:
        """Return the design in words."""
        return (
            f"The column {self.column} divides the subjects; models are tuned on {self.validation} "
            f"where there is such a part, fitted on it and {self.train}, and tested on {self.test}."
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class AcrossStores:
    """Train on another store, test on this one: out of distribution.

    Parameters
    ----------
    train : RecordingStore
        Of the same ROIs, preprocessed in the same way, without any of the tested subjects.
    group : str
        Column whose values stay together in the inner folds: subject, or site.
    """

    train: RecordingStore
    group: str = "subject"

    def folds(self, table: pd.DataFrame, labels: Labels, seed: int) -> list[Fold]:  # noqa: ARG002
        """Return the one fold; `table` holds the training store's rows first, then the tested.

        Raises
        ------
        InputError
            If a subject is in both stores.
        """
        is_train = table.index.to_numpy() < len(self.train)
        self._refuse_shared(table["subject"][is_train], table["subject"][~is_train])
        return [Fold("test", np.flatnonzero(is_train), np.flatnonzero(~is_train))]

    def table_with(self, tested: RecordingStore) -> pd.DataFrame:
        """Return the index of the training store above that of the tested one.

        Columns that only one of them has are left out.

        Raises
        ------
        InputError
            If the stores differ in their ROIs or their preprocessing, or share a subject.
        """
        for name, ours, theirs in (
            ("ROIs", tested.parcellation.labels, self.train.parcellation.labels),
            ("preprocessing", tested.preprocessing, self.train.preprocessing),
        ):
            if ours != theirs:
                raise InputError(
                    f"has other {name} than the tested store {tested.path}",
                    file=self.train.path,
                    field=name,
                    fix="Prepare both stores with the same parcellation and settings",
                )
        self._refuse_shared(self.train.table["subject"], tested.table["subject"])
        shared = [c for c in tested.table.columns if c in self.train.table.columns]
        parts = [self.train.table[shared], tested.table[shared]]
        return pd.concat(parts, ignore_index=True)

    def _refuse_shared(self, trained: pd.Series, tested: pd.Series) -> None:
        both = sorted(set(trained.astype(str)) & set(tested.astype(str)))
        if both:
            raise InputError(
                f"{len(both)} subjects are in both stores",
                file=self.train.path,
                field="subject",
                value=both[:5],
                fix="Leave them out of one store; if they are other people, rename them",
            )

    def sentence(self) -> str:
        """Return the design in words."""
        return f"Models are fitted on the store {self.train.path.name} and tested on this one."


@dataclass(frozen=True, kw_only=True)
class SmallSamples:
    """Scores against the number of training subjects, drawn inside the training parts.

    Parameters
    ----------
    n_subjects : tuple of int or float
        Sizes, or shares (below 1) of the smallest training part; a larger size is refused.
    n_draws : int
        Random draws of every size, the classes as frequent as in the training part.
    """

    n_subjects: tuple[int | float, ...] = (16, 32, 64, 128)
    n_draws: int = 5

    def draws(
        self, folds: Sequence[Fold], subjects: NDArray[np.str_], labels: Labels, seed: int
    ) -> Iterator[tuple[int, Fold]]:
        """Yield every size with every fold of every draw; see `draw`."""
        fewest = min(len(set(subjects[fold.train].tolist())) for fold in folds)
        for share in self.n_subjects:
            size = int(share) if share >= 1 else round(share * fewest)
            for number in range(self.n_draws):
                for fold in folds:
                    yield size, self.draw(fold, subjects, labels, size, number, seed)

    def draw(
        self,
        fold: Fold,
        subjects: NDArray[np.str_],
        labels: Labels,
        size: int,
        number: int,
        seed: int,
    ) -> Fold:
        """Return the fold with `size` training subjects; its repetition is the draw's number.

        Parameters
        ----------
        fold : Fold
        subjects : array of shape (n_rows,)
        labels : array of shape (n_rows,), optional
        size : int
        number : int
            Number of the draw.
        seed : int

        Raises
        ------
        InputError
            If the training part has fewer subjects, or a class would have fewer than 2.
        """
        who, first = np.unique(subjects[fold.train], return_index=True)
        if not 2 <= size <= len(who):
            raise InputError(
                f"the training part of fold {fold.name} has {len(who)} subjects",
                field="n_subjects",
                value=size,
            )
        rng = np.random.default_rng([seed, size, number])
        strata = np.zeros(len(who), int)
        if labels is not None:
            strata = np.unique(labels[fold.train][first], return_inverse=True)[1]
        quota = _quotas(np.bincount(strata), size)
        if labels is not None and quota.min() < 2:
            raise InputError(
                "leaves a class with fewer than 2 training subjects", field="n_subjects", value=size
            )
        each = enumerate(quota)
        drawn = [rng.choice(np.flatnonzero(strata == s), n, replace=False) for s, n in each]
        kept = np.isin(subjects[fold.train], who[np.concatenate(drawn)])
        return Fold(fold.name, fold.train[kept], fold.test, number)


def _quotas(counts: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    """Divide `size` in proportion to the counts, the largest remainders rounded up."""
    exact = counts / counts.sum() * size
    quota: NDArray[np.intp] = np.floor(exact).astype(np.intp)
    quota[np.argsort(quota - exact, kind="stable")[: size - quota.sum()]] += 1
    return quota


@dataclass(frozen=True, kw_only=True)
class Division:
    """How people are divided into training and test parts, as a user states it."""

    groups: Annotated[str, Flag(metavar="COLUMN")] = "subject"
    """Keep the values of this column (subject, family ...) in one fold; site leaves one site out
    at a time."""
    test_sites: Annotated[tuple[str, ...], Flag(name="--test-site", metavar="SITE")] = ()
    """Test this site only, and always train on the others; needs --groups site."""
    n_folds: Annotated[int, Flag(name="--folds", metavar="N")] = 5
    """Divide the groups into this many folds."""
    n_repeats: Annotated[int, Flag(name="--repeats", metavar="N")] = 1
    """Repeat this many times with other folds."""
    split: Annotated[str | None, Flag(metavar="COLUMN")] = None
    """Take the parts from this column of train, validation and test."""
    train_store: Annotated[Path | None, Flag(metavar="STORE")] = None
    """Train on this store and test on the other."""

    def design(self) -> Design:
        """Return the design (`design_for`)."""
        return design_for(
            self.groups,
            self.test_sites,
            split=self.split,
            train=None if self.train_store is None else RecordingStore(self.train_store),
            n_folds=self.n_folds,
            n_repeats=self.n_repeats,
        )


def design_for(
    groups: str,
    test_sites: Sequence[str] = (),
    *,
    split: str | None = None,
    train: RecordingStore | None = None,
    n_folds: int = 5,
    n_repeats: int = 1,
) -> Design:
    """Return the design that the command line names.

    Parameters
    ----------
    groups : str
        Column whose values stay together: subject, family. With ``site`` and one repetition, one
        site is left out at a time.
    test_sites : sequence of str
        Only these sites are tested, the others always trained on; with ``groups="site"``.
    split : str, optional
        Column that states the parts (`FixedSplit`).
    train : RecordingStore, optional
        Store to train on (`AcrossStores`).
    n_folds, n_repeats : int
        Of folds (`GroupedKFold`).

    Raises
    ------
    InputError
        If what is asked for cannot be had at once.
    """
    if split is not None and train is not None:
        raise InputError(
            "excludes a training store: they are two designs", field="split", value=split
        )
    sites_left_out = groups == "site" and n_repeats == 1 and split is None and train is None
    if test_sites and not sites_left_out:
        raise InputError(
            "need one site left out at a time",
            field="test_sites",
            value=list(test_sites),
            fix="Group by site, without repetitions",
        )
    if split is not None:
        return FixedSplit(column=split)
    if train is not None:
        return AcrossStores(train=train, group=groups)
    if sites_left_out:
        return LeaveOneSiteOut(test_sites=tuple(test_sites))
    return GroupedKFold(group=groups, n_folds=n_folds, n_repeats=n_repeats)
