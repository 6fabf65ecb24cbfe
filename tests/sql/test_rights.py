"""Rights in the catalog equal those in rights.py, on projects that grant nothing by default and on older ones that
grant everything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from tests.sql import rights
from tests.sql.supabase import Supabase

OURS = "('public', 'worker')"


@dataclass(frozen=True)
class Project:
    """A migrated project, and a connection of its owner's."""

    owner: psycopg.Connection[dict[str, Any]]
    grants_by_default: bool

    def rows(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        return self.owner.execute(query, arguments).fetchall()  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=[True, False], ids=["older project", "newer project"])
def project(supabase: Supabase, request: pytest.FixtureRequest) -> Iterator[Project]:
    url = supabase.migrated(grants_by_default=request.param)
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as owner:
        yield Project(owner, request.param)


def held(project: Project, query: str) -> dict[str, dict[str, str]]:
    """Return {object: {privilege: roles}} from rows of object, privilege, role; objects without roles are empty."""
    found: dict[str, dict[str, str]] = {}
    for row in project.rows(query, list(rights.ROLES)):
        privileges = found.setdefault(row["object"], {})
        if row["role"]:
            privileges[row["privilege"]] = f"{privileges.get(row['privilege'], '')} {row['role']}".strip()
    return found


def test_the_default_privileges_are_those_of_the_project(project: Project) -> None:
    with project.owner.transaction(force_rollback=True):
        project.owner.execute("create table public.later (id int primary key)")
        (row,) = project.rows("select has_table_privilege('anon', 'public.later', 'truncate') as granted")
    assert row["granted"] is project.grants_by_default


def test_functions_can_be_called_only_by_the_listed_roles(project: Project) -> None:
    expected = rights.EXECUTE | {f"worker.{name}": "" for name in rights.OWNER_ONLY.split()}
    found = held(
        project,
        f"""select pronamespace::regnamespace || '.' || proname as object, 'EXECUTE' as privilege, role
            from pg_proc left join unnest(%s::text[]) with ordinality as roles (role, ord)
              on has_function_privilege(role, pg_proc.oid, 'execute')
            where pronamespace::regnamespace::text in {OURS} order by object, ord""",
    )
    assert {name: privileges.get("EXECUTE", "") for name, privileges in found.items()} == expected


def test_no_function_is_overloaded(project: Project) -> None:
    """Grants name functions without their arguments: an overload would be granted too, or make the name ambiguous."""
    assert not project.rows(
        f"""select proname from pg_proc where pronamespace::regnamespace::text in {OURS}
            group by pronamespace, proname having count(*) > 1"""
    )


def test_tables_are_granted_only_to_the_listed_roles(project: Project) -> None:
    privileges = ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"]
    if project.owner.info.server_version >= 170000:
        privileges.append("MAINTAIN")
    listed = ", ".join(f"('{name}')" for name in privileges)
    found = held(
        project,
        f"""select relnamespace::regnamespace || '.' || relname as object, privilege, role
            from pg_class cross join (values {listed}) as privileges (privilege)
            left join unnest(%s::text[]) with ordinality as roles (role, ord)
              on has_table_privilege(role, pg_class.oid, privilege)
            where relnamespace::regnamespace::text in {OURS} and relkind in ('r', 'p', 'v', 'm', 'f')
            order by object, ord""",
    )
    assert found == rights.TABLES


def test_columns_are_granted_only_to_the_listed_roles(project: Project) -> None:
    found: dict[str, dict[tuple[str, str], set[str]]] = {}
    for row in project.rows(
        f"""select relnamespace::regnamespace || '.' || relname as table_name, attname, role, privilege
            from pg_class join pg_attribute on attrelid = pg_class.oid and attnum > 0 and not attisdropped
            cross join unnest(%s::text[]) role
            cross join unnest('{{SELECT,INSERT,UPDATE,REFERENCES}}'::text[]) privilege
            where relnamespace::regnamespace::text in {OURS} and relkind in ('r', 'p', 'v', 'm', 'f')
              and has_column_privilege(role, pg_class.oid, attnum, privilege)
              and not has_table_privilege(role, pg_class.oid, privilege)""",
        list(rights.ROLES),
    ):
        by_role = found.setdefault(row["table_name"], {})
        by_role.setdefault((row["role"], row["privilege"]), set()).add(row["attname"])
    expected = {
        table: {who: set(names.split()) for who, names in by_role.items()} for table, by_role in rights.COLUMNS.items()
    }
    assert found == expected


