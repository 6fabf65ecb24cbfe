"""The performers of the tasks in `outside_tasks.py`. Only a GPU process may import this."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
import traceback
from typing import cast

from tests.outside_tasks import CountTask, EndTask, FailTask, ReadTask, Remark, ShoutTask, WaitTask, WhisperTask
from worker.errors import InvalidInput, WorkerError
from worker.gpu.messages import Done, Event, Phase, Progress, Work
from worker.gpu.models import Models

IMPORTED_FOR_A_TASK = "perform" in {frame.name for frame in traceback.extract_stack()}
"""False when it was imported before the GPU process was ready."""


class Refused(WorkerError):
    """An error of the package's own, with a code that the worker does not know."""

    code = "refused"


class Whisper(Event):
    """Declared by no task."""


def count(task: CountTask, models: Models) -> Work:
    yield Phase(name="counting", stepwise=True)
    for number in range(1, task.to + 1):
        yield Remark(about=number)
        yield Progress(fraction=number / task.to, phase="counting")
    return {
        "imported": sorted({"worker.ml.models", "diffusers", "transformers"} & set(sys.modules)),
        "imported_for_a_task": IMPORTED_FOR_A_TASK,
    }


def fail(task: FailTask, models: Models) -> Work:
    yield Phase(name="failing")
    raise {
        "input": InvalidInput("there is nothing to count"),
        "unknown code": Refused("not today"),
        "private": RuntimeError(f"{task.private} cannot be read"),
        "memory": MemoryError(),
    }[task.error]


def whisper(task: WhisperTask, models: Models) -> Work:
    yield Whisper()
    return {}


def shout(task: ShoutTask, models: Models) -> Work:
    yield cast(Event, Done(result={}))
    return {}


def wait(task: WaitTask, models: Models) -> Work:
    yield Phase(name="waiting", stepwise=True)
    for step in itertools.count(1):
        time.sleep(0.01)
        yield Progress(fraction=0, phase="waiting", metrics={"step": step})
    return {}


def read(task: ReadTask, models: Models) -> Work:
    yield Phase(name="reading")
    return {"length": len(task.path.read_bytes())}


def end(task: EndTask, models: Models) -> Work:
    yield Phase(name="ending")
    match task.how:
        case "exit":
            sys.exit(0)
        case "keyboard":
            raise KeyboardInterrupt
        case "no JSON":
            return {"result": object()}
        case "nothing":
            return None  # type: ignore[return-value]
        case "killed beside its fork" | "killed beside its daemon":
            if os.fork() == 0:
                if task.how == "killed beside its daemon":
                    os.setsid()
                time.sleep(60)
                os._exit(0)
            time.sleep(0.2)  # else the fork might not have left the session yet
            os.kill(os.getpid(), signal.SIGKILL)
    return {}
