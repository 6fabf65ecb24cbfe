"""What signed-in users can do in storage: upload their own photos and inputs, and read those and their results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.sql.pod import Attempt, Claims, Pod
from tests.sql.rls_table import ACTORS
from tests.sql.supabase import Supabase
from tests.sql.tables import AppTables
from worker.database.schema import migrate

UPLOADS, MODELS = "uploads", "model_artifacts"
COLUMNS = "(bucket_id, name, owner_id)"
CLIMBING = (
    "{folder}/../1.jpg",
    "{folder}/../../../other/photos/1.jpg",
    "{folder}/..",
    "{folder}/./1.jpg",
    "{folder}/.",
    "{folder}//1.jpg",
    "{folder}/",
)


@dataclass
class Store:
    """`storage.objects` as Supabase keeps it: one row an object."""

    app: AppTables
    pod: Pod
    other: UUID
    subject: UUID
    other_subject: UUID
    actors: dict[str, psycopg.Connection[dict[str, Any]]]

    def outcome(self, actor: str, statement: str, *arguments: object) -> str:
        """Return row, none or refused; the statement is rolled back."""
        connection = self.actors[actor]
        try:
            with connection.transaction(force_rollback=True):
                count = connection.execute(statement, arguments).rowcount  # type: ignore[arg-type]
        except psycopg.errors.InsufficientPrivilege:
            return "refused"
        return "row" if count else "none"

    def outcomes(self, statement: str, *arguments: object) -> str:
        return " ".join(self.outcome(actor, statement, *arguments) for actor in ACTORS)

    def put(self, *objects: tuple[str, str]) -> None:
        """Add rows for existing objects, as the storage service does for every upload."""
        for bucket, key in objects:
            self.app.run(f"insert into storage.objects {COLUMNS} values (%s, %s, 'x')", bucket, key)

    def seen_by(self, actor: str) -> set[tuple[str, str]]:
        rows = self.actors[actor].execute("select bucket_id, name from storage.objects").fetchall()
        return {(row["bucket_id"], row["name"]) for row in rows}

    def uploaded(self, attempt: Attempt) -> set[tuple[str, str]]:
        """Upload everything that an attempt registered; returns bucket and key of each."""
        keys = {(attempt.bucket, key) for key in self.app.staged(attempt.id)}
        self.put(*keys)
        return keys


@pytest.fixture
def store(supabase: Supabase) -> Iterator[Store]:
    url = supabase.migrated()
    with ExitStack() as stack:
        app = stack.enter_context(AppTables.open(url))
        for bucket in (UPLOADS, MODELS):
            app.run("insert into storage.buckets (id, name) values (%s, %s)", bucket, bucket)
        other = app.add_user(uuid4())
        pod = Pod(url, stack.enter_context(Claims(url)))
        stack.callback(pod.close)
        subjects = app.add_subject(), app.add_subject(owner=other)
        app.add_photos(subjects[0])
        app.add_photos(subjects[1], owner=other)
        users = {"owner": app.owner, "other": other}
        actors = {
            actor: stack.enter_context(app.acting_as("authenticated" if actor in users else actor, users.get(actor)))
            for actor in ACTORS
        }
        yield Store(app, pod, other, *subjects, actors)


def test_users_upload_only_photos_of_own_subjects_and_inputs(store: Store) -> None:
    me, mine, them, theirs = store.app.owner, store.subject, store.other, store.other_subject
    expected = {
        (UPLOADS, f"{me}/{mine}/photos/1.jpg"): "row refused refused row refused",
        (UPLOADS, f"{me}/{mine}/photos/summer/1.jpg"): "row refused refused row refused",
        (UPLOADS, f"{me}/_/inputs/chair.png"): "row refused refused row refused",
        (UPLOADS, f"{me}/_/inputs/...and..more./.hidden"): "row refused refused row refused",
        (UPLOADS, f"{them}/{theirs}/photos/1.jpg"): "refused row refused row refused",
    }
    only_the_service = "refused refused refused row refused"
    refused = [
        (UPLOADS, f"{me}/{theirs}/photos/1.jpg"),
        (UPLOADS, f"{them}/{mine}/photos/1.jpg"),
        (UPLOADS, f"{me}/{uuid4()}/photos/1.jpg"),
        (UPLOADS, f"{me}/{mine}/photos"),
        (UPLOADS, f"{me}/{mine}/1.jpg"),
        (UPLOADS, f"{me}/{mine}/Photos/1.jpg"),
        (UPLOADS, f"/{me}/{mine}/photos/1.jpg"),
        *(
            (UPLOADS, key.format(folder=folder))
            for folder in (f"{me}/{mine}/photos", f"{me}/_/inputs")
            for key in CLIMBING
        ),
        (UPLOADS, f"{me}/{mine}/generated/{uuid4()}/1/0.png"),
        (UPLOADS, f"{me}/_/generated/{uuid4()}/1/0.png"),
        (UPLOADS, f"{me}/_/photos/1.jpg"),
        (UPLOADS, f"{me}/{mine}/inputs/1.jpg"),
        (UPLOADS, "1.jpg"),
        (MODELS, f"{me}/{mine}/photos/1.jpg"),
        (MODELS, f"{me}/_/inputs/chair.png"),
        (MODELS, f"{mine}/lora.safetensors"),
        (MODELS, "models/base/flux-dev/model_index.json"),
    ]
    insert = f"insert into storage.objects {COLUMNS} values (%s, %s, 'x')"
    found = {place: store.outcomes(insert, *place) for place in [*expected, *refused]}
    assert found == expected | dict.fromkeys(refused, only_the_service)


def test_a_key_that_a_server_may_resolve_to_another_is_not_read_either(store: Store) -> None:
    folder = f"{store.app.owner}/{store.subject}/photos"
    store.put((UPLOADS, f"{folder}/1.jpg"), *((UPLOADS, key.format(folder=folder)) for key in CLIMBING))
    assert store.seen_by("owner") == {(UPLOADS, f"{folder}/1.jpg")}


def test_each_user_reads_only_own_uploads(store: Store) -> None:
    mine = {
        (UPLOADS, f"{store.app.owner}/{store.subject}/photos/1.jpg"),
        (UPLOADS, f"{store.app.owner}/_/inputs/chair.png"),
    }
    theirs = {(UPLOADS, f"{store.other}/{store.other_subject}/photos/1.jpg")}
    of_the_service = {
        (MODELS, "models/base/flux-dev/model_index.json"),
        (MODELS, f"{store.subject}/lora.safetensors"),
        (UPLOADS, f"{store.app.owner}/{store.subject}/elsewhere/1.jpg"),
    }
    store.put(*mine, *theirs, *of_the_service)
    assert store.seen_by("owner") == mine
    assert store.seen_by("other") == theirs
    assert store.seen_by("anon") == set()
    assert store.seen_by("service_role") == mine | theirs | of_the_service


def test_results_are_listed_only_to_the_owner_of_a_completed_job(store: Store) -> None:
    app, pod = store.app, store.pod
    for kind, columns in (("training", {}), ("generation", {"prompt": "in a garden"})):
        job = app.request(kind, subject_id=store.subject, **columns)
        attempt = pod.run(kind, job)
        before = store.seen_by("owner")
        attempt.stage("preview.png")  # not named in the result
        result = attempt.staged_result()
        keys = store.uploaded(attempt)
        assert store.seen_by("owner") == before, "staged objects are never listed"

        assert attempt.complete(result) == "ok"
        unnamed = (attempt.bucket, attempt.key("preview.png"))
        assert store.seen_by("owner") == before | keys - {unnamed}
        assert not store.seen_by("other") & keys
        assert store.seen_by("anon") == set()
        if kind == "training":  # take the convenience copy off the queue
            copy = pod.claim("publish_lora")
            assert copy is not None


def test_objects_of_cancelled_and_failed_jobs_are_never_listed(store: Store) -> None:
    app, pod = store.app, store.pod
    app.add_lora(store.subject)
    for end in ("fail", "cancel", "lose"):
        job = app.request("generation", subject_id=store.subject, prompt="in a garden", max_failures=1)
        attempt = pod.run("generation", job)
        attempt.staged_result()
        store.uploaded(attempt)
        if end == "fail":
            assert attempt.fail() == "failed"
        elif end == "cancel":
            app.run("select public.cancel_job('generation', %s)", job)
            assert attempt.publish() == "cancelled"
        else:
            app.run("select public.revoke_consent(%s)", store.subject)
            assert attempt.publish() == "consent_denied"
        assert store.seen_by("owner") == set()


def test_only_the_service_can_change_or_delete_objects(store: Store) -> None:
    key = f"{store.app.owner}/{store.subject}/photos/1.jpg"
    store.put((UPLOADS, key))
    assert store.outcomes("select from storage.objects where name = %s", key) == "row none none row refused"
    read_only = "none none none row refused"
    assert store.outcomes("delete from storage.objects where name = %s", key) == read_only
    assert store.outcomes("update storage.objects set name = name || '.old' where name = %s", key) == read_only


def test_supabases_own_tables_get_policies_and_nothing_else(supabase: Supabase) -> None:
    """We add no columns, triggers or grants to Supabase's tables."""
    query = """select attrelid::regclass::text as name, attname::text as what from pg_attribute
               where attrelid in ('storage.objects'::regclass, 'auth.users'::regclass) and attnum > 0
               union all select tgrelid::regclass::text, tgname from pg_trigger
               where tgrelid in ('storage.objects'::regclass, 'auth.users'::regclass) and not tgisinternal
               union all select oid::regclass::text, relacl::text from pg_class
               where relnamespace in ('storage'::regnamespace, 'auth'::regnamespace)
               order by 1, 2"""
    url = supabase.create()
    with psycopg.connect(url) as connection:
        before = connection.execute(query).fetchall()
        connection.rollback()
        migrate.migrate(url)
        assert connection.execute(query).fetchall() == before
