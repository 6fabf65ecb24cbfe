"""Start an attempt of a claimed job. A job that cannot be read is ended, so that no pod claims it again and again."""

from __future__ import annotations

from uuid import UUID

import psycopg
import structlog

from worker import errors
from worker.database.pool import Database
from worker.jobs.started_job import StartedJob

log = structlog.get_logger()


async def start_job(database: Database, kind: str, job_id: UUID, pod_id: UUID) -> StartedJob | None:
    """Return the started attempt. None if there is nothing to run: the job ended, was refused, is another pod's.

    A job that this release cannot read fails: as `internal`, which is retried, if something is missing that another
    release may expect; as `invalid_input` if its values are out of range.
    """
    try:
        payload = await database.call("start_job", kind, job_id, pod_id)
        if payload is None:
            message = "it has ended, was refused, or belongs to another pod"
            log.info("job.not_started", kind=kind, job_id=str(job_id), message=message)
            return None
        return StartedJob.read(payload)
    except errors.InternalError as error:
        state = await database.call("fail_job", kind, job_id, payload["attempt"], error.code, error.message)
        reason = error.message
    except errors.InvalidInput as error:
        reason = error.message
        state = await database.call("set_aside_job", kind, job_id, pod_id, reason)
    except psycopg.DataError as error:
        reason = f"a value of the job is out of range (SQLSTATE {error.sqlstate})"
        state = await database.call("set_aside_job", kind, job_id, pod_id, reason)
    log.warning("job.unreadable", kind=kind, job_id=str(job_id), reason=reason, state=state)
    return None
