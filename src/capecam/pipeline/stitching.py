"""Blend the maps of tiles to seamless rows of rasters, as a stream.

Windows arrive row-major, so every row above the newest window is final. Memory is one row of tiles
of a cell, whatever its height, on the engine's device; only finished rows are downloaded, converted
to what is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from capecam.attribution.maps import Maps
from capecam.attribution.methods import decide, resample
from capecam.grid import Cell, Tiling, Window
from capecam.io.cog import LEVELS, NODATA
from capecam.pipeline.tiles import Batch
from capecam.settings import PIXEL_METHODS


@dataclass(frozen=True, slots=True)
class FinishedRows:
    """Finished rows of a cell's products, from top to bottom."""

    row: int
    """First pixel row on the pixel grid."""
    products: dict[str, Tensor]
    """Values by product, (bands, n, width) in the host's memory; CAMs have rows of blocks."""
    downloaded: torch.cuda.Event | None
    """Event after which a GPU has copied them there."""

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Wait for the download, and return the products."""
        if self.downloaded is not None:
            self.downloaded.synchronize()
        return {name: values.numpy() for name, values in self.products.items()}


class Strip:
    """Weighted sums over one row of a cell's tiles, in blocks of ``unit`` pixels.

    Args:
        tiling: the grid of tiles.
        cell: whose core is covered, except its parts that belong to other cells.
        unit: edge of a block in pixels; 1 for pixels.
        bands: of the values.
        weights: bands of the weights: the same number, or 1.
        device: of the maps.
    """

    def __init__(
        self,
        tiling: Tiling,
        cell: Cell,
        unit: int,
        *,
        bands: int,
        weights: int,
        device: torch.device,
    ) -> None:
        read = tiling.window_read(cell.core)
        self.unit = unit
        self._step, self._overlap = tiling.step // unit, tiling.overlap // unit
        self._core = cell.core.blocks(unit)
        self._taken = tuple(filter(None, (part.blocks(unit) for part in cell.taken)))
        self._left, self._top = read.col // unit, read.row // unit
        shape = (tiling.size // unit, read.width // unit)
        self._sums = torch.zeros((bands, *shape), device=device)
        self._weights = torch.zeros((weights, *shape), device=device)

    def add(self, window: Window, weighted: Tensor, weights: Tensor) -> None:
        """Add neighbouring tiles of a row of tiles, from left to right.

        Args:
            window: of the first tile.
            weighted: (n, bands, size, size) values times weights.
            weights: (n, weights, size, size).
        """
        if window.row != self._top * self.unit:
            raise ValueError(f"{window} is not in the strip's row; windows must come row-major")
        left = window.col // self.unit - self._left
        for strip, values in ((self._sums, weighted), (self._weights, weights)):
            self._add(strip, left, values)

    def _add(self, strip: Tensor, left: int, values: Tensor) -> None:
        """Add tiles at once, with the sums of adding one after the other.

        Beyond their overlap with the tile on the left, tiles do not overlap; nor do these overlaps.
        Where two tiles overlap, the left one is added first, so that sums do not depend on how
        tiles came in batches.
        """
        step, overlap = self._step, self._overlap
        if overlap > step:  # more than two tiles overlap
            for n, tile in enumerate(values):
                strip[:, :, left + n * step :][:, :, : tile.shape[2]].add_(tile)
            return
        side_by_side = values.permute(1, 2, 0, 3)
        for start, part in ((overlap, slice(overlap, None)), (0, slice(overlap))):
            columns = strip[:, :, left + start :][:, :, : len(values) * step]
            added = side_by_side[..., part]
            tiles = columns.view(*columns.shape[:2], len(values), step)
            tiles[..., : added.shape[3]].add_(added)

    def pop_rows(self, bottom: int) -> tuple[Tensor, Tensor] | None:
        """Remove the rows above pixel row ``bottom``, and return their means and where these are.

        Both have the strip's bands, the second one those of the weights; False marks pixels without
        imagery, and those of other cells. None if no row is in the core.
        """
        end = -(-bottom // self.unit)
        rows = Window.between(self._top, self._left, end, self._left + self._sums.shape[2])
        part, popped = None if self._core is None else rows.intersection(self._core), None
        if part is not None:
            for taken in filter(None, map(part.intersection, self._taken)):
                self._weights[:, *taken.slices(rows)] = 0
            sums, weights = (x[:, *part.slices(rows)] for x in (self._sums, self._weights))
            popped = sums / weights.clamp(min=1e-12), weights > 0
        _scroll(self._sums, rows.height)
        _scroll(self._weights, rows.height)
        self._top = end
        return popped


def _scroll(x: Tensor, n: int) -> None:
    """Drop the first n rows, append n rows of zeros."""
    kept = x[:, n:].clone()
    x[:, : kept.shape[1]] = kept
    x[:, kept.shape[1] :] = 0


@dataclass(frozen=True, slots=True)
class StitchPlan:
    """Maps of a run, and how they are stored."""

    tiling: Tiling
    methods: Sequence[str]
    """Heatmaps, as in ``Maps.heat``."""
    classes: int
    """Number of foreground classes."""
    calibration: Mapping[str, Sequence[float | None]] | None
    """Raw value that becomes 254, by method and class; None for an empty class. Without the mapping
    raw float32 heatmaps are stored."""
    detected: bool
    """True if tiles and classes can be unexplained."""
    sigmoid: bool = False
    """True if the only class is decided by a sigmoid."""
    floor: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    """Raw value up to which pixels are 0, in the same way, for methods that are stored by root."""


class Stitcher:
    """Blends a cell's batches of maps to rows of its products.

    Args:
        plan: of all cells of the run.
        cell: the pixels to cover.
        device: of the maps.
    """

    def __init__(self, plan: StitchPlan, cell: Cell, device: torch.device) -> None:
        self._plan, self._core, self._device = plan, cell.core, device
        tiling, classes = plan.tiling, plan.classes
        self._row = tiling.window_read(cell.core).row
        self._ramps = {unit: _outer(tiling.weights(unit), device) for unit in (1, tiling.stride)}
        self._one = torch.ones(classes, device=device)
        self._download = _Download(device)
        self._scale_max = _uploaded(plan.calibration or {}, device)
        self._floor = _uploaded(plan.floor, device)
        self.valid_px = torch.zeros((), dtype=torch.int64, device=device)
        """() number of pixels with imagery in finished rows."""
        strip = partial(Strip, tiling, cell, device=device)
        self._probability = strip(1, bands=classes + 1, weights=1)
        weights = classes if plan.detected else 1
        self._heat = {
            method: strip(unit_of(method, tiling), bands=classes, weights=weights)
            for method in plan.methods
        }

    def add(self, batch: Batch, maps: Maps) -> Iterator[FinishedRows]:
        """Blend a batch, and yield the rows that it completes."""
        valid = batch.valid.to(self._device)[:, None]
        by_unit = {unit: ramp * block_validity(valid, unit) for unit, ramp in self._ramps.items()}
        layers = [(self._probability, maps.probability, by_unit[1])]
        for method, strip in self._heat.items():
            weights = by_unit[strip.unit]
            if self._plan.detected:
                weights = weights * maps.explained[..., None, None]
            heat = resample(maps.heat[method], self._plan.tiling.size // strip.unit)
            layers.append((strip, heat, weights))
        weighted = [(strip, values * weights, weights) for strip, values, weights in layers]
        for tiles in neighbours(batch.windows, self._plan.tiling.step):
            first = batch.windows[tiles.start]
            yield from self._advance(first.row)
            for strip, values, weights in weighted:
                strip.add(first, values[tiles], weights[tiles])

    def finish(self) -> Iterator[FinishedRows]:
        """Yield the remaining rows, down to the end of the cell."""
        yield from self._advance(self._core.bottom)

    def _advance(self, until: int) -> Iterator[FinishedRows]:
        """Yield the rows above ``until``, one step of the tile grid at a time."""
        while self._row < until:
            bottom = min(self._row + self._plan.tiling.step, until)
            products = dict(self._finished(bottom))
            if products:
                yield FinishedRows(max(self._row, self._core.row), *self._download(products))
            self._row = bottom

    def _finished(self, bottom: int) -> Iterator[tuple[str, Tensor]]:
        if popped := self._probability.pop_rows(bottom):
            means, valid = popped
            self.valid_px += valid.sum()
            classes = decide(means, sigmoid=self._plan.sigmoid)[None].to(torch.uint8)
            yield "classes", torch.where(valid, classes, NODATA)
            yield "probability", torch.where(valid, to_levels(means[1:], self._one), NODATA)
        for method, strip in self._heat.items():
            if popped := strip.pop_rows(bottom):
                yield method, self._stored(method, *popped)

    def _stored(self, method: str, means: Tensor, valid: Tensor) -> Tensor:
        """Convert raw means to what is written: levels of the calibrated scale, or float32."""
        if self._plan.calibration is None:
            return torch.where(valid, means, torch.nan)
        levels = to_levels(means, self._scale_max[method], self._floor.get(method))
        return torch.where(valid, levels, NODATA)


def _uploaded(
    values: Mapping[str, Sequence[float | None]], device: torch.device
) -> dict[str, Tensor]:
    """Upload raw values, (C,) by method; infinity for an empty class."""
    return {
        method: torch.tensor([raw or torch.inf for raw in by_class], device=device)
        for method, by_class in values.items()
    }


def to_levels(values: Tensor, scale_max: Tensor, floor: Tensor | None = None) -> Tensor:
    """Convert (C, h, w) by (C,) to uint8 ``round(254 * min(value / scale_max, 1))``.

    With a floor, (C,), values up to it become 0, and the others
    ``round(254 * sqrt(min(value / scale_max, 1)))``.
    """
    shares = (values / scale_max[:, None, None]).clamp_(max=1)
    if floor is None:
        return shares.mul_(LEVELS).round_().to(torch.uint8)
    levels = shares.sqrt_().mul_(LEVELS).round_().to(torch.uint8)
    return levels.masked_fill_(values <= floor[:, None, None], 0)


def neighbours(windows: Sequence[Window], step: int) -> Iterator[slice]:
    """Yield the longest slices in which each window is the right neighbour of the one before."""
    start = 0
    for i, window in enumerate(windows):
        following = windows[i + 1] if i + 1 < len(windows) else None
        if following is None or (following.row, following.col) != (window.row, window.col + step):
            yield slice(start, i + 1)
            start = i + 1


class _Download:
    """Copies products to the host on a stream of its own, while the GPU continues to compute."""

    def __init__(self, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if on_gpu else None  # type: ignore[no-untyped-call]

    def __call__(
        self, products: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], torch.cuda.Event | None]:
        """Start to copy, and return the copies and the event after which they can be used."""
        if self._stream is None:
            return products, None
        computing = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(computing)
        host = {
            name: torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            for name, values in products.items()
        }
        with torch.cuda.stream(self._stream):
            for name, values in products.items():
                host[name].copy_(values, non_blocking=True)
                values.record_stream(self._stream)  # its memory is not reused before
        return host, self._stream.record_event()


def unit_of(method: str, tiling: Tiling) -> int:
    """Return the edge in pixels of the blocks that a heatmap is stored in; 1 for pixels."""
    return 1 if method in PIXEL_METHODS else tiling.stride


def block_validity(valid: Tensor, unit: int) -> Tensor:
    """Reduce (B, 1, S, S) to (B, 1, S/unit, S/unit) bool: a block with a valid pixel is valid."""
    return F.max_pool2d(valid.float(), unit) > 0


def _outer(ramp: NDArray[np.float32], device: torch.device) -> Tensor:
    return torch.from_numpy(np.outer(ramp, ramp)).to(device)
