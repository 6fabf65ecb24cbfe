"""Reads what Postgres allows and Python cannot hold: times outside its years, endless intervals, JSON beyond its stack.

Otherwise a single such row would end whoever reads it: a pod, or a command that lists rows. Connections of pods and
commands use `lenient_types()`. A value outside Python's range becomes the nearest one inside; JSON that is nested too
deeply becomes an object with the key UNREADABLE.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg.abc import AdaptContext, Buffer
from psycopg.adapt import AdaptersMap
from psycopg.types.datetime import IntervalLoader, TimestamptzLoader
from psycopg.types.json import JsonbLoader, JsonLoader

UNREADABLE = "unreadable"

_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def lenient_types() -> AdaptContext:
    """Return the types for a connection, as its argument `context`."""
    adapters = AdaptersMap(psycopg.adapters)
    for name, loader in (
        ("timestamptz", LenientTimestamptz),
        ("interval", LenientInterval),
        ("json", _Json),
        ("jsonb", _Jsonb),
    ):
        adapters.register_loader(name, loader)
    return _Types(adapters)


class _Types:
    """An adaptation context that belongs to no connection."""

    connection = None

    def __init__(self, adapters: AdaptersMap) -> None:
        self.adapters = adapters


class LenientTimestamptz(TimestamptzLoader):
    """In UTC, so that no later conversion leaves Python's range."""

    def load(self, data: Buffer) -> datetime:
        try:
            return super().load(data).astimezone(UTC)
        except (psycopg.DataError, OverflowError):
            written = bytes(data)
            return _FIRST if written.startswith((b"-", b"000")) or written.endswith(b"BC") else _LAST


class LenientInterval(IntervalLoader):
    def load(self, data: Buffer) -> timedelta:
        written = bytes(data)
        try:
            if written.endswith(b"infinity"):  # the superclass takes it for 0
                raise psycopg.DataError
            return super().load(data)
        except psycopg.DataError:
            return timedelta.min if written.startswith(b"-") else timedelta.max


def _read_json(data: str | bytes) -> Any:
    try:
        try:
            return json.loads(data)
        except ValueError:  # Python refuses to read integers of more than 4300 digits
            return json.loads(data, parse_int=lambda digits: int(digits) if len(digits) < 1000 else float(digits))
    except RecursionError:
        return {UNREADABLE: f"JSON of {len(data)} characters is nested too deeply"}


class _Json(JsonLoader):
    _loads = staticmethod(_read_json)


class _Jsonb(JsonbLoader):
    _loads = staticmethod(_read_json)
