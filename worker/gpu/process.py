"""The GPU process as the worker sees it: spawn, talk, interrupt, replace.

The worker never computes, so that it always responds to the database. Everything that uses the GPU runs in a process
of its own (`child.py`): if it hangs it is killed, if it dies one attempt fails, and the next task gets a new process.
Models stay loaded in it from task to task.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress

from worker import errors
from worker.gpu.messages import (
    HEADER,
    Done,
    Event,
    Failed,
    FromChild,
    Interrupt,
    Phase,
    Ready,
    Stopped,
    Task,
    frame,
    parse_from_child,
)

KILL_ONLY_GRACE_S = 0.5
"""How long a phase that does not check for interrupts may take to end by itself."""
LINE_OPEN_GRACE_S = 1.0
"""How long messages of an ended process may still arrive while a process that it started holds the socket open."""

CHILD = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime, which diffusers imports where it is installed, would report its use
    "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait made a CPU shared with others six times slower
}
"""The GPU process's environment, besides what it inherits."""
ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
"""Variables of torch's allocator. Every torch reads the older one; 2.8 does not know the newer one, and up to 2.11
it did not turn on expandable segments."""

_SECRETS = re.compile(
    r"^(DATABASE_|PG|S3_|MODELS_S3_|AWS_|(NEXT_PUBLIC_)?SUPABASE_|HF_TOKEN|HUGGING_FACE_HUB_TOKEN|WORKER_SECRET)"
    r"|SECRET|PASSWORD|TOKEN$|API_KEY",
    re.IGNORECASE,  # as the settings are read
)
"""Names of variables that the GPU process never sees: the worker's own, and others that a pod's host may have set."""


def child_environment() -> dict[str, str]:
    """Return the environment of a GPU process: this process's without secrets, and what torch is to find there."""
    inherited = {name: value for name, value in os.environ.items() if not _SECRETS.search(name)}
    return {**_allocator(inherited), **inherited, **CHILD}


def _allocator(inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the setting of torch's allocator, unless the operator chose one.

    Pictures, photos and tiles of changing sizes leave gaps in segments of a fixed size, until nothing fits any more.
    """
    return {} if any(name in inherited for name in ALLOCATOR) else {ALLOCATOR[0]: "expandable_segments:True"}


class Interrupted(Exception):
    """`GpuChild.interrupt` ended the task; its workdir does not contain a result."""


class GpuChild:
    """One GPU's process, and its successors. It performs one task at a time.

    It has this process's environment without the secrets, which it does not need, and with `env` (for example
    `CUDA_VISIBLE_DEVICES`). The functions that perform `tasks` are imported before it is ready, others with the first
    task that names them.
    """

    def __init__(self, env: Mapping[str, str] | None = None, tasks: Iterable[type[Task]] = ()) -> None:
        self._env = child_environment() | dict(env or {})
        self._performers = sorted({task.performer for task in tasks})
        self._process: _Process | None = None
        self._device: str | None = None
        self._starting = asyncio.Lock()
        self._busy = False
        self._interrupted = False

    @property
    def pid(self) -> int | None:
        """Return the running process's id, or None."""
        return self._process.pid if self._process and self._process.alive else None

    @property
    def busy(self) -> bool:
        """Return True while a `run` is not over."""
        return self._busy

    async def start(self) -> Ready:
        """Start a process unless one runs, and wait until it has imported its libraries (seconds).

        Raises WorkerLost if it dies before that.
        """
        return await (await self._ready_process()).ready()

    async def stop(self, grace_s: float = 2.0) -> None:
        """End the process. A running task is lost: `interrupt` it first where that matters."""
        process, self._process = self._process, None
        if process is not None:
            process.hang_up()
            with suppress(TimeoutError):
                await asyncio.wait_for(process.ended.wait(), grace_s)
            await process.kill()

    async def run(self, task: Task) -> AsyncGenerator[Event | Done, None]:
        """Perform one task; yields its events, Done last.

        Consume it inside `contextlib.aclosing`: leaving before Done kills the process, and only a closed
        generator has left.

        Raises the WorkerError of a task that failed, WorkerLost when the process died, and Interrupted once
        `interrupt` was called, even if the task was done a moment before.
        """
        if self._busy:
            raise RuntimeError("the GPU process performs one task at a time")
        self._busy, self._interrupted = True, False
        process = None
        try:
            process = await self._ready_process()
            if not self._interrupted:
                process.begin(task)
                async with aclosing(process.events()) as events:
                    async for event in events:
                        if not self._interrupted:  # from here on only its end matters
                            yield event
            if self._interrupted:
                raise Interrupted
        except errors.WorkerError as error:
            if self._interrupted:
                raise Interrupted from error
            raise
        finally:
            # The GPU is free when this generator is over: the task ended, or interrupt() ends it, or the consumer
            # left and the process is killed.
            if process is not None:
                if not self._interrupted and not process.idle.is_set():
                    await process.kill()
                await process.idle.wait()
            self._busy = False

    async def interrupt(self, grace_s: float = 5.0) -> None:
        """End the running task: `run` raises Interrupted. On return the process has stopped it, or is dead.

        Between steps the process stops by itself and keeps its models. One that takes longer than `grace_s`,
        or is in a phase without steps (importing, loading, encoding), is killed.
        """
        if not self._busy:
            return
        self._interrupted = True
        process = self._process
        if process is None or process.idle.is_set():
            return  # `run` has not given it the task yet, or has its outcome at hand
        over = process.idle  # of this task: the next one may begin before this returns, and has its own
        process.send(Interrupt())
        try:
            patience_s = grace_s if process.phase.stepwise else min(grace_s, KILL_ONLY_GRACE_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), patience_s)
        finally:
            if not over.is_set():
                await process.kill()

    async def _ready_process(self) -> _Process:
        async with self._starting:  # two callers wait for the same process
            process = self._process
            if process is None or not process.alive:
                if process is not None:
                    await process.ended.wait()  # its memory on the GPU is free only then
                process = self._process = await _Process.spawn(self._env, self._performers)
            ready = await process.ready()
            self._device = self._device or ready.device
            if ready.device != self._device:
                # The driver failed: a task would now run on the CPU, a hundred times slower.
                await process.kill()
                raise errors.ModelMissing(f"this pod lost its GPU, {self._device}")
            return process


