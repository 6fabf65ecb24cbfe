"""Every way a job can fail, as one hierarchy.

    Exception
    ├── WorkerError            a code and a message for the app's user
    │   ├── ConsentDenied      consent_denied   never retried
    │   ├── PromptBlocked      prompt_blocked   never retried
    │   ├── OutputBlocked      output_blocked   never retried
    │   ├── InvalidInput       invalid_input    never retried
    │   ├── InputMissing       input_missing    never retried
    │   ├── ModelMissing       model_missing    requeued for another pod, not a failure
    │   ├── OutOfMemory        out_of_memory    requeued for another pod, not a failure
    │   ├── StorageError       storage_error    retried with backoff
    │   ├── WorkerLost         worker_lost      retried with backoff
    │   ├── JobTimeout         timeout          retried with backoff
    │   └── InternalError      internal         retried with backoff
    ├── JobInterrupted         the attempt must stop: cancelled or revoked, timeout, lease lost, shutdown
    ├── SettingsError          a wrong or missing setting: exit code 2, before anything starts
    └── CommandRefused         a command cannot do what it was asked to do: exit code 1

The database decides by the code whether an attempt is retried (`worker.fail_job`); for ModelMissing and OutOfMemory the
pod itself requeues the job (`worker.release_job`). The app's user may read a message: what happened and what to do,
never a prompt, a name, a secret or a signed URL.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar


class WorkerError(Exception):
    """A job's attempt failed, for a reason that the user may read."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConsentDenied(WorkerError):
    """A person in this job has not consented, or has revoked consent."""

    code = "consent_denied"


class PromptBlocked(WorkerError):
    """The merged prompt asks for something that this service does not generate."""

    code = "prompt_blocked"


class OutputBlocked(WorkerError):
    """The finished picture may not be published."""

    # For kinds that check their pictures, which the core's kinds do not: the database and apps know the code.
    code = "output_blocked"


class InvalidInput(WorkerError):
    """A value from the app cannot be used: a file, a path, a combination of options."""

    code = "invalid_input"


class InputMissing(WorkerError):
    """An input of the job was not found: photos, a LoRA, a control image."""

    code = "input_missing"


class ModelMissing(WorkerError):
    """The pod cannot do the job: a model is missing or damaged, its GPU is lost or too old, an import fails."""

    code = "model_missing"


class OutOfMemory(WorkerError):
    """The job does not fit this pod's memory."""

    code = "out_of_memory"


class StorageError(WorkerError):
    """The object store did not respond, or denied the request."""

    code = "storage_error"


class WorkerLost(WorkerError):
    """The process that ran the attempt died."""

    code = "worker_lost"


class JobTimeout(WorkerError):
    """The attempt ran longer than the job's `max_runtime`."""

    code = "timeout"


class InternalError(WorkerError):
    """An unexpected error in the worker."""

    code = "internal"


def truncate_list(names: Sequence[str]) -> str:
    """Return the first five names, for a message, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


BY_CODE: dict[str, type[WorkerError]] = {cls.code: cls for cls in WorkerError.__subclasses__()}


class Interruption(StrEnum):
    """Why a running attempt must stop early. All but SHUTDOWN are lease states of the database (`worker.lease_state`).

    How a cancellation or revocation reaches the GPU:

        public.cancel_job; or public.revoke_consent, expiry → worker.stop_jobs_of     one call for each open job
        worker.request_stop       sets cancel_requested_at and cancel_code, NOTIFY likeness_cancel
        Session.on_cancel         a pod that runs the job hears it, and sends a heartbeat at once
        worker.pod_heartbeat      answers `cancel` for that lease; so do report_job and stage_objects
        Lease.interrupt           sets `interruption`; the first reason counts, but LEASE_LOST outranks it
        JobRunner._stop_handler   GpuChild.interrupt ends the task on the GPU, then the handler is cancelled
        Lease.release             the database ends the job: cancelled, or failed with consent_denied

    Where the notification is lost, the next heartbeat has the same answer.
    """

    STOP_REQUESTED = "cancel"
    """The job was cancelled, or a person in it revoked consent: `cancel_code` says which, and only SQL reads it."""
    TIMEOUT = "timeout"
    """It ran longer than `max_runtime`."""
    LEASE_LOST = "lost"
    """Another attempt owns the job now: write nothing."""
    SHUTDOWN = "shutdown"
    """This pod is shutting down: requeue the job, which does not count as a failure."""


class JobInterrupted(Exception):
    """The attempt was told to stop. Its results must not be published."""

    def __init__(self, reason: Interruption) -> None:
        super().__init__(reason.value)
        self.reason = reason


class SettingsError(Exception):
    """A wrong or missing setting: the problem, and a hint how to fix it, as a command or an example."""

    def __init__(self, problem: str, hint: str = "") -> None:
        super().__init__(f"{problem}; {hint}" if hint else problem)
        self.problem = problem
        self.hint = hint


class CommandRefused(Exception):
    """A command cannot do what it was asked to do: exit code 1. The message says why, and what to do next."""
