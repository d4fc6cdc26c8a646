"""From what the user names to images with unique names, and from those to the mosaic."""

from __future__ import annotations

import glob
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from capecam.errors import ImageError, UsageError
from capecam.raster import Header, Mosaic, build_mosaic, read_header

SUFFIXES = (".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class City:
    """What there is to work on."""

    mosaic: Mosaic
    failures: dict[str, str]
    """By image name: why it cannot be used."""


def open_city(sources: Sequence[str], anchor: tuple[float, float] | None) -> City:
    """Find the images, read their headers and lay them on one grid.

    Raises:
        UsageError: there is no usable image; every reason is named.
    """
    images = name_images(find_images(sources))
    headers: list[tuple[str, Header]] = []
    failures: dict[str, str] = {}
    for name, path in images.items():
        try:
            headers.append((name, read_header(path)))
        except ImageError as error:
            failures[name] = str(error)
    if not headers:
        raise UsageError("no image can be used:\n  " + "\n  ".join(failures.values()))
    mosaic, misfits = build_mosaic(headers, anchor)
    return City(mosaic, failures | misfits)


def find_images(sources: Sequence[str]) -> list[Path]:
    """Files as they are named, GeoTIFFs of folders, matches of globs; each once, sorted.

    Raises:
        UsageError: a source does not exist, or holds no GeoTIFF.
    """
    if not sources:
        raise UsageError("no images were named; give files, folders or globs as SOURCES")
    found: set[Path] = set()
    for source in sources:
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


def name_images(paths: Sequence[Path]) -> dict[str, Path]:
    """The stem of each file, with six hex digits of its path's hash where two share one."""
    stems = Counter(path.stem for path in paths)
    return {
        path.stem if stems[path.stem] == 1 else f"{path.stem}_{_path_hash(path)}": path
        for path in paths
    }


def _path_hash(path: Path) -> str:
    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:6]
