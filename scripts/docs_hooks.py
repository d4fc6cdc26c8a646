"""Hooks of MkDocs: the README is the first page, notebooks are pages, and links to sources are
their texts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

README = Path(__file__).parents[1] / "README.md"
NOTEBOOKS = README.parent / "docs" / "notebooks"
NOTEBOOK = re.compile(r"\]\((?:notebooks/)?([\w-]+)\.ipynb")
"""A link to a notebook, whose page is beside the others."""

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")
"""A link out of the folder of the documentation, which the site does not have."""


SHIM = re.compile(r'src="https:[^"]+/iframe-worker/shim"')
"""What the plugin ``offline`` would load from another server, to search from a disk."""


def on_files(files: Files, config: Any) -> Files:
    """Add the README, whose links begin in its own folder, and a page for each notebook."""
    text = README.read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=text))
    for path in NOTEBOOKS.glob("*.ipynb"):
        resources = {"unique_key": f"{path.stem}_files", "output_files_dir": f"{path.stem}_files"}
        text, found = MarkdownExporter().from_filename(str(path), resources)
        text = text.replace("](../", "](")
        files.append(File.generated(config, f"{path.stem}.md", content=text))
        for name, content in found["outputs"].items():
            files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace links to sources and tests by their texts, and lead those to notebooks to pages."""
    return OUTSIDE.sub(r"\1", NOTEBOOK.sub(r"](\1.md", markdown))


def on_post_page(output: str, **_: Any) -> str:
    """Take our own script in its place; all pages are in one folder."""
    return SHIM.sub('src="javascripts/frame_worker.js"', output)


def on_post_template(output_content: str, **_: Any) -> str:
    """Do the same for the page of what is not there."""
    return on_post_page(output_content)
