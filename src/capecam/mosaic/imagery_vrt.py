"""The images themselves as one virtual raster, to look at."""

from __future__ import annotations

import os
import re
from pathlib import Path
from xml.etree import ElementTree as ET

from capecam.imagery.bands import COLORS
from capecam.io.paths import VsiPath
from capecam.io.vrt import place_of, vrt_over
from capecam.mosaic.mosaic import Mosaic, Source

NOT_IN_XML = re.compile("[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
"""In the name of a file: such an image is not shown."""

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
    shown = (source for source in mosaic.sources if not source.warped and _name(source, path))
    sources = list(reversed(list(shown)))
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
    relative = "0" if isinstance(source.header.path, VsiPath) else "1"
    ET.SubElement(element, "SourceFilename", relativeToVRT=relative).text = _name(source, vrt)
    ET.SubElement(element, "SourceBand").text = number
    place_of(element, source.window, mosaic.grid.window, TYPES[source.header.pixels.dtype])
    return element


def _name(source: Source, vrt: Path) -> str | None:
    """Of an image as a VRT has it; None if XML cannot hold it, or it is a secret."""
    path = source.header.path
    if isinstance(path, VsiPath):
        return None if path.secret else path.gdal
    name = Path(os.path.relpath(path, vrt.parent)).as_posix()
    return None if NOT_IN_XML.search(name) else name
