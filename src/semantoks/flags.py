"""`Flag`: how the command line names a field of a dataclass, where that differs from the field."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

Panel = Literal[
    "Arguments",
    "Source",
    "Atlas",
    "Signal",
    "Phenotypes",
    "Question",
    "Design",
    "Model",
    "Fine-tuning",
    "Confounds",
    "Parts",
    "Quality",
    "Running",
    "General",
]
#: Titles under which ``--help`` lists options, in this order.
PANELS: tuple[Panel, ...] = get_args(Panel)


@dataclass(frozen=True, kw_only=True)
class Flag:
    """Stands in ``Annotated`` on a field (or parameter) that an option of the command line fills.

    Without one, a field ``min_tsnr: float | None`` is ``--min-tsnr FLOAT``, a `bool` is a switch,
    a `Literal` a choice, a tuple repeatable, and the docstring under the field is the help.

    Examples
    --------
    >>> from typing import Annotated
    >>> MaxFd = Annotated[float | None, Flag(name="--max-fd", metavar="MM")]
    """

    name: str | None = None
    """The flag, if it is not the field's name; a short one may follow: ``--jobs/-j``."""
    metavar: str | None = None
    """What the help calls the value: FILE, STORE, SECONDS."""
    panel: Panel | None = None
    """Title under which the help lists it; by default that of the whole dataclass."""
    help: str | None = None
    """Help of a parameter, which has no docstring under it."""
    read: Callable[[Any], Any] | None = None
    """Makes the field's value from the text, or from the tuple of texts if it is repeatable."""
    several: bool = False
    """Whether it is repeatable, where the field's type does not tell."""
    single: bool = False
    """Whether it is given once, although the field is a tuple: `read` makes it."""
    known: Callable[[], Sequence[str]] | None = None
    """Returns the legal values, from the table that holds them."""
    of: type | None = None
    """Type that `read` is given, where it is neither the field's nor text."""
    shown: str | None = None
    """Default as the help shows it, where it is no plain value."""
    on: str | None = None
    """Value of the field that the bare flag stands for."""
    hidden: bool = False
    """No option: Python alone sets the field, or another option does."""
