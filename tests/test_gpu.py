"""The GPU process through `GpuChild`, with real models of a few MB, real signals and real crashes."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from tests.conftest import GUARD
from tests.outside_tasks import CountTask, ReadTask, WaitTask
from worker import errors
from worker.gpu.messages import (
    CheckpointSaved,
    Done,
    Event,
    Phase,
    Progress,
    Task,
)
from worker.gpu.process import GpuChild, Interrupted
from worker.gpu.tasks.generation import GenerateTask, LoraFile, UpscalerBackend
from worker.gpu.tasks.training import LoraSettings, PhotoFile, PhotosSkipped, TrainTask
from worker.ml.families.tiny.flux1 import build_tiny
from worker.ml.networks import tiny as upscaler_tiny

pytestmark = pytest.mark.asyncio(loop_scope="module")

Effect = Coroutine[None, None, None]
THREADS = {"OMP_NUM_THREADS": "2"}
OUTSIDE = {"PYTHONPATH": f"{Path(__file__).parent.parent}:{GUARD}"}
"""By which a GPU process finds `outside_tasks`."""


@dataclass(frozen=True)
class Files:
    """Tiny models and two photos on disk."""

    base: Path
    upscaler: Path
    photos: list[PhotoFile]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("gpu")
    build_tiny(folder / "base")
    upscaler_tiny.build_tiny(folder / "upscaler.safetensors", scale=2)
    photos = []
    for i in range(2):
        path = folder / f"photo-{i}.jpg"
        Image.effect_noise((64, 64), 40 + i).convert("RGB").save(path)
        photos.append(PhotoFile(path=path, caption="portrait of a person"))
    return Files(folder / "base", folder / "upscaler.safetensors", photos)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gpu() -> AsyncIterator[GpuChild]:
    child = GpuChild(THREADS, [TrainTask, GenerateTask])
    yield child
    await child.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def light() -> AsyncIterator[GpuChild]:
    """A GPU process that loads no models and so is ready in a third of the time, for what ends it."""
    child = GpuChild(THREADS | OUTSIDE, [WaitTask])
    yield child
    pid = (await child.start()).pid
    await child.stop()
    assert gone(pid)


def training(files: Files, workdir: Path, steps: int = 1_000_000, **changes: object) -> TrainTask:
    """Return a training of tiny steps, which by default never ends by itself."""
    task = TrainTask(
        base=files.base,
        photos=files.photos,
        config=LoraSettings(steps=steps, rank=2, resolution=64),
        workdir=workdir,
    )
    return task.model_copy(update=changes)


def drawing(files: Files, workdir: Path, **changes: object) -> GenerateTask:
    task = GenerateTask(
        base=files.base,
        prompt="a portrait",
        width=64,
        height=64,
        steps=2,
        seed=7,
        upscaler=files.upscaler,
        workdir=workdir,
    )
    return task.model_copy(update=changes)


async def events_of(gpu: GpuChild, task: Task) -> list[Event | Done]:
    async with aclosing(gpu.run(task)) as events:
        return [event async for event in events]


async def until(gpu: GpuChild, task: Task, what: type[Event | Done], then: Callable[[], Effect]) -> None:
    """Run a task, and at its first event of a type run `then` once, while the task continues."""
    meanwhile = None
    async with aclosing(gpu.run(task)) as events:
        try:
            async for event in events:
                if meanwhile is None and isinstance(event, what):
                    meanwhile = asyncio.create_task(then())
                    await asyncio.sleep(0)  # it starts before the next event is read
                elif meanwhile is not None and meanwhile.done():
                    meanwhile.result()
        finally:
            if meanwhile is not None:
                await meanwhile
    raise AssertionError("the task ended by itself")


def imported_opencv(gpu: GpuChild) -> bool:
    """Return True if the process has loaded the library that only realesrgan needs."""
    return "/cv2/" in Path(f"/proc/{gpu.pid}/maps").read_text()


async def condition(met: Callable[[], bool]) -> None:
    while not met():  # noqa: ASYNC110 - no event reports another process's state
        await asyncio.sleep(0.01)


def gone(pid: int) -> bool:
    """Return True if the process has ended. A zombie has: its memory is free."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


async def open_for_writing(pipe: Path) -> int:
    """Wait until the pipe has a reader, and open it."""
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            await asyncio.sleep(0.01)


# -- tasks


