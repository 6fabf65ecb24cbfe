"""The GPU process: takes a task, does it, says how it goes. `process.py` is the other end.

    python -m worker.gpu.child SOCKET_FD PARENT_PID

What a task does is in `work.py`. It is imported late: that takes seconds, and by then this process
already ends with its parent.
"""

from __future__ import annotations

import ctypes
import gc
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, BinaryIO

from worker import errors
from worker.gpu.messages import (
    HEADER,
    Done,
    Failed,
    FromChild,
    Interrupt,
    Outcome,
    Phase,
    Progress,
    Stopped,
    Task,
    ToChild,
    Work,
    frame,
    parse_to_child,
)
from worker.lossy_output import ignore_write_errors

if TYPE_CHECKING:
    from worker.gpu.work import Models

PROGRESS_EVERY_S = 0.2
"""More would only make the worker read: it tells the database once a second."""

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    ignore_write_errors()
    connection = socket.socket(fileno=int(sys.argv[1]))
    end_with_parent(int(sys.argv[2]))
    inbox = Inbox(connection)

    def send(message: FromChild) -> None:
        try:
            connection.sendall(frame(message))
        except ConnectionError:
            os._exit(0)  # the worker is gone, and nobody else wants the result

    from worker.gpu.work import Models

    models = Models()
    gc.collect()
    gc.freeze()  # collecting what the imports made would stall every step that triggers it
    send(models.ready())
    while True:
        perform(inbox.tasks.get(), models, inbox.stop, send)


def end_with_parent(parent_pid: int) -> None:
    """No orphan keeps GPU memory, and no signal but SIGKILL ends this process while its parent needs it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(0)  # it died before it could have been noticed
    # A service manager may signal every process of the service. The parent stops this one in its own order.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Inbox:
    """What the worker sends, read by a thread, so that an interrupt is seen while the GPU works."""

    def __init__(self, connection: socket.socket) -> None:
        self.tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self.stop = threading.Event()
        """The task that runs shall stop."""
        connection.set_inheritable(False)  # a process started by a library must not keep the line open
        threading.Thread(target=self._listen, args=(connection,), name="inbox", daemon=True).start()

    def _listen(self, connection: socket.socket) -> None:
        try:
            with connection.makefile("rb") as stream:
                while (message := _receive(stream)) is not None:
                    if isinstance(message, Interrupt):
                        self.stop.set()
                    else:
                        # Cleared where frames are still in order: an interrupt that came too late for the
                        # task before must not stop this one.
                        self.stop.clear()
                        self.tasks.put(message)
        except (OSError, ValueError):
            traceback.print_exc()
        finally:
            os._exit(0)  # whatever the main thread does now, the GPU and its memory are free at once


def _receive(stream: BinaryIO) -> ToChild | None:
    """The next message; None at the end of the stream, wherever it ends."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (length,) = HEADER.unpack(header)
    body = stream.read(length)
    return parse_to_child(body) if len(body) == length else None


def perform(task: Task, models: Models, stop: threading.Event, send: Callable[[FromChild], None]) -> None:
    """Do one task and send its outcome; ends the process when it cannot be trusted with another."""
    from worker.gpu.work import begin, failure

    report = Reporter(send)
    outcome: Outcome
    try:
        work = begin(task, models)
        outcome = drain(work, stop, report)
    except Exception as error:
        outcome = failure(error, report.phase)
        if outcome.code not in (errors.InvalidInput.code, errors.OutOfMemory.code):
            traceback.print_exc()  # its message is not all there is to know
    report(outcome)
    if isinstance(outcome, Failed) and outcome.fatal:
        sys.stderr.flush()
        os._exit(1)


def drain(work: Work, stop: threading.Event, report: Reporter) -> Done | Stopped:
    """Run a task to its end. Between any two of its events it can be stopped, so within one step."""
    with closing(work):
        while not stop.is_set():
            try:
                event = next(work)
            except StopIteration as end:
                return Done(result=end.value | {"seconds": report.seconds()})
            report(event)
    return Stopped()


class Reporter:
    """Sends a task's events: progress at most five times a second and the last of a phase, others at once."""

    def __init__(self, send: Callable[[FromChild], None]) -> None:
        self.phase = "starting"
        self._send = send
        self._sent_at = 0.0
        self._held: Progress | None = None
        self._seconds: dict[str, float] = {}
        self._phase_began = time.monotonic()

    def __call__(self, event: FromChild) -> None:
        if isinstance(event, Progress):
            now = time.monotonic()
            if now - self._sent_at < PROGRESS_EVERY_S:
                self._held = event
                return
            self._sent_at = now
            self._held = None
        elif self._held is not None:
            self._send(self._held)
            self._held = None
        if isinstance(event, Phase):
            self.seconds()
            self.phase = event.name
        self._send(event)

    def seconds(self) -> dict[str, float]:
        """How long each phase has taken, to the millisecond; a phase that came twice in sum."""
        now = time.monotonic()
        self._seconds[self.phase] = self._seconds.get(self.phase, 0.0) + now - self._phase_began
        self._phase_began = now
        return {phase: round(seconds, 3) for phase, seconds in self._seconds.items()}


if __name__ == "__main__":
    main()
