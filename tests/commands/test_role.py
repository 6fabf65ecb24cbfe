"""`worker role`: a login with only a pod's rights, whose password is in no log."""

from __future__ import annotations

import subprocess
from pathlib import Path

import psycopg
import pytest

from tests.commands.conftest import Operator, address_in
from tests.conftest import Databases
from tests.processes import WorkerProcesses
from tests.sql.supabase import VERSIONS, supabase_server
from tests.waiting import wait_until
from worker.database.owner import connect
from worker.database.role import apply_login, make_login
from worker.database.schema import migrate
from worker.errors import CommandRefused

FORBIDDEN = (
    "select from public.subjects",
    "select from public.training_jobs",
    "select from worker.consent_events",
    "select public.cancel_job('training', gen_random_uuid())",
    "select public.retry_job('training', gen_random_uuid())",
    "select public.grant_consent(gen_random_uuid())",
    "create table public.mine (id int)",
    "create role another",
)


def password_in(address: str) -> str:
    return address.split(":")[2].split("@")[0]


def test_a_login_can_be_rotated_while_its_pod_runs(
    operator: Operator, guarded: Databases, tiny_models: Path, tmp_path: Path
) -> None:
    """The running pod keeps its connections, the old password is refused, and a pod with the new one works.

    A pod that loses a connection logs once that it needs the new password.
    """
    app = operator.app
    before = operator.make_login("pod_a")
    with WorkerProcesses(app, tiny_models, tmp_path) as processes:
        first = processes.start(DATABASE_URL=before)
        after = operator.make_login("pod_a", "--rotate")
        job = app.request("generation", owner_id=app.owner, model_ids=[], prompt="a garden", steps=1)
        ended = app.wait_for("generation", job)
        assert ended["status"] == "completed", ended["error"]
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(before)
        app.run("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'likeness session'")
        wait_until(lambda: len(first.events("session.lost")) > 4, "the pod to try again and again")
        (error,) = first.events("session.password_refused")
        assert "new DATABASE_URL" in error["hint"]
        assert first.events("pod.privileged_role") == []
        assert first.terminate() == 0
        processes.start(ready=False, DATABASE_URL=after)
        wait_until(lambda: app.run("select from worker.pods where has_lock"), "a pod with the new password")
    server_log = (guarded.server.folder / "postgres.log").read_text()
    assert "SCRAM-SHA-256$" in server_log  # every statement is logged here
    assert not any(password_in(address) in server_log for address in (before, after))


def test_a_pod_with_the_owners_url_logs_that_its_role_is_privileged(
    operator: Operator, tiny_models: Path, tmp_path: Path
) -> None:
    with WorkerProcesses(operator.app, tiny_models, tmp_path) as processes:
        pod = processes.start(ready=False)
        wait_until(lambda: pod.events("pod.privileged_role"), "the warning")
        (warning,) = pod.events("pod.privileged_role")
    assert "worker role" in warning["hint"]


def test_a_login_has_only_a_pods_rights(pod_url: str) -> None:
    with psycopg.connect(pod_url, autocommit=True) as pod:
        pod.execute("select worker.schema_major()")  # the control
        for statement in FORBIDDEN:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                pod.execute(statement.encode())
        (timeout,) = pod.execute("show statement_timeout").fetchone() or ("",)
        assert timeout == "1min"


def test_the_printed_sql_creates_the_login(operator: Operator) -> None:
    """By default the database is not changed. Standard output has only the SQL, without the password."""
    ran = operator.worker("role", "pod_printed", "--connection-limit", "7")
    assert ran.code == 0
    address = address_in(ran.stderr)
    assert password_in(address) not in ran.stdout
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(address)
    piped = subprocess.run(
        ["psql", "-v", "ON_ERROR_STOP=1", operator.app.url], input=ran.stdout, text=True, check=False
    )
    assert piped.returncode == 0
    with psycopg.connect(address) as pod:
        limit = pod.execute("select rolconnlimit from pg_roles where rolname = current_user").fetchone()
        assert limit == (7,)


