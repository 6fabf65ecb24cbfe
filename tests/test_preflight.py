"""Checks of a pod's folders by `worker run` and `worker doctor`, as an unprivileged user; and of its packages."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.errors import SettingsError
from worker.pod.preflight import check_models_dir, check_upscaler
from worker.settings import Settings
from worker.storage.writable_dirs import check_writable


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Path]:
    """A folder that this process cannot access. If it is root, it becomes user `nobody` for the test."""
    folder = tmp_path / "private"
    folder.mkdir()
    folder.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(user)
    folder.chmod(0o700)


def test_a_folder_below_an_inaccessible_one_is_refused_with_the_fix(private: Path) -> None:
    folder = private / "models"
    settings = Settings.model_construct(models_dir=folder)
    for check in (lambda: check_models_dir(settings), lambda: check_writable("MODELS_DIR", folder)):
        with pytest.raises(SettingsError, match=rf"MODELS_DIR={folder} cannot be written by this user") as refused:
            check()
        assert f"mkdir -p {folder} && chown" in refused.value.hint


def test_a_dangling_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "work").symlink_to(tmp_path / "unplugged")
    with pytest.raises(SettingsError, match=r"WORK_DIR=.* cannot be written"):
        check_writable("WORK_DIR", tmp_path / "work")


def test_a_missing_folder_is_checked_at_its_nearest_existing_parent(tmp_path: Path) -> None:
    assert check_writable("WORK_DIR", tmp_path / "a" / "b") == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_an_upscaler_whose_package_is_not_installed_is_refused_with_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_upscaler(Settings.model_construct(upscaler="realesrgan"))
    monkeypatch.setitem(sys.modules, "realesrgan", None)  # as if it were not installed
    check_upscaler(Settings.model_construct(upscaler="spandrel"))
    with pytest.raises(SettingsError, match="UPSCALER=realesrgan: the package realesrgan is not installed") as refused:
        check_upscaler(Settings.model_construct(upscaler="realesrgan"))
    assert "pip install 'likeness-worker[realesrgan]'" in refused.value.hint
