"""Checks the addresses in settings: Postgres as libpq reads them, http(s), and their hosts.

Every error is a ValueError whose text follows the name of the variable and never repeats the address.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import SplitResult, urlsplit


def check_postgres_url(value: str) -> None:
    """Raise ValueError if libpq cannot read the address, or would mistake part of a password for something else."""
    if "[YOUR-PASSWORD]" in value:
        raise ValueError("still contains [YOUR-PASSWORD]; replace it, brackets included, with the password")
    parts = _split(value)
    if parts.scheme not in ("postgres", "postgresql"):
        raise ValueError("must be a Postgres URL, which starts with postgresql://")
    if not value.startswith(parts.scheme):
        raise ValueError("must start with postgresql:// in lower case: libpq reads no other")
    read = _read_as_meant(value, parts)
    if read is None:
        raise ValueError(
            "cannot be read: characters like % @ : / # in a password must be percent-encoded, "
            "and only options of libpq may follow the ?"
        )
    for host in str(read.get("host") or "").split(","):
        if not host.startswith(("/", "@")):  # folders of sockets
            _check_host(host)


def check_http_url(value: str) -> None:
    """Raise ValueError if this is not an http(s) URL, or contains credentials, a query or a fragment."""
    parts = _split(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http(s) URL")
    _check_host(parts.hostname)
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("has a port that is no number up to 65535") from None
    if "@" in parts.netloc or "?" in value or "#" in value:
        raise ValueError("must not contain credentials, a query or a fragment")


def _read_as_meant(value: str, parts: SplitResult) -> dict[str, Any] | None:
    """Return an address as libpq reads it; None if it cannot, or mistakes part of a password for something else."""
    from psycopg import ProgrammingError  # here: most commands that read settings do not need libpq
    from psycopg.conninfo import conninfo_to_dict

    # libpq ends the password at the first @ or /, and its errors quote what follows. After the ? of an address that
    # ends with its host, options may contain an @.
    credentials_end = "@" in parts.netloc
    before_options = value.partition("?")[0] if credentials_end or not parts.netloc else value
    if before_options.count("@") > credentials_end:
        return None
    try:
        # Only libpq can read several hosts.
        _ = "," in parts.netloc or parts.port
        return conninfo_to_dict(value)
    except (ValueError, ProgrammingError):
        return None


def _check_host(host: str) -> None:
    try:
        host.encode("idna")  # as a resolver does: labels have 1 to 63 letters
    except UnicodeError:
        raise ValueError("names a host that cannot exist") from None


def _split(value: str) -> SplitResult:
    if any(letter.isspace() or not letter.isprintable() for letter in value):
        # urlsplit removes line breaks without a word, libpq does not.
        raise ValueError("contains white space or a control character; in a password, it must be percent-encoded")
    try:
        return urlsplit(value)
    except ValueError:
        # Not `from error`: its text repeats the address, password and all.
        raise ValueError("cannot be read as a URL") from None
