"""Execute the notebooks of the documentation, and store them with their outputs.

    python scripts/notebooks.py [docs/notebooks/NAME.ipynb ...]

``tests/test_notebooks.py`` executes them, too, and compares.
"""

from __future__ import annotations

import base64
import io
import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
"""tqdm, which timm imports, would like to draw bars in the notebook."""

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"

QUALITY = 75
"""Quality of figures as JPEG, which are some times smaller than as PNG."""

TIMEOUT_S = 300
"""Time that a cell may take on a busy machine."""


def execute(path: Path) -> NotebookNode:
    """Return a notebook with new outputs, computed in an empty folder."""
    notebook = nbformat.read(path, as_version=4)
    with TemporaryDirectory() as folder:
        NotebookClient(
            notebook,
            timeout=TIMEOUT_S,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            record_timing=False,
            coalesce_streams=True,
        ).execute()
    notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if png := output.get("data", {}).pop("image/png", None):
                output.data["image/jpeg"] = _as_jpeg(png)
    return notebook


def _as_jpeg(png: str) -> str:
    """Return a picture as JPEG; both in base64."""
    stream = io.BytesIO()
    image = Image.open(io.BytesIO(base64.b64decode(png)))
    image.convert("RGB").save(stream, "JPEG", quality=QUALITY, optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


def main() -> None:
    """Execute the notebooks that are named, or all."""
    for path in [Path(name) for name in sys.argv[1:]] or sorted(FOLDER.glob("*.ipynb")):
        nbformat.write(execute(path), path)


if __name__ == "__main__":
    main()
