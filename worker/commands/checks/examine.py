"""`worker doctor`: what is wrong with this installation, and what mends it.

It asks what `worker run` asks at start, with the same code, and goes on where that would stop. It runs with a pod's own
settings; what only the owner of the database may see, it says so.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

from rich.console import Console
from rich.text import Text

from worker.commands.checks.database import check_database
from worker.commands.checks.gpu import GpuCheck
from worker.commands.checks.models import check_models
from worker.commands.checks.pods import check_pods
from worker.commands.checks.report import Finding, Report, State
from worker.commands.checks.role import check_role
from worker.commands.checks.storage import check_storage
from worker.settings import Settings

COLOURS = {State.SOUND: "green", State.WRONG: "bold red", State.ATTENTION: "yellow", State.ASIDE: "dim"}


async def examine(show: Callable[[Finding], None]) -> bool:
    """Make every check, hand each finding to `show`; True when nothing is wrong.

    Threads that wait for a server that hangs may be left: end the process without joining them.
    """
    report = Report(show)
    settings, problems = Settings.examine()
    for problem in problems:
        report.add(State.WRONG, "settings", problem, "set it in the environment or in .env; .env.example explains each")
    if not problems:
        report.add(State.SOUND, "settings", "complete and well-formed")
    async with AsyncExitStack() as stack:
        database = await check_database(report, settings, stack)
        if database is None:
            report.skip("no usable database", "role")
        else:
            await check_role(report, database)
        store = await check_storage(report, settings, database)
        if store is not None:
            stack.push_async_callback(store.close)
        gpu = GpuCheck()
        await gpu.make(report)
        await check_models(report, settings, database, store, gpu)
        await check_pods(report, database)
    return report.sound


def show_on(console: Console) -> Callable[[Finding], None]:
    """A line for each finding, and its cure below it; plain text where the console is no terminal."""

    def show(finding: Finding) -> None:
        line = Text.assemble((f"{finding.state} ", COLOURS[finding.state]), (f"{finding.name}: ", "bold"), finding.what)
        console.print(line, soft_wrap=True)
        if finding.cure:
            console.print(Text(f"    → {finding.cure}"), soft_wrap=True)

    return show
