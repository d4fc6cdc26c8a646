"""From what the user names to images with unique names, and from those to the mosaic."""

from __future__ import annotations

import glob
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from capecam.errors import ImageError, UsageError
from capecam.grid import Cell
from capecam.interest import Interest, read_interest
from capecam.raster import Header, Mosaic, Rules, build_mosaic, read_headers
from capecam.settings import ImagerySettings, MosaicSettings, TilingSettings

SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class City:
    """What there is to work on."""

    mosaic: Mosaic
    interest: Interest
    """The part of it that is worked on."""
    failures: dict[str, str]
    """By image name: why it cannot be used."""


def open_city(
    sources: Sequence[str],
    anchor: tuple[float, float] | None,
    mosaic: MosaicSettings = MosaicSettings(),  # noqa: B008 it is frozen
    imagery: ImagerySettings = ImagerySettings(),  # noqa: B008
    gsd_m: float | None = None,
) -> City:
    """Find the images, read their headers and lay them on one grid.

    Args:
        sources: as the user names them.
        anchor: of the lattice, in CRS units; None: the mosaic's corner.
        mosaic: how images become one grid, and which part of it is worked on.
        imagery: how files become pixels.
        gsd_m: to which images are resampled, ``Settings.target_gsd_m``; None: as they are.

    Raises:
        UsageError: there is no usable image, and every reason is named; or what limits the work
            cannot be used.
    """
    images = name_images(find_images(sources))
    headers, failures = _read_headers(images, imagery)
    city, misfits = build_mosaic(headers, anchor, Rules(mosaic.align, gsd_m))
    failures |= misfits
    if city is None:
        raise UsageError("no image can be used:\n  " + "\n  ".join(failures.values()))
    city = replace(city, scale=imagery.scale)
    return City(city, read_interest(mosaic, city.grid), failures)


def _read_headers(
    images: Mapping[str, Path], settings: ImagerySettings
) -> tuple[list[tuple[str, Header]], dict[str, str]]:
    """Headers of named images, and why others have none."""
    found = list(zip(images, read_headers(list(images.values()), settings), strict=True))
    headers = [(name, header) for name, header in found if isinstance(header, Header)]
    return headers, {name: str(error) for name, error in found if isinstance(error, ImageError)}


def find_cells(city: City, settings: TilingSettings) -> tuple[Cell, ...]:
    """The cells with a window of interest."""
    tiling = settings.tiling
    cells = city.mosaic.cells(tiling, settings.cell_size)
    return tuple(cell for cell in cells if city.interest.count(tiling, cell.core))


def find_images(sources: Sequence[str]) -> list[Path]:
    """Files as they are named, GeoTIFFs of folders, matches of globs, and the lines of lists
    (``@list.txt``; relative to the list, ``#`` begins a comment); each once, sorted.

    Raises:
        UsageError: a source does not exist, or holds no GeoTIFF.
    """
    if not sources:
        raise UsageError("no images were named; give files, folders, globs or @list.txt as SOURCES")
    found: set[Path] = set()
    for source in chain.from_iterable(map(_listed, sources)):
        matches = list(_expand(source))
        if not matches:
            raise UsageError(f"{source}: there is no such file, or no GeoTIFF in it")
        found.update(matches)
    return sorted(found)


def _expand(source: str) -> Iterator[Path]:
    path = Path(source)
    if path.is_dir():
        yield from (p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    elif path.exists():
        yield path
    else:
        yield from (Path(match) for match in glob.glob(source, recursive=True))


def _listed(source: str) -> list[str]:
    """The lines of a list; anything else is itself."""
    if not source.startswith("@"):
        return [source]
    path = Path(source[1:])
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{source}: the list of images cannot be read ({error})") from error
    entries = [line.strip() for line in lines]
    return [str(path.parent / entry) for entry in entries if entry and not entry.startswith("#")]


def name_images(paths: Sequence[Path]) -> dict[str, Path]:
    """The stem of each file, with six hex digits of its path's hash where two share one."""
    stems = Counter(path.stem for path in paths)
    return {
        path.stem if stems[path.stem] == 1 else f"{path.stem}_{_path_hash(path)}": path
        for path in paths
    }


def _path_hash(path: Path) -> str:
    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:6]
