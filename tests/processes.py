"""Start worker processes as an operator does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.app import App
from tests.waiting import wait_until


def worker_environment(app: App, models_dir: Path) -> dict[str, str]:
    """Return every variable that `worker run` needs, added to this environment."""
    return {
        **os.environ,
        "DATABASE_URL": app.url,
        "S3_ENDPOINT_URL": app.s3_server.url(),
        "S3_REGION": app.s3_server.region,
        "S3_ACCESS_KEY_ID": app.s3_server.access_key_id,
        "S3_SECRET_ACCESS_KEY": app.s3_server.secret_access_key,
        "BUCKET_UPLOADS": app.uploads,
        "BUCKET_MODELS": app.models,
        "BUCKET_MESHES": app.meshes,
        "MODELS_DIR": str(models_dir),
        "WORK_DIR": str(models_dir.parent / "work"),
        "LOG_FORMAT": "json",
    }


@dataclass
class WorkerProcess:
    """One `worker run`; its log in `log_path` has one JSON object per line."""

    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> list[dict[str, Any]]:
        lines = self.log_path.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def events(self, name: str) -> list[dict[str, Any]]:
        return [line for line in self.log() if line.get("event") == name]

    def wait_ready(self) -> None:
        """Return once it offers its GPU routes."""
        wait_until(lambda: self.events("worker.ready") or self.process.poll() is not None, "the worker to be ready", 90)
        assert self.process.poll() is None, self.log_path.read_text()

    def gpu_pids(self) -> list[int]:
        """Return the living GPU processes of this worker."""
        return [pid for pid in _pids() if _is_gpu_child_of(pid, self.pid)]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self, timeout_s: float = 20) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)


class WorkerProcesses:
    """Starts workers, and in the end stops them and verifies that no GPU process is left."""

    def __init__(self, app: App, models_dir: Path, folder: Path) -> None:
        self._app, self._models_dir, self._folder = app, models_dir, folder
        self._started: list[WorkerProcess] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for worker in self._started:
            worker.kill()
        for worker in self._started:
            wait_until(lambda worker=worker: not worker.gpu_pids(), "the GPU process to end with its worker", 10)
            if error is not None:
                sys.stderr.write(f"--- log of worker {worker.pid}\n{worker.log_path.read_text()}\n")

    def start(self, *, ready: bool = True, **environment: str) -> WorkerProcess:
        """Start a worker; waits until it is ready unless `ready` is False."""
        log_path = self._folder / f"worker-{len(self._started)}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "worker", "run"],
                env={**worker_environment(self._app, self._models_dir), **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        worker = WorkerProcess(process, log_path)
        self._started.append(worker)
        if ready:
            worker.wait_ready()
        return worker


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _is_gpu_child_of(pid: int, worker_pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return b"worker.gpu.child" in words and str(worker_pid).encode() in words and state != "Z"
