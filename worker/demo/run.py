"""`worker demo`: run the steps, report on the terminal and in the output folder, and stop everything it started."""

from __future__ import annotations

import shlex
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import psycopg
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel

from worker.database.schema.migrate import MigrationError
from worker.demo.album import Album, PhotosUnusable, read_album
from worker.demo.config import SMALL, DemoConfig
from worker.demo.demo import Demo
from worker.demo.held_out import NotMeasured
from worker.demo.installation import Installation, WorkerEnded
from worker.demo.output.jobs import DemoFailed
from worker.demo.output.steps import Steps
from worker.demo.output.summary import Summary
from worker.demo.servers import ServerFailed

FAILURES = (
    *(DemoFailed, WorkerEnded, ServerFailed, NotMeasured, MigrationError),
    *(psycopg.Error, BotoCoreError, ClientError, OSError, LookupError),
)
INTRODUCTION = (
    "This demo runs the whole pipeline locally, from an INSERT to a picture of a consenting person; nothing leaves "
    "this machine. Its base model: {description}. The demo shows how the worker behaves, not what a published model "
    "can draw."
)
YOUR_PICTURES = (
    "[bold]Your pictures:[/] the demo records that this person is an adult and consents; make sure that both are true. "
    "The pictures do not leave this machine."
)


class StopSignals:
    """Turns the first Ctrl-C, SIGTERM or closed terminal into KeyboardInterrupt, and ignores all others after it."""

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
    """Run the demo and return the exit code.

    0; 1 when something failed; 2 for photographs or an output folder that cannot be used; 130 after Ctrl-C and 143
    after SIGTERM, but 0 if `keep` had only waited for it.

    Args:
        output: the folder for the demo's results; files of an earlier run are replaced.
        photos: the user's own pictures, instead of a drawn person's.
        keep: leave servers and worker running until Ctrl-C.
    """
    console = Console(highlight=False)
    try:
        album = read_album(photos) if photos else None
        output.mkdir(parents=True, exist_ok=True)
        (output / "summary.json").unlink(missing_ok=True)
    except (PhotosUnusable, OSError) as error:
        console.print(f"[red]The demo cannot start:[/] {escape(str(error))}")
        return 2
    console.print(
        Panel(
            INTRODUCTION.format(description=config.description),
            title="Likeness demo",
            title_align="left",
            width=min(console.width, 100),
        )
    )
    if photos:
        console.print(YOUR_PICTURES)
    run = _Run(console, config, output, keep=keep)
    with StopSignals() as signals:
        try:
            run.execute(album, signals)
        except (KeyboardInterrupt, Exception) as error:
            code = run.exit_code(error, signals)
            if code is None:
                raise
            return code
    return 0


class _Run:
    """One run of the demo on a terminal."""

    def __init__(self, console: Console, config: DemoConfig, output: Path, *, keep: bool) -> None:
        self._console, self._config, self._output, self._keep = console, config, output, keep
        self._worker_log = (output / "worker.log").resolve()
        self._completed = False

    def execute(self, album: Album | None, signals: StopSignals) -> None:
        """Run all steps, report, and wait for a signal if the servers are to be kept; then stop everything."""
        scratch = Path(tempfile.mkdtemp(prefix="likeness-demo-"))
        steps = Steps(self._console)
        with Installation(scratch, self._worker_log) as installation, self._stopping(signals):
            with Demo(self._config, steps, installation, scratch, self._output) as demo:
                summary = demo.run(album)
            self._completed = True
            summary.write(self._output / "summary.json", steps.done, installation.addresses() if self._keep else {})
            self._report(summary, steps, installation)
            if self._keep:
                signal.pause()

    def exit_code(self, error: BaseException, signals: StopSignals) -> int | None:
        """Print why the run ended and return its exit code; None for an unexpected error, whose traceback is needed."""
        # An interrupt may surface as an error of the call it broke into: a connection in the middle of a query.
        if signals.received:
            if self._completed and self._keep:
                return 0
            self._console.print(
                f"[yellow]Interrupted by {signals.received.name}.[/] The demo has stopped everything it started."
            )
            return 128 + signals.received
        if isinstance(error, FAILURES):
            self._console.print(f"[red]The demo failed:[/] {escape(str(error))}\nThe worker's log: {self._worker_log}")
            return 1
        self._console.print(f"[red]The demo crashed.[/] The worker's log: {self._worker_log}")
        return None

    @contextmanager
    def _stopping(self, signals: StopSignals) -> Iterator[None]:
        """At the end of the block, ignore signals and tell the user that everything is being stopped."""
        try:
            yield
        finally:
            signals.ignore()
            self._console.print("[dim]Stopping the worker, S3 and Postgres …")

    def _report(self, summary: Summary, steps: Steps, installation: Installation) -> None:
        """Print the table of steps, the result, and how to look around."""
        console = self._console
        console.print()
        console.print(steps.table())
        losses = summary.held_out_losses
        console.print(
            f"\n[bold]What the LoRA learnt:[/] on photographs that it was not trained on, its loss is "
            f"{losses['own'] / losses['none']:.0%} of the loss without a LoRA, and "
            f"{losses['own'] / losses['other']:.0%} of the loss with the other person's LoRA."
        )
        console.print(
            f"[bold]In {self._output}:[/] the LoRA, the pictures, contact-sheet.png, loss-curve.png, summary.json and "
            "worker.log"
        )
        query = shlex.join([installation.psql, installation.owner_url, "-c", "select * from worker.jobs"])
        if self._keep:
            console.print(f"[bold]Look around:[/] {escape(query)}", soft_wrap=True)
            console.print(
                f"S3 is at {installation.s3_url}, and the worker accepts more jobs. [bold]Ctrl-C stops everything.[/]"
            )
        else:
            console.print("[bold]Look around:[/] run the demo with --keep, which leaves the servers running, and then")
            console.print(f"  {escape(query)}", soft_wrap=True)
