"""Names of columns and labels as people spell them: which of them are the same."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: Names of the columns of subjects and sessions, capitals, blanks and underscores apart.
SUBJECT = (
    *("participantid", "subject", "subjectid", "subjectkey", "subid", "sub", "eid"),
    *("participant", "subjects"),
)
SESSION = ("sessionid", "session", "ses")
SITE = ("site", "siteid")
_WHOLE = re.compile(r"0*(\d+)(?:\.0+)?")


def column_like(names: Sequence[str], wanted: Sequence[str]) -> str | None:
    """Return the column of one of some names; capitals, blanks and underscores do not matter.

    Examples
    --------
    >>> column_like(["Age", "Participant_ID"], ("participantid", "subject"))
    'Participant_ID'
    """
    plain = {re.sub(r"[\W_]", "", name).lower(): name for name in reversed(names)}
    plain |= {name: name for name in names}  # the very name first
    return next((plain[name] for name in wanted if name in plain), None)


def spelled(label: str) -> str:
    """Return what the spellings of one label share.

    Capitals and blanks do not matter, nor what spreadsheets add to or take from whole numbers.

    Examples
    --------
    >>> spelled("Site A") == spelled("site a ")
    True
    >>> {spelled(label) for label in ("1", "01", "1.0")}
    {'1'}
    """
    plain = "".join(label.split()).casefold()
    whole = _WHOLE.fullmatch(plain)
    return whole[1] if whole else plain


def without_prefix(label: str | None, prefix: str) -> str | None:
    """Return a label without the prefix of its entity, in capitals or not.

    Examples
    --------
    >>> without_prefix("SUB-01", "sub-")
    '01'
    """
    found = label is not None and label.lower().startswith(prefix)
    return label[len(prefix) :] if label is not None and found else label
