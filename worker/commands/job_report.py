"""Prints one job in full, but no people's names and no signed URLs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from rich.console import Console

from worker.commands.job_advice import next_step
from worker.commands.job_lookup import find_job
from worker.console import listing, sanitize_line, span, table
from worker.database.owner import Connection
from worker.errors import BY_CODE, SettingsError, WorkerError
from worker.settings import Settings
from worker.storage.object_store import ObjectStore

SIZES_TIMEOUT_S = 20.0
MAX_EVENTS = 40


@dataclass
class Attempt:
    """One attempt, as its events record it."""

    number: int
    pod: str
    started_at: datetime
    ended_at: datetime | None = None
    outcome: str = "running"


def print_job(connection: Connection, given: str, settings: Settings, to: Console) -> None:
    """Print the job whose id is or begins with `given`. Raises CommandRefused if there is not exactly one."""
    job = find_job(connection, given)
    facts = connection.execute(
        """select clock_timestamp() as now, kinds.table_name, kinds.paused,
                  case when %(status)s = 'queued'
                    then (select worker.why_stranded(entrypoint) from worker.pgqueuer
                          where dedupe_key = %(kind)s || ':' || %(id)s and status = 'queued')
                    when not exists (select from worker.pods where worker.is_alive(pods)) then 'no pod is running'
                  end as stranded_reason
           from worker.job_kinds kinds where kinds.kind = %(kind)s""",
        job,
    ).fetchone()
    assert facts is not None, "every job is of a registered kind"
    events = connection.execute(
        """select at, attempt, event, detail from worker.job_events
           where kind = %(kind)s and job_id = %(id)s order by id""",
        job,
    ).fetchall()
    attempts = attempts_of(events)
    listing(to, f"{job['kind']} {job['id']}: {job['status']}", _head(job, attempts, facts["now"]))
    listing(to, "Request", _without_nulls(job["request"] | {"preset": job["preset"]}))
    rows = [
        (each.number, each.pod, each.started_at, span((each.ended_at or facts["now"]) - each.started_at), each.outcome)
        for each in attempts
    ]
    table(to, "Attempts (times in UTC)", ("#", "pod", "started", "took", "outcome"), rows, "none yet")
    shown = [(event["at"], event["attempt"], event["event"], _detail(event["detail"])) for event in events]
    title = "Events" if len(shown) <= MAX_EVENTS else f"Events, the last {MAX_EVENTS} of {len(shown)}"
    table(to, title, ("at", "#", "event", "detail"), shown[-MAX_EVENTS:], "none")
    table(to, "Files", ("bucket", "key", "state", "bytes"), _files(connection, job, settings), "none")
    if job["result"]:
        listing(to, "Result", _without_nulls(job["result"]))
    advice = next_step(job, facts["now"], facts["table_name"], facts["paused"], facts["stranded_reason"])
    to.print(f"Next: {sanitize_line(advice)}")


def attempts_of(events: list[dict[str, Any]]) -> list[Attempt]:
    """Return the attempts of a job from its events, which are in the order in which they happened."""
    attempts: dict[int, Attempt] = {}
    for event in events:
        number, detail = event["attempt"], event["detail"]
        if event["event"] == "started":
            attempts[number] = Attempt(number, detail.get("pod") or detail.get("pod_id", ""), event["at"])
        elif event["event"] in ("requeued", "completed", "failed", "cancelled"):
            attempt = attempts.get(number)
            if attempt is not None and attempt.ended_at is None:  # otherwise it ended while it waited again
                attempt.ended_at = event["at"]
                attempt.outcome = detail.get("code") or detail.get("phase") or event["event"]
    return list(attempts.values())


def _head(job: dict[str, Any], attempts: list[Attempt], now: datetime) -> dict[str, object]:
    took = [(attempt.ended_at or now) - attempt.started_at for attempt in attempts]
    started = attempts[0].started_at if attempts else job["finished_at"] or now
    meaning = BY_CODE[job["error_code"]].__doc__ if job["error_code"] in BY_CODE else None
    return {
        "owner": job["owner_id"],
        "subject": job["subject_id"],
        "created": job["created_at"],
        "waited": span(started - job["created_at"]),
        "worked": span(sum(took, timedelta())) if took else None,
        "ended": job["finished_at"],
        "GPU": _gpu_time(job["gpu_seconds"]) if job["gpu_seconds"] else None,
        "progress": f"{job['progress']:.0%}, {job['phase']}" if job["phase"] else f"{job['progress']:.0%}",
        "failures": f"{job['failures']}, and it is not retried"
        if job["status"] == "failed"
        else f"{job['failures']} of {job['max_failures']}",
        "not before": job["run_after"] if job["status"] == "queued" else None,
        "error code": job["error_code"],
        "which means": meaning,
        "error": job["error"],
    }


def _gpu_time(seconds: float) -> str:
    in_range = math.isfinite(seconds) and abs(seconds) < timedelta.max.total_seconds()
    return span(timedelta(seconds=seconds)) if in_range else f"{seconds:g} s"


def _without_nulls(values: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value not in (None, [], {}, "")}


def _detail(detail: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {sanitize_line(value)}" for name, value in detail.items() if name != "pod_id")


def _files(connection: Connection, job: dict[str, Any], settings: Settings) -> list[tuple[object, ...]]:
    objects = connection.execute(
        """select bucket, key, state from worker.staged_objects
           where kind = %(kind)s and job_id = %(id)s order by attempt, id""",
        job,
    ).fetchall()
    keys = [(item["bucket"], item["key"]) for item in objects]
    sizes = asyncio.run(_sizes(settings, keys)) if keys else {}
    return [(item["bucket"], item["key"], item["state"], sizes.get((item["bucket"], item["key"]))) for item in objects]


async def _sizes(settings: Settings, keys: list[tuple[str, str]]) -> dict[tuple[str, str], object]:
    """Return sizes in bytes by bucket and key, without those that the store does not report in time."""
    sizes: dict[tuple[str, str], object] = {}
    try:
        store = ObjectStore(settings.store_config)
    except SettingsError:
        return sizes

    async def measure(bucket: str, key: str) -> None:
        with suppress(WorkerError):
            info = await store.head(bucket, key)
            sizes[bucket, key] = "deleted" if info is None else info.size

    with suppress(TimeoutError):
        async with asyncio.timeout(SIZES_TIMEOUT_S):
            await asyncio.gather(*(measure(bucket, key) for bucket, key in keys))
    await store.close()
    return sizes
