"""`worker screen` shows an operator the rule and the words; scripts use the exit code."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from worker.cli import app


def screen(*words: str, given: str | None = None) -> tuple[int, str]:
    """Run `worker screen`; returns exit code and standard output."""
    ran = CliRunner().invoke(app, ["screen", *words], input=given)
    return ran.exit_code, ran.stdout


@pytest.mark.parametrize(
    ("words", "rule", "found"),
    [
        (["ohwx, n4ked on a sofa"], "nudity (rule sexual-1)", '"n4ked", listed as "naked"'),
        (["a young, girl"], "a child (rule minors-1)", '"young, girl", listed as "young girl"'),
        (["a 14yo model"], "somebody under 18 (rule minors-4)", '"N yo", an age'),
        (["--negative", "blurry, clothes"], "a picture without clothes (rule negative-1)", '"clothes"'),
    ],
)
def test_a_refused_text_exits_with_1_and_shows_the_rule_and_the_words(words: list[str], rule: str, found: str) -> None:
    code, shown = screen(*words)
    assert code == 1
    assert f"the text asks for {rule}" in shown
    assert f"Found: {found}" in shown


def test_a_text_that_breaks_no_rule_exits_with_0() -> None:
    assert screen("blurry, clothes") == (0, "Allowed: the text breaks no rule.\n")


def test_a_dash_reads_the_text_from_standard_input() -> None:
    assert screen("-", given="portrait of ohwx\nin the nude\n")[0] == 1
    assert screen("-", given="portrait of ohwx\n")[0] == 0
