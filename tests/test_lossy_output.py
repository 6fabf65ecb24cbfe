"""Lines that cannot be written are lost, and nothing else; `test_nobody_reads_the_log.py` has whole workers."""

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
def test_a_process_whose_output_goes_nowhere_ends_as_it_would(outputs: str) -> None:
    command = ["/bin/sh", "-c", f'exec "$0" -c "$1" {outputs}', sys.executable, WRITES]
    assert subprocess.run(command, check=False).returncode == 7


def test_what_can_be_written_is_written_at_once_whatever_it_holds() -> None:
    writes = WRITES.replace("a line", r"zażółć \udc80")
    ran = subprocess.run([sys.executable, "-c", writes], capture_output=True, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (7, *["zażółć \\udc80\n".encode()] * 2)
