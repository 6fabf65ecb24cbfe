"""`worker storage`: the object store."""

from __future__ import annotations

from typing import NoReturn

import typer

from worker.commands.exits import FAILED, leave

app = typer.Typer(
    name="storage",
    help="Set up the object store.",
    epilog="Example: worker storage init",
    no_args_is_help=True,
)


@app.command(epilog='Example: DATABASE_URL="$OWNERS_URL" worker storage init')
def init() -> None:
    """Create the private buckets, check access, and mark them.

    Writes, reads and deletes a small object in each. The mark says that a bucket is this database's; pods delete
    nothing from a bucket without one. Safe to repeat. Reads BUCKET_UPLOADS, BUCKET_MODELS, S3_ENDPOINT_URL, S3_REGION,
    S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY; and DATABASE_URL, which for the mark must be the database owner's URL.
    A bucket for base models (MODELS_S3_*) is created too if it is missing, but nothing is written to it.
    """
    import asyncio

    from worker.commands.checks.report import Report, print_to
    from worker.commands.storage_init import create_buckets
    from worker.console import console
    from worker.settings import Settings

    settings = Settings.load(database=False)
    report = Report(print_to(console()))

    async def main() -> NoReturn:
        await create_buckets(settings, report)
        leave(0 if report.passed else FAILED)

    asyncio.run(main())
