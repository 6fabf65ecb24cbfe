"""All checks of `worker doctor`, in their order.

They ask what `worker run` asks at its start, with the same code, and go on where it would stop. They use a pod's own
settings, and say what only the database owner can see.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

from worker.commands.checks.database import check_database
from worker.commands.checks.gpu import GpuCheck
from worker.commands.checks.installation import check_installation_marks
from worker.commands.checks.models import check_models
from worker.commands.checks.pods import check_pods
from worker.commands.checks.report import Finding, Report, State
from worker.commands.checks.role import check_role
from worker.commands.checks.storage import check_models_store, check_storage
from worker.settings import Settings


async def examine(show: Callable[[Finding], None]) -> bool:
    """Run every check and pass each finding to `show`. Returns True if none failed.

    Threads that wait for a server that hangs may be left: end the process without joining them.
    """
    report = Report(show)
    settings = _check_settings(report)
    async with AsyncExitStack() as stack:
        database = await check_database(report, settings, stack)
        if database is None:
            report.skip("no usable database", "role")
        else:
            await check_role(report, database)
        store = await check_storage(report, settings, database)
        if store is not None:
            stack.push_async_callback(store.close)
        models_store = await check_models_store(report, settings, database, store)
        if models_store is not None and models_store is not store:
            stack.push_async_callback(models_store.close)
        await check_installation_marks(report, settings, database, store)
        gpu = GpuCheck()
        await gpu.make(report)
        await check_models(report, settings, database, models_store, gpu)
        await check_pods(report, database)
    return report.passed


def _check_settings(report: Report) -> Settings:
    """One line for each wrong setting and each old name. Returns the settings, with defaults for wrong ones."""
    settings, problems = Settings.examine()
    for problem in problems:
        report.add(State.FAILED, "settings", problem, "set it in the environment or in .env; see .env.example")
    for warning in settings.warnings:
        report.add(State.WARNING, "settings", warning)
    if not problems:
        report.add(State.PASSED, "settings", "complete and well-formed")
    return settings
