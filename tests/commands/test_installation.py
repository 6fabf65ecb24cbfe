"""Marking buckets, moving and adopting an installation, as an operator does; what doctor and a pod say of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest

from tests.app import App
from tests.commands.conftest import Operator
from tests.conftest import Databases
from worker.demo.servers import EmbeddedS3
from worker.storage.marker import MARKER_KEY


def marker_in(app: App, bucket: str) -> dict[str, str]:
    marker: dict[str, str] = json.loads(app.read(bucket, MARKER_KEY))
    return marker


def unmark(app: App) -> None:
    """Make it an installation that was migrated from the release before."""
    for bucket in app.buckets:
        app.s3.delete_object(Bucket=bucket, Key=MARKER_KEY)  # type: ignore[attr-defined]
    app.run("update worker.installation set nonce = null, renewed_at = null")
    app.run("delete from worker.bucket_markers")


@pytest.fixture
def copied(operator: Operator, guarded: Databases, s3_server: EmbeddedS3) -> Iterator[Operator]:
    """The same operator with the settings of the original, but the DATABASE_URL of a copy of it."""
    app = operator.app
    app.database.close()
    name = guarded.create(app.url.rpartition("/")[2])
    app.reconnect(app.url)
    operator.environment["DATABASE_URL"] = guarded.server.url(name)
    yield operator
    guarded.drop(name)


def test_storage_init_marks_the_buckets_of_an_upgraded_installation(operator: Operator) -> None:
    unmark(operator.app)
    unmarked = operator.run("doctor", DATABASE_URL=operator.app.url).stdout
    assert f"! bucket {operator.app.uploads}, marker: bucket {operator.app.uploads} is not marked" in unmarked
    ran = operator.worker("storage", "init", DATABASE_URL=operator.app.url)
    assert (ran.code, ran.stderr) == (0, "")
    assert f"✓ bucket {operator.app.uploads}, marker: marked as this installation's" in ran.stdout
    for bucket in (operator.app.uploads, operator.app.models):
        assert marker_in(operator.app, bucket) == operator.app.marker
    again = operator.worker("storage", "init", DATABASE_URL=operator.app.url)
    assert again.code == 0
    assert "is already this installation's" in again.stdout


@pytest.mark.parametrize("login", [None, "a pod's"])
def test_storage_init_without_the_owner_creates_buckets_and_says_that_they_are_not_marked(
    operator: Operator, login: str | None
) -> None:
    unmark(operator.app)
    url = operator.make_login("init_pod") if login else None
    ran = operator.worker("storage", "init", DATABASE_URL=url)
    assert ran.code == 0
    assert f"! bucket {operator.app.uploads}, marker: not marked" in ran.stdout
    assert "delete nothing" in ran.stdout
    assert operator.app.marker["nonce"] is None


def test_storage_init_does_not_take_the_bucket_of_another_installation(operator: Operator) -> None:
    theirs = {"id": str(uuid4()), "nonce": str(uuid4())}
    operator.app.put_marker(operator.app.uploads, theirs)
    ran = operator.worker("storage", "init", DATABASE_URL=operator.app.url)
    assert ran.code == 1
    assert f"✗ bucket {operator.app.uploads}, marker" in ran.stdout
    assert theirs["id"] in ran.stdout
    assert marker_in(operator.app, operator.app.uploads) == theirs


def test_a_copy_is_refused_by_doctor_run_and_storage_init(copied: Operator) -> None:
    before = marker_in(copied.app, copied.app.uploads)
    for command in ("doctor", "run", "storage init"):
        ran = copied.run(command)
        assert ran.code != 0, command
        assert "worker installation moved" in ran.stdout + ran.stderr, command
        assert "✗ installation" in ran.stdout or command != "doctor"
    assert marker_in(copied.app, copied.app.uploads) == before


def test_a_moved_database_takes_the_buckets_along_and_the_old_one_is_refused(copied: Operator) -> None:
    app, old = copied.app, copied.app.marker
    ran = copied.worker("installation", "moved")
    assert ran.code == 0, ran.stderr
    assert f"home of installation {old['id']}, in era " in ran.stdout
    for bucket in app.buckets:
        now = marker_in(app, bucket)
        assert now["id"] == old["id"]
        assert now["nonce"] != old["nonce"]
    doctor = copied.run("doctor").stdout
    assert f"bucket {app.uploads}, marker: marked as this installation's" in doctor
    refused = copied.worker("run", DATABASE_URL=app.url)
    assert refused.code == 2
    assert "in use by another copy of this database" in refused.stderr
    assert "worker installation moved" in refused.stderr


def test_a_copy_is_adopted_only_with_buckets_of_its_own(copied: Operator) -> None:
    app = copied.app
    refused = copied.worker("installation", "adopt")
    assert refused.code == 1
    assert f"{' and '.join(sorted(app.buckets))} already belong to an installation" in refused.stderr
    own = {f"BUCKET_{name}": f"own-{uuid4().hex}" for name in ("UPLOADS", "MODELS", "MESHES")}
    for bucket in own.values():
        app.s3.create_bucket(Bucket=bucket)  # type: ignore[attr-defined]
    wrong = copied.worker("installation", "adopt", **own)
    assert (wrong.code, "worker.config" in wrong.stderr) == (2, True)
    original = marker_in(app, app.uploads)
    with psycopg.connect(copied.environment["DATABASE_URL"], autocommit=True) as copy:
        renamed = "update worker.config set bucket_uploads = %s, bucket_models = %s, bucket_meshes = %s"
        copy.execute(renamed, list(own.values()))
    ran = copied.worker("installation", "adopt", **own)
    assert ran.code == 0, ran.stderr
    assert marker_in(app, own["BUCKET_UPLOADS"])["id"] != original["id"]
    assert marker_in(app, app.uploads) == original
    assert "✓ installation:" in copied.run("doctor", **own).stdout


def test_moving_says_that_buckets_without_a_marker_stay_so(copied: Operator) -> None:
    unmark(copied.app)
    ran = copied.worker("installation", "moved")
    assert ran.code == 0, ran.stderr
    assert f"Bucket {copied.app.uploads} is not marked: worker storage init" in ran.stdout


def test_pods_and_wrong_settings_may_not_move_an_installation(operator: Operator) -> None:
    for command in ("moved", "adopt"):
        ran = operator.worker("installation", command, DATABASE_URL=operator.make_login("mover"), S3_ENDPOINT_URL=None)
        assert ran.code == 2
        assert "S3_ENDPOINT_URL is missing" in ran.stderr
        operator.app.run("drop role mover")
    pod = operator.make_login("mover")
    ran = operator.worker("installation", "moved", DATABASE_URL=pod)
    assert ran.code == 1
    assert "URL of the database's owner" in ran.stderr
    other = {"id": str(uuid4()), "nonce": str(uuid4())}
    operator.app.put_marker(operator.app.models, other)
    ran = operator.worker("installation", "moved", DATABASE_URL=operator.app.url)
    assert ran.code == 1
    assert other["id"] in ran.stderr
