"""Many images as one raster on one lattice of pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import reduce
from math import floor
from statistics import median_low
from typing import TypeVar

import shapely

from capecam.errors import ImageError
from capecam.grid import Cell, Grid, Tiling, Window, decimal
from capecam.imagery.crs import crs_key
from capecam.imagery.ground_resolution import pixel_of
from capecam.imagery.header import Header, same_size
from capecam.mosaic.collar_cache import CollarCache
from capecam.mosaic.warping import reach
from capecam.settings import ValueRange

T = TypeVar("T")

Named = Sequence[tuple[str, Header]]
"""Images by name."""

FAR_PX = 5_000_000
"""An image so far from the middle of the mosaic (400 km at 8 cm) is misplaced; the city's layers
are rasters over the hull of all images, and would not be written to an end."""


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
    """Of another CRS or resolution, or not north-up: it is resampled as it is read."""

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
    collars: CollarCache | None = field(default=None, repr=False, compare=False)
    """Where black or white borders are no imagery, although the files do not say so."""
    scale: ValueRange | None = None
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

    def images_read(self, cell: Cell, tiling: Tiling) -> list[Source]:
        """Return the sources that the tiles of a cell read, row-major."""
        return self.touching(tiling.reach(cell.core))

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


@dataclass(frozen=True, slots=True)
class GridRules:
    """How images come onto one grid."""

    align: str = "snap"
    """``snap``, ``warp`` or ``error``: what becomes of those that do not fit."""
    gsd_m: float | None = None
    """Edge of the grid's pixels on the ground, to which all images are resampled; None: the
    resolution that most images have."""


def build_mosaic(
    headers: Named, anchor: tuple[float, float] | None, rules: GridRules
) -> tuple[Mosaic | None, dict[str, str]]:
    """One grid for the largest group of named images, and why others do not fit.

    The grid has the phase (place of pixel corners) that most images of the group have. With
    ``snap``, others of the group go to the nearest whole pixel; with ``warp``, images of other
    groups and those that are not north-up are straightened as well; with ``error``, none of these.
    An image that is not north-up has a say only where there is no other.

    Args:
        headers: by name.
        anchor: in CRS units; goes to a pixel corner likewise; else the group's top-left corner.
        rules: how.

    Returns:
        None where no image fits.
    """
    straight = [header for _, header in headers if header.orientation == "north-up"]
    if not headers or not (straight or rules.align == "warp"):
        return None, {name: _turned(header) for name, header in headers}
    group = _largest_group(straight or [header for _, header in headers], rules)
    grid = _common_grid(group, anchor, rules)
    placed, misfits = [], {}
    for name, header in headers:
        try:
            placed.append(_laid(name, header, grid, rules, len(group)))
        except ImageError as error:
            misfits[name] = str(error)
    near, far = _together(placed)
    misfits |= far
    if not near:
        return None, misfits
    hull = reduce(Window.hull, (source.window for source in near))
    return Mosaic(grid.crop(hull), tuple(sorted(near, key=lambda s: s.key))), misfits


def _largest_group(headers: Sequence[Header], rules: GridRules) -> list[Header]:
    """The images that can share a grid; those of one CRS can where all are resampled."""
    keys = [h.group if rules.gsd_m is None else (crs_key(h.crs),) for h in headers]
    counts = Counter(keys)
    best = min(counts, key=lambda key: (-counts[key], key))
    return [header for header, key in zip(headers, keys, strict=True) if key == best]


def _laid(name: str, header: Header, grid: Grid, rules: GridRules, count: int) -> Source:
    """An image on the grid.

    Raises:
        ImageError: it does not fit, and is not to be made to.
    """
    same_crs = crs_key(header.crs) == crs_key(grid.crs)
    straight = header.orientation == "north-up"
    if not straight and rules.align != "warp":
        raise ImageError(_turned(header))
    if straight and same_crs and same_size(header.pixel, grid.pixel):
        source = _place(name, header, grid)
        if rules.align == "error" and any(source.shift_px):
            raise ImageError(_off_grid(source))
        return source
    if rules.align != "warp" and not (same_crs and rules.gsd_m):
        raise ImageError(_other_grid(header, count))
    return Source(header, name, reach(header, grid), (0.0, 0.0), warped=True)


def _together(placed: Sequence[Source]) -> tuple[list[Source], dict[str, str]]:
    """Those that can be one raster, and why others cannot."""
    if not placed:
        return [], {}
    own = [source.window for source in placed if not source.warped]
    own = own or [source.window for source in placed]
    row, col = median_low(w.row for w in own), median_low(w.col for w in own)
    near, far = [], {}
    for source in placed:
        w = source.window
        away = max(row - w.row, w.bottom - row, col - w.col, w.right - col)
        if away <= FAR_PX:
            near.append(source)
        else:
            far[source.name] = (
                f"{source.header.path}: reaches {away} px from the middle of the mosaic, over "
                f"{FAR_PX}; place it right, or run it by itself"
            )
    return near, far


def _turned(header: Header) -> str:
    is_what = {
        "gcps": "is placed by ground control points alone",
        "rotated": "is rotated or sheared",
        "mirrored": "is mirrored",
    }.get(header.orientation, "is south-up (its first row is the southernmost)")
    return (
        f"{header.path}: {is_what}, so not north-up; straighten it with --align warp, "
        "or with gdalwarp"
    )


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


def _common_grid(
    headers: Sequence[Header], anchor: tuple[float, float] | None, rules: GridRules
) -> Grid:
    """The lattice of a group, whatever the order of its members."""
    crs = _most_common(header.crs for header in headers)
    x, y = anchor or (
        min(header.corner[0] for header in headers),
        max(header.corner[1] for header in headers),
    )
    pixel = _most_common(header.pixel for header in headers)
    if rules.gsd_m is not None:
        pixel = pixel_of(rules.gsd_m, crs, _middle(headers))
    on_it = [header.corner for header in headers if same_size(header.pixel, pixel)] or [(x, y)]
    corner = (
        _on_phase(x, [corner[0] for corner in on_it], pixel[0]),
        _on_phase(y, [corner[1] for corner in on_it], pixel[1]),
    )
    return Grid(crs, corner, pixel, Window(0, 0, 1, 1))


def _middle(headers: Sequence[Header]) -> tuple[float, float]:
    left, bottom = (min(header.bounds[k] for header in headers) for k in (0, 1))
    right, top = (max(header.bounds[k] for header in headers) for k in (2, 3))
    return (left + right) / 2, (bottom + top) / 2


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
    col, row = grid.to_lattice_exact(*header.corner)
    # Halves always go the same way, so that neighbours with the same shift keep abutting.
    left, top = floor(col + Fraction(1, 2)), floor(row + Fraction(1, 2))
    shift = round(float(col - left), 6), round(float(row - top), 6)
    return Source(header, name, Window(top, left, header.height, header.width), shift)
