"""An installation of an earlier release: its database, restored from that release's dump, and a pod of that release."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import UUID, uuid4, uuid5

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from tests.app import TABLES
from tests.sql.supabase import Supabase
from worker.database.schema import migrate

RELEASES = sorted(path for path in Path(__file__).parent.iterdir() if re.fullmatch(r"\d+\.\d+\.\d+", path.name))
"""Each holds `schema_and_rows.sql`, `make.py`, which made it, and `pod.py` with the calls of that release's pods."""
NAMES = UUID("00000000-0000-0000-0000-00000000010a")

WRITTEN_BY_MIGRATIONS = frozenset(
    f"worker.{name}"
    for name in (
        "schema_versions",
        "policies",
        "screening_rules",
        "screened_terms",
        "allowed_phrases",
        "prompt_folding",
    )
)
"""Tables whose rows each migration writes anew."""

# Dates that a running installation keeps recent. In the dump they are old, and the pod would be considered dead.
_KEEP_POD_ALIVE = """
update worker.clock set last_tick = now(), grace_from = now() - interval '1 hour';
update worker.pods set last_heartbeat = now() where name = 'alive';
update worker.pgqueuer set heartbeat = now()
where status = 'picked' and queue_manager_id = (select id from worker.pods where name = 'alive');
update public.training_jobs set started_at = now() where status = 'running';
update public.generation_jobs set started_at = now() where status = 'running';
"""


def named(name: str) -> UUID:
    """Return the id of a user, person, pod or job of the dump, as make.py derived it."""
    return uuid5(NAMES, name)


def job(kind: str, name: str) -> str:
    return f"{kind}:{named(name)}"