async def test_a_training_reports_its_phases_steps_and_checkpoints_and_leaves_a_lora(
    gpu: GpuChild, files: Files, tmp_path: Path
) -> None:
    events = await events_of(gpu, training(files, tmp_path, steps=4, checkpoint_every_s=0))

    done = events[-1]
    assert isinstance(done, Done)
    assert Path(done.result["path"]) == tmp_path / "lora.safetensors"
    assert (tmp_path / "lora.safetensors").is_file()
    assert done.result["resolved"]["steps"] == 4
    assert done.result["resolved"]["learning_rate"] > 0, "the family's default was filled in"
    assert done.result["memory_plan"].startswith("one part at a time, cpu, float32")
    assert {"loading the models", "training"} <= done.result["seconds"].keys()
    phases = [event for event in events if isinstance(event, Phase)]
    assert [phase.name for phase in phases if phase.stepwise] == ["training"]
    progress = [event for event in events if isinstance(event, Progress)]
    assert [step.fraction for step in progress] == sorted(step.fraction for step in progress)
    assert progress[-1].fraction == 1
    assert progress[-1].metrics["step"] == 4
    checkpoints = [event for event in events if isinstance(event, CheckpointSaved)]
    assert [checkpoint.step for checkpoint in checkpoints] == [1, 2, 3]
    assert checkpoints[-1].path.is_file()


async def test_a_training_resumes_from_a_checkpoint(gpu: GpuChild, files: Files, tmp_path: Path) -> None:
    whole, rest = tmp_path / "whole", tmp_path / "rest"
    whole.mkdir()
    rest.mkdir()
    events = await events_of(gpu, training(files, whole, steps=3, checkpoint_every_s=0))
    *_, checkpoint = (event for event in events if isinstance(event, CheckpointSaved))

    resumed = await events_of(gpu, training(files, rest, steps=3, resume_from=checkpoint.path))

    steps = [event.metrics["step"] for event in resumed if isinstance(event, Progress)]
    assert steps == [3]


async def test_every_picture_is_returned_raw_and_upscaled(gpu: GpuChild, files: Files, tmp_path: Path) -> None:
    events = await events_of(gpu, drawing(files, tmp_path, num_images=2))

    done = events[-1]
    assert isinstance(done, Done)
    assert [picture["seed"] for picture in done.result["pictures"]] == [7, 8]
    for picture in done.result["pictures"]:
        raw, upscaled = np.load(picture["raw"]), np.load(picture["upscaled"])
        assert (raw.dtype, raw.shape) == (np.uint8, (64, 64, 3))
        assert (upscaled.dtype, upscaled.shape) == (np.uint8, (128, 128, 3))
        assert (picture["width"], picture["height"]) == (128, 128)
    assert done.result["resolved"]["steps"] == 2
    assert done.result["resolved"]["guidance"] > 0, "the base's default was filled in"
    assert {"drawing", "upscaling"} <= done.result["seconds"].keys()
    progress = [event for event in events if isinstance(event, Progress)]
    assert [step.fraction for step in progress] == sorted(step.fraction for step in progress)
    assert progress[-1].fraction == 1


async def test_a_loaded_base_is_kept_for_the_next_task(gpu: GpuChild, files: Files, tmp_path: Path) -> None:
    base = shutil.copytree(files.base, tmp_path / "base")
    first = await events_of(gpu, drawing(files, tmp_path, base=base))
    shutil.rmtree(base)

    second = await events_of(gpu, drawing(files, tmp_path, base=base))

    assert isinstance(first[-1], Done)
    assert isinstance(second[-1], Done)


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ("base", errors.ModelMissing),
        ("upscaler", errors.ModelMissing),
        ("lora", errors.InvalidInput),
        ("photo", errors.InvalidInput),
        ("workdir", errors.InternalError),
    ],
)
async def test_unusable_input_raises_a_typed_error_and_the_process_continues(
    gpu: GpuChild, files: Files, tmp_path: Path, broken: str, error: type[errors.WorkerError]
) -> None:
    await gpu.start()
    pid = gpu.pid
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"not what it should be")
    task = {
        "base": lambda: drawing(files, tmp_path, base=tmp_path / "nowhere"),
        "upscaler": lambda: drawing(files, tmp_path, upscaler=bad),
        "lora": lambda: drawing(files, tmp_path, loras=[LoraFile(path=bad)]),
        "photo": lambda: training(files, tmp_path, photos=[PhotoFile(path=bad, caption="")]),
        "workdir": lambda: training(files, tmp_path / "nowhere", steps=1),
    }[broken]()

    with pytest.raises(error) as raised:
        await events_of(gpu, task)

    assert type(raised.value) is error
    assert str(tmp_path) not in raised.value.message, "the message must not name folders of the pod"
    assert gpu.pid == pid


