"""A copy of the database starts nothing and deletes nothing; the original goes on. Pods say what they see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb

from tests.conftest import Databases
from tests.sql.pod import Claims, Pod
from tests.sql.tables import AppTables

ABSENT = {"absent": True}
UNREADABLE = {"unreadable": "the store responded 403"}


def settle_again(db: AppTables) -> None:
    """Let two periods pass with renewals, as after a cold start that is long over."""
    db.run("update worker.installation set unsettled_since = now() - interval '1 hour', renewed_at = clock_timestamp()")


def let_pass(db: AppTables, interval: str) -> None:
    """Move everything that installations wait for into the past; ticks went on meanwhile."""
    db.run(
        """update worker.installation set unsettled_since = unsettled_since - %s::interval,
           renewed_at = renewed_at - %s::interval, looked_at = looked_at - %s::interval""",
        interval,
        interval,
        interval,
    )


def renew(pod: Pod) -> dict[str, Any]:
    """Renew the markers; returns the marker that is now in the buckets."""
    marker: dict[str, Any] = pod.call("begin_renewal")
    assert marker is not None
    pod.call("finish_renewal", marker["nonce"])
    return marker


@contextmanager
def template_copy(databases: Databases, db: AppTables) -> Iterator[tuple[AppTables, Pod]]:
    """A copy of the database by CREATE DATABASE … TEMPLATE, with a pod."""
    db.database.close()  # a template may have no connections
    name = databases.create(db.url.rpartition("/")[2])
    db.reconnect(db.url)
    copy = replace(db)
    copy.reconnect(databases.server.url(name))
    with copy, Claims(copy.url) as claims:
        pod = Pod(copy.url, claims)
        yield copy, pod
        pod.close()
    databases.drop(name)


@contextmanager
def physical_copy(databases: Databases, db: AppTables) -> Iterator[tuple[AppTables, Pod]]:
    """A database with the same rows and the same home, on a server that has just been started."""
    with template_copy(databases, db) as (copy, pod):
        copy.run(
            """update worker.installation
               set home = worker.current_home(), server_started_at = server_started_at - interval '1 hour'"""
        )
        copy.tick()
        yield copy, pod


@pytest.fixture
def quiet(db: AppTables) -> AppTables:
    """The app's tables, with a queued picture, a queued copy of a LoRA, and an object to delete."""
    db.run(
        """insert into worker.staged_objects (bucket, key, kind, job_id, attempt, state)
           values (%s, 'left', 'generation', %s, 1, 'deleting')""",
        db.uploads,
        uuid4(),
    )
    return db


# -- home


def test_a_template_copy_starts_and_deletes_nothing_and_names_the_command(
    quiet: AppTables, databases: Databases
) -> None:
    job_id = quiet.ask()
    with template_copy(databases, quiet) as (copy, pod):
        assert pod.claim("generation/tiny-flux") == ("generation", job_id)
        assert pod.start("generation", job_id) is None
        job = copy.job("generation", job_id)
        assert (job["status"], job["attempt"], job["failures"]) == ("queued", 0, 0)
        assert "worker installation moved" in job["phase"]
        assert copy.tick() == 0
        assert copy.claim_deletable() == set()
        assert copy.one("select worker.start_delay('publish_lora')") is not None
        assert pod.call("begin_renewal") is None
        error = pod.call("installation_error")
        assert "worker installation moved" in error
        assert "worker installation adopt" in error
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="worker installation moved"):
            copy.run("select worker.first_marker()")
    assert quiet.claim_deletable() == {"left"}, "the original goes on"


def test_a_moved_copy_goes_on_under_prefixes_of_a_new_era(db: AppTables, databases: Databases) -> None:
    picture, training = db.ask(), db.ask_training()
    with template_copy(databases, db) as (copy, pod):
        known = copy.marker
        marker = copy.one("select worker.move_installation()")
        assert marker["id"] == known["id"]
        assert marker["nonce"] != known["nonce"]
        copy.run("select worker.note_markers(%s)", Jsonb(copy.seen))
        for kind, job_id in (("generation", picture), ("training", training)):
            attempt = pod.run(kind, job_id)
            assert attempt.payload["prefix"].endswith(f"/{job_id}/1-{marker['era']}/")
            assert attempt.publish() == "ok"
            keys = set(copy.staged(job_id))
            assert all(f"/{job_id}/1-{marker['era']}/" in key for key in keys)