class OldPod:
    """A process that makes the calls of an earlier release's pod, one at a time."""

    def __init__(self, program: Path, url: str, pod_id: UUID, name: str) -> None:
        self.id = pod_id
        self.process = subprocess.Popen(
            [sys.executable, str(program), url, str(pod_id), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def do(self, call: str, **arguments: Any) -> Any:
        """Make one call and return its answer. Fails when the call failed or the pod could not read the answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": call, **arguments}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the pod ended over {call}"
        reply = json.loads(line)
        assert "error" not in reply, f"{call}: {reply['error']}"
        return reply["answer"]

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@dataclass
class Installation:
    """`database` is an autocommit connection of its owner's; rows are dicts."""

    release: Path
    supabase: Supabase
    url: str
    database: psycopg.Connection[dict[str, Any]]

    @classmethod
    @contextmanager
    def restored(cls, release: Path, supabase: Supabase, *, as_superuser: bool = False) -> Iterator[Self]:
        """A fresh database with the dump of a release."""
        with cls._at(release, supabase, _restored(release, supabase, as_superuser), as_superuser) as installation:
            yield installation

    @classmethod
    @contextmanager
    def upgraded(cls, release: Path, supabase: Supabase, *, as_superuser: bool = False) -> Iterator[Self]:
        """Such a database after the migration to this release."""
        with cls._at(release, supabase, _upgraded(release, supabase, as_superuser), as_superuser) as installation:
            # As if it had been migrated here: a copy must not start anything.
            installation.run("update worker.installation set id = gen_random_uuid(), home = worker.current_home()")
            yield installation

    @classmethod
    @contextmanager
    def _at(cls, release: Path, supabase: Supabase, template: str, as_superuser: bool) -> Iterator[Self]:
        url = supabase.create(template=template)
        if as_superuser:
            url = supabase.superuser_url(url)
        with psycopg.connect(url, autocommit=True, row_factory=dict_row) as database:
            yield cls(release, supabase, url, database)

    # -- the database

    def run(self, statement: str, *arguments: object) -> list[dict[str, Any]]:
        cursor = self.database.execute(statement, arguments)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description is not None else []

    def one(self, statement: str, *arguments: object) -> Any:
        rows = self.run(statement, *arguments)
        return next(iter(rows[0].values())) if rows else None

    def values(self, statement: str) -> set[Any]:
        """Return the first column of all rows."""
        return {next(iter(row.values())) for row in self.run(statement)}

    @property
    def applied(self) -> int:
        """Return the number of the last applied migration."""
        return int(self.one("select max(left(name, 4)) from worker.schema_versions where name ~ '^[0-9]{4}_'"))

    def rows(self) -> dict[str, list[dict[str, Any]]]:
        """Return every row of every table, by table."""
        tables = self.values(
            "select oid::regclass::text from pg_class "
            "where relnamespace::regnamespace::text in ('public', 'worker') and relkind = 'r'"
        )
        return {
            name if "." in name else f"public.{name}": [
                row["row"] for row in self.run(f"select to_jsonb(t) as row from {name} t order by 1")
            ]
            for name in sorted(tables)
        }

    def job(self, key: str) -> dict[str, Any]:
        kind, _, job_id = key.partition(":")
        (row,) = self.run(f"select * from {TABLES[kind]} where id = %s", job_id)
        return row

    def status(self, key: str) -> tuple[str, str | None]:
        row = self.job(key)
        return row["status"], row["error_code"]

    def staged(self, key: str) -> dict[str, str]:
        """Return the state of every object that a job's attempts registered, by file name."""
        kind, _, job_id = key.partition(":")
        rows = self.run("select key, state from worker.staged_objects where kind = %s and job_id = %s", kind, job_id)
        return {row["key"].rpartition("/")[2]: row["state"] for row in rows}

    @contextmanager
    def acting_as(self, user: str) -> Iterator[psycopg.Connection[dict[str, Any]]]:
        """Connect as a signed-in user of the app."""
        with psycopg.connect(self.url, autocommit=True, row_factory=dict_row) as connection:
            connection.execute(
                "select set_config('request.jwt.claims', %s, false)", [json.dumps({"sub": str(named(user))})]
            )
            connection.execute("set role authenticated")
            yield connection

    def mark_buckets(self) -> None:
        """Mark the buckets, as `worker storage init` does after the migration; without storage."""
        self.run(
            """select worker.note_markers(jsonb_object_agg(bucket, worker.first_marker()))
               from unnest(worker.personal_buckets()) bucket"""
        )

    # -- its pod

    @contextmanager
    def pod(self) -> Iterator[OldPod]:
        """Start the dump's pod `alive` again: it resumes its running jobs, and holds `claimed`, not yet started."""
        with self.processes(1) as (pod,):
            for held in self.values(
                f"select dedupe_key from worker.pgqueuer where status = 'picked' and queue_manager_id = '{pod.id}'"
            ):
                pod.do("hold", job=held)
                if self.job(held)["status"] == "running":
                    pod.do("start", job=held)
            yield pod

    @contextmanager
    def processes(self, count: int) -> Iterator[list[OldPod]]:
        """Start the dump's pod `alive` again, as several processes with a connection each. They hold no job yet."""
        self.run(_KEEP_POD_ALIVE)
        login = f"pod_{uuid4().hex[:8]}"
        self.run(sql.SQL("create role {} login in role likeness_worker").format(sql.Identifier(login)).as_string())
        url = self.supabase.server.url(self.url.rpartition("/")[2], login)
        (row,) = self.run("select * from worker.pods where name = 'alive'")
        with ExitStack() as stack:
            pods = [
                stack.enter_context(OldPod(self.release / "pod.py", url, row["id"], row["name"])) for _ in range(count)
            ]
            pods[0].do("check")
            pods[0].do("open_session")
            pods[0].do("register", routes=row["routes"], vram_gib=row["vram_gib"], models=row["models_present"])
            yield pods


@cache
def _restored(release: Path, supabase: Supabase, as_superuser: bool) -> str:
    """Restore the dump of a release into a database; returns its name."""
    url = supabase.create()
    name = url.rpartition("/")[2]
    with psycopg.connect(supabase.superuser_url(url) if as_superuser else url, autocommit=True) as connection:
        connection.execute((release / "schema_and_rows.sql").read_bytes())
    return name


@cache
def _upgraded(release: Path, supabase: Supabase, as_superuser: bool) -> str:
    """Migrate such a database to this release; returns its name."""
    with Installation.restored(release, supabase, as_superuser=as_superuser) as installation:
        migrate.migrate(installation.url)
        return installation.url.rpartition("/")[2]
