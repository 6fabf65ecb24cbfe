"""The worker's own check of consent, before it loads anything; the database has checked it too."""

from __future__ import annotations

from worker.database.pool import Database
from worker.errors import ConsentDenied
from worker.jobs.started_job import StartedJob


async def require(database: Database, job: StartedJob) -> None:
    """Raise ConsentDenied unless every person in the job consents to its purpose now."""
    if job.purpose is None:
        return
    for subject_id in job.subjects:
        reason = await database.call("consent_error", subject_id, job.purpose)
        if reason is not None:
            raise ConsentDenied(reason)
