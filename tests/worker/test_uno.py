"""UNO through the whole pipeline, and the cache of results: from an INSERT to a published picture, and again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tests.tiny_models import TINY_BASE
from tests.worker.conftest import Fleet, MakeFleet
from tests.worker.pictures import picture, png
from worker.models import UPSCALERS

PAGES = {
    "/mug.png": ("image/png", png(picture(1, (96, 80)))),
    "/shelf.png": ("image/png", png(picture(2, (80, 96)))),
    "/page": ("text/html", b"<!doctype html><html><body>a shop</body></html>"),
}


class Shop(BaseHTTPRequestHandler):
    """A shop's pictures."""

    def do_GET(self) -> None:
        kind, content = PAGES.get(self.path.partition("?")[0], ("text/plain", b""))
        self.send_response(200 if content else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def shop() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def fleet(make_fleet: MakeFleet, shop: str, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """A pod with the tiny base and a tiny LoRA of UNO, which stand for FLUX.1 [dev] and the published one."""
    from worker.ml import models
    from worker.ml.guides.tiny.uno import build_tiny

    disk = tmp_path_factory.mktemp("uno")
    for slug in (*UPSCALERS.values(), TINY_BASE):
        (disk / slug).symlink_to(tiny_models / slug)
    build_tiny(disk / "uno-lora", models.load(tiny_models / TINY_BASE, "cpu"))
    fleet = make_fleet(models_dir=disk)
    fleet.app.run("update worker.base_models set weights_of = %s, min_vram_gib = 0 where slug = 'uno'", TINY_BASE)
    fleet.app.run("update worker.guides set vram_gib = 0")
    fleet.start(FETCH_PRIVATE_HOSTS=shop)
    return fleet


@pytest.fixture
def ask(fleet: Fleet, shop: str) -> Any:
    def ask(subject: UUID, *names: str, **columns: object) -> UUID:
        urls = [f"http://{shop}/{name}" for name in names or ("mug.png",)]
        request = {"base": "uno", "subject_id": subject, "seed": 3, "width": 64, "height": 64, "steps": 2, "upscale": 2}
        return fleet.draw(**{**request, "prompt": "a mug on a beach", "reference_urls": urls, **columns})

    return ask


def stored(fleet: Fleet, result: dict[str, Any]) -> list[bytes]:
    return [
        fleet.app.read(fleet.app.uploads, item[name]) for item in result["pictures"] for name in ("upscaled", "raw")
    ]


def test_references_by_url_give_a_picture_and_the_same_again_comes_from_storage(fleet: Fleet, ask: Any) -> None:
    subject = fleet.app.add_subject()
    first = fleet.completed("generation", ask(subject, "mug.png", "shelf.png"))
    (guide,) = first["result"]["guides"]
    assert (guide["guide"], guide["used"], first["result"]["base"]) == ("uno-lora", True, "uno")
    assert "cached_from" not in first["result"]
    assert first["gpu_seconds"] > 0

    again = fleet.completed("generation", ask(subject, "mug.png?size=large", "shelf.png"))
    assert again["result"]["cached_from"] == str(first["id"])
    assert again["gpu_seconds"] == 0
    assert (again["finished_at"] - again["started_at"]).total_seconds() < 1
    assert stored(fleet, again["result"]) == stored(fleet, first["result"])
    assert all(str(again["id"]) in item[name] for item in again["result"]["pictures"] for name in ("upscaled", "raw"))

    # Deleting one job's pictures leaves the other's; the copy answers the next request.
    fleet.app.s3.delete_object(Bucket=fleet.app.uploads, Key=first["result"]["pictures"][0]["raw"])
    fleet.app.run("delete from worker.staged_objects where job_id = %s", first["id"])
    third = fleet.completed("generation", ask(subject, "mug.png", "shelf.png"))
    assert third["result"]["cached_from"] == str(again["id"])


def test_every_difference_draws_anew(fleet: Fleet, ask: Any) -> None:
    subject = fleet.app.add_subject()
    fleet.completed("generation", ask(subject))
    changes: list[dict[str, object]] = [
        {"seed": 4},
        {"guidance": 3},
        {"prompt": "a mug in the snow"},
        {"quality": 80, "output_format": "webp"},
        {"subject_id": fleet.app.add_subject()},
        {"cache": False},
    ]
    jobs = [ask(subject, **change) for change in changes] + [ask(subject, "shelf.png")]
    results = [fleet.completed("generation", job)["result"] for job in jobs]
    assert [result.get("cached_from") for result in results] == [None] * len(jobs)


def test_an_app_may_have_deleted_what_would_have_been_copied(fleet: Fleet, ask: Any) -> None:
    subject = fleet.app.add_subject()
    first = fleet.completed("generation", ask(subject))["result"]
    fleet.app.s3.delete_object(Bucket=fleet.app.uploads, Key=first["pictures"][0]["upscaled"])
    second = fleet.completed("generation", ask(subject))["result"]
    assert "cached_from" not in second
    assert stored(fleet, second)


@pytest.mark.parametrize(
    ("name", "code", "error"),
    [
        ("gone.png?token=secret", "input_missing", "reference 1: 127.0.0.1 does not have it (404)"),
        ("page?token=secret", "invalid_input", "a web page, not a picture"),
    ],
)
def test_a_url_that_gives_no_picture_fails_the_job_and_is_not_repeated(
    fleet: Fleet, ask: Any, name: str, code: str, error: str
) -> None:
    job = fleet.app.wait_for("generation", ask(fleet.app.add_subject(), name))
    assert (job["status"], job["error_code"]) == ("failed", code)
    assert error in job["error"]
    assert "secret" not in job["error"]
