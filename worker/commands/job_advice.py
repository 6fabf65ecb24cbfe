"""What to do next about a job, by its state and by how it failed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from worker.console import sanitize_line
from worker.models import install_command

AFTER_FAILURE = {
    "consent_denied": "ask the person for consent. After that, as the database owner: "
    "select public.grant_consent('{subject}'); then: worker job retry {id}",
    "prompt_blocked": "send a new job with another prompt: requests cannot be changed, and retrying does not help",
    "output_blocked": "send a new job with another prompt: the finished picture may not be shown",
    "invalid_input": "send a new job without the mistake that the error names: requests cannot be changed",
    "input_missing": "add what the error names, then: worker job retry {id}",
    "model_missing": "fix what the error names. A missing or damaged base model: on a pod, {install}; for all pods, "
    "worker models push {base}. A lost GPU, or a package that cannot be imported: fix or replace the pod. "
    "Then: worker job retry {id}",
    "out_of_memory": "start a pod with more GPU memory, then: worker job retry {id}; or send a new, smaller job",
    "storage_error": "run `worker doctor` on a pod and fix what it finds, then: worker job retry {id}",
    "worker_lost": "check the end of its pods' logs (out of memory, or the pod was reclaimed), "
    "then: worker job retry {id}",
    "timeout": "allow more time, as the database owner: update {table} set max_runtime = '8 hours' where id = '{id}'; "
    "then: worker job retry {id}",
    "internal": "find this job's id in its pod's log, then: worker job retry {id}",
}
"""By error_code, for a failed job."""


def next_step(job: dict[str, Any], now: datetime, table: str, paused: bool, stranded_reason: str | None) -> str:
    """Return one sentence: what will happen without help, or what to do.

    Args:
        job: a row of worker.job_details.
        table: the job table of its kind.
        paused: jobs of its kind are not started.
        stranded_reason: why no live pod can run it or take it over; None if one can.
    """
    match job["status"]:
        case "completed":
            return "nothing to do: its result is published"
        case "cancelled":
            return f"to run it after all: worker job retry {job['id']}"
        case "running" if job["cancel_requested_at"] is not None:
            return "wait: its pod was told to stop, and is considered dead if it sends no heartbeat for 30 s"
        case "running" if stranded_reason is not None:
            return f"{stranded_reason}, not even its own: start one, which will requeue the job: worker run"
        case "running":
            return f"wait, or cancel it: worker job cancel {job['id']}"
        case "failed":
            advice = AFTER_FAILURE.get(job["error_code"], "find this job's id in its pod's log")
            base = job["request"].get("base", "SLUG")
            return advice.format(
                id=job["id"],
                subject=job["subject_id"] or "SUBJECT",
                base=base,
                install=install_command(base),
                table=table,
            )
    if paused:
        return f"wait: an administrator paused {job['kind']} (paused in worker.job_kinds)"
    if stranded_reason is not None:
        return f"{stranded_reason}; start a pod that can run it, or give one the base model: worker models list"
    if job["run_after"] is not None and job["run_after"] > now:
        return f"wait: it is retried at {sanitize_line(job['run_after'].astimezone(UTC))} UTC"
    return "wait for a free pod; worker status shows the queue"
