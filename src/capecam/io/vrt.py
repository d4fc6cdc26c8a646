"""One virtual raster over the same product of many cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from capecam.grid import Grid, Window
from capecam.io.cog import BLOCK
from capecam.io.gdal import open_readonly


@dataclass(frozen=True, slots=True)
class VrtTile:
    """A cell's raster, and its place on the product's lattice."""

    path: Path
    window: Window
    sha256: str


@dataclass(frozen=True, slots=True)
class Layer:
    """One product of the whole city."""

    grid: Grid
    """Over the hull of the tiles."""
    tiles: tuple[VrtTile, ...]

    @classmethod
    def over(cls, grid: Grid, tiles: Sequence[VrtTile]) -> Layer:
        """Of tiles on the lattice of a grid."""
        hull = reduce(Window.hull, (tile.window for tile in tiles))
        return cls(grid.crop(hull), tuple(tiles))


def is_valid(values: NDArray[Any], nodata: float) -> NDArray[np.bool_]:
    """Where a product has a value, of any shape."""
    return np.asarray(~np.isnan(values) if np.isnan(nodata) else values != nodata)


def write_vrt(path: Path, layer: Layer, overview: Path) -> None:
    """The tiles as one raster, with paths relative to it; nothing is resampled.

    Only the first tile is opened: the others have the same bands, and their place is known.

    Args:
        path: of the VRT.
        layer: the product.
        overview: beside it; what it shows when it is zoomed out.
    """
    with open_readonly(layer.tiles[0].path) as dataset:
        bands, crs = _band_facts(dataset), dataset.crs.wkt
    root = vrt_over(replace(layer.grid, crs=crs))
    for index, facts in enumerate(bands, start=1):
        band = _band(root, index, facts)
        for tile in layer.tiles:
            source = ET.SubElement(band, "ComplexSource")
            name = ET.SubElement(source, "SourceFilename", relativeToVRT="1")
            name.text = tile.path.relative_to(path.parent).as_posix()
            ET.SubElement(source, "SourceBand").text = str(index)
            place_of(source, tile.window, layer.grid.window, facts["type"])
            ET.SubElement(source, "NODATA").text = facts["nodata"]
        above = ET.SubElement(band, "Overview")
        ET.SubElement(above, "SourceFilename", relativeToVRT="1").text = overview.name
        ET.SubElement(above, "SourceBand").text = str(index)
    ET.indent(root)
    path.write_text(ET.tostring(root, encoding="unicode") + "\n", encoding="utf-8")


def vrt_over(grid: Grid) -> ET.Element:
    """A VRT without bands."""
    w, t = grid.window, grid.transform
    root = ET.Element("VRTDataset", rasterXSize=str(w.width), rasterYSize=str(w.height))
    ET.SubElement(root, "SRS").text = grid.crs
    ET.SubElement(root, "GeoTransform").text = f"{t.c!r}, {t.a!r}, 0.0, {t.f!r}, 0.0, {t.e!r}"
    return root


def place_of(source: ET.Element, window: Window, hull: Window, dtype: str) -> None:
    """Where a whole file lies in a VRT; with its size, so that GDAL need not open it."""
    size: dict[str, Any] = {"xSize": str(window.width), "ySize": str(window.height)}
    ET.SubElement(
        source, "SourceProperties", RasterXSize=str(window.width), RasterYSize=str(window.height),
        DataType=dtype, BlockXSize=str(BLOCK), BlockYSize=str(BLOCK),
    )  # fmt: skip
    ET.SubElement(source, "SrcRect", xOff="0", yOff="0", **size)
    place: dict[str, Any] = {
        "xOff": str(window.col - hull.col), "yOff": str(window.row - hull.row)
    }  # fmt: skip
    ET.SubElement(source, "DstRect", **place, **size)


def _band_facts(dataset: Any) -> list[dict[str, Any]]:
    """What the bands of a VRT take over from its first tile."""
    palette = dataset.colormap(1) if dataset.colorinterp[0].name == "palette" else None
    return [
        {
            "type": {"uint8": "Byte", "float32": "Float32"}[dataset.dtypes[i]],
            "nodata": "nan" if np.isnan(dataset.nodata) else f"{dataset.nodata:g}",
            "description": dataset.descriptions[i],
            "scale": dataset.scales[i],
            "tags": dataset.tags(i + 1),
            "palette": palette,
        }
        for i in range(dataset.count)
    ]


def _band(root: ET.Element, index: int, facts: dict[str, Any]) -> ET.Element:
    band = ET.SubElement(root, "VRTRasterBand", dataType=facts["type"], band=str(index))
    metadata = ET.SubElement(band, "Metadata")
    for key, value in sorted(facts["tags"].items()):
        ET.SubElement(metadata, "MDI", key=key).text = value
    ET.SubElement(band, "Description").text = facts["description"]
    ET.SubElement(band, "NoDataValue").text = facts["nodata"]
    if facts["scale"] != 1.0:
        ET.SubElement(band, "Offset").text = "0"
        ET.SubElement(band, "Scale").text = repr(facts["scale"])
    if facts["palette"]:
        ET.SubElement(band, "ColorInterp").text = "Palette"
        table = ET.SubElement(band, "ColorTable")
        for i in range(256):
            c = facts["palette"].get(i, (0, 0, 0, 255))
            ET.SubElement(table, "Entry", c1=str(c[0]), c2=str(c[1]), c3=str(c[2]), c4=str(c[3]))
    return band
