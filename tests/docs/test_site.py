"""The documentation site builds strictly, and loads nothing from other servers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.docs.blocks import ROOT

EXTERNAL = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//[^>]*"""
    r"""|<link\b[^>]*\brel=["']?(?:stylesheet|preconnect|icon)[^>]*\bhref=["']?(?:https?:)?//[^>]*"""
)
"""Elements that a browser loads from another server by itself."""


def test_the_site_builds_strictly_and_loads_nothing_from_other_servers(tmp_path: Path) -> None:
    # Not --quiet: strict mode counts only warnings that are logged.
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 15
    found = {page.name: EXTERNAL.findall(page.read_text()) for page in pages}
    assert {page: elements for page, elements in found.items() if elements} == {}
