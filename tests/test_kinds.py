"""The registry of kinds: installed packages add kinds, and a broken one does not stop a pod."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import structlog.testing

from worker.errors import SettingsError
from worker.kinds import CORE, Kind, kinds_of_pod, load_kinds
from worker.pod.preflight import check_kinds
from worker.queue import Worker
from worker.settings import Settings

ECHO = """
    from worker.kinds import Kind, no_texts

    async def echo(lease, context):
        return {}

    KIND = Kind("echo", echo, no_texts)
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a package as pip does: its module, and its metadata with the entry points."""
    monkeypatch.syspath_prepend(tmp_path)

    def add(package: str, module: str, **kinds: str) -> None:
        name = package.replace("-", "_")
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(module))
        metadata = tmp_path / f"{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        lines = [f"{kind} = {value}" for kind, value in kinds.items()]
        (metadata / "entry_points.txt").write_text("\n".join(["[likeness.kinds]", *lines]))

    return add


def settings(database_url: str = "postgresql://nowhere", **changes: Any) -> Settings:
    return Settings(
        _env_file=None,
        database_url=database_url,
        s3_endpoint_url="http://127.0.0.1:9",
        s3_region="nowhere",
        s3_access_key_id="none",
        s3_secret_access_key="none",
        **changes,
    )


def test_without_packages_only_the_cores_kinds_exist() -> None:
    assert load_kinds() == ({kind.name: kind for kind in CORE}, [])


def test_a_kind_of_an_installed_package_can_be_selected(install: Install) -> None:
    install("likeness-echo", ECHO, echo="likeness_echo:KIND")

    kinds, unusable = load_kinds()

    assert unusable == []
    assert isinstance(kinds["echo"], Kind)
    assert kinds.keys() == {"echo", *(kind.name for kind in CORE)}
    check_kinds(settings(worker_kinds={"echo", "training"}))
    assert kinds_of_pod({"echo", "training"}).keys() == {"echo", "training"}


@pytest.mark.parametrize(
    ("module", "entry", "reason"),
    [
        ("import likeness_nowhere", "likeness_bad:KIND", "ModuleNotFoundError: No module named 'likeness_nowhere'"),
        ("raise RuntimeError('no licence')", "likeness_bad:KIND", "RuntimeError: no licence"),
        (ECHO, "likeness_bad:OTHER", "AttributeError: module 'likeness_bad' has no attribute 'OTHER'"),
        (ECHO, "likeness_bad:echo", "TypeError: likeness_bad:echo is not a worker.kinds.Kind"),
        (ECHO, "likeness_bad:KIND", "ValueError: likeness_bad:KIND is named 'echo', its entry point 'bad'"),
    ],
)
def test_an_unusable_kind_is_reported_and_hides_no_other(
    install: Install, module: str, entry: str, reason: str
) -> None:
    install("likeness-bad", module, bad=entry)
    install("likeness-echo", ECHO, echo="likeness_echo:KIND")

    kinds, (bad,) = load_kinds()

    assert (bad.name, bad.package, bad.reason) == ("bad", "likeness-bad", reason)
    assert "bad" not in kinds
    assert "echo" in kinds


def test_a_taken_name_stays_with_the_core_or_the_first_package(install: Install) -> None:
    install("likeness-echo", ECHO, echo="likeness_echo:KIND")
    install("likeness-mock", ECHO, echo="likeness_mock:KIND", training="likeness_mock:KIND")

    kinds, unusable = load_kinds()

    assert kinds["training"] in CORE
    assert kinds["echo"].run.__module__ == "likeness_echo"
    assert {(kind.name, kind.package, kind.reason) for kind in unusable} == {
        ("echo", "likeness-mock", "ValueError: another kind has its name"),
        ("training", "likeness-mock", "ValueError: another kind has its name"),
    }


def test_worker_kinds_rejects_an_unknown_kind_and_lists_the_known_ones(install: Install) -> None:
    install("likeness-echo", ECHO, echo="likeness_echo:KIND")
    install("likeness-bad", "import likeness_nowhere", bad="likeness_bad:KIND")

    check_kinds(settings(worker_kinds={"bad"}))
    with pytest.raises(SettingsError, match=r"unknown kind poem; .*=echo,generation,mesh,publish_lora,training"):
        check_kinds(settings(worker_kinds={"echo", "poem"}))


async def test_a_pod_offers_the_kinds_of_packages_and_logs_an_unusable_one_once(
    install: Install, database_url: str, tmp_path: Path
) -> None:
    install("likeness-echo", ECHO, echo="likeness_echo:KIND")
    install("likeness-bad", "import likeness_nowhere", bad="likeness_bad:KIND")
    with psycopg.connect(database_url) as owner:
        for kind in ("echo", "bad", "absent"):
            owner.execute(
                """insert into worker.job_kinds (kind, table_name, purpose, subject_required, slot, max_runtime)
                   values (%s, 'worker.internal_jobs', null, false, 'light', '1 minute')""",
                [kind],
            )

    with structlog.testing.capture_logs() as logged:
        worker = Worker(settings(database_url, models_dir=tmp_path))
        async with worker._database:
            await worker._registration.refresh_routes()
            await worker._registration.refresh_routes()

    assert worker._routes.slot_of == {"echo": "light", "publish_lora": "light"}
    (warning,) = [line for line in logged if line["event"] == "kind.unusable"]
    assert warning["message"] == "kind bad of package likeness-bad cannot be used"
    assert "likeness_nowhere" in warning["reason"]
    assert warning["hint"] == "update likeness-bad, or uninstall it"
