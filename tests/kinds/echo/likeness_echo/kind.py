"""The kind as every pod imports it: its request, its words, what it does with a started job. Without torch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from likeness_echo.task import EchoTask
from worker.guard.prompts import Text
from worker.handlers.context import JobContext
from worker.jobs.lease import Lease
from worker.jobs.started_job import Row, StartedJob
from worker.kinds import Kind


class EchoRequest(Row):
    """The request columns of `echo_jobs`."""

    words: str
    times: int
    pause_ms: int


def texts(job: StartedJob) -> Iterator[Text]:
    yield Text("the words", job.request(EchoRequest, {}).words)


async def echo(lease: Lease, context: JobContext) -> dict[str, Any]:
    """Say the words and publish the file. The worker has screened them, and asked whether everybody agrees."""
    request = lease.job.request(EchoRequest, {})
    task = EchoTask(words=request.words, times=request.times, pause_s=request.pause_ms / 1000, workdir=context.workdir)
    said = await context.compute_result(task, lease)
    context.mark_computed(lease)  # the GPU is free: the next job may begin
    key = f"{lease.job.prefix}echo.txt"
    await lease.stage([(context.bucket_uploads, key)])
    await context.upload(context.bucket_uploads, key, Path(said["path"]), "text/plain")
    return {"objects": [key], "times": said["times"]}


KIND = Kind("echo", echo, texts, tasks=(EchoTask,))
