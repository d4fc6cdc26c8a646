"""Check VRTs as input images: only mosaics of GeoTIFFs in the folders given are allowed.

A VRT can read any file of the machine as pixels, run code, and open URLs. So its XML must consist
of known elements, and every file that it names is checked as an image is.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from xml.etree import ElementTree as ET

from capecam.errors import ImageError
from capecam.imagery.validation.file_type import check_kind, check_tiff
from capecam.imagery.validation.sidecars import check_sidecars
from capecam.imagery.validation.tiff import PX_PER_BYTE, SPARSE_PX
from capecam.io.paths import VRT, inside
from capecam.settings import VSI

MAX_XML_BYTES = 32 << 20
"""Size of the XML; that of a city of 2,616 images is 3 MB."""

MAX_XML_DEPTH = 10
"""Levels of nested elements; VRTs that GDAL writes have six."""

MAX_VRT_DEPTH = 3
"""Levels of nested VRTs."""

MAX_KERNEL = 31
"""Edge of a filter; its running time grows with the square."""

ELEMENTS = frozenset((
    "VRTDataset", "SRS", "GeoTransform", "GCPList", "GCP", "Metadata", "MDI", "VRTRasterBand",
    "MaskBand", "ColorInterp", "NoDataValue", "HideNoDataValue", "Description", "UnitType",
    "Offset", "Scale", "ColorTable", "Entry", "CategoryNames", "Category", "Histograms",
    "HistItem", "HistMin", "HistMax", "BucketCount", "IncludeOutOfRange", "Approximate",
    "HistCounts", "Overview", "OverviewList", "SimpleSource", "ComplexSource",
    "KernelFilteredSource", "SourceFilename", "SourceBand", "SourceProperties", "SrcRect",
    "DstRect", "NODATA", "UseMaskBand", "ScaleOffset", "ScaleRatio", "Exponent", "SrcMin",
    "SrcMax", "DstMin", "DstMax", "Clamp", "LUT", "ColorTableComponent", "Kernel", "Size",
    "Coefs", "BlockXSize", "BlockYSize",
))  # fmt: skip
"""Allowed elements: only SourceFilename opens a file, none runs code. AveragedSource is left out,
since GDAL allocates memory for all that goes into a block, which may be a whole image."""

ATTRIBUTES = frozenset((
    "rasterXSize", "rasterYSize", "dataType", "band", "blockXSize", "blockYSize",
    "relativeToVRT", "relativetoVRT", "shared", "resampling", "RasterXSize", "RasterYSize",
    "DataType", "BlockXSize", "BlockYSize", "xOff", "yOff", "xSize", "ySize", "c1", "c2", "c3",
    "c4", "key", "domain", "format", "dataAxisToSRSAxisMapping", "coordinateEpoch",
    "normalized", "Projection", "Id", "Pixel", "Line", "X", "Y", "Z", "Info",
))  # fmt: skip
"""Allowed attributes. GDAL treats attributes as elements: none may be called SourceFilename or
subClass."""

RELATIVE = ("relativeToVRT", "relativetoVRT")
"""Spellings of one attribute; GDAL uses the first that it finds."""


def check_vrt(path: Path, folders: tuple[str, ...], depth: int = MAX_VRT_DEPTH) -> None:
    """Check that GDAL may open a VRT.

    Args:
        path: of the VRT.
        folders: real paths; all sources must be in one of them.
        depth: allowed levels of nested VRTs.

    Raises:
        ImageError: it has something that is not allowed.
    """
    if not depth:
        raise _refusal(path, "in too many other VRTs, or in a circle of them")
    root = _parse(path)
    for element in root.iter():
        _check_element(path, element)
    sources = _sources(path, root)
    if not sources:
        raise _refusal(path, "without sources")
    for source in sources:
        _check_source(path, source, folders, depth)
    check_sidecars(path, folders)
    width, height = (_integer(root.get(key)) for key in ("rasterXSize", "rasterYSize"))
    size = sum(source.stat().st_size for source in sources)
    if width * height > max(SPARSE_PX, PX_PER_BYTE * size):
        problem = f"of {width} x {height} px, which sources of {size} bytes cannot fill"
        raise _refusal(path, problem)


def sources_of(path: Path) -> list[Path]:
    """Return the sources of a checked VRT, including those of nested VRTs."""
    sources: list[Path] = []
    for source in _sources(path, _parse(path)):
        sources.append(source)
        if source.suffix.lower() == VRT:
            sources += sources_of(source)
    return sources


def _parse(path: Path) -> ET.Element:
    size = check_kind(path).st_size
    if size > MAX_XML_BYTES:
        raise ImageError(
            f"{path}: a VRT of {size >> 20} MB; at most {MAX_XML_BYTES >> 20} are read; build "
            "one of fewer images with gdalbuildvrt"
        )
    try:  # GDAL reads names as UTF-8, whatever encoding the XML declares
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ImageError(f"{path}: a VRT that is not UTF-8; save it as UTF-8") from error
    if "<!DOCTYPE" in text or "<!ENTITY" in text or "\0" in text:
        raise _refusal(path, "with a document type or entities, which is not read")
    try:
        root = _read_tree(text)
    except (ET.ParseError, ValueError, LookupError) as error:
        raise ImageError(f"{path}: not a readable VRT ({error}); deliver it again") from error
    if root.tag != "VRTDataset":
        raise ImageError(
            f"{path}: not a readable VRT: it begins with <{root.tag}>; build it with gdalbuildvrt"
        )
    return root


def _read_tree(text: str) -> ET.Element:
    """Parse XML, raising a ValueError as soon as elements are nested too deep."""
    path: list[ET.Element] = []
    for event, element in ET.iterparse(io.StringIO(text), ("start", "end")):
        if event == "start":
            path.append(element)
        elif len(path) > 1:
            path.pop()
        if len(path) > MAX_XML_DEPTH:
            raise ValueError(f"elements are nested more than {MAX_XML_DEPTH} deep")
    return path[0]


def _check_element(path: Path, element: ET.Element) -> None:
    unknown = sorted(set(element.attrib) - ATTRIBUTES)
    if element.tag == "VRTRasterBand" and "subClass" in unknown:
        kind = element.get("subClass")
        raise _refusal(path, f"with bands of kind {kind}, which can read any file or run code")
    if element.tag not in ELEMENTS or unknown:
        name = element.tag if element.tag not in ELEMENTS else f"{element.tag} {unknown[0]}=..."
        raise _refusal(path, f"with <{name}>, which is not read")
    if element.tag == "Metadata" and element.get("domain", "").upper() == "OVERVIEWS":
        raise _refusal(path, "whose metadata lead to other files, which is not read")
    if element.tag == "Size" and not 0 < _integer(element.text) <= MAX_KERNEL:
        raise _refusal(path, f"with a filter of {element.text} px; at most {MAX_KERNEL} are read")


def _sources(path: Path, root: ET.Element) -> list[Path]:
    """Return the distinct sources of a VRT, in order."""
    return list(dict.fromkeys(_source(path, e) for e in root.iter("SourceFilename")))


def _source(path: Path, element: ET.Element) -> Path:
    name = element.text or ""
    flags = [element.get(key) for key in RELATIVE if key in element.attrib]
    relative = flags == ["1"]
    bad = not name or name != name.strip() or name.startswith(VSI) or "\0" in name
    if bad or len(flags) > 1 or not (relative or os.path.isabs(name)):
        raise ImageError(
            f"{path}: a VRT with the source {name!r}; sources must be files, named relative to "
            "the VRT (relativeToVRT=1) or in full"
        )
    # If the VRT is a link, GDAL resolves names relative to its target.
    return Path(os.path.realpath(path)).parent / name if relative else Path(name)


def _check_source(path: Path, source: Path, folders: tuple[str, ...], depth: int) -> None:
    if not inside(source, folders):
        raise ImageError(
            f"{path}: a VRT with the source {source}, which is in none of the folders given; "
            "name its folder as a source, too"
        )
    try:
        if source.suffix.lower() == VRT:
            check_vrt(source, folders, depth - 1)
        else:
            check_tiff(source)
            check_sidecars(source, folders)
    except ImageError as error:
        raise ImageError(
            f"{path}: a VRT one of whose sources cannot be used: {error}; fix that, or leave it out"
        ) from error


def _refusal(path: Path, problem: str) -> ImageError:
    return ImageError(
        f"{path}: a VRT {problem}; rebuild it with gdalbuildvrt, or write it as a GeoTIFF with "
        "gdal_translate"
    )


def _integer(text: str | None) -> int:
    return int(text) if text and text.strip().isdecimal() and len(text) < 20 else 0
