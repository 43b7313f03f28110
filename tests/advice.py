"""Advice of errors (``fix=``): where the source gives it, and that a test saw it given.

`advised` stands around what breaks a rule; the test then does what the advice says, and repeats
the call. `given` lists all advice in the source, so that none is without such a test.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

import semantoks
from semantoks.errors import InputError

PACKAGE = Path(semantoks.__file__).parent


class Advice(NamedTuple):
    """Advice in the source: where it is given, and its words, without what is filled in."""

    place: str
    words: tuple[str, ...]

    def is_told_by(self, place: str, text: str) -> bool:
        return place == self.place and any(text in words for words in self.words)


@contextmanager
def advised(place: str, text: str, *, raised: bool = False) -> Iterator[None]:
    """Check that an error with this advice is made, raised or not, in a function.

    Parameters
    ----------
    place : str
        Module and function, e.g. ``data/denoise.stretch``.
    text : str
        Some of the advice's words.
    raised : bool
        Let the error pass on, to a check of its rule.
    """
    made, init = [], InputError.__init__

    def note(self, *args, **kwargs):
        init(self, *args, **kwargs)
        frame = sys._getframe(1)
        while frame is not None:
            if PACKAGE in (file := Path(frame.f_code.co_filename)).parents:
                made.append((_place(file, frame.f_code.co_name), self.fix or ""))
            frame = frame.f_back

    InputError.__init__ = note
    try:
        with nullcontext() if raised else suppress(InputError):
            yield
    finally:
        InputError.__init__ = init
        assert any(p == place and text in fix for p, fix in made), made or "no error"


def given(*folders: str) -> list[Advice]:
    """Return all advice that the modules of some folders, or some modules, give."""
    files = [file for name in folders for file in sorted(PACKAGE.glob(name)) if file.is_file()]
    files += [file for name in folders for file in sorted((PACKAGE / name).rglob("*.py"))]
    return [advice for file in files for advice in _of_module(file)]


def _place(file: Path, function: str) -> str:
    return f"{file.relative_to(PACKAGE).with_suffix('').as_posix()}.{function}"


def _of_module(file: Path) -> Iterator[Advice]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            values = [
                keyword.value
                for node in ast.walk(function)
                if isinstance(node, ast.Call)
                for keyword in node.keywords
                if keyword.arg == "fix"
            ]
            found = {words for value in values for words in _words(value, function, file)}
            for words in sorted(found):
                yield Advice(_place(file, function.name), words)


def _words(value: ast.expr, function: ast.FunctionDef, file: Path) -> Iterator[tuple[str, ...]]:
    """Yield the words of every text that an expression can be."""
    match value:
        case ast.Constant(value=str(text)):
            yield (text,)
        case ast.JoinedStr(values=parts):
            yield tuple(str(p.value) for p in parts if isinstance(p, ast.Constant))
        case ast.IfExp(body=body, orelse=other):
            yield from _words(body, function, file)
            yield from _words(other, function, file)
        case ast.Call(func=ast.Name(id="nearest")):
            yield "Did you mean", "Known: "
        case ast.Name(id=name) if name.isupper():
            module = importlib.import_module(_module(file))
            yield (getattr(module, name),)
        case ast.Name(id=name):  # a parameter has no assignment: its words are the caller's
            for assigned in _assigned(name, function):
                yield from _words(assigned, function, file)
        case ast.Constant(value=None) | ast.Attribute():
            return
        case _:
            raise AssertionError(f"{file}: cannot tell the words of {ast.unparse(value)}")


def _assigned(name: str, function: ast.FunctionDef | ast.Module) -> Iterator[ast.expr]:
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            (target,) = node.targets
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = zip(target.elts, node.value.elts, strict=True)
            else:
                pairs = iter([(target, node.value)])
            yield from (v for t, v in pairs if isinstance(t, ast.Name) and t.id == name)


def _module(file: Path) -> str:
    return ".".join(("semantoks", *file.relative_to(PACKAGE).with_suffix("").parts))


def told(file: Path) -> set[tuple[str, str]]:
    """Return the places and texts of all `advised` blocks in a file of tests."""
    found = set()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "advised":
                    places, texts = (_texts(arg, function, tree) for arg in call.args[:2])
                    found |= {(place, text) for place in places for text in texts}
    return found


def _texts(value: ast.expr, function: ast.FunctionDef, tree: ast.Module) -> list[str]:
    if isinstance(value, ast.Name):
        scope = tree if value.id.isupper() else function
        return [ast.literal_eval(v) for v in _assigned(value.id, scope)]
    return [ast.literal_eval(value)]
