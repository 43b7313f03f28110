"""What the parts of an evaluation have in common: what they work on, find, and show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from semantoks.assess.cache import StoredEmbedder
from semantoks.assess.parts.section import Section
from semantoks.assess.plan import Plan
from semantoks.data.store import RecordingStore
from semantoks.evaluate.compare.result import ProbeResult
from semantoks.evaluate.compare.roles import CONNECTIVITY


@dataclass(frozen=True, eq=False)
class Found:
    """What a part found; `assess` saves it.

    Parameters
    ----------
    tables : dict of str to DataFrame
    facts : dict
        Plain values.
    """

    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class Work:
    """What the parts work on.

    Parameters
    ----------
    store : RecordingStore
    plan : Plan
    trained : dict of str to StoredEmbedder
        The models in question.
    controls : dict of str to transformer
        Random weights and connectivity.
    comparison : ProbeResult
    n_jobs : int
        Folds computed at the same time.
    """

    store: RecordingStore
    plan: Plan
    trained: Mapping[str, StoredEmbedder]
    controls: Mapping[str, Any]
    comparison: ProbeResult
    n_jobs: int

    @property
    def in_question(self) -> dict[str, Any]:
        """The trained models and connectivity, their main control."""
        return {**self.trained, CONNECTIVITY: self.controls[CONNECTIVITY]}

    @property
    def everything(self) -> dict[str, Any]:
        """The trained models and all controls that fit nothing."""
        return {**self.trained, **self.controls}


#: A title and the lines below it, for the terminal.
Note = tuple[str, Sequence[str]]


def no_notes(_: Found) -> Sequence[Note]:
    """Print nothing at the end of the command."""
    return ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Question:
    """What the file of a part defines.

    Parameters
    ----------
    compute : callable
        From `Work` to `Found`. Raises `InputError` where the store cannot answer the question.
    sentence : callable
        From `Found` to the part's sentence in the methods paragraph.
    show : callable
        From `Found` to the part's section in the report.
    notes : callable
        From `Found` to what the command prints at its end.
    on_top : bool
        Whether the section precedes the scores.
    """

    compute: Callable[[Work], Found]
    sentence: Callable[[Found], str]
    show: Callable[[Found], Section]
    notes: Callable[[Found], Sequence[Note]] = no_notes
    on_top: bool = False


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence lists them: a, b and c."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
