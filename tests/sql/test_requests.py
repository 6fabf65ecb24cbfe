"""INSERTs into job tables as apps make them, signed in or with the service key: what is refused, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from tests.app import TABLES
from tests.sql.pod import Pod
from tests.sql.tables import ABLE_BASE, AppTables
from tests.tiny_models import TINY_BASE

CLIENTS = ("authenticated", "service_role")


def insert(db: AppTables, kind: str, *, role: str = "authenticated", user: UUID | None = None, **columns: Any) -> Any:
    """Insert as an app does; returns the row."""
    names = sql.SQL(", ").join(sql.Identifier(name) for name in columns)
    statement = sql.SQL("insert into {} ({}) values ({}) returning *").format(
        sql.Identifier(*TABLES[kind].split(".")), names, sql.SQL(", ").join(sql.Placeholder() * len(columns))
    )
    signed_in = (user or db.owner) if role == "authenticated" else None
    with db.acting_as(role, signed_in) as connection:
        return connection.execute(statement, list(columns.values())).fetchone()


def refusal(db: AppTables, kind: str, **columns: Any) -> tuple[str | None, str]:
    """Return SQLSTATE and message of an INSERT that is refused."""
    with pytest.raises(psycopg.Error) as caught:
        insert(db, kind, **columns)
    return caught.value.sqlstate, caught.value.diag.message_primary or ""


# -- required columns and the owner


def test_subject_and_prompt_are_enough_for_a_request(db: AppTables) -> None:
    subject = db.add_subject()
    with db.acting_as("authenticated", db.owner) as connection:
        row = connection.execute(
            "insert into generation_jobs (subject_id, prompt) values (%s, 'at dusk') returning *", [subject]
        ).fetchone()
    assert row is not None
    assert (row["status"], row["owner_id"], row["base"], row["phase"]) == ("queued", db.owner, TINY_BASE, "waiting")
    queued = db.queue_row("generation", row["id"])
    assert queued is not None
    assert (queued["status"], queued["entrypoint"]) == ("queued", f"generation/{TINY_BASE}")
    assert db.job_subjects("generation", row["id"]) == {subject}


@pytest.mark.parametrize("role", CLIENTS)
def test_the_subjects_owner_owns_the_job_whatever_the_client_sends(db: AppTables, role: str) -> None:
    row = insert(db, "generation", role=role, subject_id=db.add_subject(), prompt="x", owner_id=uuid4())
    assert row["owner_id"] == db.owner


def test_without_a_subject_the_signed_in_user_owns_the_job(db: AppTables) -> None:
    row = insert(db, "generation", prompt="a chair", owner_id=uuid4())
    assert (row["owner_id"], row["status"]) == (db.owner, "queued")


def test_the_service_key_must_name_a_subject_or_an_owner(db: AppTables) -> None:
    state, message = refusal(db, "generation", role="service_role", prompt="a chair")
    assert (state, message) == ("23502", "owner_id is missing: set subject_id or owner_id")
    assert insert(db, "generation", role="service_role", prompt="a chair", owner_id=db.owner)["status"] == "queued"


def test_a_training_needs_a_subject(db: AppTables) -> None:
    assert refusal(db, "training", seed=1) == ("23502", "subject_id: a training job needs a subject")


# -- the subject


def test_another_owners_subject_and_an_unknown_one_give_the_same_error(db: AppTables) -> None:
    theirs = db.add_subject(owner=db.add_user(uuid4()))
    answers = [
        refusal(db, kind, subject_id=subject) for kind in ("training", "generation") for subject in (theirs, uuid4())
    ]
    assert set(answers) == {("42501", "subject_id: subject not found for this user")}
    assert refusal(db, "training", role="service_role", subject_id=uuid4()) == answers[0]


# -- consent


def pending(db: AppTables) -> UUID:
    return db.add_subject(consent=False)


def rejected(db: AppTables) -> UUID:
    subject = db.add_subject(consent=False)
    db.run("select public.reject_consent(%s)", subject)
    return subject


def revoked(db: AppTables) -> UUID:
    subject = db.add_subject()
    db.run("select public.revoke_consent(%s)", subject)
    return subject


def expired(db: AppTables) -> UUID:
    subject = db.add_subject()
    db.let_consent_expire(subject)
    return subject


def underage(db: AppTables) -> UUID:
    return db.add_subject(consent=False, adult=False)


def erased(db: AppTables) -> UUID:
    subject = db.add_subject()
    db.run("update public.subjects set erased_at = now() where id = %s", subject)
    return subject


WITHOUT_CONSENT = {
    pending: "the person has not consented yet: consent is pending",
    rejected: "the person did not consent: consent was rejected",
    revoked: "the person revoked consent",
    expired: "the person's consent has expired",
    underage: "the person is not confirmed to be an adult",
    erased: "the person's data was erased",
}


@pytest.mark.parametrize("role", CLIENTS)
def test_a_request_without_consent_is_stored_as_failed_with_the_reason(db: AppTables, role: str) -> None:
    for person, reason in WITHOUT_CONSENT.items():
        for kind in ("training", "generation"):
            subject = person(db)
            row = insert(db, kind, role=role, subject_id=subject, **({"prompt": "x"} if kind == "generation" else {}))
            assert (row["status"], row["error_code"], row["error"]) == ("failed", "consent_denied", reason)
            assert row["finished_at"] is not None
            assert db.queue_row(kind, row["id"]) is None
            assert db.events(row["id"]) == ["refused"]
            (entry,) = db.ledger(subject, "refusal")
            assert (entry["job_kind"], entry["job_id"], entry["reason"]) == (kind, row["id"], reason)
            assert entry["actor"] == (str(db.owner) if role == "authenticated" else "postgres")


@pytest.mark.parametrize(("agreed", "asked"), [("training", "generation"), ("generation", "training")])
def test_consent_for_one_purpose_does_not_cover_the_other(db: AppTables, agreed: str, asked: str) -> None:
    subject = db.add_subject(consent=False)
    db.add_photos(subject)
    db.run("select public.grant_consent(%s, array[%s])", subject, agreed)
    prompts = {"generation": {"prompt": "x"}, "training": {}}
    row = insert(db, asked, subject_id=subject, **prompts[asked])
    assert (row["status"], row["error"]) == ("failed", f"the person has not consented to {asked}, only to {agreed}")
    assert insert(db, agreed, subject_id=subject, **prompts[agreed])["status"] == "queued"


# -- LoRAs


def test_another_owners_lora_and_an_unknown_one_give_the_same_error(db: AppTables) -> None:
    subject = db.add_subject()
    theirs = db.add_lora(db.add_subject(owner=db.add_user(uuid4())))
    for model in (theirs, uuid4()):
        answer = refusal(db, "generation", subject_id=subject, prompt="x", model_ids=[model])
        assert answer == ("22023", f"model_ids: LoRA not found for this owner: {model}")
        assert (
            refusal(db, "generation", role="service_role", subject_id=subject, prompt="x", model_ids=[model]) == answer
        )


def test_the_subject_of_every_named_lora_must_consent(db: AppTables) -> None:
    ada, ben = db.add_subject(name="Ada"), db.add_subject(name="Ben")
    models = [db.add_lora(ada), db.add_lora(ben)]
    both = insert(db, "generation", prompt="two friends", model_ids=models)
    assert both["status"] == "queued"
    assert db.job_subjects("generation", both["id"]) == {ada, ben}
    db.run("select public.revoke_consent(%s)", ben)
    refused = insert(db, "generation", subject_id=ada, prompt="two friends", model_ids=models)
    assert (refused["status"], refused["error_code"]) == ("failed", "consent_denied")
    assert db.ledger(ben, "refusal")[-1]["job_id"] == refused["id"]
    assert db.ledger(ada, "refusal") == []


def test_a_lora_of_another_family_is_refused_by_name(db: AppTables) -> None:
    model = db.add_lora(db.add_subject())
    answer = refusal(db, "generation", prompt="x", model_ids=[model], base="sd15")
    assert answer == ("22023", f"model_ids: LoRA {model} is for flux, but base sd15 is sd15")


# -- bases, presets, prompts


def test_an_unknown_base_is_named_with_the_known_ones(db: AppTables) -> None:
    known = (
        "able-flux, flux-dev, flux-schnell, klein, klein-base, qwen-image, sd15, sdxl, tiny-flux, z-image, "
        "z-image-turbo"
    )
    for kind in ("training", "generation"):
        answer = refusal(db, kind, subject_id=db.add_subject(), base="fluxx")
        assert answer == ("22023", f"base: 'fluxx' not found; base models: {known}")


def test_a_missing_capability_of_a_base_is_named(db: AppTables) -> None:
    subject = db.add_subject()
    photo = db.add_photos(subject)[0]
    asked: dict[str, tuple[str, dict[str, Any]]] = {
        "base: flux-schnell cannot do train; it can do lora, reference, control:canny, control:pose, control:depth; "
        "train on flux-dev": (
            "training",
            {"base": "flux-schnell"},
        ),
        f"base: {TINY_BASE} cannot do reference; it can do train, lora": (
            "generation",
            {"prompt": "x", "reference_paths": [photo]},
        ),
        f"base: {TINY_BASE} cannot do control:pose; it can do train, lora": (
            "generation",
            {"prompt": "x", "control_path": photo, "control_kind": "pose"},
        ),
    }
    for message, (kind, columns) in asked.items():
        assert refusal(db, kind, subject_id=subject, **columns) == ("22023", message)


def test_the_base_defaults_to_that_of_the_newest_lora(db: AppTables) -> None:
    subject = db.add_subject()
    db.add_lora(subject, base=TINY_BASE)
    db.add_lora(subject, base=ABLE_BASE)
    assert insert(db, "generation", subject_id=subject, prompt="x")["base"] == ABLE_BASE


def test_a_default_base_that_only_draws_is_trained_on_its_own_train_base_and_draws_with_those_loras(
    db: AppTables,
) -> None:
    db.run("update worker.config set default_base = 'klein'")
    subject = db.add_subject()
    db.add_photos(subject)
    assert insert(db, "generation", owner_id=db.owner, prompt="x")["base"] == "klein"
    assert insert(db, "training", subject_id=subject)["base"] == "klein-base"
    lora = db.add_lora(subject, base="klein-base")
    db.run("update public.subjects_models set family = 'klein' where id = %s", lora)
    assert insert(db, "generation", subject_id=subject, prompt="x")["base"] == "klein"
    assert insert(db, "generation", subject_id=subject, prompt="x", base="klein-base")["base"] == "klein-base"


def test_another_owners_preset_and_an_unknown_one_give_the_same_error(db: AppTables) -> None:
    theirs, mine, shared = (
        db.add_preset(owner=owner, prompt="in oil") for owner in (db.add_user(uuid4()), db.owner, None)
    )
    subject = db.add_subject()
    for unusable in (theirs, uuid4()):
        answer = refusal(db, "generation", subject_id=subject, preset_id=unusable)
        assert answer == ("22023", "preset_id: preset not found for this owner and kind generation")
    for usable in (mine, shared):
        assert insert(db, "generation", subject_id=subject, preset_id=usable)["status"] == "queued"


def test_a_preset_is_copied_at_the_insert_and_fills_empty_columns(db: AppTables) -> None:
    subject = db.add_subject()
    settings = {"steps": 3, "width": 64, "seed": 1, "status": "completed"}
    preset = db.add_preset(owner=db.owner, prompt="in oil", settings=settings)
    row = insert(db, "generation", subject_id=subject, preset_id=preset, width=128)
    assert (row["steps"], row["width"], row["seed"], row["status"]) == (3, 128, None, "queued")
    assert row["preset"] == {"prompt": "in oil", "negative_prompt": None}
    db.run("delete from public.presets")
    assert db.job("generation", row["id"]) == row
    out_of_range = db.add_preset(owner=db.owner, settings={"steps": 0})
    with pytest.raises(psycopg.errors.CheckViolation, match="steps_between_1_and_100"):
        insert(db, "generation", subject_id=subject, preset_id=out_of_range, prompt="x")


def test_the_class_name_comes_from_the_request_or_its_preset(db: AppTables) -> None:
    subject = db.add_subject()
    db.add_photos(subject)
    preset = db.one(
        """insert into public.presets (owner_id, name, kind, settings)
           values (%s, 'women', 'training', '{"class_name": "a woman"}') returning id""",
        db.owner,
    )
    for asked, expected in (({}, "a woman"), ({"class_name": "a tall mug"}, "a tall mug")):
        row = insert(db, "training", subject_id=subject, preset_id=preset, **asked)
        assert row["class_name"] == expected


def test_a_training_request_needs_three_photos(db: AppTables) -> None:
    subject, without_consent = db.add_subject(), db.add_subject(consent=False)
    photos = db.add_photos(subject, 3)
    db.run("update public.subject_photos set status = 'rejected' where path = %s", photos[0])
    for role in CLIENTS:
        answer = refusal(db, "training", role=role, subject_id=subject)
        assert answer[0] == "22023"
        assert answer[1].startswith("training needs at least 3 photos, but there are 2: ")
        answer = refusal(db, "training", role=role, subject_id=subject, sample_paths=photos[:1] * 3)
        assert "there are 1" in answer[1], "the same photo three times counts once"
    assert insert(db, "training", subject_id=subject, sample_paths=photos)["status"] == "queued"
    assert insert(db, "training", subject_id=without_consent)["error_code"] == "consent_denied", (
        "consent is checked first"
    )


def test_a_generation_request_needs_a_prompt_or_a_preset(db: AppTables) -> None:
    answer = refusal(db, "generation", subject_id=db.add_subject(), prompt="  ")
    assert answer == ("22023", "prompt: give a prompt, a preset or both")


# -- limits


def test_too_many_open_jobs_give_http_429(db: AppTables) -> None:
    db.run("update worker.config set open_jobs_per_owner = 2")
    subject = db.add_subject()
    db.add_photos(subject)
    jobs = [
        insert(db, "generation", subject_id=subject, prompt="x")["id"],
        insert(db, "training", subject_id=subject)["id"],
    ]
    for role in CLIENTS:
        state, message = refusal(db, "generation", role=role, subject_id=subject, prompt="x")
        assert (state, message) == ("PT429", "too many open jobs: at most 2 at a time")
    other = db.add_subject(owner=db.add_user(uuid4()))
    assert db.request("generation", subject_id=other, prompt="x"), "the limit is per owner"
    db.run("select public.cancel_job('generation', %s)", jobs[0])
    assert insert(db, "generation", subject_id=subject, prompt="x")["status"] == "queued"


def test_refused_requests_are_limited_too(db: AppTables) -> None:
    """Each adds a row to the ledger, which is never deleted."""
    db.run("update worker.config set open_jobs_per_owner = 1")
    subject = db.add_subject(consent=False)
    for _ in range(10):
        assert insert(db, "generation", subject_id=subject, prompt="x")["status"] == "failed"
    assert refusal(db, "generation", subject_id=subject, prompt="x")[0] == "PT429"
    assert len(db.ledger(subject)) == 10


def test_one_statement_with_many_rows_is_counted_row_by_row(db: AppTables) -> None:
    db.run("update worker.config set open_jobs_per_owner = 3")
    subject = db.add_subject()
    with db.acting_as("authenticated", db.owner) as connection, pytest.raises(psycopg.Error, match="at most 3"):
        connection.execute(
            "insert into generation_jobs (subject_id, prompt) select %s, 'x' from generate_series(1, 4)", [subject]
        )
    assert db.one("select count(*) from public.generation_jobs") == 0


# -- changes after the insert


def test_no_role_can_change_request_columns(db: AppTables, pod: Pod) -> None:
    subject = db.add_subject()
    db.add_photos(subject)
    jobs = {
        "training": db.request("training", subject_id=subject),
        "generation": db.request("generation", owner_id=db.owner, prompt="x"),
    }
    another: dict[str, object] = {
        "uuid": uuid4(),
        "text": "another",
        "integer": 7,
        "bigint": 7,
        "real": 0.5,
        "boolean": False,
    }
    another |= {
        "text[]": ["a", "b", "c"],
        "uuid[]": [uuid4()],
        "real[]": [0.5],
        "timestamp with time zone": "2020-01-01",
        "jsonb": Jsonb({}),
    }
    for kind, job in jobs.items():
        before = db.job(kind, job)
        columns = db.run(
            """select attname as name, format_type(atttypid, atttypmod) as type from pg_attribute
               where attrelid = %s::regclass and attnum > 0 and attname <> all (worker.changing_columns())""",
            TABLES[kind],
        )
        assert {"id", "owner_id", "subject_id", "base", "preset", "seed", "created_at"} <= {
            column["name"] for column in columns
        }
        for column in columns:
            statement = sql.SQL("update {} set {} = %s where id = %s").format(
                sql.Identifier(*TABLES[kind].split(".")), sql.Identifier(column["name"])
            )
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match=f"after INSERT: {column['name']}"):
                db.database.execute(statement, [another[column["type"]], job])
            for role in CLIENTS:
                with db.acting_as(role, db.owner) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement, [another[column["type"]], job])
        assert db.job(kind, job) == before
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        pod.database.execute("update public.generation_jobs set prompt = 'y'")


def test_a_conflicting_insert_does_not_change_another_owners_job(db: AppTables, pod: Pod) -> None:
    theirs = db.add_subject()
    job = db.request("generation", subject_id=theirs, prompt="x")
    intruder = db.add_user(uuid4())
    with_consent, without_consent = (db.add_subject(owner=intruder, consent=consent) for consent in (True, False))
    before = db.snapshot()
    for mine in (with_consent, without_consent):
        with db.acting_as("authenticated", intruder) as connection:
            cursor = connection.execute(
                "insert into generation_jobs (id, subject_id, prompt) values (%s, %s, 'y') on conflict do nothing",
                [job, mine],
            )
            assert cursor.rowcount == 0
        with pytest.raises(psycopg.errors.UniqueViolation):
            insert(db, "generation", user=intruder, id=job, subject_id=mine, prompt="y")
    assert db.snapshot() == before


def test_the_same_request_sent_twice_is_one_job(db: AppTables) -> None:
    db.run("update worker.config set open_jobs_per_owner = 1")
    subject, job = db.add_subject(), uuid4()
    for _ in range(2):
        with db.acting_as("authenticated", db.owner) as connection:
            connection.execute(
                "insert into generation_jobs (id, subject_id, prompt) values (%s, %s, 'x') on conflict (id) do nothing",
                [job, subject],
            )
    assert db.one("select count(*) from worker.pgqueuer") == 1


def test_only_the_service_key_can_set_scheduling_columns(db: AppTables, pod: Pod) -> None:
    subject = db.add_subject()
    for column, value in {"priority": 5, "run_after": "2999-01-01", "max_failures": 9, "max_runtime": "1 hour"}.items():
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            insert(db, "generation", subject_id=subject, prompt="x", **{column: value})
    for column, value in {"status": "completed", "attempt": 9, "result": Jsonb({}), "pod_id": uuid4()}.items():
        for role in CLIENTS:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                insert(db, "generation", role=role, subject_id=subject, prompt="x", **{column: value})
    row = insert(
        db, "generation", role="service_role", subject_id=subject, prompt="x", priority=5, run_after="2999-01-01"
    )
    assert pod.claim() is None
    with db.acting_as("service_role") as connection:
        connection.execute("update generation_jobs set run_after = null where id = %s", [row["id"]])
    assert pod.claim() == ("generation", row["id"])


def test_a_rolled_back_request_leaves_nothing(db: AppTables, start_pod: Callable[..., Pod]) -> None:
    subject = db.add_subject()
    before = db.snapshot()
    with db.acting_as("authenticated", db.owner) as connection, connection.transaction(force_rollback=True):
        connection.execute("insert into generation_jobs (subject_id, prompt) values (%s, 'x')", [subject])
    assert db.snapshot() == before
    assert start_pod().claim() is None
