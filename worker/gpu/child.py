"""The GPU process: accepts a task, performs it, reports its progress. `process.py` is the other end.

    python -m worker.gpu.child SOCKET_FD PARENT_PID [MODULE:FUNCTION]...

The function that performs a task is named by the task (`Task.performer`) and imported with the first one. Functions
named on the command line are imported before this process reports that it is ready, since that takes seconds.
Everything is imported late: by then this process already ends with its parent.
"""

from __future__ import annotations

import ctypes
import gc
import os
import pkgutil
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import BinaryIO

from worker import errors
from worker.gpu.messages import (
    HEADER,
    Done,
    Event,
    FromChild,
    Outcome,
    Phase,
    Progress,
    Ready,
    Stopped,
    Work,
    frame,
    is_interrupt,
    parse_task,
)
from worker.gpu.models import Models
from worker.lossy_output import ignore_write_errors

Performer = Callable[..., Work]

PROGRESS_EVERY_S = 0.2
"""The worker reports to the database only once a second."""

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
            os._exit(0)  # the worker has died, and the result is of no use

    send(get_ready(sys.argv[3:]))
    models = Models()
    while True:
        perform(inbox.tasks.get(), models, inbox.stop, send)


def end_with_parent(parent_pid: int) -> None:
    """End this process when its parent dies, so that it frees the GPU. Ignore SIGTERM and SIGINT until then."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(0)  # it died before prctl
    # A service manager may signal every process of the service. The parent stops this one in its own order.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def get_ready(performers: Sequence[str]) -> Ready:
    """Import what the pod's tasks need, and describe the GPU."""
    gc.disable()  # a sixth of the time of the imports, which leave nothing to collect
    import torch

    for performer in performers:
        try:
            import_performer(performer)
        except errors.ModelMissing:
            traceback.print_exc()  # its first task fails with it, and is requeued for other pods
    gc.collect()
    gc.freeze()  # collecting the imported objects would stall every step that triggers a collection
    gc.enable()
    if not torch.cuda.is_available():
        return Ready(pid=os.getpid(), device="cpu", vram_gib=None, free_vram_gib=None)
    free, total = torch.cuda.mem_get_info()  # free after this process's own CUDA context, which the call creates
    name = torch.cuda.get_device_name()
    return Ready(pid=os.getpid(), device=name, vram_gib=total / 2**30, free_vram_gib=free / 2**30)


def import_performer(performer: str) -> Performer:
    """Import the function that performs a task. Raises ModelMissing, for which this pod is at fault, if that fails."""
    try:
        found: Performer = pkgutil.resolve_name(performer)
    except (Exception, SystemExit) as error:
        raise errors.ModelMissing(f"this pod cannot import {performer}; its log says why") from error
    return found


class Inbox:
    """The worker's messages, read by a thread, so that an interrupt is seen while the GPU works."""

    def __init__(self, connection: socket.socket) -> None:
        self.tasks: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        """Not parsed yet: parsing may import a package, and an interrupt must not wait for that."""
        self.stop = threading.Event()
        """Set when the running task must stop."""
        connection.set_inheritable(False)  # a process started by a library must not keep the connection open
        threading.Thread(target=self._listen, args=(connection,), name="inbox", daemon=True).start()

    def _listen(self, connection: socket.socket) -> None:
        try:
            with connection.makefile("rb") as stream:
                while (body := _receive(stream)) is not None:
                    if is_interrupt(body):
                        self.stop.set()
                    else:
                        # Cleared where frames are still in order: an interrupt that came too late for the
                        # task before must not stop this one.
                        self.stop.clear()
                        self.tasks.put(body)
        except (OSError, ValueError):
            traceback.print_exc()
        finally:
            os._exit(0)  # frees the GPU and its memory at once, whatever the main thread is doing


def _receive(stream: BinaryIO) -> bytes | None:
    """Return the next message's bytes; None at the end of the stream, even within a message."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (length,) = HEADER.unpack(header)
    body = stream.read(length)
    return body if len(body) == length else None


def perform(body: bytes, models: Models, stop: threading.Event, send: Callable[[FromChild], None]) -> None:
    """Perform one task and send its outcome. Ends the process after a fatal failure."""
    from worker.gpu.failures import failure

    report = Reporter(send)
    try:
        task = parse_task(body)
        report(drain(import_performer(task.performer)(task, models), stop, report))
        return
    except BaseException as error:  # sys.exit too: no task ends this process; and a result that does not travel
        outcome = failure(error, report.phase)
        if outcome.code not in (errors.InvalidInput.code, errors.OutOfMemory.code):
            traceback.print_exc()  # the log needs more than the message
    report(outcome)
    if outcome.fatal:
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
            if not isinstance(event, Event):
                raise TypeError(f"{type(event).__name__} is not an event")
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

    def __call__(self, event: Event | Outcome) -> None:
        if isinstance(event, Progress):
            now = time.monotonic()
            if now - self._sent_at < PROGRESS_EVERY_S:
                self._held = event
                return
            self._sent_at = now
            self._held = None
        elif self._held is not None:
            held, self._held = self._held, None
            self._send(held)
        if isinstance(event, Phase):
            self.seconds()
            self.phase = event.name
        self._send(event)

    def seconds(self) -> dict[str, float]:
        """Return how long each phase has taken, to the millisecond; a phase that came twice is summed up."""
        now = time.monotonic()
        self._seconds[self.phase] = self._seconds.get(self.phase, 0.0) + now - self._phase_began
        self._phase_began = now
        return {phase: round(seconds, 3) for phase, seconds in self._seconds.items()}


if __name__ == "__main__":
    main()
