import asyncio
import errno
import os
import uuid
from pathlib import Path

import pytest

from tests.storage.bases import BIG, FILES, content_of, holds_open, push, start_fetch, write_base
from worker.errors import CommandRefused, InvalidInput, ModelMissing, StorageError
from worker.models import BaseModels, JobModels
from worker.models.push import Push, PushResult
from worker.storage.s3.client import PART_BYTES


@pytest.fixture
async def slug(store, bucket, tmp_path) -> str:
    """A base model that is in the bucket."""
    name = f"base-{uuid.uuid4().hex[:8]}"
    write_base(tmp_path / "pusher" / name)
    await push(tmp_path / "pusher", name, store, bucket)
    return name


@pytest.fixture
def pod(relayed, bucket, tmp_path) -> BaseModels:
    """A pod with an empty disk."""
    return BaseModels(tmp_path / "pod", relayed, bucket)


@pytest.fixture
def disk(tmp_path) -> Path:
    return tmp_path / "pod"


class TestFetching:
    async def test_a_pushed_base_is_fetched_completely(self, pod, slug, disk):
        assert pod.present() == []
        assert await pod.in_bucket() == [slug]
        path = await pod.ensure(slug)
        assert path == disk / slug
        assert content_of(path) == FILES
        assert pod.present() == [slug]

    async def test_a_base_on_the_disk_needs_no_bucket(self, pod, slug, disk, bucket):
        path = await pod.ensure(slug)
        assert await BaseModels(disk, None, bucket).ensure(slug) == path

    async def test_a_folder_added_by_hand_is_used_unchanged(self, disk, bucket):
        write_base(disk / "by-hand")
        models = BaseModels(disk, None, bucket)
        assert await models.ensure("by-hand") == disk / "by-hand"
        assert models.present() == ["by-hand"]

    async def test_a_missing_base_is_named_with_the_command_that_installs_it(self, pod, bucket, tmp_path):
        for models in (pod, BaseModels(tmp_path / "none", None, bucket)):
            with pytest.raises(
                ModelMissing,
                match=r"flux-dev .*models pull black-forest-labs/FLUX\.1-dev --as flux-dev",
            ):
                await models.ensure("flux-dev")

    async def test_an_incomplete_folder_added_by_hand_is_not_deleted(self, pod, slug, disk):
        (disk / slug).mkdir(parents=True)
        (disk / slug / "half").write_bytes(b"an operator's 20 GB")
        with pytest.raises(ModelMissing, match=f"{slug} is incomplete in MODELS_DIR, added by hand"):
            await pod.ensure(slug)
        assert content_of(disk / slug) == {"half": b"an operator's 20 GB"}

    async def test_a_store_that_fails_is_not_a_missing_model(self, answering, bucket, disk):
        """A pod withdraws a route whose model is missing; it must not do so while the store is down."""
        models = BaseModels(disk, answering(lambda *_: (403, "")), bucket)
        with pytest.raises(StorageError):
            await models.ensure("flux-dev")

    async def test_a_base_whose_push_was_interrupted_is_missing(self, pod, slug, store, bucket):
        await store.delete(bucket, [f"models/base/{slug}/manifest.json"])
        assert await pod.in_bucket() == []
        with pytest.raises(ModelMissing):
            await pod.ensure(slug)

    async def test_a_part_that_links_to_another_base_is_pushed_with_it(self, pod, store, bucket, tmp_path):
        folder = write_base(tmp_path / "sharing" / "b")
        part = next(path for path in sorted(folder.iterdir()) if path.is_dir())
        part.rename(tmp_path / "elsewhere")
        part.symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        await push(tmp_path / "sharing", "b", store, bucket)
        assert content_of(await pod.ensure("b")) == FILES

    async def test_hidden_files_are_not_pushed(self, pod, store, bucket, tmp_path):
        write_base(tmp_path / "tidy" / "b", {**FILES, ".cache/huggingface/lock": b"x"})
        pushed = await push(tmp_path / "tidy", "b", store, bucket)
        assert pushed.size_bytes == sum(map(len, FILES.values()))
        assert content_of(await pod.ensure("b")) == FILES

    @pytest.mark.parametrize("slug", ["", "..", ".hidden", "a/b", "../../etc", "a\nb", "x" * 200])
    async def test_a_slug_that_leaves_the_folder_is_refused(self, pod, slug, disk, relayed, bucket):
        for attempt in (pod.ensure(slug), push(disk, slug, relayed, bucket)):
            with pytest.raises(InvalidInput):
                await attempt

    async def test_a_manifest_that_leaves_the_folder_is_refused(self, pod, slug, store, bucket, tmp_path):
        """Write access to the bucket must not become write access to the pods."""
        manifest = tmp_path / "manifest.json"
        manifest.write_text('{"files": {"../../evil": {"size_bytes": 0, "sha256": "%s"}}}' % ("0" * 64))
        await store.upload(bucket, f"models/base/{slug}/manifest.json", manifest, "application/json")
        with pytest.raises(ModelMissing, match="damaged manifest"):
            await pod.ensure(slug)

    async def test_a_base_that_exceeds_the_limit_is_refused_before_it_is_fetched(
        self, relayed, relay, slug, bucket, disk
    ):
        models = BaseModels(disk, relayed, bucket, max_gb=0.0005)
        with pytest.raises(ModelMissing, match=r"needs 0\.0 GB, which exceeds MODELS_MAX_GB=0\.0005 by 0\.0 GB"):
            await models.ensure(slug)
        assert relay.asked("GET", "safetensors") == []


