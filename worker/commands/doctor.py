"""`worker doctor`: every check of `checks/`, one line each."""

from __future__ import annotations

from typing import NoReturn

import typer

from worker.commands.exits import FAILED, leave

app = typer.Typer()


@app.command(epilog="Example: worker doctor && worker run")
def doctor() -> None:
    """Check this installation and say how to fix what is wrong. Exit code 1 if a check fails.

    Reads every setting of .env.example, as the pod itself does, and says which checks need the database owner's URL.
    """
    import asyncio
    import logging

    import structlog

    from worker.commands.checks.examine import examine
    from worker.commands.checks.report import print_to
    from worker.console import console

    # The checks report everything themselves: a pod's own warnings would repeat it in other words.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))

    async def main() -> NoReturn:
        leave(0 if await examine(print_to(console())) else FAILED)

    asyncio.run(main())