def test_the_printed_sql_does_not_change_an_existing_role(operator: Operator) -> None:
    """Also when psql continues after an error."""
    operator.app.run("create role bookkeeper login")
    ran = operator.worker("role", "bookkeeper")
    subprocess.run(["psql", operator.app.url], input=ran.stdout, text=True, check=True)
    settings = operator.app.one("select rolconfig from pg_roles where rolname = 'bookkeeper'")
    assert settings is None


@pytest.mark.parametrize(
    ("name", "rotate", "message"),
    [
        ("doctors_pod", False, "--rotate gives it a new password"),
        ("missing_pod", True, "leave --rotate out"),
        ("accountant", True, "not a pod's login"),
        ("manager", True, "not a pod's login"),
        ("postgres", True, "DATABASE_URL is the URL of postgres"),
        ("likeness_worker", False, "a role of the system"),
        ("Pod-1", False, "letters a-z"),
    ],
)
def test_an_invalid_request_is_refused_with_a_hint(
    operator: Operator, pod_url: str, name: str, rotate: bool, message: str
) -> None:
    operator.app.run("create role accountant login")
    operator.app.run("create role manager login createrole in role likeness_worker")  # like the role that created it
    with connect(operator.app.url) as owner, pytest.raises(CommandRefused, match=message):
        apply_login(owner, make_login(name, operator.app.url, None, rotate=rotate), rotate=rotate)
    psycopg.connect(pod_url).close()  # it kept its password


def test_a_pod_cannot_create_logins(operator: Operator, pod_url: str) -> None:
    ran = operator.worker("role", "pod_more", "--apply", DATABASE_URL=pod_url)
    assert ran.code == 1
    assert "URL of the database's owner" in ran.stderr
    assert "DATABASE_URL=postgresql" not in ran.stderr


@pytest.mark.parametrize(
    ("owners", "pods"),
    [
        (
            "postgresql://postgres:theirs@db.abcd.supabase.co:5432/postgres?sslmode=require",
            [
                "likeness_pod:{}@db.abcd.supabase.co:5432/postgres?sslmode=require",
                "likeness_pod.abcd:{}@POOLER_HOST:5432/postgres?sslmode=require",
            ],
        ),
        (
            "postgresql://postgres.abcd:theirs@aws-0-eu-central-1.pooler.supabase.com:6543/postgres",
            [
                "likeness_pod.abcd:{}@aws-0-eu-central-1.pooler.supabase.com:5432/postgres",
                "likeness_pod:{}@db.abcd.supabase.co:5432/postgres",
            ],
        ),
        ("postgresql://me:theirs@h1:5432,h2:5433/app", ["likeness_pod:{}@h1:5432,h2:5433/app"]),
        ("postgresql:///app?host=/run/pg&user=me&password=theirs", ["likeness_pod:{}@/app?host=/run/pg"]),
    ],
    ids=["Supabase, direct", "Supabase, transaction pooler", "two hosts", "credentials after the ?"],
)
def test_the_pods_urls_are_derived_from_the_owners_url(owners: str, pods: list[str]) -> None:
    """Always in session mode, and without the owner's credentials."""
    login = make_login("likeness_pod", owners, None, rotate=False)
    password = password_in(next(iter(login.addresses.values())))
    assert list(login.addresses.values()) == [f"postgresql://{pod.format(password)}" for pod in pods]


@pytest.mark.parametrize("version", VERSIONS)
def test_an_owner_without_superuser_can_create_a_login(tmp_path: Path, version: str) -> None:
    with supabase_server(tmp_path, version) as supabase:
        url = supabase.create()
        migrate.migrate(url)
        with connect(url) as owner:
            for rotate in (False, True):
                apply_login(owner, make_login("pod_of_a_project", url, 9, rotate=rotate), rotate=rotate)
            member = owner.execute("select pg_has_role('pod_of_a_project', 'likeness_worker', 'usage') as is_one")
            assert member.fetchone() == {"is_one": True}
