"""`worker storage init` creates private buckets, and reports public ones as a failure."""

from __future__ import annotations

import json
from uuid import uuid4

from tests.commands.conftest import Operator
from tests.commands.test_doctor import refusing_store


def test_missing_buckets_are_created_and_init_can_be_repeated(operator: Operator) -> None:
    name = f"made-{uuid4().hex}"
    first, second = (operator.worker("storage", "init", BUCKET_UPLOADS=name, DATABASE_URL=None) for _ in range(2))
    assert (first.code, second.code) == (0, 0)
    assert f"bucket {name}: created, private" in first.stdout
    assert f"bucket {name}: already exists" in second.stdout
    assert f"bucket {operator.app.models}: already exists" in first.stdout


def test_a_public_bucket_is_reported_and_the_exit_code_is_1(operator: Operator) -> None:
    everything = f"arn:aws:s3:::{operator.app.uploads}/*"
    statement = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": everything}
    operator.app.s3.put_bucket_policy(  # type: ignore[attr-defined]
        Bucket=operator.app.uploads, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    )
    ran = operator.worker("storage", "init")
    assert ran.code == 1
    assert f"✗ bucket {operator.app.uploads}, use: {operator.app.uploads} is PUBLIC" in ran.stdout
    assert f"✓ bucket {operator.app.models}, use" in ran.stdout


def test_a_bucket_for_base_models_is_created_and_nothing_is_written_to_it(operator: Operator) -> None:
    bucket = f"bases-{uuid4().hex}"
    first, second = (operator.worker("storage", "init", MODELS_S3_BUCKET=bucket) for _ in range(2))
    assert (first.code, second.code) == (0, 0), first.stdout
    assert f"✓ models bucket {bucket}: created, private" in first.stdout
    assert f"✓ models bucket {bucket}: already exists" in second.stdout
    assert f"✓ models bucket {bucket}, use" in first.stdout
    assert operator.app.s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0  # type: ignore[attr-defined]
    assert f"bucket {operator.app.models}, marker" in first.stdout


def test_an_unreachable_store_of_base_models_is_reported_with_its_setting(operator: Operator) -> None:
    ran = operator.worker("storage", "init", MODELS_S3_BUCKET="bases", MODELS_S3_ENDPOINT_URL="http://127.0.0.1:9")
    assert ran.code == 1
    assert "correct MODELS_S3_ENDPOINT_URL" in ran.stdout
    assert f"✓ bucket {operator.app.models}, marker" in ran.stdout


def test_an_unreachable_store_is_reported_with_its_setting(operator: Operator) -> None:
    ran = operator.worker("storage", "init", S3_ENDPOINT_URL="http://127.0.0.1:9")
    assert ran.code == 1
    assert "cannot be reached" in ran.stdout
    assert "correct S3_ENDPOINT_URL" in ran.stdout
    assert "create it by hand" not in ran.stdout


def test_a_store_that_denies_creating_buckets_is_reported_with_an_alternative(operator: Operator) -> None:
    with refusing_store("HEAD") as address:
        ran = operator.worker("storage", "init", S3_ENDPOINT_URL=address)
    assert ran.code == 1
    assert "403" in ran.stdout
    assert "create it by hand" in ran.stdout
