"""Which models are evicted for a new one, and which never are. Other processes are real."""

import asyncio
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

import pytest

from tests.storage.bases import push, start_fetch, write_base
from worker.errors import ModelMissing
from worker.models import BaseModels
from worker.storage.folder_size import folder_size

SIZE = 1_000_000
"""Of each model, in bytes."""
SPACE_FOR_TWO_GB = 2.5 * SIZE / 1e9
"""As MODELS_MAX_GB."""


def model_of(name: str) -> dict[str, bytes]:
    content = name.encode() + os.urandom(SIZE)
    return {"model_index.json": b"{}", "weights.safetensors": content[:SIZE]}


@pytest.fixture
async def in_bucket(store, bucket, tmp_path) -> None:
    """Models a, b and c are in the bucket."""
    for slug in ("a", "b", "c"):
        write_base(tmp_path / "pusher" / slug, model_of(slug))
        await push(tmp_path / "pusher", slug, store, bucket)


@pytest.fixture
def disk(tmp_path) -> Path:
    return tmp_path / "pod"


@pytest.fixture
def pod(relayed, bucket, disk, in_bucket) -> BaseModels:
    return BaseModels(disk, relayed, bucket, SPACE_FOR_TWO_GB)


@contextmanager
def other_process(relay, disk: Path, bucket: str, slug: str) -> Iterator[Popen[str]]:
    """Start a process and wait until it uses the model; kill it afterwards."""
    process = start_fetch(relay, disk, bucket, slug, SPACE_FOR_TWO_GB)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == str(disk / slug)
        yield process
    finally:
        process.kill()
        process.communicate()


async def test_the_least_recently_used_model_is_evicted(pod):
    await pod.ensure("a")
    await pod.ensure("b")
    await pod.ensure("a")
    await pod.ensure("c")
    assert pod.present() == ["a", "c"]
    await pod.ensure("b")
    assert pod.present() == ["b", "c"]


async def test_a_model_that_another_process_uses_stays_until_that_process_ends(pod, relay, disk, bucket):
    with other_process(relay, disk, bucket, "a") as user:
        await pod.ensure("b")
        await pod.ensure("c")
        assert pod.present() == ["a", "c"]
        user.kill()
        user.wait()
        await pod.ensure("b")
    assert pod.present() == ["b", "c"]


async def test_a_model_that_a_job_of_this_process_uses_stays_until_the_job_ends(pod):
    await pod.begin_use("a")
    await pod.ensure("b")
    await pod.ensure("c")
    assert pod.present() == ["a", "c"]
    pod.end_use("a")
    await pod.begin_use("c")
    await pod.ensure("b")
    assert pod.present() == ["b", "c"]


async def test_when_all_are_in_use_the_model_is_missing_with_the_sizes_and_none_is_evicted(pod, relay, disk, bucket):
    with other_process(relay, disk, bucket, "a"):
        await pod.begin_use("b")
        with pytest.raises(ModelMissing) as refused:
            await pod.ensure("c")
    assert refused.value.message.startswith(
        "base model c needs 0.0 GB, which exceeds MODELS_MAX_GB=0.0025 by 0.0 GB; not evicted: "
    )
    assert "a 0.0 GB (in use)" in refused.value.message
    assert "b 0.0 GB (in use)" in refused.value.message
    assert pod.present() == ["a", "b"]


async def test_models_added_by_hand_or_missing_in_the_bucket_stay(pod, disk, store, bucket):
    write_base(disk / "by-hand", model_of("h"))
    await pod.ensure("a")
    await store.delete(bucket, ["models/base/a/manifest.json"])
    with pytest.raises(ModelMissing, match=r"by-hand 0.0 GB \(added by hand\), a 0.0 GB \(not in the bucket\)"):
        await pod.ensure("b")
    assert pod.present() == ["a", "by-hand"]


async def test_a_symbolic_link_to_a_folder_stays_and_so_does_its_target(pod, disk, tmp_path):
    """An operator added it, and deleting it would free no space."""
    await pod.ensure("a")
    (disk / "a").rename(tmp_path / "elsewhere")
    (disk / "a").symlink_to(tmp_path / "elsewhere")
    await pod.ensure("b")
    write_base(disk / "by-hand", model_of("h"))
    await pod.ensure("c")
    assert pod.present() == ["a", "by-hand", "c"]


async def test_the_target_of_a_link_does_not_count_to_the_size(tmp_path):
    write_base(tmp_path / "elsewhere", model_of("a"))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "weights.safetensors").symlink_to(tmp_path / "elsewhere" / "weights.safetensors")
    assert folder_size(tmp_path / "a") < 1000


async def test_a_prefetch_evicts_nothing(pod):
    await pod.ensure("a")
    await pod.ensure("b")
    with pytest.raises(ModelMissing, match="exceeds MODELS_MAX_GB"):
        await pod.ensure("c", may_evict=False)
    assert pod.present() == ["a", "b"]


async def test_two_processes_do_not_reserve_the_same_space(pod, relay, disk, bucket):
    write_base(disk / "by-hand", model_of("h"))  # leaves space for one
    relay.hold_answers()
    first = start_fetch(relay, disk, bucket, "a", SPACE_FOR_TWO_GB)
    try:
        assert await asyncio.to_thread(relay.holding.wait, 60)
        with pytest.raises(ModelMissing, match=r"\.arriving-a 0.0 GB \(being downloaded\)"):
            await pod.ensure("b")
        relay.let_go()
        out, _ = await asyncio.to_thread(first.communicate, "", 60)
        assert out.strip() == str(disk / "a")
    finally:
        first.kill()


async def test_leftovers_of_a_killed_process_are_deleted_first(pod, relay, disk, bucket):
    await pod.ensure("a")
    relay.hold_answers()
    killed = start_fetch(relay, disk, bucket, "b", SPACE_FOR_TWO_GB)
    assert await asyncio.to_thread(relay.holding.wait, 60)
    killed.kill()
    await asyncio.to_thread(killed.communicate)
    relay.let_go()
    (disk / ".arriving-b" / "piece").write_bytes(os.urandom(SIZE))
    await pod.ensure("c")
    assert pod.present() == ["a", "c"]
    assert not (disk / ".arriving-b").exists()


async def test_a_disk_that_becomes_full_during_a_download_is_a_missing_model_and_keeps_nothing_of_it(
    pod, relay, disk, bucket
):
    """A limit on the size of files simulates a full disk: the write fails in the middle of a file."""

    def allow_little() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, SIZE // 2))

    process = start_fetch(relay, disk, bucket, "a", SPACE_FOR_TWO_GB, allow_little)
    out, _ = await asyncio.to_thread(process.communicate, "", 60)
    assert out.startswith("base model a needs 0.0 GB, and this pod's disk became full while it was downloading")
    assert not (disk / ".arriving-a").exists()
    await pod.ensure("a")
    assert pod.present() == ["a"]


def test_a_folder_can_be_measured_while_another_process_renames_its_subfolders(tmp_path):
    """It used to raise when a listed folder had been renamed meanwhile, and the job failed."""
    write_base(tmp_path / "a", model_of("a"))
    over = threading.Event()

    def rename() -> None:
        while not over.is_set():
            (tmp_path / "a").rename(tmp_path / ".arriving-a")
            (tmp_path / ".arriving-a").rename(tmp_path / "a")

    other = threading.Thread(target=rename)
    other.start()
    try:
        sizes = {folder_size(tmp_path) for _ in range(1000)}
    finally:
        over.set()
        other.join()
    assert max(sizes) >= SIZE
