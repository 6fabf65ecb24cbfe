"""The GPU process: takes a task, does it, says how it goes. `gpu.py` is the other end.

    python -m worker.gpu_child SOCKET_FD PARENT_PID

The imports that take seconds (torch, diffusers) happen inside functions: by then the process already ends with
its parent.
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
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from worker import errors
from worker.gpu_tasks import (
    HEADER,
    CheckpointSaved,
    Done,
    Failed,
    FromChild,
    GenerateTask,
    Interrupt,
    Outcome,
    Phase,
    Progress,
    Ready,
    Stopped,
    Task,
    ToChild,
    TrainTask,
    frame,
    parse_to_child,
)

if TYPE_CHECKING:
    from worker.ml import base_models, upscale

PROGRESS_EVERY_S = 0.2
"""More would only make the worker read: it tells the database once a second."""

STEPWISE = frozenset({"training", "drawing"})
"""The phases of `ml` that go in steps."""

PR_SET_PDEATHSIG = 1  # linux/prctl.h

Work = Generator[Phase | Progress | CheckpointSaved, None, dict[str, Any]]
"""A task under way: what it reports, and in the end the result."""


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    end_with_parent(int(sys.argv[2]))
    inbox = Inbox(connection)

    def send(message: FromChild) -> None:
        try:
            connection.sendall(frame(message))
        except ConnectionError:
            os._exit(0)  # the worker is gone, and nobody else wants the result

    models = Models()
    gc.collect()
    gc.freeze()  # collecting what the imports made would stall every step that triggers it
    send(models.ready())
    while True:
        perform(inbox.tasks.get(), models, inbox.stop, send)


def end_with_parent(parent_pid: int) -> None:
    """No orphan keeps GPU memory, and no signal but SIGKILL ends this process before its parent lets go of it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(0)  # it died before it could have been noticed
    # A service manager may signal every process of the service. The parent stops this one in its own order.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Inbox:
    """What the worker sends, read by a thread, so that an interrupt is seen while the main thread computes."""

    def __init__(self, connection: socket.socket) -> None:
        self.tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self.stop = threading.Event()
        """The task that runs shall stop."""
        connection.set_inheritable(False)  # a process started by a library must not keep the line open
        threading.Thread(target=self._listen, args=(connection,), name="inbox", daemon=True).start()

    def _listen(self, connection: socket.socket) -> None:
        try:
            with connection.makefile("rb") as lines:
                while (message := _receive(lines.read)) is not None:
                    if isinstance(message, Interrupt):
                        self.stop.set()
                    else:
                        # Cleared where frames are still in order: an interrupt that came too late for the task
                        # before must not stop this one.
                        self.stop.clear()
                        self.tasks.put(message)
        except (OSError, ValueError):
            traceback.print_exc()
        finally:
            os._exit(0)  # whatever the main thread does now, the GPU and its memory are free at once


def _receive(read: Callable[[int], bytes]) -> ToChild | None:
    header = read(HEADER.size)
    return parse_to_child(read(*HEADER.unpack(header))) if len(header) == HEADER.size else None


class Models:
    """The libraries, and the models that stay loaded from task to task."""

    def __init__(self) -> None:
        from worker.ml import base_models, generate, train_lora, upscale  # noqa: F401 - the seconds are spent here

        self._bases = base_models.Resident()
        self._load_upscaler = upscale.load
        self._upscalers: dict[Path, upscale.Upscaler] = {}

    def ready(self) -> Ready:
        import torch

        if not torch.cuda.is_available():
            return Ready(pid=os.getpid(), device="cpu", vram_gib=None)
        gpu = torch.cuda.get_device_properties(0)
        return Ready(pid=os.getpid(), device=gpu.name, vram_gib=gpu.total_memory / 2**30)

    def base(self, folder: Path) -> base_models.Base:
        """Raises ModelMissing when the folder is not a base model that can be used."""
        from worker.ml.errors import ModelUnreadable

        try:
            return self._bases.get(folder)
        except ModelUnreadable as error:
            raise errors.ModelMissing(str(error)) from error

    def upscaler(self, path: Path) -> upscale.Upscaler:
        """Raises ModelMissing when the file is not an upscaler that can be used."""
        from worker.ml.errors import ModelUnreadable

        if path not in self._upscalers:
            try:
                self._upscalers[path] = self._load_upscaler(path)
            except ModelUnreadable as error:
                raise errors.ModelMissing(str(error)) from error
        return self._upscalers[path]


def perform(task: Task, models: Models, stop: threading.Event, send: Callable[[FromChild], None]) -> None:
    """Do one task and send its outcome; ends the process when it cannot be trusted with another."""
    report = Reporter(send)
    outcome: Outcome
    try:
        work = train(task, models) if isinstance(task, TrainTask) else generate(task, models)
        outcome = drain(work, stop, report)
    except Exception as error:
        outcome = failure(error, report.phase)
        if outcome.code == errors.InternalError.code:
            traceback.print_exc()
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
    """Sends a task's events: progress at most five times a second and the last of a phase, all else at once."""

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
        """How long each phase has taken, a phase that came twice in sum."""
        now = time.monotonic()
        self._seconds[self.phase] = self._seconds.get(self.phase, 0.0) + now - self._phase_began
        self._phase_began = now
        return self._seconds


