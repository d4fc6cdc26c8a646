"""Virtual rasters over one product of many cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from types import MappingProxyType
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np

from capecam.grid import Grid, Window
from capecam.io.gdal import open_readonly
from capecam.io.pyramid import BLOCK


@dataclass(frozen=True, slots=True)
class VrtTile:
    """The raster of a cell, and its window in pixels of the product."""

    path: Path
    window: Window
    sha256: str
    version: str = ""
    """Checksum that stays when only tags change; empty: that of the file."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One product over the whole city."""

    grid: Grid
    """Grid over the hull of the tiles."""
    tiles: tuple[VrtTile, ...]

    @classmethod
    def over(cls, grid: Grid, tiles: Sequence[VrtTile]) -> Layer:
        """Return the layer of tiles on a pixel grid."""
        hull = reduce(Window.hull, (tile.window for tile in tiles))
        return cls(grid.crop(hull), tuple(tiles))


def write_vrt(
    path: Path, layer: Layer, overview: Path, tags: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Write a VRT of the tiles of a layer, with relative paths and without resampling.

    Only the first tile is opened, since all have the same bands.

    Args:
        path: the VRT to write.
        layer: the layer.
        overview: overview of the layer, in the same folder as the VRT.
        tags: metadata of the whole file.
    """
    with open_readonly(layer.tiles[0].path) as dataset:
        bands, crs = _bands(dataset), dataset.crs.wkt
    root = vrt_over(replace(layer.grid, crs=crs))
    _add_metadata(root, tags)
    for index, properties in enumerate(bands, start=1):
        band = _add_band(root, index, properties)
        for tile in layer.tiles:
            source = ET.SubElement(band, "ComplexSource")
            name = ET.SubElement(source, "SourceFilename", relativeToVRT="1")
            name.text = tile.path.relative_to(path.parent).as_posix()
            ET.SubElement(source, "SourceBand").text = str(index)
            add_rectangles(source, tile.window, layer.grid.window, properties.dtype)
            ET.SubElement(source, "NODATA").text = properties.nodata
        level = ET.SubElement(band, "Overview")
        ET.SubElement(level, "SourceFilename", relativeToVRT="1").text = overview.name
        ET.SubElement(level, "SourceBand").text = str(index)
    ET.indent(root)
    path.write_text(ET.tostring(root, encoding="unicode") + "\n", encoding="utf-8")


def vrt_sources(path: Path) -> list[str]:
    """Return the files that a VRT names, each once, with paths from here."""
    names = dict.fromkeys(
        str(path.parent / name) if element.get("relativeToVRT") == "1" else name
        for element in ET.parse(path).iter("SourceFilename")
        if (name := element.text)
    )
    return list(names)


def vrt_over(grid: Grid) -> ET.Element:
    """Return a VRT without bands."""
    w, t = grid.window, grid.transform
    root = ET.Element("VRTDataset", rasterXSize=str(w.width), rasterYSize=str(w.height))
    ET.SubElement(root, "SRS").text = grid.crs
    ET.SubElement(root, "GeoTransform").text = f"{t.c!r}, {t.a!r}, 0.0, {t.f!r}, 0.0, {t.e!r}"
    return root


def add_rectangles(source: ET.Element, window: Window, hull: Window, dtype: str) -> None:
    """Add the rectangles of a whole file, with its size, so that GDAL need not open it."""
    size: dict[str, str] = {"xSize": str(window.width), "ySize": str(window.height)}
    ET.SubElement(
        source, "SourceProperties", RasterXSize=str(window.width), RasterYSize=str(window.height),
        DataType=dtype, BlockXSize=str(BLOCK), BlockYSize=str(BLOCK),
    )  # fmt: skip
    ET.SubElement(source, "SrcRect", {"xOff": "0", "yOff": "0", **size})
    offset = {"xOff": str(window.col - hull.col), "yOff": str(window.row - hull.row)}
    ET.SubElement(source, "DstRect", {**offset, **size})


@dataclass(frozen=True, slots=True)
class _Band:
    """Properties of a band that a VRT takes from its first tile."""

    dtype: str
    nodata: str
    description: str
    scale: float
    tags: dict[str, str]
    palette: dict[int, tuple[int, int, int, int]] | None


def _bands(dataset: Any) -> list[_Band]:
    palette = dataset.colormap(1) if dataset.colorinterp[0].name == "palette" else None
    return [
        _Band(
            {"uint8": "Byte", "float32": "Float32"}[dataset.dtypes[i]],
            "nan" if np.isnan(dataset.nodata) else f"{dataset.nodata:g}",
            dataset.descriptions[i],
            dataset.scales[i],
            dataset.tags(i + 1),
            palette,
        )
        for i in range(dataset.count)
    ]


def _add_metadata(parent: ET.Element, tags: Mapping[str, str]) -> None:
    metadata = ET.SubElement(parent, "Metadata")
    for key, value in sorted(tags.items()):
        ET.SubElement(metadata, "MDI", key=key).text = value


def _add_band(root: ET.Element, index: int, properties: _Band) -> ET.Element:
    band = ET.SubElement(root, "VRTRasterBand", dataType=properties.dtype, band=str(index))
    _add_metadata(band, properties.tags)
    ET.SubElement(band, "Description").text = properties.description
    ET.SubElement(band, "NoDataValue").text = properties.nodata
    if properties.scale != 1.0:
        ET.SubElement(band, "Offset").text = "0"
        ET.SubElement(band, "Scale").text = repr(properties.scale)
    if properties.palette:
        ET.SubElement(band, "ColorInterp").text = "Palette"
        table = ET.SubElement(band, "ColorTable")
        for i in range(256):
            c = properties.palette.get(i, (0, 0, 0, 255))
            ET.SubElement(table, "Entry", c1=str(c[0]), c2=str(c[1]), c3=str(c[2]), c4=str(c[3]))
    return band
