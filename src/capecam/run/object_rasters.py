"""``objects.tif`` of cells: the objects' own explanations as rasters.

Objects join across cells, so these rasters are no part of a cell's own products: they are drawn
from the stored maps of all objects, again only where these differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from capecam.detections.assembly import Detections
from capecam.detections.measurement import pixel_m
from capecam.detections.neighbourhood import NEIGHBOURHOOD_M, buffered
from capecam.grid import Grid, Window
from capecam.io.cog import LEVELS, NODATA, Product, write_cog
from capecam.io.heat_layer import OBJECT_SHARE_MAX
from capecam.pipeline.object_shares import object_shares
from capecam.runtime.machine import usable_cpus
from capecam.store.file_names import OBJECTS
from capecam.store.object_store import StoredObject
from capecam.store.records import FileFacts, ObjectRasterRecord
from capecam.store.run_folder import RunFolder

VERSION = 1
"""To be increased when the same explanations are drawn otherwise."""

FILES = (f"{OBJECTS}.tif", f"{OBJECTS}.qml")
"""In the folder of a cell."""

CITY_FILES = (
    f"{OBJECTS}.vrt", f"{OBJECTS}.qml", f"{OBJECTS}.overview.tif", f"{OBJECTS}.overview.qml",
)  # fmt: skip
"""In the folder of the run."""


def write_object_rasters(
    run: RunFolder, found: Detections, explained: Sequence[StoredObject | None]
) -> dict[str, ObjectRasterRecord]:
    """Write ``objects.tif`` of every cell with an explanation, and remove those of other cells.

    A file is written again only if it is damaged, or the explanations in it have changed.

    Args:
        run: with all finished cells.
        found: N detections.
        explained: N explanations; None for those without one.

    Returns:
        The records of the files, by cell.
    """
    objects = _drawn_objects(run, found, explained)
    tree = shapely.STRtree([each.reach for each in objects])

    def write(cell: str) -> ObjectRasterRecord | None:
        grid = run.grid.crop(run.core(cell)).coarsen(run.settings.tiling.stride)
        near = [] if grid is None else [objects[k] for k in _touching(tree, run, grid)]
        if grid is None or not near:
            for name in FILES:
                run.path(cell, name).unlink(missing_ok=True)
            return None
        return _update(run, cell, grid, near)

    with ThreadPoolExecutor(usable_cpus()) as threads:  # numpy and GDAL release Python's lock
        records = dict(zip(run.cells, threads.map(write, run.cells), strict=True))
    kept = {cell: record for cell, record in records.items() if record is not None}
    if not kept:
        for name in CITY_FILES:
            (run.out / name).unlink(missing_ok=True)
    return kept


@dataclass(frozen=True, slots=True, eq=False)
class _DrawnObject:
    """An object with its explanation."""

    class_id: int
    shape: shapely.Geometry
    """In lattice pixels."""
    explained: StoredObject
    pixel_m: tuple[float, float]
    reach: shapely.Geometry
    """In lattice pixels; the blocks that it is drawn in are inside."""

    def add_to(self, digest: hashlib.blake2b) -> None:
        """Add everything that it looks like to a digest."""
        digest.update(f"{self.class_id} {self.pixel_m} {self.explained.maps.shape}".encode())
        digest.update(shapely.to_wkb(self.shape))
        digest.update(self.explained.windows.astype("<i8").tobytes())
        digest.update(self.explained.maps.astype("<f4").tobytes())


def _drawn_objects(
    run: RunFolder, found: Detections, explained: Sequence[StoredObject | None]
) -> list[_DrawnObject]:
    """Return the objects that have an explanation."""
    shapes, size = found.objects.geometry, run.settings.tiling.size
    centres = shapely.get_coordinates(shapely.centroid(shapes))
    pixels_m = pixel_m(run.grid, centres).tolist()
    objects = []
    for n, each in enumerate(explained):
        if each is None:
            continue
        width, height = pixels_m[n]
        left, top, right, bottom = map(int, shapely.bounds(shapes[n]))
        box = Window.between(top, left, bottom, right)
        near = buffered(box, NEIGHBOURHOOD_M, (width, height)).box
        tiles = [Window(row, col, size, size).box for row, col in each.windows.tolist()]
        reach = shapely.intersection(shapely.union_all(tiles), near)
        class_id = int(found.objects.class_id[n])
        objects.append(_DrawnObject(class_id, shapes[n], each, (width, height), reach))
    return objects


def _touching(tree: shapely.STRtree, run: RunFolder, blocks: Grid) -> list[int]:
    """Return the indices of the objects that reach into the blocks of a cell."""
    area = blocks.window.scaled(run.settings.tiling.stride).box
    found: list[int] = tree.query(area, predicate="intersects").tolist()
    return sorted(found)


def _update(
    run: RunFolder, cell: str, grid: Grid, objects: Sequence[_DrawnObject]
) -> ObjectRasterRecord:
    """Write the raster of a cell, unless it is there already."""
    path, product = run.path(cell, f"{OBJECTS}.tif"), _product(run)
    tags = run.about_cell(cell).tiff_tags()
    key, known = _key(run, grid, product, tags, objects), run.record.objects.get(cell)
    if known is not None and known.key == key and path.is_file() and known.are_of(path):
        return known
    write_cog(path, product, grid, _pixels(run, grid, objects), tags)
    return ObjectRasterRecord(key=key, **FileFacts.of(path).to_json())


def _product(run: RunFolder) -> Product:
    """Return the description of the rasters."""
    settings = run.settings.objects
    tags: dict[str, str] = {"CAPECAM_METHOD": settings.method}
    if settings.method == "hirescam":
        tags |= {"CAPECAM_TARGET_LAYER": settings.layer or f"stride {settings.stride}"}
    names = run.names[1:]
    return Product(
        OBJECTS,
        names,
        "uint8",
        NODATA,
        scale=OBJECT_SHARE_MAX / LEVELS,
        tags=(tags,) * len(names),
        coarse=True,
    )


def _key(
    run: RunFolder,
    grid: Grid,
    product: Product,
    tags: Mapping[str, str],
    objects: Sequence[_DrawnObject],
) -> str:
    """Return a digest of everything that a raster shows and says."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{VERSION} {run.settings.tiling.tiling} {grid} {product} {tags}".encode())
    for each in objects:
        each.add_to(digest)
    return digest.hexdigest()


def _pixels(run: RunFolder, grid: Grid, objects: Sequence[_DrawnObject]) -> NDArray[np.uint8]:
    """Draw objects: (foreground classes, height, width) levels, the highest where they meet."""
    levels = np.full((len(run.names) - 1, *grid.window.shape), -1, np.int16)
    for each in objects:
        shares = object_shares(each.shape, each.explained, run.settings.tiling.tiling, each.pixel_m)
        common = shares.window.intersection(grid.window)
        if common is None:
            continue
        values = shares.values[common.slices(shares.window)] / OBJECT_SHARE_MAX
        new = np.nan_to_num(np.rint(LEVELS * np.minimum(values, 1)), nan=-1).astype(np.int16)
        rows, cols = common.slices(grid.window)
        part = levels[each.class_id - 1, rows, cols]
        np.maximum(part, new, out=part)
    return np.where(levels < 0, NODATA, levels).astype(np.uint8)
