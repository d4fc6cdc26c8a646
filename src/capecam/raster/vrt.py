"""One virtual raster over the same product of many cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np

from capecam.raster.cog import BLOCK
from capecam.raster.header import open_readonly


def write_vrt(path: Path, tiles: Sequence[Path]) -> None:
    """One virtual raster over the same product of many cells, with paths relative to it.

    The tiles share a pixel size and lie whole pixels apart, so that nothing is resampled.
    """
    headers = []
    for tile in tiles:
        with open_readonly(tile) as dataset:
            headers.append((tile, dataset.transform, dataset.width, dataset.height))
            profile, like = dataset.profile, _vrt_band_facts(dataset)
    left = min(t.c for _, t, _, _ in headers)
    top = max(t.f for _, t, _, _ in headers)
    dx, dy = headers[0][1].a, -headers[0][1].e

    def place(t: Any) -> tuple[int, int]:
        return round((t.c - left) / dx), round((top - t.f) / dy)

    width = max(place(t)[0] + w for _, t, w, _ in headers)
    height = max(place(t)[1] + h for _, t, _, h in headers)
    root = ET.Element("VRTDataset", rasterXSize=str(width), rasterYSize=str(height))
    ET.SubElement(root, "SRS").text = profile["crs"].wkt
    ET.SubElement(root, "GeoTransform").text = f"{left!r}, {dx!r}, 0.0, {top!r}, 0.0, {-dy!r}"
    for index, facts in enumerate(like, start=1):
        band = _vrt_band(root, index, facts)
        for tile, t, w, h in headers:
            col, row = place(t)
            source = ET.SubElement(band, "ComplexSource")
            name = ET.SubElement(source, "SourceFilename", relativeToVRT="1")
            name.text = tile.relative_to(path.parent).as_posix()
            ET.SubElement(source, "SourceBand").text = str(index)
            size: dict[str, Any] = {"xSize": str(w), "ySize": str(h)}
            ET.SubElement(
                source, "SourceProperties", RasterXSize=str(w), RasterYSize=str(h),
                DataType=facts["type"], BlockXSize=str(BLOCK), BlockYSize=str(BLOCK),
            )  # fmt: skip
            ET.SubElement(source, "SrcRect", xOff="0", yOff="0", **size)
            ET.SubElement(source, "DstRect", xOff=str(col), yOff=str(row), **size)
            ET.SubElement(source, "NODATA").text = facts["nodata"]
    ET.indent(root)
    path.write_text(ET.tostring(root, encoding="unicode") + "\n", encoding="utf-8")


def _vrt_band_facts(dataset: Any) -> list[dict[str, Any]]:
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


def _vrt_band(root: ET.Element, index: int, facts: dict[str, Any]) -> ET.Element:
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
