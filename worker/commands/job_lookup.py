"""Finds one job of any kind, requeues it or cancels it, as an administrator."""

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

import psycopg

from worker.database.owner import Connection
from worker.errors import CommandRefused

MIN_PREFIX_DIGITS = 4


def find_job(connection: Connection, given: str) -> dict[str, Any]:
    """Return the row of worker.job_details whose id is or begins with `given`; `kind:id` names the kind.

    Raises CommandRefused if no job matches, or several do.
    """
    kind, _, text = given.rpartition(":")
    digits = text.replace("-", "").lower()
    if not re.fullmatch(rf"[0-9a-f]{{{MIN_PREFIX_DIGITS},32}}", digits):
        raise CommandRefused(
            f"invalid job id: {given!r}; give an id or at least {MIN_PREFIX_DIGITS} of its first digits, "
            "as `worker status` and worker.jobs show it"
        )
    # A range, which the primary keys answer; letters compare as the bytes of the id do.
    jobs = connection.execute(
        """select * from worker.job_details where id between %s and %s and (%s = '' or kind = %s)
           order by created_at limit 6""",
        [UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f")), kind, kind],
    ).fetchall()
    if not jobs:
        raise CommandRefused(f"job not found: {given}; `worker status` and worker.jobs show ids")
    if len(jobs) > 1:
        found = ", ".join(f"{job['kind']}:{job['id']}" for job in jobs)
        raise CommandRefused(f"several jobs match {given}; name one of them: {found}")
    return jobs[0]


def retry_job(connection: Connection, given: str) -> str:
    """Requeue a failed or cancelled job. Raises CommandRefused if the database does not allow it."""
    job = find_job(connection, given)
    try:
        connection.execute("select public.retry_job(%s, %s)", [job["kind"], job["id"]])
    except psycopg.errors.InvalidParameterValue as error:
        raise CommandRefused(_refusal(error)) from error
    except psycopg.DatabaseError as error:
        if error.sqlstate != "PT429":  # as HTTP's 429: too many open jobs of one user
            raise
        raise CommandRefused(
            f"{_refusal(error)} Cancel some of them, or raise open_jobs_per_owner in worker.config."
        ) from error
    return (
        f"{job['kind']} {job['id']} is queued again; consent is checked again when it starts. "
        f"Follow it with: worker job {job['id']}"
    )


def cancel_job(connection: Connection, given: str) -> str:
    """Cancel an open job. Raises CommandRefused if it has ended already."""
    job = find_job(connection, given)
    row = connection.execute("select public.cancel_job(%s, %s) as answer", [job["kind"], job["id"]]).fetchone()
    answer = row["answer"] if row else None
    name = f"{job['kind']} {job['id']}"
    match answer:
        case "cancelled" if job["status"] == "queued":
            return f"{name} is cancelled before it started. To requeue it: worker job retry {job['id']}"
        case "stopping":
            return f"{name} is being stopped: its pod ends it at the next step. Follow it with: worker job {job['id']}"
        case _:
            raise CommandRefused(f"{name} has already ended ({answer}); only open jobs can be cancelled")


def _refusal(error: psycopg.Error) -> str:
    hint = f" {error.diag.message_hint}" if error.diag.message_hint else ""
    return f"{error.diag.message_primary or type(error).__name__}.{hint}"
