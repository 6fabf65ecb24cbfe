"""What the database says about a started job, parsed once, at the boundary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker import errors


class Row(BaseModel):
    """Columns a later schema adds are ignored, so that this release survives it."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


R = TypeVar("R", bound=Row)


class Base(Row):
    """A row of `worker.base_models`."""

    slug: str
    family: str
    licence: str
    defaults: dict[str, Any] = {}


class Preset(Row):
    """A look to reuse. `{prompt}` stands for the request's prompt, `{trigger}` for the trigger word."""

    prompt: str = ""
    negative_prompt: str | None = None


class Checkpoint(Row):
    """Where an earlier attempt of this job had got to."""

    step: int
    bucket: str
    key: str


class Subject(Row):
    """The person or product a job is about."""

    id: UUID
    trigger_word: str | None


class StartedJob(Row):
    """What `worker.start_job` answers: all that a handler needs to know about one attempt, of whatever kind it is."""

    kind: str
    id: UUID
    attempt: int
    purpose: str | None
    """What the people in the job must have agreed to; None needs no consent."""
    subjects: list[UUID]
    """Every person in the job."""
    subject: Subject | None
    base: Base | None
    preset: Preset | None
    checkpoint: Checkpoint | None
    prefix: str
    """Every key that the attempt may write begins with it."""
    inputs: dict[str, Any]
    """What the kind's SQL hook `payload` found for the request: photographs, LoRAs."""
    row: dict[str, Any] = Field(alias="job")
    """Every column of the job's table."""

    @classmethod
    def read(cls, payload: Mapping[str, Any]) -> StartedJob:
        """Raises InternalError when this release cannot read the payload."""
        return _read(cls, payload)

    def request(self, model: type[R], defaults: Mapping[str, Any] | None = None) -> R:
        """Return the request as its kind's model: the columns of its table by their names, and `inputs`.

        Of those that say something about a column, the first decides: the request (its preset filled it in when it was
        inserted), then `defaults`. Without a seed in either, it is made of the job's id: every attempt has the same.

        Raises InternalError when this release cannot read the request.
        """
        requested = {name: value for name, value in self.row.items() if value is not None}
        return _read(model, {"seed": self.id.int % 2**32, **(defaults or {}), **requested, "inputs": self.inputs})

    @property
    def base_defaults(self) -> dict[str, Any]:
        """What the base says about requests that leave something open."""
        return self.base.defaults if self.base else {}

    @property
    def required_base(self) -> Base:
        """The base; raises InvalidInput for a job without one."""
        if self.base is None:
            raise errors.InvalidInput(f"job {self.id} names no base model")
        return self.base


def _read(model: type[R], values: Mapping[str, Any]) -> R:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        # Names of columns and kinds of mistakes; the values are the user's own.
        wrong = [f"{'.'.join(map(str, found['loc']))} ({found['type']})" for found in error.errors()]
        raise errors.InternalError(f"this worker cannot read the job: {errors.truncate_list(wrong)}") from error
