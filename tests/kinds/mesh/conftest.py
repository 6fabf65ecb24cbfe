"""Fixtures of the mesh kind: an app's tables and pods."""

from tests.sql.conftest import db, pod, start_pod

__all__ = ["db", "pod", "start_pod"]
