"""Rules for every command: help with an example, a fast start, and exit codes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tests.commands.conftest import Operator
from worker import __version__
from worker.cli import app

SLOW_MODULES = {"asyncio", "torch", "diffusers", "boto3", "psycopg", "pydantic", "rich", "structlog", "numpy", "PIL"}


def commands(group: Any, *words: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command and group with the words that call it."""
    for name, command in group.commands.items():
        yield (*words, name), command
        if hasattr(command, "commands"):
            yield from commands(command, *words, name)


EVERY = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_every_command_has_help_and_an_example(words: tuple[str, ...]) -> None:
    command = EVERY[words]
    assert command.help
    assert command.epilog is not None
    assert command.epilog.startswith("Example: ")
    assert all(parameter.help for parameter in command.params if parameter.name != "help")


GROUPS = [(), *(words for words, command in EVERY.items() if hasattr(command, "commands"))]


@pytest.mark.parametrize("words", GROUPS, ids=" ".join)
def test_the_list_of_commands_truncates_no_description(words: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(app, [*words, "--help"])
    assert "Commands:" in shown.output
    assert "..." not in shown.output.partition("Commands:")[2].partition("Example:")[0]


@pytest.mark.parametrize(("option", "output"), [("--help", "Usage: "), ("--version", f"{__version__}\n")])
def test_help_and_version_import_no_slow_modules(tmp_path: Path, option: str, output: str) -> None:
    code = (
        "import sys, worker.cli\n"
        f"try: worker.cli.app(['{option}'])\n"
        f"except SystemExit: print('loaded', sorted({SLOW_MODULES!r} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert output in ran.stdout
    assert ran.stdout.splitlines()[-1] == "loaded []"


@pytest.mark.parametrize("words", [("status",), ("role", "likeness_pod")])
def test_a_missing_setting_is_named_with_exit_code_2(operator: Operator, words: tuple[str, ...]) -> None:
    ran = operator.worker(*words, DATABASE_URL=None)
    assert ran.code == 2
    assert "DATABASE_URL is missing" in ran.stderr


@pytest.mark.parametrize(("command", "code"), [("status", 2), ("migrate", 1)])
def test_an_unreachable_database_is_reported_without_its_password(operator: Operator, command: str, code: int) -> None:
    ran = operator.worker(command, DATABASE_URL="postgresql://pod:secret-marker@127.0.0.1:1/postgres")
    assert ran.code == code
    assert "nothing listens there" in ran.stderr
    assert "secret-marker" not in ran.stderr


def test_migrate_with_supabase_stubs_can_be_repeated(operator: Operator) -> None:
    ran = operator.worker("migrate", "--supabase-stubs")
    assert (ran.code, ran.stderr) == (0, "")
    assert "No stubs were created: auth.users already exists" in ran.stdout
    assert "Up to date" in ran.stdout


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--since 2", "requires --print"),
        ("--print --since 99", "migration 99 not found"),
        ("--print --supabase-stubs", "cannot be combined with --print"),
    ],
)
def test_migrate_refuses_incompatible_options(operator: Operator, words: str, why: str) -> None:
    ran = operator.worker("migrate", *words.split())
    assert (ran.code, ran.stdout) == (1, "")
    assert why in ran.stderr


CONNECTING = [
    "run",
    "migrate",
    "migrate --supabase-stubs",
    "doctor",
    "status",
    "job 6a05f1e2",
    "job retry 6a05f1e2",
    "job cancel 6a05f1e2",
    "role likeness_pod",
    "role likeness_pod --apply",
    "lora export 6a05f1e2-0000-4000-8000-000000000000 --format kohya --output lora.safetensors",
    "lora import lora.safetensors --base tiny-flux --nobody",
    "installation moved",
    "installation adopt",
    "models list",
]


@pytest.mark.parametrize(
    "url", ["postgresql://pod:se@cret-marker@127.0.0.1:1/postgres", "postgresql://pod:1/cret-marker@127.0.0.1/db"]
)
def test_no_command_shows_a_password_that_should_have_been_percent_encoded(operator: Operator, url: str) -> None:
    for command in CONNECTING:
        ran = operator.run(command, DATABASE_URL=url, DATABASE_LISTEN_URL=url, CUDA_VISIBLE_DEVICES="")
        assert ran.code in (1, 2), command
        assert "in a password must be percent-encoded" in ran.stdout + ran.stderr, command
        assert "cret-marker" not in ran.stdout + ran.stderr, command


def test_a_missing_schema_is_reported_with_the_migrate_command(operator: Operator) -> None:
    ran = operator.worker("status", DATABASE_URL=operator.app.url.rpartition("/")[0] + "/template1")
    assert ran.code == 1
    assert "worker migrate" in ran.stderr
