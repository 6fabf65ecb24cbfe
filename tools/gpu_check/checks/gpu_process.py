"""The GPU process as the worker uses it: how soon it is ready, what is said when it ends, and what it leaves behind."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import ClassVar, TypeVar

import torch

from tools.gpu_check.bench import PROMPT, Bench
from tools.gpu_check.measure import gib
from tools.gpu_check.runner import Figures, expect
from worker import errors
from worker.gpu.messages import Phase, Progress, Task, Work
from worker.gpu.models import Models
from worker.gpu.process import GpuChild, Interrupted
from worker.gpu.tasks.generation import GenerateTask
from worker.gpu.tasks.training import LoraSettings, PhotoFile, TrainTask
from worker.ml.networks.tiny import build_tiny

ROOT = Path(__file__).parents[3]
FREED_WITHIN_S = 5.0
"""How long the driver may take to free the memory of a process that has ended."""
LEFT_GIB = 0.1
"""How much less may be free then."""

Result = TypeVar("Result")


class AssertTask(Task):
    """Fail an assertion of the device."""

    performer: ClassVar[str] = f"{__name__}:fail_assertion"


def fail_assertion(task: AssertTask, models: Models) -> Work:
    """Perform an AssertTask: read a place that a tensor does not have."""
    yield Phase(name="failing an assertion")
    beyond = torch.tensor([7], device="cuda")
    torch.zeros(1, device="cuda")[beyond].sum().item()
    return {}


def life(bench: Bench) -> Figures:
    """Start a GPU process, draw in it, interrupt a training between two steps, and kill it in another."""
    return asyncio.run(_life(bench))


def device_assertion(bench: Bench) -> Figures:
    """Fail an assertion of the device, after which a process can no longer use it."""
    if bench.device.type != "cuda":
        return {"skipped": "a CPU has no device assertions"}
    return asyncio.run(_device_assertion())


async def _life(bench: Bench) -> Figures:
    figures: Figures = {}
    free = _free_gib()
    async with _gpu_child(TrainTask, GenerateTask) as child:
        ready, figures["ready_seconds"] = await _timed(child.start())
        figures["device"] = ready.device
        figures["draw_said"], figures["draw_seconds"] = await _timed(_run(child, _drawing(bench)))
        figures["interrupt_said"], figures["interrupt_seconds"] = await _run_until_step(
            child, _training(bench), child.interrupt
        )
        figures["survives_interrupt"] = child.pid == ready.pid
        figures["draw_again_seconds"] = (await _timed(_run(child, _drawing(bench))))[1]

        async def kill() -> None:
            os.kill(ready.pid, signal.SIGKILL)

        figures["kill_said"], figures["kill_seconds"] = await _run_until_step(child, _training(bench), kill)
        figures |= await _freed(free)
    expect(figures["draw_said"] == "done", "the task was not done", figures)
    expect(figures["interrupt_said"] == "Interrupted", "the interrupt was not reported as one", figures)
    expect(figures["survives_interrupt"], "an interrupt between steps ended the process", figures)
    expect("SIGKILL" in figures["kill_said"], "the kill was not reported as one", figures)
    expect(figures["freed"], "a killed process left memory on the device", figures)
    return figures


async def _device_assertion() -> Figures:
    figures: Figures = {}
    free = _free_gib()
    async with _gpu_child() as child:
        await child.start()
        figures["said"], figures["seconds_to_end"] = await _timed(_run(child, AssertTask()))
        figures["ended"] = child.pid is None
        figures |= await _freed(free)
        figures["device_of_the_next"] = (await child.start()).device
    expect(figures["said"] != "done", "the assertion did not fail", figures)
    expect(figures["ended"], "the process continued on a device that it can no longer use", figures)
    expect(figures["freed"], "the process left memory on the device", figures)
    return figures


@asynccontextmanager
async def _gpu_child(*tasks: type[Task]) -> AsyncIterator[GpuChild]:
    """Yield a GPU process that can import this module."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    child = GpuChild({"PYTHONPATH": os.pathsep.join(paths)}, tasks)
    try:
        yield child
    finally:
        await child.stop()


async def _run(child: GpuChild, task: Task, at_step: Callable[[], object] = lambda: None) -> str:
    """Run a task to its end, and return what is said of it. `at_step` is called with each step's progress."""
    try:
        async with aclosing(child.run(task)) as events:
            async for event in events:
                if isinstance(event, Progress):
                    at_step()
    except Interrupted:
        return "Interrupted"
    except errors.WorkerError as error:
        return f"{error.code}: {error.message}"
    return "done"


async def _run_until_step(child: GpuChild, task: Task, stop: Callable[[], Awaitable[None]]) -> tuple[str, float]:
    """Run a task, stop it at its first step; return what is said of it, and the seconds from there to its end."""
    stepping = asyncio.Event()
    running = asyncio.create_task(_run(child, task, stepping.set))
    running.add_done_callback(lambda _: stepping.set())  # it may fail before
    await stepping.wait()
    began = time.perf_counter()
    await stop()
    return await running, round(time.perf_counter() - began, 3)


async def _timed(work: Awaitable[Result]) -> tuple[Result, float]:
    began = time.perf_counter()
    result = await work
    return result, round(time.perf_counter() - began, 3)


def _free_gib() -> float | None:
    """Return the device's free memory, without what torch keeps for this process; None on a CPU."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.empty_cache()
    return gib(torch.cuda.mem_get_info()[0])


async def _freed(before_gib: float | None) -> Figures:
    """Wait until the device's memory is as free as before, and return the figures."""
    began, after_gib = time.monotonic(), _free_gib()
    if before_gib is None or after_gib is None:
        return {"free_before_gib": None, "free_after_gib": None, "freed": True}
    while after_gib < before_gib - LEFT_GIB and time.monotonic() - began < FREED_WITHIN_S:
        await asyncio.sleep(0.05)
        after_gib = _free_gib() or 0.0
    return {"free_before_gib": before_gib, "free_after_gib": after_gib, "freed": after_gib >= before_gib - LEFT_GIB}


def _drawing(bench: Bench) -> GenerateTask:
    upscaler = bench.folder / "process-upscaler.safetensors"
    if not upscaler.exists():
        build_tiny(upscaler, scale=2)
    base = bench.tiny_base("flux")
    return GenerateTask(
        base=base, prompt=PROMPT, width=64, height=64, steps=2, seed=7, upscaler=upscaler, workdir=bench.folder
    )


def _training(bench: Bench) -> TrainTask:
    """Return a training of tiny steps that never ends by itself."""
    photos = [PhotoFile(path=photo.path, caption=photo.caption) for photo in bench.photos(2, 96)]
    config = LoraSettings(steps=1_000_000, rank=2, resolution=64)
    return TrainTask(base=bench.tiny_base("flux"), photos=photos, config=config, workdir=bench.folder)
