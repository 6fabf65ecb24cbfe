"""The demo, run as a user runs it: everything in its summary is verified, and nothing is left behind."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
from botocore.client import BaseClient
from PIL import Image
from psycopg.rows import dict_row

from tests.demo.running import DemoProcess, start_demo
from tests.tiny_models import cached_tiny_models
from tests.waiting import wait_until
from worker.demo.held_out_loss import held_out_loss
from worker.demo.servers import EmbeddedS3
from worker.ml import models
from worker.ml.train.batches import Photo

TABLES = {
    "training": "public.training_jobs",
    "generation": "public.generation_jobs",
    "mesh": "public.mesh_jobs",
}
UPLOADS, MODELS, MESHES = "uploads", "model_artifacts", "3d-models"


@dataclass(frozen=True)
class Kept:
    """The results of a finished demo: its summary, and the database and buckets that it kept running."""

    demo: DemoProcess
    summary: dict[str, Any]
    database: psycopg.Connection[dict[str, Any]]
    s3: BaseClient

    def rows(self, statement: str, *arguments: object) -> list[dict[str, Any]]:
        return self.database.execute(statement, arguments).fetchall()  # type: ignore[arg-type]

    def job(self, name: str) -> dict[str, Any]:
        """The row of the job that the summary lists under this name."""
        (job,) = [job for job in self.summary["jobs"] if job["name"] == name]
        (row,) = self.rows(f"select * from {TABLES[job['kind']]} where id = %s", job["id"])
        return row

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def read(self, bucket: str, key: str) -> bytes:
        body: bytes = self.s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        return body

    def described(self, bucket: str, key: str) -> dict[str, Any]:
        body = self.read(bucket, key)
        digest = hashlib.sha256(body).hexdigest()
        return {"bucket": bucket, "key": key, "sha256": digest, "size_bytes": len(body)}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    demo = start_demo(tmp_path_factory.mktemp("demo"), "--keep", "--all")
    try:
        wait_until(lambda: demo.says("Ctrl-C stops everything"), "the demo to finish its steps", 540)
        summary = json.loads((demo.output / "summary.json").read_text())
        s3 = boto3.client(
            "s3",
            endpoint_url=summary["servers"]["s3_endpoint_url"],
            aws_access_key_id=EmbeddedS3.access_key_id,
            aws_secret_access_key=EmbeddedS3.secret_access_key,
            region_name=EmbeddedS3.region,
        )
        with psycopg.connect(summary["servers"]["database_url"], autocommit=True, row_factory=dict_row) as database:
            yield Kept(demo, summary, database, s3)
    finally:
        if demo.process.poll() is None:
            demo.end(signal.SIGTERM)


pytestmark = pytest.mark.timeout(600)


def test_every_key_of_the_summary_is_verified_below(kept: Kept) -> None:
    derived = {"user_id", "subjects", "jobs", "loras", "files", "training_settings", "held_out_losses", "revocation"}
    stated = {"version", "base", "servers"}
    assert set(kept.summary) == derived | stated | {"seconds"}
    assert all(seconds >= 0 for seconds in kept.summary["seconds"].values())


def test_every_job_of_the_summary_is_its_row_and_no_job_is_missing(kept: Kept) -> None:
    names = ("id", "subject_id", "status", "attempt", "error_code", "error")
    listed = {job["id"]: (job["kind"], {name: job[name] for name in names}) for job in kept.summary["jobs"]}
    found = {}
    for kind, table in TABLES.items():
        for row in kept.rows(f"select {', '.join(names)} from {table} where owner_id = %s", kept.summary["user_id"]):
            row |= {name: row[name] and str(row[name]) for name in ("id", "subject_id")}
            found[row["id"]] = (kind, row)
    assert listed == found


def test_jobs_ended_as_the_demo_describes(kept: Kept) -> None:
    assert {job["name"]: (job["status"], job["error_code"]) for job in kept.summary["jobs"]} == {
        "train before consent": ("failed", "consent_denied"),
        "train": ("completed", None),
        **{
            f"draw {what}, prompt {place}": ("completed", None)
            for what in ("class", "without", "with")
            for place in (1, 2)
        },
        "draw from a reference, first time": ("completed", None),
        "draw from a reference, second time": ("completed", None),
        "make a 3D model": ("completed", None),
        "train another person": ("completed", None),
        "revoke while drawing": ("failed", "consent_denied"),
        "train after revocation": ("failed", "consent_denied"),
    }
    assert "pending" in kept.job("train before consent")["error"]
    assert "revoked" in kept.job("train after revocation")["error"]
    assert kept.job("train before consent")["attempt"] == kept.job("train after revocation")["attempt"] == 0


def test_the_summary_lists_exactly_the_objects_of_each_job(kept: Kept) -> None:
    for job in kept.summary["jobs"]:
        if job["kind"] == "training":
            bucket, prefix = MODELS, f"{job['subject_id']}/{job['id']}/"
        else:
            bucket = MESHES if job["kind"] == "mesh" else UPLOADS
            prefix = f"{kept.summary['user_id']}/{job['subject_id'] or '_'}/generated/{job['id']}/"
        listed = sorted(job["objects"], key=lambda found: found["key"])
        assert listed == [kept.described(bucket, key) for key in kept.keys(bucket, prefix)], job["name"]
        assert bool(listed) == (job["status"] == "completed")


def test_published_objects_are_those_of_completed_jobs_and_none_is_left_staged(kept: Kept) -> None:
    listed = {(found["bucket"], found["key"]) for job in kept.summary["jobs"] for found in job["objects"]}
    rows = kept.rows("select bucket, key, state from worker.staged_objects where kind = any (%s)", list(TABLES))
    assert {(row["bucket"], row["key"]) for row in rows} == listed
    assert {row["state"] for row in rows} == {"published"}


def test_photos_are_in_storage_and_held_out_photos_were_not_trained_on(kept: Kept) -> None:
    jobs = {"person": "train", "other person": "train another person"}
    for subject in kept.summary["subjects"]:
        photos = subject["training_photos"] + subject["held_out_photos"]
        assert photos == [kept.described(UPLOADS, photo["key"]) for photo in photos]
        rows = kept.rows("select path from public.subject_photos where subject_id = %s order by path", subject["id"])
        assert [row["path"] for row in rows] == sorted(photo["key"] for photo in photos)
        trained_on = kept.job(jobs[subject["who"]])["sample_paths"]
        assert trained_on == [photo["key"] for photo in subject["training_photos"]]
        assert len(trained_on) == 12
        assert len(subject["held_out_photos"]) == 3
        assert not set(trained_on) & {photo["key"] for photo in subject["held_out_photos"]}


def test_subjects_and_their_consent_are_as_in_the_ledger(kept: Kept) -> None:
    for subject in kept.summary["subjects"]:
        (row,) = kept.rows("select trigger_word, consent_status from public.subjects where id = %s", subject["id"])
        events = kept.rows("select event from worker.consent_events where subject_id = %s order by id", subject["id"])
        assert subject["trigger_word"] == row["trigger_word"]
        assert subject["consent_events"] == [event["event"] for event in events]
    assert {subject["who"]: subject["consent_events"] for subject in kept.summary["subjects"]} == {
        "person": ["refusal", "grant", "revoke", "refusal", "refusal"],
        "other person": ["grant"],
    }


def test_loras_are_the_published_rows_and_their_copies_are_the_same_bytes(kept: Kept) -> None:
    rows = kept.rows(
        "select id, subject_id, version, path as key, sha256 from public.subjects_models order by created_at"
    )
    assert kept.summary["loras"] == [row | {"id": str(row["id"]), "subject_id": str(row["subject_id"])} for row in rows]
    for row in rows:
        assert kept.described(MODELS, row["key"])["sha256"] == row["sha256"]
        assert kept.read(MODELS, f"{row['subject_id']}/lora.safetensors") == kept.read(MODELS, row["key"])


def test_files_of_the_output_folder_are_the_objects(kept: Kept) -> None:
    for file in kept.summary["files"]:
        assert (kept.demo.output / file["file"]).read_bytes() == kept.read(file["bucket"], file["key"])
    pictures = [
        f"{what}-{place}-{number}.png" for what in ("class", "without", "with") for place in (1, 2) for number in (1, 2)
    ]
    others = ["from-reference-1.png", "lora.safetensors", "mesh.glb", "mesh-turntable.webp", "mesh-views.png"]
    assert sorted(file["file"] for file in kept.summary["files"]) == sorted([*others, *pictures])
    with Image.open(kept.demo.output / "with-1-1.png") as picture:
        assert picture.size == (4 * 96, 4 * 128)
    for made in ("contact-sheet.png", "loss-curve.png"):
        with Image.open(kept.demo.output / made) as picture:
            assert picture.width > 800


def test_requests_with_and_without_the_lora_differ_only_in_the_lora(kept: Kept) -> None:
    lora = kept.summary["loras"][0]["id"]
    request = ("prompt", "preset_id", "base", "seed", "num_images", "width", "height", "steps", "guidance", "upscale")
    for place in (1, 2):
        one, other = (kept.job(f"draw {what}, prompt {place}") for what in ("with", "without"))
        assert [str(model) for model in one["model_ids"]] == [lora]
        assert other["model_ids"] == []
        assert {name: one[name] for name in request} == {name: other[name] for name in request}
        assert one["result"]["settings"] == other["result"]["settings"]


def test_the_class_is_drawn_without_the_lora_and_without_its_trigger_word(kept: Kept) -> None:
    word = kept.summary["subjects"][0]["trigger_word"]
    for place in (1, 2):
        one, other = (kept.job(f"draw {what}, prompt {place}") for what in ("without", "class"))
        assert other["prompt"] == one["prompt"].replace(word, "a person") != one["prompt"]
        assert other["model_ids"] == one["model_ids"] == []


def test_training_settings_are_those_of_the_rows(kept: Kept) -> None:
    for what in ("train", "train another person"):
        row = kept.job(what)
        assert {name: pytest.approx(row[name]) for name in kept.summary["training_settings"]} == kept.summary[
            "training_settings"
        ]


def test_losses_can_be_measured_again_from_the_objects_and_show_what_was_learnt(kept: Kept, tmp_path: Path) -> None:
    person = kept.summary["subjects"][0]
    own, other = (tmp_path / name for name in ("own.safetensors", "other.safetensors"))
    for path, lora in zip((own, other), kept.summary["loras"], strict=True):
        path.write_bytes(kept.read(MODELS, lora["key"]))
    photos = []
    for number, photo in enumerate(person["held_out_photos"]):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(kept.read(UPLOADS, photo["key"]))
        (row,) = kept.rows("select caption from public.subject_photos where path = %s", photo["key"])
        photos.append(Photo(path, f"{person['trigger_word']}, {row['caption']}"))
    models_dir, built_now = cached_tiny_models()
    assert not built_now
    base = models.load(models_dir / kept.summary["base"], "cpu")
    resolution = kept.summary["training_settings"]["resolution"]
    losses = {
        name: held_out_loss(base, photos, lora, draws=16, resolution=resolution)
        for name, lora in (("own", own), ("none", None), ("other", other))
    }
    assert kept.summary["held_out_losses"] == pytest.approx(losses, rel=1e-3)
    assert losses["own"] < 0.6 * losses["none"]
    assert losses["own"] < 0.97 * losses["other"]


def test_the_revocation_stopped_the_drawing_and_nothing_was_published(kept: Kept) -> None:
    revocation, row = kept.summary["revocation"], kept.job("revoke while drawing")
    assert revocation["job_id"] == str(row["id"])
    assert row["result"] is None
    assert row["started_at"] is not None
    (revoked,) = kept.rows(
        "select at from worker.consent_events where event = 'revoke' and subject_id = %s", row["subject_id"]
    )
    assert row["started_at"] < revoked["at"] < row["finished_at"]
    assert revocation["seconds_until_stopped"] == (row["finished_at"] - revoked["at"]).total_seconds()
    events = [event["event"] for event in kept.rows("select event from worker.job_events where job_id = %s", row["id"])]
    assert "completed" not in events
    # No later request could have written objects, so the buckets are as they were then.
    now = sum(len(kept.keys(bucket)) for bucket in (UPLOADS, MODELS, MESHES))
    assert revocation["objects_before"] == revocation["objects_after"] == now


def test_the_worker_is_a_pod_with_a_pods_login(kept: Kept) -> None:
    (pod,) = kept.rows("select name, routes from worker.pods")
    assert pod["name"] == "demo"
    assert {"training/tiny-flux", "generation/tiny-flux"} <= set(pod["routes"])
    logins = kept.rows("select distinct usename from pg_stat_activity where starts_with(application_name, 'likeness')")
    assert [login["usename"] for login in logins] == ["pod"]


def test_ctrl_c_ends_a_kept_demo_successfully_and_leaves_nothing_running(kept: Kept) -> None:
    kept.database.close()
    assert kept.demo.running("worker.gpu.child")
    assert kept.demo.running("worker.demo.servers")
    assert kept.demo.end(signal.SIGINT) == 0, kept.demo.screen.read_text()
    kept.demo.assert_nothing_is_left()
