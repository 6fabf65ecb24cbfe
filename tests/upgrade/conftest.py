"""Servers set up as Supabase does, with a database of each earlier release."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from tests.sql.supabase import VERSIONS, Supabase, supabase_server
from tests.upgrade.installation import RELEASES, Installation, OldPod


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


@pytest.fixture(scope="module", params=RELEASES, ids=lambda folder: f"from {folder.name}")
def release(request: pytest.FixtureRequest) -> Path:
    """Each earlier release in turn."""
    folder: Path = request.param
    return folder


@pytest.fixture
def installation(release: Path, supabase: Supabase) -> Iterator[Installation]:
    """A database of that release, not migrated."""
    with Installation.restored(release, supabase) as installation:
        yield installation


@pytest.fixture
def upgraded(release: Path, supabase: Supabase) -> Iterator[Installation]:
    """A database of that release after the migration."""
    with Installation.upgraded(release, supabase) as installation:
        yield installation


@pytest.fixture
def pod(installation: Installation) -> Iterator[OldPod]:
    """A pod of that release, connected to it and at work."""
    with installation.pod() as pod:
        yield pod
