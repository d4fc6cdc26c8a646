"""From what the user names to images with unique names, and from those to the mosaic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from capecam.errors import ImageError, UsageError
from capecam.grid import Cell
from capecam.imagery.checksums import check_images
from capecam.imagery.discovery import DiscoveredImages, find_images, name_images
from capecam.imagery.header import Header
from capecam.imagery.header_reader import HeaderRules, read_headers
from capecam.io.paths import Location
from capecam.mosaic.aoi import AreaOfInterest, read_aoi
from capecam.mosaic.collar_cache import CollarCache
from capecam.mosaic.mosaic import GridRules, Mosaic, build_mosaic
from capecam.settings import ImagerySettings, MosaicSettings, Settings, TilingSettings, ValueRange


@dataclass(frozen=True, slots=True)
class City:
    """What there is to work on."""

    mosaic: Mosaic
    interest: AreaOfInterest
    """The part of it that is worked on."""
    failures: dict[str, str]
    """By image name: why it cannot be used."""
    shunned: frozenset[str] = frozenset()
    """Images that are not to be sampled, since a process has died of them."""

    def at_scale(self, scale: ValueRange | None) -> City:
        """The same, its values brought to 0..255 by this scale."""
        return replace(self, mosaic=replace(self.mosaic, scale=scale))


def city_of(settings: Settings, anchor: tuple[float, float] | None, *, apart: bool = True) -> City:
    """The city of a run's settings; ``anchor``, ``apart`` and raises: see :func:`open_city`.

    With ``run.in_process``, headers are read in this process whatever ``apart`` says.
    """
    return open_city(
        settings.sources,
        anchor,
        settings.mosaic,
        settings.imagery,
        settings.target_gsd_m,
        apart=apart and not settings.run.in_process,
        memory=settings.out,
    )


def open_city(
    sources: Sequence[str],
    anchor: tuple[float, float] | None,
    mosaic: MosaicSettings = MosaicSettings(),  # noqa: B008 it is frozen
    imagery: ImagerySettings = ImagerySettings(),  # noqa: B008
    gsd_m: float | None = None,
    *,
    apart: bool = False,
    memory: Path | None = None,
) -> City:
    """Find the images, read their headers and lay them on one grid.

    Args:
        sources: as the user names them.
        anchor: of the lattice, in CRS units; None: the mosaic's corner.
        mosaic: how images become one grid, and which part of it is worked on.
        imagery: how files become pixels.
        gsd_m: to which images are resampled, ``Settings.target_gsd_m``; None: as they are.
        apart: read headers in a process that a broken file may take along.
        memory: a folder in which checksums that were found are kept, if it is there.

    Raises:
        UsageError: there is no usable image, and every reason is named; or what limits the work
            cannot be used.
    """
    found = find_images(sources, vrt=imagery.allow_vrt)
    headers, failures = _read_headers(found, HeaderRules(imagery, found.folders, apart))
    if imagery.checksums:
        paths = {name: header.path for name, header in headers}
        broken = check_images(paths, imagery.checksums, memory)
        headers = [(name, header) for name, header in headers if name not in broken]
        failures |= broken
    city, misfits = build_mosaic(headers, anchor, GridRules(mosaic.align, gsd_m))
    failures |= misfits
    if city is None:
        raise UsageError(_nothing_left(list(failures.values())))
    collars = CollarCache() if imagery.collar == "auto" else None
    city = replace(city, scale=imagery.scale, collars=collars)
    return City(city, read_aoi(mosaic, city.grid), failures)


def _nothing_left(reasons: Sequence[str]) -> str:
    """One line for one image, else a line for each."""
    start = " " if len(reasons) == 1 else "\n  "
    return f"no image can be used:{start}" + "\n  ".join(reasons)


def _read_headers(
    found: DiscoveredImages, rules: HeaderRules
) -> tuple[list[tuple[str, Header]], dict[str, str]]:
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
