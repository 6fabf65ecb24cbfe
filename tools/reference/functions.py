"""docs/reference/functions.md, from the catalog of a migrated database."""

from __future__ import annotations

from typing import Any

import psycopg

from tools.reference.catalog import Function, called, functions, shortened
from tools.reference.markdown import code, page, table

INTRODUCTION = """
Functions that apps and pods may call, besides reading and writing [tables](tables.md). Apps call those in `public`,
through PostgREST's `/rpc/NAME` or `supabase.rpc`. Pods call those in `worker`, with the role `likeness_worker`, and can
do nothing else. Functions that are not listed are called only by other functions.
"""


def functions_page(connection: psycopg.Connection[Any]) -> str:
    """What apps call, then what pods call."""
    found = functions(connection)
    apps = [function for function in found if function.schema == "public"]
    pods = [function for function in found if "likeness_worker" in function.callers]
    return page(
        "Functions",
        INTRODUCTION,
        "## What apps call",
        table(
            ["Function", "Does", "Callers"],
            [[_signature(function), function.comment, called(function.callers)] for function in apps],
        ),
        "## What pods call",
        table(["Function", "Does"], [[_signature(function), function.comment] for function in pods]),
    )


def _signature(function: Function) -> str:
    name = function.name if function.schema == "public" else f"{function.schema}.{function.name}"
    result = "" if function.result == "void" else f" → {code(function.result)}"
    return f"{code(f'{name}({shortened(function.arguments)})')}{result}"
