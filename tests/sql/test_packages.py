"""SQL of packages: it can create and change its own objects; a file that changes others is refused as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.conftest import Databases
from tests.sql.catalog import differences, policy_oids, snapshot
from tests.sql.echo_kind import HOOKS, NAMED_KEYS, PACKAGE, REGISTRATION, TABLE, apply_file, write_package
from tests.sql.files import next_release, psql
from tests.sql.pod import Claims, Pod
from tests.sql.supabase import PROJECTS, Supabase, Supabases
from tests.sql.tables import AppTables
from worker.database.schema.migrate import MigrationError, migrate
from worker.database.schema.printed import render

SIGNED = "set search_path = pg_catalog, pg_temp"

CORE_IS_CHANGED = {
    # functions
    "a core function is replaced": "create or replace function worker.consent_error(p_subject_id uuid, p_purpose text) "
    f"returns text language sql stable security definer {SIGNED} as 'select null::text'",
    "a core function gets an overload": f"create function worker.consent_error(p_subject_id uuid) "
    f"returns text language sql stable {SIGNED} as 'select null::text'",
    "a function of the app gets an overload": "create function public.cancel_job(id uuid) returns text language sql "
    "as 'select null::text'",
    "a core function is renamed": "alter function worker.job_consent_error(text, uuid) rename to echo_consent_error",
    "a core function is dropped": "drop function worker.log_refusal(text, uuid, text)",
    "a core function runs as its caller": "alter function worker.start_job(text, uuid, uuid) security invoker",
    "a core function gets a setting": "alter function worker.heartbeat(uuid, jsonb) set lock_timeout = '1s'",
    "a core function gets another owner": "alter function worker.items(jsonb, text) owner to service_role",
    "a core function is granted": "grant execute on function worker.items(jsonb, text) to authenticated",
    "a new function in the core's schema": f"create function worker.helper() returns int language sql {SIGNED} "
    "as 'select 1'",
    "a hook of another kind": f"create function worker.training__request_error(p_job jsonb) returns text "
    f"language sql stable {SIGNED} as 'select null::text'",
    "a hook of a kind with the same name prefix": "create function worker.echo_loud__payload(p_job jsonb) "
    f"returns jsonb language sql stable {SIGNED} as 'select null::jsonb'",
    "the function that compares is replaced": "create or replace function worker.foreign_change(p_package text, "
    f"p_before jsonb) returns text language sql stable {SIGNED} as 'select null::text'",
    "the function that reads the catalog is replaced": "create or replace function worker.catalog_objects() "
    f"returns table (object text, parent text, definition text) language sql stable {SIGNED} "
    "as 'select null, null, null where false'",
    "a function of Postgres is overloaded": "create function pg_catalog.left(uuid, integer) returns text language sql "
    "as 'select null::text'",
    # tables
    "a column is added": "alter table public.subjects add column mood text",
    "a column is dropped": "alter table public.presets drop column negative_prompt",
    "a default is changed": "alter table public.subjects alter column subject_is_adult set default true",
    "a constraint is dropped": "alter table public.subjects drop constraint subjects_approved_is_for_adults",
    "a constraint is added": "alter table public.subjects add constraint named check (name <> 'x')",
    "an index is added": "create index on public.subjects (name)",
    "a trigger is added": "create trigger echo before insert on public.generation_jobs for each row "
    "execute function worker.before_job_insert('generation')",
    "a trigger is added to storage.objects": "create trigger echo before insert on storage.objects for each row "
    "execute function worker.refuse_change()",
    "a trigger is disabled": "alter table worker.consent_events disable trigger _100_append_only",
    "a trigger is dropped": "drop trigger _100_guards_consent on public.subjects",
    "a rule is added": "create rule echo as on delete to worker.consent_events do instead nothing",
    "a policy is added": "create policy echo on public.subjects for select to authenticated using (true)",
    "a policy is altered": 'alter policy "users can view their own subjects" on public.subjects using (true)',
    "row-level security is disabled": "alter table public.subjects disable row level security",
    "a table is granted": "grant select on worker.consent_events to authenticated",
    "a column is granted": "grant update (status) on public.generation_jobs to authenticated",
    "a table gets another owner": "alter table worker.pods owner to service_role",
    "a table is dropped": "drop table worker.pgqueuer_schedules",
    "a table becomes unlogged": "alter table worker.pods set unlogged",
    "a table gets a child": "create table public.more_subjects () inherits (public.subjects)",
    "a table is published": "create publication echo for table worker.consent_events",
    "a view is replaced": "create or replace view worker.queue_depth as select null::text as route, "
    "0::bigint as waiting, null::interval as oldest, 0::bigint as running, 0::bigint as pods",
    "a type gets a value": "alter type worker.pgqueuer_status add value 'echoed'",
    # rows
    "the configuration is changed": "update worker.config set consent_mode = 'owner_attests'",
    "consent is granted": "select public.grant_consent(id) from public.subjects",
    "the ledger is emptied": "alter table worker.consent_events disable trigger user; truncate worker.consent_events; "
    "alter table worker.consent_events enable trigger user",
    "a subject is renamed": "update public.subjects set name = 'Echo'",
    "a subject is added": "insert into public.subjects (owner_id, name) select owner_id, 'Echo' from public.subjects",
    "an account is deleted": "delete from auth.users",
    "a job is put on the queue": "insert into worker.pgqueuer (priority, execute_after, status, entrypoint, "
    "dedupe_key) values (0, now(), 'queued', 'echo', 'echo:' || gen_random_uuid())",
    "its file versions are deleted": "delete from worker.kind_versions",
    "its list of own objects is extended": "insert into worker.package_objects values "
    "('likeness-echo', 'function worker.items(jsonb,text)')",
    "a base of the core is changed": "update worker.base_models set min_vram_gib = 0",
    "a kind of the core is changed": "update worker.job_kinds set purpose = null where kind = 'generation'",
    "a kind is registered for the core": "insert into worker.job_kinds (kind, table_name, subject_required, slot, "
    "max_runtime) values ('free', 'public.echo_jobs', false, 'light', '1 hour')",
    "a kind is registered for another package": "insert into worker.job_kinds (kind, table_name, subject_required, "
    "slot, max_runtime, package) values ('free', 'public.echo_jobs', false, 'light', '1 hour', 'another')",
    "a policy is declared for a kind of the core": "select worker.declare_policy('generation', 'all', "
    "'select', 'true')",
    "a grant is declared for a kind of the core": "select worker.declare_grant('generation', 'select', "
    "'worker.consent_events', 'authenticated')",
    # the database
    "an event trigger": "create function public.echo_event() returns event_trigger language plpgsql as 'begin end'; "
    "create event trigger echo on ddl_command_end execute function public.echo_event()",
    "default privileges": "alter default privileges in schema worker grant all on tables to anon",
    "a role": "create role echo_role",
    "a role's attributes": "alter role likeness_worker bypassrls",
    "a role's settings": "alter role likeness_worker set session_replication_role = replica",
    "a membership": "grant service_role to likeness_worker",
    "a schema's rights": "grant create on schema worker to authenticated",
    "a cast": "create type public.echo_word as enum ('x'); "
    "create cast (text as public.echo_word) with inout as implicit",
    "an extension": "create extension vector",
    # later effects
    "a deferred trigger": "create function public.echo_later() returns trigger language plpgsql as "
    "$later$ begin update worker.config set consent_mode = 'owner_attests'; return null; end $later$; "
    "create table public.echo_later (id int); create constraint trigger later after insert on public.echo_later "
    "deferrable initially deferred for each row execute function public.echo_later(); "
    "insert into public.echo_later values (1)",
    "a session setting": "set session_replication_role = replica",
    "a setting of the transaction": "set local row_security = off",
    "a changed search_path": "set search_path = public",
    "another role": "set role service_role",
    "another package": "select set_config('worker.package', 'another', true)",
    "the core's name": "select set_config('worker.package', '', true)",
}


@pytest.fixture(scope="module")
def echo_database(databases: Databases) -> Iterator[str]:
    """A database with the package's kind and a subject, for files that are refused."""
    with databases.fresh() as url:
        apply_file(url, TABLE + HOOKS + REGISTRATION, name="echo")
        with AppTables.open(url) as app:
            app.add_subject(consent=False)
        yield url


