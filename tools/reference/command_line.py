"""Reads the commands of the `worker` program from their declarations.

Not from typer's command objects, whose attributes change from release to release.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.models import ArgumentInfo

VALUES = {int: "INTEGER", float: "NUMBER", Path: "PATH"}


@dataclass(frozen=True)
class Parameter:
    """An option, or a positional argument. `value` is empty for a flag. Help does not show a hidden one."""

    names: tuple[str, ...]
    value: str
    help: str
    default: str
    is_argument: bool
    needed: bool
    hidden: bool


@dataclass(frozen=True)
class Command:
    """One command with its whole name, such as `worker job retry`."""

    name: str
    help: str
    example: str
    parameters: list[Parameter] = field(default_factory=list)

    @property
    def usage(self) -> str:
        arguments = [each for each in self.parameters if each.is_argument]
        options = ["[OPTIONS]"] if len(arguments) < len(self.parameters) else []
        return " ".join(
            [self.name, *options, *(each.value if each.needed else f"[{each.value}]" for each in arguments)]
        )


def commands(app: typer.Typer, name: str = "worker") -> Iterator[Command]:
    """Yield every command that help shows, in the order of their registration."""
    whole = app.registered_callback
    if whole and whole.invoke_without_command and whole.callback:
        yield _command(name, whole.callback, whole.help, whole.epilog)
    for info in app.registered_commands:
        if info.callback and not info.hidden:
            own_name = info.name or _dashed(info.callback.__name__)
            yield _command(f"{name} {own_name}", info.callback, info.help, info.epilog)
    for group in app.registered_groups:
        if group.typer_instance:
            own_name = _given(group.name) or _given(group.typer_instance.info.name)
            # Commands of a group without a name belong to the group around it.
            yield from commands(group.typer_instance, f"{name} {own_name}" if own_name else name)


def _command(name: str, callback: Callable[..., Any], text: str | None, epilog: str | None) -> Command:
    hints = typing.get_type_hints(callback, include_extras=True)
    parameters = [
        _parameter(parameter, hints[parameter.name])
        for parameter in inspect.signature(callback).parameters.values()
        if typing.get_origin(hints[parameter.name]) is Annotated
    ]
    example = (epilog or "").removeprefix("Example:").strip()
    return Command(name, inspect.cleandoc(text or callback.__doc__ or ""), example, parameters)


def _parameter(parameter: inspect.Parameter, annotation: Any) -> Parameter:
    kind, info = typing.get_args(annotation)[:2]
    kinds = [each for each in typing.get_args(kind) if each is not type(None)] or [kind]
    needed = parameter.default is parameter.empty
    default = "" if needed or parameter.default is None or parameter.default is False else str(parameter.default)
    value = info.metavar or VALUES.get(kinds[0], "TEXT")
    if isinstance(info, ArgumentInfo):
        name = info.metavar or parameter.name.upper()
        return Parameter((name,), name, info.help or "", default, is_argument=True, needed=needed, hidden=info.hidden)
    # In Annotated[...] the first name of an option is in the place of its default.
    declared = [each for each in (info.default, *(info.param_decls or ())) if isinstance(each, str)]
    names = tuple(declared) or (f"--{_dashed(parameter.name)}",)
    value = "" if kinds[0] is bool else value
    return Parameter(names, value, info.help or "", default, is_argument=False, needed=needed, hidden=info.hidden)


def _dashed(name: str) -> str:
    return name.strip("_").replace("_", "-")


def _given(value: Any) -> Any:
    """Return the value of an argument of typer's, which wraps defaults."""
    return getattr(value, "value", value)
