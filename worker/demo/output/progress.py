"""Follows a job as any client would, by reading its row, and shows it on the step's bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

from worker.demo.app_client import App
from worker.demo.output.steps import Step

POLL_S = 0.2
ENDED = ("completed", "failed", "cancelled")


def rows_of(
    app: App, kind: str, job_id: UUID, step: Step, check_worker: Callable[[], None]
) -> Iterator[dict[str, Any]]:
    """Yield the job's row repeatedly until the job has ended, each shown on the step's bar.

    Raises whatever `check_worker` raises when the worker has ended.
    """
    while True:
        row = app.job(kind, job_id)
        step.update(row["progress"], now(row))
        yield row
        if row["status"] in ENDED:
            return
        check_worker()
        time.sleep(POLL_S)


def now(row: dict[str, Any]) -> str:
    """Describe a job's state in a few words: its phase, and the step and loss in its metrics."""
    words = [row["phase"] or row["status"]]
    if row["status"] == "running" and at_step(row):
        words.append(at_step(row))
        loss = row["metrics"].get("loss")
        if loss is not None:
            words.append(f"loss {loss:.3f}")
    return ", ".join(words)


def at_step(row: dict[str, Any]) -> str:
    """Describe the step that a job last reported; empty before the first."""
    metrics = row["metrics"] or {}
    return f"step {metrics['step']:.0f} of {metrics['steps']:.0f}" if metrics.get("step") else ""
