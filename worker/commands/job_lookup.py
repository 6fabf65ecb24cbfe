"""Finding one job of any kind, and what an administrator may do to it."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

import psycopg

from worker.database.owner import Connection
from worker.errors import CommandRefused

SHORTEST_PREFIX = 4


def find_job(connection: Connection, given: str) -> dict[str, Any]:
    """The row of worker.job_details whose id is `given` or begins so; `kind:id` says which kind.

    Raises CommandRefused when there is none, or more than one.
    """
    kind, _, text = given.rpartition(":")
    digits = text.replace("-", "").lower()
    if not re.fullmatch(rf"[0-9a-f]{{{SHORTEST_PREFIX},32}}", digits):
        raise CommandRefused(
            f"{given!r} is no id of a job, nor its beginning ({SHORTEST_PREFIX} digits or more): "
            "`worker status` and worker.jobs show ids"
        )
    # A range, which the primary keys answer; letters compare as the bytes of the id do.
    jobs = connection.execute(
        """select * from worker.job_details where id between %s and %s and (%s = '' or kind = %s)
           order by created_at limit 6""",
        [UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f")), kind, kind],
    ).fetchall()
    if not jobs:
        raise CommandRefused(f"there is no job {given}: `worker status` and worker.jobs show ids")
    if len(jobs) > 1:
        found = ", ".join(f"{job['kind']}:{job['id']}" for job in jobs)
        raise CommandRefused(f"several jobs begin so, name one of them: {found}")
    return jobs[0]


def retry_job(connection: Connection, given: str) -> str:
    """Put a failed or cancelled job back on the queue. Raises CommandRefused with why it cannot be."""
    job = find_job(connection, given)
    try:
        connection.execute("select public.retry_job(%s, %s)", [job["kind"], job["id"]])
    except psycopg.errors.InvalidParameterValue as error:
        raise CommandRefused(_refusal(error)) from error
    except psycopg.DatabaseError as error:
        if error.sqlstate != "PT429":  # as HTTP's 429: too many open jobs of one owner
            raise
        raise CommandRefused(
            f"{_refusal(error)} Cancel some of them, or raise open_jobs_per_owner in worker.config."
        ) from error
    return (
        f"{job['kind']} {job['id']} is queued again; consent is checked when it starts. "
        f"Follow it with: worker job {job['id']}"
    )


def cancel_job(connection: Connection, given: str) -> str:
    """Cancel an open job. Raises CommandRefused when it had ended before."""
    job = find_job(connection, given)
    row = connection.execute("select public.cancel_job(%s, %s) as answer", [job["kind"], job["id"]]).fetchone()
    answer = row["answer"] if row else None
    what = f"{job['kind']} {job['id']}"
    match answer:
        case "cancelled" if job["status"] == "queued":
            return f"{what} is cancelled: it had not begun. `worker job retry {job['id']}` puts it back."
        case "stopping":
            return f"{what} is being stopped: its pod ends it within a step. Follow it with: worker job {job['id']}"
        case _:
            raise CommandRefused(f"{what} had ended before ({answer}): there is nothing to cancel")


def _refusal(error: psycopg.Error) -> str:
    hint = f" {error.diag.message_hint}" if error.diag.message_hint else ""
    return f"{error.diag.message_primary or type(error).__name__}.{hint}"