@pytest.mark.parametrize("name", CORE_IS_CHANGED)
def test_a_file_that_changes_objects_of_others_is_refused(echo_database: str, name: str) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match=rf"^package {PACKAGE}, more: it (changed|left) "):
        apply_file(echo_database, CORE_IS_CHANGED[name])


@pytest.mark.parametrize(
    "text",
    [
        "commit;",
        "create table public.echo_kept (id int); commit; select 1 / 0;",
        "rollback;",
        "begin;",
        "savepoint here;",
        "do $body$ begin commit; end $body$;",
        "create procedure public.echo_commits() language plpgsql as $body$ begin commit; end $body$; "
        "call public.echo_commits();",
    ],
)
def test_a_file_cannot_end_the_transaction(echo_database: str, text: str) -> None:
    before = snapshot(echo_database)
    with pytest.raises(psycopg.Error, match=rf"^package {PACKAGE}, more: ") as refused:
        apply_file(echo_database, text)
    assert refused.value.sqlstate in ("0A000", "2D000")
    assert differences(before, snapshot(echo_database)) == {}


def test_a_package_can_change_its_own_objects(database_url: str) -> None:
    apply_file(database_url, TABLE + HOOKS + REGISTRATION, name="echo")
    own = """
      create schema echo;
      create type echo.volume as enum ('loud');
      create table echo.places (id int primary key, echoes int);
      create table public.echo_places (id int primary key, subject_id uuid references public.subjects);
      create function echo.listen(p_word text) returns text language sql as 'select p_word';
      create function worker.echo_helper() returns int language sql set search_path = pg_catalog, pg_temp as 'select 1';
      create view public.echo_view as select id from public.echo_places;
      insert into echo.places values (1, 0);
      insert into worker.base_models (slug, family, capabilities, licence, commercial_use)
      values ('echo-1', 'echo', '{}', 'none', true);
      insert into public.presets (owner_id, name, kind) values (null, 'loud', 'echo');
    """
    later = """
      alter type echo.volume add value 'quiet';
      alter table public.echo_jobs add column loudness integer;
      create index echo_jobs_style on public.echo_jobs (style);
      alter table public.echo_places drop column subject_id;
      create or replace function echo.listen(p_word text) returns text language sql as 'select upper(p_word)';
      drop view public.echo_view;
      update echo.places set echoes = 1;
      delete from echo.places;
      update worker.base_models set licence = 'MIT' where slug = 'echo-1';
    """
    for name, text in (("own", own), ("later", later), ("echo", HOOKS + REGISTRATION)):
        apply_file(database_url, text, name=name)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"changed function echo\.listen\(text\)"):
        apply_file(
            database_url,
            "create or replace function echo.listen(p_word text) returns text language sql as 'select null'",
            package="another",
        )


