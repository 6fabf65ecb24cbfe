"""Groups of asyncio tasks: start them, wait until they end, cancel them.

Loops that are cancelled use `asyncio.timeout`, not `asyncio.wait_for`: in Python 3.11 the latter loses a cancellation
that arrives together with the awaited result, and the loop continues.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

CANCEL_AGAIN_AFTER_S = 2.0
"""A task that is still running after this time has lost its cancellation inside a library's `wait_for`."""


def start_tasks(**work: Coroutine[Any, Any, None]) -> list[asyncio.Task[None]]:
    """Start each coroutine as a task, named by its keyword."""
    return [asyncio.create_task(coroutine, name=name) for name, coroutine in work.items()]


async def cancel_tasks(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel the tasks and wait until each has ended, however it ends."""
    running = {task for task in tasks if not task.done()}
    while running:
        for task in running:
            task.cancel()
        _, running = await asyncio.wait(running, timeout=CANCEL_AGAIN_AFTER_S)
    await asyncio.gather(*tasks, return_exceptions=True)


async def wait_while_running(end: Coroutine[Any, Any, Any], background: list[asyncio.Task[None]]) -> None:
    """Wait for `end`, and raise the error of a background task at once: half a worker would look alive."""
    ending = asyncio.create_task(end)
    waiting: set[asyncio.Task[Any]] = {ending, *background}
    try:
        while not ending.done():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {ending}:
                task.result()
    finally:
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)


async def wait_for_first(*work: Coroutine[Any, Any, Any]) -> None:
    """Wait until one of the coroutines is done, cancel the others, and raise its error if it failed."""
    tasks = [asyncio.create_task(item) for item in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await cancel_tasks(tasks)


async def wait_for_event(event: asyncio.Event, timeout_s: float | None) -> bool:
    """Wait until the event is set or the time has passed. Return True if it is set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    return event.is_set()
