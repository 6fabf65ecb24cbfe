"""What to do next about a job, by where it stands and how it failed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from worker.console import sanitize_line
from worker.models import install_command

AFTER_FAILURE = {
    "consent_denied": "ask the person. Once they agree, as the owner: select public.grant_consent('{subject}'); "
    "then: worker job retry {id}",
    "prompt_blocked": "ask for something else in a new job: a request never changes, and trying again cannot help",
    "output_blocked": "ask for something else in a new job; the picture that came out may not be shown",
    "invalid_input": "correct what the error names in a new job: a request never changes",
    "input_missing": "bring what the error names, then: worker job retry {id}",
    "model_missing": "on a pod: {bring}; for all pods: worker models push {base}; then: worker job retry {id}",
    "out_of_memory": "start a pod with more GPU memory, or ask for less in a new job; then: worker job retry {id}",
    "storage_error": "see what the store refuses with `worker doctor` on a pod, then: worker job retry {id}",
    "worker_lost": "look at the end of its pods' own logs (out of memory, or the pod was reclaimed), "
    "then: worker job retry {id}",
    "timeout": "give it longer, as the owner: update {table} set max_runtime = '8 hours' where id = '{id}'; "
    "then: worker job retry {id}",
    "internal": "look for this job's id in its pod's log, then: worker job retry {id}",
}
"""By error_code, for a job that failed for good."""


def next_step(job: dict[str, Any], now: datetime, table: str, paused: bool, stranded_why: str | None) -> str:
    """One sentence: what happens by itself, or what somebody should do.

    Args:
        job: a row of worker.job_details.
        table: where jobs of its kind are inserted.
        paused: nothing of its kind is started.
        stranded_why: why no live pod can take it, or take it over; None when one can.
    """
    match job["status"]:
        case "completed":
            return "nothing: its result is published"
        case "cancelled":
            return f"worker job retry {job['id']} puts it back, if it should be done after all"
        case "running" if job["cancel_requested_at"] is not None:
            return "wait: its pod was told to stop, and is held for dead if it does not answer for 30 s"
        case "running" if stranded_why is not None:
            return f"{stranded_why}, its own neither: the next one that starts gives it back to the queue: worker run"
        case "running":
            return f"wait; worker job cancel {job['id']} stops it"
        case "failed":
            advice = AFTER_FAILURE.get(job["error_code"], "look for this job's id in its pod's log")
            base = job["request"].get("base", "SLUG")
            return advice.format(
                id=job["id"],
                subject=job["subject_id"] or "SUBJECT",
                base=base,
                bring=install_command(base),
                table=table,
            )
    if paused:
        return f"wait: an administrator paused {job['kind']} (paused in worker.job_kinds)"
    if stranded_why is not None:
        return f"{stranded_why}; start a pod that can, or bring the base to one: worker models list"
    if job["run_after"] is not None and job["run_after"] > now:
        return f"wait: it is tried again at {sanitize_line(job['run_after'].astimezone(UTC))} UTC"
    return "wait for a free pod; worker status shows what is before it"