async def test_only_one_task_runs_at_a_time(gpu: GpuChild, files: Files, tmp_path: Path) -> None:
    async def second() -> None:
        assert gpu.busy
        with pytest.raises(RuntimeError, match="one task"):
            await events_of(gpu, drawing(files, tmp_path))
        await gpu.interrupt()

    with pytest.raises(Interrupted):
        await until(gpu, training(files, tmp_path), Progress, second)
    assert not gpu.busy


async def test_messages_larger_than_a_socket_buffer_arrive_both_ways(
    gpu: GpuChild, files: Files, tmp_path: Path
) -> None:
    title = "x" * 3_000_000
    task = training(files, tmp_path, steps=1, metadata={"title": title})
    nowhere = tmp_path / "/".join(["x" * 200] * 15)
    missing = [PhotoFile(path=nowhere / f"{number}.jpg", caption="") for number in range(500)]

    events = await events_of(gpu, task.model_copy(update={"photos": [*task.photos, *missing]}))

    assert title.encode() in (tmp_path / "lora.safetensors").read_bytes()
    (skipped,) = (event for event in events if isinstance(event, PhotosSkipped))
    assert [photo.path for photo in skipped.photos] == [photo.path for photo in missing]


@pytest.mark.parametrize("backend", ["spandrel", "realesrgan"])
async def test_both_back_ends_upscale_and_report_each_tile(
    gpu: GpuChild, files: Files, tmp_path: Path, backend: UpscalerBackend
) -> None:
    task = drawing(files, tmp_path, width=1024, height=16, steps=1, upscaler_backend=backend)
    events = await events_of(gpu, task)

    (phase,) = (event for event in events if isinstance(event, Phase) and event.name == "upscaling")
    assert phase.stepwise
    fractions = [event.fraction for event in events if isinstance(event, Progress) and event.phase == "upscaling"]
    assert fractions == [0.75, 1] or fractions == [1], "the first of two tiles may be too soon after the last step"
    assert np.load(tmp_path / "upscaled_0.npy").shape == (32, 2048, 3)
    assert imported_opencv(gpu) == (backend == "realesrgan")


# -- interrupts


async def test_an_interrupt_between_steps_keeps_the_process_and_its_models(
    gpu: GpuChild, files: Files, tmp_path: Path
) -> None:
    ready = await gpu.start()

    with pytest.raises(Interrupted):
        await until(gpu, training(files, tmp_path), Progress, lambda: gpu.interrupt(grace_s=60))

    assert gpu.pid == ready.pid
    assert isinstance((await events_of(gpu, drawing(files, tmp_path)))[-1], Done)
    assert gpu.pid == ready.pid


@pytest.mark.parametrize("backend", ["spandrel", "realesrgan"])
async def test_an_interrupt_between_tiles_keeps_the_process_and_its_models(
    gpu: GpuChild, files: Files, tmp_path: Path, backend: UpscalerBackend
) -> None:
    """Upscaling could once be stopped only by killing the process."""
    pid = (await gpu.start()).pid
    task = drawing(files, tmp_path, width=8192, height=64, steps=1, upscaler_backend=backend)  # 16 tiles
    interrupting: list[asyncio.Task[None]] = []

    async def interrupted() -> None:
        async with aclosing(gpu.run(task)) as events:
            async for event in events:
                if isinstance(event, Progress) and event.phase == "upscaling" and not interrupting:
                    interrupting.append(asyncio.create_task(gpu.interrupt(grace_s=60)))

    with pytest.raises(Interrupted):
        await interrupted()

    await interrupting[0]
    assert gpu.pid == pid
    assert os.listdir(tmp_path) == [], "it stopped before the picture was complete"


async def test_the_next_task_may_begin_before_the_interrupt_has_returned(
    gpu: GpuChild, files: Files, tmp_path: Path
) -> None:
    """The interrupt once mistook the next task for the one that would not stop, and killed it."""
    pid = (await gpu.start()).pid
    interrupting: list[asyncio.Task[None]] = []

    async def interrupted() -> None:
        async with aclosing(gpu.run(training(files, tmp_path))) as events:
            async for event in events:
                if isinstance(event, Progress) and not interrupting:
                    interrupting.append(asyncio.create_task(gpu.interrupt(grace_s=60)))

    with pytest.raises(Interrupted):
        await interrupted()
    assert isinstance((await events_of(gpu, drawing(files, tmp_path)))[-1], Done)

    await interrupting[0]
    assert gpu.pid == pid


async def test_an_idle_or_late_interrupt_does_not_affect_the_next_task(
    gpu: GpuChild, files: Files, tmp_path: Path
) -> None:
    await gpu.interrupt()

    with pytest.raises(Interrupted):
        await until(gpu, drawing(files, tmp_path), Done, gpu.interrupt)

    assert isinstance((await events_of(gpu, drawing(files, tmp_path)))[-1], Done)


