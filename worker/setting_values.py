"""The text of a setting: what is removed around a value, and what no value may contain.

`docker run --env-file` and some dashboards keep quotes, comments and white space that a shell or `.env` would remove.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic_settings import EnvSettingsSource

QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’"}  # noqa: RUF001  as copied from a page
INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060"
"""A byte order mark and characters without a width, which editors and pages add around a copied value."""

LISTS = {
    "worker_kinds": ("job kinds", r"[a-z][a-z0-9_]*"),
    "fetch_private_hosts": ("hosts", r"[A-Za-z0-9._-]+(:\d{1,5})?"),
}
"""Fields with several values, separated by commas: what they are, and how each is written."""

_REGION = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
"""As botocore requires of it, which puts it into host names."""
_VARIABLE = re.compile(r"\$(?:[A-Za-z_]\w*|\{[^}]*\})")


def clean(value: str) -> str:
    """Return a value without the white space and the pairs of quotes around it."""
    while True:
        stripped = value.strip().strip(INVISIBLE)
        if len(stripped) > 1 and QUOTES.get(stripped[0]) == stripped[-1] and stripped[-1] not in stripped[1:-1]:
            stripped = stripped[1:-1]
        if stripped == value:
            return value
        value = stripped


def clean_source(source: EnvSettingsSource) -> None:
    """Clean every value that a source has read; one that is empty then counts as not set."""
    values: Mapping[str, str | None] = source.env_vars
    cleaned = {name: value and clean(value) for name, value in values.items()}
    source.env_vars = {name: value for name, value in cleaned.items() if value}


def check_text(value: str, *, spaces: bool) -> None:
    """Raise ValueError, whose text follows the name of the variable and does not repeat the value.

    Args:
        spaces: whether the value may contain spaces: a path or a name may, an address, a key or a number may not.
    """
    if any(unicodedata.category(letter) == "Cc" for letter in value):
        raise ValueError(
            "contains a line break or another control character; in the password of a URL, it must be percent-encoded"
        )
    if re.search(r"\s#", value):
        raise ValueError("contains a comment: put it on a line of its own")
    if value and (value[0] in QUOTES or value[-1] in QUOTES.values()):
        raise ValueError("has a quote at one end only; remove it")
    if not spaces and any(letter.isspace() or letter in INVISIBLE for letter in value):
        raise ValueError("contains white space; remove it, or in the password of a URL write it as %20")


def checked_region(value: str) -> str:
    """Return a region that may be one. Raises ValueError as `check_text` does."""
    if not _REGION.fullmatch(value):
        raise ValueError("must be a region: up to 63 letters, digits and hyphens between them")
    return value


def listed(value: Any, field: str) -> Any:
    """Return the values of one of LISTS. Raises ValueError as `check_text` does."""
    what, pattern = LISTS[field]
    if not isinstance(value, str):
        return value
    values = frozenset(clean(each) for each in value.split(",") if clean(each))
    if not values or not all(re.fullmatch(pattern, each) for each in values):
        raise ValueError(f"must be a list of {what} separated by commas")
    return values


def expanded(folder: Path) -> Path:
    """Return a folder with its ~ expanded. Raises ValueError, as `check_text` does, for what only a shell expands."""
    variable = _VARIABLE.search(str(folder))
    if variable:
        raise ValueError(f"contains {variable[0]}, which only a shell expands; write the path itself")
    try:
        return folder.expanduser()
    except RuntimeError:
        raise ValueError("begins with ~ and the name of no user of this machine; write the path itself") from None
