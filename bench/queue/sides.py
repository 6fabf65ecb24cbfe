"""The two sides of the measurement, Likeness and the floor: how each starts workers and takes jobs."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self
from uuid import uuid4

import boto3
import psycopg
from psycopg import sql

from bench.queue import floor
from bench.queue.likeness_bench.events import PORT, Events
from bench.queue.slow_store import relay
from bench.trees import ROOT
from worker.demo.servers import EmbeddedPostgres, EmbeddedS3

HERE = Path(__file__).parent
METADATA = {
    "METADATA": "Metadata-Version: 2.1\nName: likeness-bench\nVersion: 1.0.0\n",
    "entry_points.txt": "[likeness.kinds]\nbench = likeness_bench.kind:KIND\n",
}
LORA_BYTES = 1_000_000
PRODUCER = "bench producer"


@dataclass
class Servers:
    """What both sides share."""

    postgres: EmbeddedPostgres
    s3: EmbeddedS3
    events: Events
    folder: Path
    tree: Path
    """Whose `worker` is measured."""

    def configure(self, *settings: str) -> None:
        """Change settings of the server."""
        with psycopg.connect(self.postgres.url(), autocommit=True) as connection:
            for setting in settings:
                connection.execute(f"alter system set {setting}")  # type: ignore[arg-type]
            connection.execute("select pg_reload_conf()")

    def prepare_log(self) -> None:
        """Let each line of the server's log name its database and application."""
        self.configure("log_line_prefix = '|%d|%a|'")

    @contextmanager
    def logged(self, *, duration: bool) -> Iterator[list[str]]:
        """Log every statement, or how long each took; the list has the lines once this context has ended."""
        lines: list[str] = []
        log = self.postgres.folder / "postgres.log"
        setting, off = (
            ("log_duration = on", "log_duration = off")
            if duration
            else ("log_statement = 'all'", "log_statement = 'none'")
        )
        self.configure(setting)
        begin = log.stat().st_size
        yield lines
        self.configure(off)
        with log.open("rb") as file:
            file.seek(begin)
            lines += file.read().decode(errors="replace").splitlines()


