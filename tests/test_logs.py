import ast
import io
import json
import logging
import re
from pathlib import Path

import pytest
import structlog
from pydantic import SecretStr

from worker import logs


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restored():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def lines():
    """Configure JSON lines; call the result for the lines logged since."""
    stream = io.StringIO()
    logs.configure("json", stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_its_event_its_values_its_level_and_its_time(lines):
    structlog.get_logger().info("job.finished", duration_s=1.5, outcome="done", path=Path("/a/b"))
    (line,) = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "job.finished",
        "level": "info",
        "duration_s": 1.5,
        "outcome": "done",
        "path": "/a/b",
    }


def test_values_bound_to_the_context_are_in_every_line(lines):
    with structlog.contextvars.bound_contextvars(job_id="j1", attempt=2):
        structlog.get_logger().info("job.started")
        logging.getLogger("another.library").error("went wrong")
    structlog.get_logger().info("idle")
    assert [(line.get("job_id"), line.get("attempt")) for line in lines()] == [("j1", 2), ("j1", 2), (None, None)]


def test_debug_lines_are_dropped(lines):
    structlog.get_logger().debug("chatter")
    assert lines() == []


def test_other_libraries_log_from_level_warning_on(lines):
    logging.getLogger("botocore").info("chatter")
    logging.getLogger("botocore").warning("retry %s of %s", 1, 4)
    (line,) = lines()
    assert (line["event"], line["level"], line["logger"]) == ("retry 1 of 4", "warning", "botocore")


def test_a_terminal_gets_console_lines_and_anything_else_json():
    for stream, is_json in ((Terminal(), False), (io.StringIO(), True)):
        logs.configure("auto", stream)
        structlog.get_logger().info("job.started", kind="training")
        assert stream.getvalue().startswith("{") is is_json
        assert "job.started" in stream.getvalue()


def test_stdout_is_the_default(capsys):
    logs.configure("json")
    structlog.get_logger().info("job.started")
    shown = capsys.readouterr()
    assert json.loads(shown.out)["event"] == "job.started"
    assert shown.err == ""


SECRET_TEXTS = [
    "GET https://host/b/k?X-Amz-Signature=MARKER&X-Amz-Credential=MARKER",
    'GET "/b/k?response-type=x&X-Amz-Signature=MARKER HTTP/1.1" 200',
    "postgresql://worker:MARKER@db.example.com:5432/postgres",
    "postgresql://worker:MAR/K?ER@MARKER@db.example.com/postgres",
    "connect to (https://id:MARKER@host/path) failed",
    "host=h password=MARKER user=u",
    "host=h password='MAR MARKER' user=u",
    '{"secret_access_key": "MARKER", "b": 1}',
    "{'S3_SECRET_ACCESS_KEY': 'MARKER'}",
    "SUPABASE_SERVICE_ROLE_KEY=MARKER",
    "Authorization: Bearer MARKERMARKER",
    "Authorization: AWS4-HMAC-SHA256 Credential=MARKER/20260101/x, SignedHeaders=host, Signature=MARKER",
    "x-amz-security-token: MARKER",
    "apikey: MARKER",
    "the key eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoiYSJ9.MARKER was refused",
    "sb_secret_MARKERMARKER",
    "hf_MARKERMARKERMARKER",
    "whsec_MARKERMARKER",
    "AKIAMARKERMARKER1234",
]


@pytest.mark.parametrize("text", SECRET_TEXTS)
@pytest.mark.parametrize("console", [False, True])
def test_secrets_are_hidden_anywhere_in_a_line(text, console):
    stream = io.StringIO()
    logs.configure("console" if console else "json", stream)
    log = structlog.get_logger()
    log.info(text)
    log.info("event", value=text, deep={"list": [text, {"tuple": (text,)}]}, error=ValueError(text))
    try:
        try:
            raise OSError(text)
        except OSError as error:
            raise RuntimeError("outer") from error
    except RuntimeError:
        log.exception("job.failed")
        logging.getLogger("lib").exception("went wrong: %s", text)
    with structlog.contextvars.bound_contextvars(bound=text):
        log.info("event")
    assert "RuntimeError" in stream.getvalue()
    assert "MARKER" not in stream.getvalue()


@pytest.mark.parametrize(
    "name", ["password", "S3_SECRET_ACCESS_KEY", "session_token", "api_key", "authorization", "anon-key"]
)
def test_a_value_with_a_secret_name_is_hidden_whatever_it_looks_like(lines, name):
    structlog.get_logger().info("event", **{name: "MARKER"}, deep={name: {"a": ["MARKER"]}, "b": {name: "MARKER"}})
    assert "MARKER" not in str(lines())


def test_secret_strings_stay_hidden(lines):
    structlog.get_logger().info("event", value=SecretStr("MARKER"), deep=[SecretStr("MARKER")])
    assert "MARKER" not in str(lines())


@pytest.mark.parametrize(
    "text",
    [
        "job.finished",
        "uploads/0b1c/photos/1.jpg is not in storage",
        "https://abcdefgh.supabase.co/storage/v1/s3",
        "postgresql://likeness_worker@db.example.com:5432/postgres",
        "loaded the tokenizer: CLIP, 77 tokens=77",
        "is this a question? yes",
        "password authentication failed",
        "base model flux-dev: seed=7 steps=20",
    ],
)
def test_other_text_is_not_changed(text):
    assert logs.redacted_text(text) == text


def test_numbers_and_flags_keep_their_types(lines):
    structlog.get_logger().info("event", tokens=77, ok=True, ratio=0.5, none=None, max_token_length=512)
    line = lines()[0]
    assert (line["tokens"], line["ok"], line["ratio"], line["none"]) == (77, True, 0.5, None)
    assert line["max_token_length"] == 512


# -- what our own code logs

LOGS = re.compile(r"log\.(info|warning|error|exception)|structlog\.get_logger\(\)\.\w+|suppress_transient_errors")
REPLACED_KEYS = {"what": "message", "why": "reason", "remedy": "hint", "cure": "hint"}


def log_calls() -> list[tuple[str, ast.Call]]:
    """Return every logging call of the package with its place, except the one whose event its caller names."""
    root = Path(logs.__file__).parent
    return [
        (f"{path.relative_to(root.parent)}:{call.lineno}", call)
        for path in sorted(root.rglob("*.py"))
        if path.name != "transient.py"
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and LOGS.fullmatch(ast.unparse(call.func))
    ]


def test_keys_that_explain_have_one_name_each():
    replaced = [
        f"{place}: {keyword.arg} is called {REPLACED_KEYS[keyword.arg]}"
        for place, call in log_calls()
        for keyword in call.keywords
        if keyword.arg in REPLACED_KEYS
    ]
    assert replaced == []


def test_events_are_constant_dotted_names():
    events = [(place, ast.unparse(call.args[0])) for place, call in log_calls()]
    assert len(events) > 30
    assert [event for event in events if not re.fullmatch(r"'[a-z]+(\.[a-z_]+)+'", event[1])] == []
