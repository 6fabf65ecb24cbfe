"""`worker status` shows queue, jobs, pods, stranded jobs and failures; a pod's login sees less."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from tests.sql.pod import TRAINING, Claims, Pod, as_worker
from tests.sql.tables import ABLE_BASE, AppTables
from worker.commands.status import print_status
from worker.database.owner import connect

STRANDED = "Stranded: no live pod can run these"


@pytest.fixture
def db(database_url: str) -> Iterator[AppTables]:
    with AppTables.open(database_url) as tables:
        yield tables


@pytest.fixture
def pod(database_url: str) -> Iterator[Pod]:
    with Claims(database_url) as claims:
        made = Pod(database_url, claims, name="pod-1")
        yield made
        made.close()


def sections(url: str) -> dict[str, str]:
    """Return the output of `worker status`, by the titles of its tables."""
    out = io.StringIO()
    with connect(url) as connection:
        print_status(connection, Console(file=out, width=240, markup=False))
    parts = [part.partition("\n") for part in out.getvalue().split("\n\n")]
    return {title.split(" (")[0].split(",")[0]: body for title, _, body in parts}


def request_pictures(db: AppTables, **columns: object) -> str:
    return str(db.request("generation", owner_id=db.owner, model_ids=[], prompt="a garden", **columns))


@pytest.fixture
def jobs(db: AppTables, pod: Pod) -> dict[str, str]:
    """A running job, a waiting one, two stranded ones and a failed one; the ids by state."""
    failed, running = request_pictures(db), request_pictures(db)
    attempt = pod.run("generation", db.one("select %s::uuid", failed))
    attempt.fail("invalid_input", "it cannot be drawn")
    pod.run("generation", db.one("select %s::uuid", running)).report(0.25, "drawing 1 of 4")
    stranded, _ = request_pictures(db, base=ABLE_BASE), request_pictures(db, base=ABLE_BASE)
    return {"failed": failed, "running": running, "waiting": request_pictures(db), "stranded": stranded}


def test_the_owner_sees_every_section(db: AppTables, jobs: dict[str, str]) -> None:
    shown = sections(db.url)
    (queue,) = (line.split() for line in shown["Queue"].splitlines() if line.startswith("  generation/tiny-flux"))
    assert (queue[1], queue[-2:]) == ("1", ["1", "1"])  # one waiting, one running, one pod
    assert jobs["stranded"] in shown[STRANDED]
    (stranded,) = (line.split() for line in shown[STRANDED].splitlines() if ABLE_BASE in line)
    assert stranded[:2] == [f"generation/{ABLE_BASE}", "2"]
    assert jobs["waiting"] not in shown[STRANDED]
    assert jobs["running"] in shown["Running"]
    assert "drawing 1 of 4" in shown["Running"]
    assert "25 %" in shown["Running"]
    assert "pod-1" in shown["Running"]
    assert TRAINING in shown["Pods"]
    assert "invalid_input" in shown["Failed in the last 24 hours"]
    assert jobs["failed"] in shown["Failed in the last 24 hours"]


def test_a_pod_sees_queue_and_pods_and_is_told_what_is_hidden(db: AppTables, jobs: dict[str, str]) -> None:
    shown = sections(as_worker(db.url))
    assert "pod-1" in shown["Pods"]
    assert "free vram gib" in shown["Pods"]
    assert jobs["running"] in shown["Running"]
    assert "drawing 1 of 4" not in str(shown)
    assert "invalid_input" not in str(shown)
    assert "DATABASE_URL to the database owner's URL" in list(shown)[-1]


def test_retried_attempts_are_counted(db: AppTables, pod: Pod) -> None:
    pod.run("generation", db.one("select %s::uuid", request_pictures(db))).fail("storage_error", "503")
    assert "storage_error" in sections(db.url)["Attempts that failed and were retried"]


def test_a_silent_pod_is_not_shown_as_alive(db: AppTables, pod: Pod) -> None:
    for silent, alive in ((5, "yes"), (300, "no, considered dead")):
        db.run("update worker.pods set last_heartbeat = clock_timestamp() - %s * interval '1 s'", silent)
        assert f" {alive} " in sections(db.url)["Pods"]


def test_an_empty_installation_is_shown_as_empty(db: AppTables, database_url: str) -> None:
    shown = sections(database_url)
    assert "no live pods: start one with `worker run`" in shown["Pods"]
    assert "empty" in shown["Queue"]
