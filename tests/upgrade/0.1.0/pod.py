"""A pod of release 0.1.0 as the database sees it: its connections, its statements, and what it reads of the answers.

Written from `worker/` of that release and not changed afterwards: a later schema must serve it as it is. It imports
nothing of the project, and neither computes nor stores anything. A test decides which call comes next:

    python pod.py DATABASE_URL POD_ID NAME

reads one JSON object a line, {"do": CALL, …arguments}, and answers each with one, {"answer": …} or {"error": …}. It
ends when its input does. Jobs are named kind:id, and the pod remembers their payloads.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

VERSION = "0.1.0"
SCHEMA_MAJOR = 1
CHANNELS = ("likeness_queue", "likeness_cancel")
HEAR_WITHIN_S = 10.0
NEVER = timedelta(days=3650)
SWEEP_LIMIT = 100
LOOK_AHEAD = 1
SHA256 = "5e" * 32
KEEPALIVES: dict[str, Any] = {
    "keepalives": 1,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
    "connect_timeout": 10,
}

# As pgqueuer 1.6.0 composes it for one job, without limits.
DEQUEUE = """\
WITH
-- No entrypoint carries a concurrency limit; all are available.
available AS (
    SELECT UNNEST($2::text[]) AS entrypoint
),

-- New queued jobs; LATERAL hits the (entrypoint, priority, id) index.
next_queued AS (
    SELECT job.id, job.priority
    FROM available
    CROSS JOIN LATERAL (
        SELECT candidate.id, candidate.priority
        FROM worker.pgqueuer candidate
        WHERE candidate.entrypoint = available.entrypoint
          AND candidate.status = 'queued'
          AND candidate.execute_after < NOW()
        ORDER BY candidate.priority DESC, candidate.id ASC
        LIMIT $1
        FOR UPDATE SKIP LOCKED
    ) job
    ORDER BY job.priority DESC, job.id ASC
    LIMIT $1
),

-- Stale picked jobs whose heartbeat timed out.
next_stale AS (
    SELECT stale.id, stale.priority
    FROM worker.pgqueuer stale
    WHERE stale.status = 'picked'
      AND stale.entrypoint = ANY($2)
      AND stale.heartbeat < NOW() - $4::interval
      AND stale.execute_after < NOW()
    ORDER BY stale.priority DESC, stale.id ASC
    FOR UPDATE SKIP LOCKED
    LIMIT $1
),

-- Merge both sets into one priority order so stale competes with fresh.
eligible AS (
    SELECT id FROM (
        SELECT id, priority FROM next_queued
        UNION ALL
        SELECT id, priority FROM next_stale
    ) combined
    ORDER BY priority DESC, id ASC
    LIMIT $1
),

-- Claim every eligible job in one atomic UPDATE.
claimed AS (
    UPDATE worker.pgqueuer
    SET status = 'picked',
        updated   = NOW(),
        heartbeat = NOW(),
        queue_manager_id = $3
    WHERE id IN (SELECT id FROM eligible)
    RETURNING *
),

