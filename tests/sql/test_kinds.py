"""Checks at the registration of a kind, and hooks that fail without affecting other jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.conftest import Databases
from tests.sql.background import BackgroundCalls
from tests.sql.echo_kind import HOOKS, NAMED_KEYS, REGISTRATION, TABLE, TEXTS, apply_file
from tests.sql.pod import ROUTES, Pod
from tests.sql.tables import AppTables
from tests.tiny_models import TINY_BASE

SIGNED = "set search_path = pg_catalog, pg_temp"


def hook(name: str, body: str, *, arguments: str = "p_job jsonb", returns: str = "jsonb", how: str = "stable") -> str:
    """Return a hook of kind echo in plpgsql; `body` ends in a semicolon."""
    return f"""
create or replace function worker.echo__{name}({arguments}) returns {returns}
language plpgsql {how} {"" if "search_path" in how else SIGNED}
as $$ begin {body} end $$;
"""


def execute(db: AppTables, *statements: str) -> None:
    """Run statements in a transaction, all or none."""
    with db.database.transaction():
        for statement in statements:
            db.database.execute(statement.encode())


def add_echo(db: AppTables, *more: str) -> None:
    """Register the kind, with these statements before the registration."""
    execute(db, TABLE, HOOKS, *more, REGISTRATION)


def ask_echo(db: AppTables, **columns: Any) -> Any:
    columns = {"owner_id": db.owner, "words": "hello"} | columns
    names = ", ".join(columns)
    marks = ", ".join(["%s"] * len(columns))
    return db.one(f"insert into public.echo_jobs ({names}) values ({marks}) returning id", *columns.values())


def echo(db: AppTables, job: Any) -> dict[str, Any]:
    (row,) = db.run("select * from public.echo_jobs where id = %s", job)
    return row


@pytest.fixture
def echo_pod(start_pod: Callable[..., Pod]) -> Pod:
    """A pod with the route `echo` and all others."""
    return start_pod(routes=(*ROUTES, "echo"))


@pytest.fixture(scope="module")
def shared_tables(databases: Databases) -> Iterator[AppTables]:
    with databases.fresh() as url, AppTables.open(url) as tables:
        yield tables


@pytest.fixture
def rolled_back(shared_tables: AppTables) -> Iterator[AppTables]:
    """An app's tables in a transaction that is rolled back, for tests with no other session."""
    with shared_tables.database.transaction(force_rollback=True):
        yield shared_tables


# -- registration

WRONG_HOOKS = {
    "an unknown hook": (hook("colour", "return null;"), "is not a hook"),
    "other arguments": (hook("payload", "return null;", arguments="p_job text"), "must accept \\(jsonb\\)"),
    "an additional argument": (
        hook("payload", "return null;", arguments="p_job jsonb, p_more text default ''"),
        "must accept \\(jsonb\\)",
    ),
    "another result": (hook("payload", "return null;", returns="text"), "and return jsonb, not text"),
    "other columns": (
        "drop function worker.echo__texts(jsonb);"
        + hook("texts", "return;", returns="table (column_name text, words text)"),
        "and return TABLE",
    ),
    "a procedure": (
        f"create procedure worker.echo__publish(p_job jsonb, p_result jsonb) language sql {SIGNED} as 'select 1'",
        "and return jsonb",
    ),
    "a volatile query": (hook("payload", "return null;", how="volatile"), "must be stable or immutable"),
    "a publication hook that is not volatile": (
        hook("publish", "return null;", arguments="p_job jsonb, p_result jsonb"),
        "must be volatile",
    ),
    "security definer": (hook("payload", "return null;", how="stable security definer"), "security invoker"),
    "a different search_path": (
        hook("payload", "return null;", how="stable set search_path = public"),
        "must be security invoker with search_path = pg_catalog, pg_temp",
    ),
    "no search_path": (
        hook("payload", "return null;") + "alter function worker.echo__payload(jsonb) reset all;",
        "must be security invoker with search_path = pg_catalog, pg_temp",
    ),
    "another setting": (
        hook("payload", "return null;", how=f"stable {SIGNED} set worker.changing_consent = 'yes'"),
        "and no other setting",
    ),
}


