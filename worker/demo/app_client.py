"""The part of the app: SQL under row-level security, as PostgREST sends it, and objects in its buckets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import boto3
import psycopg
from botocore.config import Config
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from worker.demo.album import Photo
from worker.demo.servers import EmbeddedS3

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Connection = psycopg.Connection[dict[str, Any]]

TABLES = {"training": "training_jobs", "generation": "generation_jobs", "mesh": "mesh_jobs"}
CONTENT_TYPES = {".png": "image/png", ".heic": "image/heic", ".heif": "image/heif", ".webp": "image/webp"}


@dataclass(frozen=True)
class StoredObject:
    """An object in a bucket, described by its bytes."""

    bucket: str
    key: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Subject:
    """A person whom the app's user has added."""

    id: UUID
    trigger_word: str


def keys_in(result: dict[str, Any] | None) -> list[str]:
    """Return the keys in a job's result, what was requested first; none for a job without a result."""
    if result is None:
        return []
    if "pictures" in result:
        return [picture[part] for part in ("upscaled", "raw") for picture in result["pictures"]]
    if "files" in result:
        return list(result["files"].values())
    return [result["lora"], result["losses"]]


class Buckets:
    """The object store, with the access keys of the app's own server."""

    def __init__(self, server: EmbeddedS3, uploads: str, models: str, meshes: str) -> None:
        self.uploads, self.models, self.meshes = uploads, models, meshes
        self._s3: S3Client = boto3.client(
            "s3",
            endpoint_url=server.url(),
            region_name=server.region,
            aws_access_key_id=server.access_key_id,
            aws_secret_access_key=server.secret_access_key,
            config=Config(s3={"addressing_style": "path"}),
        )

    def upload(self, bucket: str, key: str, path: Path) -> None:
        """Upload one picture."""
        content_type = CONTENT_TYPES.get(path.suffix.lower(), "image/jpeg")
        self._s3.put_object(Bucket=bucket, Key=key, Body=path.read_bytes(), ContentType=content_type)

    def read(self, bucket: str, key: str) -> bytes:
        """Return the whole object. Raises botocore's ClientError if it does not exist."""
        return self._s3.get_object(Bucket=bucket, Key=key)["Body"].read()

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Return every key below the prefix, in order."""
        pages = self._s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def describe(self, bucket: str, key: str) -> StoredObject:
        """Return an object's digest and size, computed from its bytes."""
        body = self.read(bucket, key)
        return StoredObject(bucket, key, hashlib.sha256(body).hexdigest(), len(body))


@contextmanager
def connected_as(url: str, role: str, user: UUID | None = None) -> Iterator[Connection]:
    """Connect as PostgREST does for a signed-in user or a service key: its login may switch to `role` and nothing else.

    Args:
        url: of the login `authenticator`, which has no privileges of its own.
    """
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
        claims = {"role": role, **({"sub": str(user)} if user else {})}
        connection.execute("select set_config('request.jwt.claims', %s, false)", [json.dumps(claims)])
        connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
        yield connection


