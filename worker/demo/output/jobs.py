"""The demo's jobs: followed to their end, recorded in the summary, and their results saved."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from worker.demo.app_client import App, keys_in
from worker.demo.output.progress import POLL_S, rows_of
from worker.demo.output.steps import Step
from worker.demo.output.summary import EndedJob, SavedFile, Summary

TIMEOUT_S = 120.0


class DemoFailed(RuntimeError):
    """A step did not have the expected result."""


class Jobs:
    """The jobs that the app requested. `check_worker` raises WorkerEnded once the worker has ended."""

    def __init__(self, app: App, check_worker: Callable[[], None], summary: Summary, output: Path) -> None:
        self._app, self._check_worker = app, check_worker
        self._summary, self._output = summary, output

    def complete(self, name: str, kind: str, job_id: UUID, step: Step) -> dict[str, Any]:
        """Follow a job until it is completed, and return its row. Raises DemoFailed if it ends otherwise."""
        *_, row = rows_of(self._app, kind, job_id, step, self._check_worker)
        if row["status"] != "completed":
            raise DemoFailed(f"{kind} job {job_id} ended as {row['status']}: {row['error']}")
        self.record(name, kind, row, step)
        return row

    def record(self, name: str, kind: str, row: dict[str, Any], step: Step) -> None:
        """Record an ended job with the objects that its row names, once its other objects are deleted."""
        bucket, named = self._app.bucket_of(kind), keys_in(row["result"])
        # Checkpoints and staged objects of an attempt are deleted shortly after its end.
        self.wait_until(
            lambda: self._app.keys_of(kind, row) == sorted(named),
            f"{bucket} holds exactly the objects that the row of {kind} job {row['id']} names",
        )
        objects = [self._app.buckets.describe(bucket, key) for key in named]
        self._summary.jobs.append(EndedJob.of(name, kind, row, objects))
        step.show(job=row["id"])
        for found in objects[:1]:
            step.show(object=f"{found.bucket}/{found.key}", sha256=found.sha256)

    def save_pictures(self, result: dict[str, Any], name: str) -> list[Path]:
        """Download the upscaled pictures as {name}-{number}.png; returns their paths."""
        paths = []
        for number, picture in enumerate(result["pictures"], start=1):
            path = self._output / f"{name}-{number}.png"
            self.save(result["bucket"], picture["upscaled"], path, picture["sha256"])
            paths.append(path)
        return paths

    def save(self, bucket: str, key: str, path: Path, sha256: str) -> None:
        """Download an object that a row names, and compare its SHA-256 with the row's."""
        found = self._app.buckets.describe(bucket, key)
        if found.sha256 != sha256:
            raise DemoFailed(f"{bucket}/{key} has SHA-256 {found.sha256}, but its row says {sha256}")
        self.download(bucket, key, path)

    def download(self, bucket: str, key: str, path: Path) -> None:
        """Download an object, and list it in the summary if it is kept."""
        path.write_bytes(self._app.buckets.read(bucket, key))
        if path.is_relative_to(self._output):
            self._summary.files.append(SavedFile(path.name, bucket, key))

    def wait_until(self, holds: Callable[[], bool], condition: str) -> None:
        """Wait for a condition. Raises DemoFailed after TIMEOUT_S, and WorkerEnded if the worker ends before."""
        deadline = time.monotonic() + TIMEOUT_S
        while not holds():
            if time.monotonic() > deadline:
                raise DemoFailed(f"timed out after {TIMEOUT_S:.0f} s, waiting until {condition}")
            self._check_worker()
            time.sleep(POLL_S)
