"""The messages between the worker and its GPU process, and their encoding.

    worker → GPU process     a Task, then possibly Interrupt
    GPU process → worker     Ready once; then for each task any number of events (Phase, Progress, CheckpointSaved and
                             those that its task declares) and exactly one of Done | Failed | Stopped

A frame is four bytes, the length of the rest as a big-endian integer; then the message's type as `module:Class`, a
newline, and its fields as JSON. Pictures and LoRAs are not sent: they are files in the task's `workdir`.

The GPU process trusts the worker: it imports the type that a task's frame names. The worker never imports what the GPU
process names: it looks the type up among those that are declared.
"""

from __future__ import annotations

import pkgutil
import struct
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

HEADER = struct.Struct("!I")
"""The length of the message that follows, in bytes."""


class Message(BaseModel):
    """A message of any type."""

    # An error about a message must not quote it: it may hold a prompt.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


# -- worker → GPU process


class Task(Message):
    """One piece of work for the GPU process. A subclass is what a handler sends; its module imports no torch.

    Its fields are what the work needs. Every path is absolute and readable by the GPU process.
    """

    performer: ClassVar[str]
    """The function that performs it, as `module:function`: from (task, `worker.gpu.models.Models`) to `Work`. Only the
    GPU process imports it: at the start for the tasks of the pod's kinds (`Kind.tasks`), else with the first one."""
    events: ClassVar[tuple[type[Event], ...]] = ()
    """The types of events of its own that it may report; any other ends the task as `internal`."""


class Interrupt(Message):
    """Stop the task that runs; ignored by a GPU process that has just finished it."""


# -- GPU process → worker


class Ready(Message):
    """The libraries are imported; tasks start without delay from here."""

    pid: int
    device: str
    """The GPU's name, or `cpu`."""
    vram_gib: float | None
    """Total memory of the GPU; None on a CPU."""
    free_vram_gib: float | None
    """What of it neither the libraries nor other processes used when this process started; None on a CPU."""


class Event(Message):
    """A report of a running task, which can be stopped between any two of them. Tasks may declare subclasses."""


class Phase(Event):
    """What the task is doing now, in words for the app's user."""

    name: str
    stepwise: bool = False
    """The phase checks for an interrupt between steps; any other phase is stopped by killing the process."""


class Progress(Event):
    """The progress of the task."""

    fraction: float = Field(ge=0, le=1)
    phase: str
    metrics: dict[str, float | None] = {}
    """None replaces a number that is not finite."""


class CheckpointSaved(Event):
    """The task can resume from this file, here or on another pod. The next checkpoint may replace it."""

    step: int
    path: Path


class Done(Message):
    """The task's result; numbers that are not finite arrive as None."""

    result: dict[str, Any]
    """What the performer returned, and `seconds`: how long each phase took."""


class Failed(Message):
    """The task failed."""

    code: str
    """One of `errors.BY_CODE`."""
    message: str
    """For the app's user: no prompt, no folder."""
    fatal: bool = False
    """The GPU process cannot continue, and ends."""


class Stopped(Message):
    """The task was interrupted."""


Outcome = Done | Failed | Stopped
FromChild = Ready | Event | Outcome
Work = Generator[Event, None, dict[str, Any]]
"""A running task in the GPU process: yields its events and returns `Done.result`."""

_CORE: tuple[type[FromChild], ...] = (Ready, Phase, Progress, CheckpointSaved, Done, Failed, Stopped)


# -- the wire


def type_name(cls: type[Message]) -> str:
    """Return the name of a message type in a frame."""
    return f"{cls.__module__}:{cls.__qualname__}"


def frame(message: Message) -> bytes:
    """Return the bytes of one message on the wire."""
    body = f"{type_name(type(message))}\n{message.model_dump_json()}".encode()
    return HEADER.pack(len(body)) + body


def is_interrupt(body: bytes) -> bool:
    """Return True for an Interrupt, False for a task; imports nothing."""
    return _split(body)[0] == type_name(Interrupt)


def parse_task(body: bytes) -> Task:
    """Import the type of a task and parse it. Raises ValueError if it is not a task."""
    name, fields = _split(body)
    cls = pkgutil.resolve_name(name)
    if not (isinstance(cls, type) and issubclass(cls, Task)):
        raise ValueError(f"{name} is not a task")
    return cls.model_validate_json(fields)


def parse_from_child(body: bytes, declared: Iterable[type[Event]] = ()) -> FromChild:
    """Parse a message of one of the core's types or of the declared ones; raises ValueError for any other."""
    name, fields = _split(body)
    for cls in (*_CORE, *declared):
        if type_name(cls) == name:
            try:
                return cls.model_validate_json(fields)
            except ValidationError as error:
                raise ValueError(f"{name} is malformed") from error
    raise ValueError(f"{name[:200]} is not declared")


def _split(body: bytes) -> tuple[str, bytes]:
    name, _, fields = body.partition(b"\n")
    return name.decode(), fields
