"""`worker demo`: tell the story, leave the output folder, stop everything that was started."""

from __future__ import annotations

import shlex
import signal
import tempfile
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import psycopg
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from worker.database.migrate import MigrationError
from worker.demo.album import PhotosUnusable, read_album
from worker.demo.config import SMALL, DemoConfig
from worker.demo.demo import Demo, DemoFailed
from worker.demo.held_out import NotMeasured
from worker.demo.installation import Installation, WorkerEnded
from worker.demo.output.steps import Steps
from worker.demo.output.summary import Summary
from worker.demo.servers import ServerFailed

FAILURES = (
    *(DemoFailed, WorkerEnded, ServerFailed, NotMeasured, MigrationError),
    *(psycopg.Error, BotoCoreError, ClientError, OSError, LookupError),
)
INTRODUCTION = (
    "From an INSERT to a consenting person's picture, on this machine alone: nothing leaves it. The base is "
    "[bold]small[/] (FLUX's layout, a thousandth of its size) and was trained on drawings made by code: you see the "
    "whole promise in miniature, not what FLUX can draw."
)


class StopSignals:
    """Ctrl-C, SIGTERM and a closed terminal interrupt once; while things are being stopped, they are ignored."""

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._interrupt) for number in self.NUMBERS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def ignore(self) -> None:
        for number in self.NUMBERS:
            signal.signal(number, signal.SIG_IGN)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.ignore()
        self.received = signal.Signals(number)
        raise KeyboardInterrupt


def main(output: Path, photos: Path | None, *, keep: bool, config: DemoConfig = SMALL) -> int:
    """Run the demo; returns the exit code.

    0; 1 when something failed; 2 for photographs or an output folder that cannot be used; 130 after Ctrl-C and 143
    after SIGTERM, but 0 when `keep` had only waited for it.

    Args:
        output: the folder for what the demo leaves; files of an earlier run are replaced.
        photos: the user's own pictures, instead of a drawn person's.
        keep: leave servers and worker up until Ctrl-C.
    """
    console = Console(highlight=False)
    try:
        album = read_album(photos) if photos else None
        output.mkdir(parents=True, exist_ok=True)
        (output / "summary.json").unlink(missing_ok=True)
    except (PhotosUnusable, OSError) as error:
        console.print(f"[red]The demo cannot start:[/] {escape(str(error))}")
        return 2
    console.print(Panel(INTRODUCTION, title="Likeness demo", title_align="left", width=min(console.width, 100)))
    if photos:
        console.print(
            "[bold]Your pictures:[/] the demo states that this person is an adult and agrees; see to it that it is so. "
            "They stay on this machine."
        )
    scratch = Path(tempfile.mkdtemp(prefix="likeness-demo-"))
    worker_log = (output / "worker.log").resolve()
    steps = Steps(console)
    summary: Summary | None = None
    with StopSignals() as signals:
        try:
            with Installation(scratch, worker_log) as installation:
                try:
                    with Demo(config, steps, installation, scratch, output) as story:
                        summary = story.run(album)
                    _leave(summary, steps, installation, output, console, keep=keep)
                    if keep:
                        signal.pause()
                finally:
                    signals.ignore()
                    console.print("[dim]Stopping the worker, S3 and Postgres …")
        except (KeyboardInterrupt, Exception) as error:
            # An interrupt may come out as an error of what it broke into: a connection in the middle of a query.
            if signals.received:
                if summary is not None and keep:
                    return 0
                console.print(f"[yellow]Interrupted by {signals.received.name}.[/] Everything it started has ended.")
                return 128 + signals.received
            if isinstance(error, FAILURES):
                console.print(f"[red]The demo failed:[/] {escape(str(error))}\nThe worker's log: {worker_log}")
                return 1
            console.print(f"[red]The demo crashed.[/] The worker's log: {worker_log}")
            raise
    return 0


def _leave(
    summary: Summary, steps: Steps, installation: Installation, output: Path, console: Console, *, keep: bool
) -> None:
    """Write summary.json, print the table, and say how to look around."""
    summary.write(output / "summary.json", steps.done, installation.addresses() if keep else {})
    console.print()
    console.print(steps.table())
    losses = summary.held_out_losses
    console.print(
        f"\n[bold]What it learnt:[/] on photographs it has not seen, the loss with this LoRA is "
        f"{losses['own'] / losses['none']:.0%} of the loss with none, and {losses['own'] / losses['other']:.0%} of the "
        "loss with the other person's."
    )
    console.print(
        f"[bold]In {output}:[/] the LoRA and the pictures, contact-sheet.png, loss-curve.png, summary.json, worker.log"
    )
    look = shlex.join([installation.psql, installation.owner_url, "-c", "select * from worker.jobs"])
    if keep:
        console.print(f"[bold]Look around:[/] {escape(look)}", soft_wrap=True)
        console.print(f"S3 answers at {installation.s3_url}; the worker takes more jobs. [bold]Ctrl-C ends it all.[/]")
    else:
        console.print("[bold]Look around:[/] with --keep the servers stay up, for")
        console.print(f"  {escape(look)}", soft_wrap=True)