def test_a_package_no_longer_owns_a_name_that_it_dropped(database_url: str) -> None:
    made = "create function public.listen() returns int language sql as 'select 1'"
    apply_file(database_url, made)
    apply_file(database_url, "drop function public.listen()")
    with psycopg.connect(database_url) as owner:
        owner.execute(made)  # type: ignore[arg-type]
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"dropped function public\.listen"):
        apply_file(database_url, "drop function public.listen()")


# -- complete migrations, on each PostgreSQL version


@PROJECTS
def test_a_packages_objects_are_granted_only_as_declared(
    supabases: Supabases, version: str, grants_by_default: bool, tmp_path: Path
) -> None:
    made = f"""
      create table public.echo_places (id int);
      create view public.echo_view as select id from public.echo_places;
      create function public.echo_open() returns int language sql {SIGNED} as 'select 1';
      create function public.echo_closed() returns int language sql {SIGNED} as 'select 1';
    """
    declared = """
do $$
begin
  perform worker.declare_grant('echo', 'execute', 'public.echo_open()', 'authenticated');
  perform worker.declare_grant('echo', 'select', 'public.echo_view', 'authenticated');
end $$;
"""
    package = write_package(tmp_path, echo=HOOKS + REGISTRATION + declared)
    (package.folder / "migrations" / "0002_more.sql").write_text(made)
    url = supabases.of(version).create(grants_by_default=grants_by_default)
    assert f"{PACKAGE}: echo" in migrate(url, packages=[package])
    assert held(url) == {"echo_open": {"authenticated"}, "echo_view": {"authenticated"}}
    assert len([name for name in policy_oids(url) if name.startswith("echo_jobs.")]) == 2
    before = snapshot(url)
    assert migrate(url, packages=[package]) == []
    migrate(url, next_release(tmp_path), packages=[package])
    assert list(differences(before, snapshot(url))) == ["row of worker.schema_versions views"]

    withdrawn = REGISTRATION.replace("perform worker.declare_policy", "-- perform worker.declare_policy")
    (package.folder / "echo.sql").write_text(HOOKS + withdrawn)
    migrate(url, tmp_path / "sql", packages=[package])
    assert held(url) == {}
    assert [name for name in policy_oids(url) if name.startswith("echo_jobs.")] == []


