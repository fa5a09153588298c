"""Hooks of MkDocs: the README is the first page of the site, and pages may link to files of the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import attngraft

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = re.compile(
    r"\[([^\]]+)\]\((?:\.\./)?((?:benchmarks|examples|tests|src|LICENSE|CHANGELOG|CONTRIBUTING)[^)]*)\)"
)


def on_files(files: Files, config: Any) -> Files:
    """Add the README as the index, with its links as they read from the folder of the pages, and the page of the API."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=text))
    files.append(File.generated(config, "api.md", content=api_page()))
    return files


def api_page() -> str:
    """One entry for each name of the package, from the module that defines it."""
    names = [name for name in attngraft.__all__ if name != "AttngraftError"]
    found = {name: getattr(attngraft, name) for name in names}
    entries = [f"::: {thing.__module__}.{thing.__qualname__}" for thing in found.values()]
    return "# Python\n\n`import attngraft as ag`; each of these is `ag.NAME`.\n\n" + "\n\n".join(entries) + "\n"


def on_page_markdown(markdown: str, **given: Any) -> str:
    """Show links to files that are not part of the site as names of files."""
    return OUTSIDE.sub(r"\1 (`\2`)", markdown)
