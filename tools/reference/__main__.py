"""Write docs/reference/ anew, from the code and an embedded database."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tools.reference.pages import render
from worker.database.schema import migrate
from worker.demo.servers import EmbeddedPostgres

FOLDER = Path(__file__).parents[2] / "docs" / "reference"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres(Path(folder), fast=True) as server:
        migrate.install_supabase_stubs(server.url())
        migrate.migrate(server.url())
        pages = render(server.url())
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
