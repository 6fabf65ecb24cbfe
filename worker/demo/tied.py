"""Processes that end with the process that started them, however that ends.

Each runs under a small shell that holds the read end of a pipe from its starter. When the starter stops it, or ends
in any way (`kill -9` included), the pipe closes and the shell stops the process. This needs no signal handler, and
works from any thread. Each process has its own session, so that Ctrl-C reaches the starter alone, which stops the
processes in order.
"""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

STOP_DEADLINE_S = 15.0

# $1: the signal that stops the process; the rest: its command. The watcher reads the pipe to its end, then
# sends the signal.
_TIED_TO_STDIN = """
stop=$1; shift
exec 3<&0
"$@" 3<&- & server=$!
{ read _ <&3; kill -s "$stop" $server; } 2>/dev/null & watcher=$!
wait $server; code=$?
kill $watcher 2>/dev/null
exit $code
"""


def spawn_tied(stop_signal: str, command: list[str], **popen: Any) -> subprocess.Popen[bytes]:
    """Start a command that receives `stop_signal` (TERM, INT) when this process closes the pipe to it, or ends."""
    return subprocess.Popen(
        ["/bin/sh", "-c", _TIED_TO_STDIN, "sh", stop_signal, *command],
        stdin=subprocess.PIPE,
        start_new_session=True,
        **popen,
    )


def stop_tied(process: subprocess.Popen[bytes]) -> int:
    """Close the pipe and wait; kill the whole process group after STOP_DEADLINE_S. Returns the exit code."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    try:
        return process.wait(STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()
