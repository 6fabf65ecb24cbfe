"""A pod that only calls the database: its role, lock, claims and leases. It computes nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, Self
from uuid import UUID, uuid4

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from tests.tiny_models import TINY_BASE
from tests.waiting import wait_until
from worker.database.claim_queue import ClaimQueue
from worker.database.lenient_types import lenient_types
from worker.database.pool import Database

TRAINING, GENERATION, PUBLISH = f"training/{TINY_BASE}", f"generation/{TINY_BASE}", "publish_lora"
ROUTES = (TRAINING, GENERATION, PUBLISH)
SHA256 = "0" * 64


def as_worker(url: str) -> str:
    """Return the URL of the same database in the role of pods."""
    return f"{url}?options=-c%20role%3Dlikeness_worker"


class Claims:
    """Run the worker's own claim in tests that are not async: one event loop and one small pool for all pods."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._database = Database(as_worker(url), "claims")
        self._opened = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._opened:
            self._runner.run(self._database.__aexit__(None, None, None))
        self._runner.close()

    def claim(self, pod_id: UUID, routes: list[str]) -> tuple[str, UUID] | None:
        if not self._opened:
            self._opened = True
            self._runner.run(self._database.__aenter__())
        return self._runner.run(ClaimQueue(self._database, pod_id).claim(routes))


class Pod:
    """One process: registered, in the role `likeness_worker`; with `has_lock`, a session that holds its lock."""

    def __init__(
        self, url: str, claims: Claims, *, routes: tuple[str, ...] = ROUTES, has_lock: bool = False, name: str = "pod"
    ) -> None:
        self.id = uuid4()
        self.name = name
        self.routes = routes
        self.has_lock = has_lock
        self._url = url
        self._claims = claims
        self.database = psycopg.connect(as_worker(url), autocommit=True, row_factory=dict_row, context=lenient_types())
        self.session: psycopg.Connection[Any] | None = None
        if has_lock:
            self.take_lock()
        self.register()

    # -- the process

    def call(self, function: str, *arguments: object) -> Any:
        """Call one worker function; dicts and lists of dicts are sent as jsonb."""
        wrapped = [Jsonb(item) if _is_json(item) else item for item in arguments]
        statement = sql.SQL("select worker.{}({}) as answer").format(
            sql.Identifier(function), sql.SQL(", ").join(sql.Placeholder() * len(wrapped))
        )
        row = self.database.execute(statement, wrapped).fetchone()
        assert row is not None
        return row["answer"]

    def register(
        self, *routes: str, vram_gib: float | None = 8.0, models: tuple[str, ...] = (TINY_BASE,)
    ) -> dict[str, Any]:
        self.routes = routes or self.routes
        answer: dict[str, Any] = self.call(
            "register_pod", self.id, self.name, list(self.routes), vram_gib, list(models), self.has_lock, "0.1.0"
        )
        return answer

    def heartbeat(self, *attempts_and_claims: Attempt | tuple[str, UUID]) -> dict[str, Any]:
        """Send a heartbeat that names these attempts, and claims not yet started as (kind, id)."""
        leases = [
            item.as_lease() if isinstance(item, Attempt) else {"kind": item[0], "id": item[1], "attempt": None}
            for item in attempts_and_claims
        ]
        answer: dict[str, Any] = self.call("pod_heartbeat", self.id, leases, [])
        return answer

    def take_lock(self) -> None:
        self.session = psycopg.connect(as_worker(self._url), autocommit=True)
        self.session.execute("select pg_advisory_lock_shared(worker.pod_lock_key(%s))", [self.id])

    def lose_session(self) -> None:
        """Break the session connection; returns when the server has released the lock."""
        assert self.session is not None
        self.session.close()
        self.session = None
        wait_until(
            lambda: (
                not self.database.execute(
                    "select 1 from pg_locks where locktype = 'advisory' and classid = "
                    "(worker.pod_lock_key(%s) >> 32 & 4294967295)::oid",
                    [self.id],
                ).fetchall()
            ),
            "the pod's lock to be free",
        )

    def close(self) -> None:
        for connection in (self.session, self.database):
            if connection is not None:
                connection.close()

    # -- jobs

    def claim(self, *routes: str) -> tuple[str, UUID] | None:
        """Claim a job of these routes, or of all; returns kind and id, or None."""
        return self._claims.claim(self.id, list(routes or self.routes))

    def start(self, kind: str, job_id: UUID) -> Attempt | None:
        payload = self.call("start_job", kind, job_id, self.id)
        return None if payload is None else Attempt(self, kind, job_id, payload["attempt"], payload)

    def run(self, kind: str, job_id: UUID) -> Attempt:
        """Claim this job, the next of its kind, and start it."""
        claim = self.claim(*(route for route in self.routes if route.split("/")[0] == kind))
        assert claim == (kind, job_id), f"claimed {claim}, expected {kind} {job_id}"
        attempt = self.start(kind, job_id)
        assert attempt is not None, f"{kind} {job_id} did not start"
        return attempt


