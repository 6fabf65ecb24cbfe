"""Every way a job can end badly, as one hierarchy.

    Exception
    ├── WorkerError            a code, a message for the app's user, may trying again help
    │   ├── ConsentDenied      consent_denied   never retried
    │   ├── PromptBlocked      prompt_blocked   never retried
    │   ├── OutputBlocked      output_blocked   never retried
    │   ├── InvalidInput       invalid_input    never retried
    │   ├── InputMissing       input_missing    never retried
    │   ├── ModelMissing       model_missing    this pod's fault first: released, uncharged
    │   ├── OutOfMemory        out_of_memory    this pod's fault first: released, uncharged
    │   ├── StorageError       storage_error    retried with backoff
    │   ├── WorkerLost         worker_lost      retried with backoff
    │   ├── JobTimeout         timeout          retried with backoff
    │   └── InternalError      internal         retried with backoff
    ├── JobInterrupted         the attempt must stop: cancelled or revoked, shutdown, lease lost
    ├── SettingsError          a wrong or missing setting: exit code 2, before anything starts
    └── CommandRefused         a command cannot do what it was asked to: exit code 1

A message may be read by the app's user: what happened and what to do, never a prompt, a name, a secret or a signed URL.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar


class WorkerError(Exception):
    """A job's attempt failed for a reason its owner can read."""

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = True

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConsentDenied(WorkerError):
    """A person in this job has not agreed, or no longer agrees."""

    code = "consent_denied"
    retryable = False


class PromptBlocked(WorkerError):
    """The merged prompt asks for something this service does not draw."""

    code = "prompt_blocked"
    retryable = False


class OutputBlocked(WorkerError):
    """The finished picture may not be published."""

    code = "output_blocked"
    retryable = False


class InvalidInput(WorkerError):
    """Something the app gave cannot be used: a file, a path, a combination of settings."""

    code = "invalid_input"
    retryable = False


class InputMissing(WorkerError):
    """Something the job names is not there: photos, a LoRA, a control picture."""

    code = "input_missing"
    retryable = False


class ModelMissing(WorkerError):
    """This pod has no way to get the base model."""

    code = "model_missing"


class OutOfMemory(WorkerError):
    """The job does not fit this pod's memory."""

    code = "out_of_memory"


class StorageError(WorkerError):
    """The object store did not answer, or refused."""

    code = "storage_error"


class WorkerLost(WorkerError):
    """The process that ran the attempt died."""

    code = "worker_lost"


class JobTimeout(WorkerError):
    """The attempt ran longer than the job's `max_runtime`."""

    code = "timeout"


class InternalError(WorkerError):
    """A fault of the worker's own."""

    code = "internal"


def truncate_list(names: Sequence[str]) -> str:
    """The first few of many names, for a message, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


BY_CODE: dict[str, type[WorkerError]] = {cls.code: cls for cls in WorkerError.__subclasses__()}


class Interruption(StrEnum):
    """Why a running attempt must stop before its end."""

    CANCELLED = "cancel"
    """The job was cancelled, or a person in it took consent back."""
    TIMEOUT = "timeout"
    """It ran longer than `max_runtime`."""
    LEASE_LOST = "lost"
    """Another attempt owns the job now: write nothing."""
    SHUTDOWN = "shutdown"
    """This pod is stopping: give the job back, uncharged."""


class JobInterrupted(Exception):
    """The attempt was told to stop; nothing of it may be published."""

    def __init__(self, reason: Interruption) -> None:
        super().__init__(reason.value)
        self.reason = reason


class SettingsError(Exception):
    """A wrong or missing setting: what is wrong with it, and what mends it, as a command or an example."""

    def __init__(self, what: str, cure: str = "") -> None:
        super().__init__(f"{what}; {cure}" if cure else what)
        self.what = what
        self.cure = cure


class CommandRefused(Exception):
    """A command cannot do what it was asked to: exit code 1. The message says why, and what to do next."""
