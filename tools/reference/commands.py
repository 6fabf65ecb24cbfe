"""docs/reference/commands.md, from the commands' own help."""

from __future__ import annotations

from tools.reference.command_line import Command, Parameter, commands
from tools.reference.markdown import code, page, table
from worker.cli import app

INTRODUCTION = """
Installed as `worker` and as `likeness`; in a checkout, `.venv/bin/worker`. Exit codes: 0 done, 1 failed (the message
says why and what to do), 2 a wrong setting or a wrong option. [Settings](settings.md) describes the environment
variables that commands read.
"""


def commands_page() -> str:
    """Return the page, with one section per command."""
    return page("Commands", INTRODUCTION, *(_section(command) for command in commands(app)))


def _section(command: Command) -> str:
    parts = [f"## {command.name}", command.help, f"```text\n{command.usage}\n```"]
    shown = [each for each in command.parameters if not each.hidden]
    if shown:
        parts.append(table(["Parameter", "Meaning", "Default"], [_row(each) for each in shown]))
    if command.example:
        parts.append(f"For example:\n\n```sh\n{command.example}\n```")
    return "\n\n".join(part for part in parts if part)


def _row(parameter: Parameter) -> list[str]:
    names = ", ".join(code(name) for name in parameter.names)
    value = "" if parameter.is_argument else code(parameter.value)
    default = "needed" if parameter.needed else code(parameter.default)
    return [f"{names} {value}", parameter.help, default]
