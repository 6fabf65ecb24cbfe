"""What a database lost since it was migrated: `worker.catalog_damage` finds it, `worker migrate --repair` mends it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.sql.catalog import differences, snapshot
from tests.sql.dumps import copy_database
from tests.sql.files import next_release
from tests.sql.supabase import OWNER, VERSIONS, Supabase, Supabases, supabase_server
from worker.database.connections import OwnConnection
from worker.database.schema import migrate
from worker.database.schema.catalog import find_damage

STORAGE_POLICIES = {
    'policy "likeness: users can upload photos and inputs of their own" on storage.objects: missing',
    'policy "likeness: users can view what is theirs" on storage.objects: missing',
}


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)  # type: ignore[arg-type]


def damage(url: str) -> set[str]:
    return set(map(str, migrate.damage(url)))


@pytest.fixture
def project(supabase: Supabase) -> str:
    """The URL of a migrated project with Realtime, as its owner."""
    return supabase.migrated(grants_by_default=True, realtime=True)


# Each statement with some of the objects that it damages.
LOSSES = {
    'drop policy "likeness: users can view what is theirs" on storage.objects': "users can view what is theirs",
    'alter policy "users can view their own subjects" on public.subjects using (true)': "on public.subjects: changed",
    "alter table public.presets disable row level security": "row-level security of public.presets: missing",
    "alter table public.presets force row level security": "row-level security of public.presets: changed",
    "alter table worker.config enable row level security": "row-level security of worker.config: on",
    "alter table public.training_jobs disable trigger user": "trigger _400_order on public.training_jobs: disabled",
    "drop trigger tg_pgqueuer_changed on worker.pgqueuer": "trigger tg_pgqueuer_changed on worker.pgqueuer: missing",
    "drop trigger _100_append_only on worker.consent_events": "trigger _100_append_only on worker.consent_ev",
    "grant all on public.subjects to anon": "right INSERT on table public.subjects of anon: added",
    "grant update (consent_status) on public.subjects to authenticated": "column public.subjects.consent_status of aut",
    "revoke insert (name) on public.subjects from authenticated": "right INSERT on column public.subjects.name",
    "grant execute on function worker.set_consent to public": "of everyone: added",
    "revoke execute on function worker.tick from likeness_worker": "right EXECUTE on function worker.tick() of likenes",
    "revoke usage on schema worker from likeness_worker": "right USAGE on schema worker of likeness_worker: missing",
    "revoke usage on sequence worker.pgqueuer_id_seq from likeness_worker": "right USAGE on sequence worker.pgqueuer_i",
    "alter publication supabase_realtime drop table public.training_jobs": "publication supabase_realtime of public.tr",
    "alter function worker.tick reset search_path": "function worker.tick(): changed",
    "alter function worker.tick security invoker": "function worker.tick(): changed",
    "drop function worker.on_subject_update cascade": "trigger _100_guards_consent on public.subjects: missing",
    "drop view worker.jobs": "view worker.jobs: missing",
    "alter view worker.queue_depth set (security_invoker = false)": "view worker.queue_depth: changed",
    "drop view worker.stranded_jobs; create view worker.stranded_jobs as select 1 as one": "view worker.stranded_jobs:",
    "drop index public.training_jobs_base": "index public.training_jobs_base: missing",
    "alter table public.subjects drop constraint subjects_name_1_to_200_characters": "constraint subjects_name_1_to_20",
    "alter table public.presets drop constraint presets_kind_is_known": "constraint presets_kind_is_known on public.pr",
    "alter table public.subjects alter consent_status set default 'approved'": "column public.subjects.consent_status:",
    "alter table public.subjects alter name drop not null": "column public.subjects.name: changed",
    "insert into worker.pgqueuer_log (id, job_id, status, entrypoint, priority) values (99, 1, 'queued', 'x', 0)": (
        "sequence worker.pgqueuer_log_id_seq: behind its column, which has 99"
    ),
}


@pytest.fixture(scope="module")
def whole(supabase: Supabase) -> tuple[str, set[str]]:
    """A project whose losses are rolled back, and what it lacks without any."""
    url = supabase.migrated(grants_by_default=True, realtime=True)
    return url, damage(url)


@pytest.mark.parametrize("statement", LOSSES)
def test_a_loss_is_found_and_repaired(whole: tuple[str, set[str]], statement: str) -> None:
    """Found here; repaired with all others below."""
    url, before = whole
    assert before == set(), "the control"
    with OwnConnection.open(url, "test") as connection, connection.transaction(force_rollback=True):
        connection.execute(statement)  # type: ignore[arg-type]
        found = {str(each) for each in find_damage(connection)}
    assert any(LOSSES[statement] in each for each in found), found


def test_all_losses_at_once_are_repaired(any_supabase: Supabase) -> None:
    url = any_supabase.migrated(grants_by_default=True, realtime=True)
    assert damage(url) == set(), "the control"
    before = snapshot(url)
    for statement in LOSSES:
        execute(url, statement)
    assert migrate.repair(url).left == []
    assert damage(url) == set()
    assert differences(before, snapshot(url)) == {}


def test_a_comparison_that_was_lost_is_made_again(project: str) -> None:
    before = snapshot(project)
    execute(project, "drop function worker.catalog_faults; drop trigger _100_append_only on worker.consent_events")
    with pytest.raises(migrate.MigrationError, match="catalog_faults"):
        migrate.damage(project)
    migrate.repair(project)
    assert differences(before, snapshot(project)) == {}


def test_what_nobody_can_repair_is_named_each_time(project: str) -> None:
    execute(project, "alter table worker.pgqueuer drop column heartbeat")
    warnings: list[str] = []
    for _ in range(2):
        left = migrate.repair(project, warn=warnings.append).left
        assert "column worker.pgqueuer.heartbeat: missing" in map(str, left)
    assert any("column worker.pgqueuer.heartbeat" in warning for warning in warnings)


def test_a_repair_that_fails_names_what_was_lost(project: str) -> None:
    """A file may need what nobody can repair; nothing is changed then."""
    execute(project, "alter table public.presets drop column settings; drop trigger _100_path on public.subject_photos")
    with pytest.raises(migrate.MigrationError, match=r"What was lost: .*column public\.presets\.settings: missing"):
        migrate.repair(project)
    assert "trigger _100_path on public.subject_photos: missing" in damage(project)


def test_a_migration_does_not_record_damage_as_right(project: str, tmp_path: Path) -> None:
    """Else the next release, applied after the loss, would make it permanent."""
    execute(project, "drop trigger tg_pgqueuer_changed on worker.pgqueuer")
    release = next_release(tmp_path, _9001_more="create index presets_name on public.presets (name);")
    migrate.migrate(project, release)
    assert damage(project) == {"trigger tg_pgqueuer_changed on worker.pgqueuer: missing"}
    execute(project, "drop index public.presets_name")
    assert "index public.presets_name: missing" in damage(project), "what the release added is recorded"
    migrate.repair(project, release)
    assert damage(project) == set()


def test_what_a_migration_drops_is_not_missed(project: str, tmp_path: Path) -> None:
    migrate.migrate(project, next_release(tmp_path, _9001_less="drop index public.training_jobs_base;"))
    assert damage(project) == set()


def test_an_apps_own_additions_are_its_business(supabase: Supabase, project: str, tmp_path: Path) -> None:
    """Neither while they are there, nor when the app drops them after a migration."""
    execute(project, "create table public.bookings (id int); grant all on public.bookings to anon")
    execute(project, "create index bookings_presets on public.presets (prompt)")
    execute(project, "create role analyst; grant select on public.presets to analyst")
    try:
        assert damage(project) == set()
        migrate.migrate(project, next_release(tmp_path))
        execute(project, "drop index public.bookings_presets")
        execute(project, "revoke select on public.presets from analyst")
        assert damage(project) == set()
    finally:
        execute(supabase.superuser_url(project), "drop owned by analyst; drop role analyst")


def test_a_policy_of_an_app_on_our_tables_is_reported_and_kept(project: str) -> None:
    execute(project, "create policy open on public.presets for select to anon using (true)")
    (found,) = migrate.damage(project)
    assert (str(found), found.is_an_apps_own) == ("policy open on public.presets: added", True)
    assert migrate.repair(project).left == [found]


def test_another_major_version_may_word_expressions_differently(project: str) -> None:
    """After an upgrade of the server, what is missing is still found."""
    execute(
        project, "update worker.expected_objects set server_major = 14, definition = replace(definition, '(', '( ')"
    )
    execute(project, "drop index public.training_jobs_base")
    assert "index public.training_jobs_base: missing" in damage(project)
    assert not any(found.startswith(("view", "index worker", "policy", "constraint")) for found in damage(project))


# ----------------------------------------------------------------------------------------------------- dump and restore


def restored(url: str) -> dict[str, str]:
    """Return the part of a snapshot that a restore spells as it was: names and parentheses of constraints are new."""
    kinds = ("column", "function", "index", "member", "policy", "published", "trigger", "type", "view")
    return {name: text for name, text in snapshot(url).items() if name.startswith(kinds)}


@pytest.mark.parametrize(
    ("version", "options"),
    [*((version, []) for version in VERSIONS), ("18", ["--no-privileges"]), ("18", ["--no-owner"])],
    ids=lambda value: value if isinstance(value, str) else " ".join(value) or "plain",
)
def test_a_dump_and_restore_loses_what_repair_brings_back(
    supabases: Supabases, tmp_path: Path, version: str, options: list[str]
) -> None:
    supabase = supabases.of(version)
    source, target = supabase.migrated(realtime=True), supabase.create()
    execute(target, "create publication supabase_realtime")  # as every project has it, before the restore
    complaints = copy_database(supabase, source, target, tmp_path, *options)
    assert "CREATE TRIGGER" not in complaints
    assert migrate.migrate(target) == [], "the ledger was copied with the rest"
    found = damage(target)
    assert found >= STORAGE_POLICIES
    assert not [each for each in found if each.startswith(("trigger", "constraint", "index", "function", "view"))]
    if "--no-privileges" in options:
        assert "right EXECUTE on function worker.tick() of likeness_worker: missing" in found
    assert migrate.repair(target).left == []
    assert differences(restored(source), restored(target)) == {}


def test_a_restore_on_a_server_without_the_role_is_repaired(
    supabase: Supabase, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Roles belong to the server, and no dump of a database contains them."""
    source = supabase.migrated()
    with supabase_server(tmp_path_factory.mktemp("elsewhere"), "18") as elsewhere:
        target = elsewhere.create()
        copy_database(supabase, source, target, tmp_path)
        assert "role likeness_worker: missing" in damage(target)
        assert migrate.repair(target).left == []
        assert differences(restored(source), restored(target)) == {}