class Side(ABC):
    """One system with a database of its own. `producer` is the app's connection."""

    name: ClassVar[str]

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.database = f"bench_{self.name}"
        with psycopg.connect(servers.postgres.url(), autocommit=True) as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(self.database)))
        self.url = servers.postgres.url(self.database)
        self.environment = os.environ | {
            PORT: str(servers.events.port),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        self._workers: list[subprocess.Popen[bytes]] = []
        self.prepare()
        self.producer = psycopg.connect(self.url, autocommit=True, prepare_threshold=0, application_name=PRODUCER)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop_workers()
        self.producer.close()

    @property
    def workers(self) -> int:
        """How many workers run."""
        return len(self._workers)

    @abstractmethod
    def prepare(self) -> None:
        """Set the database up."""

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command of one worker."""

    @abstractmethod
    def insert(self, count: int = 1, seconds: float = 0.0) -> list[str]:
        """Insert jobs in one statement, which also wakes the workers; returns their ids."""

    @contextmanager
    def running(self, count: int) -> Iterator[None]:
        """Run so many workers; each has done a job before the context begins."""
        for _ in range(count):
            log = self.servers.folder / f"{self.name}-{uuid4().hex[:6]}.log"
            with log.open("wb") as output:
                self._workers.append(
                    subprocess.Popen(
                        self.command(), env=self.environment, cwd=self.servers.folder, stdout=output, stderr=output
                    )
                )
        ready: set[int] = set()
        while len(ready) < count:
            done = self.servers.events.until("done", set(self.insert(count, 0.3)))
            ready |= {event.pid for event in done}
        yield
        self._stop_workers()

    def _stop_workers(self) -> None:
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            worker.wait(30)
        self._workers.clear()


class Floor(Side):
    name = "floor"

    def prepare(self) -> None:
        self.environment["PYTHONPATH"] = str(ROOT)
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(floor.TABLE)

    def command(self) -> list[str]:
        return [sys.executable, "-m", "bench.queue.floor", self.url]

    def insert(self, count: int = 1, seconds: float = 0.0) -> list[str]:
        cursor = self.producer.execute(
            """with added as (
                 insert into public.floor_jobs (seconds) select %s from generate_series(1, %s) returning id)
               select id, (select pg_notify('floor', '')) from added""",
            [seconds, count],
        )
        return [str(row[0]) for row in cursor]


class Likeness(Side):
    name = "likeness"

    def prepare(self) -> None:
        package = self.servers.folder / "package" / "likeness_bench-1.0.0.dist-info"
        package.mkdir(parents=True)
        for file, text in METADATA.items():
            (package / file).write_text(text)
        self.s3 = boto3.client("s3", endpoint_url=self.servers.s3.url(), **self._credentials())
        self.environment |= {
            "PYTHONPATH": os.pathsep.join(map(str, (self.servers.tree, HERE, package.parent))),
            "DATABASE_URL": self.url,
            "S3_ENDPOINT_URL": relay(self.servers.s3.url()),
            "S3_REGION": self.servers.s3.region,
            "S3_ACCESS_KEY_ID": self.servers.s3.access_key_id,
            "S3_SECRET_ACCESS_KEY": self.servers.s3.secret_access_key,
            "MODELS_DIR": str(self.servers.folder / "models"),
            "WORK_DIR": str(self.servers.folder / "work"),
            "WORKER_KINDS": "bench,publish_lora",
            "LOG_FORMAT": "json",
        }
        for command in (["migrate", "--supabase-stubs"], ["storage", "init"]):
            subprocess.run(
                [sys.executable, "-m", "worker", *command],
                env=self.environment,
                cwd=self.servers.tree,
                check=True,
                stdout=subprocess.DEVNULL,
            )
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("update worker.config set open_jobs_per_owner = 1000000")
            self.owner = uuid4()
            connection.execute("insert into auth.users (id) values (%s)", [self.owner])
            self.subject = self.add_person(connection)

    def _credentials(self) -> dict[str, Any]:
        s3 = self.servers.s3
        return {
            "aws_access_key_id": s3.access_key_id,
            "aws_secret_access_key": s3.secret_access_key,
            "region_name": s3.region,
        }

    def add_person(self, connection: psycopg.Connection[Any]) -> str:
        """Add a consenting person with a LoRA in storage; returns the id."""
        row = connection.execute(
            "insert into public.subjects (owner_id, name, subject_is_adult) values (%s, 'Ada', true) returning id",
            [self.owner],
        ).fetchone()
        assert row is not None
        (subject,) = row
        connection.execute("select public.grant_consent(%s)", [subject])
        content = os.urandom(LORA_BYTES)
        key = f"{subject}/{uuid4()}/1/lora.safetensors"
        self.s3.put_object(Bucket="model_artifacts", Key=key, Body=content)
        connection.execute(
            """insert into public.subjects_models (subject_id, version, base, family, path, sha256, rank, trigger_word)
               values (%s, 1, 'flux-dev', 'flux', %s, %s, 16, 'ohwx')""",
            [subject, key, hashlib.sha256(content).hexdigest()],
        )
        return str(subject)

    def command(self) -> list[str]:
        return [sys.executable, "-m", "worker", "run"]

    def insert(self, count: int = 1, seconds: float = 0.0) -> list[str]:
        return self.insert_for([self.subject] * count, seconds)

    def insert_for(self, people: list[str], seconds: float) -> list[str]:
        """Insert a job for each of these people; returns the ids."""
        cursor = self.producer.execute(
            "insert into public.bench_jobs (subject_id, seconds) select unnest(%s::uuid[]), %s returning id",
            [people, seconds],
        )
        return [str(row[0]) for row in cursor]

    def fill_queue(self, count: int) -> None:
        """Put jobs on the queue that no pod of this measurement takes."""
        with psycopg.connect(self.url) as connection:
            connection.execute("set local session_replication_role = replica")
            connection.execute(
                """with added as (
                     insert into public.generation_jobs (owner_id, base, prompt, model_ids)
                     select %s, 'sd15', 'a garden', '{}' from generate_series(1, %s) returning id)
                   insert into worker.pgqueuer (priority, status, entrypoint, dedupe_key, payload)
                   select 0, 'queued', 'generation/sd15', 'generation:' || id, convert_to(id::text, 'UTF8')
                   from added""",
                [self.owner, count],
            )
            connection.commit()
            connection.autocommit = True
            connection.execute("vacuum analyze")