def held(url: str) -> dict[str, set[str]]:
    """Return which clients can use the package's objects other than its job table."""
    roles = ["anon", "authenticated", "service_role", "likeness_worker"]
    with psycopg.connect(url) as owner:
        rows = owner.execute(
            """select proname, role from pg_proc cross join unnest(%(roles)s::text[]) role
               where proname like 'echo%%' and pronamespace = 'public'::regnamespace
                 and has_function_privilege(role, pg_proc.oid, 'execute')
               union all
               select relname, role from pg_class cross join unnest(%(roles)s::text[]) role
               where relname in ('echo_places', 'echo_view')
                 and has_table_privilege(role, pg_class.oid, 'select, insert, update, delete')""",
            {"roles": roles},
        ).fetchall()
    found: dict[str, set[str]] = {}
    for name, role in rows:
        found.setdefault(name, set()).add(role)
    return found


def test_a_grant_on_an_object_of_others_is_refused(supabase: Supabase, tmp_path: Path) -> None:
    url = supabase.create()
    before = snapshot(url)
    for number, (privilege, thing) in enumerate(
        [
            ("select", "worker.consent_events"),
            ("execute", "worker.set_consent(uuid, text, text[], timestamptz, boolean, text, text, text)"),
        ]
    ):
        declared = (
            f"do $$ begin perform worker.declare_grant('echo', '{privilege}', '{thing}', 'authenticated'); end $$;"
        )
        package = write_package(tmp_path / str(number), echo=HOOKS + REGISTRATION + declared)
        with pytest.raises(
            MigrationError, match=rf"package {PACKAGE}: kind echo declares a grant on .*, which is not its own"
        ):
            migrate(url, packages=[package])
        assert differences(before, snapshot(url)) == {}


UNDONE_LATER = {
    "the hook that names people": (NAMED_KEYS.replace("'picture_path'", "'elsewhere'"), "column picture_path of"),
    "another column": ("alter table public.echo_jobs add column friend_ids uuid[];", "column friend_ids of"),
    "the purpose": ("update worker.job_kinds set purpose = null where kind = 'echo';", "removed its purpose"),
    "the list of hooks": ("update worker.job_kinds set hooks = '{}' where kind = 'echo';", None),
    "the trigger": ("drop trigger _100_before_insert on public.echo_jobs;", None),
    "row-level security": ("alter table public.echo_jobs disable row level security;", None),
    "a right": ("grant all on public.echo_jobs to anon;", None),
    "the life cycle": ("alter table public.echo_jobs drop constraint status_is_known;", "lacks CHECK"),
}


@pytest.mark.parametrize("is_refused", [True, False], ids=["refused", "repaired"])
def test_a_file_after_the_registration_cannot_undo_it(supabase: Supabase, tmp_path: Path, is_refused: bool) -> None:
    good = supabase.migrated()
    if not is_refused:
        migrate(good, packages=[write_package(tmp_path / "good")])
    before = snapshot(good)
    for name, (text, refusal) in UNDONE_LATER.items():
        if is_refused == (refusal is not None):
            undone = supabase.migrated()
            package = write_package(tmp_path / name, undone=text)
            if refusal:
                with pytest.raises(MigrationError, match=rf"rights\.sql: kind echo: .*{refusal}"):
                    migrate(undone, packages=[package])
            else:
                migrate(undone, packages=[package])
            assert differences(before, snapshot(undone)) == {}, name


