"""The parts of an evaluation in one table. It imports nothing heavy: `--help` lists it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pkgutil import resolve_name
from typing import TYPE_CHECKING

from semantoks.errors import InputError, nearest

if TYPE_CHECKING:
    from semantoks.assess.parts.base import Question


@dataclass(frozen=True, kw_only=True)
class Part:
    """One question that an evaluation asks beyond the comparison.

    Parameters
    ----------
    help : str
        What it does, in one line.
    load : callable
        Returns the `Question` that its file defines.
    """

    help: str
    load: Callable[[], Question]


def _late(module: str) -> Question:
    """Import the file of a part only now: names and help need no NumPy."""
    question: Question = resolve_name(f"semantoks.assess.parts.{module}:QUESTION")
    return question


#: In the order in which they are computed and shown; a part's name is that of its folder.
PARTS: dict[str, Part] = {
    "alarms": Part(
        help="Look for shared people, leaks, duplicate scans and implausible scores.",
        load=partial(_late, "alarms"),
    ),
    "cohort": Part(help="Describe the tested people, site by site.", load=partial(_late, "cohort")),
    "subgroups": Part(
        help="Score within sites, TRs and thirds of motion.", load=partial(_late, "subgroups")
    ),
    "confounds": Part(
        help="Predict site, scanner, TR and motion from the features.",
        load=partial(_late, "confounds"),
    ),
    "adjusted": Part(
        help="Score with confounds regressed out, and after ComBat.",
        load=partial(_late, "adjusted"),
    ),
    "corruption": Part(
        help="Score on recordings with simulated artefacts (first target).",
        load=partial(_late, "corruption"),
    ),
    "reliability": Part(
        help="Recognise people in a second session, or in the other half of a scan.",
        load=partial(_late, "reliability"),
    ),
    "maps": Part(
        help="Draw the embeddings in two dimensions, coloured by site and labels.",
        load=partial(_late, "maps"),
    ),
    "importance": Part(
        help="Mask each network and measure how far the embedding moves.",
        load=partial(_late, "importance"),
    ),
}


def chosen_parts(
    only: Collection[str] | None = None, skip: Collection[str] = ()
) -> tuple[str, ...]:
    """Return the parts to compute, in the order of the table.

    Parameters
    ----------
    only : collection of str, optional
        Names; all of the table by default.
    skip : collection of str
        Names to leave out.

    Raises
    ------
    InputError
        A name is unknown.
    """
    wanted = PARTS.keys() if only is None else only
    for name in (*wanted, *skip):
        if name not in PARTS:
            rule = "is not a part of an evaluation"
            raise InputError(rule, field="parts", value=name, fix=nearest(name, PARTS))
    return tuple(name for name in PARTS if name in wanted and name not in skip)
