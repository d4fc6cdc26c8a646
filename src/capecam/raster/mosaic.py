"""Many images as one raster on one lattice of pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor
from typing import Any, Self, TypeVar

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window as RasterWindow

from capecam.errors import ImageError
from capecam.grid import Cell, Grid, Tiling, Window, decimal
from capecam.raster.header import BANDS, Header, open_readonly

T = TypeVar("T")

WARP_TOLERANCE = 1e-6
"""Pixels by which a place may be off: a rougher approximation depends on what is read at once."""

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
    _index: shapely.STRtree = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("a mosaic needs at least one source")
        boxes = [source.window.box for source in self.sources]
        object.__setattr__(self, "_index", shapely.STRtree(boxes))

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


@dataclass(slots=True)
class Reader:
    """Reads windows of a mosaic. One per thread: GDAL handles must not be shared."""

    mosaic: Mosaic
    needed: str | None = None
    """The image without which there is no point in going on; None: every image is."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Other images of which some blocks cannot be decoded, by name, and why; those are nodata."""
    _open: dict[str, list[Any]] = field(default_factory=dict)

    def read(self, window: Window) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Pixels (3, height, width), 0 where invalid, and validity (height, width).

        Raises:
            ImageError: naming the file that is needed and cannot be decoded.
        """
        pixels = np.zeros((len(BANDS), *window.shape), np.uint8)
        valid = np.zeros(window.shape, np.bool_)
        for source in self.mosaic.touching(window):
            part = source.window.intersection(window)
            if part is None:
                continue
            try:
                self._paste(source, part, pixels, valid, part.slices(window))
            except ImageError as error:
                if self.needed in (None, source.name):
                    raise
                self.unreadable.setdefault(source.name, str(error))
                self._paste_blocks(source, part, pixels, valid, window)
        return pixels, valid

    def _paste_blocks(
        self,
        source: Source,
        part: Window,
        pixels: NDArray[np.uint8],
        valid: NDArray[np.bool_],
        window: Window,
    ) -> None:
        """What can be decoded of a damaged image, a block of its file at a time."""
        with suppress(RasterioError):
            for block in _blocks(self._dataset(source), source.window, part):
                with suppress(ImageError):
                    self._paste(source, block, pixels, valid, block.slices(window))

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
            dataset = self._dataset(source)
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

    def _dataset(self, source: Source) -> Any:
        """The file, as a dataset on the mosaic's grid."""
        if source.name not in self._open:
            while len(self._open) >= OPEN_FILES:
                self._close(next(iter(self._open)))
            self._open[source.name] = self._opened(source)
        return self._open[source.name][-1]

    def _opened(self, source: Source) -> list[Any]:
        """What has to be closed, the dataset to read from last."""
        file = open_readonly(source.header.path)
        return [file, self._reprojected(file, source)] if source.warped else [file]

    def _reprojected(self, dataset: Any, source: Source) -> WarpedVRT:
        place = self.mosaic.grid.crop(source.window)
        has_alpha = MaskFlags.alpha in dataset.mask_flag_enums[0]
        return WarpedVRT(
            dataset,
            crs=CRS.from_wkt(place.crs),
            transform=place.transform,
            height=source.window.height,
            width=source.window.width,
            resampling=Resampling.bilinear,
            tolerance=WARP_TOLERANCE,
            add_alpha=not has_alpha,
        )

    def close(self) -> None:
        """Close all files."""
        while self._open:
            self._close(next(iter(self._open)))

    def _close(self, name: str) -> None:
        for dataset in reversed(self._open.pop(name)):
            dataset.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _blocks(dataset: Any, place: Window, part: Window) -> Iterator[Window]:
    """The blocks of a file that lies at ``place``, as far as they are in ``part``."""
    height, width = dataset.block_shapes[0]
    first_row, first_col = (part.row - place.row) // height, (part.col - place.col) // width
    for row in range(place.row + first_row * height, part.bottom, height):
        for col in range(place.col + first_col * width, part.right, width):
            block = Window(row, col, height, width).intersection(part)
            if block is not None:
                yield block


def _valid(dataset: Any, window: RasterWindow, found: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """False where mask or alpha is 0, or all of the bands that are read equal nodata."""
    flags = dataset.mask_flag_enums[0]
    if MaskFlags.all_valid in flags:
        return np.ones(found.shape[1:], np.bool_)
    if MaskFlags.nodata in flags:
        nodata = np.array([dataset.nodatavals[band - 1] for band in BANDS])[:, None, None]
        return np.asarray((found != nodata).any(axis=0))
    return np.asarray(dataset.read_masks(1, window=window) > 0)
