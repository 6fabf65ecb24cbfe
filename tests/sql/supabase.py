"""A server set up as Supabase does: the owner is not a superuser, and other roles own `auth` and `storage`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from worker.database.schema import migrate
from worker.demo.servers import EmbeddedPostgres

OWNER = "project_owner"
TEMPLATE = "supabase_template"
POSTGRES_15 = Path("/usr/lib/postgresql/15/bin")
VERSIONS: dict[str, Path | None] = {"18": None} | ({"15": POSTGRES_15} if POSTGRES_15.exists() else {})
"""The bundled PostgreSQL, and the oldest supported one where this machine has it."""

PROJECTS = pytest.mark.parametrize(
    ("version", "grants_by_default"),
    [*((version, True) for version in VERSIONS), ("18", False)],
    ids=lambda value: {True: "older project", False: "newer project"}.get(value, f"PostgreSQL {value}"),
)
"""An older project, which grants everything by default, on each version; a newer one on the newest."""

# Supabase lets `postgres` make policies on storage.objects without owning it; plain Postgres needs the ownership.
_OTHERS_OWN_AUTH_AND_STORAGE = f"""
create role supabase_auth_admin nologin;
create role supabase_storage_admin nologin;
alter schema auth owner to supabase_auth_admin;
alter table auth.users owner to supabase_auth_admin;
alter function auth.uid owner to supabase_auth_admin;
alter schema storage owner to supabase_storage_admin;
alter table storage.buckets owner to supabase_storage_admin;
alter table storage.objects owner to supabase_storage_admin;
alter function storage.foldername owner to supabase_storage_admin;
grant usage on schema auth, storage to {OWNER};
grant select, insert, update, delete, references on auth.users to {OWNER};
grant anon, authenticated, service_role, supabase_storage_admin to {OWNER};
"""

_OLDER_PROJECTS_GRANT_EVERYTHING = """
alter default privileges in schema public grant all on tables to anon, authenticated, service_role;
alter default privileges in schema public grant all on functions to anon, authenticated, service_role;
alter default privileges in schema public grant all on sequences to anon, authenticated, service_role;
"""


@dataclass(frozen=True)
class Supabase:
    """A server that creates databases as Supabase does."""

    server: EmbeddedPostgres
    projects: list[str] = field(default_factory=list, compare=False)
    """The databases that were created and are still there, but for those that others are copies of."""
    _migrated: dict[tuple[bool, bool], str] = field(default_factory=dict, compare=False)

    def create(self, *, grants_by_default: bool = False, template: str = TEMPLATE) -> str:
        """A fresh database; returns its URL as its owner.

        Args:
            template: the database that it is a copy of; default: an empty project.
            grants_by_default: as in older projects, every new table, function and sequence of `public` is granted to
                all clients; newer projects grant nothing.
        """
        name = f"project_{uuid4().hex[:12]}"
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            connection.execute(
                sql.SQL("create database {} template {} owner {} strategy file_copy").format(
                    sql.Identifier(name), sql.Identifier(template), sql.Identifier(OWNER)
                )
            )
        self.projects.append(name)
        url = self.server.url(name, OWNER)
        if grants_by_default:
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute(_OLDER_PROJECTS_GRANT_EVERYTHING)
        return url

    def drop_projects(self) -> None:
        with psycopg.connect(self.server.url(), autocommit=True) as connection:
            while self.projects:
                connection.execute(f"drop database if exists {self.projects.pop()} with (force)")

    def migrated(self, *, grants_by_default: bool = False, realtime: bool = False) -> str:
        """A fresh database with this release's schema, a copy of one that was migrated once; returns its owner's URL.

        Args:
            grants_by_default: as in `create`.
            realtime: it has had the publication of Realtime since before the migration.
        """
        options = (grants_by_default, realtime)
        if options not in self._migrated:
            first = self.create(grants_by_default=grants_by_default)
            if realtime:
                with psycopg.connect(first, autocommit=True) as connection:
                    connection.execute("create publication supabase_realtime")
            migrate.migrate(first)
            self._migrated[options] = first.rpartition("/")[2]
            self.projects.remove(self._migrated[options])
        url = self.create(template=self._migrated[options])
        with psycopg.connect(url, autocommit=True) as connection:
            # As if it had been migrated here: a copy must not start anything.
            connection.execute("update worker.installation set id = gen_random_uuid(), home = worker.current_home()")
        return url

    def superuser_url(self, url: str) -> str:
        """Return the URL of the same database as the superuser, who plays Supabase's own services."""
        return self.server.url(url.rpartition("/")[2])


@contextmanager
def supabase_server(folder: Path, version: str) -> Iterator[Supabase]:
    """A running server of this version with the template of an empty project."""
    with EmbeddedPostgres(folder, fast=True, bin_dir=VERSIONS[version]) as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(
                sql.SQL("create role {} login createrole createdb bypassrls").format(sql.Identifier(OWNER))
            )
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(TEMPLATE)))
        migrate.install_supabase_stubs(server.url(TEMPLATE))
        with psycopg.connect(server.url(TEMPLATE), autocommit=True) as connection:
            connection.execute(_OTHERS_OWN_AUTH_AND_STORAGE)
        yield Supabase(server)


class Supabases:
    """The server of each version, started when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._started: dict[str, Supabase] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    def of(self, version: str) -> Supabase:
        if version not in self._started:
            server = supabase_server(self._folder / f"supabase-{version}", version)
            self._started[version] = self._stack.enter_context(server)
            self._started[version].migrated()  # first, so that no superuser's migration makes the role of pods
        return self._started[version]

    def drop_projects(self) -> None:
        for supabase in self._started.values():
            supabase.drop_projects()
