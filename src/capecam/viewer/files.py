"""Files that the server sends: those that are named, and nothing else."""

from __future__ import annotations

from pathlib import Path

from capecam.store.run_folder import RunFolder

PAGE = Path(__file__).parent / "page"
"""The built page."""


def page_files() -> dict[str, Path]:
    """Return the files of the page by name."""
    return {path.name: path for path in sorted(PAGE.iterdir()) if path.is_file()}


def overview_name(product: str) -> str:
    """Return the file name of the overview of a raster such as ``classes.tif``."""
    return f"{Path(product).stem}.overview.tif"


class RunFiles:
    """Rasters of a run that may be sent.

    A link that leads out of the folder of the run is not followed, whoever made it.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run, self._root = run, run.out.resolve()
        self._overviews = {overview_name(product) for product in run.products}

    def of_cell(self, cell: str, name: str) -> Path | None:
        """Return the path of a raster of a cell, or None if there is none."""
        if cell not in self._run.cells or name not in self._run.files(cell):
            return None
        return self._inside(self._run.path(cell, name)) if name.endswith(".tif") else None

    def overview(self, name: str) -> Path | None:
        """Return the path of the overview of a raster of the city, or None if there is none."""
        return self._inside(self._run.out / name) if name in self._overviews else None

    def _inside(self, path: Path) -> Path | None:
        try:
            real = path.resolve(strict=True)
        except OSError:
            return None
        return real if real.is_relative_to(self._root) and real.is_file() else None
