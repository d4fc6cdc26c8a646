"""The pixel grid that most images have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import NamedTuple, TypeVar

from capecam.grid import Grid, Window, decimal
from capecam.imagery.crs import crs_key, pixel_of
from capecam.imagery.datum import Frame, grid_key
from capecam.imagery.header import Header, same_size, size_digits

T = TypeVar("T", bound=Hashable)


@dataclass(frozen=True, slots=True)
class GridRules:
    """Rules for placing images on one grid."""

    align: str = "snap"
    """``snap``, ``warp`` or ``error``: treatment of images that are not on the grid."""
    gsd_m: float | None = None
    """Edge of the grid's pixels on the ground, to which all images are resampled; None: the
    resolution of most images."""


class _Kind(NamedTuple):
    """Coordinate system and resolution of an image."""

    size: tuple[str, ...]
    """Digits of the pixel size; none if all images are resampled."""
    frame: Frame

    @property
    def family(self) -> tuple[str, tuple[str, ...]]:
        """Everything but the datum and the epoch."""
        return grid_key(self.frame.crs), self.size

    def holds(self, other: _Kind) -> bool:
        """Return whether images of both kinds can share a grid."""
        return self.size == other.size and self.frame.agrees(other.frame)


def largest_group(headers: Sequence[Header], rules: GridRules) -> list[Header]:
    """Return the largest group that can share a grid; one CRS suffices if all are resampled.

    Images that do not say their datum or epoch belong to the largest group that does.
    """
    kinds = [_Kind(size_digits(h.pixel) if rules.gsd_m is None else (), h.frame) for h in headers]
    counts = Counter(kinds)
    best: dict[object, tuple[int, bool]] = {}
    for kind in counts:
        best[kind.family] = min(best.get(kind.family, kind.frame.rank), kind.frame.rank)

    def key(kind: _Kind) -> tuple[int, str, _Kind]:
        return -sum(counts[k] for k in counts if kind.holds(k)), crs_key(kind.frame.crs), kind

    candidates = [kind for kind in counts if kind.frame.rank == best[kind.family]]
    largest = min(candidates, key=key)
    return [header for header, kind in zip(headers, kinds, strict=True) if largest.holds(kind)]


def frame_of(group: Sequence[Header]) -> Frame:
    """Return the coordinate system of a group: the most common of those that say most."""
    frames = [header.frame for header in group]
    best = min(frame.rank for frame in frames)
    return _most_common(frame for frame in frames if frame.rank == best)


def common_grid(
    headers: Sequence[Header], anchor: tuple[float, float] | None, rules: GridRules
) -> Grid:
    """Return the grid of a group, whatever the order of its members."""
    crs = frame_of(headers).crs
    lefts, bottoms, rights, tops = zip(*(header.bounds for header in headers), strict=True)
    left, bottom, right, top = min(lefts), min(bottoms), max(rights), max(tops)
    x, y = anchor or (left, top)
    pixel = _most_common(header.pixel for header in headers)
    if rules.gsd_m is not None:
        pixel = pixel_of(rules.gsd_m, crs, ((left + right) / 2, (bottom + top) / 2))
    corners = [header.placement.corner for header in headers if same_size(header.pixel, pixel)]
    xs, ys = zip(*(corners or [(x, y)]), strict=True)
    origin = _align_phase(x, xs, pixel[0]), _align_phase(y, ys, pixel[1])
    return Grid(crs, origin, pixel, Window(0, 0, 1, 1))


def _most_common(values: Iterable[T]) -> T:
    """Return the most common value; the smallest of equally common ones."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))


def _align_phase(point: float, corners: Sequence[float], size: float) -> float:
    """Return the coordinate nearest to ``point`` that is whole pixels away from most corners."""

    def offset(corner: float) -> Fraction:
        exact = (decimal(corner) - decimal(point)) / decimal(size)
        return exact - floor(exact + Fraction(1, 2))

    common = _most_common(round(float(offset(corner)), 3) for corner in corners)
    if common == 0:
        return point
    member = min(c for c in corners if round(float(offset(c)), 3) == common)
    return float(decimal(point) + offset(member) * decimal(size))