-- Record the pick in the log table.
log_pick AS (
    INSERT INTO worker.pgqueuer_log (job_id, status, entrypoint, priority)
    SELECT id, status, entrypoint, priority FROM claimed
)
SELECT * FROM claimed ORDER BY priority DESC, id ASC;"""

NEXT_DUE = """\
SELECT execute_after - NOW() AS eta
        FROM worker.pgqueuer
        WHERE status = 'queued'
          AND execute_after > NOW()
          AND entrypoint = ANY($1)
        ORDER BY execute_after
        LIMIT 1
        """

QUEUE_STATUSES = ("queued", "picked", "successful", "exception", "canceled", "deleted", "failed")

USABLE_BASES = """select slug from worker.base_models
               where slug = any(%s) and worker.fits_memory(min_vram_gib, %s)
                 and (%s <> 'training' or 'train' = any(capabilities))"""

# What `worker status` and `worker doctor` show to a pod's login.
LOOKS: dict[str, LiteralString] = {
    "queue": """
    select route, waiting, oldest, running, pods from worker.queue_depth
    where waiting > 0 or running > 0 order by oldest desc nulls last, route""",
    "stranded": """
    select route, count(*) as jobs, clock_timestamp() - min(since) as oldest,
           (array_agg(id order by since))[1] as id, why
    from worker.stranded_jobs group by route, why order by oldest desc""",
    "pods": """
    select name, version, vram_gib, array_to_string(routes, ', ') as routes,
           case when worker.is_alive(pods) then 'yes' else 'no, held for dead' end as alive,
           clock_timestamp() - last_heartbeat as silent, clock_timestamp() - registered_at as since
    from worker.pods order by name, registered_at""",
    "running": """
    select queue.entrypoint as route, split_part(queue.dedupe_key, ':', 2) as id, pods.name as pod,
           clock_timestamp() - queue.updated as since
    from worker.pgqueuer queue left join worker.pods on pods.id = queue.queue_manager_id
    where queue.status = 'picked' order by queue.updated""",
    "release": "select name, checksum from worker.schema_versions",
}


# ------------------------------------------------------------------------------------- what it reads of a started job


class Unreadable(ValueError):
    """An answer is not what release 0.1.0 expects; the message says where."""


Reader = Callable[[str, Any], None]


def _kind_of(*types: type) -> Reader:
    def read(where: str, value: Any) -> None:
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise Unreadable(f"{where} is {value!r}, not {' or '.join(kind.__name__ for kind in types)}")

    return read


text, whole, number, mapping = _kind_of(str), _kind_of(int), _kind_of(int, float), _kind_of(dict)


def identifier(where: str, value: Any) -> None:
    text(where, value)
    try:
        UUID(value)
    except ValueError as error:
        raise Unreadable(f"{where} is {value!r}, not a UUID") from error


def moment(where: str, value: Any) -> None:
    text(where, value)
    try:
        datetime.fromisoformat(value)
    except ValueError as error:
        raise Unreadable(f"{where} is {value!r}, not a time") from error


def one_of(*known: object) -> Reader:
    def read(where: str, value: Any) -> None:
        if value not in known:
            raise Unreadable(f"{where} is {value!r}, not one of {known}")

    return read


def optional(reader: Reader) -> Reader:
    def read(where: str, value: Any) -> None:
        if value is not None:
            reader(where, value)

    return read


def each(reader: Reader) -> Reader:
    def read(where: str, value: Any) -> None:
        _kind_of(list)(where, value)
        for index, item in enumerate(value):
            reader(f"{where}[{index}]", item)

    return read


def record(required: dict[str, Reader], may_lack: dict[str, Reader] | None = None) -> Reader:
    """Return a reader of objects with these keys; it ignores others, as the models of that release do."""

    def read(where: str, value: Any) -> None:
        mapping(where, value)
        for name, reader in required.items():
            if name not in value:
                raise Unreadable(f"{where} lacks {name}")
            reader(f"{where}.{name}", value[name])
        for name, reader in (may_lack or {}).items():
            if name in value:
                reader(f"{where}.{name}", value[name])

    return read


MODEL = record(
    {
        "id": identifier,
        "subject_id": optional(identifier),
        "version": whole,
        "path": text,
        "sha256": text,
        "rank": whole,
        "trigger_word": optional(text),
        "scale": number,
    }
)
STARTED_JOB = record(
    {
        "kind": text,
        "id": identifier,
        "attempt": whole,
        "purpose": optional(text),
        "subjects": each(identifier),
        "subject": optional(record({"id": identifier, "trigger_word": optional(text)})),
        "base": optional(record({"slug": text, "family": text, "licence": text}, {"defaults": mapping})),
        "preset": optional(record({}, {"prompt": text, "negative_prompt": optional(text)})),
        "photos": each(record({"path": text}, {"caption": optional(text)})),
        "models": each(MODEL),
        "checkpoint": optional(record({"step": whole, "bucket": text, "key": text})),
        "prefix": text,
        "job": record(
            {
                "failures": whole,
                "max_runtime": text,
                "created_at": moment,
                "run_after": optional(moment),
                "started_at": moment,
            }
        ),
    }
)
TRAINING_REQUEST = record(
    {},
    {
        "steps": whole,
        "rank": whole,
        "learning_rate": number,
        "resolution": whole,
        "batch_size": whole,
        "preservation": number,
        "seed": whole,
        "trigger_word": text,
        "class_name": text,
    },
)
GENERATION_REQUEST = record(
    {},
    {
        "prompt": text,
        "negative_prompt": text,
        "width": whole,
        "height": whole,
        "steps": whole,
        "guidance": number,
        "seed": whole,
        "num_images": whole,
        "upscale": one_of(2, 4),
        "quality": whole,
        "output_format": one_of("png", "jpeg", "webp"),
    },
)
COPY = record({"source": text, "target": text, "consented": _kind_of(bool), "newest": _kind_of(bool)})
HEARTBEAT = record(
    {
        "known": _kind_of(bool),
        "tick": _kind_of(bool),
        "ended_subjects": each(identifier),
        "leases": each(
            record(
                {
                    "kind": text,
                    "id": identifier,
                    "attempt": optional(whole),
                    "state": one_of("ok", "cancel", "timeout", "lost", "shutdown"),
                }
            )
        ),
    }
)


def asked(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the request filled up from the base's defaults, as the handlers of that release see it."""
    defaults = payload["base"].get("defaults", {})
    if payload["kind"] == "training":
        defaults = defaults.get("training", {})
    return {**defaults, **{name: value for name, value in payload["job"].items() if value is not None}}


