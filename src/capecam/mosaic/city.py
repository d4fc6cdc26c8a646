"""Input of a run: from the sources that the user names to images on one grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from capecam.errors import ImageError, UsageError
from capecam.grid import Cell
from capecam.imagery.checksums import check_images
from capecam.imagery.discovery import DiscoveredImages, find_images, name_images
from capecam.imagery.header import Header
from capecam.imagery.header_reader import HeaderRules, read_headers
from capecam.mosaic.aoi import AreaOfInterest, read_aoi
from capecam.mosaic.collar_cache import CollarCache
from capecam.mosaic.common_grid import GridRules
from capecam.mosaic.mosaic import Mosaic, build_mosaic
from capecam.runtime.progress import SILENT, Progress
from capecam.settings import ImagerySettings, MosaicSettings, Settings, TilingSettings, ValueRange


@dataclass(frozen=True, slots=True)
class City:
    """Input of a run."""

    mosaic: Mosaic
    interest: AreaOfInterest
    """Part of the mosaic that is processed."""
    failures: dict[str, str]
    """Reasons why images cannot be used, by image name."""
    excluded: frozenset[str] = frozenset()
    """Images that must not be sampled, since a process crashed on them."""

    def with_value_range(self, value_range: ValueRange | None) -> City:
        """Return the city with the values that become 0 and 255."""
        return replace(self, mosaic=replace(self.mosaic, value_range=value_range))


def city_of(
    settings: Settings,
    anchor: tuple[float, float] | None,
    *,
    apart: bool = True,
    progress: Progress = SILENT,
) -> City:
    """Open the city of a run's settings; see :func:`open_city`.

    With ``run.in_process``, headers are read in this process whatever ``apart`` says.
    """
    return open_city(
        settings.sources,
        anchor,
        settings.mosaic,
        settings.imagery,
        settings.target_gsd_m,
        apart=apart and not settings.run.in_process,
        cache_folder=settings.out,
        progress=progress,
    )


def open_city(
    sources: Sequence[str],
    anchor: tuple[float, float] | None,
    mosaic: MosaicSettings = MosaicSettings(),  # noqa: B008 it is frozen
    imagery: ImagerySettings = ImagerySettings(),  # noqa: B008
    gsd_m: float | None = None,
    *,
    apart: bool = False,
    cache_folder: Path | None = None,
    progress: Progress = SILENT,
) -> City:
    """Find the images, read their headers and place them on one grid.

    Args:
        sources: as the user names them.
        anchor: origin of the pixel grid, in CRS units; None: the mosaic's top-left corner.
        mosaic: rules for the common grid, and the area of interest.
        imagery: rules for reading files.
        gsd_m: ground resolution to which images are resampled, ``Settings.target_gsd_m``; None: as
            they are.
        apart: read headers in a child process, which a broken file may crash.
        cache_folder: folder in which checksums are cached, if it exists.
        progress: hears of each header.

    Raises:
        UsageError: no image can be used (names every reason), or the area of interest cannot.
    """
    discovered = find_images(sources, vrt=imagery.allow_vrt)
    rules = HeaderRules(imagery, discovered.folders, apart, mosaic.align)
    headers, failures = _read_headers(discovered, rules, progress)
    if imagery.checksums:
        paths = {name: header.path for name, header in headers.items()}
        failures |= check_images(paths, imagery.checksums, cache_folder)
    usable = {name: header for name, header in headers.items() if name not in failures}
    placed, misfits = build_mosaic(usable, anchor, GridRules(mosaic.align, gsd_m))
    failures |= misfits
    if placed is None:
        reasons = list(failures.values())
        separator = " " if len(reasons) == 1 else "\n  "
        raise UsageError(f"no image can be used:{separator}" + "\n  ".join(reasons))
    collars = CollarCache() if imagery.collar == "auto" else None
    placed = replace(placed, value_range=imagery.scale, collars=collars)
    return City(placed, read_aoi(mosaic, placed.grid), failures)


def _read_headers(
    discovered: DiscoveredImages, rules: HeaderRules, progress: Progress
) -> tuple[dict[str, Header], dict[str, str]]:
    """Return headers by image name, and the reasons why other images have none."""
    images = name_images(discovered.paths)
    refused = discovered.refused
    failures = {name: refused[path] for name, path in images.items() if path in refused}
    readable = {name: path for name, path in images.items() if path not in refused}
    headers: dict[str, Header] = {}
    progress.at("headers", 0, len(readable))
    answers = read_headers(list(readable.values()), rules, partial(progress.advance, 1))
    for name, answer in zip(readable, answers, strict=True):
        if isinstance(answer, ImageError):
            failures[name] = str(answer)
        else:
            headers[name] = answer
    return headers, failures


def find_cells(city: City, settings: TilingSettings) -> tuple[Cell, ...]:
    """Return the cells that have a tile in the area of interest."""
    tiling = settings.tiling
    cells = city.mosaic.cells(tiling, settings.cell_size)
    return tuple(cell for cell in cells if city.interest.count(tiling, cell.core))
