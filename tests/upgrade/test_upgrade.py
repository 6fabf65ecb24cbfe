"""A database of an earlier release migrates to this one and goes on: nothing is lost, its pods finish their jobs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.sql.catalog import differences, policy_oids, snapshot
from tests.sql.files import next_release
from tests.sql.pod import Claims, Pod
from tests.sql.supabase import VERSIONS, Supabase, Supabases
from tests.upgrade.installation import RELEASES, WRITTEN_BY_MIGRATIONS, Installation, OldPod, job, named
from tests.waiting import wait_until
from worker.database.schema import migrate
from worker.database.schema.printed import render
from worker.jobs.lease import StartedJob

TRAINING, PICTURE = job("training", "running: training"), job("generation", "running: picture")
CLAIMED = job("generation", "claimed")
TO_BE_CANCELLED, REVOKED = job("training", "running: to be cancelled"), job("generation", "running: revoked")
QUEUED_TRAINING = job("training", "queued: every column")
COPY_ROUTE = ["publish_lora"]


def test_an_earlier_release_is_available() -> None:
    assert [folder.name for folder in RELEASES][:1] == ["0.1.0"]


def test_the_dump_holds_every_state(installation: Installation) -> None:
    for table in ("public.training_jobs", "public.generation_jobs"):
        assert installation.values(f"select status from {table}") >= {
            "queued",
            "running",
            "completed",
            "failed",
            "cancelled",
        }, table
    assert installation.values("select status from worker.internal_jobs") >= {"queued", "completed"}
    assert installation.values("select error_code from public.generation_jobs where status = 'failed'") >= {
        "consent_denied",
        "prompt_blocked",
        "output_blocked",
        "invalid_input",
        "input_missing",
        "model_missing",
        "out_of_memory",
        "storage_error",
        "worker_lost",
        "timeout",
        "internal",
    }
    assert installation.values("select consent_status from public.subjects") >= {
        "pending",
        "approved",
        "rejected",
        "revoked",
    }
    assert installation.values("select event from worker.consent_events") >= {
        "grant",
        "reject",
        "revoke",
        "expiry",
        "refusal",
    }
    assert installation.values("select state from worker.staged_objects") >= {
        "staged",
        "checkpoint",
        "published",
        "deleting",
    }
    assert installation.values("select status::text from worker.pgqueuer") >= {"queued", "picked"}
    assert installation.values("select status from public.subject_photos") >= {"new", "accepted", "rejected"}
    assert installation.values("select cancel_code from public.training_jobs where status = 'running'") >= {"cancelled"}
    empty = {"worker.life_cycle", "worker.pgqueuer_schedules", "worker.pgqueuer_statistics"} | WRITTEN_BY_MIGRATIONS
    assert {name for name, rows in installation.rows().items() if not rows} <= empty


# ------------------------------------------------------------------------------------------------------- the migration


@pytest.mark.parametrize(
    ("version", "as_superuser"),
    [*((version, False) for version in VERSIONS), ("18", True)],
    ids=lambda value: {True: "as a superuser", False: "as the owner"}.get(value, value),
)
def test_no_row_is_lost_or_changed(release: Path, supabases: Supabases, version: str, as_superuser: bool) -> None:
    supabase = supabases.of(version)
    with (
        Installation.restored(release, supabase, as_superuser=as_superuser) as installation,
        Installation.upgraded(release, supabase, as_superuser=as_superuser) as upgraded,
    ):
        before, after = installation.rows(), upgraded.rows()
        assert sum(map(len, before.values())) > 400, "a nearly empty dump proves nothing"
        for table, rows in before.items():
            if table not in WRITTEN_BY_MIGRATIONS:
                assert missing(renamed(table, rows), after.get(table, [])) == [], table
        # A migration may add bases and kinds, but no rows of people or jobs.
        more = {table for table, rows in after.items() if len(rows) > len(before.get(table, []))}
        added = {"worker.base_models", "worker.expected_objects", "worker.guides", "worker.housekeeping"}
        added |= {"worker.installation", "worker.job_kinds", "worker.kind_policies"}
        assert more <= WRITTEN_BY_MIGRATIONS | added
        names = {row["name"] for row in before["worker.schema_versions"] if row["name"][:4].isdigit()}
        assert names <= {row["name"] for row in after["worker.schema_versions"]}


EVENTS = {"stop requested": "cancel_requested"}
"""Old and new names of job events."""
MIN_VRAM_GIB = {"flux-dev": 7.5, "flux-schnell": 7.5, "sd15": 4}
"""What the published base models need to generate, corrected."""
GAINED = ["reference", "control:canny", "control:pose", "control:depth"]
"""What they can do with guides."""


def renamed(table: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows with what later releases call otherwise, or have corrected."""
    if table == "worker.job_events":
        return [{**row, "event": EVENTS.get(row["event"], row["event"])} for row in rows]
    if table == "worker.base_models":
        return [
            {**row, "min_vram_gib": MIN_VRAM_GIB[row["slug"]], "capabilities": [*row["capabilities"], *GAINED]}
            for row in rows
        ]
    return rows


