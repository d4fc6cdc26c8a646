"""Write the input images as one virtual raster to display."""

from __future__ import annotations

import os
import re
from pathlib import Path
from xml.etree import ElementTree as ET

from capecam.imagery.bands import COLORS
from capecam.io.paths import VsiPath
from capecam.io.vrt import add_rectangles, vrt_over
from capecam.mosaic.mosaic import Mosaic, Source

NOT_IN_XML = re.compile("[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
"""Characters of file names that XML cannot hold; such images are left out."""

GDAL_TYPES = {
    "uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32",
    "int32": "Int32", "uint64": "UInt64", "int64": "Int64", "float32": "Float32",
    "float64": "Float64",
}  # fmt: skip


def write_imagery(path: Path, mosaic: Mosaic) -> None:
    """Write a VRT of all images on the mosaic's grid, with their masks and in the colours that the
    network receives; paths are relative to the VRT.

    No image is opened. The masks are GDAL's, which prefers nodata where an image has an alpha band
    as well.
    """
    # Where images overlap, the first valid one counts in the mosaic, and the last one in a VRT.
    sources = [s for s in reversed(mosaic.sources) if not s.warped and _file_name(s, path)]
    root = vrt_over(mosaic.grid)
    for index, color in enumerate(COLORS):
        element = ET.SubElement(root, "VRTRasterBand", dataType="Byte", band=str(index + 1))
        ET.SubElement(element, "ColorInterp").text = color.title()
        for source in sources:
            band = str(source.header.pixels.bands[index])
            part = _add_source(element, source, band, path, mosaic)
            ET.SubElement(part, "UseMaskBand").text = "true"
            _add_scaling(part, index, source, mosaic)
    mask = ET.SubElement(ET.SubElement(root, "MaskBand"), "VRTRasterBand", dataType="Byte")
    for source in sources:
        band = f"mask,{source.header.pixels.bands[0]}"
        ET.SubElement(_add_source(mask, source, band, path, mosaic), "NODATA").text = "0"
    ET.indent(root)
    path.write_text(ET.tostring(root, encoding="unicode") + "\n", encoding="utf-8")


def _add_scaling(part: ET.Element, index: int, source: Source, mosaic: Mosaic) -> None:
    """Add the mapping of a source's values to 0..255."""
    pixels, value_range = source.header.pixels, mosaic.value_range
    if pixels.palette:
        ET.SubElement(part, "ColorTableComponent").text = str(index + 1)
    elif pixels.scaled and value_range is not None:  # GDAL rounds, and clips to 0..255
        ratio = 255.0 / (value_range.high - value_range.low)
        ET.SubElement(part, "ScaleOffset").text = repr(-value_range.low * ratio)
        ET.SubElement(part, "ScaleRatio").text = repr(ratio)


def _add_source(
    element: ET.Element, source: Source, band: str, vrt: Path, mosaic: Mosaic
) -> ET.Element:
    """Add a source to a band or a mask."""
    part = ET.SubElement(element, "ComplexSource")
    relative = "0" if isinstance(source.header.path, VsiPath) else "1"
    name = ET.SubElement(part, "SourceFilename", relativeToVRT=relative)
    name.text = _file_name(source, vrt)
    ET.SubElement(part, "SourceBand").text = band
    add_rectangles(part, source.window, mosaic.grid.window, GDAL_TYPES[source.header.pixels.dtype])
    return part


def _file_name(source: Source, vrt: Path) -> str | None:
    """Return an image's name for a VRT; None if XML cannot hold it, or it holds a password."""
    path = source.header.path
    if isinstance(path, VsiPath):
        return None if path.secret else path.gdal
    # The system follows links before ``..``: folders are compared as they really are.
    folder = os.path.relpath(os.path.realpath(path.parent), os.path.realpath(vrt.parent))
    name = Path(folder, path.name).as_posix()
    return None if NOT_IN_XML.search(name) else name