def test_an_attempt_may_not_write_under_the_prefix_of_an_earlier_era(db: AppTables, pod: Pod) -> None:
    attempt = pod.run("generation", db.ask())
    assert attempt.payload["prefix"].endswith(f"/{attempt.id}/1/"), "without an era, paths are as before"
    db.run("select worker.move_installation()")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="its own prefix"):
        attempt.stage("0.png")


def test_adopting_makes_another_installation_that_does_not_know_the_old_marker(db: AppTables, pod: Pod) -> None:
    before = db.marker
    after = db.one("select worker.adopt_installation()")
    assert after["id"] != before["id"]
    judged = pod.call("judge_markers", {db.uploads: before, db.models: {"id": after["id"], "nonce": after["nonce"]}})
    assert judged[db.models] == {"state": "ours", "problem": None}
    assert judged[db.uploads]["state"] == "foreign"
    assert before["id"] in judged[db.uploads]["problem"]


# -- the marker


@pytest.mark.parametrize("seen", [ABSENT, UNREADABLE], ids=["unmarked", "unreadable"])
def test_pods_of_a_bucket_that_is_not_proven_run_but_delete_and_copy_nothing(
    quiet: AppTables, pod: Pod, seen: dict[str, Any]
) -> None:
    noted = pod.call("note_markers", {quiet.uploads: seen, quiet.models: quiet.marker})
    assert noted[quiet.uploads]["hold"] is not None
    assert pod.run("generation", quiet.ask()).publish() == "ok"
    assert quiet.tick() == 0
    claim = "select worker.claim_deletable_objects(10, %s)"
    assert quiet.one(claim, Jsonb({quiet.uploads: seen, quiet.models: quiet.marker})) == []
    assert "bucket uploads" in quiet.one("select worker.start_delay('publish_lora')")
    assert quiet.one("select worker.start_delay('training')") is None
    assert quiet.claim_deletable() == {"left"}, "once it is marked"


def test_nothing_is_deleted_from_a_bucket_whose_marker_was_not_read_just_now(quiet: AppTables, pod: Pod) -> None:
    assert pod.call("claim_deletable_objects", 10) == [], "a pod of the release before"
    assert pod.call("claim_deletable_objects", 10, {quiet.models: quiet.marker}) == []
    assert pod.call("take_garbage", 10) == [], "a pod of 0.1.0"
    assert quiet.claim_deletable() == {"left"}


def test_a_marker_of_another_copy_stops_starts_and_deletions_until_it_is_ours_again(quiet: AppTables, pod: Pod) -> None:
    theirs = {"id": quiet.marker["id"], "nonce": str(uuid4())}
    noted = pod.call("note_markers", {quiet.uploads: theirs, quiet.models: quiet.marker})
    assert noted[quiet.uploads]["state"] == "foreign"
    job_id = quiet.ask()
    assert pod.claim() == ("generation", job_id)
    assert pod.start("generation", job_id) is None
    assert "another copy of this database" in quiet.job("generation", job_id)["phase"]
    assert "worker installation moved" in pod.call("installation_error")
    assert quiet.one("select worker.claim_deletable_objects(10, %s)", Jsonb({quiet.uploads: theirs})) == []
    assert pod.call("begin_renewal") is None
    settle_again(quiet)
    pod.call("note_markers", quiet.seen)
    assert pod.call("installation_error") is None
    assert quiet.claim_deletable() == {"left"}


def test_one_foreign_bucket_stops_the_deletions_in_the_other(quiet: AppTables, pod: Pod) -> None:
    seen = {quiet.uploads: quiet.marker, quiet.models: {"id": str(uuid4()), "nonce": str(uuid4())}}
    assert pod.call("claim_deletable_objects", 10, seen) == []
    assert "buckets of its own" in pod.call("installation_error")


