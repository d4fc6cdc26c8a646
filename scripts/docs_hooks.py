"""Hooks of MkDocs: the README is the first page, and links to sources are their texts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

README = Path(__file__).parents[1] / "README.md"
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")
"""A link out of the folder of the documentation, which the site does not have."""


SHIM = re.compile(r'src="https:[^"]+/iframe-worker/shim"')
"""What the plugin ``offline`` would load from another server, to search from a disk."""


def on_files(files: Files, config: Any) -> Files:
    """Add the README, whose links begin in its own folder."""
    text = README.read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace links to sources and tests by their texts."""
    return OUTSIDE.sub(r"\1", markdown)


def on_post_page(output: str, **_: Any) -> str:
    """Take our own script in its place; all pages are in one folder."""
    return SHIM.sub('src="javascripts/frame_worker.js"', output)


def on_post_template(output_content: str, **_: Any) -> str:
    """Do the same for the page of what is not there."""
    return on_post_page(output_content)
