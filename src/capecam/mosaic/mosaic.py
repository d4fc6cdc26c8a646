"""Place many images on one pixel grid, as one raster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import reduce
from math import floor
from statistics import median_low

import shapely

from capecam.errors import ImageError
from capecam.grid import Cell, Grid, Tiling, Window
from capecam.imagery.datum import Frame, datum_of, grid_key, same_crs
from capecam.imagery.datum_shift import datum_shift
from capecam.imagery.georeferencing import not_north_up
from capecam.imagery.header import Header, same_size
from capecam.mosaic.collar_cache import CollarCache
from capecam.mosaic.common_grid import GridRules, common_grid, frame_of, largest_group
from capecam.mosaic.turning import Turn, turn_of
from capecam.mosaic.warping import window_on_grid
from capecam.settings import ValueRange

MAX_DISTANCE_PX = 5_000_000
"""Distance of an image from the middle of the mosaic (400 km at 8 cm) from which it is taken to be
misplaced: the city's layers, rasters over the hull of all images, would take for ever to write."""


@dataclass(frozen=True, slots=True)
class Source:
    """An image on the pixel grid."""

    header: Header
    name: str
    """The file's stem, with six hex digits of the path's hash if two files share it."""
    window: Window
    shift_px: tuple[float, float]
    """Distance (right, down) from the whole pixel that it was assigned to its own corner."""
    warped: bool = False
    """It is of another CRS or resolution, or not north-up, and resampled when it is read."""
    turn: Turn | None = None
    """Its pixels are those of the grid in another order, so that it is turned instead."""

    @property
    def key(self) -> tuple[Window, str]:
        """Sort key, independent of the order in which sources were named."""
        return self.window, self.name


@dataclass(frozen=True, slots=True)
class Mosaic:
    """All usable images as one raster on one pixel grid."""

    grid: Grid
    """Grid over the hull of all images."""
    sources: tuple[Source, ...]
    """Row-major; where two overlap, the first that is valid at a pixel counts."""
    collars: CollarCache | None = field(default=None, repr=False, compare=False)
    """Black or white borders that are not imagery; None if they are not searched for."""
    value_range: ValueRange | None = None
    """Values that become 0 and 255 if they are not uint8; percentiles until they are computed."""
    _index: shapely.STRtree = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("a mosaic needs at least one source")
        boxes = [source.window.box for source in self.sources]
        object.__setattr__(self, "_index", shapely.STRtree(boxes))

    @property
    def scaled(self) -> tuple[Source, ...]:
        """Sources whose values have to be scaled to 0..255."""
        return tuple(source for source in self.sources if source.header.pixels.scaled)

    def source(self, name: str) -> Source:
        """Return the source of this name."""
        return next(source for source in self.sources if source.name == name)

    def touching(self, window: Window) -> list[Source]:
        """Return the sources that have pixels in a window, row-major."""
        near = sorted(self._index.query(window.box).tolist())  # includes those that only abut
        return [s for s in map(self.sources.__getitem__, near) if s.window.intersection(window)]

    def images_read(self, cell: Cell, tiling: Tiling) -> list[Source]:
        """Return the sources that the tiles of a cell read, row-major."""
        return self.touching(tiling.window_read(cell.core))

    def cells(self, tiling: Tiling, cell_size: int) -> tuple[Cell, ...]:
        """Return a cell per image, and parts cut at multiples of the step over ``cell_size``.

        Where images overlap, pixels belong to the cell of the first of them (row-major, then by
        name); an image that is wholly under earlier ones has no cell.
        """
        cells: list[Cell] = []
        for source in self.sources:
            parts = list(tiling.parts(source.window, cell_size))
            for i, j, core in parts:
                suffix = f"_r{i}c{j}" if len(parts) > 1 else ""
                taken = tuple(self._taken(core, source))
                if not _cover(taken, core):
                    cells.append(Cell(source.name + suffix, source.name, core, taken))
        return tuple(cells)

    def is_covered(self, source: Source) -> bool:
        """Return True for a source that is wholly under earlier ones, and has no cell."""
        return _cover(tuple(self._taken(source.window, source)), source.window)

    def _taken(self, core: Window, source: Source) -> Iterator[Window]:
        """Yield the parts of a source's core that earlier sources cover."""
        for other in self.touching(core):
            part = other.window.intersection(core)
            if part is not None and other.key < source.key:
                yield part


def _cover(parts: Sequence[Window], core: Window) -> bool:
    return bool(shapely.union_all([part.box for part in parts]).covers(core.box))


