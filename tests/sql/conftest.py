"""Fixtures of the SQL tests: Supabase-like servers, an app's tables, pods, and calls that wait for a lock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from typing import Any

import psycopg
import pytest

from tests.sql.background import BackgroundCalls
from tests.sql.pod import Claims, Pod
from tests.sql.supabase import VERSIONS, Supabase, supabase_server
from tests.sql.tables import AppTables


@pytest.fixture(scope="session")
def supabase_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Supabase]]:
    """Return the server of a version; each is started once."""
    with ExitStack() as stack:

        @cache
        def started(version: str) -> Supabase:
            supabase = stack.enter_context(supabase_server(tmp_path_factory.mktemp("supabase"), version))
            supabase.migrated()  # so that no superuser's migration is the first: the role of pods would be his
            return supabase

        yield started


@pytest.fixture(scope="session", params=list(VERSIONS), ids=lambda version: f"PostgreSQL {version}")
def any_supabase(request: pytest.FixtureRequest, supabase_of: Callable[[str], Supabase]) -> Supabase:
    """Projects on each version in turn."""
    return supabase_of(request.param)


@pytest.fixture(scope="session")
def supabase(supabase_of: Callable[[str], Supabase]) -> Supabase:
    """Projects on the newest version."""
    return supabase_of("18")


@pytest.fixture
def db(database_url: str) -> Iterator[AppTables]:
    """An app's tables on a fresh database."""
    with AppTables.open(database_url) as tables:
        yield tables


@pytest.fixture
def start_pod(database_url: str) -> Iterator[Callable[..., Pod]]:
    """Make pods: start_pod(routes=…, has_lock=…, name=…)."""
    pods: list[Pod] = []

    def start(**options: object) -> Pod:
        pods.append(Pod(database_url, claims, **options))  # type: ignore[arg-type]
        return pods[-1]

    with Claims(database_url) as claims:
        yield start
        for pod in pods:
            pod.close()


@pytest.fixture
def pod(start_pod: Callable[..., Pod]) -> Pod:
    """A pod that offers every route and holds no lock."""
    return start_pod()


@pytest.fixture
def background(db: AppTables) -> Iterator[BackgroundCalls]:
    """Calls that run beside the test, because they have to wait for a lock."""
    with ThreadPoolExecutor(4) as executor:
        yield BackgroundCalls(db, executor)


@pytest.fixture
def other_session(db: AppTables) -> Iterator[psycopg.Connection[Any]]:
    """A second connection as the owner, with an open transaction that the test ends."""
    with psycopg.connect(db.url) as connection:
        yield connection
