"""docs/reference/errors.md, from `worker/errors.py`."""

from __future__ import annotations

import inspect
import re

from tools.reference.markdown import code, page, table
from worker import errors
from worker.commands.job_advice import AFTER_FAILURE
from worker.models import install_command

INTRODUCTION = """
A failed job has one of these in `error_code`, and in `error` a sentence that the user may read: what happened and what
to do, never a prompt, a name, a secret or a signed URL. *Retried with backoff* means after 10 s, 40 s, 160 s … (10
minutes at most, varied by up to a fifth), until `failures` reaches `max_failures`; `worker_lost` is retried at once if
the job had not failed before.
"""

REFUSED = """
## Errors of an INSERT

An invalid request fails as a statement, and PostgREST passes the code on.

| SQLSTATE | Why | HTTP |
| --- | --- | --- |
| `22023` | the request is invalid: an unknown base, another user's LoRA, a key outside the user's prefix | 400 |
| `23502` | a needed column is missing, such as `subject_id` | 400 |
| `23514` | a value is outside its limits, which the constraint's name states | 400 |
| `23505` | the `id` exists: the request was made before | 409 |
| `42501` | not allowed: another user's row, a column that clients do not set | 403 |
| `PT429` | too many open jobs of one user, or refused ones in an hour; or a wait of 2 s for another INSERT | 429 |

A person without consent or a blocked prompt does not fail the statement: the INSERT succeeds, and the row has
`status = 'failed'` with `error_code = 'consent_denied'` or `'prompt_blocked'`.
"""


PLACES = {"id": "ID", "subject": "SUBJECT", "base": "SLUG", "install": install_command("SLUG"), "table": "TABLE"}
"""Placeholders for the values that `worker job` fills in."""


def errors_page() -> str:
    """Return the page: for every code its meaning, whether it is retried, and what to do once the job has failed."""
    retried = retries()
    rows = [
        [code(name), inspect.getdoc(error) or "", retried[name], AFTER_FAILURE[name].format_map(PLACES)]
        for name, error in errors.BY_CODE.items()
    ]
    header = ["`error_code`", "Meaning", "Retried", "Once the job has failed"]
    return page("Error codes", INTRODUCTION, table(header, rows), REFUSED)


def retries() -> dict[str, str]:
    """Return by code what the tree at the top of worker/errors.py says about retrying."""
    return dict(re.findall(r"│   [├└]── \w+ +([a-z_]+) +(.+)", errors.__doc__ or ""))