def test_every_readable_column_is_listed(project: Project) -> None:
    found: dict[str, set[str]] = {}
    for row in project.rows(
        f"""select distinct relnamespace::regnamespace || '.' || relname as table_name, attname
            from pg_class join pg_attribute on attrelid = pg_class.oid and attnum > 0 and not attisdropped
            cross join unnest(%s::text[]) role
            where relnamespace::regnamespace::text in {OURS} and relkind in ('r', 'p', 'v', 'm', 'f')
              and has_column_privilege(role, pg_class.oid, attnum, 'select')""",
        list(rights.ROLES),
    ):
        if not row["table_name"].startswith(rights.PGQUEUER):
            found.setdefault(row["table_name"], set()).add(row["attname"])
    assert found == {table: set(names.split()) for table, names in rights.READABLE.items()}


def test_sequences_are_granted_only_to_the_listed_roles(project: Project) -> None:
    found = held(
        project,
        f"""select relnamespace::regnamespace || '.' || relname as object, privilege, role
            from pg_class cross join unnest('{{USAGE,SELECT,UPDATE}}'::text[]) privilege
            left join unnest(%s::text[]) role on has_sequence_privilege(role, pg_class.oid, privilege)
            where relnamespace::regnamespace::text in {OURS} and relkind = 'S'""",
    )
    assert found == rights.SEQUENCES


def test_the_schema_is_granted_only_to_the_listed_roles_and_create_to_none(project: Project) -> None:
    found = held(
        project,
        """select nspname as object, privilege, role
           from pg_namespace cross join unnest('{USAGE,CREATE}'::text[]) privilege
           left join unnest(%s::text[]) with ordinality as roles (role, ord)
             on has_schema_privilege(role, pg_namespace.oid, privilege)
           where nspname = 'worker' order by ord""",
    )
    assert found == rights.SCHEMAS


def test_clients_and_pods_own_nothing_and_cannot_grant(project: Project) -> None:
    assert not project.rows(
        f"""select relname from pg_class
            where relnamespace::regnamespace::text in {OURS} and relowner::regrole::text <> current_user
            union all select proname from pg_proc
            where pronamespace::regnamespace::text in {OURS} and proowner::regrole::text <> current_user"""
    )
    assert not project.rows(
        f"""select relname from pg_class cross join aclexplode(relacl) acl
            where relnamespace::regnamespace::text in {OURS} and acl.is_grantable and acl.grantee <> relowner
            union all select proname from pg_proc cross join aclexplode(proacl) acl
            where pronamespace::regnamespace::text in {OURS} and acl.is_grantable and acl.grantee <> proowner"""
    )


def test_the_pods_role_has_no_special_attributes(project: Project) -> None:
    (role,) = project.rows(
        """select rolcanlogin or rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolreplication as special,
                  array(select roleid::regrole::text from pg_auth_members where member = pg_roles.oid) as member_of
           from pg_roles where rolname = 'likeness_worker'"""
    )
    assert role == {"special": False, "member_of": []}


@pytest.mark.parametrize("role", rights.ROLES[1:])
def test_a_forbidden_function_cannot_be_called(project: Project, role: str) -> None:
    """A call is really denied where the catalog says so."""
    functions = project.rows(
        f"""select pronamespace::regnamespace::text as schema, proname as name,
                   array(select format_type(type, null) from unnest(proargtypes) with ordinality as listed (type, ord)
                         order by ord) as types
            from pg_proc
            where pronamespace::regnamespace::text in {OURS} and not has_function_privilege(%s, oid, 'execute')""",
        role,
    )
    assert len(functions) > 80
    project.owner.execute(sql.SQL("set role {}").format(sql.Identifier(role)))
    try:
        answers = {function["name"]: answer_to_a_call(project.owner, **function) for function in functions}
    finally:
        project.owner.execute("reset role")
    assert {name: text for name, text in answers.items() if not text.startswith("permission denied for")} == {}


def answer_to_a_call(connection: psycopg.Connection[Any], schema: str, name: str, types: list[str]) -> str:
    """Call a function with NULL for every argument; returns the error, or "it ran"."""
    arguments = sql.SQL(", ").join(sql.SQL(f"null::{type_name}") for type_name in types)
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(sql.SQL("select {}({})").format(sql.Identifier(schema, name), arguments))
    except psycopg.Error as error:
        return str(error)
    return "it ran"
