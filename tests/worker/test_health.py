"""`worker health` distinguishes a running worker from one that hangs and from none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.app import App
from tests.processes import WorkerProcess, worker_environment
from tests.waiting import wait_until


def test_health_follows_the_process(
    app: App, tiny_models: Path, tmp_path: Path, start_worker: Callable[..., WorkerProcess]
) -> None:
    work_dir = tmp_path / "work"
    environment = {**worker_environment(app, tiny_models), "WORK_DIR": str(work_dir)}

    def health() -> tuple[int, str]:
        ran = subprocess.run(
            [sys.executable, "-m", "worker", "health"], env=environment, capture_output=True, text=True, check=False
        )
        return ran.returncode, ran.stdout + ran.stderr

    assert health() == (1, f"health: no worker runs here with WORK_DIR={work_dir}; start one: worker run\n")
    worker = start_worker(WORK_DIR=str(work_dir), WORKER_KINDS="publish_lora")  # a light start
    assert health()[0] == 0

    os.kill(worker.pid, signal.SIGSTOP)
    [lock] = work_dir.glob("*.lock")
    os.utime(lock, (0, 0))  # as after a long time
    code, text = health()
    assert code == 1
    assert "has not responded for" in text

    os.kill(worker.pid, signal.SIGCONT)
    wait_until(lambda: health()[0] == 0, "the worker to respond again")
    worker.kill()
    assert "no worker runs here" in health()[1]