async def test_a_process_that_does_not_respond_to_an_interrupt_is_killed(light: GpuChild) -> None:
    pid = (await light.start()).pid

    async def freeze_and_interrupt() -> None:
        os.kill(pid, signal.SIGSTOP)
        await light.interrupt(grace_s=0.1)
        assert gone(pid)

    with pytest.raises(Interrupted):
        await until(light, WaitTask(), Progress, freeze_and_interrupt)


async def test_a_phase_without_steps_is_killed_long_before_the_grace_ends(light: GpuChild, tmp_path: Path) -> None:
    """Reading a pipe blocks until data is written to it."""
    pid = (await light.start()).pid
    assert not gone(pid), "the process that an earlier test killed was replaced"
    pipe = tmp_path / "endless.jpg"
    os.mkfifo(pipe)

    async def interrupt_the_reading() -> None:
        writer = await open_for_writing(pipe)
        await light.interrupt(grace_s=3600)
        os.close(writer)

    with pytest.raises(Interrupted):
        await until(light, ReadTask(path=pipe), Phase, interrupt_the_reading)

    assert gone(pid)


async def test_an_interrupt_also_ends_the_start_of_a_process(files: Files, tmp_path: Path) -> None:
    gpu = GpuChild(THREADS)
    running = asyncio.create_task(events_of(gpu, drawing(files, tmp_path)))
    await condition(lambda: gpu.pid is not None)

    await gpu.interrupt(grace_s=3600)

    with pytest.raises(Interrupted):
        await running
    assert gpu.pid is None
    await gpu.stop()


# -- crashes


async def test_out_of_memory_ends_the_process_with_that_error(gpu: GpuChild, files: Files, tmp_path: Path) -> None:
    pid = (await gpu.start()).pid

    with pytest.raises(errors.OutOfMemory, match="memory"):
        await events_of(gpu, drawing(files, tmp_path, steps=10**15))  # its schedule does not fit into any memory

    assert gone(pid)


async def test_leaving_a_task_early_frees_the_gpu(light: GpuChild) -> None:
    pid = (await light.start()).pid

    async with aclosing(light.run(WaitTask())) as events:
        async for event in events:
            if isinstance(event, Progress):
                break

    assert gone(pid)
    assert not light.busy


async def test_a_killed_process_fails_only_its_task(light: GpuChild) -> None:
    pid = (await light.start()).pid

    async def kill() -> None:
        os.kill(pid, signal.SIGKILL)

    with pytest.raises(errors.WorkerLost, match=r"signal 9 \(SIGKILL\) while waiting"):
        await until(light, WaitTask(), Progress, kill)

    assert isinstance((await events_of(light, CountTask(to=1)))[-1], Done)
    assert light.pid != pid


async def test_stop_ends_a_process_that_is_still_starting() -> None:
    gpu = GpuChild(THREADS)
    starting = asyncio.create_task(gpu.start())
    await condition(lambda: gpu.pid is not None)
    pid = gpu.pid
    assert pid is not None

    await gpu.stop()

    assert gone(pid)
    assert gpu.pid is None
    with pytest.raises(errors.WorkerLost):
        await starting


WORKER = """
    import asyncio, signal
    from contextlib import aclosing
    from worker.gpu.messages import Progress
    from worker.gpu.process import GpuChild
    from tests.outside_tasks import WaitTask

    async def main():
        gpu = GpuChild()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: None)
        print((await gpu.start()).pid, flush=True)
        async with aclosing(gpu.run(WaitTask())) as events:
            async for event in events:
                if isinstance(event, Progress):
                    print(event.metrics["step"], flush=True)

    asyncio.run(main())
"""


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[str]]:
    """A worker with a task without end, in its own session; prints the GPU process's pid and each step."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WORKER)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | THREADS | OUTSIDE,
    )
    yield process
    with suppress(ProcessLookupError):
        process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


async def test_ctrl_c_reaches_only_the_worker_and_its_death_leaves_no_orphan(
    worker: subprocess.Popen[str],
) -> None:
    assert worker.stdout is not None
    lines = iter(worker.stdout)
    pid, first_step = int(next(lines)), int(next(lines).partition(".")[0])

    os.killpg(worker.pid, signal.SIGINT)  # as a terminal does
    os.kill(pid, signal.SIGTERM)  # as a service manager does to every process it finds
    assert int(next(lines).partition(".")[0]) > first_step
    assert int(next(lines).partition(".")[0]) > first_step
    assert not gone(pid)

    worker.kill()
    await condition(lambda: gone(pid))
