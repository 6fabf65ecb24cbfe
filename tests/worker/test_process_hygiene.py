"""What a worker process drags in, and where it may connect to."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "spandrel")


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("module", ["worker.queue", "worker.cli", "worker.gpu", "worker.handlers"])
def test_the_parent_s_modules_pull_in_nothing_heavy(module: str) -> None:
    ended = run_python(f"import sys, {module}; print(sorted(set({HEAVY!r}) & set(sys.modules)))")
    assert ended.stdout.strip() == "[]", ended.stdout + ended.stderr


def test_the_command_s_help_imports_neither_database_nor_store() -> None:
    ended = run_python("import sys, worker.cli; print(sorted({'psycopg', 'boto3', 'numpy', 'PIL'} & set(sys.modules)))")
    assert ended.stdout.strip() == "[]", ended.stdout + ended.stderr


@pytest.mark.parametrize("first", ["import worker.queue", "import worker.gpu_child, worker.gpu_work"])
def test_the_network_guard_holds_in_the_processes_that_tests_start(first: str) -> None:
    reach = "import socket; socket.create_connection(('192.0.2.1', 9), timeout=1)"
    ended = run_python(f"{first}; {reach}")
    assert "network guard" in ended.stderr, ended.stderr
