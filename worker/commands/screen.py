"""`worker screen`: tries a text on the worker's own screening, and shows what a job's error never repeats."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from worker.guard.screening import Match

app = typer.Typer()


@app.command(epilog='Example: worker screen "portrait of ohwx in a garden"')
def screen(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text, or - to read it from standard input.")],
    negative: Annotated[bool, typer.Option("--negative", help="Screen it as a negative prompt.")] = False,
) -> None:
    """Screen a text as the worker does, and show what matched.

    Shows the rule and the words. Reads no setting and writes no log. Exit code 1 when the text is refused.
    """
    from worker.guard.screening import find_match

    match = find_match(sys.stdin.read() if text == "-" else text, "negative_prompt" if negative else "prompt")
    if match is None:
        typer.echo("Allowed: the text breaks no rule.")
        return
    typer.echo(describe(match))
    raise typer.Exit(1)


def describe(match: Match) -> str:
    """Return the rule and the words in two lines. They are folded: plain letters, digits and signs."""
    if match.term is None:
        words = f'Found: "{match.found}", an age (N stands for a number below 18, and i also for l)'
    else:
        words = f'Found: "{match.found}", listed as "{match.term.words}"'
    return f"Refused: the text asks for {match.rule.asks} (rule {match.rule.id}).\n{words}."
