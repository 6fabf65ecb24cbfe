"""`worker health`: do the workers on this machine respond? Each touches a file of its own while its loop runs.

Asks neither the database nor the store: while one is away a worker keeps its running job and waits, and restarting it
would lose that job.
"""

from __future__ import annotations

import time
from pathlib import Path

import typer

from worker.commands.exits import FAILED

STALE_AFTER_S = 60.0

app = typer.Typer()


@app.command(epilog="Example: worker health")
def health() -> None:
    """Check that the workers on this machine respond.

    Made for a container's health check. Reads WORK_DIR, and contacts neither the database nor the object store.
    """
    from worker.settings import Settings

    error = health_error(Settings.load(storage=False, database=False).work_dir)
    if error:
        typer.echo(f"health: {error}", err=True)
        raise typer.Exit(FAILED)
    typer.echo("All workers on this machine respond.")


def health_error(work_dir: Path) -> str | None:
    """Return why this machine is unhealthy: no worker runs, or one does not respond. None when all respond."""
    from worker.storage.workspace import last_touches

    touches = last_touches(work_dir)
    if not touches:
        return f"no worker runs here with WORK_DIR={work_dir}; start one: worker run"
    silent_s = time.time() - min(touches)
    if silent_s > STALE_AFTER_S:
        return f"a worker has not responded for {silent_s:.0f} s; look at its log, then restart it"
    return None