def test_a_restore_that_ended_before_its_last_part_is_repaired(supabase: Supabase, tmp_path: Path) -> None:
    """Primary keys, indexes and triggers are what a restore creates last: the record's own key is among them."""
    source, target = supabase.migrated(), supabase.create()
    copy_database(supabase, source, target, tmp_path, "--section=pre-data", "--section=data")
    assert "constraint expected_objects_pkey on worker.expected_objects: missing" in damage(target)
    assert migrate.repair(target).left == []
    assert damage(target) == set()
    assert differences(restored(source), restored(target)) == {}


def test_what_repair_mends_is_not_reported_as_beyond_repair(supabase: Supabase, project: str) -> None:
    """Functions that call each other are made again in any order."""
    superuser = supabase.superuser_url(project)
    for name in ("make_first_nonce()", "timing(text)", "before_job_update() cascade"):
        execute(superuser, f"drop function worker.{name}")
    warnings: list[str] = []
    assert migrate.repair(project, warn=warnings.append).left == []
    assert warnings == []


def test_a_copy_of_the_schema_alone_is_refused_by_name(supabase: Supabase, tmp_path: Path) -> None:
    source, target = supabase.migrated(), supabase.create()
    copy_database(supabase, source, target, tmp_path, "--schema-only")
    with pytest.raises(migrate.MigrationError, match="schema_versions is missing or empty: this is a copy without"):
        migrate.migrate(target)


