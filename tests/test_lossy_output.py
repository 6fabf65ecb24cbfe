"""Unwritable lines are dropped and nothing else changes; `worker/test_closed_log_pipe.py` has whole workers."""

from __future__ import annotations

import subprocess
import sys

import pytest

WRITES = """
import sys
from worker.lossy_output import ignore_write_errors
ignore_write_errors()
for stream in (sys.stdout, sys.stderr):
    print("a line", file=stream, flush=True)
sys.exit(7)
"""


@pytest.mark.parametrize("outputs", [">&- 2>&-", ">/dev/full 2>&1", ">/dev/null 2>&-"])
def test_unwritable_output_does_not_change_the_exit_code(outputs: str) -> None:
    command = ["/bin/sh", "-c", f'exec "$0" -c "$1" {outputs}', sys.executable, WRITES]
    assert subprocess.run(command, check=False).returncode == 7


def test_writable_output_is_written_at_once_whatever_it_contains() -> None:
    writes = WRITES.replace("a line", r"zażółć \udc80")
    ran = subprocess.run([sys.executable, "-c", writes], capture_output=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (7, *["zażółć \\udc80\n".encode()] * 2)