class TestDamage:
    async def test_a_file_changed_on_the_disk_is_detected_and_fetched_again(self, pod, slug, disk, relay):
        path = await pod.ensure(slug)
        flipped = bytearray(FILES[BIG])
        flipped[1000] ^= 1
        (path / BIG).write_bytes(flipped)
        before = len(relay.asked("GET", "safetensors"))
        assert content_of(await pod.ensure(slug)) == FILES
        again = relay.asked("GET", "safetensors")[before:]
        assert len(again) == 1
        assert BIG in again[0]

    async def test_a_file_missing_or_truncated_on_the_disk_is_fetched_again(self, pod, slug, disk):
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

    async def test_an_undamaged_file_with_a_new_time_is_not_fetched_again(self, pod, slug, disk, relay):
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
        await push(tmp_path / "pusher", slug, store, bucket)
        assert content_of(await pod.ensure(slug)) == FILES

    async def test_a_file_missing_in_the_bucket_is_named(self, pod, slug, store, bucket):
        await store.delete(bucket, [f"models/base/{slug}/{BIG}"])
        with pytest.raises(ModelMissing, match=f"where {BIG} is missing"):
            await pod.ensure(slug)

    async def test_a_byte_that_flipped_on_the_disk_is_detected_when_a_process_first_uses_the_base(
        self, pod, slug, disk, bucket, relayed
    ):
        """Size and time are unchanged, as after a disk error or a copy that preserved the times."""
        path = await pod.ensure(slug)
        times = (path / BIG).stat()
        flipped = bytearray(FILES[BIG])
        flipped[1000] ^= 1
        (path / BIG).write_bytes(flipped)
        os.utime(path / BIG, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert content_of(await BaseModels(disk, relayed, bucket).ensure(slug)) == FILES

    @pytest.mark.parametrize("damage", [b"", b'{"files": {"a": ', b"\xff\x00"], ids=["empty", "truncated", "binary"])
    async def test_a_damaged_manifest_on_the_disk_is_fetched_again_and_undamaged_files_are_kept(
        self, pod, slug, relay, damage
    ):
        path = await pod.ensure(slug)
        (path / "manifest.json").write_bytes(damage)
        assert pod.present() == []
        before = len(relay.asked("GET", "safetensors"))
        assert content_of(await pod.ensure(slug)) == FILES
        assert len(relay.asked("GET", "safetensors")) == before

    async def test_a_damaged_folder_that_is_a_link_is_left_to_the_operator(self, pod, slug, disk, tmp_path):
        await pod.ensure(slug)
        (disk / slug).rename(tmp_path / "elsewhere")
        (disk / slug).symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / BIG).write_bytes(b"damaged")
        with pytest.raises(ModelMissing, match=f"{slug} is damaged, and its folder in MODELS_DIR is a symbolic link"):
            await pod.ensure(slug)
        assert content_of(tmp_path / "elsewhere") == {**FILES, BIG: b"damaged"}
        assert (disk / slug).is_symlink()

    async def test_a_damaged_part_that_is_a_link_is_replaced_and_its_target_is_unchanged(self, pod, slug, tmp_path):
        """The target may belong to another model: a download must not write there."""
        path = await pod.ensure(slug)
        (path / "transformer").rename(tmp_path / "elsewhere")
        (path / "transformer").symlink_to(tmp_path / "elsewhere")
        (path / BIG).write_bytes(b"another's")
        others = content_of(tmp_path / "elsewhere")
        assert content_of(await pod.ensure(slug)) == FILES
        assert content_of(tmp_path / "elsewhere") == others

    async def test_an_interrupted_fetch_continues_where_it_stopped(self, pod, slug, relay, disk):
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