def test_a_refused_file_changes_nothing_by_either_route(supabase: Supabase, tmp_path: Path) -> None:
    package = write_package(tmp_path, more=CORE_IS_CHANGED["a core function is replaced"])
    url = supabase.create()
    before = snapshot(url)
    refusal = rf"package {PACKAGE}, more: .* not its own: changed function worker\.consent_error"
    with pytest.raises(MigrationError, match=refusal):
        migrate(url, packages=[package])
    assert differences(before, snapshot(url)) == {}
    printed = psql(url, render(packages=[package]), tmp_path)
    assert printed.returncode != 0
    assert "it changed objects that are not its own: changed function worker.consent_error(uuid,text)" in printed.stderr
    assert differences(before, snapshot(url)) == {}


def test_a_kind_of_a_package_runs_like_any_other(supabase: Supabase, tmp_path: Path) -> None:
    url = supabase.migrated(grants_by_default=True)
    migrate(url, packages=[write_package(tmp_path)])
    with AppTables.open(url) as app, Claims(url) as claims:
        with app.acting_as("authenticated", app.owner) as client:
            client.execute("insert into public.echo_jobs (words) values ('hello')")
            (row,) = client.execute("select id, status from public.echo_jobs").fetchall()
        pod = Pod(url, claims, routes=("echo",))
        attempt = pod.run("echo", row["id"])
        attempt.stage("0.png")
        assert attempt.complete({"objects": [attempt.key("0.png")]}) == "ok"
        pod.close()
        assert app.staged(row["id"]) == {attempt.key("0.png"): "published"}


ODD_TEXTS = {
    "quotes of the printed file": "select $apply$a$apply$, $package_0$b$package_0$, $package_1$c$package_1$;",
    "the beginning of a quote at its end": "-- $package_0",
    "what psql and psycopg read": "-- \\q :foo :'bar' %s %(x)s $1 {} ''\n",
    "another system's lines and mark": "\ufeffselect 1;\r\nselect 2;\r\n",
    "nothing": "",
}


def test_a_text_is_applied_and_printed_as_it_is(supabase: Supabase, tmp_path: Path) -> None:
    package = write_package(tmp_path, **{f"it's odd: {name}": text for name, text in ODD_TEXTS.items()})
    applied, by_psql, by_psycopg = (supabase.create() for _ in range(3))
    migrate(applied, packages=[package])
    text = render(packages=[package])
    printed = psql(by_psql, text, tmp_path)
    assert printed.returncode == 0, printed.stderr
    with psycopg.connect(by_psycopg) as owner:
        owner.execute(text.encode())
    for url in (by_psql, by_psycopg):
        assert differences(snapshot(applied), snapshot(url)) == {}
        assert migrate(url, packages=[package]) == []


@pytest.mark.parametrize(
    ("content", "reason"), [(b"-- \xff", "byte 3 is not UTF-8"), (b"select 1; -- \0", "it contains a NUL byte")]
)
def test_a_file_that_is_no_text_is_refused_by_name(tmp_path: Path, content: bytes, reason: str) -> None:
    package = write_package(tmp_path)
    (package.folder / "more.sql").write_bytes(content)
    with pytest.raises(MigrationError, match=rf"package {PACKAGE}, more\.sql cannot be read: {reason}"):
        render(packages=[package])


def test_a_package_that_is_left_out_is_not_applied_although_it_is_installed(supabase: Supabase, tmp_path: Path) -> None:
    url = supabase.create()
    newer, older = write_package(tmp_path / "newer"), write_package(tmp_path / "older", echo="select 1 / 0;")
    (newer.folder / "migrations" / "0002_more.sql").write_text("create table public.echo_places (id int);")
    migrate(url, packages=[newer])
    before = snapshot(url)
    with pytest.raises(MigrationError, match="a newer release was here"):
        migrate(url, packages=[older])
    assert "views" in migrate(url, next_release(tmp_path), packages=[older], without=[PACKAGE])
    assert list(differences(before, snapshot(url))) == ["row of worker.schema_versions views"]
    assert "worker.apply_package_file('" not in render(packages=[older], without=[PACKAGE])
