"""`Alarm`: one thing found that makes scores doubtful."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["notice", "warning", "leak"]

#: From the worst.
SEVERITIES: tuple[Severity, ...] = ("leak", "warning", "notice")


@dataclass(frozen=True, kw_only=True)
class Alarm:
    """One thing found.

    Parameters
    ----------
    kind : str
        "shared members", "seen in pretraining", "duplicate recordings", "target follows confound"
        or "implausible score".
    what : str
        What is wrong, as a sentence without a full stop.
    severity : {"notice", "warning", "leak"}
        "leak": a score is affected and does not hold. "warning": something else could explain it.
        "notice": no score is affected as far as is known, or it cannot be checked.
    found : tuple of str
        Names of everything found: subjects, sites, recordings, models.
    of_people : bool
        Whether these names are people's or recordings', which a page does not show.
    """

    kind: str
    what: str
    severity: Severity
    found: tuple[str, ...]
    of_people: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self) | {"found": [*self.found]}