@pytest.mark.parametrize("name", WRONG_HOOKS)
def test_an_invalid_hook_fails_the_registration(rolled_back: AppTables, name: str) -> None:
    wrong, complaint = WRONG_HOOKS[name]
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=rf"kind echo: .*{complaint}"):
        add_echo(rolled_back, wrong)
    assert rolled_back.run("select from worker.job_kinds where kind = 'echo'") == []


@pytest.mark.parametrize(
    "column",
    [
        "friends uuid[]",
        "friend uuid",
        "paths text[]",
        "face jsonb",
        "face json",
        "notes text",
        "name varchar(20)",
        "note char(9)",
        "sizes integer[]",
        "raw bytea",
        "word public.word",
    ],
)
def test_a_column_that_could_name_a_person_or_hold_words_must_be_declared(rolled_back: AppTables, column: str) -> None:
    execute(
        rolled_back,
        "create domain public.word as text",
        TABLE,
        HOOKS,
        f"alter table public.echo_jobs add column {column}",
    )
    with pytest.raises(
        psycopg.errors.InvalidParameterValue, match=rf"column {column.split()[0]} of .* is not declared by any hook"
    ):
        execute(rolled_back, REGISTRATION)


USES_A_BASE = "alter table public.echo_jobs add column base text references worker.base_models (slug)"
NEEDS_THE_GPU = r"kind echo: column base of public\.echo_jobs needs the slot gpu, not light"


def test_a_kind_that_runs_on_a_base_model_needs_the_slot_gpu(rolled_back: AppTables) -> None:
    """It was registered, and no pod ever offered a route for its jobs."""
    execute(rolled_back, TABLE, HOOKS, USES_A_BASE)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=NEEDS_THE_GPU) as refused:
        execute(rolled_back, REGISTRATION)
    assert "Register the kind with the slot gpu" in str(refused.value.diag.message_hint)
    execute(rolled_back, REGISTRATION.replace("'light'", "'gpu'"))


def test_a_light_kind_gains_no_base_model_after_its_registration(rolled_back: AppTables) -> None:
    add_echo(rolled_back)
    execute(rolled_back, USES_A_BASE)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=NEEDS_THE_GPU):
        execute(rolled_back, "select worker.check_kinds()")


def test_numbers_times_and_booleans_need_no_declaration(rolled_back: AppTables) -> None:
    execute(rolled_back, TABLE, HOOKS)
    for kind in ("integer", "bigint", "real", "numeric(3, 1)", "boolean", "interval", "date", "timestamptz"):
        execute(rolled_back, f'alter table public.echo_jobs add column "{kind}" {kind}')
    execute(rolled_back, REGISTRATION)


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ("drop column gpu_seconds", "gpu_seconds"),
        ("alter column attempt type bigint", "attempt"),
        ("alter column status drop not null", "status"),
        ("alter column failures drop default", "failures"),
        ("drop constraint status_is_known", "CHECK \\(\\(status = ANY"),
        ("drop constraint echo_jobs_pkey", "PRIMARY KEY \\(id\\)"),
    ],
)
def test_a_table_without_the_whole_life_cycle_is_refused(rolled_back: AppTables, change: str, missing: str) -> None:
    execute(rolled_back, TABLE, HOOKS, f"alter table public.echo_jobs {change}")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=rf"lacks {missing}.* of the life cycle"):
        execute(rolled_back, REGISTRATION)


ALL_PLAIN = hook(
    "plain_columns",
    "return array(select attname::text from pg_catalog.pg_attribute "
    "where attrelid = 'public.generation_jobs'::regclass and attnum > 0);",
    arguments="",
    returns="text[]",
)
"""A hook that declares every column of generation_jobs plain, so that no consent is needed and nothing screened."""


@pytest.mark.parametrize(
    "spelling", ["public.Generation_Jobs", 'public."generation_jobs"', '"public".generation_jobs', "generation_jobs"]
)
def test_a_table_name_has_one_spelling(rolled_back: AppTables, spelling: str) -> None:
    execute(rolled_back, "set search_path = public", ALL_PLAIN)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=r"must be written schema\.table"):
        execute(rolled_back, REGISTRATION.replace("public.echo_jobs", spelling))


def test_two_kinds_cannot_share_a_table(rolled_back: AppTables) -> None:
    execute(rolled_back, ALL_PLAIN)
    with pytest.raises(psycopg.errors.DuplicateObject, match="already belongs to kind generation"):
        execute(rolled_back, REGISTRATION.replace("public.echo_jobs", "public.generation_jobs"))


