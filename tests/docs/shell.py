"""Parse shell commands in the documentation: programs, options and variables."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.docs.blocks import ROOT
from tools.reference.command_line import Command, commands
from worker.cli import app
from worker.settings import Settings, variable

WORKER = {command.name: command for command in commands(app)}
OTHERS = frozenset(
    {"cd", "chmod", "chown", "cp", "curl", "docker", "git", "mkdir", "mv", "npm", "npx", "pg_basebackup", "pg_dump"}
    | {"pg_restore", "pip", "psql", "supabase"}
)
"""Other programs: their arguments are not checked, except the SQL of psql."""
VARIABLES = {variable(name) for name in Settings.model_fields} | {"PYTHON", "CUDA_VISIBLE_DEVICES", "BAKE_MODELS"}
BETWEEN = frozenset({"&&", "||", "|", ";", "&"})
INTO = frozenset({">", ">>", "<"})


@dataclass(frozen=True)
class Call:
    """One program with its arguments, and the variables that are set for it."""

    variables: tuple[str, ...]
    words: tuple[str, ...]


def calls(text: str) -> list[Call]:
    """Return every program that a block starts, in order."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words: list[str] = []
        for token in [*lexer, ";"]:
            if token in BETWEEN:
                found += [_call(words)] if words else []
                words = []
            else:
                words.append(token)
    return found


def problems(call: Call) -> list[str]:
    """Return the mistakes in a call: unknown programs, commands, options, targets, files and variables."""
    wrong = [f"{name} is not a setting" for name in call.variables if name not in VARIABLES]
    if not call.words:
        return wrong
    program, *arguments = call.words
    match Path(program).name:
        case "worker" | "likeness":
            return wrong + _worker(arguments)
        case "make":
            return wrong + [f"make has no {word}" for word in arguments if "=" not in word and word not in _targets()]
        case "python" | "python3" | "python3.12":
            return wrong + _python(arguments)
        case name if name in OTHERS or name.endswith(".sh"):
            return wrong
    return [*wrong, f"{program} is not a known program"]


def sql_of(text: str) -> list[str]:
    """Return the SQL that a block passes to psql."""
    psql_calls = [call.words for call in calls(text) if call.words[:1] == ("psql",)]
    return [value for words in psql_calls for name, value in pairwise(words) if name == "-c"]


def _call(words: list[str]) -> Call:
    """Return a call without redirections, with its assignments separated."""
    plain = [word for before, word in zip(["", *words], words, strict=False) if word not in INTO and before not in INTO]
    if plain[:1] == ["export"]:
        plain = plain[1:]
    names = []
    while plain and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=.*", plain[0], re.DOTALL):
        names.append(plain.pop(0).partition("=")[0])
    return Call(tuple(names), tuple(plain))


def _worker(arguments: list[str]) -> list[str]:
    if arguments[:1] == ["job"] and " ".join(["worker", *arguments[:2]]) not in WORKER:
        arguments = ["job", "show", *arguments[1:]]  # `worker job ID` is short for `worker job show ID`
    for length in range(len(arguments), -1, -1):
        name = " ".join(["worker", *arguments[:length]])
        if name in WORKER:
            return _options(WORKER[name], arguments[length:])
    if arguments in ([], ["--help"]):
        return []
    return [f"there is no worker {' '.join(arguments)}"]


def _options(command: Command, arguments: list[str]) -> list[str]:
    options = [each for each in command.parameters if not each.is_argument]
    known = {name for option in options for name in option.names} | {"--help"}
    given = {word.partition("=")[0] for word in arguments if word.startswith("-")}
    missing = [option.names[0] for option in options if option.needed and not given & {*option.names, "--help"}]
    return [f"{command.name} has no {name}" for name in sorted(given - known)] + [
        f"{command.name} needs {name}" for name in missing
    ]


def _targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _python(arguments: list[str]) -> list[str]:
    if arguments[:1] == ["-m"]:
        module = arguments[1]
        ours = (ROOT / module.replace(".", "/")).with_suffix(".py"), ROOT / module.replace(".", "/") / "__main__.py"
        known = module in ("venv", "pip", "pytest") or any(path.exists() for path in ours)
        return [] if known else [f"there is no module {module}"]
    if arguments[:1] == ["-c"]:
        return []
    return [f"there is no {word}" for word in arguments[:1] if not (ROOT / word).exists()]
