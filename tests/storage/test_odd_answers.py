"""Responses that are no S3: each is a StorageError, and none is taken for a shorter file or for "nothing is there"."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from tests.s3_relay import S3Relay
from tests.storage.conftest import config_for
from worker.errors import StorageError
from worker.storage.object_store import ObjectStore
from worker.storage.s3.client import PART_BYTES

PAGE = "<html><body>Please log in</body></html>"


def listing(inside: str) -> str:
    return f"<ListBucketResult>{inside}</ListBucketResult>"


LISTINGS = [
    listing("<Contents><Size>1</Size></Contents>"),
    listing("<Contents><Key>a</Key></Contents>"),
    listing("<Contents><Key>a</Key><Size/></Contents>"),
    listing("<Contents><Key>a</Key><Size>1</Size><LastModified>yesterday</LastModified></Contents>"),
    listing("<KeyCount>many</KeyCount>"),
    "<Error><Code><b>x</b></Code></Error>",
]


@pytest.mark.parametrize("body", LISTINGS)
async def test_a_body_with_odd_values_is_a_storage_error(answering, body):
    with pytest.raises(StorageError, match=r"^listing b/p failed: the (response is not|server responded)"):
        await answering(lambda method, path: (200, body)).list("b", "p")


@pytest.mark.parametrize("body", [PAGE, ""])
async def test_a_page_of_a_gateway_is_not_an_empty_bucket_or_a_deletion(answering, body):
    store = answering(lambda method, path: (200, body))
    for attempt in (store.list("b"), store.delete("b", ["k"]), store.abort_uploads("b", "p", timedelta(0))):
        with pytest.raises(StorageError, match=r"the response to \w+ has no \w+Result: look at the gateways"):
            await attempt


async def test_a_listing_that_is_cut_off_is_not_all_there_is(answering):
    body = listing("<IsTruncated>true</IsTruncated><Contents><Key>a</Key><Size>1</Size></Contents>")
    with pytest.raises(StorageError, match="cut off, and does not say where to continue"):
        await answering(lambda method, path: (200, body)).list("b")


@pytest.mark.parametrize("size", [1000, PART_BYTES + 7])
async def test_a_part_that_is_not_the_one_requested_ends_the_download(s3_port, store, bucket, tmp_path, size):
    """s3transfer waits forever after a size of `*`, and keeps a file that is too short after a wrong one."""
    (tmp_path / "in").write_bytes(b"x" * size)
    await store.upload(bucket, "k", tmp_path / "in", "text/plain")
    with S3Relay(f"http://127.0.0.1:{s3_port}") as relay:
        behind = ObjectStore(config_for(int(relay.url.rpartition(":")[2])))
        for sent in ("bytes 0-99/*", "junk", "bytes 0-99/200", "bytes 7-99/100", "bytes 0-7/0", ""):
            relay.changed_headers = {"content-range": sent}
            async with asyncio.timeout(60):
                with pytest.raises(StorageError, match="GetObject has no header Content-Range"):
                    await behind.download(bucket, "k", tmp_path / "out")
            assert not (tmp_path / "out").exists(), sent
        await behind.close()
