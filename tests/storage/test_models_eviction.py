"""What is evicted for a model that comes, and what never is. Other processes are real ones."""

import asyncio
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

import pytest

from tests.storage.bases import push, start_fetch, write_base
from worker.errors import ModelMissing
from worker.models import BaseModels
from worker.models.eviction import size_of

SIZE = 1_000_000
"""Of each model, in bytes."""
ROOM_FOR_TWO = 2.5 * SIZE / 1e9
"""As MODELS_MAX_GB."""

MakePod = Callable[..., BaseModels]


def whole(name: str) -> dict[str, bytes]:
    content = name.encode() + os.urandom(SIZE)
    return {"model_index.json": b"{}", "weights.safetensors": content[:SIZE]}


@pytest.fixture
async def in_bucket(store, bucket, tmp_path) -> None:
    """Models a, b and c are in the bucket."""
    for slug in ("a", "b", "c"):
        write_base(tmp_path / "pusher" / slug, whole(slug))
        await push(tmp_path / "pusher", slug, store, bucket)


@pytest.fixture
def disk(tmp_path) -> Path:
    return tmp_path / "pod"


@pytest.fixture
def pod(relayed, bucket, disk, in_bucket) -> BaseModels:
    return BaseModels(disk, relayed, bucket, ROOM_FOR_TWO)


@contextmanager
def other_process(relay, disk: Path, bucket: str, slug: str) -> Iterator[Popen[str]]:
    """A process that uses a model, once this has begun."""
    process = start_fetch(relay, disk, bucket, slug, ROOM_FOR_TWO)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == str(disk / slug)
        yield process
    finally:
        process.kill()
        process.communicate()


async def test_what_was_used_longest_ago_goes(pod):
    await pod.ensure("a")
    await pod.ensure("b")
    await pod.ensure("a")
    await pod.ensure("c")
    assert pod.present() == ["a", "c"]
    await pod.ensure("b")
    assert pod.present() == ["b", "c"]


async def test_what_another_process_uses_stays_until_that_process_ends(pod, relay, disk, bucket):
    with other_process(relay, disk, bucket, "a") as user:
        await pod.ensure("b")
        await pod.ensure("c")
        assert pod.present() == ["a", "c"]
        user.kill()
        user.wait()
        await pod.ensure("b")
    assert pod.present() == ["b", "c"]


async def test_what_a_job_of_this_process_uses_stays_until_it_is_over(pod):
    await pod.begin_use("a")
    await pod.ensure("b")
    await pod.ensure("c")
    assert pod.present() == ["a", "c"]
    pod.end_use("a")
    await pod.begin_use("c")
    await pod.ensure("b")
    assert pod.present() == ["b", "c"]


async def test_when_all_are_in_use_the_model_is_missing_with_the_figures_and_nothing_went(pod, relay, disk, bucket):
    with other_process(relay, disk, bucket, "a"):
        await pod.begin_use("b")
        with pytest.raises(ModelMissing) as refused:
            await pod.ensure("c")
    assert refused.value.message.startswith(
        "base model c needs 0.0 GB: 0.0 GB too much for MODELS_MAX_GB=0.0025; what stays: "
    )
    assert "a 0.0 GB (in use)" in refused.value.message
    assert "b 0.0 GB (in use)" in refused.value.message
    assert pod.present() == ["a", "b"]


async def test_what_somebody_put_there_by_hand_and_what_is_only_here_stays(pod, disk, store, bucket):
    write_base(disk / "by-hand", whole("h"))
    await pod.ensure("a")
    await store.delete(bucket, ["models/base/a/manifest.json"])
    with pytest.raises(ModelMissing, match=r"by-hand 0.0 GB \(put there by hand\), a 0.0 GB \(not in the bucket\)"):
        await pod.ensure("b")
    assert pod.present() == ["a", "by-hand"]


async def test_a_folder_that_is_a_link_stays_and_so_does_what_it_leads_to(pod, disk, tmp_path):
    """Somebody put it there, and without it the disk is as full as before."""
    await pod.ensure("a")
    (disk / "a").rename(tmp_path / "elsewhere")
    (disk / "a").symlink_to(tmp_path / "elsewhere")
    await pod.ensure("b")
    write_base(disk / "by-hand", whole("h"))
    await pod.ensure("c")
    assert pod.present() == ["a", "by-hand", "c"]


async def test_a_file_that_is_a_link_takes_no_room(tmp_path):
    write_base(tmp_path / "elsewhere", whole("a"))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "weights.safetensors").symlink_to(tmp_path / "elsewhere" / "weights.safetensors")
    assert size_of(tmp_path / "a") < 1000


async def test_a_guess_evicts_nothing(pod):
    await pod.ensure("a")
    await pod.ensure("b")
    with pytest.raises(ModelMissing, match="too much for MODELS_MAX_GB"):
        await pod.ensure("c", may_evict=False)
    assert pod.present() == ["a", "b"]


async def test_two_processes_do_not_count_on_the_same_room(pod, relay, disk, bucket):
    write_base(disk / "by-hand", whole("h"))  # leaves room for one
    relay.hold_answers()
    first = start_fetch(relay, disk, bucket, "a", ROOM_FOR_TWO)
    try:
        assert await asyncio.to_thread(relay.holding.wait, 60)
        with pytest.raises(ModelMissing, match=r"\.arriving-a 0.0 GB \(on its way\)"):
            await pod.ensure("b")
        relay.let_go()
        out, _ = await asyncio.to_thread(first.communicate, "", 60)
        assert out.strip() == str(disk / "a")
    finally:
        first.kill()


async def test_what_a_killed_process_had_fetched_goes_first(pod, relay, disk, bucket):
    await pod.ensure("a")
    relay.hold_answers()
    killed = start_fetch(relay, disk, bucket, "b", ROOM_FOR_TWO)
    assert await asyncio.to_thread(relay.holding.wait, 60)
    killed.kill()
    await asyncio.to_thread(killed.communicate)
    relay.let_go()
    (disk / ".arriving-b" / "piece").write_bytes(os.urandom(SIZE))
    await pod.ensure("c")
    assert pod.present() == ["a", "c"]
    assert not (disk / ".arriving-b").exists()


async def test_a_disk_that_runs_full_midway_is_a_missing_model_and_is_left_as_it_was(pod, relay, disk, bucket):
    """The limit on a file's size stands for the disk's: the write fails in the middle of a file."""

    def allow_little() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, SIZE // 2))

    process = start_fetch(relay, disk, bucket, "a", ROOM_FOR_TWO, allow_little)
    out, _ = await asyncio.to_thread(process.communicate, "", 60)
    assert out.startswith("base model a needs 0.0 GB, and this pod's disk was full before it was here")
    assert not (disk / ".arriving-a").exists()
    await pod.ensure("a")
    assert pod.present() == ["a"]


def test_a_disk_is_measured_while_other_processes_name_and_remove_folders(tmp_path):
    """It used to raise when a folder that was just listed had got another name: the job failed for it."""
    write_base(tmp_path / "a", whole("a"))
    over = threading.Event()

    def rename() -> None:
        while not over.is_set():
            (tmp_path / "a").rename(tmp_path / ".arriving-a")
            (tmp_path / ".arriving-a").rename(tmp_path / "a")

    other = threading.Thread(target=rename)
    other.start()
    try:
        sizes = {size_of(tmp_path) for _ in range(1000)}
    finally:
        over.set()
        other.join()
    assert max(sizes) >= SIZE