class App:
    """The app, acting for one signed-in user. `connection` has that user's claims and the role `authenticated`."""

    def __init__(self, connection: Connection, user: UUID, buckets: Buckets) -> None:
        self.user, self.buckets = user, buckets
        self._connection = connection

    def create_subject(self, name: str) -> Subject:
        """Add a person, declared to be an adult; consent is pending."""
        row = self._one(
            "insert into subjects (name, subject_is_adult) values (%s, true) returning id, trigger_word", name
        )
        return Subject(row["id"], row["trigger_word"])

    def add_photo(self, subject: Subject, number: int, photo: Photo) -> str:
        """Upload a photograph, insert its row and return its key. The file's own name is not uploaded."""
        key = f"{self.user}/{subject.id}/photos/{number:02}{photo.path.suffix.lower()}"
        self._upload(key, photo.path)
        self._connection.execute(
            "insert into subject_photos (subject_id, path, caption) values (%s, %s, %s)",
            [subject.id, key, photo.caption],
        )
        return key

    def add_input(self, path: Path, subject: Subject | None) -> str:
        """Upload a picture for one request, of a subject or of a thing, and return its key."""
        key = f"{self.user}/{subject.id}/photos/{path.name}" if subject else f"{self.user}/_/inputs/{path.name}"
        self._upload(key, path)
        return key

    def request_training(self, subject: Subject, photos: Sequence[str], settings: Mapping[str, float]) -> UUID:
        """Insert a training job and return its id. `settings`: request columns and their values."""
        return self._request("training", {"subject_id": subject.id, "sample_paths": list(photos), **settings})

    def request_pictures(self, subject: Subject, prompt: str, **columns: object) -> UUID:
        """Insert a generation job and return its id. `columns`: further request columns."""
        return self._request("generation", {"subject_id": subject.id, "prompt": prompt, **columns})

    def request_mesh(self, picture: str, **columns: object) -> UUID:
        """Insert a mesh job and return its id. `columns`: further request columns."""
        return self._request("mesh", {"image_paths": [picture], **columns})

    def create_preset(self, name: str, prompt: str, settings: Mapping[str, float]) -> UUID:
        """Create a reusable look for pictures."""
        row = self._one(
            "insert into presets (name, kind, prompt, settings) values (%s, 'generation', %s, %s) returning id",
            *(name, prompt, Jsonb(dict(settings))),
        )
        preset: UUID = row["id"]
        return preset

    def job(self, kind: str, job_id: UUID) -> dict[str, Any]:
        """Return the job's row as the user sees it."""
        return self._one(sql.SQL("select * from {} where id = %s").format(sql.Identifier(TABLES[kind])), job_id)

    def lora_of(self, job_id: UUID) -> dict[str, Any]:
        """Return the row of subjects_models that a training published."""
        return self._one("select * from subjects_models where job_id = %s", job_id)

    def revoke_consent(self, subject: Subject) -> None:
        """Revoke the person's consent."""
        self._connection.execute("select revoke_consent(%s, 'the person asked for it')", [subject.id])

    def bucket_of(self, kind: str) -> str:
        """Return the bucket with the results of a kind of job."""
        return {"training": self.buckets.models, "mesh": self.buckets.meshes}.get(kind, self.buckets.uploads)

    def keys_of(self, kind: str, job: dict[str, Any]) -> list[str]:
        """Return all keys in the bucket under a job's own prefix, from any attempt, in order."""
        subject, job_id = job["subject_id"] or "_", job["id"]
        prefix = f"{subject}/{job_id}/" if kind == "training" else f"{self.user}/{subject}/generated/{job_id}/"
        return self.buckets.keys(self.bucket_of(kind), prefix)

    def _upload(self, key: str, path: Path) -> None:
        # Supabase Storage inserts this row as the uploading user, so that its policies apply; plain S3 does not.
        self._connection.execute(
            "insert into storage.objects (bucket_id, name) values (%s, %s)", [self.buckets.uploads, key]
        )
        self.buckets.upload(self.buckets.uploads, key, path)

    def _request(self, kind: str, columns: dict[str, object]) -> UUID:
        statement = sql.SQL("insert into {} ({}) values ({}) returning id").format(
            sql.Identifier(TABLES[kind]),
            sql.SQL(", ").join(map(sql.Identifier, columns)),
            sql.SQL(", ").join(sql.Placeholder() * len(columns)),
        )
        job: UUID = self._one(statement, *columns.values())["id"]
        return job

    def _one(self, statement: sql.Composed | str, *arguments: object) -> dict[str, Any]:
        row = self._connection.execute(statement, arguments).fetchone()
        if row is None:
            raise LookupError("row not found, or it belongs to another user")
        return row


class Admin:
    """The app's own server, with the service key: it grants consent and reads the ledger."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def grant_consent(self, subject: Subject, evidence: str) -> None:
        """Record that the person agreed to training and to pictures."""
        self._connection.execute("select public.grant_consent(%s, evidence => %s)", [subject.id, evidence])

    def routes(self) -> list[str]:
        """Return the routes that live pods offer."""
        rows = self._connection.execute("select distinct unnest(routes) as route from worker.pods order by route")
        return [row["route"] for row in rows]

    def ledger(self, subject: Subject) -> list[str]:
        """Return the events of the person's consent, oldest first."""
        rows = self._connection.execute(
            "select event from worker.consent_events where subject_id = %s order by id", [subject.id]
        )
        return [row["event"] for row in rows]

    def revoked_at(self, subject: Subject) -> datetime:
        """Return when the person's consent was last revoked."""
        row = self._connection.execute(
            "select max(at) as at from worker.consent_events where subject_id = %s and event = 'revoke'", [subject.id]
        ).fetchone()
        if row is None or row["at"] is None:
            raise LookupError("consent was not revoked")
        at: datetime = row["at"]
        return at
