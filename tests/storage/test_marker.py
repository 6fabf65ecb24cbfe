"""The marker of a bucket on a real S3 server, and on servers that refuse or ignore parts of the protocol."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest

from worker.errors import StorageError
from worker.storage.marker import MARKER_KEY, read_marker, write_marker

OURS = {"id": str(uuid4()), "nonce": str(uuid4())}
THEIRS = {"id": str(uuid4()), "nonce": str(uuid4())}


async def test_a_marker_that_was_written_is_read_back_and_replaced(store, bucket):
    assert await read_marker(store, bucket) == {"absent": True}
    for marker in (OURS, THEIRS):
        await write_marker(store, bucket, marker)
        assert await read_marker(store, bucket) == marker


async def test_the_first_marker_never_replaces_another(store, bucket):
    await write_marker(store, bucket, THEIRS)
    await write_marker(store, bucket, OURS, first=True)
    assert await read_marker(store, bucket) == THEIRS


@pytest.mark.parametrize("status", [400, 501])
async def test_a_server_that_does_not_know_the_condition_gets_the_marker_without_it(answering, status):
    puts = []

    def answer(method, path):
        puts.append((method, path))
        return (status, "<Error><Code>NotImplemented</Code></Error>") if len(puts) == 1 else (200, "")

    await write_marker(answering(answer), "b", OURS, first=True)
    assert puts == [("PUT", f"/b/{MARKER_KEY}")] * 2


@pytest.mark.parametrize(
    "refusal",
    [(415, "<Error><Code>InvalidMimeType</Code></Error>"), (400, "<Error><Code>InvalidMimeType</Code></Error>")],
)
async def test_a_bucket_that_refuses_the_type_is_named(answering, refusal):
    with pytest.raises(StorageError, match=r"bucket b .*application/json.* allowed_mime_types"):
        await write_marker(answering(lambda method, path: refusal), "b", OURS, first=True)


async def test_403_is_unreadable_and_names_the_missing_right(answering):
    seen = await read_marker(answering(lambda method, path: (403, "")), "b")
    assert "s3:ListBucket" in seen["unreadable"]


async def test_a_store_that_fails_is_unreadable_not_unmarked(answering):
    assert "unreadable" in await read_marker(answering(lambda method, path: (400, "")), "b")


@pytest.mark.parametrize("content", ["", "{}", "[]", "null", '{"id": 1}', "not JSON", "\xff"])
async def test_anything_else_under_that_key_is_unreadable(store, bucket, plain_s3, content):
    plain_s3.put_object(Bucket=bucket, Key=MARKER_KEY, Body=content.encode("latin-1"))
    seen = await read_marker(store, bucket)
    assert "worker storage init" in seen["unreadable"]
    plain_s3.put_object(Bucket=bucket, Key=MARKER_KEY, Body=json.dumps(OURS).encode())
    assert await read_marker(store, bucket) == OURS
