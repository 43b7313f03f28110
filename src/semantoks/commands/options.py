"""Commands from functions: options are made from the dataclasses that they fill.

A parameter of a command's function whose type is a dataclass becomes one option per field, the
docstring under the field its help. Other parameters become arguments (`Argument`) or options
(`semantoks.flags.Flag`).
"""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal

import click

from semantoks.commands.output import as_json, set_level
from semantoks.config import field_docs
from semantoks.errors import InputError
from semantoks.flags import PANELS, Flag, Panel

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_TYPES: dict[Any, Any] = {
    str: click.STRING,
    int: click.INT,
    float: click.FLOAT,
    Path: click.Path(path_type=Path),
}


@dataclass(frozen=True)
class Argument:
    """Stands in ``Annotated`` on a parameter that is given by its place.

    Parameters
    ----------
    metavar : str
    help : str
    """

    metavar: str
    help: str


class Command(click.Command):
    """A command whose ``--help`` lists arguments and options in panels; with -v, -q and --json."""

    def __init__(self, *, panels: Mapping[str, Panel], slots: Sequence[_Slot], **given: Any):
        super().__init__(**given)
        self._panels, self._slots = panels, slots

    def invoke(self, ctx: click.Context) -> None:
        """Set the level of the log, read the values, and run."""
        set_level(verbose=ctx.params.pop("verbose"), quiet=ctx.params.pop("quiet"))
        values = {slot.name: slot.value(ctx.params) for slot in self._slots}
        assert self.callback is not None
        with ctx:
            self.callback(**values)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write usage, help and panels."""
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        self.format_options(ctx, formatter)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the panels, in the order of `PANELS`."""
        panels: dict[Panel, list[tuple[str, str]]] = {panel: [] for panel in PANELS}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                panels[self._panels.get(str(param.name), "General")].append(record)
        for panel, lines in panels.items():
            if lines:
                with formatter.section(panel):
                    formatter.write_dl(lines, col_max=26)


