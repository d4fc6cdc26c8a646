"""The notebooks of the documentation: stored as they come out when they are executed."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from test_docs import script

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

FIRST = "own-network"
"""The notebook of the longer tests; each takes 40 CPU-seconds, and the others are slow tests."""

MAX_BYTES = 400_000

NUMBER = re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{12,64}\b|[-\d][\d.,]*(?:e[-+]?\d+)?")
"""A checksum or a number: their last digits depend on the machine."""


def named(path: Path) -> str:
    return path.stem


def outputs(notebook: NotebookNode) -> list[list[str]]:
    """What each cell of code shows: kinds of pictures and tables, and texts without numbers."""
    return [[text for output in cell.outputs for text in shown(output)] for cell in code(notebook)]


def code(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(output: NotebookNode) -> list[str]:
    if output.output_type == "stream":
        return [output.name, without_numbers(output.text)]
    assert output.output_type in ("display_data", "execute_result")
    return [*sorted(output.data), without_numbers(output.data["text/plain"])]


def without_numbers(text: str) -> str:
    return " ".join(NUMBER.sub("#", text).split())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=named)
def test_notebooks_are_stored_with_their_outputs(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text) < MAX_BYTES
    assert not re.search(r"/tmp/|/root/|/home/", text), "names a folder of a machine"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in code(notebook)] == [*range(1, len(code(notebook)) + 1)]
    assert "stderr" not in {text for cell in outputs(notebook) for text in cell}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=pytest.mark.thorough if path.stem == FIRST else pytest.mark.slow)
        for path in NOTEBOOKS
    ],
    ids=named,
)
def test_notebooks_give_what_is_stored(path: Path) -> None:
    """If not: python scripts/notebooks.py."""
    again = script("notebooks").execute(path)
    assert outputs(again) == outputs(nbformat.read(path, as_version=4))
