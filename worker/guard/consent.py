"""The worker's own check: the database has refused already, and the worker refuses again before it loads anything."""

from __future__ import annotations

from worker.database.pool import Database
from worker.errors import ConsentDenied
from worker.jobs.started_job import StartedJob


async def require(database: Database, job: StartedJob) -> None:
    """Raises ConsentDenied unless every person in the job agrees to its purpose now."""
    if job.purpose is None:
        return
    for subject_id in job.subjects:
        reason = await database.call("consent_error", subject_id, job.purpose)
        if reason is not None:
            raise ConsentDenied(reason)
