"""The images themselves as one virtual raster, to look at."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree as ET

from capecam.raster.bands import COLORS
from capecam.raster.mosaic import Mosaic, Source
from capecam.raster.vrt import place_of, vrt_over

TYPES = {
    "uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32",
    "int32": "Int32", "uint64": "UInt64", "int64": "Int64", "float32": "Float32",
    "float64": "Float64",
}  # fmt: skip
"""As GDAL names them."""


def write_imagery(path: Path, mosaic: Mosaic) -> None:
    """All images but those of another grid, with paths relative to the VRT and their masks, in the
    colours that the network sees.

    No image is opened: where each of them lies is known. The masks are GDAL's, which goes by nodata
    where an image has an alpha band as well.
    """
    # Where images overlap, the first that is valid counts, as in the mosaic: it is drawn last.
    sources = [source for source in reversed(mosaic.sources) if not source.warped]
    root = vrt_over(mosaic.grid)
    for index, color in enumerate(COLORS):
        element = ET.SubElement(root, "VRTRasterBand", dataType="Byte", band=str(index + 1))
        ET.SubElement(element, "ColorInterp").text = color.title()
        for source in sources:
            number = str(source.header.pixels.bands[index])
            part = _source(element, source, number, path, mosaic)
            ET.SubElement(part, "UseMaskBand").text = "true"
            _add_colors(part, index, source, mosaic)
    mask = ET.SubElement(ET.SubElement(root, "MaskBand"), "VRTRasterBand", dataType="Byte")
    for source in sources:
        number = f"mask,{source.header.pixels.bands[0]}"
        ET.SubElement(_source(mask, source, number, path, mosaic), "NODATA").text = "0"
    ET.indent(root)
    path.write_text(ET.tostring(root, encoding="unicode") + "\n", encoding="utf-8")


def _add_colors(part: ET.Element, index: int, source: Source, mosaic: Mosaic) -> None:
    """What makes 0..255 of the values of a source."""
    pixels, scale = source.header.pixels, mosaic.scale
    if pixels.palette:
        ET.SubElement(part, "ColorTableComponent").text = str(index + 1)
    elif pixels.scaled and scale is not None:  # GDAL rounds, and clips to the range of a byte
        ratio = 255.0 / (scale.high - scale.low)
        ET.SubElement(part, "ScaleOffset").text = repr(-scale.low * ratio)
        ET.SubElement(part, "ScaleRatio").text = repr(ratio)


def _source(band: ET.Element, source: Source, number: str, vrt: Path, mosaic: Mosaic) -> ET.Element:
    """A source of a band, or of a mask, where pixels that are not valid leave what is below."""
    element = ET.SubElement(band, "ComplexSource")
    name = ET.SubElement(element, "SourceFilename", relativeToVRT="1")
    name.text = Path(os.path.relpath(source.header.path, vrt.parent)).as_posix()
    ET.SubElement(element, "SourceBand").text = number
    place_of(element, source.window, mosaic.grid.window, TYPES[source.header.pixels.dtype])
    return element
