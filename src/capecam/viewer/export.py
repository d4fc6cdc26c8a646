"""``capecam view --export``: the page as a folder, for any web server with range requests."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from capecam.errors import CapecamError, OutputError
from capecam.grid import Grid, Window
from capecam.viewer.files import overview_name, page_files
from capecam.viewer.imagery import THREADS, TILE_PX, max_z
from capecam.viewer.outlines import COUNTS, OUTLINES, ZONES, ZONES_TABLE
from capecam.viewer.served_runs import ServedRun, ServedRuns

log = logging.getLogger(__name__)

QUEUE_ROWS = 1_000
"""Detections of the review queue that an export has, with thumbnails."""

MAX_TILES = 50_000
"""Tiles of imagery of a run, of 10 to 20 kB each. A city of 2,799 images has 26,000 at 1.28 m a
pixel, and would have 6 million at 8 cm: finer levels are left out where there are more."""

WHOLE_TILES = 32
"""Tiles that a city may have at a level of which all of it is shown, though only places are."""

Place = tuple[int, int, int]
"""Level, row and column of a tile of the imagery."""


@dataclass(frozen=True, slots=True)
class Exported:
    """Result of an export."""

    folder: Path
    files: int
    megabytes: float
    finest: tuple[int, ...]
    """Finest level of the imagery by run: a pixel is 2^level pixels of the grid."""

    def to_text(self) -> str:
        """Return a sentence."""
        scales = ", ".join(f"1/{1 << z}" for z in self.finest)
        return (
            f"{self.folder}: {self.files} files, {self.megabytes:.1f} MB, "
            f"{f'imagery at {scales}' if scales else 'without imagery'}; any web server with range "
            "requests can show it"
        )


def export_page(outs: Sequence[Path], folder: Path) -> Exported:
    """Write the page with everything that it shows; it appears whole.

    Args:
        outs: folders of one or two runs.
        folder: folder to write, which is new or empty.

    Raises:
        OutputError: it has something in it; or a folder holds no finished run.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder}: is there already; name a new or empty folder")
    if not folder.resolve().parent.is_dir():
        raise OutputError(f"{folder}: there is no folder {folder.resolve().parent}; make it first")
    with (
        ServedRuns.open(outs) as city,
        TemporaryDirectory(dir=folder.resolve().parent, prefix=f".{folder.name}.tmp-") as name,
    ):
        made = Path(name) / "page"
        made.mkdir()
        for file, path in page_files().items():
            shutil.copyfile(path, made / file)
        finest = tuple(z for run in city.runs for z in _write_run(run, made / f"run/{run.number}"))
        tree = city.city(served=False)
        _set_levels(tree, finest)
        write_json(made / "city.json", tree)
        if folder.is_dir():
            folder.rmdir()
        os.replace(made, folder)
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return Exported(folder, len(sizes), sum(sizes) / 1e6, finest)


def _set_levels(tree: dict[str, Any], finest: Sequence[int]) -> None:
    """Set the finest level of the layers of imagery of ``city.json``."""
    layers = [entry for run in tree["runs"] for entry in run["layers"] if entry["kind"] == "tiles"]
    for entry, z in zip(layers, finest, strict=True):
        entry["min_z"] = z


def write_json(path: Path, content: Any) -> None:
    """Write JSON without spaces."""
    path.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")


def _write_run(served: ServedRun, to: Path) -> list[int]:
    """Write the files of a run; return the finest level of its imagery, or nothing without one."""
    run = served.run
    to.mkdir(parents=True)
    for product in run.products:
        _copy(served.files.overview(overview_name(product)), to / overview_name(product))
        for cell in run.cells:
            _copy(served.files.of_cell(cell, product), to / "cells" / cell / product)
    wanted = [OUTLINES, COUNTS, *([ZONES] if (run.out / ZONES_TABLE).exists() else [])]
    for name in wanted:
        _copy(served.prepared.path(name), to / name)
    queue = served.queue.page(0, QUEUE_ROWS)
    write_json(to / "queue.json", queue)
    finest = finest_level(run.grid)
    has_imagery = write_pictures(served, to, tiles(run.grid, finest), queue)
    return [finest] if has_imagery else []


def write_pictures(
    served: ServedRun, to: Path, places: Iterable[Place], queue: dict[str, Any]
) -> bool:
    """Write tiles of the imagery, and thumbnails of the detections of a part of the queue.

    Returns:
        Whether there is any imagery; without it, the reason is logged.
    """
    if served.imagery_problem:
        log.warning("%s: exported without imagery: %s", served.run.out, served.imagery_problem)
        return False
    with ThreadPoolExecutor(THREADS) as threads:
        for _ in threads.map(lambda place: _write_tile(served, to, *place), places):
            pass
        ids = [str(row[0]) for row in queue["rows"]]
        for _ in threads.map(lambda id_: _write_thumbnail(served, to, id_), ids):
            pass
    return True


def _copy(source: Path | None, to: Path) -> None:
    if source is not None:
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, to)


def finest_level(grid: Grid) -> int:
    """Return the finest level from which on the imagery has at most ``MAX_TILES`` tiles."""
    z = max_z(grid)
    while z > 0 and sum(1 for _ in tiles(grid, z - 1)) <= MAX_TILES:
        z -= 1
    return z


def tiles(grid: Grid, finest: int, windows: Sequence[Window] | None = None) -> Iterator[Place]:
    """Yield all tiles, from the coarsest level to the finest.

    Args:
        grid: of the run.
        finest: level to end with.
        windows: pixels of the grid; of levels with over ``WHOLE_TILES``, only tiles that touch one.
    """
    hull = grid.window
    for z in range(max_z(grid), finest - 1, -1):
        size = TILE_PX << z
        rows, cols = (-(-length // size) for length in hull.shape)
        if windows is None or rows * cols <= WHOLE_TILES:
            yield from ((z, row, col) for row in range(rows) for col in range(cols))
            continue
        found = {
            (row, col)
            for w in windows
            for row in range((w.row - hull.row) // size, -(-(w.bottom - hull.row) // size))
            for col in range((w.col - hull.col) // size, -(-(w.right - hull.col) // size))
        }
        yield from ((z, row, col) for row, col in sorted(found))


def _write_tile(served: ServedRun, to: Path, z: int, row: int, col: int) -> None:
    picture = served.imagery.tile(z, row, col)
    if picture is not None:
        path = to / f"imagery/{z}/{col}/{row}.webp"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)


def _write_thumbnail(served: ServedRun, to: Path, id_: str) -> None:
    class_id, outline = served.class_and_outline(id_)
    path = to / f"thumbnails/{id_}.jpg"
    path.parent.mkdir(exist_ok=True)
    try:
        path.write_bytes(served.imagery.thumbnail(outline, class_id))
    except CapecamError as error:
        log.warning("%s: has no thumbnail: %s", id_, error)
