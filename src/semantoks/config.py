"""Configuration trees: check, parse, override, describe and save frozen dataclasses.

A file holds only what differs from the defaults. Every unknown key and every wrong type is an
error that names the dotted key and, for a typing slip, the nearest known one. What a key means
stands in the docstring under its field; `describe` reads it from there.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from semantoks.errors import ConfigError, nearest

T = TypeVar("T")
ConfigTree = dict[str, Any]


def check_positive(settings: object, section: str, *names: str) -> None:
    """Refuse settings that are not positive; None is no number.

    Parameters
    ----------
    settings : object
    section : str
        Where they stand in the configuration, for messages.
    names : str
        Attributes.

    Raises
    ------
    ConfigError
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and value <= 0:
            raise ConfigError("must be positive", field=f"{section}.{name}", value=value)


def parse(cls: type[T], tree: Mapping[str, Any], *, file: str | Path | None = None) -> T:
    """Return the dataclass `cls` with the values of `tree`, everything checked.

    Parameters
    ----------
    cls : type
        A frozen dataclass of dataclasses.
    tree : mapping
        Nested values; absent keys keep their defaults.
    file : path, optional
        Named in the error.

    Raises
    ------
    ConfigError
        All unknown keys, or all ill-typed and illegal values, in one message.
    """
    tree = _with_kinds(cls, tree)
    problems = list(_unknown_keys(cls, tree, ""))
    if problems:
        raise ConfigError("\n".join(problems), file=file)
    try:
        return TypeAdapter(cls).validate_python(dict(tree))
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error, cls)), file=file) from None


def _with_kinds(cls: type, tree: Mapping[str, Any]) -> ConfigTree:
    """Return the tree with the kind of its default where a union of dataclasses states none."""
    hints = typing.get_type_hints(cls)
    out = dict(tree)
    for f in dataclasses.fields(cls):
        given = out.get(f.name)
        if kinds(hints[f.name]) and isinstance(given, Mapping) and "kind" not in given:
            assert f.default_factory is not dataclasses.MISSING
            out[f.name] = {"kind": f.default_factory().kind, **given}
    return out


def kinds(tp: Any) -> dict[str, Any]:
    """Return the dataclasses of a union that differ by their `kind`."""
    if typing.get_origin(tp) is typing.Annotated:
        tp = typing.get_args(tp)[0]
    members = [m for m in typing.get_args(tp) if dataclasses.is_dataclass(m)]
    return {m.kind: m for m in members if hasattr(m, "kind")}


def _explain(error: ValidationError, cls: type) -> Iterator[str]:
    for item in error.errors():
        cause = item.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):  # raised by a dataclass about itself
            yield str(cause).removesuffix(".")
        else:
            # After a place in a list, or the name of a union, pydantic adds the kind of the member:
            # it is no key.
            loc = item["loc"]
            unions = {f for f, tp in typing.get_type_hints(cls).items() if kinds(tp)}
            path = [
                str(p)
                for i, p in enumerate(loc)
                if not (i and (isinstance(loc[i - 1], int) or loc[i - 1] in unions))
            ]
            yield f"{'.'.join(path)} = {item['input']!r}: {item['msg'].lower()}"


def _unknown_keys(tp: Any, tree: Any, path: str) -> Iterator[str]:
    """Yield a line for every key that `tp` does not have."""
    target = _choose(tp, tree)
    if dataclasses.is_dataclass(target) and isinstance(tree, Mapping):
        hints = typing.get_type_hints(target)
        names = [f.name for f in dataclasses.fields(target)]
        for key, value in tree.items():
            if key in names:
                yield from _unknown_keys(hints[key], value, f"{path}{key}.")
            else:
                yield f"unknown key {path}{key}. {nearest(str(key), names)}"
    elif typing.get_origin(target) is tuple and isinstance(tree, Sequence):
        for i, value in enumerate(tree):
            yield from _unknown_keys(typing.get_args(target)[0], value, f"{path}{i}.")


def _choose(tp: Any, tree: Any) -> Any:
    """Of a union of dataclasses return the one whose `kind` the tree names."""
    if typing.get_origin(tp) not in (typing.Union, UnionType):
        return tp
    members = [m for m in typing.get_args(tp) if dataclasses.is_dataclass(m)]
    kind = tree.get("kind") if isinstance(tree, Mapping) else None
    for member in members:
        if any(f.name == "kind" and f.default == kind for f in dataclasses.fields(member)):
            return member
    return tp


