"""Errors that a user can act on: what is wrong, where, which rule it breaks and the way out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from traceback import walk_tb
from typing import Any, Final, Self

_UNSET: Final = object()
_PACKAGE: Final = Path(__file__).parent
#: How `fault` names a mistake of ours.
OWN_FAULT: Final = "stopped at a fault of semantoks itself"
#: What a mistake in a program raises.
_MISTAKES: Final = (AttributeError, TypeError, LookupError, NameError, NotImplementedError)


class SemantoksError(Exception):
    """Base of every error that this package raises on purpose."""


class InputError(SemantoksError, ValueError):
    """Something handed to the package breaks a rule.

    Parameters
    ----------
    rule : str
        The rule that is broken, as a sentence without a full stop.
    file : path, optional
        The file (or recording) in which the value stands.
    field : str, optional
        The field, column or argument.
    value : object, optional
        The offending value.
    fix : str, optional
        The way out, as a sentence without a full stop.

    Examples
    --------
    >>> from semantoks import InputError, Parcellation
    >>> try:
    ...     Parcellation.load("schaefer101")
    ... except InputError as error:
    ...     print(error.field, error.value)
    parcellation schaefer101
    """

    def __init__(
        self,
        rule: str,
        *,
        file: str | Path | None = None,
        field: str | None = None,
        value: object = _UNSET,
        fix: str | None = None,
    ) -> None:
        self.rule, self.file, self.field, self.fix = rule, file, field, fix
        if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
            value = value.item()  # a NumPy scalar reads better as Python's own
        self.value = None if value is _UNSET else value
        self._given = value
        where = "" if file is None else f"{file}: "
        what = field or ""
        if value is not _UNSET:
            what = f"{what} = {value!r}" if what else repr(value)
        text = f"{where}{what}{': ' if what else ''}{_sentence(rule)}"
        super().__init__(text if fix is None else f"{text} {_sentence(fix)}")

    def about(self, field: str) -> Self:
        """Return the same error with another name of the field, such as that of an option."""
        return type(self)(self.rule, file=self.file, field=field, value=self._given, fix=self.fix)


def _sentence(text: str) -> str:
    return text if text.endswith(("?", ".")) else f"{text}."


class ConfigError(InputError):
    """A configuration key or value is unknown, ill-typed or illegal in combination."""


class StoreError(InputError):
    """A recording store is missing, half-written, damaged, too new or would be overwritten."""


class CheckpointError(InputError):
    """A checkpoint or model folder is missing, incomplete, damaged or does not fit."""


@contextmanager
def readable(
    file: str | Path,
    kind: type[InputError] = InputError,
    *,
    fix: str | None = None,
    known: tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """Turn what a library raises over a damaged file into an error that names the file.

    For the lines that hand a file to a parser, and nothing else. What mistakes in a program raise
    (``AttributeError``, ``TypeError``, ``KeyError``, ``IndexError``, ...) passes unchanged, unless
    the library is known to raise it over damage: a fault of this package is not the file's.

    Parameters
    ----------
    file : path
    kind : type
        Class of the error.
    fix : str, optional
        The way out.
    known : tuple of types
        Mistakes that this parser raises over damaged files.

    Raises
    ------
    InputError
        Of the class `kind`; the package's own errors pass unchanged.
    """
    try:
        yield
    except SemantoksError:
        raise
    except OSError as error:
        raise kind(f"cannot be read ({error.strerror or error})", file=file, fix=fix) from error
    except Exception as error:
        if isinstance(error, _MISTAKES) and not (isinstance(error, known) and _foreign(error)):
            raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        rule = f"is damaged, or not what it should be ({reason})"
        raise kind(rule, file=file, fix=fix) from error


def _foreign(error: BaseException) -> bool:
    """Return whether the innermost frame of an exception lies outside of this package."""
    frames = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
    return bool(frames) and _PACKAGE not in Path(frames[-1]).parents


def fault(error: BaseException, file: str | Path) -> str:
    """Return an unexpected exception in words: of the disk or memory, or a fault of this package.

    Whatever parsers raise over damaged files has become an `InputError` before (`readable`).
    """
    what = f"{type(error).__name__}: {error}"
    if isinstance(error, (OSError, MemoryError)):
        return f"{file}: cannot be read ({what})."
    frames = [(Path(frame.f_code.co_filename), n) for frame, n in walk_tb(error.__traceback__)]
    own = [(path, n) for path, n in frames if _PACKAGE in path.parents]
    place = "".join(f"; {path.relative_to(_PACKAGE)}, line {n}" for path, n in own[-1:])
    return f"{file}: {OWN_FAULT} ({what}{place}). The file may be fine; please report this."


def entry(content: object, *keys: str) -> Any:
    """Return an entry of parsed JSON, nested under `keys`.

    Raises
    ------
    ValueError
        There is no such entry; `readable` adds the file.
    """
    for key in keys:
        if not isinstance(content, dict) or key not in content:
            raise ValueError(f"has no entry {key!r}")
        content = content[key]
    return content


def nearest(word: str, known: Iterable[str], n: int = 1) -> str:
    """Return a hint ``Did you mean 'x'?`` for the known words nearest to `word`.

    Parameters
    ----------
    word : str
    known : iterable of str
    n : int
        Words to suggest. One is suggested only if it is close; otherwise all known words are
        listed. Several are for long lists: always suggested, nearest first.
    """
    words = sorted(known)
    close = get_close_matches(word, words, n=n, cutoff=0.6 if n == 1 else 0.0)
    if not close:
        return f"Known: {listed(words, shown=12)}"
    *others, last = map(repr, close)
    return f"Did you mean {', '.join(others)}{' or ' if others else ''}{last}?"


def listed(names: Sequence[str], *, shown: int = 5) -> str:
    """Return names in a message, so that it stays readable: the first ones, "and N more"."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
