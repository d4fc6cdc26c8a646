"""From what the user names to images with unique names, and from those to the mosaic."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from capecam.checksums import check_images
from capecam.errors import ImageError, UsageError
from capecam.finding import Found, find_images, name_images
from capecam.grid import Cell
from capecam.interest import Interest, read_interest
from capecam.raster import Header, Location, Mosaic, Rules, build_mosaic, read_headers
from capecam.settings import ImagerySettings, MosaicSettings, TilingSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class City:
    """What there is to work on."""

    mosaic: Mosaic
    interest: Interest
    """The part of it that is worked on."""
    failures: dict[str, str]
    """By image name: why it cannot be used."""
    shunned: frozenset[str] = frozenset()
    """Images that are not to be sampled, since a process has died of them."""


def open_city(
    sources: Sequence[str],
    anchor: tuple[float, float] | None,
    mosaic: MosaicSettings = MosaicSettings(),  # noqa: B008 it is frozen
    imagery: ImagerySettings = ImagerySettings(),  # noqa: B008
    *,
    apart: bool = False,
    memory: Path | None = None,
) -> City:
    """Find the images, read their headers and lay them on one grid.

    Args:
        sources: as the user names them.
        anchor: of the lattice, in CRS units.
        mosaic: how images become one grid.
        imagery: how an image becomes pixels.
        apart: read headers in a process that a broken file may take along.
        memory: a folder in which checksums that were found are kept, if it is there.

    Raises:
        UsageError: there is no usable image, and every reason is named; or what limits the work
            cannot be used.
    """
    found = find_images(sources, vrt=imagery.allow_vrt)
    headers, failures = _read_headers(found, Rules(imagery, found.folders, apart))
    if imagery.checksums:
        paths = {name: header.path for name, header in headers}
        broken = check_images(paths, imagery.checksums, memory)
        headers = [(name, header) for name, header in headers if name not in broken]
        failures |= broken
    if not headers:
        raise UsageError("no image can be used:\n  " + "\n  ".join(failures.values()))
    for _, header in headers:
        if header.pages > 1:
            log.warning("%s: has %d pages; the first is used", header.path, header.pages)
    city, misfits = build_mosaic(headers, anchor, mosaic.align)
    return City(city, read_interest(mosaic, city.grid), failures | misfits)


def _read_headers(found: Found, rules: Rules) -> tuple[list[tuple[str, Header]], dict[str, str]]:
    """Headers of named images, and why others have none."""
    images = name_images(found.paths)
    failures = {name: found.refused[path] for name, path in images.items() if path in found.refused}
    readable: Mapping[str, Location] = {n: p for n, p in images.items() if n not in failures}
    answers = list(zip(readable, read_headers(list(readable.values()), rules), strict=True))
    headers = [(name, header) for name, header in answers if isinstance(header, Header)]
    failures |= {name: str(error) for name, error in answers if isinstance(error, ImageError)}
    return headers, failures


def find_cells(city: City, settings: TilingSettings) -> tuple[Cell, ...]:
    """The cells with a window of interest."""
    tiling = settings.tiling
    cells = city.mosaic.cells(tiling, settings.cell_size)
    return tuple(cell for cell in cells if city.interest.count(tiling, cell.core))
