"""Logging: one line per event, with a constant name and its values as keywords, and no secrets.

    log.warning("pod.unknown", message="this pod was considered dead; it registers again")

The name is dotted, `subject.what_happened`. A value with a unit has it in its key (`duration_s`, `vram_gib`). Keys that
explain have one name each:

    message   a sentence for the reader
    reason    why, in short: an exception's type, or a few words
    hint      what to do about it
    code      an error's code, as the app's user sees it in `error_code`
    error     that error's message

The one line at the end of every attempt is `job.finished`, in `worker/pod/job_runner.py`.

Our own code logs with structlog. Third-party libraries log through `logging`; from WARNING on, their lines are written
the same way. Every string of a line, tracebacks included, is redacted before it is written: query strings and
credentials of URLs, and everything that looks like a key, a token or a password.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TextIO

import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

HIDDEN = "[hidden]"

_NAME_PARTS = (
    r"password|passwd|pwd|secret|token(?!iz|s\b)|api[_-]?key|access[_-]?key|anon[_-]?key|role[_-]?key|credential"
    r"|signature|authorization|cookie"
)
_NAMES = rf"[\w-]*(?:{_NAME_PARTS})[\w-]*"
_SECRET_NAME = re.compile(_NAMES, re.IGNORECASE)
# In this order: a URL loses its credentials before its query is cut.
_SECRETS_IN_TEXT = (
    # user:password@ of a URL; up to the last @, because an @ in the password is often not encoded
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s\"'<>@/]*:[^\s\"'<>]*@", re.IGNORECASE), rf"\1{HIDDEN}@"),
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?\"'<>]*\?)[^\s\"'<>]+", re.IGNORECASE), rf"\1{HIDDEN}"),
    # a signed path without its host, as HTTP libraries print it
    (re.compile(r"\?[^\s\"'<>]*x-amz-[^\s\"'<>]*", re.IGNORECASE), f"?{HIDDEN}"),
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"\bAWS4-HMAC-SHA256\b[^\r\n]*"), f"AWS4-HMAC-SHA256 {HIDDEN}"),
    # name=value, name: value, "name": "value"
    (
        re.compile(rf"\b({_NAMES}[\"']?\s*[=:]\s*)(?:\"[^\"]*\"|'[^']*'|[^\s\"',;&)}}\]]+)", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
    # recognised by their form: JWT, Supabase, Hugging Face, AWS, webhook secrets
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"), HIDDEN),
    (re.compile(r"\b(?:sb_secret_|sbp_|hf_|whsec_)[\w+/=-]{8,}"), HIDDEN),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), HIDDEN),
)
_MAY_HAVE_SECRETS = re.compile(
    rf"://|\?|bearer|basic|AWS4-|{_NAME_PARTS}|eyJ|sb_secret_|sbp_|hf_|whsec_|AKIA|ASIA", re.IGNORECASE
)
"""In every text in which one of the patterns above finds something: most values of a line are found out at once."""


def configure(format: Literal["auto", "console", "json"], stream: TextIO | None = None) -> None:
    """Set up logging for this process. `auto` writes console lines to a terminal, and JSON otherwise.

    `stream` is stdout by default; commands that print results there pass stderr. Call again to change either.
    """
    stream = sys.stdout if stream is None else stream
    console = stream.isatty() if format == "auto" else format == "console"
    renderer: Processor
    if console:
        # A plain traceback, because it was redacted as text; colours only on a terminal.
        plain = structlog.dev.plain_traceback
        renderer = structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)
    else:
        renderer = structlog.processors.JSONRenderer(default=str)
    first: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor] = [structlog.processors.format_exc_info, redact, renderer]
    structlog.configure(
        processors=[*first, *last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*first, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Hide secrets in every value of a line, however deep: a structlog processor."""
    return {name: _redacted(name, value) for name, value in event.items()}


def redacted_text(text: str) -> str:
    """Return `text` without the secrets that are recognised by their place or their form."""
    if not _MAY_HAVE_SECRETS.search(text):
        return text
    for pattern, replacement in _SECRETS_IN_TEXT:
        text = pattern.sub(replacement, text)
    return text


@lru_cache(maxsize=1024)
def _names_a_secret(name: str) -> bool:
    return _SECRET_NAME.fullmatch(name) is not None


def _redacted(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if _names_a_secret(name):
        return HIDDEN
    if isinstance(value, str):
        return redacted_text(value)
    if isinstance(value, Mapping):
        return {str(key): _redacted(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(name, inner) for inner in value]
    return _redacted(name, str(value))  # a path, an exception, an id: what the renderer would print
