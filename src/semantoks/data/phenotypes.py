"""Phenotypes: tables about people, joined to recordings by subject and session."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd

from semantoks.data.encode import INDEX_COLUMNS
from semantoks.data.labels import SESSION, SITE, SUBJECT, column_like, spelled, without_prefix
from semantoks.errors import InputError, nearest
from semantoks.flags import Flag
from semantoks.tables import TypedTable, read_table, table_names

Key = tuple[str, str | None]


@dataclass(frozen=True, kw_only=True)
class PhenotypeRules:
    """Which tables and columns join the recordings, by subject and session."""

    tables: Annotated[tuple[Path, ...], Flag(name="--phenotypes", metavar="FILE")] = ()
    """Join this table by subject (and session); by default participants.tsv of the source."""
    participants: bool = True
    """Join participants.tsv of the source where no table is named."""
    columns: Annotated[tuple[str, ...], Flag(name="--phenotype", metavar="COLUMN")] = ()
    """Join only this column of the tables; by default all."""
    varying: Annotated[tuple[str, ...], Flag(metavar="COLUMN")] = ()
    """Allow this column to differ between the recordings of a subject."""
    keep_case: Annotated[tuple[str, ...], Flag(metavar="COLUMN")] = ()
    """Keep classes of this column apart that differ in capitals, blanks or zeros (1, 01) only."""

    def read(self, source: str | Path) -> Phenotypes | None:
        """Return the tables' values, None if there is no table.

        Parameters
        ----------
        source : path
            Its ``participants.tsv`` is read if no table is named.
        """
        participants = Path(source) / "participants.tsv"
        found = self.participants and participants.is_file()
        tables = self.tables or ((participants,) if found else ())
        return Phenotypes.read(tables, self.columns or None) if tables else None


@dataclass(frozen=True, eq=False)
class Phenotypes:
    """What tables say about people, by subject and, where a table has sessions, by session.

    Parameters
    ----------
    rows : dict
        Values by (subject, session); session None stands for all sessions.
    columns : tuple of str
    notes : tuple of str
        How the tables were understood, and what in them is worth a look.
    doubled : dict
        By (subject, session) with several rows that differ: what is wrong.
    """

    rows: dict[Key, dict[str, Any]] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    doubled: dict[Key, InputError] = field(default_factory=dict)

    @classmethod
    def read(cls, tables: Sequence[str | Path], columns: Sequence[str] | None = None) -> Phenotypes:
        """Read tables.

        Parameters
        ----------
        tables : sequence of path
            ``participants.tsv`` or any table (`semantoks.tables`) with a column
            ``participant_id`` or ``subject``, and perhaps one of the session. Prefixes ``sub-`` and
            ``ses-`` are cut.
        columns : sequence of str, optional
            Only these.

        Raises
        ------
        InputError
            A table cannot be read, or has no such column; two tables have a column of the same
            name.
        """
        rows: dict[Key, dict[str, Any]] = {}
        names: list[str] = []
        notes: list[str] = []
        doubled: dict[Key, InputError] = {}
        for table in map(Path, tables):
            frame, keys, read = _read(table)
            notes += read.notes
            doubled |= _doubled(frame, keys, table)
            twice = sorted(set(names) & set(frame.columns))
            if twice:
                raise InputError("another table has this column too", file=table, field=twice[0])
            taken = sorted((set(INDEX_COLUMNS) - {"site"}) & set(frame.columns))
            wanted = [name for name in taken if columns is None or name in columns]
            if wanted:
                rule = "is a column of the store's index; a phenotype needs another name"
                fix = "Rename the column, or choose others (columns, --phenotype)"
                raise InputError(rule, file=table, field="columns", value=wanted[0], fix=fix)
            names += list(frame.columns)
            for key, values in zip(keys, frame.to_dict("records"), strict=True):
                rows.setdefault(key, {}).update({str(k): v for k, v in values.items()})
        for column in columns or ():
            if column not in names:
                fix = nearest(column, names)
                raise InputError("no table has this column", field="columns", value=column, fix=fix)
        chosen = tuple(columns) if columns is not None else tuple(names)
        return cls(rows, chosen, tuple(notes), doubled)

    def of(self, subject: str, session: str | None) -> dict[str, Any]:
        """Return the values of one subject and session; unknown ones are None."""
        found = dict(self.rows.get((subject, None), {}))
        if session is not None:
            found |= self.rows.get((subject, session), {})
        return {name: found.get(name) for name in self.columns}

    def knows(self, subject: str, session: str | None) -> bool:
        """Say whether a table has a row of the subject, and of the session if it has sessions."""
        return (subject, None) in self.rows or (subject, session) in self.rows

    def fill(self, row: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return a row of the index with the phenotypes of its subject and session.

        Parameters
        ----------
        row : mapping
        where : str
            What the row is of, for messages.

        Raises
        ------
        InputError
            The row has a value already, and another one; or a table has several of the subject.
        """
        filled = dict(row)
        for key in ((row["subject"], None), (row["subject"], row["session"])):
            if key in self.doubled:
                raise self.doubled[key]
        for name, value in self.of(row["subject"], row["session"]).items():
            value = str(value) if name == "site" and value is not None else value
            before = filled.get(name)
            if before is None or value is None:
                filled[name] = before if value is None else value
            elif before != value and not _alike(before, value):
                rule = f"the source says {before!r}, the table of phenotypes {value!r}"
                raise InputError(rule, file=where, field=name)
        return filled


