"""Row-level security as PostgREST uses it: a role, the claims of a token, one statement. See rls_table.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from tests.sql import rights, rls_table
from tests.sql.pod import Claims, Pod
from tests.sql.supabase import Supabase
from tests.sql.tables import AppTables

Connection = psycopg.Connection[dict[str, Any]]


@dataclass
class World:
    """Two users' rows, and a connection of each actor."""

    app: AppTables
    ids: dict[str, Any]
    actors: dict[str, Connection]

    def outcome(self, actor: str, statement: str) -> str:
        """Return the outcome of one statement, which is rolled back."""
        connection = self.actors[actor]
        try:
            with connection.transaction(force_rollback=True):
                count = connection.execute(statement, self.ids).rowcount  # type: ignore[arg-type]
        except psycopg.Error as error:
            return "refused" if error.sqlstate == "42501" else str(error.sqlstate)
        assert count in (0, 1)
        return "row" if count else "none"


def forge(connection: Connection, **claims: str) -> Connection:
    """Set other claims than the token's, as a client might try."""
    connection.execute("select set_config('request.jwt.claims', %s, false)", [json.dumps(claims)])
    return connection


@pytest.fixture(scope="module")
def world(supabase: Supabase) -> Iterator[World]:
    """An older project, which grants everything by default. test_rights.py shows that the rights are equal on both."""
    url = supabase.migrated(grants_by_default=True)
    with ExitStack() as stack:
        app = stack.enter_context(AppTables.open(url))
        ids = rows_of_two_users(app, stack)
        owner, other = ids["owner"], ids["other"]
        actors = {
            "owner": stack.enter_context(app.acting_as("authenticated", owner)),
            "other": stack.enter_context(app.acting_as("authenticated", other)),
            **{role: stack.enter_context(app.acting_as(role)) for role in rls_table.ACTORS[2:]},
            "other, forged role": forge(
                stack.enter_context(app.acting_as("authenticated", other)), role="service_role", sub=str(other)
            ),
            "anon, forged owner": forge(
                stack.enter_context(app.acting_as("anon")), role="service_role", sub=str(owner)
            ),
            "pod, forged owner": forge(
                stack.enter_context(app.acting_as("likeness_worker")), role="service_role", sub=str(owner)
            ),
            "no user, forged role": forge(stack.enter_context(app.acting_as("authenticated")), role="service_role"),
        }
        yield World(app, ids, actors)


def rows_of_two_users(app: AppTables, stack: ExitStack) -> dict[str, UUID | str]:
    """Add one row of each kind for the owner, and what the other user needs for the statements; returns the ids."""
    other = app.add_user(uuid4())
    subject, other_subject = app.add_subject(), app.add_subject(owner=other)
    app.add_photos(subject)
    app.add_photos(other_subject, owner=other)
    pod = Pod(app.url, stack.enter_context(Claims(app.url)))
    stack.callback(pod.close)
    trained = app.request("training", subject_id=subject)
    assert pod.run("training", trained).publish() == "ok"
    cancelled = app.request("training", subject_id=subject)
    app.run("select public.cancel_job('training', %s)", cancelled)
    return {
        "owner": app.owner,
        "other": other,
        "subject": subject,
        "folder": f"{app.owner}/{subject}/photos/",
        "other_subject": other_subject,
        "other_folder": f"{other}/{other_subject}/photos/",
        "pending": app.add_subject(consent=False),
        "photo": app.one("select id from public.subject_photos where subject_id = %s limit 1", subject),
        "model": app.one("select id from public.subjects_models where subject_id = %s", subject),
        "internal": app.one("select id from worker.internal_jobs"),
        "preset": app.one(
            "insert into public.presets (name, kind, owner_id) values ('mine', 'generation', %s) returning id",
            app.owner,
        ),
        "shared_preset": app.one(
            "insert into public.presets (name, kind, owner_id) values ('all', 'generation', null) returning id"
        ),
        "training": app.request("training", subject_id=subject),
        "generation": app.request("generation", subject_id=subject, prompt="in a garden"),
        "mesh": app.request("mesh", owner_id=app.owner, image_urls=["https://shop.example/mug.png"]),
        "cancelled": cancelled,
    }