def missing(rows: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows that are gone or whose values changed; added columns do not count."""
    columns = rows[0].keys() if rows else ()
    left = [{name: row[name] for name in columns if name in row} for row in after]
    lost = []
    for row in rows:
        if row in left:
            left.remove(row)
        else:
            lost.append(row)
    return lost


def test_an_operators_own_figure_of_memory_stays_and_holds_for_everything(installation: Installation) -> None:
    installation.run("update worker.base_models set min_vram_gib = 30 where slug = 'flux-dev'")
    migrate.migrate(installation.url)
    assert installation.run("select slug, min_vram_gib, min_training_vram_gib from worker.base_models order by 1") == [
        {"slug": "flux-dev", "min_vram_gib": 30.0, "min_training_vram_gib": None},
        {"slug": "flux-schnell", "min_vram_gib": 7.5, "min_training_vram_gib": None},
        {"slug": "klein", "min_vram_gib": 4.5, "min_training_vram_gib": None},
        {"slug": "klein-base", "min_vram_gib": 4.5, "min_training_vram_gib": 6.25},
        {"slug": "qwen-image", "min_vram_gib": 12.75, "min_training_vram_gib": 17.0},
        {"slug": "sd15", "min_vram_gib": 4.0, "min_training_vram_gib": 6.0},
        {"slug": "sdxl", "min_vram_gib": 4.0, "min_training_vram_gib": 6.0},
        {"slug": "triposr", "min_vram_gib": 4.0, "min_training_vram_gib": None},
        {"slug": "uno", "min_vram_gib": 30.0, "min_training_vram_gib": None},
        {"slug": "z-image", "min_vram_gib": 5.25, "min_training_vram_gib": 9.0},
        {"slug": "z-image-turbo", "min_vram_gib": 5.25, "min_training_vram_gib": None},
    ]
    for kind, bases in (("training", ["flux-dev"]), ("generation", ["flux-dev", "uno"])):
        usable = "select worker.usable_bases(%s, '{flux-dev}', %s)"
        assert (installation.one(usable, kind, 29.9), installation.one(usable, kind, 30.0)) == ([], bases)


def test_the_default_base_model_stays_in_an_installation_that_was_used(installation: Installation) -> None:
    assert installation.one("select default_base from worker.config") == "flux-dev"


def test_migrating_again_changes_nothing(release: Path, any_supabase: Supabase) -> None:
    with Installation.upgraded(release, any_supabase) as installation:
        rows, catalog, policies = installation.rows(), snapshot(installation.url), policy_oids(installation.url)
        assert migrate.migrate(installation.url) == []
        assert differences(catalog, snapshot(installation.url)) == {}
        assert installation.rows() == rows
        assert policy_oids(installation.url) == policies


def test_the_printed_sql_creates_the_same_database(release: Path, any_supabase: Supabase) -> None:
    with (
        Installation.upgraded(release, any_supabase) as applied,
        Installation.restored(release, any_supabase) as printed,
    ):
        with psycopg.connect(printed.url) as connection:
            connection.execute(render(printed.applied).encode())
        assert differences(snapshot(applied.url), snapshot(printed.url)) == {}
        assert migrate.migrate(printed.url) == []
        rows, others = applied.rows(), printed.rows()
        for versions in (rows, others):
            for row in versions["worker.schema_versions"]:
                del row["applied_at"]
            del versions["worker.installation"]  # each is an installation of its own
        assert rows == others


def test_a_migrated_database_is_like_a_new_one(release: Path, any_supabase: Supabase) -> None:
    with Installation.upgraded(release, any_supabase) as installation:
        new, upgraded = snapshot(any_supabase.migrated()), snapshot(installation.url)
    assert differences(comparable(new), comparable(upgraded)) == {}


def comparable(catalog: dict[str, str]) -> dict[str, str]:
    """Drop what a dump does not preserve: parentheses, and the names that PostgreSQL 18 gives NOT NULL constraints."""
    return {
        name: text.replace("(", "").replace(")", "") if name.startswith("constraint ") else text
        for name, text in catalog.items()
        if not text.startswith("NOT NULL ") and name != "row of worker.config config"
    }


def test_prompts_are_screened_after_the_migration(upgraded: Installation) -> None:
    with upgraded.acting_as("anna") as app:
        row = app.execute(
            "insert into public.generation_jobs (subject_id, prompt) values (%s, 'a naked woman') returning error_code",
            [named("Ada")],
        ).fetchone()
    assert row == {"error_code": "prompt_blocked"}


REWORDED = {
    "the person is unknown": "the person was not found",
    "the person has not agreed": "the person has not consented",
    "the person did not agree": "the person did not consent",
    "the person took consent back: it was revoked": "the person revoked consent",
    "the account that held the person's consent is gone": "the account that owned the subject was deleted",
}
"""What 0.1.0 said, and what this release says of the same."""


def reworded(reason: str | None) -> str | None:
    """The reason in this release's words."""
    for old, new in REWORDED.items():
        reason = reason and reason.replace(old, new)
    return reason


def test_consent_is_the_same_as_before(installation: Installation, upgraded: Installation) -> None:
    asked = """
        select name, purpose, worker.consent_error(id, purpose) as error
        from public.subjects, unnest(array['training', 'generation']) purpose order by name, purpose"""
    before = installation.run(asked)
    assert upgraded.run(asked) == [row | {"error": reworded(row["error"])} for row in before]
    assert {row["name"] for row in before if row["error"] is None} == {"A mug", "Ada", "Hal", "Ivy"}


# ------------------------------------------------------------------------------------------ a pod of the release before


def test_the_old_pod_finishes_its_running_jobs(installation: Installation, pod: OldPod) -> None:
    assert pod.do("claim", routes=["training/flux-dev"]) == QUEUED_TRAINING
    assert pod.do("start", job=QUEUED_TRAINING)["attempt"] == 1

    migrate.migrate(installation.url)

    for training in (TRAINING, QUEUED_TRAINING):
        assert pod.do("report", job=training, progress=0.9, phase="training", metrics={"loss": 0.2}) == "ok"
        assert pod.do("save_checkpoint", job=training, step=180) == "ok"
        assert pod.do("consent_error", job=training) is None
        assert pod.do("finish", job=training) == "ok"
        assert installation.status(training) == ("completed", None)
        staged = installation.staged(training)
        assert (staged["lora.safetensors"], staged["losses.json"]) == ("published", "published")
        assert staged["checkpoint-180.safetensors"] == "deleting"
        job_id = training.partition(":")[2]
        (model,) = installation.run("select * from public.subjects_models where job_id = %s", job_id)
        assert model["subject_id"] == named("Ada")
        assert installation.job(training)["result"]["model_id"] == str(model["id"])
        assert installation.run(
            "select status from worker.internal_jobs where payload ->> 'model_id' = %s", str(model["id"])
        ) == [{"status": "queued"}]
    assert installation.values(f"select version from public.subjects_models where subject_id = '{named('Ada')}'") == {
        *range(1, 6)
    }

    assert pod.do("finish", job=PICTURE) == "ok"
    assert installation.status(PICTURE) == ("completed", None)
    assert set(installation.staged(PICTURE).values()) == {"published"}


# ------------------------------------------------------------------------------------------ while the migration runs

PAUSE = 72
"""The advisory lock at which a migration waits here, once it has changed tables, before it replaces functions."""

CALLS: dict[str, dict[str, Any]] = {
    "heartbeat": {},
    "tick": {},
    "peek": {"routes": ["generation/flux-dev"]},
    "start": {"job": CLAIMED},
    "report": {"job": QUEUED_TRAINING, "progress": 0.5, "phase": "drawing"},
    "stage": {"job": PICTURE, "names": ["more.png"]},
    "finish": {"job": TRAINING},
    "fail": {"job": TO_BE_CANCELLED, "code": "storage_error", "error": "the store did not answer"},
    "release": {"job": REVOKED, "reason": "stopped"},
    "leave": {},
}


@contextmanager
def migrating(installation: Installation, folder: Path) -> Iterator[ThreadPoolExecutor]:
    """A migration that waits in its middle until the block is over; then it must succeed, and all calls be answered."""
    release = next_release(folder, _9001_pause=f"do $$ begin perform pg_advisory_xact_lock({PAUSE}); end $$;")
    waits = "select count(*) from pg_locks where locktype = 'advisory' and objid = %s and not granted"
    with ThreadPoolExecutor(len(CALLS) + 1) as executor:
        installation.run("select pg_advisory_lock(%s)", PAUSE)
        migration = executor.submit(migrate.migrate, installation.url, release)
        wait_until(lambda: installation.one(waits, PAUSE) or migration.done(), "the migration to reach its middle")
        try:
            yield executor
        finally:
            installation.run("select pg_advisory_unlock(%s)", PAUSE)
            assert "9001_pause" in migration.result()


def wait_blocked(installation: Installation, call: Future[Any], calls: int) -> None:
    """Until as many calls wait for a table that the migration has locked, or for a call that waits for one."""
    waits = """select count(distinct pid) from pg_locks join pg_stat_activity using (pid)
               where datname = current_database() and not granted and locktype in ('relation', 'transactionid', 'tuple')
            """
    wait_until(lambda: call.done() or installation.one(waits) >= calls, "the call to wait for the migration")


@pytest.fixture(scope="module")
def answers(release: Path, supabases: Supabases, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Future[Any]]:
    """The answers to calls of the old pod, all made while one migration was in its middle: a process for each."""
    answers: dict[str, Future[Any]] = {}
    with (
        Installation.restored(release, supabases.of("18")) as installation,
        installation.processes(len(CALLS)) as processes,
    ):
        for pod, (call, arguments) in zip(processes, CALLS.items(), strict=True):
            if job := PICTURE if call == "heartbeat" else arguments.get("job"):  # a heartbeat that names a lease
                if job == QUEUED_TRAINING:
                    assert pod.do("claim", routes=["training/flux-dev"]) == job
                else:
                    pod.do("hold", job=job)
                if call != "start":
                    pod.do("start", job=job)
        with migrating(installation, tmp_path_factory.mktemp("release")) as executor:
            for pod, (call, arguments) in zip(processes, CALLS.items(), strict=True):
                answers[call] = executor.submit(pod.do, call, **arguments)
                wait_blocked(installation, answers[call], len(answers))
                assert not answers[call].done(), f"{call} went on beside the migration, which proves nothing"
    return answers


@pytest.mark.parametrize("call", CALLS)
def test_a_call_of_the_old_pod_that_waits_for_the_migration_is_answered(
    answers: dict[str, Future[Any]], call: str
) -> None:
    answers[call].result()


def test_a_revocation_a_cancellation_and_an_insert_that_wait_for_the_migration_succeed(
    upgraded: Installation, tmp_path: Path
) -> None:
    statements = {
        "hal": ("select public.revoke_consent(%s)", named("Hal")),
        "anna": ("insert into public.generation_jobs (subject_id, prompt) values (%s, 'in a garden')", named("Ada")),
        "anna too": ("select public.cancel_job('generation', %s)", PICTURE.partition(":")[2]),
    }
    owner_of_hal = upgraded.one("select owner_id from public.subjects where name = 'Hal'")
    users = {"hal": owner_of_hal, "anna": named("anna"), "anna too": named("anna")}

    def act(name: str) -> None:
        with psycopg.connect(upgraded.url, autocommit=True) as app:
            app.execute("select set_config('request.jwt.claims', %s, false)", [json.dumps({"sub": str(users[name])})])
            app.execute("set role authenticated")
            statement, argument = statements[name]
            app.execute(statement, [argument])  # type: ignore[arg-type]

    # The next release alters no table itself: only the locks at its beginning hold them.
    with migrating(upgraded, tmp_path) as executor:
        acts = [executor.submit(act, name) for name in statements]
        for call in acts:
            wait_blocked(upgraded, call, len(acts))
            assert not call.done(), "it went on beside the migration"
    for call in acts:
        call.result()
    assert upgraded.one("select consent_status from public.subjects where name = 'Hal'") == "revoked"
    assert upgraded.job(PICTURE)["cancel_requested_at"] is not None


# ------------------------------------------------------------------------------------------ and after it


def test_the_old_pod_runs_what_it_claimed_and_what_is_queued(installation: Installation, pod: OldPod) -> None:
    """Of the copies of LoRAs, only the newest of each person."""
    migrate.migrate(installation.url)
    assert pod.do("heartbeat")["leases"]
    payload = pod.do("start", job=CLAIMED)
    assert [model["version"] for model in payload["models"]] == [3]
    assert pod.do("finish", job=CLAIMED) == "ok"
    assert installation.status(CLAIMED) == ("completed", None)

    installation.mark_buckets()
    due = due_jobs(installation)
    copied: dict[str, str | None] = {}
    done = set()
    routes = sorted(installation.values("select entrypoint from worker.pgqueuer where status = 'queued'"))
    for routes_now in (COPY_ROUTE, routes):
        while (claimed := pod.do("claim", routes=routes_now)) is not None:
            payload = pod.do("start", job=claimed)
            assert payload is not None, claimed
            assert pod.do("finish", job=claimed) == "ok", claimed
            if routes_now == COPY_ROUTE:
                copied[payload["subject"]["id"]] = installation.job(claimed)["result"]["copied"]
            done.add(claimed)
    assert copied == {
        str(named("Ada")): f"{named('Ada')}/lora.safetensors",
        str(named("Ivy")): f"{named('Ivy')}/lora.safetensors",
        str(named("Dee")): None,
    }
    assert due <= done, "and copies of the new LoRAs"
    assert {installation.status(key) for key in due} == {("completed", None)}


def due_jobs(installation: Installation) -> set[str]:
    """Return the queued jobs that may start now, as kind:id."""
    return installation.values(
        "select dedupe_key from worker.pgqueuer where status = 'queued' and execute_after <= now()"
    )


def test_heartbeats_keep_the_old_pods_jobs_until_it_fails_or_releases_them_and_a_silent_pod_loses_its_own(
    installation: Installation, pod: OldPod
) -> None:
    migrate.migrate(installation.url)
    installation.run("update worker.pods set last_heartbeat = now() - interval '29 seconds' where id = %s", pod.id)
    installation.run(
        "update worker.pgqueuer set heartbeat = now() - interval '1 minute' where queue_manager_id = %s", pod.id
    )
    reply = pod.do("heartbeat")
    assert (reply["known"], reply["tick"]) == (True, True)
    assert {f"{lease['kind']}:{lease['id']}": lease["state"] for lease in reply["leases"]} == {
        TRAINING: "ok",
        PICTURE: "ok",
        CLAIMED: "ok",
        TO_BE_CANCELLED: "cancel",
        REVOKED: "cancel",
    }
    for _ in range(2):
        assert installation.one("select worker.tick()") is not None
    held = f"select dedupe_key from worker.pgqueuer where status = 'picked' and queue_manager_id = '{pod.id}'"
    assert installation.values(held) == {TRAINING, PICTURE, CLAIMED, TO_BE_CANCELLED, REVOKED}
    assert installation.run("select name, lock_free_since from worker.pods") == [
        {"name": "alive", "lock_free_since": None}
    ]

    lost, never_begun = job("training", "running: silent"), job("generation", "claimed: silent")
    assert (installation.status(lost), installation.job(lost)["failures"]) == (("queued", "worker_lost"), 2)
    assert installation.staged(lost)["checkpoint-90.safetensors"] == "checkpoint"
    assert (installation.status(never_begun), installation.job(never_begun)["failures"]) == (("queued", None), 0)
    assert installation.one("select consent_status from public.subjects where name = 'Fay'") == "revoked"

    assert pod.do("release", job=TO_BE_CANCELLED, reason="stopped") == "cancelled"
    assert pod.do("release", job=REVOKED, reason="stopped") == "consent_denied"
    assert pod.do("fail", job=TRAINING, code="storage_error", error="the store did not answer") == "queued"
    assert (installation.status(TRAINING), installation.job(TRAINING)["failures"]) == (("queued", "storage_error"), 1)
    assert pod.do("release", job=PICTURE, reason="flux-dev is missing here", code="model_missing") == "queued"
    assert (installation.status(PICTURE), installation.job(PICTURE)["failures"]) == (("queued", "model_missing"), 0)


def test_a_killed_old_pod_is_detected_by_its_lock(installation: Installation, pod: OldPod) -> None:
    migrate.migrate(installation.url)
    pod.kill()

    def taken_over() -> bool:
        installation.run("select worker.tick()")
        return installation.status(TRAINING) == ("queued", "worker_lost")

    wait_until(taken_over, "the jobs of the killed pod to go back", 10)
    assert installation.job(CLAIMED)["failures"] == 0
    assert installation.status(TO_BE_CANCELLED) == ("cancelled", None)
    assert installation.status(REVOKED) == ("failed", "consent_denied")


def test_a_users_insert_wakes_the_old_pod_and_a_revocation_stops_it(installation: Installation, pod: OldPod) -> None:
    migrate.migrate(installation.url)
    with installation.acting_as("anna") as app:
        app.execute(
            "insert into public.training_jobs (subject_id, base, steps) values (%s, 'sd15', 20)", [named("Ivy")]
        )
    pod.do("hear", channel="likeness_queue", payload="training/sd15")  # it looks at the queue whatever the payload
    claimed = pod.do("claim", routes=["training/sd15"])
    assert pod.do("start", job=claimed)["job"]["steps"] == 20
    assert pod.do("finish", job=claimed) == "ok"

    with installation.acting_as("anna") as app:
        app.execute("select public.revoke_consent(%s)", [named("Ada")])
    pod.do("hear", channel="likeness_cancel", payload=TRAINING)
    reply = pod.do("heartbeat")
    states = {f"{lease['kind']}:{lease['id']}": lease["state"] for lease in reply["leases"]}
    assert (states[TRAINING], states[CLAIMED]) == ("cancel", "lost")
    assert str(named("Ada")) in reply["ended_subjects"]
    assert pod.do("consent_error", job=TRAINING) == "the person revoked consent"
    assert pod.do("stage", job=TRAINING, names=["sample.png"]) == "cancel"
    assert pod.do("finish", job=TRAINING) == "consent_denied"
    assert installation.status(TRAINING) == ("failed", "consent_denied")
    assert "published" not in installation.staged(TRAINING).values()
    assert pod.do("start", job=CLAIMED) is None
    waiting = [installation.job(key) for key in due_jobs(installation) if not key.startswith("publish_lora")]
    assert waiting != []
    assert named("Ada") not in {row["subject_id"] for row in waiting}


def test_the_old_pods_questions_get_the_same_answers_until_it_leaves(installation: Installation, pod: OldPod) -> None:
    models = ["flux-dev", "sd15", "upscaler-x2", "upscaler-x4"]
    routes = ["generation/flux-dev", "training/flux-dev"]
    questions: list[tuple[str, dict[str, Any]]] = [
        ("check", {}),
        ("offered", {"kinds": ["training", "generation", "publish_lora"], "in_reach": models, "vram_gib": 24.0}),
        ("offered", {"kinds": ["training", "generation"], "in_reach": models, "vram_gib": None}),
        ("starved_routes", {"routes": routes, "wait_s": 60.0}),
        ("peek", {"routes": routes}),
    ]
    before = [pod.do(call, **arguments) for call, arguments in questions]
    migrate.migrate(installation.url)
    after = [pod.do(call, **arguments) for call, arguments in questions]
    for waiting in after[-1]:
        for later in (
            "inputs",
            "purpose",
            "checkpoint",
            "guides",
        ):  # what later releases read; the old pod looks past it
            del waiting[later]
    assert after == before
    assert before[1] == {f"{kind}/{base}": "gpu" for kind in ("training", "generation") for base in models[:2]} | {
        "publish_lora": "light"
    }
    assert pod.do("next_due_s", routes=routes) > 0
    assert [row["why"] for row in pod.do("look", at="stranded")] != []
    assert [row["name"] for row in pod.do("look", at="pods")] == ["alive", "silent"]
    assert all(pod.do("look", at=what) for what in ("queue", "running", "release"))

    # It cannot show whose the bucket is, so it deletes nothing.
    waiting_to_be_deleted = "select id, deletions from worker.staged_objects where state = 'deleting'"
    deletable = installation.run(waiting_to_be_deleted)
    assert deletable
    assert pod.do("take_garbage") == []

    # When it leaves, its jobs go back.
    pod.do("leave")
    assert installation.values("select name from worker.pods") == {"silent"}
    assert {installation.status(key) for key in (TRAINING, PICTURE, CLAIMED)} == {("queued", None)}
    assert {installation.job(key)["failures"] for key in (TRAINING, PICTURE, CLAIMED)} == {0}
    assert installation.status(TO_BE_CANCELLED) == ("cancelled", None)
    assert pod.do("tick") == 0
    after_leaving = installation.run(waiting_to_be_deleted)
    assert [row for row in after_leaving if row in deletable] == deletable

    # It can register again, also where its row was deleted.
    offer = {"vram_gib": 80.0, "models": ["flux-dev"]}
    registered = "select routes, has_lock, version from worker.pods where name = 'alive'"
    row = {"has_lock": True, "version": installation.release.name}
    pod.do("register", routes=["training/flux-dev"], **offer)
    assert installation.run(registered) == [{"routes": ["training/flux-dev"], **row}]
    installation.run("delete from worker.pods where id = %s", pod.id)
    assert pod.do("heartbeat")["known"] is False
    pod.do("register", routes=["publish_lora"], **offer)
    assert installation.run(registered) == [{"routes": ["publish_lora"], **row}]
    assert pod.do("heartbeat")["known"] is True


# --------------------------------------------------------------------------------------------------- a pod of this one


def test_a_pod_of_this_release_runs_the_queued_jobs(upgraded: Installation) -> None:
    upgraded.mark_buckets()
    due = due_jobs(upgraded)
    routes = tuple(sorted(upgraded.values("select entrypoint from worker.pgqueuer where status = 'queued'")))
    with Claims(upgraded.url) as claims:
        new = Pod(upgraded.url, claims, routes=routes)
        done = set()
        while (claim := new.claim(*routes)) is not None:
            attempt = new.start(*claim)
            assert attempt is not None, claim
            StartedJob.model_validate(attempt.payload)
            assert attempt.publish() == "ok", claim
            done.add(f"{claim[0]}:{claim[1]}")
        new.close()
    assert due <= done