def test_objects_that_were_restored_as_another_role_are_given_back(supabase: Supabase, project: str) -> None:
    execute(supabase.superuser_url(project), "alter function worker.tick owner to postgres")
    execute(supabase.superuser_url(project), "alter table public.presets owner to postgres")
    assert damage(project) == {"function worker.tick(): owned by postgres", "table public.presets: owned by postgres"}
    with pytest.raises(migrate.MigrationError, match=r"belongs to another role|must be owner"):
        migrate.repair(project)
    migrate.repair(supabase.superuser_url(project))
    assert damage(project) == set()


# -------------------------------------------------------------------------------------------------- what is others' own


@pytest.fixture
def strangers(supabase: Supabase) -> Iterator[str]:
    """An empty project whose storage and publication belong to roles that its owner is not a member of."""
    url = supabase.create()
    superuser = supabase.superuser_url(url)
    execute(superuser, "create publication supabase_realtime")
    execute(superuser, f"revoke supabase_storage_admin from {OWNER}")
    yield url
    execute(superuser, f"grant supabase_storage_admin to {OWNER}")


def test_what_belongs_to_another_role_is_skipped_with_what_then_does_not_work(
    supabase: Supabase, strangers: str
) -> None:
    warnings: list[str] = []
    assert migrate.migrate(strangers, warn=warnings.append) != []
    text = "\n".join(warnings)
    assert "storage.objects belongs to supabase_storage_admin" in text
    assert "apps cannot upload there with a user's token" in text
    assert "As supabase_storage_admin: create policy" in text
    assert (
        "publication supabase_realtime belongs to postgres: Realtime tells clients no changes of public.subjects"
        in text
    )
    assert "not of a pod" not in text
    assert damage(strangers) == STORAGE_POLICIES | {
        f"publication supabase_realtime of public.{table}: missing"
        for table in ("subjects", "subjects_models", "training_jobs", "generation_jobs", "mesh_jobs")
    }
    # What the warnings advise is enough.
    superuser = supabase.superuser_url(strangers)
    for statement in re.findall(r"As supabase_storage_admin: (create policy .*?);$", text, re.DOTALL | re.MULTILINE):
        execute(superuser, statement)
    execute(superuser, f"alter publication supabase_realtime owner to {OWNER}")
    assert migrate.repair(strangers).left == []


def test_row_level_security_of_an_event_trigger_does_not_stay_on_our_tables(supabase: Supabase) -> None:
    url = supabase.create()
    execute(
        supabase.superuser_url(url),
        """create function public.enable_rls() returns event_trigger language plpgsql as $$
           declare made record;
           begin
             for made in select * from pg_event_trigger_ddl_commands() where object_type = 'table' loop
               execute format('alter table %s enable row level security', made.object_identity);
             end loop;
           end $$;
           create event trigger enable_rls on ddl_command_end when tag in ('CREATE TABLE')
           execute function enable_rls()""",
    )
    migrate.migrate(url)
    assert damage(url) == set()
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "select oid::regclass::text from pg_class where relnamespace = 'worker'::regnamespace and relrowsecurity"
        ).fetchall()
    assert found == []