@dataclass(frozen=True)
class Attempt:
    """A lease and its calls."""

    pod: Pod
    kind: str
    id: UUID
    number: int
    payload: dict[str, Any]

    def call(self, function: str, *arguments: object) -> Any:
        return self.pod.call(function, self.kind, self.id, self.number, *arguments)

    def as_lease(self) -> dict[str, Any]:
        return {"kind": self.kind, "id": self.id, "attempt": self.number}

    @property
    def bucket(self) -> str:
        return "model_artifacts" if self.kind == "training" else "uploads"

    def key(self, name: str) -> str:
        return f"{self.payload['prefix']}{name}"

    def report(self, progress: float = 0.5, phase: str = "drawing", metrics: dict[str, Any] | None = None) -> str:
        return str(self.call("report_job", progress, phase, metrics))

    def stage(self, *names: str) -> str:
        return str(self.call("stage_objects", [{"bucket": self.bucket, "key": self.key(name)} for name in names]))

    def save_checkpoint(self, step: int) -> str:
        name = f"checkpoint-{step}.safetensors"
        self.stage(name)
        return str(self.call("save_checkpoint", step, self.bucket, self.key(name)))

    def result(self) -> dict[str, Any]:
        """Return the result that a handler would send; nothing is staged."""
        if self.kind == "training":
            return {"lora": self.key("lora.safetensors"), "sha256": SHA256, "rank": 16, "trigger_word": "ohwx"}
        if self.kind == "publish_lora":
            return {"copied": None}
        upscale = self.payload["job"]["upscale"]
        return {
            "pictures": [
                {
                    "upscaled": self.key(f"{index}.png"),
                    "raw": self.key(f"{index}.raw.png"),
                    "width": 64 * upscale,
                    "height": 48 * upscale,
                    "raw_width": 64,
                    "raw_height": 48,
                }
                for index in range(self.payload["job"]["num_images"])
            ]
        }

    def staged_result(self) -> dict[str, Any]:
        """Stage the objects of a result; returns the result."""
        result = self.result()
        if self.kind == "training":
            self.stage("lora.safetensors")
        elif self.kind == "generation":
            self.stage(*(f"{index}.{end}" for index in range(len(result["pictures"])) for end in ("png", "raw.png")))
        return result

    def complete(self, result: object, gpu_seconds: float = 1.0) -> str:
        return str(self.call("complete_job", Jsonb(result), gpu_seconds))

    def publish(self) -> str:
        return self.complete(self.staged_result())

    def fail(
        self, code: str = "internal", error: str = "it broke", retry_after: timedelta | None = None, gpu_s: float = 1.0
    ) -> str:
        return str(self.call("fail_job", code, error, retry_after, gpu_s))

    def release(self, reason: str = "its pod is stopping", code: str | None = None, gpu_s: float = 1.0) -> str:
        return str(self.call("release_job", reason, code, gpu_s))


def _is_json(item: object) -> bool:
    return isinstance(item, dict) or (isinstance(item, list) and (not item or isinstance(item[0], dict)))
