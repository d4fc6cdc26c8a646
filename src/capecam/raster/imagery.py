"""The images themselves as one virtual raster, to look at."""

from __future__ import annotations

import os
import re
from pathlib import Path
from xml.etree import ElementTree as ET

from capecam.raster.header import BANDS
from capecam.raster.locations import VsiPath
from capecam.raster.mosaic import Mosaic, Source
from capecam.raster.vrt import place_of, vrt_over

NOT_IN_XML = re.compile("[\x00-\x1f\x7f\ud800-\udfff\ufffe\uffff]")
"""In the name of a file: such an image is not shown."""

COLORS = ("Red", "Green", "Blue")


def write_imagery(path: Path, mosaic: Mosaic) -> None:
    """All images but those of another grid, with paths relative to the VRT and their masks.

    No image is opened: where each of them lies is known.
    """
    # Where images overlap, the first that is valid counts, as in the mosaic: it is drawn last.
    shown = (source for source in mosaic.sources if not source.warped and _name(source, path))
    sources = list(reversed(list(shown)))
    root = vrt_over(mosaic.grid)
    for band, color in zip(BANDS, COLORS, strict=True):
        element = ET.SubElement(root, "VRTRasterBand", dataType="Byte", band=str(band))
        ET.SubElement(element, "ColorInterp").text = color
        for source in sources:
            ET.SubElement(
                _source(element, source, str(band), path, mosaic), "UseMaskBand"
            ).text = "true"
    mask = ET.SubElement(ET.SubElement(root, "MaskBand"), "VRTRasterBand", dataType="Byte")
    for source in sources:
        ET.SubElement(_source(mask, source, "mask,1", path, mosaic), "NODATA").text = "0"
    ET.indent(root)
    path.write_text(ET.tostring(root, encoding="unicode") + "\n", encoding="utf-8")


def _source(band: ET.Element, source: Source, number: str, vrt: Path, mosaic: Mosaic) -> ET.Element:
    """A source of a band, or of a mask, where pixels that are not valid leave what is below."""
    element = ET.SubElement(band, "ComplexSource")
    relative = "0" if isinstance(source.header.path, VsiPath) else "1"
    ET.SubElement(element, "SourceFilename", relativeToVRT=relative).text = _name(source, vrt)
    ET.SubElement(element, "SourceBand").text = number
    place_of(element, source.window, mosaic.grid.window, "Byte")
    return element


def _name(source: Source, vrt: Path) -> str | None:
    """Of an image as a VRT has it; None if XML cannot hold it, or it is a secret."""
    path = source.header.path
    if isinstance(path, VsiPath):
        return None if path.secret else path.gdal
    name = Path(os.path.relpath(path, vrt.parent)).as_posix()
    return None if NOT_IN_XML.search(name) else name