def test_judging_records_nothing(db: AppTables, pod: Pod) -> None:
    """Doctor, or a pod with wrong settings, may look into another store."""
    before = db.run("select * from worker.bucket_markers order by 1")
    pod.call("judge_markers", {db.uploads: {"id": str(uuid4()), "nonce": "x"}, db.models: ABSENT})
    assert db.run("select * from worker.bucket_markers order by 1") == before
    assert pod.call("installation_error") is None


# -- renewals: two databases with the same rows share the buckets


def test_wherever_a_renewal_breaks_the_marker_is_known(db: AppTables, pod: Pod) -> None:
    old = db.marker
    new = pod.call("begin_renewal")
    for seen in (old, new):  # broken before and after the upload
        assert pod.call("judge_markers", {db.uploads: seen})[db.uploads]["state"] == "ours"
    assert pod.call("begin_renewal") == new, "the next pod writes the same nonce"
    pod.call("finish_renewal", new["nonce"])
    pod.call("finish_renewal", new["nonce"])
    assert db.marker == new
    for seen in (old, new):  # the upload of a suspended pod arrives late
        assert pod.call("judge_markers", {db.uploads: seen})[db.uploads]["state"] == "ours"


def test_a_renewal_that_another_has_overtaken_changes_nothing(db: AppTables, pod: Pod) -> None:
    late = pod.call("begin_renewal")
    pod.call("finish_renewal", late["nonce"])
    now = renew(pod)
    pod.call("finish_renewal", late["nonce"])
    assert db.marker == now


def test_a_bucket_that_cannot_be_read_does_not_fall_behind_the_other(db: AppTables, pod: Pod) -> None:
    pod.call("note_markers", {db.uploads: UNREADABLE, db.models: db.marker})
    assert pod.call("begin_renewal") is None
    pod.call("note_markers", {db.uploads: ABSENT, db.models: db.marker})
    assert pod.call("begin_renewal") is not None


def test_one_pod_looks_for_all(db: AppTables, start_pod: Callable[..., Pod]) -> None:
    first, second = start_pod(), start_pod()
    assert first.call("claim_look", None)["wait_s"] == 0
    assert 290 < second.call("claim_look", None)["wait_s"] <= 300
    let_pass(db, "5 minutes")
    assert second.call("claim_look", None)["wait_s"] == 0
    assert first.call("claim_look", None)["wait_s"] > 0


def test_the_original_renews_and_its_copy_gives_way(
    quiet: AppTables, databases: Databases, start_pod: Callable[..., Pod]
) -> None:
    with physical_copy(databases, quiet) as (copy, pod_of_copy):
        pod, bucket = start_pod(), quiet.marker
        seen = dict.fromkeys(quiet.buckets, bucket)
        pod_of_copy.call("note_markers", seen)
        assert pod_of_copy.call("installation_error") is None, "nothing tells them apart yet"
        assert pod_of_copy.call("claim_deletable_objects", 10, seen) == []
        for tables in (quiet, copy):
            let_pass(tables, "5 minutes")
        assert pod_of_copy.call("begin_renewal") is None
        seen = dict.fromkeys(seen, renew(pod))
        pod_of_copy.call("note_markers", seen)
        assert "another copy" in pod_of_copy.call("installation_error")
        for tables in (quiet, copy):
            let_pass(tables, "5 minutes")
        assert pod_of_copy.call("begin_renewal") is None
        assert pod_of_copy.call("claim_deletable_objects", 10, seen) == []
        pod.call("note_markers", seen)
        assert [item["key"] for item in pod.call("claim_deletable_objects", 10, seen)] == ["left"]


def test_two_cold_copies_that_renew_at_the_same_moment_do_not_both_delete(
    quiet: AppTables, databases: Databases, start_pod: Callable[..., Pod]
) -> None:
    with physical_copy(databases, quiet) as (copy, pod_of_copy):
        pod = start_pod()
        quiet.run("update worker.installation set server_started_at = server_started_at - interval '1 hour'")
        quiet.tick()
        for tables in (quiet, copy):
            let_pass(tables, "8 minutes")
        renew(pod)
        seen = dict.fromkeys(quiet.buckets, renew(pod_of_copy))  # it had read the marker before
        for tables in (quiet, copy):
            let_pass(tables, "2 minutes")
        claims = [each.call("claim_deletable_objects", 10, seen) for each in (pod, pod_of_copy)]
        assert [len(claimed) for claimed in claims] == [0, 1]