def test_a_kind_needs_its_table(rolled_back: AppTables) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable, match=r"table public\.echo_jobs not found"):
        execute(rolled_back, REGISTRATION)


@pytest.mark.parametrize("kind", ["echo__loud", "Echo", "echo-loud", "9echo", "e", "echo_"])
def test_a_kind_name_that_makes_hook_names_ambiguous_is_refused(rolled_back: AppTables, kind: str) -> None:
    execute(rolled_back, TABLE)
    with pytest.raises(psycopg.errors.CheckViolation, match="job_kinds_kind_is_a_word"):
        execute(rolled_back, REGISTRATION.replace("'echo'", f"'{kind}'"))


def test_a_kind_belongs_to_the_package_that_registered_it(db: AppTables) -> None:
    apply_file(db.url, TABLE + HOOKS + REGISTRATION)
    with pytest.raises(psycopg.errors.DuplicateObject, match="already belongs to package likeness-echo"):
        apply_file(db.url, REGISTRATION, package="another")
    with pytest.raises(psycopg.errors.DuplicateObject, match="kind echo already belongs to package likeness-echo"):
        execute(db, REGISTRATION)
    with pytest.raises(psycopg.errors.DuplicateObject, match="kind generation already belongs to the core"):
        apply_file(db.url, REGISTRATION.replace("'echo'", "'generation'"))


def test_a_packages_kind_must_have_a_purpose(db: AppTables) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="purpose must be training or generation"):
        apply_file(db.url, TABLE + HOOKS + REGISTRATION.replace("'generation'", "null"))


def test_a_policys_condition_must_be_one_expression(db: AppTables) -> None:
    add_echo(db)
    for condition, error in (
        ("true); drop table public.echo_jobs; select (true", psycopg.errors.InvalidCursorDefinition),
        ("owner = auth.uid()", psycopg.errors.UndefinedColumn),
    ):
        with pytest.raises(error):
            db.run("select worker.declare_policy('echo', 'all', 'select', %s)", condition)


# -- requests


def test_the_subjects_that_a_kind_names_must_consent(db: AppTables) -> None:
    add_echo(db)
    ada = db.add_subject()
    job = ask_echo(db, picture_path=f"{db.owner}/{ada}/photos/1.jpg")
    assert db.job_subjects("echo", job) == {ada}
    db.run("select public.revoke_consent(%s)", ada)
    assert (echo(db, job)["status"], echo(db, job)["error_code"]) == ("failed", "consent_denied")
    again = ask_echo(db, picture_path=f"{db.owner}/{ada}/photos/1.jpg")
    assert echo(db, again)["error_code"] == "consent_denied"


@pytest.mark.parametrize("rule", ["null", "'owner'", "'LORA'"])
def test_a_key_without_a_known_rule_is_refused(db: AppTables, rule: str) -> None:
    add_echo(db, NAMED_KEYS.replace("'person'", rule))
    ada = db.add_subject(consent=False)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=r"picture_path: .* has the unknown rule"):
        ask_echo(db, picture_path=f"{db.owner}/{ada}/photos/1.jpg")


@pytest.mark.parametrize("screens", ["'prompt'", "'promt'", "null"])
def test_texts_are_screened_as_a_prompt_unless_declared_negative(db: AppTables, screens: str) -> None:
    add_echo(db, TEXTS.replace("'prompt'", screens))
    job = ask_echo(db, words="ohwx naked on a balcony")
    assert (echo(db, job)["status"], echo(db, job)["error_code"]) == ("failed", "prompt_blocked")


# -- hooks that fail

RAISES = {
    "an exception": "raise exception 'not today';",
    "an assertion": "assert false;",
    "a missing table": "return (select to_jsonb(t) from public.nowhere t);",
}


@pytest.mark.parametrize(
    ("name", "arguments", "returns"),
    [
        ("inputs_error", "p_job jsonb", "text[]"),
        ("payload", "p_job jsonb", "jsonb"),
        ("prefix", "p_job jsonb, p_attempt integer", "text"),
    ],
)
def test_a_hook_that_fails_at_the_start_fails_the_job(
    db: AppTables, echo_pod: Pod, name: str, arguments: str, returns: str
) -> None:
    add_echo(db)
    for failure in RAISES.values():
        execute(db, hook(name, failure, arguments=arguments, returns=returns), REGISTRATION)
        job = ask_echo(db)
        assert echo_pod.claim("echo") == ("echo", job)
        assert echo_pod.start("echo", job) is None
        row = echo(db, job)
        assert (row["status"], row["error_code"], row["attempt"]) == ("failed", "internal", 0), failure
        assert row["error"].startswith("a hook of kind echo failed with SQLSTATE ")
        assert db.queue_row("echo", job) is None