def build_mosaic(
    headers: Mapping[str, Header], anchor: tuple[float, float] | None, rules: GridRules
) -> tuple[Mosaic | None, dict[str, str]]:
    """Place named images on the grid of the largest group of them.

    The grid has the phase (positions of pixel corners) of most images in the group. With ``snap``,
    others of the group go to the nearest whole pixel; with ``warp``, images of other groups and
    those that are not north-up are resampled as well; with ``error``, none of these. Images that
    are not north-up determine the grid only if there are no others.

    Args:
        headers: by name of the image.
        anchor: origin in CRS units, moved to the nearest pixel corner; None: the group's top-left
            corner.
        rules: for images that do not fit.

    Returns:
        The mosaic, None if no image fits, and the reasons why images do not fit, by name.
    """
    north_up = [h for h in headers.values() if h.placement.orientation == "north-up"]
    if not headers or not (north_up or rules.align == "warp"):
        return None, {
            name: not_north_up(header.path, header.placement) for name, header in headers.items()
        }
    group = largest_group(north_up or list(headers.values()), rules)
    grid, frame = common_grid(group, anchor, rules), frame_of(group)
    sources, misfits = [], {}
    for name, header in headers.items():
        try:
            _check_frame(header, frame, rules, len(group))
            sources.append(_place(name, header, grid, rules, len(group)))
        except ImageError as error:
            misfits[name] = str(error)
    sources, distant = _drop_distant(sources)
    misfits |= distant
    if not sources:
        return None, misfits
    hull = reduce(Window.hull, (source.window for source in sources))
    return Mosaic(grid.crop(hull), tuple(sorted(sources, key=lambda s: s.key))), misfits


def _check_frame(header: Header, frame: Frame, rules: GridRules, count: int) -> None:
    """Check that the numbers of an image are on the datum and at the epoch of the mosaic.

    Raises:
        ImageError: they are not, and nothing is to be done about it here.
    """
    if None not in (header.frame.epoch, frame.epoch) and header.frame.epoch != frame.epoch:
        raise ImageError(
            f"{header.path}: its coordinates are those of {header.frame.epoch:g}, and of "
            f"{frame.epoch:g} in the {count} images that make the mosaic: the ground has moved; "
            "bring it to that year with gdalwarp -s_coord_epoch -t_coord_epoch, or run it by itself"
        )
    is_other = grid_key(header.crs) == grid_key(frame.crs) and not same_crs(header.crs, frame.crs)
    if is_other and rules.align != "warp":
        own, common = (datum_of(crs).name for crs in (header.crs, frame.crs))
        shift = datum_shift(header.placement, frame.crs)
        raise ImageError(
            f"{header.path}: its datum is {own}, that of the {count} images that make the mosaic "
            f"is {common}: {shift.apart}; reproject it with gdalwarp to their CRS, or use "
            "--align warp"
        )


def _place(name: str, header: Header, grid: Grid, rules: GridRules, count: int) -> Source:
    """Return an image as a source on the grid, whose group has ``count`` images.

    Raises:
        ImageError: the rules do not allow it.
    """
    placement, on_crs = header.placement, same_crs(header.crs, grid.crs)
    north_up = placement.orientation == "north-up"
    if not north_up and rules.align != "warp":
        raise ImageError(not_north_up(header.path, header.placement))
    if north_up and on_crs and same_size(header.pixel, grid.pixel):
        col, row = grid.to_lattice_exact(*placement.corner)
        # Halves always go the same way, so that neighbours with the same shift keep abutting.
        left, top = floor(col + Fraction(1, 2)), floor(row + Fraction(1, 2))
        right, down = shift = round(float(col - left), 6), round(float(row - top), 6)
        if rules.align == "error" and any(shift):
            raise ImageError(
                f"{header.path}: is {right:g}, {down:g} px (right, down) off the grid of the "
                "mosaic; use --align snap, or shift it with gdal_translate -a_ullr"
            )
        return Source(header, name, Window(top, left, placement.height, placement.width), shift)
    if rules.align != "warp" and not (on_crs and rules.gsd_m):
        raise ImageError(
            f"{header.path}: its CRS or resolution is not that of the {count} images that make the "
            "mosaic; reproject it with gdalwarp to their grid, or use --align warp"
        )
    if turned := turn_of(header, grid):
        turn, window = turned
        return Source(header, name, window, (0.0, 0.0), warped=True, turn=turn)
    return Source(header, name, window_on_grid(header, grid), (0.0, 0.0), warped=True)


def _drop_distant(sources: Sequence[Source]) -> tuple[list[Source], dict[str, str]]:
    """Return the sources near the middle of the mosaic, and messages on the others."""
    own = [source.window for source in sources if not source.warped]
    own = own or [source.window for source in sources]
    if not own:
        return [], {}
    row, col = median_low(w.row for w in own), median_low(w.col for w in own)
    near, distant = [], {}
    for source in sources:
        w = source.window
        distance = max(row - w.row, w.bottom - row, col - w.col, w.right - col)
        if distance <= MAX_DISTANCE_PX:
            near.append(source)
        else:
            distant[source.name] = (
                f"{source.header.path}: reaches {distance} px from the middle of the mosaic, over "
                f"{MAX_DISTANCE_PX}; correct its georeference, or run it by itself"
            )
    return near, distant
