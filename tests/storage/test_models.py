import asyncio
import os
import subprocess
import sys
import uuid
from contextlib import suppress
from pathlib import Path

import pytest

from worker.errors import InvalidInput, ModelMissing, StorageError
from worker.models import BaseModels

FILES = {
    "model_index.json": b'{"_class_name": "FluxPipeline"}',
    "transformer/config.json": b"{}",
    "transformer/weights.safetensors": os.urandom(400_000),
    "vae/weights.safetensors": os.urandom(300_000),
}
BIG = "transformer/weights.safetensors"

# What a second pod on the same disk does: one process, one base.
FETCH = """
import asyncio, sys
from pathlib import Path
from worker.models import BaseModels
from worker.storage import ObjectStore, StoreConfig

async def main(address, folder, bucket, slug):
    store = ObjectStore(StoreConfig(address, "us-east-1", "x", "x"))
    print(await BaseModels(Path(folder), store, bucket).ensure(slug), flush=True)
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


def start_fetch(relay, folder: Path, bucket: str, slug: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FETCH, f"http://127.0.0.1:{relay.port}", str(folder), bucket, slug]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def holds_open(pid: int, path: Path) -> bool:
    """Whether a process has a file open, as one that waits for its lock does."""
    links = Path(f"/proc/{pid}/fd")
    with suppress(FileNotFoundError):
        return any(link.samefile(path) for link in links.iterdir() if link.exists())
    return False


@pytest.fixture
async def slug(store, bucket, tmp_path) -> str:
    """A base that is in the bucket."""
    name = f"base-{uuid.uuid4().hex[:8]}"
    write_base(tmp_path / "pusher" / name)
    await BaseModels(tmp_path / "pusher", store, bucket).push(name)
    return name


@pytest.fixture
def pod(relayed, bucket, tmp_path) -> BaseModels:
    """A pod with an empty disk."""
    return BaseModels(tmp_path / "pod", relayed, bucket)


@pytest.fixture
def disk(tmp_path) -> Path:
    return tmp_path / "pod"


class TestFetching:
    async def test_a_pushed_base_arrives_whole(self, pod, slug, disk):
        assert pod.present() == []
        assert await pod.in_bucket() == [slug]
        path = await pod.ensure(slug)
        assert path == disk / slug
        assert content_of(path) == FILES
        assert pod.present() == [slug]

    async def test_a_base_on_the_disk_needs_no_bucket(self, pod, slug, disk, bucket):
        path = await pod.ensure(slug)
        assert await BaseModels(disk, None, bucket).ensure(slug) == path

    async def test_a_folder_put_there_by_hand_is_taken_as_it_is(self, disk, bucket):
        write_base(disk / "by-hand")
        models = BaseModels(disk, None, bucket)
        assert await models.ensure("by-hand") == disk / "by-hand"
        assert models.present() == ["by-hand"]

    async def test_a_base_that_is_nowhere_is_named_with_the_command_that_mends_it(self, pod, bucket, tmp_path):
        for models in (pod, BaseModels(tmp_path / "none", None, bucket)):
            with pytest.raises(ModelMissing, match=r"base model flux-dev .*worker models pull REPO --as flux-dev"):
                await models.ensure("flux-dev")

    async def test_a_folder_by_hand_that_is_unfinished_is_not_cleared_away(self, pod, slug, disk):
        (disk / slug).mkdir(parents=True)
        (disk / slug / "half").write_bytes(b"somebody's 20 GB")
        with pytest.raises(ModelMissing, match=f"{slug} lies unfinished"):
            await pod.ensure(slug)
        assert content_of(disk / slug) == {"half": b"somebody's 20 GB"}

    async def test_a_store_that_fails_is_not_a_missing_model(self, answering, bucket, disk):
        """The pod stops taking a route when its model is missing; a store that is down must not do that."""
        models = BaseModels(disk, answering(lambda *_: (403, "")), bucket)
        with pytest.raises(StorageError):
            await models.ensure("flux-dev")

    async def test_a_base_whose_push_was_interrupted_is_not_there(self, pod, slug, store, bucket):
        await store.delete(bucket, [f"models/base/{slug}/manifest.json"])
        assert await pod.in_bucket() == []
        with pytest.raises(ModelMissing):
            await pod.ensure(slug)

    async def test_hidden_files_are_not_pushed(self, pod, store, bucket, tmp_path):
        write_base(tmp_path / "tidy" / "b", {**FILES, ".cache/huggingface/lock": b"x"})
        size = await BaseModels(tmp_path / "tidy", store, bucket).push("b")
        assert size == sum(map(len, FILES.values()))
        assert content_of(await pod.ensure("b")) == FILES

    @pytest.mark.parametrize("slug", ["", "..", ".hidden", "a/b", "../../etc", "a\nb", "x" * 200])
    async def test_a_name_that_leads_elsewhere_is_refused(self, pod, slug):
        for attempt in (pod.ensure(slug), pod.push(slug)):
            with pytest.raises(InvalidInput):
                await attempt

    async def test_a_manifest_that_leads_elsewhere_is_refused(self, pod, slug, store, bucket, tmp_path):
        """Whoever can write to the bucket must not get to write anywhere on the pods."""
        manifest = tmp_path / "manifest.json"
        manifest.write_text('{"files": {"../../evil": {"size_bytes": 0, "sha256": "%s"}}}' % ("0" * 64))
        await store.upload(bucket, f"models/base/{slug}/manifest.json", manifest, "application/json")
        with pytest.raises(ModelMissing, match="damaged manifest"):
            await pod.ensure(slug)

    async def test_a_base_past_the_limit_is_refused_before_it_is_fetched(self, relayed, relay, slug, bucket, disk):
        models = BaseModels(disk, relayed, bucket, max_gb=0.0005)
        with pytest.raises(ModelMissing, match=r"does not fit in MODELS_MAX_GB=0\.0005"):
            await models.ensure(slug)
        assert relay.asked("GET", "safetensors") == []


class TestDamage:
    async def test_a_file_changed_on_the_disk_is_noticed_and_fetched_again(self, pod, slug, disk, relay):
        path = await pod.ensure(slug)
        flipped = bytearray(FILES[BIG])
        flipped[1000] ^= 1
        (path / BIG).write_bytes(flipped)
        before = len(relay.asked("GET", "safetensors"))
        assert content_of(await pod.ensure(slug)) == FILES
        again = relay.asked("GET", "safetensors")[before:]
        assert len(again) == 1
        assert BIG in again[0]

    async def test_a_file_lost_or_cut_on_the_disk_is_fetched_again(self, pod, slug, disk):
        path = await pod.ensure(slug)
        (path / "vae/weights.safetensors").unlink()
        os.truncate(path / BIG, 1000)
        assert pod.present() == []
        assert content_of(await pod.ensure(slug)) == FILES

    async def test_damage_with_no_bucket_is_a_missing_model(self, pod, slug, disk, bucket):
        path = await pod.ensure(slug)
        (path / BIG).write_bytes(os.urandom(len(FILES[BIG])))
        with pytest.raises(ModelMissing, match=slug):
            await BaseModels(disk, None, bucket).ensure(slug)

    async def test_a_touched_file_that_is_sound_is_not_fetched_again(self, pod, slug, disk, relay):
        path = await pod.ensure(slug)
        (path / BIG).write_bytes(FILES[BIG])
        before = len(relay.requests())
        await pod.ensure(slug)
        assert len(relay.requests()) == before

    async def test_damage_in_the_bucket_is_a_missing_model_until_it_is_pushed_again(
        self, pod, slug, store, bucket, tmp_path
    ):
        bad = tmp_path / "bad"
        bad.write_bytes(os.urandom(len(FILES[BIG])))
        await store.upload(bucket, f"models/base/{slug}/{BIG}", bad, "application/octet-stream")
        with pytest.raises(ModelMissing, match=f"{slug} is damaged in the model bucket \\({BIG}\\)"):
            await pod.ensure(slug)
        assert pod.present() == []
        await BaseModels(tmp_path / "pusher", store, bucket).push(slug)
        assert content_of(await pod.ensure(slug)) == FILES

    async def test_a_file_missing_in_the_bucket_is_named(self, pod, slug, store, bucket):
        await store.delete(bucket, [f"models/base/{slug}/{BIG}"])
        with pytest.raises(ModelMissing, match=f"lacks {BIG}"):
            await pod.ensure(slug)

    async def test_an_interrupted_fetch_goes_on_where_it_stopped(self, pod, slug, relay, disk):
        relay.hold_answers()
        task = asyncio.create_task(pod.ensure(slug))
        assert await asyncio.to_thread(relay.holding.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert pod.present() == []
        relay.let_go()
        first = len(relay.asked("GET", "config.json"))
        assert content_of(await pod.ensure(slug)) == FILES
        assert len(relay.asked("GET", "config.json")) == first == 1


class TestTwoProcesses:
    async def test_they_fetch_the_same_base_once(self, slug, relay, disk, bucket):
        relay.hold_answers()
        both = [start_fetch(relay, disk, bucket, slug) for _ in range(2)]
        try:
            assert await asyncio.to_thread(relay.holding.wait, 60)
            while not all(holds_open(process.pid, disk / ".locks" / slug) for process in both):
                assert all(process.poll() is None for process in both)
                await asyncio.sleep(0.01)
            relay.let_go()
            for process in both:
                out, _ = await asyncio.to_thread(process.communicate, None, 60)
                assert process.returncode == 0
                assert out.strip() == str(disk / slug)
        finally:
            for process in both:
                process.kill()
        assert content_of(disk / slug) == FILES
        assert len(relay.asked("GET", BIG)) == len(relay.asked("GET", "manifest.json")) == 1

    async def test_one_that_is_killed_holds_nobody_up(self, pod, slug, relay, disk, bucket):
        relay.hold_answers()
        process = start_fetch(relay, disk, bucket, slug)
        assert await asyncio.to_thread(relay.holding.wait, 60)
        process.kill()
        await asyncio.to_thread(process.communicate)
        relay.let_go()
        assert content_of(await pod.ensure(slug)) == FILES

    async def test_two_tasks_of_one_process_fetch_it_once(self, pod, slug, relay):
        await asyncio.gather(pod.ensure(slug), pod.ensure(slug))
        assert len(relay.asked("GET", BIG)) == len(relay.asked("GET", "manifest.json")) == 1


class TestUpscalers:
    async def test_they_are_found_by_their_scale_and_are_no_bases(self, pod, store, bucket, tmp_path):
        for scale in (2, 4):
            folder = tmp_path / "pusher" / f"real-esrgan-x{scale}"
            write_base(folder, {"model.safetensors": b"weights" * scale})
            await BaseModels(tmp_path / "pusher", store, bucket).push(folder.name)
        assert (await pod.ensure_upscaler(2)).read_bytes() == b"weights" * 2
        assert (await pod.ensure_upscaler(4)).read_bytes() == b"weights" * 4
        assert pod.present() == []
        assert await pod.in_bucket() == []

    async def test_a_missing_one_is_named(self, pod):
        with pytest.raises(ModelMissing, match="real-esrgan-x4"):
            await pod.ensure_upscaler(4)

    async def test_there_is_none_for_another_scale(self, pod):
        with pytest.raises(InvalidInput):
            await pod.ensure_upscaler(3)


async def test_pushing_what_is_not_whole_is_refused(pod, disk):
    (disk / "half").mkdir(parents=True)
    with pytest.raises(ModelMissing, match="half is not on this machine's disk"):
        await pod.push("half")
