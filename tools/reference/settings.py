"""docs/reference/settings.md, from `worker.settings.Settings`."""

from __future__ import annotations

from pydantic.fields import FieldInfo

from tools.reference.markdown import code, page, table
from worker.setting_groups import HEADINGS, NEEDED
from worker.settings import Settings, example, variable

INTRODUCTION = """
Every setting is an environment variable. A `.env` file in the working directory is read too; the environment wins.
An empty value (`NAME=`) means the default. If a setting is wrong or missing, a command names it, with an example and
never with its value, and exits with code 2 before it starts anything.

[`.env.example`](../../.env.example) has all of them, ready to be filled in.
"""


def settings_page() -> str:
    """Return the page, with one table per group of settings."""
    parts = []
    rows: list[list[str]] = []
    heading = ""
    for name, setting in Settings.model_fields.items():
        if name in HEADINGS:
            parts += _section(heading, rows)
            heading, rows = HEADINGS[name], []
        rows.append([code(variable(name)), setting.description or "", _default(name, setting), code(example(setting))])
    return page("Settings", INTRODUCTION, *parts, *_section(heading, rows))


def _section(heading: str, rows: list[list[str]]) -> list[str]:
    return [f"## {heading}", table(["Variable", "Meaning", "Default", "Example"], rows)] if rows else []


def _default(name: str, setting: FieldInfo) -> str:
    if name in NEEDED:
        return NEEDED[name]
    if setting.default_factory is not None:
        return "this machine's own"
    if setting.default in (None, frozenset()):
        return "not set"
    return code(f"{setting.default:g}" if isinstance(setting.default, float) else str(setting.default))
