"""Hooks of the documentation's build: pages may link to files outside `docs/`, as they do on a code host.

Each file that a page links to outside `docs/` comes into the site under `repository/`, Markdown as a page and anything
else as it is. Links inside those files lead back. What is not there is left alone, so that the strict build reports it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PREFIX = "repository/"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Bring in what is linked to, and what that links to."""
    pending = [file for file in files if file.is_documentation_page()]
    while pending:
        file = pending.pop()
        for target in LINK.findall(file.content_string):
            path = _in_repository(file.src_uri, target)
            outside = not path.startswith(("docs/", "../")) and (ROOT / path).is_file()
            if outside and files.get_file_from_path(PREFIX + path) is None:
                brought = File.generated(config, PREFIX + path, abs_src_path=str(ROOT / path))
                files.append(brought)
                if brought.is_documentation_page():
                    pending.append(brought)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at where their files lie in the site."""

    def moved(match: re.Match[str]) -> str:
        path = _in_repository(page.file.src_uri, match[1])
        within = path.removeprefix("docs/") if path.startswith("docs/") else PREFIX + path
        if files.get_file_from_path(within) is None:
            return match[1]
        return posixpath.relpath(within, posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(moved, markdown)


def _in_repository(src_uri: str, target: str) -> str:
    """Where a link of a page leads, from the root of the repository."""
    own = src_uri.removeprefix(PREFIX) if src_uri.startswith(PREFIX) else f"docs/{src_uri}"
    return posixpath.normpath(posixpath.join(posixpath.dirname(own), target))
