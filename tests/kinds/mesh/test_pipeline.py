"""Meshes through the whole pipeline: from an INSERT, by a separate worker process, to published files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from uuid import UUID

import numpy as np
import pytest
import trimesh
import yaml
from PIL import Image
from psycopg.types.json import Jsonb

from tests.kinds.mesh.things import bomb, encoded, mug, noise, unseen
from tests.waiting import wait_until
from tests.web_server import Server, body, redirect, serving
from tests.worker.conftest import MakeFleet
from tests.worker.fleet import Fleet
from worker.ml.networks.triposr.tiny import build_tiny

BASE, DENSE = "tiny-triposr", "tiny-triposr-dense"
"""The second sees an object everywhere."""
REGISTER = """
insert into worker.base_models (slug, family, capabilities, only_for, min_vram_gib, licence, commercial_use)
values (%s, 'triposr', '{mesh}', 'mesh', 0, 'none', true)"""


@pytest.fixture(scope="module")
def shop() -> Iterator[Server]:
    with serving() as server:
        server.answers = {
            "/mug.png": body(encoded(mug())),
            "/mug-alpha.webp": body(encoded(mug(None), "WEBP", lossless=True)),
            "/gone.png": body(b"", 404),
            "/page": body(b"<!DOCTYPE html><html><body>Mug", Content_Type="image/png"),
            "/inside": redirect("http://localhost:1/latest/meta-data/"),
            "/film": body(b"", Content_Length="200000000"),
            "/drawing.svg": body(b'<svg xmlns="http://www.w3.org/2000/svg"/>', Content_Type="image/svg+xml"),
            "/bomb.png": body(bomb()),
            "/transparent.png": body(encoded(Image.new("RGBA", (64, 64)))),
            "/empty.png": body(encoded(Image.new("RGB", (64, 64), "white"))),
            "/noise.png": body(encoded(noise())),
            "/unseen.png": body(encoded(unseen())),
            "/cut.png": body(encoded(mug())[:300]),
            "/pole.png": body(encoded(mug(size=(4, 2000)))),
        }
        yield server


@pytest.fixture(scope="module")
def fleet(make_fleet: MakeFleet, shop: Server, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """One pod with nothing but the tiny model of meshes."""
    disk = tmp_path_factory.mktemp("meshes")
    build_tiny(disk / BASE)
    build_tiny(disk / DENSE)
    config = yaml.safe_load((disk / DENSE / "config.yaml").read_text())
    config["renderer"]["density_bias"] = 5.0
    (disk / DENSE / "config.yaml").write_text(yaml.safe_dump(config))
    fleet = make_fleet(models_dir=disk, WORKER_KINDS="mesh", FETCH_PRIVATE_HOSTS=shop.host)
    for base in (BASE, DENSE):
        fleet.app.run(REGISTER, base)
    fleet.ready(1)
    return fleet


def ask(fleet: Fleet, **columns: object) -> UUID:
    return fleet.app.request("mesh", **{"owner_id": fleet.app.owner, "base": BASE, "quality": "fast", **columns})


def put(fleet: Fleet, content: bytes, subject: UUID | None = None) -> str:
    folder = f"{subject}/photos" if subject else "_/inputs"
    key = f"{fleet.app.owner}/{folder}/mug.png"
    fleet.app.s3.put_object(Bucket=fleet.app.uploads, Key=key, Body=content)
    return key


def opened(fleet: Fleet, key: str) -> Image.Image:
    return Image.open(io.BytesIO(fleet.app.read(fleet.app.meshes, key)))


def test_a_mesh_of_the_first_usable_picture_with_preview_turntable_and_metadata(fleet: Fleet, shop: Server) -> None:
    metadata = {"shop": "mugs.example", "title": {"de": "Tasse ☕"}, "price": 12.50, "ids": [1, None]}
    urls = [shop.url(path) for path in ("/gone.png", "/page?token=secret", "/empty.png", "/mug.png?signature=abc")]
    job = ask(fleet, image_urls=urls, metadata=Jsonb(metadata), max_faces=2000)
    result = fleet.completed("mesh", job)["result"]
    assert result["metadata"] == metadata
    assert (result["bucket"], result["picture"], result["background"]) == (fleet.app.meshes, 4, "flat")
    assert result["skipped"].keys() == {"1", "2", "3"}
    assert result["skipped"]["1"] == "127.0.0.1 does not have it (404)"
    assert "a web page, not a picture" in result["skipped"]["2"]
    assert set(result["files"]) == {"mesh", "preview", "turntable"}
    assert fleet.stored(job) == fleet.published(job) == set(result["files"].values())
    mesh = trimesh.load(io.BytesIO(fleet.app.read(fleet.app.meshes, result["files"]["mesh"])), "glb", force="mesh")
    assert (len(mesh.faces), len(mesh.vertices)) == (result["faces"], result["vertices"])
    assert np.abs(mesh.bounds - result["bounds"]).max() < 1e-5
    assert opened(fleet, result["files"]["preview"]).format == "PNG"
    assert opened(fleet, result["files"]["turntable"]).n_frames > 1  # type: ignore[attr-defined]
    assert all(stage["seconds"] >= 0 for stage in result["stages"].values())
    head = fleet.app.s3.head_object(Bucket=fleet.app.meshes, Key=result["files"]["mesh"])
    assert head["ContentType"] == "model/gltf-binary"
    log = "".join(worker.log_path.read_text() for worker in fleet.workers)
    assert "secret" not in log
    assert "signature" not in log


def test_a_mesh_of_a_stored_picture_as_obj_with_its_texture_beside_it(fleet: Fleet) -> None:
    key = put(fleet, encoded(mug(None)))
    job = ask(fleet, image_paths=[key], format="obj", texture="baked", max_faces=5000)
    result = fleet.completed("mesh", job)["result"]
    assert result["background"] == "alpha"
    assert result["faces"] <= 5000
    files = {name: key.rpartition("/")[2] for name, key in result["files"].items()}
    assert files.keys() == {"mesh", "preview", "turntable", "material", "texture"}
    text = {name: fleet.app.read(fleet.app.meshes, result["files"][name]).decode() for name in ("mesh", "material")}
    assert f"mtllib {files['material']}" in text["mesh"]
    assert f"map_Kd {files['texture']}" in text["material"]


FAILED = [
    (["/gone.png"], "input_missing", "picture 1: 127.0.0.1 does not have it (404)"),
    (["/page"], "invalid_input", "a web page, not a picture"),
    (["/inside"], "invalid_input", "picture 1: localhost must be asked with https, not http"),
    (["/film"], "invalid_input", "picture 1: it is too large (200 MB, at most 50)"),
    (["/drawing.svg"], "invalid_input", "an SVG drawing: export it as JPEG"),
    (["/bomb.png"], "invalid_input", "picture 1: it is "),
    (["/cut.png"], "invalid_input", "picture 1: it is damaged"),
    (["/transparent.png"], "invalid_input", "transparent"),
    (["/empty.png"], "invalid_input", "stands out"),
    (["/noise.png"], "invalid_input", "no model that removes it"),
    (["/pole.png"], "invalid_input", "picture 1: "),
    (["/unseen.png"], "invalid_input", "no object was found in the picture"),
    (
        ["/gone.png", "/page", "/cut.png", "/empty.png"],
        "invalid_input",
        "(404); picture 2: what 127.0.0.1 sends is a web page",
    ),
    (["/gone.png", "/page", "/drawing.svg", "/film"], "invalid_input", "picture 4: it is too large"),
]


def test_pictures_that_cannot_be_used_fail_the_job_at_once_and_are_named(fleet: Fleet, shop: Server) -> None:
    jobs = [ask(fleet, image_urls=[shop.url(path) for path in paths]) for paths, _, _ in FAILED]
    for job_id, (paths, code, expected) in zip(jobs, FAILED, strict=True):
        job = fleet.app.wait_for("mesh", job_id)
        assert (job["status"], job["attempt"], job["error_code"]) == ("failed", 1, code), (paths, job["error"])
        assert expected in job["error"], paths
        assert fleet.stored(job_id) == set()


def test_a_redirect_to_a_persons_picture_is_not_followed(fleet: Fleet, shop: Server) -> None:
    person = fleet.app.add_subject()
    signed = f"https://x.supabase.co/storage/v1/object/sign/uploads/{fleet.app.owner}/{person}/photos/1.jpg?token=t"
    shop.answers["/moved.png"] = redirect(signed)
    job = fleet.app.wait_for("mesh", ask(fleet, image_urls=[shop.url("/moved.png")]))
    assert (job["status"], job["error_code"]) == ("failed", "invalid_input")
    assert job["error"].startswith("picture 1: it is redirected to a URL that is a picture of a subject")
    assert "token" not in job["error"]


def test_an_object_that_does_not_end_within_the_space_fails_the_job_and_is_named(fleet: Fleet, shop: Server) -> None:
    job = fleet.app.wait_for("mesh", ask(fleet, base=DENSE, image_urls=[shop.url("/mug.png")]))
    assert (job["status"], job["error_code"]) == ("failed", "invalid_input")
    assert "would be cut off there: use a picture that shows it whole, with a margin" in job["error"]


def test_a_picture_that_is_not_in_storage_is_named(fleet: Fleet) -> None:
    job = fleet.app.wait_for("mesh", ask(fleet, image_paths=[f"{fleet.app.owner}/_/inputs/never.png"]))
    assert (job["error_code"], job["error"]) == (
        "input_missing",
        "picture 1: it is not in storage: upload it, then insert another job",
    )


def running(fleet: Fleet, job: UUID) -> None:
    """Return once the job computes."""
    wait_until(lambda: (fleet.app.job("mesh", job)["progress"] or 0) > 0, "the job to have progress")


def test_a_cancelled_mesh_stops_while_it_is_computed(fleet: Fleet, shop: Server) -> None:
    job = ask(fleet, image_urls=[shop.url("/mug.png")], quality="quality")
    running(fleet, job)
    fleet.app.run("select public.cancel_job('mesh', %s)", job)
    ended = fleet.app.wait_for("mesh", job, timeout_s=20)
    assert ended["status"] == "cancelled"
    assert fleet.stored(job) == set()
    assert fleet.wait_for_outcomes(job, 1) == ["cancelled"]


def test_a_mesh_of_a_persons_picture_ends_with_her_consent(fleet: Fleet) -> None:
    person = fleet.app.add_subject()
    job = ask(fleet, image_paths=[put(fleet, encoded(mug()), person)], quality="quality")
    running(fleet, job)
    fleet.app.run("select public.revoke_consent(%s)", person)
    ended = fleet.app.wait_for("mesh", job, timeout_s=20)
    assert (ended["status"], ended["error_code"]) == ("failed", "consent_denied")
    assert fleet.stored(job) == set()


def test_a_pod_for_meshes_alone_needs_no_other_model(fleet: Fleet) -> None:
    assert fleet.app.one("select routes from worker.pods") == [f"mesh/{BASE}", f"mesh/{DENSE}"]
    assert [worker.events("routes.model_missing") for worker in fleet.workers] == [[]]
