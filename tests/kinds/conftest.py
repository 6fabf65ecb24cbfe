"""The package of `tests/kinds/echo`, installed once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kinds.packages import install_echo
from tests.worker.conftest import make_echo_fleet, make_fleet, pytest_runtest_makereport

__all__ = ["make_echo_fleet", "make_fleet", "pytest_runtest_makereport"]


@pytest.fixture(scope="session")
def echo_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_echo(tmp_path_factory.mktemp("installed"))