class _Place(click.Argument):
    def __init__(self, *args: Any, help: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.help = help

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        return self.make_metavar(ctx), str(self.help)


@dataclass(frozen=True, kw_only=True)
class _One:
    """A field or a parameter, and the argument or option that fills it."""

    name: str
    param: click.Parameter
    panel: Panel
    default: Any
    read: Callable[[Any], Any] | None

    @property
    def flag(self) -> str:
        return self.param.opts[0]

    def given(self, params: Mapping[str, Any]) -> bool:
        return params[str(self.param.name)] not in (None, ())

    def value(self, params: Mapping[str, Any]) -> Any:
        if not self.given(params):
            return () if self.default is MISSING else self.default
        raw = params[str(self.param.name)]
        if self.read is None:
            return raw
        try:
            return self.read(raw)
        except InputError as error:
            raise (error.about(self.flag) if error.file is None else error) from None

    def all(self) -> Iterator[_One]:
        yield self


@dataclass(frozen=True, kw_only=True)
class _Record:
    """A dataclass, and what fills its fields."""

    name: str
    cls: Callable[..., Any]
    fields: Sequence[_One]
    optional: bool

    def value(self, params: Mapping[str, Any]) -> Any:
        given = {one.name: one.value(params) for one in self.fields if one.given(params)}
        lacking = [o.flag for o in self.fields if o.default is MISSING and o.name not in given]
        flags = {one.name: one.flag for one in self.fields}
        if lacking:  # click refuses this for what is not optional
            if given:
                raise InputError(f"needs {lacking[0]} too", field=flags[next(iter(given))])
            return None
        try:
            return self.cls(**given)
        except InputError as error:
            if error.field is None:
                raise
            names = error.field.split(", ")
            raise error.about(", ".join(flags.get(name, name) for name in names)) from None

    def all(self) -> Iterator[_One]:
        yield from self.fields


_Slot = _One | _Record


def command(function: Callable[..., None]) -> Command:
    """Return the command that a function with annotated parameters is (as a decorator).

    Parameters
    ----------
    function : callable
        Its name is the command's, the first line of its docstring the summary. Parameters are
        dataclasses (``Annotated[Reading | None, Flag(panel="Source")]``: None if none of its flags
        is given), ``Annotated[..., Argument(...)]`` or ``Annotated[..., Flag(...)]``.
    """
    return command_with(function, {})


def command_with(function: Callable[..., None], settings: Mapping[str, Any]) -> Command:
    """Return a command, with more settings of click's context."""
    hints = typing.get_type_hints(function, include_extras=True)
    slots = [
        _slot(name, hints[name], MISSING if p.default is p.empty else p.default)
        for name, p in inspect.signature(function).parameters.items()
    ]
    every = [one for slot in slots for one in slot.all()]
    general = [
        click.Option(["-v", "--verbose"], is_flag=True, help="Print details of the work."),
        click.Option(["-q", "--quiet"], is_flag=True, help="Print warnings and results only."),
        click.Option(
            ["--json"],
            is_flag=True,
            expose_value=False,
            callback=as_json,
            help="Print the result as JSON, alone on stdout.",
        ),
    ]
    return Command(
        name=function.__name__.rstrip("_").replace("_", "-"),
        callback=function,
        help=inspect.getdoc(function),
        params=[*(one.param for one in every), *general],
        panels={str(one.param.name): one.panel for one in every},
        slots=slots,
        context_settings=HELP | dict(settings),
    )


def _slot(name: str, hint: Any, default: Any) -> _Slot:
    bare, mark = _unpacked(hint)
    if isinstance(mark, Argument):
        return _argument(name, bare, default, mark)
    title: Panel = mark.panel or "Running"
    inner, optional = _required(bare)
    if not isinstance(inner, type) or not dataclasses.is_dataclass(inner) or mark.read is not None:
        return _option(name, bare, default, mark, mark.help or "", title)
    docs, hints = field_docs(inner), typing.get_type_hints(inner, include_extras=True)
    fields = []
    for field in dataclasses.fields(inner):
        kind, own = _unpacked(hints[field.name])
        if isinstance(own, Flag) and not own.hidden:
            panel = own.panel or title
            start = field.default
            if field.default_factory is not MISSING:
                start = field.default_factory()
            fields.append(
                _option(field.name, kind, start, own, docs[field.name], panel, optional, name)
            )
    return _Record(name=name, cls=inner, fields=fields, optional=optional)


def _argument(name: str, hint: Any, default: Any, mark: Argument) -> _One:
    inner, several = _item(_required(hint)[0])
    known = _literals(inner)
    param = _Place(
        [name],
        type=click.Choice(known) if known else _TYPES[inner],
        metavar=mark.metavar,
        help=mark.help,
        nargs=-1 if several else 1,
        required=default is MISSING,
    )
    return _One(name=name, param=param, panel="Arguments", default=default, read=None)


def _option(
    name: str,
    hint: Any,
    default: Any,
    mark: Flag,
    doc: str,
    panel: Panel,
    optional: bool = False,
    owner: str = "",
) -> _One:
    inner, several = _item(_required(hint)[0])
    several = (several or mark.several) and not mark.single
    known = mark.known() if mark.known else _literals(inner)
    given = (mark.name or f"--{name.replace('_', '-')}").split("/")
    key = f"{owner}__{name}" if owner else name
    if inner is bool and default is True:
        given = [f"{given[0]}/--no-{given[0].removeprefix('--')}"]
    if not known and mark.read is None and inner not in {bool, *_TYPES}:
        raise TypeError(f"{name}: no option can be made of {inner}; its Flag needs `read`")
    kind = click.Choice(known) if known else _TYPES.get(mark.of or inner, click.STRING)
    start = mark.shown or (None if mark.on else default)
    param = click.Option(
        [*given, key],
        type=click.BOOL if inner is bool else kind,
        is_flag=inner is bool or mark.on is not None,
        default=None,
        metavar=mark.metavar,
        multiple=several,
        required=default is MISSING and not optional,
        help=_help(doc, start, several, known if mark.metavar else ()),
    )
    if mark.on is not None:
        param.flag_value = mark.on
    return _One(name=name, param=param, panel=panel, default=default, read=mark.read)


def _help(doc: str, default: Any, several: bool, known: Sequence[str]) -> str:
    """Return the help of an option: what it does, the legal values, the default, "(repeatable)"."""
    text = doc.rstrip(".")
    if known:
        text += f": {', '.join(known)}"
    if several:
        text += " (repeatable)"
    if isinstance(default, int | float | str) and not isinstance(default, bool):
        text += f" [default: {default}]"
    return text + "."


def _unpacked(hint: Any) -> tuple[Any, Flag | Argument]:
    """Return a type without ``Annotated``, and what the annotation says."""
    if typing.get_origin(hint) is typing.Annotated:
        bare, *marks = typing.get_args(hint)
        return bare, next((m for m in marks if isinstance(m, Flag | Argument)), Flag())
    return hint, Flag()


def _required(hint: Any) -> tuple[Any, bool]:
    """Return a type without ``| None``, and whether it had that."""
    if typing.get_origin(hint) in (typing.Union, UnionType):
        left = [a for a in typing.get_args(hint) if a is not NoneType]
        if len(left) < len(typing.get_args(hint)):
            return left[0] if len(left) == 1 else typing.Union[tuple(left)], True  # noqa: UP007
    return hint, False


def _literals(hint: Any) -> tuple[str, ...]:
    """Return the values of a `Literal`, or of a union of several."""
    members = typing.get_args(hint) if typing.get_origin(hint) is typing.Union else (hint,)
    if all(typing.get_origin(member) is Literal for member in members):
        return tuple(value for member in members for value in typing.get_args(member))
    return ()


def _item(hint: Any) -> tuple[Any, bool]:
    """Return the type of one value, and whether there may be several."""
    if typing.get_origin(hint) in (tuple, list):
        return typing.get_args(hint)[0], True
    return hint, False
