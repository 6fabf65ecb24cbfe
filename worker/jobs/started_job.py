"""A started job as the database describes it, parsed once, at the boundary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from worker import errors
from worker.database.lenient_types import UNREADABLE


class Row(BaseModel):
    """A row of a table. Columns that a later schema adds are ignored, so that this release continues to work."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True, allow_inf_nan=False)


R = TypeVar("R", bound=Row)


class Base(Row):
    """A row of `worker.base_models`."""

    slug: str
    family: str
    licence: str
    defaults: dict[str, Any] = {}
    weights_of: str | None = None

    @property
    def weights_slug(self) -> str:
        """Return the base model in whose folder the weights are: itself, unless it has those of another."""
        return self.weights_of or self.slug


class Preset(Row):
    """A look to reuse. `{prompt}` stands for the request's prompt, `{trigger}` for the trigger word."""

    prompt: str = ""
    negative_prompt: str | None = None


class Checkpoint(Row):
    """The training state that an earlier attempt of this job saved."""

    step: int
    bucket: str
    key: str


class Subject(Row):
    """The person or product that a job is about."""

    id: UUID
    trigger_word: str | None


class StartedJob(Row):
    """The answer of `worker.start_job`: all that a handler of any kind needs to know about one attempt."""

    kind: str
    id: UUID
    route: str
    """The entrypoint of its queue row: with the base model and the guides that it needs."""
    attempt: int
    purpose: str | None
    """The purpose to which the people in the job must have consented; None if no consent is needed."""
    subjects: list[UUID]
    """Every person in the job."""
    subject: Subject | None
    base: Base | None
    preset: Preset | None
    checkpoint: Checkpoint | None
    prefix: str
    """Every key that the attempt may write begins with it."""
    inputs: dict[str, Any]
    """The answer of the kind's SQL hook `payload`: photos, LoRAs."""
    row: dict[str, Any] = Field(alias="job")
    """Every column of the job's table."""

    @classmethod
    def read(cls, payload: Mapping[str, Any]) -> StartedJob:
        """Parse a payload.

        Raises InternalError if this release cannot read it, InvalidInput if no release could.
        """
        if UNREADABLE in payload:
            raise errors.InvalidInput(f"this worker cannot read the job: {payload[UNREADABLE]}")
        return _read(cls, payload)

    def request(self, model: type[R], defaults: Mapping[str, Any] | None = None) -> R:
        """Return the request as its kind's model: the columns of its table by their names, and `inputs`.

        A value of the request (which its preset completed when it was inserted) takes precedence over `defaults`.
        Without a seed in either, the seed is derived from the job's id, the same for every attempt.

        Raises InternalError if this release cannot read the request, InvalidInput if no release could.
        """
        requested = {name: value for name, value in self.row.items() if value is not None}
        return _read(model, {"seed": self.id.int % 2**32, **(defaults or {}), **requested, "inputs": self.inputs})

    @property
    def base_defaults(self) -> dict[str, Any]:
        """Return the base model's defaults for settings that a request leaves open."""
        return self.base.defaults if self.base else {}

    @property
    def required_base(self) -> Base:
        """Return the base model. Raises InvalidInput for a job without one."""
        if self.base is None:
            raise errors.InvalidInput(f"job {self.id} does not name a base model")
        return self.base


_OUT_OF_RANGE = {"finite_number", "int_from_float", "int_parsing_size", "datetime_parsing", "date_parsing"}
"""Kinds of mistakes that a value makes and not a schema: pydantic's names for numbers and times Python cannot use."""


def _read(model: type[R], values: Mapping[str, Any]) -> R:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        # Names of columns and kinds of mistakes; the values are the user's own.
        found = error.errors()
        wrong = [f"{'.'.join(map(str, each['loc']))} ({each['type']})" for each in found]
        message = f"this worker cannot read the job: {errors.truncate_list(wrong)}"
        if all(each["type"] in _OUT_OF_RANGE for each in found):
            raise errors.InvalidInput(message) from error
        raise errors.InternalError(message) from error