CASES = {**rls_table.TABLES, **rls_table.FUNCTIONS}


@pytest.mark.parametrize("name", CASES)
def test_each_statement_has_the_outcome_in_the_table(world: World, name: str) -> None:
    expected = {what: dict(zip(rls_table.ACTORS, row.split(), strict=True)) for what, (_, row) in CASES[name].items()}
    assert {
        what: {actor: world.outcome(actor, statement) for actor in rls_table.ACTORS}
        for what, (statement, _) in CASES[name].items()
    } == expected


def test_forged_claims_give_no_more_rights(world: World) -> None:
    for statement, row in (case for cases in CASES.values() for case in cases.values()):
        allowed = dict(zip(rls_table.ACTORS, row.split(), strict=True))
        assert world.outcome("other, forged role", statement) == allowed["other"], statement
        assert world.outcome("anon, forged owner", statement) == "refused", statement
        assert world.outcome("pod, forged owner", statement) == allowed["likeness_worker"], statement
        # A token without a user id sees only shared rows, and can write nothing.
        if world.outcome("no user, forged role", statement) == "row":
            assert statement in (
                "select worker.uploads_bucket()",
                "select from public.presets where id = %(shared_preset)s",
            )


def test_every_public_table_is_in_the_table(world: World) -> None:
    tables = {
        f"public.{row['relname']}"
        for row in world.app.run(
            """select relname from pg_class
               where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm', 'f')"""
        )
    }
    assert set(rls_table.TABLES) == tables
    for table, cases in rls_table.TABLES.items():
        commands = {what.split()[0] for what in cases}
        assert commands >= {"select", "insert", "update", "delete"}, table
        assert cases["select"][1].startswith("row none"), f"{table}: the owner's success and the other user's denial"


def test_every_function_for_clients_is_in_the_table() -> None:
    called = {name for name, roles in rights.EXECUTE.items() if {"authenticated", "service_role"} & set(roles.split())}
    assert set(rls_table.FUNCTIONS) == called


def test_no_client_can_truncate_a_table(world: World) -> None:
    for actor in rls_table.ACTORS:
        for table in rls_table.TABLES:
            assert world.outcome(actor, f"truncate {table} cascade") == "refused", (actor, table)


def test_each_user_sees_only_own_rows(world: World) -> None:
    for table in rls_table.TABLES:
        for actor in ("other", "owner"):
            every_row = f"select to_jsonb(t) as row from {table} t"
            text = json.dumps(world.actors[actor].execute(every_row).fetchall())  # type: ignore[arg-type]
            stranger = "owner" if actor == "other" else "other"
            assert str(world.ids[stranger]) not in text, f"{actor} sees {stranger}'s rows in {table}"
    assert world.actors["owner"].execute("select count(*) as seen from public.training_jobs").fetchone() == {"seen": 3}
    assert world.actors["service_role"].execute("select count(*) as seen from public.subjects").fetchone() == {
        "seen": 3
    }


def test_in_mode_owner_attests_owners_grant_only_for_own_subjects(world: World) -> None:
    stated = "select public.grant_consent(%(pending)s, confirmed => true, adult => true)"
    world.app.run("update worker.config set consent_mode = 'owner_attests'")
    try:
        assert [world.outcome(actor, stated) for actor in rls_table.ACTORS] == [
            "row",
            "refused",
            "refused",
            "row",
            "refused",
        ]
        assert world.outcome("owner", "select public.grant_consent(%(pending)s, adult => true)") == "22023"
        assert world.outcome("owner", "select public.grant_consent(%(pending)s, confirmed => true)") == "22023"
        assert world.outcome("other, forged role", stated) == "refused"
        assert world.outcome("no user, forged role", stated) == "refused"
    finally:
        world.app.run("update worker.config set consent_mode = 'admin'")
