"""Logging: one line an event, constant names, values beside them, nothing secret.

Our own code logs with structlog; what third-party libraries say through `logging` takes the same way from
WARNING on. Every string of a line, tracebacks included, is redacted before it is written: query strings and
credentials of addresses, and whatever looks like a key, a token or a password.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TextIO

import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

HIDDEN = "[hidden]"

_NAMES = (
    r"[\w-]*(?:password|passwd|pwd|secret|token(?!iz|s\b)|api[_-]?key|access[_-]?key|anon[_-]?key|role[_-]?key|credential"
    r"|signature|authorization|cookie)[\w-]*"
)
_SECRET_NAME = re.compile(_NAMES, re.IGNORECASE)
# In the order of use: an address loses its credentials before its query is cut.
_SECRETS_IN_TEXT = (
    # user:password@ of an address; up to the last @, because people do not encode the one in their password
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
    # by their shapes: JWT, Supabase, Hugging Face, AWS, webhook secrets
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"), HIDDEN),
    (re.compile(r"\b(?:sb_secret_|sbp_|hf_|whsec_)[\w+/=-]{8,}"), HIDDEN),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), HIDDEN),
)


def configure(format: Literal["auto", "console", "json"], stream: TextIO | None = None) -> None:
    """Set logging up for this process; `auto` is console lines on a terminal and JSON otherwise.

    `stream` is stdout by default; commands whose results go there give stderr. Call again to change either.
    """
    stream = sys.stdout if stream is None else stream
    console = stream.isatty() if format == "auto" else format == "console"
    renderer: Processor
    if console:
        # A plain traceback, because it was redacted as text; colours only where somebody sees them.
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
    """A structlog processor: hides secrets in every value of a line, however deep."""
    return {name: _redacted(name, value) for name, value in event.items()}


def redacted_text(text: str) -> str:
    """`text` without the secrets that can be told by their place or their shape."""
    for pattern, replacement in _SECRETS_IN_TEXT:
        text = pattern.sub(replacement, text)
    return text


def _redacted(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if _SECRET_NAME.fullmatch(name):
        return HIDDEN
    if isinstance(value, str):
        return redacted_text(value)
    if isinstance(value, Mapping):
        return {str(key): _redacted(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted(name, inner) for inner in value]
    return _redacted(name, str(value))  # a path, an exception, an id: what the renderer would print
