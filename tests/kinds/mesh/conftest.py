"""Fixtures of the mesh kind: an app's tables."""

from tests.sql.conftest import db

__all__ = ["db"]
