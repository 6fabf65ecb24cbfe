"""The content of summary.json: every claim in it can be checked in the database and the buckets."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from worker import __version__
from worker.demo.app_client import StoredObject
from worker.demo.output.steps import Step


@dataclass(frozen=True)
class EndedJob:
    """A job's row after it ended, and the objects under its prefix in the bucket at that time."""

    name: str
    kind: str
    id: UUID
    subject_id: UUID | None
    status: str
    attempt: int
    error_code: str | None
    error: str | None
    objects: list[StoredObject]

    @classmethod
    def of(cls, name: str, kind: str, row: dict[str, Any], objects: list[StoredObject]) -> EndedJob:
        columns = ("id", "subject_id", "status", "attempt", "error_code", "error")
        return cls(name, kind, **{column: row[column] for column in columns}, objects=objects)


@dataclass(frozen=True)
class SubjectSummary:
    """A person, their photographs in the uploads bucket, and the ledger of their consent."""

    who: str
    id: UUID
    trigger_word: str
    training_photos: list[StoredObject]
    held_out_photos: list[StoredObject]
    consent_events: list[str]


@dataclass(frozen=True)
class TrainedLora:
    """A row of subjects_models."""

    id: UUID
    subject_id: UUID
    version: int
    key: str
    sha256: str


@dataclass(frozen=True)
class SavedFile:
    """A file in the output folder that is a copy of an object in a bucket."""

    file: str
    bucket: str
    key: str


@dataclass(frozen=True)
class Revocation:
    """Consent revoked while a job was running."""

    job_id: UUID
    seconds_until_stopped: float
    objects_before: int
    objects_after: int


@dataclass
class Summary:
    """Filled in while the demo runs."""

    user_id: UUID
    base: str
    training_settings: Mapping[str, float]
    subjects: list[SubjectSummary] = field(default_factory=list)
    jobs: list[EndedJob] = field(default_factory=list)
    loras: list[TrainedLora] = field(default_factory=list)
    files: list[SavedFile] = field(default_factory=list)
    held_out_losses: dict[str, float] = field(default_factory=dict)
    revocation: Revocation | None = None

    def write(self, path: Path, steps: list[Step], servers: dict[str, str]) -> None:
        """Write the summary as JSON, atomically."""
        content = {
            "version": __version__,
            **asdict(self),
            "servers": servers,
            "seconds": {step.name: round(step.seconds, 2) for step in steps},
        }
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(content, indent=2, default=str) + "\n")
        unfinished.replace(path)
