"""boto3 reads the description of S3, 150 ms of JSON, for each session: in the tests all share what was read."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import botocore.session
import pytest


@pytest.fixture(scope="session", autouse=True)
def shared_descriptions() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", functools.cache(botocore.session.create_loader))
        yield
