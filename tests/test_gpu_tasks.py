"""GPU tasks of external packages: they are sent, stopped and fail as the core's do."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
import pytest_asyncio

from tests.conftest import GUARD
from tests.outside_tasks import (
    PERFORMERS,
    BrokenTask,
    CountTask,
    EndTask,
    ExitTask,
    FailTask,
    Remark,
    ShoutTask,
    WhisperTask,
)
from tests.waiting import wait_until
from worker import errors
from worker.gpu.messages import (
    HEADER,
    Done,
    Event,
    Interrupt,
    Phase,
    Progress,
    Task,
    frame,
    parse_from_child,
    parse_task,
)
from worker.gpu.process import GpuChild, Interrupted

pytestmark = pytest.mark.asyncio(loop_scope="module")

ENVIRONMENT = {"PYTHONPATH": f"{Path(__file__).parent.parent}:{GUARD}"}
"""The path by which the GPU process finds the package; an installed package needs none."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gpu() -> AsyncIterator[GpuChild]:
    child = GpuChild(ENVIRONMENT)
    yield child
    await child.stop()


async def events_of(gpu: GpuChild, task: Task) -> list[Event | Done]:
    async with aclosing(gpu.run(task)) as events:
        return [event async for event in events]


async def pid_of(gpu: GpuChild) -> int:
    return (await gpu.start()).pid


async def test_a_packages_task_reports_and_returns_without_loading_the_cores_models(gpu: GpuChild) -> None:
    *events, done = await events_of(gpu, CountTask(to=3))

    assert [event for event in events if isinstance(event, Remark)] == [Remark(about=number) for number in (1, 2, 3)]
    assert events[0] == Phase(name="counting", stepwise=True)
    assert events[-1] == Progress(fraction=1, phase="counting")
    assert isinstance(done, Done)
    assert (done.result["imported"], done.result["imported_for_a_task"]) == ([], True)
    assert "counting" in done.result["seconds"]
    assert PERFORMERS not in sys.modules, "the worker imports nothing that performs"


async def test_an_interrupt_keeps_the_process(gpu: GpuChild) -> None:
    pid = await pid_of(gpu)

    async def interrupted() -> None:
        async with aclosing(gpu.run(CountTask(to=10**9))) as events:
            async for event in events:
                if isinstance(event, Remark):
                    await gpu.interrupt(grace_s=60)

    with pytest.raises(Interrupted):
        await interrupted()
    assert isinstance((await events_of(gpu, CountTask(to=1)))[-1], Done)
    assert await pid_of(gpu) == pid


@pytest.mark.parametrize(
    ("error", "raised", "message", "lives"),
    [
        ("input", errors.InvalidInput, "there is nothing to count", True),
        ("unknown code", errors.InternalError, "not today", True),
        ("private", errors.InternalError, "RuntimeError while failing; the pod's log says where", True),
        ("memory", errors.OutOfMemory, "the job does not fit this pod's memory: it ran out while failing", False),
    ],
)
async def test_a_failure_has_its_code_and_quotes_no_private_text(
    gpu: GpuChild, error: str, raised: type[errors.WorkerError], message: str, lives: bool
) -> None:
    pid = await pid_of(gpu)

    with pytest.raises(errors.WorkerError) as caught:
        await events_of(gpu, FailTask(error=error))

    assert (type(caught.value), caught.value.message) == (raised, message)
    assert (await pid_of(gpu) == pid) is lives


async def test_an_event_that_the_task_does_not_declare_is_refused(gpu: GpuChild) -> None:
    pid = await pid_of(gpu)

    with pytest.raises(errors.InternalError, match=f"WhisperTask was refused: {PERFORMERS}:Whisper is not declared"):
        await events_of(gpu, WhisperTask())

    assert PERFORMERS not in sys.modules, "the undeclared type was not imported"
    assert await pid_of(gpu) != pid, "a process that sends an undeclared event is replaced"


async def test_a_task_cannot_end_itself_by_an_event(gpu: GpuChild) -> None:
    with pytest.raises(errors.InternalError, match="TypeError while starting"):
        await events_of(gpu, ShoutTask())
    assert isinstance((await events_of(gpu, CountTask(to=1)))[-1], Done)


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("exit", "SystemExit"),
        ("keyboard", "KeyboardInterrupt"),
        ("no JSON", "PydanticSerializationError"),
        ("nothing", "TypeError"),
    ],
)
async def test_a_task_ends_neither_the_process_nor_without_an_outcome(gpu: GpuChild, how: str, error: str) -> None:
    pid = await pid_of(gpu)
    with pytest.raises(errors.InternalError, match=f"{error} while ending"):
        await events_of(gpu, EndTask(how=how))
    assert await pid_of(gpu) == pid


@pytest.mark.parametrize("how", ["killed beside its fork", "killed beside its daemon"])
async def test_a_process_that_dies_is_noticed_whatever_it_started(gpu: GpuChild, how: str) -> None:
    async with asyncio.timeout(30):
        with pytest.raises(errors.WorkerLost, match="SIGKILL"):
            await events_of(gpu, EndTask(how=how))
        assert isinstance((await events_of(gpu, CountTask(to=1)))[-1], Done)


def group_of(pgid: int) -> list[str]:
    """The living processes of a group."""
    listed = subprocess.run(["ps", "-eo", "pgid=,state=,pid="], capture_output=True, text=True, check=True).stdout
    return [pid for group, state, pid in map(str.split, listed.splitlines()) if state != "Z" and int(group) == pgid]


async def test_what_it_forked_ends_with_it(gpu: GpuChild) -> None:
    pid = await pid_of(gpu)
    with pytest.raises(errors.WorkerLost):
        await events_of(gpu, EndTask(how="killed beside its fork"))
    await asyncio.to_thread(wait_until, lambda: not group_of(pid), "what it forked to end")


async def test_a_performer_that_cannot_be_imported_is_the_pods_fault_and_the_process_continues() -> None:
    gpu = GpuChild(ENVIRONMENT, [BrokenTask, ExitTask, CountTask])
    try:
        pid = await pid_of(gpu)
        with pytest.raises(errors.ModelMissing, match=r"cannot import tests\.outside_nothing:perform"):
            await events_of(gpu, BrokenTask())
        with pytest.raises(errors.ModelMissing, match=r"cannot import tests\.outside_exit:perform"):
            await events_of(gpu, ExitTask())
        done = (await events_of(gpu, CountTask(to=1)))[-1]
        assert isinstance(done, Done)
        assert not done.result["imported_for_a_task"], "it was imported before the process was ready"
        assert await pid_of(gpu) == pid
    finally:
        await gpu.stop()


async def test_a_frame_is_parsed_only_as_a_declared_type() -> None:
    task = CountTask(to=3)
    assert parse_task(frame(task)[HEADER.size :]) == task
    for name in ("worker.gpu.messages:Done", "os:getcwd", "tests.outside_tasks:PERFORMERS"):
        with pytest.raises(ValueError, match="is not a task"):
            parse_task(f"{name}\n{{}}".encode())

    remark = frame(Remark(about=1))[HEADER.size :]
    assert parse_from_child(remark, CountTask.events) == Remark(about=1)
    for sent, declared, wrong in [
        (remark, (), "is not declared"),
        (frame(Interrupt())[HEADER.size :], CountTask.events, "is not declared"),
        (b"worker.gpu.messages:Progress\n{", (), "is malformed"),
        (b'worker.gpu.messages:Progress\n{"fraction": 2}', (), "is malformed"),
    ]:
        with pytest.raises(ValueError, match=wrong):
            parse_from_child(sent, declared)
