"""Jobs on a Supabase-like project: an owner without superuser, users with tokens, and a pod with its own login."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from tests.sql.pod import GENERATION, PUBLISH, ROUTES, SHA256, TRAINING
from tests.sql.supabase import Supabase
from tests.sql.tables import AppTables
from worker.database.claim_queue import ClaimQueue
from worker.database.pool import Database


@contextmanager
def project(supabase: Supabase) -> Iterator[tuple[AppTables, str, str]]:
    """A migrated project, and the URLs of two logins that its owner created for pods."""
    url = supabase.migrated()
    logins = [f"pod_{uuid4().hex[:8]}" for _ in range(2)]
    with AppTables.open(url) as app:
        for login in logins:
            app.run(sql.SQL("create role {} login in role likeness_worker").format(sql.Identifier(login)).as_string())
        first, second = (supabase.server.url(url.rpartition("/")[2], login) for login in logins)
        yield app, first, second


@asynccontextmanager
async def pod_at(url: str, pod_id: UUID) -> AsyncIterator[tuple[Database, ClaimQueue]]:
    async with Database(url, "pod") as database:
        await database.call("register_pod", pod_id, "pod", list(ROUTES), 8.0, ["tiny-flux"], True, "0.1.0")
        yield database, ClaimQueue(database, pod_id)


async def publish(database: Database, started: dict[str, Any], bucket: str, result: dict[str, Any]) -> str:
    """Stage the objects that a result names, and complete the job with it."""
    lease = started["kind"], UUID(started["id"]), started["attempt"]
    names = [item for item in _texts(result) if item.startswith(started["prefix"])]
    staged = Jsonb([{"bucket": bucket, "key": name} for name in names])
    assert await database.call("report_job", *lease, 0.5, "at work", Jsonb({"step": 1})) == "ok"
    assert await database.call("stage_objects", *lease, staged) == "ok"
    return str(await database.call("complete_job", *lease, Jsonb(result), 1.5))


def _texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in _texts(item)]
    return [value] if isinstance(value, str) else []


async def test_a_users_insert_becomes_a_published_picture(any_supabase: Supabase) -> None:
    with project(any_supabase) as (app, url, rotated_url):
        user = app.add_user(uuid4())
        with app.acting_as("authenticated", user) as client, app.acting_as("service_role") as administrator:
            subject = inserted(
                client, "insert into public.subjects (name, subject_is_adult) values ('Ada', true) returning id"
            )
            for index in range(3):
                client.execute(
                    "insert into public.subject_photos (subject_id, path) values (%s, %s)",
                    [subject, f"{user}/{subject}/photos/{index}.jpg"],
                )
            administrator.execute("select public.grant_consent(%s)", [subject])
            training = inserted(
                client, "insert into public.training_jobs (subject_id) values (%s) returning id", subject
            )

            pod_id = uuid4()
            async with pod_at(url, pod_id) as (database, queue):
                async with await psycopg.AsyncConnection.connect(url, autocommit=True) as session:
                    await session.execute("select pg_advisory_lock_shared(worker.pod_lock_key(%s))", [pod_id])
                    assert await queue.claim([TRAINING]) == ("training", training)
                    started = await database.call("start_job", "training", training, pod_id)
                    checkpoint = f"{started['prefix']}checkpoint-1.safetensors"
                    lease = "training", training, started["attempt"]
                    await database.call(
                        "stage_objects", *lease, Jsonb([{"bucket": "model_artifacts", "key": checkpoint}])
                    )
                    assert await database.call("save_checkpoint", *lease, 1, "model_artifacts", checkpoint) == "ok"
                    beat = await database.call(
                        "heartbeat",
                        pod_id,
                        Jsonb([{"kind": "training", "id": training, "attempt": started["attempt"]}]),
                    )
                    assert [lease["state"] for lease in beat["leases"]] == ["ok"]
                    assert await database.call("tick") is not None
                    lora = {"lora": f"{started['prefix']}lora.safetensors", "sha256": SHA256, "rank": 4}
                    assert await publish(database, started, "model_artifacts", lora) == "ok"

                    copy = await queue.claim([PUBLISH])
                    assert copy is not None
                    started = await database.call("start_job", *copy, pod_id)
                    target = await database.call("lora_to_copy", *copy, started["attempt"])
                    assert (target["target"], target["consented"]) == (f"{subject}/lora.safetensors", True)
                    assert await publish(database, started, "model_artifacts", {"copied": True}) == "ok"
                deletable = await database.call("claim_deletable_objects", 10, Jsonb(app.seen))
                assert [item["key"] for item in deletable] == [checkpoint]
                await database.call("mark_objects_deleted", [item["id"] for item in deletable])

            assert client.execute("select version from public.subjects_models").fetchall() == [{"version": 1}]
            generation = inserted(
                client, "insert into public.generation_jobs (subject_id, prompt) values (%s, 'x') returning id", subject
            )
            # Another login of the same role continues, as after a rotation.
            async with pod_at(rotated_url, pod_id) as (database, queue):
                assert await queue.claim([GENERATION]) == ("generation", generation)
                started = await database.call("start_job", "generation", generation, pod_id)
                picture = {"raw": f"{started['prefix']}0.raw.png", "upscaled": f"{started['prefix']}0.png"}
                sizes = {"width": 256, "height": 256, "raw_width": 64, "raw_height": 64}
                assert await publish(database, started, "uploads", {"pictures": [picture | sizes]}) == "ok"
                assert await queue.claim(list(ROUTES)) is None
                await database.call("deregister_pod", pod_id)
            (seen,) = client.execute("select status, result from public.generation_jobs").fetchall()
            assert seen["status"] == "completed"
            assert seen["result"]["pictures"][0]["upscaled"] == picture["upscaled"]


def inserted(client: psycopg.Connection[dict[str, Any]], statement: str, *arguments: object) -> UUID:
    row = client.execute(statement, arguments).fetchone()  # type: ignore[arg-type]
    assert row is not None
    return UUID(str(row["id"]))


async def test_a_revocation_by_the_user_reaches_a_running_job(any_supabase: Supabase) -> None:
    with project(any_supabase) as (app, url, _):
        subject = app.add_subject()
        app.add_lora(subject)
        job = app.request("generation", subject_id=subject, prompt="in a garden")
        pod_id = uuid4()
        async with pod_at(url, pod_id) as (database, queue):
            assert await queue.claim([GENERATION]) == ("generation", job)
            started = await database.call("start_job", "generation", job, pod_id)
            with app.acting_as("authenticated", app.owner) as client:
                client.execute("select public.revoke_consent(%s)", [subject])
            named = Jsonb([{"kind": "generation", "id": job, "attempt": started["attempt"]}])
            beat = await database.call("heartbeat", pod_id, named)
            assert [lease["state"] for lease in beat["leases"]] == ["cancel"]
            assert beat["ended_subjects"] == [str(subject)]
            assert (
                await database.call("complete_job", "generation", job, started["attempt"], Jsonb({}), 1.0)
                == "consent_denied"
            )
        assert app.status("generation", job) == ("failed", "consent_denied")


def test_the_auth_service_can_delete_an_account_with_subjects_and_jobs(any_supabase: Supabase) -> None:
    with project(any_supabase) as (app, _, _):
        subject = app.add_subject()
        app.add_photos(subject)
        job = app.request("training", subject_id=subject)
        app.run("insert into public.presets (name, kind, owner_id) values ('mine', 'generation', %s)", app.owner)
        with psycopg.connect(any_supabase.superuser_url(app.url), autocommit=True) as service:
            service.execute("set role supabase_auth_admin")
            service.execute("delete from auth.users where id = %s", [app.owner])
        assert (
            app.one("select consent_status from public.subjects where id = %s and owner_id is null", subject)
            == "revoked"
        )
        assert app.status("training", job) == ("failed", "consent_denied")
        assert app.one("select count(*) from public.presets") == 0
        assert len(app.ledger(subject, "revoke")) == 1


def test_a_pods_login_cannot_read_subjects_or_change_consent_and_jobs(any_supabase: Supabase) -> None:
    with project(any_supabase) as (app, url, _):
        job = app.ask_training()
        subject = app.job("training", job)["subject_id"]
        with psycopg.connect(url, autocommit=True) as pod:
            for statement in (
                "select from public.subjects",
                "select from public.training_jobs",
                "select from auth.users",
                "select from worker.consent_events",
                "update worker.staged_objects set state = 'published'",
                f"select public.cancel_job('training', '{job}')",
                f"select public.grant_consent('{subject}')",
                f"select public.revoke_consent('{subject}')",
                f"select worker.revoke_consent_as_service('{subject}', null)",
                "set role service_role",
                "create table worker.mine (x int)",
                "insert into worker.base_models (slug) values ('x')",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    pod.execute(statement)  # type: ignore[arg-type]
            assert pod.execute("select worker.consent_error(%s, 'training')", [subject]).fetchone() == (None,)