class TestAVolumeThatFails:
    """A model that cannot be read or written here is this pod's fault: the job is requeued for another pod."""

    async def test_a_lock_file_that_cannot_be_opened_is_a_missing_model(self, pod, slug, disk):
        (disk / ".in-use").mkdir(parents=True)
        (disk / ".in-use" / slug).symlink_to(slug)  # to itself: the kernel refuses to open it, even for root
        with pytest.raises(
            ModelMissing, match=f"{slug} cannot be read from or downloaded to MODELS_DIR.*Too many levels of symbolic"
        ):
            await pod.ensure(slug)

    async def test_a_folder_that_cannot_be_read_is_a_missing_model_and_hides_no_other(self, pod, slug, disk):
        await pod.ensure(slug)
        (disk / "loop").symlink_to("loop")
        assert pod.present() == [slug]
        with pytest.raises(ModelMissing, match="loop cannot be read from or downloaded to MODELS_DIR"):
            await pod.ensure("loop")

    async def test_a_download_that_fails_on_the_disk_is_a_missing_model_and_one_that_fails_in_the_store_is_not(
        self, pod, slug, relayed, monkeypatch
    ):
        reset = ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        broken = OSError(errno.EIO, "Input/output error")
        for error, seen in ((broken, ModelMissing), (TimeoutError(), StorageError), (reset, StorageError)):

            async def fail(*_: object, error: OSError = error) -> None:
                raise StorageError("downloading failed") from error

            monkeypatch.setattr(relayed, "download", fail)
            with pytest.raises(seen):
                await pod.ensure(slug)


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
                out, _ = await asyncio.to_thread(process.communicate, "", 60)
                assert process.returncode == 0
                assert out.strip() == str(disk / slug)
        finally:
            for process in both:
                process.kill()
        assert content_of(disk / slug) == FILES
        assert len(relay.asked("GET", BIG)) == len(relay.asked("GET", "manifest.json")) == 1

    async def test_a_killed_one_does_not_block_the_other(self, pod, slug, relay, disk, bucket):
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
    async def test_they_are_found_by_their_scale(self, pod, store, bucket, tmp_path):
        for scale in (2, 4):
            folder = tmp_path / "pusher" / f"real-esrgan-x{scale}"
            write_base(folder, {"model.safetensors": b"weights" * scale})
            await push(tmp_path / "pusher", folder.name, store, bucket)
        models = JobModels(pod)
        assert (await models.ensure_upscaler(2)).read_bytes() == b"weights" * 2
        assert (await models.ensure_upscaler(4)).read_bytes() == b"weights" * 4

    async def test_a_missing_one_is_named(self, pod):
        with pytest.raises(ModelMissing, match=r"real-esrgan-x4.*worker models import real-esrgan-x4 --upscaler FILE"):
            await JobModels(pod).ensure_upscaler(4)

    async def test_another_scale_is_refused(self, pod):
        with pytest.raises(InvalidInput):
            await JobModels(pod).ensure_upscaler(3)


