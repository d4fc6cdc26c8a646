"""Many images as one raster on one lattice of pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor
from typing import TypeVar

import shapely
from rasterio.crs import CRS
from rasterio.warp import transform_bounds

from capecam.grid import Cell, Grid, Tiling, Window, decimal
from capecam.raster.header import Header
from capecam.settings import Scale

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Source:
    """An image with its place on the lattice."""

    header: Header
    name: str
    """The file's stem, with six hex digits of the path's hash where two files share it."""
    window: Window
    shift_px: tuple[float, float]
    """How far (right, down) its own corner lies from the whole pixel that it was given."""
    warped: bool = False
    """Of another CRS or resolution, and reprojected as it is read."""

    @property
    def key(self) -> tuple[Window, str]:
        """By which sources are ordered, whatever order they were named in."""
        return self.window, self.name


@dataclass(frozen=True, slots=True)
class Mosaic:
    """All usable images as one raster on one lattice of pixels."""

    grid: Grid
    """Over the hull of all images."""
    sources: tuple[Source, ...]
    """Row-major; where two overlap, the first that is valid at a pixel counts."""
    scale: Scale | None = None
    """What makes 0..255 of values that are not uint8; percentiles until they are looked up."""
    _index: shapely.STRtree = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("a mosaic needs at least one source")
        boxes = [source.window.box for source in self.sources]
        object.__setattr__(self, "_index", shapely.STRtree(boxes))

    @property
    def scaled(self) -> tuple[Source, ...]:
        """The sources that need the scale."""
        return tuple(source for source in self.sources if source.header.pixels.scaled)

    def touching(self, window: Window) -> list[Source]:
        """The sources that have pixels in a window, row-major."""
        near = sorted(self._index.query(window.box).tolist())  # with those that only abut
        return [s for s in map(self.sources.__getitem__, near) if s.window.intersection(window)]

    def cells(self, tiling: Tiling, cell_size: int) -> tuple[Cell, ...]:
        """A cell an image; an image over ``cell_size`` in parts, cut at multiples of the step.

        Where images overlap, pixels belong to the cell of the first of them (row-major, then by
        name); an image that lies wholly under earlier ones has no cell.
        """
        cells: list[Cell] = []
        for source in self.sources:
            parts = list(tiling.parts(source.window, cell_size))
            for i, j, core in parts:
                part = f"_r{i}c{j}" if len(parts) > 1 else ""
                taken = tuple(self._taken(core, source))
                if not _cover(taken, core):
                    cells.append(Cell(source.name + part, source.name, core, taken))
        return tuple(cells)

    def _taken(self, core: Window, source: Source) -> Iterator[Window]:
        """The parts of a source's core that earlier sources cover."""
        for other in self.touching(core):
            part = other.window.intersection(core)
            if part is not None and other.key < source.key:
                yield part


def _cover(parts: Sequence[Window], core: Window) -> bool:
    return bool(shapely.union_all([part.box for part in parts]).covers(core.box))


def build_mosaic(
    headers: Sequence[tuple[str, Header]],
    anchor: tuple[float, float] | None,
    align: str = "snap",
) -> tuple[Mosaic, dict[str, str]]:
    """One grid for the largest group of named images, and why others do not fit.

    The grid has the phase (place of pixel corners) that most images of the group have. With
    ``snap``, others of the group go to the nearest whole pixel; with ``warp``, images of other
    groups are reprojected as well; with ``error``, neither.

    Args:
        headers: by name.
        anchor: in CRS units; goes to a pixel corner likewise; else the group's top-left corner.
        align: ``snap``, ``warp`` or ``error``.
    """
    groups = Counter(header.group for _, header in headers)
    best = min(groups, key=lambda group: (-groups[group], group))
    members = [(name, header) for name, header in headers if header.group == best]
    others = [(name, header) for name, header in headers if header.group != best]
    grid = _common_grid([header for _, header in members], anchor)
    placed = [_place(name, header, grid) for name, header in members]
    misfits = {}
    if align == "warp":
        placed += [_warped(name, header, grid) for name, header in others]
    else:
        misfits = {name: _other_grid(header, groups[best]) for name, header in others}
    if align == "error":
        misfits |= {s.name: _off_grid(s) for s in placed if any(s.shift_px)}
    sources = sorted((s for s in placed if s.name not in misfits), key=lambda source: source.key)
    hull = sources[0].window
    for source in sources[1:]:
        hull = hull.hull(source.window)
    return Mosaic(grid.crop(hull), tuple(sources)), misfits


def _other_grid(header: Header, count: int) -> str:
    return (
        f"{header.path}: its CRS or resolution is not that of the {count} images that make the "
        "mosaic; reproject it with gdalwarp to their grid, or use --align warp"
    )


def _off_grid(source: Source) -> str:
    right, down = source.shift_px
    return (
        f"{source.header.path}: lies {right:g}, {down:g} px (right, down) off the grid of the "
        "mosaic; use --align snap, or shift it with gdal_translate -a_ullr"
    )


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


def _warped(name: str, header: Header, grid: Grid) -> Source:
    """An image of another grid, with the whole pixels that it reaches."""
    (left, top), (dx, dy) = header.corner, header.pixel
    right, bottom = left + header.width * dx, top - header.height * dy
    bounds = transform_bounds(
        CRS.from_wkt(header.crs), CRS.from_wkt(grid.crs), left, bottom, right, top
    )
    west, south, east, north = bounds
    (col, row), (end_col, end_row) = grid.lattice(west, north), grid.lattice(east, south)
    window = Window.between(floor(row), floor(col), ceil(end_row), ceil(end_col))
    return Source(header, name, window, (0.0, 0.0), warped=True)
