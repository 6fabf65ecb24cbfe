"""Concurrent background tasks: a failing one is detected, and cancelled ones are waited for."""

from __future__ import annotations

import asyncio

import pytest

from worker.pod.background_tasks import (
    cancel_tasks,
    start_tasks,
    wait_for_event,
    wait_for_first,
    wait_while_running,
)


async def fail() -> None:
    raise ValueError("the loop died")


async def test_a_background_task_that_dies_ends_the_wait_with_its_error() -> None:
    ends = asyncio.Event()
    tasks = start_tasks(dies=fail(), lives=asyncio.Event().wait())
    with pytest.raises(ValueError, match="the loop died"):
        await wait_while_running(ends.wait(), tasks)
    await cancel_tasks(tasks)


async def test_a_background_task_that_returns_does_not_end_the_wait() -> None:
    end = asyncio.Event()

    async def return_and_end() -> None:
        asyncio.get_running_loop().call_soon(end.set)

    await asyncio.wait_for(wait_while_running(end.wait(), start_tasks(returns=return_and_end())), 10)
    assert end.is_set()


async def test_the_first_task_to_end_cancels_the_others_and_waits_for_them() -> None:
    cleaned_up = False

    async def clean_up_when_cancelled() -> None:
        nonlocal cleaned_up
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned_up = True

    with pytest.raises(ValueError, match="the loop died"):
        await wait_for_first(clean_up_when_cancelled(), fail())
    assert cleaned_up


async def test_cancelling_waits_for_each_task_and_raises_none_of_their_errors() -> None:
    tasks = start_tasks(dies=fail(), lives=asyncio.Event().wait())
    await asyncio.sleep(0)
    await cancel_tasks(tasks)
    assert [task.done() for task in tasks] == [True, True]


@pytest.mark.parametrize("turns", range(4))
async def test_a_cancellation_that_arrives_with_or_shortly_after_the_event_is_not_lost(turns: int) -> None:
    event = asyncio.Event()

    async def loop() -> None:
        while True:
            event.clear()
            await wait_for_event(event, 60)

    (task,) = start_tasks(loop=loop())
    await asyncio.sleep(0)
    event.set()
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=1)
    assert done == {task}


async def test_a_task_that_loses_its_cancellation_in_a_library_is_cancelled_again() -> None:
    lost = asyncio.Event()

    async def loop() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            lost.set()
        await asyncio.Event().wait()

    (task,) = start_tasks(loop=loop())
    await asyncio.sleep(0)
    await asyncio.wait_for(cancel_tasks([task]), 10)
    assert lost.is_set()
    assert task.cancelled()