class TestPushing:
    async def test_an_incomplete_model_is_refused(self, store, bucket, disk):
        (disk / "half").mkdir(parents=True)
        with pytest.raises(CommandRefused, match="half is missing or incomplete in"):
            await push(disk, "half", store, bucket)

    async def test_a_model_damaged_since_its_download_is_refused_and_keeps_its_checksums(
        self, pod, slug, disk, store, bucket
    ):
        path = await pod.ensure(slug)
        (path / BIG).write_bytes(os.urandom(len(FILES[BIG])))
        with pytest.raises(CommandRefused, match=f"damaged on this disk, files differ from manifest.json: {BIG}"):
            await push(disk, slug, store, bucket)

    async def test_files_with_the_same_contents_in_the_bucket_are_not_sent_again(
        self, relayed, relay, bucket, tmp_path
    ):
        large = os.urandom(2 * PART_BYTES + 5)  # sent in parts, so its ETag is of another kind
        folder = write_base(tmp_path / "pusher" / "b", {**FILES, BIG: large})
        total = sum(map(len, FILES.values())) - len(FILES[BIG]) + len(large)
        progress: list[int] = []
        assert await push(folder.parent, "b", relayed, bucket, progress) == PushResult(total, total)
        assert sum(progress) == total
        (folder / "manifest.json").unlink()
        (folder / "vae/weights.safetensors").write_bytes(b"changed")
        (folder / "transformer/config.json").unlink()
        progress.clear()
        before = len(relay.asked("PUT", "weights"))
        pushed = await push(folder.parent, "b", relayed, bucket, progress)
        assert pushed.sent_bytes == len(b"changed")
        assert sum(progress) == pushed.size_bytes
        assert [BIG in head for head in relay.asked("PUT", "weights")[before:]] == [False]
        again = BaseModels(tmp_path / "pod", relayed, bucket)
        assert set(content_of(await again.ensure("b"))) == set(FILES) - {"transformer/config.json"}
        assert not [info.key for info in await relayed.list(bucket, "models/base/b/transformer/config.json")]

    async def test_while_other_contents_are_uploaded_the_base_is_missing(self, pod, slug, store, bucket, tmp_path):
        """The old checksums with new files would look like damage."""
        folder = tmp_path / "pusher" / slug
        (folder / "manifest.json").unlink()
        (folder / BIG).write_bytes(b"another revision")

        class Stopped(Exception):
            pass

        def stop(_: int) -> None:
            raise Stopped

        pushing = Push(tmp_path / "pusher", slug, store, bucket)
        with pytest.raises(Stopped):
            await pushing.run(await pushing.check(), stop)
        assert await pod.in_bucket() == []
        await push(tmp_path / "pusher", slug, store, bucket)
        assert (await pod.ensure(slug) / BIG).read_bytes() == b"another revision"

    async def test_a_file_too_large_for_the_store_is_named_with_the_limit_to_raise(self, answering, tmp_path):
        def answer(method: str, path: str) -> tuple[int, str]:
            if method == "GET":
                return (404, "") if path.endswith("manifest.json") else (200, "<ListBucketResult/>")
            if method == "HEAD":
                return 404 if "models/base" in path else 200, ""
            return 413, "<Error><Code>EntityTooLarge</Code></Error>"

        write_base(tmp_path / "b", {"model_index.json": b"{}", "model.safetensors": b"0" * 20_000_000})
        with pytest.raises(
            CommandRefused, match=r"refused model.safetensors \(0.02 GB\) as too large: .*bucket models"
        ) as caught:
            await push(tmp_path, "b", answering(answer), "models")
        assert "Supabase" in str(caught.value)


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a folder that even root cannot write to")
async def test_a_read_only_disk_is_the_pods_fault_and_not_the_jobs() -> None:
    """It used to fail as an internal error, which counts as a failure of every job that the pod takes."""
    with pytest.raises(ModelMissing, match="flux-dev cannot be read from or downloaded to MODELS_DIR"):
        await BaseModels(Path("/sys/likeness-models"), None, "bucket").ensure("flux-dev")