@dataclass(frozen=True, kw_only=True)
class JoinReport:
    """What did and what did not join.

    Parameters
    ----------
    n_joined : int
        Recordings with a row.
    without_row : tuple of str
        Recordings without one.
    without_recording : tuple of str
        Subjects of the tables without a recording.
    unknown : dict
        Column to the number of recordings whose value is unknown.
    """

    n_joined: int
    without_row: tuple[str, ...]
    without_recording: tuple[str, ...]
    unknown: dict[str, int]


def join_report(phenotypes: Phenotypes, recordings: Sequence[tuple[str, Key]]) -> JoinReport:
    """Return what did and did not join, of recordings given by id, subject and session."""
    with_row = [id_ for id_, key in recordings if phenotypes.knows(*key)]
    without = [id_ for id_, key in recordings if not phenotypes.knows(*key)]
    present = {key[0] for _, key in recordings}
    lost = sorted({subject for subject, _ in phenotypes.rows} - present)
    unknown = {
        name: sum(phenotypes.of(*key)[name] is None for _, key in recordings)
        for name in phenotypes.columns
    }
    return JoinReport(
        n_joined=len(with_row),
        without_row=tuple(without),
        without_recording=tuple(lost),
        unknown=unknown,
    )


def check_overlap(phenotypes: Phenotypes, recordings: Sequence[tuple[str, Key]]) -> None:
    """Refuse tables of which no row belongs to any recording: subjects or sessions differ in name.

    Raises
    ------
    InputError
        Names one of each, and says whether only the sessions or only leading zeros differ.
    """
    if not phenotypes.rows or any(phenotypes.knows(*key) for _, key in recordings):
        return
    rows = dict(phenotypes.rows.keys())
    for _, (subject, session) in recordings:
        if subject in rows:
            here = "none" if session is None else repr(session)
            rule = (
                "subjects of the tables have recordings, but of other sessions: subject "
                f"{subject!r} has session {rows[subject]!r} there, {here} here"
            )
            fix = "Write the sessions alike, or drop their column: then rows join by subject"
            raise InputError(rule, field="phenotypes", fix=fix)
    ours, theirs = recordings[0][1][0], next(iter(rows))
    rule = f"no subject of the tables has a recording: {theirs!r} there, {ours!r} here"
    stripped = {subject.lstrip("0") for subject in rows}
    zeros = any(key[0].lstrip("0") in stripped for _, key in recordings)
    fix = "Write the subjects alike, or join no table (--no-participants)"
    if zeros:
        fix = "Only leading zeros differ: write the subjects alike"
    raise InputError(rule, field="phenotypes", fix=fix)


def _read(path: Path) -> tuple[pd.DataFrame, list[Key], TypedTable]:
    if not path.is_file():
        raise InputError("there is no such table of phenotypes", file=path)
    names = table_names(path)
    subject, session = column_like(names, SUBJECT), column_like(names, SESSION)
    site = column_like(names, SITE)
    table = read_table(path, words=[c for c in (subject, session, site) if c])
    if site not in (None, "site"):
        notes = (*table.notes, f"{path.name}: the column {site} is read as site")
        table = replace(table, frame=table.frame.rename(columns={site: "site"}), notes=notes)
    frame = table.frame
    if subject is None:
        fix = "Name the column of the subjects participant_id"
        rule = "has no column of the subjects"
        raise InputError(rule, file=path, field="columns", value=[*frame.columns], fix=fix)
    if frame[subject].isna().any():
        line = table.lines[int(np.flatnonzero(frame[subject].isna())[0])]
        raise InputError(f"has no subject in line {line}", file=path, field=subject)
    subjects = [without_prefix(name, "sub-") or "" for name in frame[subject]]
    sessions: list[str | None] = [None] * len(frame)
    if session is not None:
        sessions = [without_prefix(name, "ses-") for name in frame[session]]
    keys = list(zip(subjects, sessions, strict=True))
    return frame.drop(columns=[c for c in (subject, session) if c]), keys, table


def _alike(first: Any, second: Any) -> bool:
    """Return whether two values are spellings of one label."""
    return isinstance(first, str) and isinstance(second, str) and spelled(first) == spelled(second)


def _doubled(frame: pd.DataFrame, keys: Sequence[Key], file: Path) -> dict[Key, InputError]:
    """Return the error of every subject (and session) with several rows that differ."""
    rows: dict[Key, list[tuple[str, ...]]] = defaultdict(list)
    for key, values in zip(keys, frame.itertuples(index=False), strict=True):
        rows[key].append(tuple(map(str, values)))
    found = {}
    for (subject, session), same in rows.items():
        if len(set(same)) > 1:
            who = subject if session is None else f"{subject}, session {session}"
            rule = f"has {len(same)} rows of subject {who}, which differ"
            fix = "Keep one row per subject, or add a column session"
            found[subject, session] = InputError(rule, file=file, field="subject", fix=fix)
    return found