def test_a_request_that_a_hook_cannot_read_is_invalid(db: AppTables, echo_pod: Pod) -> None:
    add_echo(db, hook("payload", "return (p_job ->> 'words')::integer;"))
    job = ask_echo(db)
    assert echo_pod.start(*echo_pod.claim("echo")) is None  # type: ignore[misc]
    assert (echo(db, job)["status"], echo(db, job)["error_code"]) == ("failed", "invalid_input")


WRONG_PREFIXES = [
    "format('%s/%s/', p_job ->> 'id', p_attempt)",
    "format('mine/%s/%s/', p_attempt, p_job ->> 'id')",
    "format('mine/%s/%s', p_job ->> 'id', p_attempt)",
    "format('mine/%s/%s/', p_job ->> 'id', p_attempt + 1)",
    "format('mine/%s/%s/more/', p_job ->> 'id', p_attempt)",
    "format('../%s/%s/', p_job ->> 'id', p_attempt)",
    "format('mine/./%s/%s/', p_job ->> 'id', p_attempt)",
    "format('mine//%s/%s/', p_job ->> 'id', p_attempt)",
    "format('/mine/%s/%s/', p_job ->> 'id', p_attempt)",
    "'mine/'",
    "null::text",
]


def test_a_prefix_without_job_and_attempt_fails_the_start(db: AppTables, echo_pod: Pod) -> None:
    add_echo(db)
    for prefix in WRONG_PREFIXES:
        body, arguments = f"return {prefix};", "p_job jsonb, p_attempt integer"
        execute(db, hook("prefix", body, arguments=arguments, returns="text"), REGISTRATION)
        job = ask_echo(db)
        assert echo_pod.start(*echo_pod.claim("echo")) is None  # type: ignore[misc]
        assert (echo(db, job)["status"], echo(db, job)["error_code"]) == ("failed", "internal"), prefix


@pytest.mark.parametrize("name", ["publish", "result_error", "result_keys"])
def test_a_hook_that_fails_at_the_publication_publishes_nothing(db: AppTables, echo_pod: Pod, name: str) -> None:
    add_echo(db)
    for failure in RAISES.values():
        execute(db, failing_at_the_publication(name, failure), REGISTRATION)
        attempt = echo_pod.run("echo", ask_echo(db))
        attempt.stage("0.png")
        before = echo(db, attempt.id)
        assert attempt.complete({"objects": [attempt.key("0.png")]}) == "invalid", failure
        assert echo(db, attempt.id) == before
        assert db.staged(attempt.id) == {attempt.key("0.png"): "staged"}
        assert attempt.fail("internal") == "queued"


def failing_at_the_publication(name: str, failure: str) -> str:
    """Return a hook that fails."""
    return {
        "publish": hook(
            "publish",
            "update public.echo_jobs set phase = 'half done' where id = (p_job ->> 'id')::uuid; " + failure,
            arguments="p_job jsonb, p_result jsonb",
            how="volatile",
        ),
        "result_error": hook("result_error", failure, arguments="p_job jsonb, p_result jsonb", returns="text"),
        "result_keys": hook(
            "result_keys",
            failure.replace("return (", "return query (").replace("to_jsonb(t)", "t::text"),
            arguments="p_result jsonb",
            returns="setof text",
        ),
    }[name]


# -- a dropped table


