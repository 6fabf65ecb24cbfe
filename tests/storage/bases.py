"""Base models for these tests: small files in the layout of real ones, and processes that fetch them."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from worker.models.push import Push, PushResult

FILES = {
    "model_index.json": b'{"_class_name": "FluxPipeline"}',
    "transformer/config.json": b"{}",
    "transformer/weights.safetensors": os.urandom(400_000),
    "vae/weights.safetensors": os.urandom(300_000),
}
BIG = "transformer/weights.safetensors"

# A second pod on the same disk: a process that uses one base model until its standard input ends.
FETCH = """
import asyncio, sys
from pathlib import Path
from worker.errors import ModelMissing
from worker.models import BaseModels
from worker.storage.object_store import ObjectStore
from worker.storage.s3.client import StoreConfig

async def main(address, folder, bucket, slug, max_gb):
    store = ObjectStore(StoreConfig(address, "us-east-1", "x", "x"))
    models = BaseModels(Path(folder), store, bucket, float(max_gb))
    try:
        print(await models.begin_use(slug), flush=True)
    except ModelMissing as error:
        print(error.message, flush=True)
    sys.stdin.read()
    await store.close()

asyncio.run(main(*sys.argv[1:]))
"""


def write_base(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def content_of(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found.pop("manifest.json", None)
    return found


async def push(folder: Path, slug: str, store, bucket: str, progress: list[int] | None = None) -> PushResult:
    pushing = Push(folder, slug, store, bucket)
    return await pushing.run(await pushing.check(), (progress if progress is not None else []).append)


def start_fetch(
    relay, folder: Path, bucket: str, slug: str, max_gb: float = 1.0, preexec: Callable[[], None] | None = None
) -> subprocess.Popen[str]:
    """Start a process that prints the folder of the base model, or the error message."""
    address = f"http://127.0.0.1:{relay.port}"
    command = [sys.executable, "-c", FETCH, address, str(folder), bucket, slug, str(max_gb)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, preexec_fn=preexec)


def holds_open(pid: int, path: Path) -> bool:
    """Return True if a process has a file open, as one that waits for its lock has."""
    links = Path(f"/proc/{pid}/fd")
    with suppress(FileNotFoundError):
        return any(link.samefile(path) for link in links.iterdir() if link.exists())
    return False
