"""A database of each earlier release."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sql.supabase import Supabase
from tests.upgrade.installation import RELEASES, Installation, OldPod


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
