"""The images themselves as one virtual raster, to look at."""

from __future__ import annotations

import os
from pathlib import Path
from xml.etree import ElementTree as ET

from capecam.raster.header import BANDS
from capecam.raster.mosaic import Mosaic, Source
from capecam.raster.vrt import place_of, vrt_over

COLORS = ("Red", "Green", "Blue")


def write_imagery(path: Path, mosaic: Mosaic) -> None:
    """All images but those of another grid, with paths relative to the VRT and their masks.

    No image is opened: where each of them lies is known.
    """
    # Where images overlap, the first that is valid counts, as in the mosaic: it is drawn last.
    sources = [source for source in reversed(mosaic.sources) if not source.warped]
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
    name = ET.SubElement(element, "SourceFilename", relativeToVRT="1")
    name.text = Path(os.path.relpath(source.header.path, vrt.parent)).as_posix()
    ET.SubElement(element, "SourceBand").text = number
    place_of(element, source.window, mosaic.grid.window, "Byte")
    return element