def test_after_a_cold_start_the_markers_are_read_first_then_renewed_then_trusted(quiet: AppTables, pod: Pod) -> None:
    quiet.run("update worker.clock set last_tick = clock_timestamp() - interval '2 minutes'")
    let_pass(quiet, "2 minutes")
    assert pod.call("claim_deletable_objects", 10, quiet.seen) == [], "also before the first tick"
    quiet.tick()
    assert pod.run("generation", quiet.ask()).publish() == "ok", "jobs do not wait"
    assert quiet.one("select worker.start_delay('publish_lora')") is not None
    assert pod.call("begin_renewal") is None, "a live original comes first"
    let_pass(quiet, "7 minutes")
    assert pod.call("begin_renewal") is None
    let_pass(quiet, "31 seconds")
    renew(pod)
    assert pod.call("claim_deletable_objects", 10, quiet.seen) == [], "another copy may have renewed at the same moment"
    let_pass(quiet, "150 seconds")
    assert quiet.claim_deletable() == {"left"}
    assert quiet.one("select worker.start_delay('publish_lora')") is None


def test_a_server_that_was_started_anew_may_be_a_copy_even_if_the_last_tick_is_recent(
    quiet: AppTables, pod: Pod
) -> None:
    settled_as = pod.call("claim_look", None)["settled_as"]
    assert settled_as is not None
    quiet.run("update worker.installation set server_started_at = server_started_at - interval '1 hour'")
    assert pod.call("claim_deletable_objects", 10, quiet.seen) == []
    quiet.tick()
    assert quiet.claim_deletable() == set()
    assert pod.call("claim_look", None)["settled_as"] is None
    # The same pod process was connected before: this is the original, whose server was restarted.
    let_pass(quiet, "2 minutes")
    assert pod.call("claim_look", settled_as)["settled_as"] == settled_as
    assert quiet.claim_deletable() == {"left"}


def test_what_a_pod_remembers_of_an_earlier_era_does_not_count(db: AppTables, pod: Pod) -> None:
    settled_as = pod.call("claim_look", None)["settled_as"]
    db.run("select worker.move_installation()")
    db.run("select worker.note_markers(%s)", Jsonb(db.seen))
    assert pod.call("claim_look", settled_as)["settled_as"] is None
    assert pod.call("begin_renewal") is None


@pytest.mark.parametrize("seen", [UNREADABLE, {"id": str(uuid4()), "nonce": "x"}], ids=["unreadable", "foreign"])
def test_the_wait_begins_again_when_the_marker_was_not_seen_to_stay_ours(
    db: AppTables, pod: Pod, seen: dict[str, Any]
) -> None:
    db.run(
        "update worker.installation set unsettled_since = clock_timestamp() - interval '9 minutes', renewed_at = null"
    )
    pod.call("note_markers", {db.uploads: seen, db.models: db.marker})
    pod.call("note_markers", db.seen)
    assert pod.call("begin_renewal") is None
    let_pass(db, "8 minutes")
    renew(pod)


def test_without_renewals_for_two_periods_nothing_is_deleted(quiet: AppTables, pod: Pod) -> None:
    quiet.run("update worker.installation set renewed_at = clock_timestamp() - interval '11 minutes'")
    assert pod.call("claim_deletable_objects", 10, quiet.seen) == []
    renew(pod)
    assert quiet.claim_deletable() == {"left"}


def test_a_database_without_its_row_starts_nothing(db: AppTables, pod: Pod) -> None:
    db.run("delete from worker.installation")
    job_id = db.ask()
    assert pod.claim() == ("generation", job_id)
    assert pod.start("generation", job_id) is None


def test_the_owner_alone_may_mark_move_and_adopt(db: AppTables, pod: Pod) -> None:
    for function in ("first_marker", "move_installation", "adopt_installation"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            pod.database.execute(sql.SQL("select worker.{}()").format(sql.Identifier(function)))
