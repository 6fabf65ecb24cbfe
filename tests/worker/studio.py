"""One pod for all tests that only insert jobs and look at their rows: it has every tiny model and all that they need.

Its start takes longer than most of these tests, and each process of the suite starts it at most once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.app import App
from tests.conftest import Databases
from tests.gates import INSTALL
from tests.processes import WorkerProcesses
from tests.proxy import PostgresProxy
from tests.s3_relay import S3Relay
from tests.worker.fleet import MAKE_POD_ROLE, Fleet, as_pod
from tests.worker.pictures import picture, png
from worker.demo.servers import EmbeddedS3
from worker.models import UPSCALERS

FLUX, SD15, SDXL, KLEIN, Z_IMAGE = "tiny-flux", "tiny-sd15", "tiny-sdxl", "tiny-klein-distilled", "tiny-z-image"
REFERENCE, POSE = "ip-adapter-sd15", "controlnet-pose-sd15"
GUIDES_OF = {
    SD15: (REFERENCE, POSE),
    SDXL: ("ip-adapter-sdxl", "controlnet-union-sdxl"),
    FLUX: ("ip-adapter-flux", "controlnet-union-flux"),
}
UNION = "controlnet-union-z-image"
POSE_OF_PHOTO, DEPTH_OF_PHOTO = "vitpose-base-simple", "depth-anything-v2-small"
UNO = "uno-lora"

REGISTER = """
insert into worker.base_models
  (slug, family, train_base, capabilities, sizes, defaults, min_vram_gib, licence, commercial_use)
values ('tiny-sd15', 'sd15', null, '{train,lora}', '{64x64}',
        '{"steps": 3, "guidance": 4, "width": 64, "height": 48,
          "training": {"steps": 12, "rank": 5, "learning_rate": 0.02, "resolution": 64, "batch_size": 2,
                       "preservation": 0.5}}',
        0, 'none: random weights', true),
       ('tiny-sdxl', 'sdxl', null, '{train,lora}', '{64x64}',
        '{"steps": 2, "guidance": 4, "width": 64, "height": 48,
          "training": {"steps": 3, "rank": 4, "learning_rate": 0.01, "resolution": 64, "batch_size": 2}}',
        0, 'none: random weights', true),
       ('tiny-z-image', 'z-image', null, '{train,lora}', '{64x64}',
        '{"steps": 2, "guidance": 3, "width": 64, "height": 48,
          "training": {"steps": 3, "rank": 4, "learning_rate": 0.01, "resolution": 64, "batch_size": 2}}',
        0, 'none: random weights', true),
       ('tiny-klein', 'klein', null, '{train,lora}', '{64x64}',
        '{"steps": 3, "guidance": 4, "width": 64, "height": 48,
          "training": {"steps": 12, "rank": 5, "learning_rate": 0.02, "resolution": 64, "batch_size": 2}}',
        0, 'none: random weights', true),
       ('tiny-klein-distilled', 'klein', 'tiny-klein', '{lora}', '{64x64}',
        '{"steps": 2, "guidance": 1, "width": 64, "height": 48}', 0, 'none: random weights', true)
"""
CAN_MORE = "update worker.base_models set capabilities = capabilities || %s where family = %s"


class Store(S3Relay):
    """A store in which `huge.jpg` has 312 MB, and which counts downloads of it."""

    downloads = 0

    def pass_on(self, request: BaseHTTPRequestHandler) -> None:
        if "huge.jpg" not in request.path:
            super().pass_on(request)
            return
        self.downloads += request.command == "GET"
        request.send_response(200)
        request.send_header("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
        request.send_header("Content-Length", "312000000" if request.command == "HEAD" else "0")
        request.end_headers()


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


@contextmanager
def open_shop() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Shop) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@dataclass
class Studio:
    fleet: Fleet
    disk: Path
    """The pod's MODELS_DIR."""
    store: Store
    """Between the pod and the store."""
    proxy: PostgresProxy
    """Between the pod and the database."""
    shop: str


@contextmanager
def open_studio(databases: Databases, s3_server: EmbeddedS3, tiny_models: Path, folder: Path) -> Iterator[Studio]:
    disk = folder / "models"
    provide_models(disk, tiny_models)
    with ExitStack() as stack:
        url = stack.enter_context(databases.fresh())
        proxy = stack.enter_context(PostgresProxy(url))
        store = stack.enter_context(Store(s3_server.url()))
        shop = stack.enter_context(open_shop())
        app = stack.enter_context(App.create(url, s3_server))
        for statement in (MAKE_POD_ROLE, REGISTER, INSTALL, "update worker.guides set vram_gib = 0"):
            app.run(statement)
        app.run("update worker.base_models set weights_of = %s, min_vram_gib = 0 where slug = 'uno'", FLUX)
        for family in ("sd15", "sdxl", "flux"):
            app.run(CAN_MORE, ["reference", "control:pose", "control:depth"], family)
        app.run(CAN_MORE, ["control:pose"], "z-image")
        app.run(CAN_MORE, ["reference"], "klein")
        environment = {
            "DATABASE_URL": as_pod(proxy.url),
            "S3_ENDPOINT_URL": store.url,
            "FETCH_PRIVATE_HOSTS": shop,
            "UPSCALER": "realesrgan",  # the second back end, of the same pixels
            "CHECKPOINT_EVERY_SECONDS": "0.4",
        }
        fleet = Fleet(app, stack.enter_context(WorkerProcesses(app, disk, folder)), environment)
        fleet.start()
        yield Studio(fleet, disk, store, proxy, shop)


def provide_models(disk: Path, tiny_models: Path) -> None:
    """Link the tiny bases, and build guides, detectors and UNO's LoRA for them."""
    from worker.ml import models
    from worker.ml.detectors import tiny as tiny_detectors
    from worker.ml.guides.tiny import controlnet, ip_adapter, uno

    disk.mkdir()
    for slug in (*UPSCALERS.values(), *GUIDES_OF, "tiny-klein", KLEIN, Z_IMAGE):
        (disk / slug).symlink_to(tiny_models / slug)
    for slug, (reference, control) in GUIDES_OF.items():
        base = models.load(tiny_models / slug)
        ip_adapter.build_tiny(disk / reference, base)
        controlnet.build_tiny(disk / control, base, union="union" in control)
    tiny_detectors.build_pose(disk / POSE_OF_PHOTO)
    tiny_detectors.build_depth(disk / DEPTH_OF_PHOTO)
    controlnet.build_tiny(disk / UNION, models.load(tiny_models / Z_IMAGE))
    (disk / UNION / "config.json").unlink()  # as it is published
    uno.build_tiny(disk / UNO, models.load(tiny_models / FLUX, "cpu"))
