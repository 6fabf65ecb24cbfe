import asyncio
import base64
import hashlib
import http.client
import inspect
import os
import re
import subprocess
import sys
import time
import traceback
from datetime import timedelta
from pathlib import Path

import boto3.exceptions
import botocore.exceptions
import botocore.parsers
import pytest
import s3transfer.exceptions
import urllib3.exceptions

import worker.storage.object_store
from worker.errors import InputMissing, InvalidInput, StorageError, WorkerError
from worker.logs import redacted_text
from worker.storage.errors import request_errors, to_storage_error
from worker.storage.object_store import ObjectStore, check_key
from worker.storage.s3.client import StoreConfig

SECRETS = ("AKIDMARKER", "secret-key-marker", "session-token-marker", "X-Amz-Signature", "Signature=")
OLD = timedelta(0)


def file_of(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    return path


async def keys_of(store, bucket, prefix=""):
    return [info.key for info in await store.list(bucket, prefix)]


def shown_and_logged(error: WorkerError) -> str:
    """Return what an app's user reads and what the pod logs."""
    return f"{error} {error!r} {redacted_text(''.join(traceback.format_exception(error)))}"


class TestObjects:
    async def test_a_bucket_is_created_once(self, store):
        assert await store.ensure_bucket("created-once") == "created"
        assert await store.ensure_bucket("created-once") == "existed"

    async def test_an_uploaded_file_can_be_downloaded(self, store, bucket, tmp_path):
        source = file_of(tmp_path / "in.bin", 1000)
        await store.upload(bucket, "a/b.bin", source, "application/octet-stream")
        await store.download(bucket, "a/b.bin", tmp_path / "new" / "folder" / "out.bin")
        assert (tmp_path / "new" / "folder" / "out.bin").read_bytes() == source.read_bytes()

    async def test_a_download_replaces_an_older_file(self, store, bucket, tmp_path):
        source = file_of(tmp_path / "in.bin", 1000)
        await store.upload(bucket, "k", source, "application/octet-stream")
        await store.download(bucket, "k", file_of(tmp_path / "out.bin", 5000))
        assert (tmp_path / "out.bin").read_bytes() == source.read_bytes()

    async def test_an_empty_object_is_downloaded_as_an_empty_file(self, store, bucket, tmp_path):
        await store.upload(bucket, "empty", file_of(tmp_path / "in", 0), "text/plain")
        await store.download(bucket, "empty", tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == b""

    async def test_the_content_type_is_stored(self, store, bucket, plain_s3, tmp_path):
        await store.upload(bucket, "p.png", file_of(tmp_path / "p", 10), "image/png")
        assert plain_s3.head_object(Bucket=bucket, Key="p.png")["ContentType"] == "image/png"

    async def test_head_describes_an_object(self, store, bucket, tmp_path):
        source = file_of(tmp_path / "in.bin", 1234)
        await store.upload(bucket, "k", source, "application/octet-stream")
        info = await store.head(bucket, "k")
        assert (info.key, info.size) == ("k", 1234)
        assert info.etag == hashlib.md5(source.read_bytes()).hexdigest()

    async def test_head_of_a_missing_object_is_none(self, store, bucket):
        assert await store.head(bucket, "nothing") is None
        assert await store.head("no-such-bucket", "nothing") is None

    async def test_list_reads_all_pages(self, store, bucket, tmp_path, monkeypatch):
        monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
        keys = [f"many/{n}" for n in range(8)]
        for key in keys:
            await store.upload(bucket, key, file_of(tmp_path / "f", n := 5), "text/plain")
        await store.upload(bucket, "other", file_of(tmp_path / "f", n), "text/plain")
        assert await keys_of(store, bucket, "many/") == keys
        assert (await store.list(bucket, "many/"))[0].size == 5

    async def test_a_copy_is_equal(self, store, bucket, tmp_path):
        source = file_of(tmp_path / "in.bin", 1000)
        await store.upload(bucket, "a b+c/versioned", source, "application/octet-stream")
        await store.copy(bucket, "a b+c/versioned", "newest")
        await store.download(bucket, "newest", tmp_path / "out.bin")
        assert (tmp_path / "out.bin").read_bytes() == source.read_bytes()


class TestMissingObjects:
    async def test_a_missing_object_is_named(self, store, bucket, tmp_path):
        with pytest.raises(InputMissing, match=f"{bucket}/a/b.jpg not found in storage"):
            await store.download(bucket, "a/b.jpg", tmp_path / "out")
        assert list(tmp_path.iterdir()) == []

    async def test_a_missing_source_of_a_copy_is_named(self, store, bucket):
        with pytest.raises(InputMissing, match=f"{bucket}/nothing not found in storage"):
            await store.copy(bucket, "nothing", "target")

    async def test_a_missing_bucket_is_the_installations_fault_not_the_jobs(self, store, tmp_path):
        source = file_of(tmp_path / "in", 10)
        for attempt in (
            store.download("no-such-bucket", "k", tmp_path / "out"),
            store.upload("no-such-bucket", "k", source, "text/plain"),
            store.copy("no-such-bucket", "k", "l"),
            store.list("no-such-bucket"),
            store.delete("no-such-bucket", ["k"]),
        ):
            with pytest.raises(StorageError, match=r"no-such-bucket.*worker storage init"):
                await attempt


class TestKeys:
    @pytest.mark.parametrize(
        "key",
        [
            "",
            "/a",
            "a/",
            "a//b",
            "..",
            "../a",
            "a/../b",
            "a/./b",
            "a/..",
            "a\\..\\b",
            "a\nb",
            "a\x00b",
            "a\x7f",
            "ü.jpg",
            "a" * 1025,
        ],
    )
    async def test_a_key_that_a_server_or_a_disk_could_misinterpret_is_refused(self, key, relayed, relay, tmp_path):
        source = file_of(tmp_path / "in", 10)
        for attempt in (
            relayed.download("b", key, tmp_path / "out"),
            relayed.upload("b", key, source, "text/plain"),
            relayed.head("b", key),
            relayed.copy("b", key, "fine"),
            relayed.copy("b", "fine", key),
        ):
            with pytest.raises(InvalidInput):
                await attempt
        assert relay.requests() == []

    @pytest.mark.parametrize("key", ["a", "a/b.c/d_e-f", "a b+c", "..a/b..", "a" * 1024, "models/base/x/unet.bin"])
    def test_an_ordinary_key_is_returned_unchanged(self, key):
        assert check_key(key) == key


class TestLargeFiles:
    SIZE = 21 * 1024 * 1024 + 7

    async def test_they_are_uploaded_in_parts_and_downloaded_in_ranges(self, relayed, relay, store, bucket, tmp_path):
        source = file_of(tmp_path / "in.bin", self.SIZE)
        await relayed.upload(bucket, "big", source, "application/octet-stream")
        assert len(relay.asked("PUT", "partNumber=")) == 3
        assert (await store.head(bucket, "big")).size == self.SIZE

        await relayed.download(bucket, "big", tmp_path / "out.bin")
        asked = "".join(relay.asked("GET", "/big"))
        ranges = re.findall(r"range: bytes=(\d+)-", asked, re.IGNORECASE)
        assert sorted(int(start) for start in ranges) == [0, 8 << 20, 16 << 20]
        assert (tmp_path / "out.bin").read_bytes() == source.read_bytes()

    async def test_a_body_that_is_cut_is_requested_again(self, relayed, relay, store, bucket, tmp_path):
        source = file_of(tmp_path / "in.bin", self.SIZE)
        await store.upload(bucket, "big", source, "application/octet-stream")
        relay.break_answers(3)
        await relayed.download(bucket, "big", tmp_path / "out.bin")
        assert len(relay.asked("GET", "/big")) == 3 + 3
        assert (tmp_path / "out.bin").read_bytes() == source.read_bytes()

    async def test_a_body_that_is_always_cut_leaves_no_file(self, relayed, relay, store, bucket, tmp_path):
        await store.upload(bucket, "big", file_of(tmp_path / "in.bin", 1 << 20), "application/octet-stream")
        relay.break_answers(1000)
        target = tmp_path / "target"
        with pytest.raises(StorageError, match=f"downloading {bucket}/big failed"):
            await relayed.download(bucket, "big", target / "out.bin")
        assert list(target.iterdir()) == []

    async def test_a_cancelled_download_leaves_nothing(self, relayed, relay, store, bucket, tmp_path):
        await store.upload(bucket, "big", file_of(tmp_path / "in.bin", self.SIZE), "application/octet-stream")
        target = tmp_path / "target"
        relay.hold_answers()
        task = asyncio.create_task(relayed.download(bucket, "big", target / "out.bin"))
        assert await asyncio.to_thread(relay.holding.wait, 30)
        task.cancel()
        await asyncio.sleep(0)  # the task sees it
        relay.let_go()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert list(target.iterdir()) == []

    async def test_unfinished_uploads_are_aborted(self, store, bucket, plain_s3):
        for key in ("mine/1", "mine/2", "other/1"):
            plain_s3.create_multipart_upload(Bucket=bucket, Key=key)
        assert await store.abort_uploads(bucket, "mine/", OLD) == 2
        left = plain_s3.list_multipart_uploads(Bucket=bucket)["Uploads"]
        assert [upload["Key"] for upload in left] == ["other/1"]
        # The test server dates every upload to 2010.
        assert await store.abort_uploads(bucket, "other/", timedelta(days=365 * 100)) == 0


class TestServersThatFail:
    async def test_an_upload_ends_at_its_deadline(self, silent, tmp_path):
        source = file_of(tmp_path / "in", 100_000)
        with pytest.raises(StorageError, match=r"uploading b/k failed: not finished within 0.2 s"):
            await silent.upload("b", "k", source, "text/plain", deadline_s=0.2)

    async def test_an_upload_ends_at_its_deadline_when_the_event_loop_was_blocked(self, store, bucket, tmp_path):
        """It used to lose a deadline that passed when its first request was done and the task had not resumed."""
        source = file_of(tmp_path / "in", 10)
        await store.head(bucket, "k")  # opens the client
        uploading = asyncio.create_task(store.upload(bucket, "k", source, "text/plain", deadline_s=0.05))
        await asyncio.sleep(0)  # the task has sent its first request to a thread
        # Blocks the event loop on purpose, until the request is done and the deadline has passed.
        time.sleep(0.3)  # noqa: ASYNC251
        with pytest.raises(StorageError, match=r"not finished within 0.05 s"):
            await uploading

    async def test_a_large_upload_ends_at_its_deadline(self, silent, tmp_path):
        source = file_of(tmp_path / "in", 20 << 20)
        with pytest.raises(StorageError, match=r"uploading b/k failed: not finished within 0.2 s"):
            await silent.upload("b", "k", source, "text/plain", deadline_s=0.2)

    async def test_a_request_ends_at_its_deadline(self, silent, monkeypatch):
        monkeypatch.setattr(worker.storage.object_store, "CALL_DEADLINE_S", 0.2)
        with pytest.raises(StorageError, match=r"looking up b/k failed: no response within 0.2 s"):
            await silent.head("b", "k")

    async def test_a_request_is_repeated_after_a_temporary_failure(self, answering):
        answers = iter([(503, ""), (500, ""), (200, "")])
        store = answering(lambda *_: next(answers))
        assert await store.ensure_bucket("b") == "existed"

    async def test_an_unreachable_server_is_a_storage_error_without_secrets(self, tmp_path):
        store = ObjectStore(StoreConfig("http://127.0.0.1:9", "us-east-1", "AKIDMARKER", "secret-key-marker"))
        with pytest.raises(StorageError, match="cannot be reached") as caught:
            await store.upload("b", "k", file_of(tmp_path / "in", 10), "text/plain")
        assert not any(secret in shown_and_logged(caught.value) for secret in SECRETS)
        await store.close()

    async def test_the_error_for_a_refusal_names_status_and_code_and_quotes_nothing_else_of_the_server(
        self, answering, tmp_path
    ):
        """Servers have put the string to sign, key ids and signed URLs into their error messages."""
        said = "http://h/b/k?X-Amz-Signature=0123&amp;X-Amz-Security-Token=session-token-marker"
        body = f"<Error><Code>SignatureDoesNotMatch</Code><Message>{said}</Message></Error>"
        store = answering(lambda *_: (403, body))
        for attempt in (
            store.upload("b", "k", file_of(tmp_path / "in", 10), "text/plain"),
            store.download("b", "k", tmp_path / "out"),
            store.list("b"),
            store.delete("b", ["k"]),
        ):
            with pytest.raises(StorageError, match="the server responded 403 SignatureDoesNotMatch") as caught:
                await attempt
            assert not any(secret in shown_and_logged(caught.value) for secret in SECRETS)

    async def test_the_code_is_found_where_supabase_puts_it(self, answering, tmp_path):
        body = '<Error xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Code>SlowDown</Code></Error>'
        store = answering(lambda *_: (429, body))
        with pytest.raises(StorageError, match="429 SlowDown"):
            await store.upload("b", "k", file_of(tmp_path / "in", 10), "text/plain")

    async def test_a_file_larger_than_the_bucket_allows_is_invalid_input(self, answering, tmp_path):
        """Retrying the job would compute the same file again, three times."""
        store = answering(lambda *_: (413, "<Error><Code>EntityTooLarge</Code></Error>"))
        with pytest.raises(InvalidInput, match="larger than the bucket b allows"):
            await store.upload("b", "k", file_of(tmp_path / "in", 10), "text/plain")

    async def test_an_empty_object_is_downloaded_although_supabase_refuses_a_range_of_it(self, answering, tmp_path):
        body = '<Error xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Code>InvalidRange</Code></Error>'
        store = answering(lambda *_: (416, body))
        await store.download("b", "k", tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == b""

    async def test_a_missing_object_is_recognized_by_status_alone(self, answering, tmp_path):
        store = answering(lambda method, _: (404 if method == "GET" else 200, "<html>not found</html>"))
        with pytest.raises(InputMissing):
            await store.download("b", "k", tmp_path / "out")

    async def test_a_failing_disk_is_reported_as_an_error_on_this_machine(self, store, bucket, tmp_path):
        await store.upload(bucket, "k", file_of(tmp_path / "in", 10), "text/plain")
        with pytest.raises(StorageError, match="error on this machine"):
            await store.download(bucket, "k", tmp_path / "in" / "below" / "a" / "file")

    def test_every_exception_of_the_libraries_is_handled(self):
        modules = (
            boto3.exceptions,
            botocore.exceptions,
            botocore.parsers,
            http.client,
            s3transfer.exceptions,
            urllib3.exceptions,
        )
        classes = [
            cls
            for module in modules
            for _, cls in inspect.getmembers(module, inspect.isclass)
            if cls.__module__ == module.__name__ and issubclass(cls, Exception) and not issubclass(cls, Warning)
        ]
        # Raised for a programming error, or by functions that we do not call.
        not_ours = {"MissingServiceIdError", "UndefinedModelAttributeError", "InvalidSubscriberMethodError"}
        not_ours |= {"TransferNotDoneError", "ProxySchemeUnsupported"}
        unmapped = {cls.__name__ for cls in classes if not issubclass(cls, request_errors())}
        assert unmapped <= not_ours
        assert len(classes) > 100
        error = s3transfer.exceptions.RetriesExceededError(
            botocore.exceptions.ReadTimeoutError(endpoint_url="http://h/?X-Amz-Signature=1")
        )
        assert str(to_storage_error(error, "reading b/k")) == "reading b/k failed: the server does not respond"

    @pytest.mark.parametrize("settings", ["S3", "MODELS_S3"])
    def test_the_setting_to_correct_is_that_of_the_store(self, settings):
        headers = {"x-amz-bucket-region": "eu-west-1"}
        response = {"ResponseMetadata": {"HTTPStatusCode": 400, "HTTPHeaders": headers}}
        error = to_storage_error(botocore.exceptions.ClientError(response, "HeadBucket"), "looking up b", settings)
        assert error.message.endswith(f"the bucket is in region eu-west-1: set {settings}_REGION")


class TestDelete:
    async def test_objects_are_deleted_and_missing_ones_count_as_deleted(self, store, bucket, tmp_path):
        for key in ("a", "b", "c"):
            await store.upload(bucket, key, file_of(tmp_path / "f", 5), "text/plain")
        await store.delete(bucket, ["a", "b", "never/was"])
        await store.delete(bucket, ["a", "b"])
        await store.delete(bucket, [])
        assert await keys_of(store, bucket) == ["c"]

    async def test_the_request_has_the_headers_that_supabase_and_minio_require_and_backblaze_accepts(
        self, relayed, relay, bucket
    ):
        """Supabase responded 400 without a Content-Type, MinIO without Content-MD5, Backblaze to a CRC32."""
        await relayed.delete(bucket, ["a"])
        (head,) = relay.asked("POST", f"/{bucket}?delete")
        headers = dict(re.findall(r"^([\w-]+): (.*?)\r$", head.lower(), re.MULTILINE))
        assert headers["content-type"] == "application/xml"
        assert len(base64.b64decode(headers["content-md5"])) == 16
        assert not [name for name in headers if "checksum" in name]
        signed = re.search(r"signedheaders=([^,]*)", headers["authorization"]).group(1).split(";")
        assert {"content-type", "content-md5"} <= set(signed)

    async def test_more_keys_than_a_request_accepts_are_split(self, relayed, relay, bucket, monkeypatch, tmp_path):
        monkeypatch.setattr(worker.storage.object_store, "MAX_KEYS_PER_DELETE", 2)
        for key in ("a", "b", "c", "d", "e"):
            await relayed.upload(bucket, key, file_of(tmp_path / "f", 5), "text/plain")
        await relayed.delete(bucket, iter(["a", "b", "c", "d", "e"]))
        assert await keys_of(relayed, bucket) == []
        assert len(relay.asked("POST", "?delete")) == 3

    async def test_an_object_with_any_key_can_be_erased(self, store, bucket, plain_s3):
        """Erasing a user must also delete a photo whose key the worker would refuse."""
        keys = sorted(["fotos/ü.jpg", "fotos//b.jpg", "fotos/&<\\.jpg", "/../c"])
        for key in keys:
            plain_s3.put_object(Bucket=bucket, Key=key, Body=b"x")
        assert await keys_of(store, bucket) == keys
        await store.delete(bucket, keys)
        assert await keys_of(store, bucket) == []

    async def test_denied_for_a_missing_object_is_not_an_error(self, answering):
        """Older Supabase servers report a missing object among the errors."""
        refused = "<DeleteResult><Error><Key>a</Key><Code>AccessDenied</Code></Error></DeleteResult>"
        absent = answering(lambda method, _: (200, refused) if method == "POST" else (404, ""))
        await absent.delete("b", ["a"])
        there = answering(lambda method, _: (200, refused if method == "POST" else ""))
        with pytest.raises(StorageError, match=r"1 objects of b could not be deleted \(AccessDenied\)"):
            await there.delete("b", ["a"])


def test_a_config_does_not_show_its_secrets():
    shown = repr(StoreConfig("http://h", "r", "id", "secret-key-marker", "session-token-marker"))
    assert not any(secret in shown for secret in SECRETS)


def test_importing_the_store_does_not_import_boto3():
    imports = "import sys, worker.storage.object_store, worker.models"
    code = f"{imports}; print({{'boto3', 'botocore', 'torch'}} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