def test_revocation_heartbeat_and_tick_work_without_a_kinds_table(db: AppTables, echo_pod: Pod) -> None:
    add_echo(db)
    ada = db.add_subject()
    waiting, running = (ask_echo(db, subject_id=ada, priority=priority) for priority in (0, 1))
    echoing = echo_pod.run("echo", running)
    drawing = echo_pod.run("generation", db.ask(subject_id=ada))
    queued = db.ask(subject_id=ada)
    warnings: list[str] = []
    db.database.add_notice_handler(lambda notice: warnings.append(notice.message_primary or ""))
    db.run("drop table public.echo_jobs cascade")  # the views over all kinds are dropped with it

    db.run("select public.revoke_consent(%s)", ada)
    assert db.status("generation", queued) == ("failed", "consent_denied")
    states = {lease["kind"]: lease["state"] for lease in echo_pod.heartbeat(echoing, drawing)["leases"]}
    assert states == {"echo": "lost", "generation": "cancel"}
    assert [echoing.report(), echoing.fail(), echoing.release(), echoing.complete({})] == ["lost"] * 4

    assert db.tick() is not None
    assert db.tick() is not None
    assert [text for text in warnings if "table public.echo_jobs not found" in text] == [
        "kind echo is skipped: table public.echo_jobs not found"
    ]
    assert db.queue_row("echo", waiting) is None
    assert {row["kind"] for row in db.run("select distinct kind from worker.jobs")} == {"generation"}
    assert {row["kind"] for row in db.run("select distinct kind from worker.job_details")} == {"generation"}
    assert echo_pod.call("peek", ["echo", *ROUTES], 10) == []
    assert drawing.release() == "consent_denied"


def test_registered_kinds_are_checked_again_at_the_end(rolled_back: AppTables) -> None:
    add_echo(rolled_back)
    rolled_back.run("select worker.check_kinds()")
    execute(rolled_back, NAMED_KEYS.replace("'picture_path'", "'elsewhere'"))
    with pytest.raises(
        psycopg.errors.InvalidParameterValue, match=r"column picture_path .* is not declared by any hook"
    ):
        execute(rolled_back, "select worker.check_kinds()")


def test_a_disabled_trigger_is_enabled_again_at_the_end(db: AppTables) -> None:
    add_echo(db)
    execute(db, "alter table public.echo_jobs disable trigger _100_before_insert")
    db.run("select worker.check_kinds()")
    without_consent = db.add_subject(consent=False)
    assert echo(db, ask_echo(db, subject_id=without_consent))["error_code"] == "consent_denied"


# -- a kind that changes


NAMES_NOBODY = (
    hook("named_keys", "return;", returns="table (column_name text, key text, rule text)", how="immutable")
    + hook("plain_columns", "return '{style,picture_path}';", arguments="", returns="text[]")
)  # fmt: skip


def test_whoever_a_later_release_of_a_kind_names_is_asked_before_the_start(db: AppTables, echo_pod: Pod) -> None:
    add_echo(db, NAMES_NOBODY)
    ada, eve = db.add_subject(consent=False), db.add_subject()
    refused, allowed = (ask_echo(db, picture_path=f"{db.owner}/{who}/photos/1.jpg") for who in (ada, eve))
    assert (db.job_subjects("echo", refused), db.job_subjects("echo", allowed)) == (set(), set())
    execute(db, HOOKS, REGISTRATION)

    assert echo_pod.start(*echo_pod.claim("echo")) is None  # type: ignore[misc]
    assert (echo(db, refused)["status"], echo(db, refused)["error_code"]) == ("failed", "consent_denied")
    assert db.ledger(ada, "refusal") != []
    attempt = echo_pod.run("echo", allowed)
    assert attempt.payload["subjects"] == [str(eve)]
    db.run("select public.revoke_consent(%s)", eve)
    assert attempt.report() == "cancel"


def test_whoever_a_later_release_of_a_kind_names_is_asked_before_the_publication(db: AppTables, echo_pod: Pod) -> None:
    add_echo(db, NAMES_NOBODY)
    ada = db.add_subject(consent=False)
    attempt = echo_pod.run("echo", ask_echo(db, picture_path=f"{db.owner}/{ada}/photos/1.jpg"))
    execute(db, HOOKS, REGISTRATION)
    assert attempt.complete({"objects": []}) == "consent_denied"


def test_a_row_that_came_without_its_trigger_starts_for_nobody_who_was_not_asked(db: AppTables, echo_pod: Pod) -> None:
    add_echo(db)
    db.run("drop table public.echo_jobs cascade")
    db.tick()
    execute(db, TABLE)  # as from a backup, without what the registration adds
    ada = db.add_subject(consent=False)
    job = ask_echo(db, subject_id=ada, created_at="2026-01-01")
    db.tick()
    assert echo_pod.claim("echo") == ("echo", job)
    assert echo_pod.start("echo", job) is None
    assert (echo(db, job)["status"], echo(db, job)["error_code"]) == ("failed", "consent_denied")


# -- hooks that disturb others


