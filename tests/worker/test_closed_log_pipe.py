"""`worker run 2>&1 | head -1`: the reader of the log has ended, and the worker continues."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.kinds.packages import migrate, python_path, write_package
from tests.processes import worker_environment
from tests.worker.conftest import MakeFleet

SQL = """
create table public.loud_jobs (like worker.life_cycle including all, seconds integer not null);
do $$ begin
  perform worker.register_job_table('loud', 'public.loud_jobs', 'generation', false, 'gpu', interval '1 minute');
end $$;"""
LOUD = """
import time
from typing import ClassVar
from worker.gpu.messages import Phase, Progress, Task
from worker.kinds import Kind, no_texts

class LoudTask(Task):
    performer: ClassVar[str] = "likeness_loud.kind:perform"
    seconds: int

def perform(task, models):
    yield Phase(name="counting", stepwise=True)
    print("a line of the GPU process", flush=True)
    if task.seconds == 0:
        raise RuntimeError("and a traceback")
    for _ in range(task.seconds * 50):
        time.sleep(0.02)
        yield Progress(fraction=0, phase="counting")
    return {}

async def run(lease, context):
    await context.compute_result(LoudTask(seconds=lease.job.row["seconds"]), lease)
    return {}

KIND = Kind("loud", run, no_texts, tasks=(LoudTask,))
"""


def test_jobs_and_sigterm_are_handled_after_the_log_pipe_is_closed(make_fleet: MakeFleet, tmp_path: Path) -> None:
    package = write_package(tmp_path, "likeness-loud", SQL, {"loud": "likeness_loud.kind:KIND"}, LOUD)
    fleet = make_fleet(PYTHONPATH=python_path(package), WORKER_KINDS="loud")
    fleet.app.tables["loud"] = "public.loud_jobs"
    assert migrate(fleet.app.url, packages=(package,)).returncode == 0
    worker = subprocess.Popen(
        [sys.executable, "-m", "worker", "run"],
        env={**worker_environment(fleet.app, tmp_path / "models"), **fleet.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        assert worker.stdout is not None
        assert any(b"worker.ready" in line for line in iter(worker.stdout.readline, b""))
        worker.stdout.close()
        for seconds, status, code in ((0, "failed", "internal"), (1, "completed", None)):
            job_id = fleet.app.request("loud", owner_id=fleet.app.owner, seconds=seconds, max_failures=1)
            job = fleet.app.wait_for("loud", job_id)
            assert (job["status"], job["error_code"]) == (status, code)
        running = fleet.app.request("loud", owner_id=fleet.app.owner, seconds=60)
        fleet.wait_for_phase("loud", running, "counting")
        worker.terminate()
        assert worker.wait(30) == 0
    finally:
        worker.kill()
        worker.wait()
    assert fleet.app.job("loud", running)["status"] == "queued"
    assert fleet.app.one("select count(*) from worker.pods") == 0
