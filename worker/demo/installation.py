"""A whole installation on this machine: servers on loopback, a migrated database, buckets, one worker process."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID

import psycopg

from worker.database.schema import migrate
from worker.demo.app_client import Buckets
from worker.demo.config import DemoConfig
from worker.demo.servers import EmbeddedPostgres, EmbeddedS3
from worker.demo.tied import spawn_tied, stop_tied
from worker.demo.torch_environment import torch_environment
from worker.settings import env_example

BUCKET_UPLOADS, BUCKET_MODELS, BUCKET_MESHES = "uploads", "model_artifacts", "3d-models"


class WorkerEnded(RuntimeError):
    """The worker process has ended; its log says why."""


class Installation:
    """The demo's own Postgres, S3 and worker. Leaving it stops every process and removes the folder.

    Args:
        folder: for all temporary files; created if missing.
        worker_log: the file for the worker process's output.
    """

    def __init__(self, folder: Path, worker_log: Path) -> None:
        self.worker_log = worker_log
        self._folder = folder
        self._postgres = EmbeddedPostgres(folder / "postgres", fast=True)
        self._s3 = EmbeddedS3()
        self._worker: subprocess.Popen[bytes] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def start_servers(self) -> None:
        """Start Postgres and S3. Raises ServerFailed."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for server in (self._postgres, self._s3):
            self._stack.callback(server.stop)
            server.start()

    def install(self, config: DemoConfig) -> list[str]:
        """Migrate, register the base, create logins, create and mark the buckets; returns the migrations that ran."""
        migrate.install_supabase_stubs(self.owner_url)
        applied = migrate.migrate(self.owner_url)
        with psycopg.connect(self.owner_url) as connection:
            connection.execute(config.register)
            connection.execute("update worker.config set default_base = %s", [config.base])
            # As on Supabase: PostgREST's login may only switch to a user's role, and a pod's login has a pod's rights.
            connection.execute("create role authenticator login noinherit in role authenticated, service_role")
            connection.execute("create role pod login in role likeness_worker")
            for bucket in (BUCKET_UPLOADS, BUCKET_MODELS, BUCKET_MESHES):
                connection.execute("insert into storage.buckets (id, name) values (%s, %s)", [bucket, bucket])
        self._init_storage()
        return applied

    def add_user(self) -> UUID:
        """Sign up a user, as the app's sign-in does; returns the user's id."""
        with psycopg.connect(self.owner_url) as connection:
            row = connection.execute("insert into auth.users default values returning id").fetchone()
            assert row is not None
            user: UUID = row[0]
            return user

    def start_worker(self, models_dir: Path) -> None:
        """Start `worker run` as an operator would, with a pod's login. It ends with this process."""
        self._stack.callback(self._stop_worker)
        with self.worker_log.open("wb") as log:
            self._worker = spawn_tied(
                "TERM",
                [sys.executable, "-m", "worker", "run"],
                env=self._worker_environment(self._postgres.url(user="pod")) | {"MODELS_DIR": str(models_dir)},
                cwd=self._folder,  # so that the user's own .env is not read
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def check_worker(self) -> None:
        """Raise WorkerEnded if the worker process has ended."""
        if self._worker is not None and self._worker.poll() is not None:
            raise WorkerEnded(f"the worker process died unexpectedly, with exit code {self._worker.returncode}")

    def buckets(self) -> Buckets:
        """Return the object store as the app reaches it."""
        return Buckets(self._s3, BUCKET_UPLOADS, BUCKET_MODELS, BUCKET_MESHES)

    @property
    def owner_url(self) -> str:
        """The database as its owner, who sees everything."""
        return self._postgres.url()

    @property
    def app_url(self) -> str:
        """The database as PostgREST reaches it."""
        return self._postgres.url(user="authenticator")

    @property
    def s3_url(self) -> str:
        return self._s3.url()

    @property
    def psql(self) -> str:
        """The path of psql: this machine's, else the one bundled with the embedded Postgres."""
        return shutil.which("psql") or str(self._postgres.programs / "psql")

    def addresses(self) -> dict[str, str]:
        """Return the addresses of the servers."""
        return {"database_url": self.owner_url, "s3_endpoint_url": self.s3_url}

    def _init_storage(self) -> None:
        """Run `worker storage init` as the database owner."""
        process = spawn_tied(
            "TERM",
            [sys.executable, "-m", "worker", "storage", "init"],
            env=self._worker_environment(self.owner_url),
            cwd=self._folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            assert process.stdout is not None
            output = process.stdout.read()
            code = process.wait()
        finally:
            stop_tied(process)
        if code != 0:
            raise WorkerEnded(f"worker storage init failed:\n{output.decode(errors='replace')}")

    def _stop_worker(self) -> None:
        if self._worker is not None:
            stop_tied(self._worker)

    def _worker_environment(self, database_url: str) -> dict[str, str]:
        other_settings = set(re.findall(r"^#?(\w+)=", env_example(), re.MULTILINE))
        inherited = {name: value for name, value in os.environ.items() if name not in other_settings}
        settings = {
            "DATABASE_URL": database_url,
            "S3_ENDPOINT_URL": self._s3.url(),
            "S3_REGION": self._s3.region,
            "S3_ACCESS_KEY_ID": self._s3.access_key_id,
            "S3_SECRET_ACCESS_KEY": self._s3.secret_access_key,
            "BUCKET_UPLOADS": BUCKET_UPLOADS,
            "BUCKET_MODELS": BUCKET_MODELS,
            "BUCKET_MESHES": BUCKET_MESHES,
            "WORK_DIR": str(self._folder / "work"),
            "WORKER_NAME": "demo",
            "LOG_FORMAT": "json",
        }
        return inherited | settings | torch_environment(self._folder)