def train(task: TrainTask, models: Models) -> Work:
    from worker.ml import train_lora
    from worker.ml.phases import Phase as MlPhase

    yield Phase(name="loading the base")
    base = models.base(task.base)
    defaults = base.architecture.training_defaults
    settings: dict[str, Any] = {
        "steps": defaults.steps(len(task.photos)),
        "rank": defaults.rank,
        "learning_rate": defaults.learning_rate,
        "resolution": defaults.resolution,
        "batch_size": defaults.batch_size,
        "caption_dropout": defaults.caption_dropout,
    }
    config = train_lora.LoraConfig(**settings | task.config.model_dump(exclude_none=True))
    training = train_lora.train(
        base,
        [train_lora.Photo(photo.path, photo.caption) for photo in task.photos],
        config,
        workdir=task.workdir,
        metadata=task.metadata,
        resume_from=task.resume_from,
        checkpoint_every_s=task.checkpoint_every_s,
        checkpoint_every_steps=task.checkpoint_every_steps,
    )
    with closing(training):
        while True:
            try:
                event = next(training)
            except StopIteration as end:
                trained: train_lora.TrainedLora = end.value
                break
            match event:
                case MlPhase(name=name):
                    yield Phase(name=name, stepwise=name in STEPWISE)
                case train_lora.Step(index, total, loss, learning_rate):
                    metrics = {"step": index, "steps": total, "loss": loss, "learning_rate": learning_rate}
                    yield Progress(fraction=index / total, phase="training", metrics=metrics)
                case train_lora.Checkpoint(step, path):
                    yield CheckpointSaved(step=step, path=path)
    return asdict(trained) | {"resolved": asdict(config), "memory_plan": base.memory_plan}


def generate(task: GenerateTask, models: Models) -> Work:
    import numpy as np
    import torch

    from worker.ml import generate as pictures
    from worker.ml.phases import Phase as MlPhase

    yield Phase(name="loading the base")
    base = models.base(task.base)
    on_gpu = base.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(base.device)
    request = pictures.PictureRequest(
        **task.model_dump(exclude={"kind", "base", "loras", "upscaler", "workdir"}),
        loras=tuple(pictures.LoraUse(lora.path, lora.scale) for lora in task.loras),
    )
    resolved: dict[str, Any] = {}
    drawn: list[pictures.Picture] = []
    # A step is one unit of work and so is an upscaled picture: close enough for a bar that never goes back.
    work = task.num_images
    with closing(cast(Generator[Any, None, None], pictures.generate(base, request))) as drawing:
        for event in drawing:
            match event:
                case pictures.Resolved():
                    resolved = asdict(event)
                    work += event.steps * task.num_images
                case MlPhase(name=name):
                    yield Phase(name=name, stepwise=name in STEPWISE)
                case pictures.Step(index, total):
                    yield Progress(
                        fraction=index / work, phase="drawing", metrics={"step": index, "steps": total}
                    )
                case pictures.Picture():
                    drawn.append(event)

    yield Phase(name="upscaling")
    upscaler = models.upscaler(task.upscaler)
    made = []
    for picture in drawn:
        raw, upscaled = (task.workdir / f"{kind}_{picture.index}.npy" for kind in ("raw", "upscaled"))
        pixels = upscaler.upscale(picture.pixels)
        np.save(raw, picture.pixels)
        np.save(upscaled, pixels)
        height, width, _ = pixels.shape
        made.append(
            {
                "index": picture.index,
                "seed": picture.seed,
                "raw": raw,
                "upscaled": upscaled,
                "width": width,
                "height": height,
            }
        )
        yield Progress(fraction=(work - len(drawn) + len(made)) / work, phase="upscaling")
    return {
        "pictures": made,
        "resolved": resolved,
        "peak_gib": torch.cuda.max_memory_allocated(base.device) / 2**30 if on_gpu else None,
        "memory_plan": base.memory_plan,
    }


def failure(error: Exception, phase: str) -> Failed:
    """What the app's user may read of an error. A text that a library wrote may quote a prompt or a path: only
    errors that were worded for this are passed on.
    """
    import torch

    from worker.ml.errors import BadInput, ModelUnreadable

    match error:
        case errors.WorkerError():
            return Failed(code=error.code, message=error.message)
        case BadInput() | ModelUnreadable():  # a base or upscaler that is unreadable came as ModelMissing
            return Failed(code=errors.InvalidInput.code, message=str(error))
        case torch.OutOfMemoryError() | MemoryError():
            message = f"the job does not fit this pod's memory: it ran out while {phase}"
            return Failed(code=errors.OutOfMemory.code, message=message, fatal=True)
        case OSError():
            name = f": {Path(str(error.filename)).name}" if error.filename else ""
            message = f"{type(error).__name__} while {phase}: {error.strerror}{name}"
            return Failed(code=errors.InternalError.code, message=message)
        case _:
            message = f"{type(error).__name__} while {phase}; the worker's log says where"
            return Failed(code=errors.InternalError.code, message=message, fatal=_gpu_is_broken(error))


def _gpu_is_broken(error: Exception) -> bool:
    """After most CUDA errors every later call fails too, and libraries wrap them in types of their own."""
    import torch

    if isinstance(error, torch.AcceleratorError):
        return True
    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


if __name__ == "__main__":
    main()
