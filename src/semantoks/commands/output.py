"""What a command prints: results on stdout, progress and messages on stderr, errors wrapped."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill
from typing import IO, TYPE_CHECKING, Any

import click

from semantoks.errors import ConfigError, InputError, SemantoksError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

#: Exit codes, as the help and the documentation state them.
EXIT_CODES = {
    0: "done",
    1: "the work failed",
    2: "wrong usage or input",
    3: "done, but some recordings failed",
    130: "interrupted; rerun to resume",
}
#: Longest message, in characters.
LIMIT = 600
_JSON = "semantoks.json"


class Failure(click.ClickException):
    """An error that a user can act on: one message, and exit code 1 or, for input, 2.

    Parameters
    ----------
    error : SemantoksError
    """

    def __init__(self, error: SemantoksError) -> None:
        super().__init__(_shortened(error))
        self._kind = "configuration error" if isinstance(error, ConfigError) else "error"

    @classmethod
    def of(cls, error: SemantoksError) -> Failure:
        """Return the failure that ends the command over an error."""
        return (_Refusal if isinstance(error, InputError) else cls)(error)

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message on stderr, wrapped at the width of the terminal."""
        click.echo(wrapped(f"semantoks: {self._kind}: {self.message}"), file=file, err=True)


class _Refusal(Failure):
    exit_code = 2


def _shortened(error: SemantoksError) -> str:
    """Return the message in at most `LIMIT` characters, the way out whole."""
    text = str(error)
    if len(text) <= LIMIT:
        return text
    fix = error.fix if isinstance(error, InputError) and error.fix else ""
    fix = fix if text.endswith(("?", fix)) else f"{fix}."
    fix = fix if len(fix) < LIMIT // 2 else ""
    head = text[: LIMIT - len(fix) - len(" ... ")].rsplit(" ", 1)[0]
    return f"{head} ... {fix}".rstrip()


def wrapped(text: str) -> str:
    """Return lines no wider than the terminal; paths and names stay whole."""
    width = max(40, get_terminal_size().columns)
    lines = (
        fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for line in text.splitlines()
    )
    return "\n".join(lines)


def as_json(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    """Note that the result is wanted as JSON (callback of ``--json``)."""
    context.meta[_JSON] = wanted


def set_level(*, verbose: bool, quiet: bool) -> None:
    """Send the package's log to stderr: messages, with `verbose` details, with `quiet` warnings."""
    logger = logging.getLogger("semantoks")
    for handler in [h for h in logger.handlers if isinstance(h, _Stderr)]:
        logger.removeHandler(handler)
    logger.addHandler(_Stderr())
    level = logging.DEBUG if verbose else logging.INFO
    logger.setLevel(logging.WARNING if quiet else level)


class _Stderr(logging.StreamHandler[Any]):
    def __init__(self) -> None:
        super().__init__(sys.stderr)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if record.levelno == logging.INFO:
            return text
        return f"{record.levelname.lower()}: {text}"


def progress() -> Console:
    """Return the console of progress: stderr, silent with ``-q``."""
    from rich.console import Console

    quiet = not logging.getLogger("semantoks").isEnabledFor(logging.INFO)
    return Console(stderr=True, quiet=quiet)


def show(facts: Mapping[str, Any], *shown: RenderableType) -> None:
    """Print a result on stdout: for people, or with ``--json`` the facts and nothing else.

    Parameters
    ----------
    facts : mapping
        Plain values, dataclasses, paths, arrays' scalars.
    *shown : str or renderable of rich
        One below the other.
    """
    if click.get_current_context().meta.get(_JSON):
        click.echo(json.dumps(facts, indent=2, default=_plain, allow_nan=False))
        return
    from rich.console import Console

    console = Console()
    for part in shown:
        if isinstance(part, str):
            click.echo(part)
        else:
            console.print(part)


def records(frame: Any) -> list[dict[str, Any]]:
    """Return the rows of a DataFrame as plain values; what is not a number is null."""
    found: list[dict[str, Any]] = json.loads(frame.to_json(orient="records"))
    return found


def _plain(value: Any) -> Any:
    from semantoks.config import plain

    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    known = plain(value)
    if known is value:
        raise TypeError(f"{type(value).__name__} is no plain value")
    return known
