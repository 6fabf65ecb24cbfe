"""Servers for the tests of the SQL: as Supabase hands them out, on every supported PostgreSQL that is here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.sql.supabase import VERSIONS, Supabase, supabase_server


@pytest.fixture(scope="session", params=list(VERSIONS), ids=lambda version: f"PostgreSQL {version}")
def any_supabase(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supabase]:
    """Each version in turn."""
    with supabase_server(tmp_path_factory.mktemp("supabase"), request.param) as supabase:
        yield supabase


@pytest.fixture(scope="session")
def supabase(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supabase]:
    """The newest version."""
    with supabase_server(tmp_path_factory.mktemp("supabase"), "18") as supabase:
        yield supabase
