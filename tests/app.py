"""An app as the tests act it: people, photos and requests, only through the tables and the object store."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from types import TracebackType
from typing import Any, Self
from uuid import UUID, uuid4

import boto3
import numpy as np
import psycopg
from botocore.client import BaseClient
from PIL import Image
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from tests.tiny_models import REGISTER_TINY_BASE, TINY_BASE
from tests.waiting import wait_until
from worker.demo.servers import EmbeddedS3
from worker.storage.marker import MARKER_KEY

TABLES = {
    "training": "public.training_jobs",
    "generation": "public.generation_jobs",
    "publish_lora": "worker.internal_jobs",
    "mesh": "public.mesh_jobs",
}
ENDED = ("completed", "failed", "cancelled")


@cache
def client_of(url: str, access_key_id: str, secret_access_key: str, region: str) -> BaseClient:
    """A client of an S3 server, which all apps share: making one takes longer than their first requests."""
    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=access_key_id,
        aws_secret_access_key=secret_access_key,
        region_name=region,
    )


@dataclass
class App:
    """`database` is an autocommit connection of the owner's; rows are dicts."""

    url: str
    s3_server: EmbeddedS3
    database: psycopg.Connection[dict[str, Any]]
    s3: BaseClient
    uploads: str
    models: str
    meshes: str
    owner: UUID = field(default_factory=uuid4)
    tables: dict[str, str] = field(default_factory=lambda: dict(TABLES))
    """The table of each kind; kinds of packages are added."""

    @classmethod
    def create(cls, url: str, s3_server: EmbeddedS3) -> App:
        s3 = client_of(s3_server.url(), s3_server.access_key_id, s3_server.secret_access_key, s3_server.region)
        suffix = uuid4().hex[:12]
        app = cls(
            url=url,
            s3_server=s3_server,
            database=psycopg.connect(url, autocommit=True, row_factory=dict_row),
            s3=s3,
            uploads=f"uploads-{suffix}",
            models=f"models-{suffix}",
            meshes=f"meshes-{suffix}",
        )
        for bucket in app.buckets:
            s3.create_bucket(Bucket=bucket)
        app.run(
            """update worker.config
               set default_base = %s, bucket_uploads = %s, bucket_models = %s, bucket_meshes = %s,
                   open_jobs_per_owner = 1000""",
            TINY_BASE,
            *app.buckets,
        )
        app.run(REGISTER_TINY_BASE)
        app.add_user(app.owner)
        app.set_timings(cold_start="1 hour")  # a busy machine may take longer than a minute to start a worker
        app.mark_buckets()
        return app

    @property
    def buckets(self) -> tuple[str, str, str]:
        return self.uploads, self.models, self.meshes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.database.close()

    # -- SQL

    def reconnect(self, url: str) -> None:
        """Connect again after a restart of the server."""
        self.url = url
        self.database = psycopg.connect(url, autocommit=True, row_factory=dict_row)

    def run(self, statement: str, *arguments: object) -> list[dict[str, Any]]:
        """Run one statement as the owner of the database; returns the rows."""
        cursor = self.database.execute(statement, arguments)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description is not None else []

    def one(self, statement: str, *arguments: object) -> Any:
        """Run one statement; returns the first column of the first row, or None."""
        rows = self.run(statement, *arguments)
        return next(iter(rows[0].values())) if rows else None

    @contextmanager
    def acting_as(self, role: str, user: UUID | None = None) -> Iterator[psycopg.Connection[dict[str, Any]]]:
        """Connect as PostgREST does: with role and claims set, in autocommit."""
        with psycopg.connect(self.url, autocommit=True, row_factory=dict_row) as connection:
            claims = json.dumps({"role": role, **({"sub": str(user)} if user else {})})
            connection.execute("select set_config('request.jwt.claims', %s, false)", [claims])
            connection.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
            yield connection

    def set_timings(self, **intervals: str) -> None:
        """Change intervals of `worker.timing`, which are constants of a release."""
        function = self.one("select pg_get_functiondef('worker.timing(text)'::regprocedure)")
        for name, interval in intervals.items():
            function, changed = re.subn(f"(when '{name}' then return interval) '[^']+'", rf"\1 '{interval}'", function)
            assert changed == 1, f"no timing is called {name}"
        self.run(function)
        if self.one("select to_regclass('worker.expected_objects')"):  # not in a schema of 0.1.0
            self.run(
                "update worker.expected_objects set definition = null where object = 'function worker.timing(text)'"
            )

    # -- the markers of the buckets

    @property
    def marker(self) -> dict[str, str]:
        """The marker that this installation knows as its own."""
        marker: dict[str, str] = self.one(
            "select jsonb_build_object('id', id, 'nonce', nonce) from worker.installation"
        )
        return marker

    def mark_buckets(self) -> None:
        """Mark the buckets, as `worker storage init` does."""
        marker = self.one("select worker.first_marker()")
        for bucket in self.buckets:
            self.put_marker(bucket, marker)
        self.run("select worker.note_markers(%s)", Jsonb(dict.fromkeys(self.buckets, marker)))

    def put_marker(self, bucket: str, marker: dict[str, str]) -> None:
        self.s3.put_object(Bucket=bucket, Key=MARKER_KEY, Body=json.dumps(marker).encode())

    # -- people and requests

    def add_user(self, user: UUID) -> UUID:
        self.run("insert into auth.users (id) values (%s)", user)
        return user

    def add_subject(
        self, *, owner: UUID | None = None, consent: bool = True, adult: bool = True, name: str = "Ada"
    ) -> UUID:
        subject: UUID = self.one(
            "insert into public.subjects (owner_id, name, subject_is_adult) values (%s, %s, %s) returning id",
            owner or self.owner,
            name,
            adult,
        )
        if consent:
            self.run("select public.grant_consent(%s)", subject)
        return subject

    def add_photos(self, subject: UUID, count: int = 4, *, owner: UUID | None = None) -> list[str]:
        """Add small pictures to storage and subject_photos; returns their keys."""
        keys = []
        for index in range(count):
            key = f"{owner or self.owner}/{subject}/photos/{index}.jpg"
            self.s3.put_object(Bucket=self.uploads, Key=key, Body=small_jpeg(index))
            self.run("insert into public.subject_photos (subject_id, path) values (%s, %s)", subject, key)
            keys.append(key)
        return keys

    def add_lora(self, subject: UUID, *, base: str = TINY_BASE) -> UUID:
        """Add the row of a trained LoRA without its file, for tests in which nothing is loaded."""
        model: UUID = self.one(
            """insert into public.subjects_models (subject_id, version, base, family, path, sha256, rank, trigger_word)
               select %s, coalesce(max(version), 0) + 1, %s, 'flux', 'nowhere/lora.safetensors', repeat('0', 64), 16,
                      'ohwx'
               from public.subjects_models where subject_id = %s returning id""",
            subject,
            base,
            subject,
        )
        return model

    def request(self, kind: str, **columns: object) -> UUID:
        """Insert a job as the owner of the database; returns its id."""
        names = sql.SQL(", ").join(sql.Identifier(name) for name in columns)
        values = sql.SQL(", ").join(sql.Placeholder() * len(columns))
        statement = sql.SQL("insert into {} ({}) values ({}) returning id").format(self._table(kind), names, values)
        row = self.database.execute(statement, list(columns.values())).fetchone()
        assert row is not None
        job: UUID = row["id"]
        return job

    def _table(self, kind: str) -> sql.Identifier:
        return sql.Identifier(*self.tables[kind].split("."))

    def job(self, kind: str, job_id: UUID) -> dict[str, Any]:
        row = self.database.execute(
            sql.SQL("select * from {} where id = %s").format(self._table(kind)), [job_id]
        ).fetchone()
        assert row is not None, f"no {kind} job {job_id}"
        return row

    def wait_for(self, kind: str, job_id: UUID, *statuses: str, timeout_s: float = 90) -> dict[str, Any]:
        """Return the job's row once its status is one of these (default: any final status)."""
        wait_until(
            lambda: self.job(kind, job_id)["status"] in (statuses or ENDED),
            f"{kind} {job_id} to be {' or '.join(statuses or ENDED)}",
            timeout_s,
        )
        return self.job(kind, job_id)

    def events(self, job_id: UUID) -> list[str]:
        return [
            row["event"]
            for row in self.run("select event from worker.job_events where job_id = %s order by id", job_id)
        ]

    # -- storage

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """Return the keys of a bucket, without its marker."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return [key for key in keys if key != MARKER_KEY]

    def read(self, bucket: str, key: str) -> bytes:
        body: bytes = self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        return body


def small_jpeg(seed: int) -> bytes:
    """Return a JPEG of coloured noise, 96 by 80 pixels."""
    pixels = np.random.default_rng(seed).integers(0, 255, (12, 10, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((80, 96), Image.Resampling.BICUBIC).save(out, "JPEG")
    return out.getvalue()
