"""Two pods on one queue: every job is done once, by one of them."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.worker.conftest import Fleet, MakeFleet

JOBS = 50


@pytest.fixture(scope="module")
def fleet(make_fleet: MakeFleet) -> Fleet:
    return make_fleet()


def test_each_of_fifty_jobs_is_published_once_and_both_workers_did_some(fleet: Fleet) -> None:
    fleet.ready(2)
    job_ids = [fleet.draw(seed=index) for index in range(JOBS)]
    for job_id in job_ids:
        job = fleet.completed("generation", job_id, timeout_s=240)
        assert (job["attempt"], job["failures"]) == (1, 0)
    events = Counter(
        (row["job_id"], row["event"])
        for row in fleet.app.run("select job_id, event from worker.job_events where event in ('started', 'completed')")
    )
    assert events == {(job_id, event): 1 for job_id in job_ids for event in ("started", "completed")}
    staged = fleet.app.run("select key, state, attempt from worker.staged_objects")
    assert {(row["state"], row["attempt"]) for row in staged} == {("published", 1)}
    assert sorted(fleet.app.keys(fleet.app.uploads)) == sorted(row["key"] for row in staged)
    assert len(staged) == 2 * JOBS
    assert fleet.app.one("select count(*) from worker.pgqueuer") == 0
    share = Counter(row["pod_id"] for row in fleet.app.run("select pod_id from public.generation_jobs"))
    assert len(share) == 2
    assert min(share.values()) > JOBS // 10, share
