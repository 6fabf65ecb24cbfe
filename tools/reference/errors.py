"""docs/reference/errors.md, from `worker/errors.py`."""

from __future__ import annotations

import inspect
import re

from tools.reference.markdown import code, page, table
from worker import errors
from worker.commands.job_advice import AFTER_FAILURE
from worker.models import install_command

INTRODUCTION = """
A job that ends badly carries one of these in `error_code`, and in `error` a sentence that its owner may read: what
happened and what to do, never a prompt, a name, a secret or a signed address. *Retried with backoff* means after 10 s,
40 s, 160 s … (10 minutes at most, give or take a fifth), until `failures` reaches `max_failures`.
"""

REFUSED = """
## What an INSERT may be refused with

A request that is wrong in itself fails as a statement, and PostgREST passes the code on.

| SQLSTATE | Why | HTTP |
| --- | --- | --- |
| `22023` | the request makes no sense: an unknown base, another owner's LoRA, a key outside the owner's prefix | 400 |
| `23502` | something needed is missing, such as `subject_id` | 400 |
| `23514` | a value is outside its limits; the constraint's name says them | 400 |
| `23505` | the `id` is taken: the request was made before | 409 |
| `42501` | not allowed: another user's row, a column that clients do not set | 403 |
| `PT429` | too many open jobs of one owner, or too many refused ones in an hour | 429 |

A person without consent, or a prompt that is blocked, is no error of this kind: the INSERT succeeds, and the row says
`status = 'failed'` with `error_code = 'consent_denied'` or `'prompt_blocked'`.
"""


PLACES = {"id": "ID", "subject": "SUBJECT", "base": "SLUG", "bring": install_command("SLUG"), "table": "TABLE"}
"""What `worker job` fills in for the job at hand."""


def errors_page() -> str:
    """Every code: its meaning, whether it is tried again, what to do once the job has failed."""
    tried_again = retries()
    rows = [
        [code(name), inspect.getdoc(error) or "", tried_again[name], AFTER_FAILURE[name].format_map(PLACES)]
        for name, error in errors.BY_CODE.items()
    ]
    header = ["`error_code`", "Meaning", "Tried again", "Once the job has failed"]
    return page("Error codes", INTRODUCTION, table(header, rows), REFUSED)


def retries() -> dict[str, str]:
    """What the tree at the top of worker/errors.py says about each code."""
    return dict(re.findall(r"│   [├└]── \w+ +([a-z_]+) +(.+)", errors.__doc__ or ""))
