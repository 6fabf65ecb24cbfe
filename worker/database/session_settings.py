"""The settings of every session that this project opens, whatever ALTER DATABASE or ALTER ROLE … SET says.

Where nothing stands between, they are set once for the session. Behind a pooler, which may give each transaction
another server connection and refuses `options` at the start, they are set for each transaction, in the same round trip.
`sql/function_settings.sql` does the same for functions that apps call, whose sessions are not ours.

`default_transaction_read_only` is ours only where the role or the database sets it: a server that is read-only, as
Supabase makes it while the disk is full, stays so. What is left as it is cannot change a result: plans and memory,
logs, tablespaces; and `synchronous_commit`, which is the operator's to weigh.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

STATEMENT_TIMEOUT = "60s"
"""Pods' calls take less than seconds; one that hangs is cancelled, frees its connection and is retried."""
IDLE_IN_TRANSACTION_TIMEOUT = "5min"
"""Longer than the copy of a LoRA, the one thing a pod does inside a transaction."""

SETTINGS: Mapping[str, str] = {
    # How values are written and read.
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "lc_numeric": "C",
    "lc_time": "C",
    "array_nulls": "on",
    "quote_all_identifiers": "off",
    # What statements mean.
    "standard_conforming_strings": "on",
    "backslash_quote": "safe_encoding",
    "transform_null_equals": "off",
    "search_path": "pg_catalog, pg_temp",
    "row_security": "on",
    "restrict_nonsystem_relation_kind": "",
    "xmlbinary": "base64",
    "xmloption": "content",
    "gin_fuzzy_search_limit": "0",
    "check_function_bodies": "on",
    "client_min_messages": "warning",
    "exit_on_error": "off",
    # Every check of consent reads what was committed before it, in a statement after the lock.
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    # What ends a statement or a session.
    "statement_timeout": "0",
    "transaction_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    # Compiling costs more than any statement of ours gains.
    "jit": "off",
    "plan_cache_mode": "auto",
}
"""Those that this server does not know, being older, are passed over."""

POD_SETTINGS: Mapping[str, str] = {
    **SETTINGS,
    "statement_timeout": STATEMENT_TIMEOUT,
    "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_TIMEOUT,
}

TAKE_SESSION = """
    select direct, writable,
           (select count(pg_catalog.set_config(key, value, false)) from pg_catalog.jsonb_each_text(%s::jsonb)
            where direct and pg_catalog.current_setting(key, true) is not null),
           case when direct and writable then pg_catalog.set_config('default_transaction_read_only', 'off', false) end
    from (select coalesce(pg_catalog.pg_backend_pid() = %s::int, true) as direct,
                 case when pg_catalog.current_setting('default_transaction_read_only') = 'on' then exists (
                   select from pg_catalog.pg_settings where name = 'default_transaction_read_only'
                     and source in ('database', 'user', 'database user')) else false end as writable) session"""
"""Set the settings for the session if nothing stands between: a pooler tells its clients process ids of its own.

`writable`: only the role or the database, not the server, says that transactions are read-only.
"""


def set_local(settings: Mapping[str, str]) -> str:
    """Return a statement that sets the settings for the transaction in which it runs."""
    # Constants of this file, none with a quote.
    values = ", ".join(f"('{name}', '{value}')" for name, value in settings.items())
    return (
        f"select count(pg_catalog.set_config(name, value, true)) from (values {values}) wanted (name, value) "  # noqa: S608
        "where pg_catalog.current_setting(name, true) is not null"
    )


def arguments(settings: Mapping[str, str], backend_pid: int | None) -> tuple[str, int | None]:
    """Return the arguments of TAKE_SESSION; without the process id, the session is taken as one that holds."""
    return json.dumps(dict(settings)), backend_pid
