"""Many images as one raster on one lattice of pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from capecam.errors import ImageError
from capecam.grid import Cell, Grid, Tiling, Window, decimal
from capecam.raster.header import BANDS, Header, open_readonly

T = TypeVar("T")

OPEN_FILES = 8
"""Handles that a reader keeps; a block of windows touches at most four images of a city."""


@dataclass(frozen=True, slots=True)
class Source:
    """An image with its place on the lattice."""

    header: Header
    name: str
    """The file's stem, with six hex digits of the path's hash where two files share it."""
    window: Window
    shift_px: tuple[float, float]
    """How far (right, down) its own corner lies from the whole pixel that it was given."""


@dataclass(frozen=True, slots=True)
class Mosaic:
    """All usable images as one raster on one lattice of pixels."""

    grid: Grid
    """Over the hull of all images."""
    sources: tuple[Source, ...]
    """Row-major; where two overlap, the first that is valid at a pixel counts."""

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("a mosaic needs at least one source")

    def touching(self, window: Window) -> list[Source]:
        """The sources that have pixels in a window."""
        return [s for s in self.sources if s.window.intersection(window)]

    def cells(self, tiling: Tiling, cell_size: int) -> tuple[Cell, ...]:
        """A cell an image; an image over ``cell_size`` in parts, cut at multiples of the step."""
        cells: list[Cell] = []
        for source in self.sources:
            parts = list(tiling.parts(source.window, cell_size))
            for i, j, core in parts:
                part = f"_r{i}c{j}" if len(parts) > 1 else ""
                cells.append(Cell(source.name + part, source.name, core))
        return tuple(cells)


def build_mosaic(
    headers: Sequence[tuple[str, Header]], anchor: tuple[float, float] | None
) -> tuple[Mosaic, dict[str, str]]:
    """One grid for the largest group of named images, and why the others do not fit.

    The grid has the phase (place of pixel corners) that most images of the group have; others of
    the group go to the nearest whole pixel. ``anchor`` (CRS units) likewise; by default the
    group's top-left corner.
    """
    groups = Counter(header.group for _, header in headers)
    best = min(groups, key=lambda group: (-groups[group], group))
    members = [(name, header) for name, header in headers if header.group == best]
    misfits = {
        name: f"{header.path}: its CRS or resolution is not that of the {groups[best]} images "
        f"that make the mosaic; reproject it with gdalwarp to their grid"
        for name, header in headers
        if header.group != best
    }
    grid = _common_grid([header for _, header in members], anchor)
    sources = sorted(
        (_place(name, header, grid) for name, header in members), key=lambda s: (s.window, s.name)
    )
    hull = sources[0].window
    for source in sources[1:]:
        hull = hull.hull(source.window)
    return Mosaic(grid.crop(hull), tuple(sources)), misfits


def _common_grid(headers: Sequence[Header], anchor: tuple[float, float] | None) -> Grid:
    """The lattice of a group, whatever the order of its members."""
    crs = _most_common(header.crs for header in headers)
    pixel = _most_common(header.pixel for header in headers)
    x, y = anchor or (
        min(header.corner[0] for header in headers),
        max(header.corner[1] for header in headers),
    )
    return Grid(
        crs,
        (
            _on_phase(x, [header.corner[0] for header in headers], pixel[0]),
            _on_phase(y, [header.corner[1] for header in headers], pixel[1]),
        ),
        pixel,
        Window(0, 0, 1, 1),
    )


def _most_common(values: Iterable[T]) -> T:
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))


def _on_phase(point: float, corners: Sequence[float], size: float) -> float:
    """The coordinate nearest to ``point`` that is whole pixels away from most corners."""

    def offset(corner: float) -> Fraction:
        exact = (decimal(corner) - decimal(point)) / decimal(size)
        return exact - floor(exact + Fraction(1, 2))

    common = _most_common(round(float(offset(corner)), 3) for corner in corners)
    if common == 0:
        return point
    member = min(c for c in corners if round(float(offset(c)), 3) == common)
    return float(decimal(point) + offset(member) * decimal(size))


def _place(name: str, header: Header, grid: Grid) -> Source:
    col, row = grid.lattice(*header.corner)
    # Halves always go the same way, so that neighbours with the same shift keep abutting.
    left, top = floor(col + Fraction(1, 2)), floor(row + Fraction(1, 2))
    shift = round(float(col - left), 6), round(float(row - top), 6)
    return Source(header, name, Window(top, left, header.height, header.width), shift)


@dataclass(slots=True)
class Reader:
    """Reads windows of a mosaic. One per thread: GDAL handles must not be shared."""

    mosaic: Mosaic
    _open: dict[Path, Any] = field(default_factory=dict)

    def read(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Pixels (3, height, width), 0 where invalid, and validity (height, width).

        Raises:
            ImageError: naming the file that cannot be decoded.
        """
        pixels = np.zeros((len(BANDS), *window.shape), np.uint8)
        valid = np.zeros(window.shape, np.bool_)
        for source in self.mosaic.touching(window):
            part = source.window.intersection(window)
            if part is not None:
                self._paste(source, part, pixels, valid, part.slices(window))
        return pixels, valid

    def _paste(
        self,
        source: Source,
        part: Window,
        pixels: NDArray[np.uint8],
        valid: NDArray[np.bool_],
        place: tuple[slice, slice],
    ) -> None:
        rows, cols = part.slices(source.window)
        inside = RasterWindow.from_slices(rows, cols)
        try:
            dataset = self._dataset(source.header.path)
            found = dataset.read(BANDS, window=inside)
            usable = _valid(dataset, inside, found)
        except RasterioError as error:
            message = " ".join(str(error.__cause__ or error).split())
            raise ImageError(
                f"{source.header.path}: cannot be decoded at rows {rows.start}-{rows.stop}, "
                f"columns {cols.start}-{cols.stop} ({message}); deliver it again"
            ) from error
        fresh = usable & ~valid[place]
        pixels[:, *place] = np.where(fresh, found, pixels[:, *place])
        valid[place] |= usable

    def _dataset(self, path: Path) -> Any:
        if path not in self._open:
            while len(self._open) >= OPEN_FILES:
                self._open.pop(next(iter(self._open))).close()
            self._open[path] = open_readonly(path)
        return self._open[path]

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _valid(dataset: Any, window: RasterWindow, found: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """False where mask or alpha is 0, or all of the bands that are read equal nodata."""
    flags = dataset.mask_flag_enums[0]
    if MaskFlags.all_valid in flags:
        return np.ones(found.shape[1:], np.bool_)
    if MaskFlags.nodata in flags:
        nodata = np.array([dataset.nodatavals[band - 1] for band in BANDS])[:, None, None]
        return np.asarray((found != nodata).any(axis=0))
    return np.asarray(dataset.read_masks(1, window=window) > 0)
