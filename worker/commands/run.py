"""`worker run`: the pod itself."""

from __future__ import annotations

import signal
from typing import NoReturn

import typer

from worker.commands.exits import FAILED, leave, refuse_settings
from worker.errors import SettingsError

app = typer.Typer()


@app.command(epilog="Example: DATABASE_URL=… S3_ENDPOINT_URL=… worker run")
def run() -> None:
    """Claim and run jobs until SIGTERM or Ctrl-C. A second signal stops at once.

    Reads every setting of .env.example, from the environment and from .env: DATABASE_URL, S3_ENDPOINT_URL, MODELS_DIR,
    WORKER_KINDS and the others.
    """
    import asyncio

    import structlog

    from worker import logs
    from worker.lossy_output import ignore_write_errors
    from worker.queue import Worker
    from worker.settings import Settings

    async def main() -> NoReturn:
        worker = Worker(settings)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, worker.request_stop)
        code = 0
        try:
            await worker.run()
        except SettingsError as error:
            code = refuse_settings(error)
        except Exception:
            structlog.get_logger().exception("worker.crashed")
            code = FAILED
        leave(code)

    settings = Settings.load()
    ignore_write_errors()
    logs.configure(settings.log_format)
    asyncio.run(main())