class _Process:
    """One process from its start to its end. An asyncio task reads its messages."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.pid = process.pid
        self.alive = True
        """False from the moment it was killed, or its end was seen."""
        self.ended = asyncio.Event()
        self.idle = asyncio.Event()
        """Set while it is ready and has no task, and after its end. Every task has a new one."""
        self.phase = Phase(name="starting")
        self._process = process
        self._reader = reader
        self._writer = writer
        self._events: asyncio.Queue[FromChild | None] = asyncio.Queue()
        self._ready: Ready | None = None
        self._task: type[Task] = Task
        self._violation: errors.InternalError | None = None
        """It sent an event that its task does not declare, and was killed."""
        self._listener = asyncio.create_task(self._listen(), name="gpu-listener")
        self._watcher = asyncio.create_task(self._watch(), name="gpu-watcher")

    @classmethod
    async def spawn(cls, env: Mapping[str, str], performers: Sequence[str]) -> _Process:
        """Start it in a session of its own, so that Ctrl-C on the terminal reaches the worker alone.

        It exits when the other end of its socket closes, so it does not outlive this call if the call is cancelled.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_connection(sock=ours)
            try:
                process = await asyncio.create_subprocess_exec(
                    # -P: modules are not imported from the current folder
                    *(sys.executable, "-P", "-m", "worker.gpu.child"),
                    *(str(theirs.fileno()), str(os.getpid()), *performers),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=2,  # joined to stderr: the worker's stdout is for the worker alone
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                    env=env,
                )
            except BaseException:
                writer.close()
                raise
        return cls(process, reader, writer)

    async def ready(self) -> Ready:
        """Return its Ready message, once it has imported its libraries. One caller at a time."""
        if self._ready is None:
            first = await self._next_event()
            assert isinstance(first, Ready), first
            self._ready = first
        return self._ready

    def begin(self, task: Task) -> None:
        """Give it a task; it must be idle."""
        if self.ended.is_set():
            raise self._lost()
        self._events = asyncio.Queue()  # an interrupted task may have left unread events
        self.idle = asyncio.Event()
        self.phase = Phase(name="starting")
        self._task = type(task)
        self.send(task)

    async def events(self) -> AsyncGenerator[Event | Done, None]:
        """Yield the task's events, Done last. Raises for a failure, a stop and the end of the process."""
        while True:
            match await self._next_event():
                case Done() as done:
                    yield done
                    return
                case Failed(code=code, message=message, fatal=fatal):
                    if fatal:
                        await self.kill()  # ending by itself can hang in a broken driver
                    raise errors.BY_CODE.get(code, errors.InternalError)(message)
                case Stopped():
                    raise Interrupted
                case Ready():
                    raise AssertionError("a process is ready once")
                case event:
                    yield event

    def send(self, message: Task | Interrupt) -> None:
        """Send a message without waiting: frames are small, and the process always reads."""
        self._writer.write(frame(message))

    def hang_up(self) -> None:
        """Close its input, at the end of which the process exits."""
        with suppress(OSError):
            self._writer.write_eof()

    async def kill(self) -> None:
        """Kill the process and those that it started, and wait until it has ended. Safe to repeat."""
        self._kill()
        await self.ended.wait()

    def _kill(self) -> None:
        self.alive = False
        if self._process.returncode is None:  # afterwards its id may belong to another process
            self._kill_group()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    async def _watch(self) -> None:
        """Notice its end where the listener cannot, because a process that it forked holds the socket open too."""
        await self._process.wait()
        self.alive = False
        self._kill_group()  # while a member lives, no other group has this id
        with suppress(TimeoutError):
            await asyncio.wait_for(self.ended.wait(), LINE_OPEN_GRACE_S)
            return
        self._writer.transport.abort()

    async def _next_event(self) -> FromChild:
        event = await self._events.get()
        if event is None:
            raise self._lost()
        return event

    async def _listen(self) -> None:
        """Read until the connection ends; keep `idle` and `phase` current even while the events are not consumed."""
        try:
            while True:
                (length,) = HEADER.unpack(await self._reader.readexactly(HEADER.size))
                event = parse_from_child(await self._reader.readexactly(length), self._task.events)
                if isinstance(event, Phase):
                    self.phase = event
                elif isinstance(event, Ready | Done | Failed | Stopped):
                    self.idle.set()
                self._events.put_nowait(event)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # it ended, or is about to
        except ValueError as error:
            self._violation = errors.InternalError(f"an event of {self._task.__name__} was refused: {error}")
        finally:
            self._kill()
            await self._process.wait()
            self._writer.close()
            self.ended.set()
            self.idle.set()
            self._events.put_nowait(None)

    def _lost(self) -> errors.WorkerError:
        if self._violation is not None:
            return self._violation
        code = self._process.returncode
        how = f"exit code {code}"
        if code is not None and code < 0:
            how = f"signal {-code} ({signal.Signals(-code).name})"
        return errors.WorkerLost(f"the GPU process ended with {how} while {self.phase.name}")
