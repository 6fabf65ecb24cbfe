"""Servers set up as Supabase does, with a database of each earlier release."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sql.supabase import VERSIONS, Supabase, supabase_server
from tests.upgrade.installation import RELEASES, Installation, OldPod


@pytest.fixture(scope="session", params=list(VERSIONS), ids=lambda version: f"PostgreSQL {version}")
def any_supabase(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supabase]:
    """Empty projects on each version in turn."""
    with supabase_server(tmp_path_factory.mktemp("supabase"), request.param) as supabase:
        yield supabase


@pytest.fixture(scope="session")
def supabase(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supabase]:
    """Empty projects on the newest version."""
    with supabase_server(tmp_path_factory.mktemp("supabase"), "18") as supabase:
        yield supabase


@pytest.fixture(params=RELEASES, ids=lambda folder: f"from {folder.name}")
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
def pod(installation: Installation) -> Iterator[OldPod]:
    """A pod of that release, connected to it and at work."""
    with installation.pod() as pod:
        yield pod
