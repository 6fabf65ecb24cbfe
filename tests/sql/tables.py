"""An app's tables without an object store, for tests of SQL alone, on a fresh database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from tests.app import TABLES, App
from tests.tiny_models import REGISTER_TINY_BASE, TINY_BASE

ABLE_BASE = "able-flux"
"""A base that also supports references and poses; no pod needs to offer it."""


class AppTables(App):
    """`App` with rows alone: photos are keys without objects, buckets are only names."""

    @classmethod
    def open(cls, url: str) -> Self:
        tables = cls(
            url=url,
            s3_server=None,  # type: ignore[arg-type]
            database=psycopg.connect(url, autocommit=True, row_factory=dict_row),
            s3=None,  # type: ignore[arg-type]
            uploads="uploads",
            models="model_artifacts",
            meshes="3d-models",
        )
        tables.run("update worker.config set default_base = %s, open_jobs_per_owner = 1000", TINY_BASE)
        tables.run(REGISTER_TINY_BASE)
        tables.run(
            """insert into worker.base_models (slug, family, capabilities, licence, commercial_use)
               values (%s, 'flux', '{train,lora,reference,control:pose}', 'none', true)""",
            ABLE_BASE,
        )
        # As if ticks had run until now: there were none in the template.
        tables.run("update worker.clock set last_tick = clock_timestamp(), grace_from = now() - interval '1 hour'")
        tables.add_user(tables.owner)
        tables.mark_buckets()
        return tables

    def __exit__(self, *_: object) -> None:
        self.database.close()

    def put_marker(self, bucket: str, marker: dict[str, str]) -> None:
        """Do nothing: there is no store."""

    @property
    def seen(self) -> dict[str, dict[str, str]]:
        """What a pod sees in the buckets while nobody else uses them."""
        return dict.fromkeys(self.buckets, self.marker)

    # -- people

    def add_photos(self, subject: UUID, count: int = 4, *, owner: UUID | None = None) -> list[str]:
        keys = [f"{owner or self.owner}/{subject}/photos/{index}.jpg" for index in range(count)]
        for key in keys:
            self.run("insert into public.subject_photos (subject_id, path) values (%s, %s)", subject, key)
        return keys

    @contextmanager
    def without_triggers(self) -> Iterator[None]:
        """Run statements that simulate the passing of time or a crash, which no client could run."""
        self.run("set session_replication_role = replica")
        try:
            yield
        finally:
            self.run("set session_replication_role = origin")

    def let_consent_expire(self, subject: UUID) -> None:
        """Move a person's `consent_expires_at` into the past, without a tick."""
        with self.without_triggers():
            self.run(
                "update public.subjects set consent_expires_at = clock_timestamp() - interval '1 second' where id = %s",
                subject,
            )

    def ledger(self, subject: UUID, *events: str) -> list[dict[str, Any]]:
        """Return the consent ledger of a person, oldest first; only these events, if any are named."""
        return self.run(
            "select * from worker.consent_events where subject_id = %s and (%s or event = any(%s)) order by id",
            subject,
            not events,
            list(events),
        )

    # -- jobs

    def add_preset(self, *, owner: UUID | None, prompt: str = "", settings: dict[str, Any] | None = None) -> UUID:
        """Add a preset for pictures; with `owner` None it is shared by all users."""
        preset: UUID = self.one(
            "insert into public.presets (owner_id, name, kind, prompt, settings) "
            "values (%s, 'a look', 'generation', %s, %s) returning id",
            owner,
            prompt,
            Jsonb(settings or {}),
        )
        return preset

    def ask(self, **columns: Any) -> UUID:
        """Request a generation that can start: of a person with consent, without a LoRA. Returns its id."""
        if "subject_id" not in columns:
            columns["subject_id"] = self.add_subject()
        return self.request("generation", **({"prompt": "x", "model_ids": []} | columns))

    def ask_training(self) -> UUID:
        """Request a training that can start: of a person with consent and photos. Returns its id."""
        subject = self.add_subject()
        self.add_photos(subject)
        return self.request("training", subject_id=subject)

    def status(self, kind: str, job_id: UUID) -> tuple[str, str | None]:
        """Status and error code."""
        job = self.job(kind, job_id)
        return job["status"], job["error_code"]

    def queue_row(self, kind: str, job_id: UUID) -> dict[str, Any] | None:
        rows = self.run("select * from worker.pgqueuer where dedupe_key = %s", f"{kind}:{job_id}")
        return rows[0] if rows else None

    def job_subjects(self, kind: str, job_id: UUID) -> set[UUID]:
        """Return every person whose consent a job needs."""
        rows = self.run("select subject_id from worker.job_subjects where kind = %s and job_id = %s", kind, job_id)
        return {row["subject_id"] for row in rows}

    def staged(self, job_id: UUID) -> dict[str, str]:
        """Return the state, by key, of every object that a job's attempts registered."""
        rows = self.run("select key, state from worker.staged_objects where job_id = %s", job_id)
        return {row["key"]: row["state"] for row in rows}

    def claim_deletable(self) -> set[str]:
        """Claim every object that may be deleted now, as a sweeper does; returns the keys."""
        return {item["key"] for item in self.one("select worker.claim_deletable_objects(1000, %s)", Jsonb(self.seen))}

    def tick(self) -> int | None:
        count: int | None = self.one("select worker.tick()")
        return count

    def snapshot(self) -> dict[str, list[dict[str, Any]]]:
        """Return every row of the tables that jobs change, for comparing before and after."""
        tables = [
            *(name for name in TABLES.values()),
            "worker.job_subjects",
            "worker.job_events",
            "worker.pgqueuer",
            "worker.staged_objects",
            "worker.consent_events",
            "public.subjects_models",
        ]
        return {
            name: self.run(sql.SQL("select * from {} t order by t::text").format(_name(name)).as_string(self.database))
            for name in tables
        }


def _name(qualified: str) -> sql.Identifier:
    return sql.Identifier(*qualified.split("."))
