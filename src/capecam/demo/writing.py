"""The sample city as files: images, model and settings, and the truth."""

from __future__ import annotations

import shutil
from importlib.resources import as_file, files
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from capecam.demo.scene import Scene, draw_scene
from capecam.errors import OutputError
from capecam.grid import Grid, Window
from capecam.io.cog import write_image
from capecam.settings import CAPE_TOWN_CLASSES

CORNER = (-51_000.0, -3_763_000.0)
"""Top-left in Lo19 metres: Cape Town's southern suburbs."""
GSD_M = 0.08
CRS = "ESRI:102562"
NARROWER_PX = 60
"""The second row and column are narrower, by a number that no step divides."""


def write_demo(folder: Path, seed: int, size: int) -> None:
    """Draw a city over four abutting images and write it with model, settings and truth.

    Raises:
        OutputError: the folder is not empty or cannot be written.
    """
    _begin(folder)
    whole = 2 * size - NARROWER_PX
    grid = Grid(pyproj.CRS(CRS).to_wkt(), CORNER, (GSD_M, GSD_M), Window(0, 0, whole, whole))
    scene = draw_scene(seed, whole, whole)
    _write_images(folder / "images", scene, grid, size)
    _truth(scene, grid, whole).to_file(folder / "truth.gpkg", layer="truth", driver="GPKG")
    for name, target in (("sample_model.safetensors", "model.safetensors"), ("demo.yaml",) * 2):
        with as_file(files("capecam.demo") / "data" / name) as source:
            shutil.copyfile(source, folder / target)


def _begin(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise OutputError(f"{folder} is not empty; name a new folder")
        (folder / "images").mkdir()
    except OSError as error:
        raise OutputError(
            f"cannot write to {folder}: {error.strerror}; name another folder"
        ) from error


def _write_images(folder: Path, scene: Scene, grid: Grid, size: int) -> None:
    """The scene as four images, one of which lacks a corner."""
    whole = grid.window.height
    covered = _cut_corner(whole)
    for number, window in enumerate(_quarters(size, whole), start=1):
        place = window.slices(grid.window)
        mask = covered[place]
        pixels = np.where(mask[..., None], scene.pixels[place], 0).transpose(2, 0, 1)
        write_image(
            folder / f"2023_RGB_8cm_SAMPLE_{number}.tif",
            grid.crop(window),
            np.ascontiguousarray(pixels),
            None if mask.all() else mask,
        )


def _quarters(size: int, whole: int) -> list[Window]:
    """Four windows that abut, row-major."""
    edges = ((0, size), (size, whole))
    return [Window.between(r0, c0, r1, c1) for r0, r1 in edges for c0, c1 in edges]


def _corner(whole: int) -> shapely.Polygon:
    """Return the area without imagery: a triangle at the bottom right, in pixels."""
    cut = whole - whole // 8
    return shapely.Polygon([(whole, cut), (whole, whole), (cut, whole)])


def _cut_corner(whole: int) -> NDArray[np.bool_]:
    rows, cols = np.ogrid[:whole, :whole]
    return np.asarray(rows + cols + 1 < 2 * whole - whole // 8)


def _truth(scene: Scene, grid: Grid, whole: int) -> gpd.GeoDataFrame:
    """The drawn objects as far as imagery shows them, in map coordinates."""
    missing = _corner(whole)
    shown = [(o.class_id, shapely.difference(o.polygon, missing)) for o in scene.objects]
    shown = [(class_id, polygon) for class_id, polygon in shown if polygon.area > 0]
    geometry = shapely.transform(np.array([polygon for _, polygon in shown]), grid.to_map)
    table = gpd.GeoDataFrame(
        {
            "class_id": [class_id for class_id, _ in shown],
            "class": [CAPE_TOWN_CLASSES[class_id].name for class_id, _ in shown],
        },
        geometry=geometry,
        crs=CRS,
    )
    table["area_m2"] = table.area
    return table
