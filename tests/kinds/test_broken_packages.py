"""A package that is broken, or that takes liberties, is refused by name, and leaves the database as it was."""

from __future__ import annotations

import os
from pathlib import Path

from tests.kinds.packages import migrate, python_path, write_package
from tests.sql.catalog import differences, snapshot
from tests.worker.conftest import MakeFleet

TABLE = "create table public.bad_jobs (like worker.life_cycle including all, words text, portrait text);"
HOOK = """
create function worker.bad__{hook}(p_job jsonb) returns table (column_name text, {columns}) language sql immutable
set search_path = pg_catalog, pg_temp as $$ select {values} $$;"""
KEYS = HOOK.format(
    hook="named_keys", columns="key text, rule text", values="'portrait', p_job ->> 'portrait', 'person'"
)
TEXTS = HOOK.format(hook="texts", columns="words text, screens text", values="'words', p_job ->> 'words', 'prompt'")
REGISTER = """
do $$ begin
  perform worker.register_job_table('bad', 'public.bad_jobs', {purpose}, false, 'light', interval '1 minute');
end $$;"""
GOOD = TABLE + KEYS + TEXTS + REGISTER.format(purpose="'generation'")


FAULTS = {
    "it fails": (GOOD + "select nothing_of_that_name();", "function nothing_of_that_name() does not exist"),
    "it changes the core": (
        GOOD + "create or replace function worker.consent_error(p_subject_id uuid, p_purpose text) returns text "
        "language sql stable as $$ select null $$;",
        "changed function worker.consent_error(uuid,text)",
    ),
    "it forgets a person": (TABLE + TEXTS + REGISTER.format(purpose="'generation'"), "column portrait of public.bad_"),
    "it forgets words": (TABLE + KEYS + REGISTER.format(purpose="'generation'"), "column words of public.bad_jobs"),
    "a misspelt hook": (GOOD.replace("bad__texts", "bad__text"), "worker.bad__text(jsonb) is not a hook"),
    "no purpose": (TABLE + KEYS + TEXTS + REGISTER.format(purpose="null"), "purpose must be training or generation"),
    "a column more": (GOOD.replace("including all", "including all, mood text"), "column mood of public.bad_jobs"),
    "it commits": (TABLE + "commit;", "EXECUTE of transaction commands is not implemented"),
}


def test_a_package_that_may_not_be_applied_leaves_the_database_as_it_was(database_url: str, tmp_path: Path) -> None:
    before = snapshot(database_url)
    for fault, (sql, said) in FAULTS.items():
        package = write_package(tmp_path / fault.replace(" ", "-"), "likeness-bad", sql)
        refused = migrate(database_url, packages=(package,))
        assert refused.returncode == 1, fault
        assert refused.stderr.startswith("migrate: package likeness-bad, kind: "), fault
        assert said in refused.stderr, fault
        assert "Nothing was changed." in refused.stderr, fault
        assert "Traceback" not in refused.stderr, fault
        assert differences(before, snapshot(database_url)) == {}, fault
    applied = migrate(database_url, packages=(write_package(tmp_path / "good", "likeness-bad", GOOD),))
    assert applied.returncode == 0, applied.stderr


def test_an_entry_point_that_names_no_module_stops_no_migration(database_url: str, tmp_path: Path) -> None:
    package = write_package(tmp_path, "likeness-bad", GOOD, {"bad": "not a reference"})
    applied = migrate(database_url, packages=(package,))
    assert (applied.returncode, applied.stdout) == (0, "Up to date: nothing to apply.\n"), applied.stderr


def test_a_package_has_one_name_however_it_is_written(database_url: str, tmp_path: Path) -> None:
    package = write_package(tmp_path, "likeness-bad", GOOD)
    assert migrate(database_url, packages=(package,)).returncode == 0
    assert migrate(database_url).returncode == 1, "only --without does without it"
    for spelling in ("Likeness_Bad", "likeness.bad"):
        assert migrate(database_url, "--without", spelling).returncode == 0


def test_a_pod_with_packages_that_cannot_be_imported_goes_on_with_the_other_kinds(
    make_echo_fleet: MakeFleet, tmp_path: Path
) -> None:
    bad = write_package(tmp_path / "bad", "likeness-bad", GOOD, code="import a_module_that_is_not_there")
    worse = GOOD.replace("bad", "worse")
    worse_package = write_package(tmp_path / "worse", "likeness-worse", worse, code="import sys; sys.exit('no')")
    fleet = make_echo_fleet(WORKER_KINDS="publish_lora,echo,likeness_bad,likeness_worse")
    fleet.environment["PYTHONPATH"] += os.pathsep + os.pathsep.join(map(str, (bad, worse_package)))
    assert migrate(fleet.app.url, "--without", "likeness-echo", packages=(bad, worse_package)).returncode == 0
    (worker,) = fleet.ready(1)
    told = {line["kind"]: line for line in worker.events("kind.unusable")}
    reasons = {"bad": "a_module_that_is_not_there", "worse": "SystemExit: no"}
    assert told.keys() == {f"likeness_{name}" for name in reasons}
    for name, reason in reasons.items():
        assert f"package likeness-{name}" in told[f"likeness_{name}"]["message"]
        assert reason in told[f"likeness_{name}"]["reason"]
    routes = worker.events("worker.ready")[0]["routes"]
    assert {"echo", "publish_lora"} <= set(routes)
    assert not any(route.startswith(("bad", "worse")) for route in routes)
    fleet.completed("publish_lora", fleet.copy_lora(fleet.app.add_subject()))
    fleet.completed("echo", fleet.echo())


HANDLER = """
import asyncio, sys
from worker.kinds import Kind, no_texts

async def run(lease, context):
    match lease.job.row["words"]:
        case "exit":
            sys.exit(0)
        case "cancel":
            raise asyncio.CancelledError
        case "nothing":
            return None
    return {}

KIND = Kind("bad", run, no_texts)
"""


def test_a_handler_that_ends_itself_fails_its_job_and_nothing_else(make_fleet: MakeFleet, tmp_path: Path) -> None:
    words_alone = TABLE.replace(", portrait text", "") + TEXTS + REGISTER.format(purpose="'generation'")
    package = write_package(tmp_path, "likeness-bad", words_alone, {"bad": "likeness_bad.kind:KIND"}, HANDLER)
    fleet = make_fleet(PYTHONPATH=python_path(package), WORKER_KINDS="bad")
    fleet.app.tables["bad"] = "public.bad_jobs"
    assert migrate(fleet.app.url, packages=(package,)).returncode == 0
    (worker,) = fleet.ready(1)
    for words in ("exit", "cancel", "nothing"):
        job = fleet.app.wait_for("bad", fleet.app.request("bad", owner_id=fleet.app.owner, words=words, max_failures=1))
        assert (job["status"], job["error_code"], job["attempt"]) == ("failed", "internal", 1), words
    fleet.completed("bad", fleet.app.request("bad", owner_id=fleet.app.owner, words="go on"))
    assert fleet.living() == [worker]