def read_yaml(path: str | Path) -> ConfigTree:
    """Read a configuration file; an empty one is an empty tree.

    Raises
    ------
    ConfigError
        If the file is missing, is no YAML, or holds something else than keys.
    """
    path = Path(path)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=path) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"is not valid YAML: {' '.join(str(error).split())}", file=path) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError("must hold `key: value` pairs", file=path, value=tree)
    return tree


def override(tree: Mapping[str, Any], assignments: Sequence[str]) -> ConfigTree:
    """Return `tree` with ``key.sub=value`` assignments applied; values are read as YAML.

    Raises
    ------
    ConfigError
        If an assignment has no ``=`` or goes through a key that holds a plain value.
    """
    out: ConfigTree = merge({}, tree)
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                "an override has the form key.sub=value",
                value=assignment,
                fix="For example: optim.epochs=20",
            )
        node: ConfigTree = {}
        try:
            leaf: Any = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError("the value is not valid YAML", value=assignment) from None
        for part in reversed(key.strip().split(".")):
            node = {part: leaf}
            leaf = node
        out = merge(out, node)
    return out


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> ConfigTree:
    """Return `base` with the leaves of `changes` put in, neither of them changed."""
    out = dict(base)
    for key, value in changes.items():
        old = out.get(key)
        both = isinstance(value, Mapping) and isinstance(old, Mapping)
        out[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return out


def to_tree(config: Any) -> ConfigTree:
    """Return all values of a dataclass as plain nested dictionaries and lists."""
    tree: ConfigTree = plain(config)
    return tree


def plain(value: Any) -> Any:
    """Return a value with dataclasses as dictionaries and tuples as lists."""
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return [plain(v) for v in value] if isinstance(value, tuple) else value


def differences(config: Any, base: Any) -> ConfigTree:
    """Return the part of `config` in which it differs from `base` (same class)."""

    def diff(new: ConfigTree, old: ConfigTree) -> ConfigTree:
        out: ConfigTree = {}
        for key, value in new.items():
            if value == old.get(key):
                continue
            deeper = isinstance(value, dict) and isinstance(old.get(key), dict)
            out[key] = diff(value, old[key]) if deeper else value
        return out

    return diff(to_tree(config), to_tree(base))


def to_yaml(tree: Mapping[str, Any]) -> str:
    """Return the tree as YAML, keys in their order."""
    return yaml.safe_dump(dict(tree), sort_keys=False, allow_unicode=True)


@dataclass(frozen=True)
class ConfigKey:
    """One key of a configuration.

    Parameters
    ----------
    path : str
        Dotted key.
    type : str
    default : object
    doc : str
    """

    path: str
    type: str
    default: Any
    doc: str


def describe(config: Any, prefix: str = "") -> Iterator[ConfigKey]:
    """Yield every leaf of a dataclass instance with its value and its documentation."""
    docs = field_docs(type(config))
    hints = typing.get_type_hints(type(config))
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            for key in describe(value, f"{prefix}{f.name}."):
                several = kinds(hints[f.name]) if key.path == f"{prefix}{f.name}.kind" else {}
                yield dataclasses.replace(key, type=" | ".join(several)) if several else key
        else:
            yield ConfigKey(f"{prefix}{f.name}", _type_name(hints[f.name]), value, docs[f.name])
            for member in _members(hints[f.name]):
                yield from describe(member(), f"{prefix}{f.name}.[{member().kind}].")


def _members(tp: Any) -> list[Any]:
    """Return the kinds of dataclasses that a list may hold."""
    inner = typing.get_args(tp)[0] if typing.get_origin(tp) is tuple else None
    while typing.get_origin(inner) is typing.Annotated:
        inner = typing.get_args(inner)[0]
    return [m for m in typing.get_args(inner) if dataclasses.is_dataclass(m)]


def _type_name(tp: Any) -> str:
    if typing.get_origin(tp) is typing.Literal:
        return " | ".join(str(a) for a in typing.get_args(tp))
    if typing.get_origin(tp) in (typing.Union, UnionType):
        return " | ".join(_type_name(a) for a in typing.get_args(tp))
    if typing.get_origin(tp) is tuple:
        return f"list of {_type_name(typing.get_args(tp)[0])}"
    return "null" if tp is type(None) else getattr(tp, "__name__", str(tp))


def field_docs(cls: type) -> dict[str, str]:
    """Return the docstring under every field of a dataclass."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    docs: dict[str, str] = {}
    for statement, following in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            text = ""
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                text = " ".join(str(following.value.value).split())
            docs[statement.target.id] = text
    return docs
