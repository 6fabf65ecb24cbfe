"""Dump a database and restore it into another, as an operator does."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.sql.supabase import Supabase


def copy_database(supabase: Supabase, source: str, target: str, folder: Path, *options: str) -> str:
    """Dump `source` and restore it into the empty project `target`; returns what the restore complained of.

    Args:
        options: of pg_restore, such as --no-privileges.
    """
    programs, file = supabase.server.programs, folder / "dump"
    # Supabase's own command leaves out the schemas of its services, and so their policies.
    subprocess.run(
        [programs / "pg_dump", "--format=custom", "--schema=public", "--schema=worker", f"--file={file}", source],
        check=True,
        capture_output=True,
    )
    restored = subprocess.run(
        [programs / "pg_restore", *options, f"--dbname={target}", file], capture_output=True, text=True
    )
    return restored.stderr