def test_a_hook_that_never_ends_fails_its_job_and_no_pod_asks_again(db: AppTables, echo_pod: Pod) -> None:
    forever = "loop perform pg_sleep(0.01); end loop;"
    add_echo(db, hook("payload", forever))
    starting = ask_echo(db)
    echo_pod.database.execute("set statement_timeout = '300ms'")
    assert echo_pod.start(*echo_pod.claim("echo")) is None  # type: ignore[misc]
    assert (echo(db, starting)["status"], echo(db, starting)["error_code"]) == ("failed", "internal")
    assert "took longer than statement_timeout" in echo(db, starting)["error"]

    execute(
        db,
        hook("payload", "return '{}';"),
        hook("publish", forever, arguments="p_job jsonb, p_result jsonb", how="volatile"),
    )
    execute(db, REGISTRATION)
    attempt = echo_pod.run("echo", ask_echo(db))
    assert attempt.complete({"objects": []}) == "invalid"


@pytest.mark.parametrize("failure", RAISES)
def test_a_hook_that_fails_hides_no_other_kind_from_a_pod(db: AppTables, echo_pod: Pod, failure: str) -> None:
    add_echo(db)
    ask_echo(db, priority=9)
    picture = db.ask()
    assert echo_pod.call("usable_routes", "echo", [TINY_BASE], 8.0) == [f"echo/{TINY_BASE}"]
    execute(
        db,
        hook("prefetch", RAISES[failure]),
        hook("capabilities", RAISES[failure].replace("to_jsonb(t)", "array[t::text]"), returns="text[]"),
        REGISTRATION,
    )
    assert [job["id"] for job in echo_pod.call("peek", list(echo_pod.routes), 10)] == [str(picture)]
    assert echo_pod.call("usable_routes", "echo", [TINY_BASE], 8.0) == []


def test_housekeeping_explains_the_jobs_of_a_kind_whose_capabilities_fail(
    db: AppTables, start_pod: Callable[..., Pod]
) -> None:
    """How much memory a job needs depends on what its kind asks of a base model."""
    start_pod(routes=("publish_lora",))
    training = db.ask_training()
    execute(
        db,
        hook("capabilities", RAISES["an assertion"], returns="text[]").replace("echo__", "training__"),
    )
    db.tick()
    assert db.job("training", training)["phase"].endswith(f"do not offer training/{TINY_BASE}: their logs say why")


def test_the_views_follow_a_table_that_goes_and_comes_back(
    db: AppTables, other_session: psycopg.Connection[Any]
) -> None:
    add_echo(db)
    job = ask_echo(db)
    db.run("select worker.make_job_views()")
    shown = "select count(*) from worker.job_details where kind = 'echo'"

    db.run("alter table public.echo_jobs rename to former_echo_jobs")
    other_session.execute("select from worker.jobs")
    assert db.tick() is not None, "a reader of the views stops no tick"
    assert db.one(shown) == 1
    other_session.rollback()
    db.tick()
    assert (db.one(shown), db.queue_row("echo", job)) == (0, None)

    db.run("alter table public.former_echo_jobs rename to echo_jobs")
    db.tick()
    assert db.one(shown) == 1


@pytest.mark.parametrize("who", ["a tick", "a revocation", "an insert"])
def test_a_table_that_is_gone_meanwhile_stops_no_statement_that_waits_for_it(
    db: AppTables, background: BackgroundCalls, other_session: psycopg.Connection[Any], who: str
) -> None:
    add_echo(db)
    ada = db.add_subject()
    ask_echo(db, subject_id=ada)
    picture = db.ask(subject_id=ada)
    newcomer = db.add_user(uuid4())  # whose jobs of all kinds are counted at the first INSERT
    other_session.execute("alter table public.echo_jobs rename to former_echo_jobs")
    statement, arguments = {
        "a tick": ("select worker.tick()", []),
        "a revocation": ("select public.revoke_consent(%s)", [ada]),
        "an insert": ("insert into public.generation_jobs (owner_id, prompt) values (%s, 'the sea')", [newcomer]),
    }[who]
    with psycopg.connect(db.url, autocommit=True) as caller:
        waiting = background.start_blocked(caller, caller.execute, statement, arguments)  # type: ignore[arg-type]
        other_session.commit()
        waiting.result(10)
    if who == "a revocation":
        assert db.status("generation", picture) == ("failed", "consent_denied")