def read_started(payload: dict[str, Any]) -> None:
    """Raises Unreadable for a payload that a handler of release 0.1.0 could not have worked with."""
    STARTED_JOB("payload", payload)
    kind = payload["kind"]
    if kind == "publish_lora":
        _kind_of(dict)("payload.subject", payload["subject"])
        return
    _kind_of(dict)("payload.base", payload["base"])
    # The worker screens by the names of these columns: without them, it would screen nothing.
    screened = {"training": "trigger_word", "generation": "prompt"}[kind]
    if screened not in payload["job"]:
        raise Unreadable(f"payload.job lacks {screened}")
    {"training": TRAINING_REQUEST, "generation": GENERATION_REQUEST}[kind]("request", asked(payload))
    if kind == "training" and len(payload["photos"]) < 3:
        raise Unreadable(f"payload.photos holds {len(payload['photos'])}, and a training needs 3")


def to_text(value: object) -> object:
    """Convert a value of a status row to JSON."""
    return value if value is None or isinstance(value, int | float) else str(value)


# -------------------------------------------------------------------------------------------------------------- the pod


class Pod:
    """The connections of one process, and the jobs that it holds."""

    def __init__(self, url: str, pod_id: UUID, name: str) -> None:
        self._url, self._id, self._name = url, pod_id, name
        self._options: dict[str, Any] = {
            "autocommit": True,
            "prepare_threshold": None,
            "row_factory": dict_row,
            "application_name": f"likeness {name}"[:63],
            **KEEPALIVES,
        }
        self._connection = psycopg.connect(url, **self._options)
        self._session: psycopg.Connection[Any] | None = None
        self._routes: list[str] = []
        self._claims: list[str] = []
        self._payloads: dict[str, dict[str, Any]] = {}

    # -- statements

    def _fetch(self, statement: sql.Composed | LiteralString, arguments: list[Any] | None = None) -> list[Any]:
        cursor = self._connection.execute(statement, arguments)
        return cursor.fetchall() if cursor.description else []

    def _call(self, function: LiteralString, *arguments: object) -> Any:
        statement = sql.SQL("select worker.{}({})").format(
            sql.Identifier(function), sql.SQL(", ").join(sql.Placeholder() * len(arguments))
        )
        return next(iter(self._fetch(statement, list(arguments))[0].values()))

    def _queue(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        cursor = psycopg.RawCursor(self._connection, row_factory=dict_row)
        cursor.execute(query.encode(), arguments)
        return cursor.fetchall()

    def _lease(self, job: str) -> tuple[str, UUID, int]:
        payload = self._payloads[job]
        return payload["kind"], UUID(payload["id"]), payload["attempt"]

    # -- starting and stopping

    def check(self) -> dict[str, Any]:
        """Look at the installation as `worker run` does before it starts."""
        found = self._fetch("select to_regprocedure('worker.schema_major()') is not null as installed")
        if not found[0]["installed"]:
            raise Unreadable("there is no worker.schema_major()")
        major = self._call("schema_major")
        if major > SCHEMA_MAJOR:
            raise Unreadable(f"the schema is version {major} and this worker knows {SCHEMA_MAJOR}")
        (config,) = self._fetch("select bucket_uploads, bucket_models from worker.config")
        (login,) = self._fetch(
            """select current_user::text as name, pg_has_role(nspowner, 'usage') as owns
           from pg_namespace where nspname = 'worker'"""
        )
        return {**config, "owns": login["owns"]}

    def open_session(self) -> None:
        """Take the lock that says the process lives, and listen."""
        session = psycopg.connect(
            self._url,
            autocommit=True,
            prepare_threshold=None,
            application_name="likeness session",
            **KEEPALIVES,
        )
        session.execute("select pg_advisory_lock_shared(worker.pod_lock_key(%s))", [self._id])
        for channel in CHANNELS:
            session.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))
        self._session = session

    def register(self, routes: list[str], vram_gib: float | None, models: list[str]) -> bool:
        """Say what this pod offers; returns whether it is to tick."""
        self._routes = routes
        reply = self._call(
            "register_pod",
            self._id,
            self._name,
            sorted(routes),
            vram_gib,
            models,
            self._session is not None,
            VERSION,
        )
        ticks: bool = reply["tick"]
        return ticks

    def offered(self, kinds: list[str], in_reach: list[str], vram_gib: float | None) -> dict[str, str]:
        """Ask which routes a pod with these models may take: the slot of each."""
        rows = self._fetch("select kind, slot from worker.job_kinds where kind = any(%s)", [kinds])
        routes = {row["kind"]: "light" for row in rows if row["slot"] == "light"}
        for kind in [row["kind"] for row in rows if row["slot"] == "gpu"]:
            for base in self._fetch(USABLE_BASES, [sorted(in_reach), vram_gib, kind]):
                routes[f"{kind}/{base['slug']}"] = "gpu"
        self._fetch(
            "select worker.fits_memory(min_vram_gib, %s) as fits from worker.base_models where slug = any(%s)",
            [vram_gib, sorted(in_reach)],
        )
        return routes

    def leave(self) -> None:
        """Deregister; what the pod still holds goes back to the queue."""
        self._call("leave_pod", self._id)

    # -- while it lives

    def heartbeat(self) -> dict[str, Any]:
        """Name every lease and every claim not yet started."""
        named = [
            {"kind": payload["kind"], "id": payload["id"], "attempt": payload["attempt"]}
            for payload in self._payloads.values()
        ]
        for claim in self._claims:
            kind, _, job_id = claim.partition(":")
            named.append({"kind": kind, "id": job_id, "attempt": None})
        reply: dict[str, Any] = self._call("heartbeat", self._id, Jsonb(named))
        HEARTBEAT("reply", reply)
        return reply

    def hear(self, channel: str, payload: str) -> None:
        """Wait for a notification."""
        if self._session is None:
            raise RuntimeError("open_session comes first")
        for notification in self._session.notifies(timeout=HEAR_WITHIN_S):
            if (notification.channel, notification.payload) == (channel, payload):
                return
        raise TimeoutError(f"no notification {payload!r} came on {channel} within {HEAR_WITHIN_S:g} s")

    def tick(self) -> int | None:
        """Do the housekeeping; returns how many objects wait to be deleted."""
        waiting: int | None = self._call("tick")
        return waiting

    def take_garbage(self) -> list[dict[str, Any]]:
        garbage: list[dict[str, Any]] = self._call("take_garbage", SWEEP_LIMIT)
        each(record({"id": whole, "bucket": text, "key": text}))("garbage", garbage)
        return garbage

    def garbage_gone(self, ids: list[int]) -> None:
        self._call("garbage_gone", ids)

    def look(self, at: str) -> list[dict[str, Any]]:
        """Show what `worker status` shows."""
        return [{name: to_text(value) for name, value in row.items()} for row in self._fetch(LOOKS[at])]

    # -- claiming

    def claim(self, routes: list[str] | None = None) -> str | None:
        """Pick one job of these routes, by default of all that were registered; returns its kind:id."""
        rows = self._queue(DEQUEUE, 1, routes or self._routes, self._id, NEVER)
        if not rows or rows[0]["payload"] is None:
            return None
        row = rows[0]
        for column in ("created", "updated", "heartbeat", "execute_after"):
            _kind_of(datetime)(f"queue.{column}", row[column])
        for column in ("id", "priority"):
            whole(f"queue.{column}", row[column])
        one_of(*QUEUE_STATUSES)("queue.status", row["status"])
        optional(mapping)("queue.headers", row["headers"])
        one_of(self._id)("queue.queue_manager_id", row["queue_manager_id"])
        job = f"{row['entrypoint'].split('/')[0]}:{UUID(row['payload'].decode())}"
        self._claims.append(job)
        return job

    def hold(self, job: str) -> None:
        """Take over a claim of an earlier process with the same id."""
        self._claims.append(job)

    def next_due_s(self, routes: list[str]) -> float | None:
        rows = self._queue(NEXT_DUE, routes)
        return max(0.0, rows[0]["eta"].total_seconds()) if rows else None

    def starved_routes(self, routes: list[str], wait_s: float) -> list[str]:
        starved: list[str] = self._call("starved_routes", routes, timedelta(seconds=wait_s))
        each(text)("starved", starved)
        return starved

    def peek(self, routes: list[str]) -> list[dict[str, Any]]:
        """Peek at the next job, as prefetching does, and check the consent of each person whose LoRA it would fetch."""
        waiting: list[dict[str, Any]] = self._call("peek", routes, LOOK_AHEAD)
        each(record({"id": identifier, "base": optional(text), "models": each(MODEL)}))("waiting", waiting)
        for item in waiting:
            for model in item["models"]:
                if model["subject_id"] is not None:
                    model["agrees"] = self._call("consent_error", UUID(model["subject_id"]), "generation") is None
        return waiting

    # -- an attempt

    def start(self, job: str) -> dict[str, Any] | None:
        """Start a claimed job; returns the payload, or None when there is nothing to run."""
        kind, _, job_id = job.partition(":")
        payload: dict[str, Any] | None = self._call("start_job", kind, UUID(job_id), self._id)
        if payload is not None:
            try:
                read_started(payload)
            except Unreadable:
                why = "this worker cannot read what the database says about the job"
                self._call("fail_job", kind, UUID(job_id), payload["attempt"], "internal", why)
                raise
            self._payloads[job] = payload
        self._claims.remove(job)
        return payload

    def consent_error(self, job: str) -> str | None:
        """Ask again whether everybody in a job agrees: the first objection, or None."""
        payload = self._payloads[job]
        for subject_id in payload["subjects"]:
            reason: str | None = self._call("consent_error", UUID(subject_id), payload["purpose"])
            if reason is not None:
                return reason
        return None

    def report(self, job: str, progress: float, phase: str, metrics: dict[str, Any] | None = None) -> str:
        return self._state(
            self._call("report_job", *self._lease(job), float(progress), phase, metrics and Jsonb(metrics))
        )

    def stage(self, job: str, names: list[str]) -> str:
        """Register objects under the attempt's own prefix."""
        payload = self._payloads[job]
        listed = [{"bucket": self._bucket(payload), "key": payload["prefix"] + name} for name in names]
        return self._state(self._call("stage_objects", *self._lease(job), Jsonb(listed)))

    def save_checkpoint(self, job: str, step: int) -> str:
        """Register a checkpoint, and say that it was uploaded."""
        payload, name = self._payloads[job], f"checkpoint-{step}.safetensors"
        state = self.stage(job, [name])
        if state != "ok":
            return state
        key = payload["prefix"] + name
        return self._state(self._call("save_checkpoint", *self._lease(job), step, self._bucket(payload), key))

    def finish(self, job: str, gpu_seconds: float = 1.5) -> str:
        """Stage the objects of a handler's result, and complete the job with it."""
        payload = self._payloads[job]
        if payload["kind"] == "training":
            self.stage(job, ["lora.safetensors", "losses.json"])
            result = self._trained(payload)
        elif payload["kind"] == "generation":
            result = self._drawn(payload)
            names = [picture[name] for picture in result["pictures"] for name in ("upscaled", "raw")]
            self.stage(job, [name.removeprefix(payload["prefix"]) for name in names])
        else:
            result = {"copied": self.copy_lora(job)}
        return self.complete(job, result, gpu_seconds)

    def complete(self, job: str, result: dict[str, Any], gpu_seconds: float = 1.5) -> str:
        return self._ended(job, self._call("complete_job", *self._lease(job), Jsonb(result), float(gpu_seconds)))

    def fail(self, job: str, code: str, error: str, retry_after_s: float | None = None) -> str:
        retry_after = None if retry_after_s is None else timedelta(seconds=retry_after_s)
        return self._ended(job, self._call("fail_job", *self._lease(job), code, error, retry_after, 1.5))

    def release(self, job: str, reason: str, code: str | None = None) -> str:
        return self._ended(job, self._call("release_job", *self._lease(job), reason, code, 1.5))

    def copy_lora(self, job: str) -> str | None:
        """Run the transaction around a convenience copy; returns its target, or None when it may not be made."""
        kind, job_id, attempt = self._lease(job)
        subject_id = UUID(self._payloads[job]["subject"]["id"])
        with psycopg.connect(self._url, **self._options) as connection, connection.transaction():
            connection.execute("select pg_advisory_xact_lock(worker.subject_lock_key(%s))", [subject_id])
            copy = self._lora_to_copy(connection, kind, job_id, attempt)
            if copy["consented"] and copy["newest"]:
                copy = self._lora_to_copy(connection, kind, job_id, attempt)
        return copy["target"] if copy["consented"] and copy["newest"] else None

    @staticmethod
    def _lora_to_copy(connection: psycopg.Connection[Any], kind: str, job_id: UUID, attempt: int) -> dict[str, Any]:
        row = connection.execute("select worker.lora_to_copy(%s, %s, %s) as copy", [kind, job_id, attempt]).fetchone()
        copy: dict[str, Any] = row["copy"] if row else None
        COPY("copy", copy)
        return copy

    @staticmethod
    def _state(state: str) -> str:
        one_of("ok", "cancel", "timeout", "lost", "shutdown")("state", state)
        return state

    def _ended(self, job: str, outcome: str) -> str:
        if outcome != "invalid":
            del self._payloads[job]
        return outcome

    @staticmethod
    def _bucket(payload: dict[str, Any]) -> str:
        return "model_artifacts" if payload["kind"] == "training" else "uploads"

    @staticmethod
    def _trained(payload: dict[str, Any]) -> dict[str, Any]:
        trigger_word = asked(payload).get("trigger_word") or payload["subject"]["trigger_word"]
        return {
            "bucket": "model_artifacts",
            "lora": f"{payload['prefix']}lora.safetensors",
            "losses": f"{payload['prefix']}losses.json",
            "sha256": SHA256,
            "rank": 16,
            "trigger_word": trigger_word,
            "base": payload["base"]["slug"],
            "settings": {"steps": 4, "rank": 16, "class_name": "a person"},
            "seconds": 1.5,
            "peak_gib": None,
            "memory_plan": None,
            "metrics": {"steps": 4, "final_loss": 0.25, "photos": len(payload["photos"])},
            "skipped_photos": [],
        }

    @staticmethod
    def _drawn(payload: dict[str, Any]) -> dict[str, Any]:
        request = asked(payload)
        width, height, upscale = request.get("width", 64), request.get("height", 64), request["upscale"]
        suffix = {"png": "png", "jpeg": "jpg", "webp": "webp"}[request["output_format"]]
        pictures = [
            {
                "upscaled": f"{payload['prefix']}{index}.{suffix}",
                "raw": f"{payload['prefix']}{index}.raw.png",
                "seed": index,
                "sha256": SHA256,
                "width": width * upscale,
                "height": height * upscale,
                "raw_width": width,
                "raw_height": height,
                "size_bytes": 1000,
            }
            for index in range(request["num_images"])
        ]
        return {
            "bucket": "uploads",
            "pictures": pictures,
            "base": payload["base"]["slug"],
            "models": [{name: model[name] for name in ("id", "version", "scale")} for model in payload["models"]],
            "settings": {"steps": 4},
            "seconds": 1.5,
            "peak_gib": None,
            "memory_plan": None,
        }


def main(url: str, pod_id: str, name: str) -> None:
    pod = Pod(url, UUID(pod_id), name)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = {"answer": getattr(pod, request.pop("do"))(**request)}
        except (psycopg.Error, Unreadable, TimeoutError) as error:
            reply = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
