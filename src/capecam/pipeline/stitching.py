"""Maps down: tiles blended to seamless rows of rasters, streaming.

Windows arrive row-major, so every row above the newest window is final. Memory is one row of
tiles of a cell, whatever its height; it lives on the engine's device, and only finished rows come
down, already as they are stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    """First pixel row, in lattice pixels."""
    products: dict[str, Tensor]
    """By product: (bands, n, width) in the host's memory; CAMs have their own number of rows, of
    blocks."""
    downloaded: torch.cuda.Event | None
    """When a GPU has copied them there; it may still be at it."""

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The products, once they are there."""
        if self.downloaded is not None:
            self.downloaded.synchronize()
        return {name: values.numpy() for name, values in self.products.items()}


class Strip:
    """Weighted sums over one row of a cell's tiles, in blocks of ``unit`` pixels.

    Args:
        tiling: the lattice.
        cell: whose core is covered, but for the parts of it that belong to other cells.
        unit: edge of a block in pixels; 1 for pixels.
        bands: of the values.
        weights: bands of the weights: as many, or one for all.
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
        reach = tiling.reach(cell.core)
        self.unit = unit
        self._core = cell.core.blocks(unit)
        self._taken = tuple(filter(None, (part.blocks(unit) for part in cell.taken)))
        self._left, self._top = reach.col // unit, reach.row // unit
        shape = (tiling.size // unit, reach.width // unit)
        self._sums = torch.zeros((bands, *shape), device=device)
        self._weights = torch.zeros((weights, *shape), device=device)

    def add(self, window: Window, weighted: Tensor, weight: Tensor) -> None:
        """Add a tile's (bands, n, n) values times weight, and its (weights, n, n) weight."""
        if window.row != self._top * self.unit:
            raise ValueError(f"{window} is not in the strip's row; windows must come row-major")
        left = window.col // self.unit - self._left
        cols = slice(left, left + weight.shape[2])
        self._sums[:, :, cols] += weighted
        self._weights[:, :, cols] += weight

    def pop_rows(self, bottom: int) -> tuple[Tensor, Tensor] | None:
        """Means and weights of the rows above pixel row ``bottom``, which are final; None, if none
        of them is in the core.

        Weight 0 means that nothing was seen there, or that it belongs to another cell.
        """
        end = -(-bottom // self.unit)
        rows = Window.between(self._top, self._left, end, self._left + self._sums.shape[2])
        own = None if self._core is None else rows.intersection(self._core)
        sums, weights = self._sums, self._weights
        self._sums, self._weights = (_scroll(x, rows.height) for x in (sums, weights))
        self._top = end
        if own is None:
            return None
        for part in filter(None, map(own.intersection, self._taken)):
            weights[:, *part.slices(rows)] = 0
        place = own.slices(rows)
        return sums[:, *place] / weights[:, *place].clamp(min=1e-12), weights[:, *place]


def _scroll(x: Tensor, n: int) -> Tensor:
    """Drop the first n rows, append n rows of zeros."""
    return F.pad(x[:, n:], (0, 0, 0, n))


@dataclass(frozen=True, slots=True)
class StitchPlan:
    """What the maps of a run are, and how they are stored."""

    tiling: Tiling
    methods: Sequence[str]
    """Heatmaps, as in ``Maps.heat``."""
    classes: int
    """Foreground classes."""
    calibration: Mapping[str, Sequence[float | None]] | None
    """By method and class the raw value that becomes 254, None for an empty class; None instead of
    the mapping stores raw float32 heatmaps."""
    detected: bool
    """Tiles and classes can be unexplained."""
    sigmoid: bool = False
    """The only class is decided by a sigmoid."""


class Stitcher:
    """Turns a cell's batches of maps into rows of its products.

    Args:
        scheme: what all cells of the run have in common.
        cell: the pixels to cover.
        device: of the maps.
    """

    def __init__(self, scheme: StitchPlan, cell: Cell, device: torch.device) -> None:
        self._scheme, self._core, self._device = scheme, cell.core, device
        tiling, classes = scheme.tiling, scheme.classes
        self._row = tiling.reach(cell.core).row
        self._ramps = {unit: _outer(tiling.weights(unit), device) for unit in (1, tiling.stride)}
        self._certain = torch.ones(classes, device=device)
        self._tops = _tops(scheme, device)
        self.valid_px = torch.zeros((), dtype=torch.int64, device=device)
        """() pixels with imagery in the rows that are finished."""
        strip = partial(Strip, tiling, cell, device=device)
        self._probability = strip(1, bands=classes + 1, weights=1)
        weights = classes if scheme.detected else 1
        self._heat = {
            method: strip(unit_of(method, tiling), bands=classes, weights=weights)
            for method in scheme.methods
        }

    def add(self, batch: Batch, maps: Maps) -> Iterator[FinishedRows]:
        """Blend a batch in; yields the rows that it completes."""
        valid = batch.valid.to(self._device)[:, None]
        by_unit = {unit: ramp * block_validity(valid, unit) for unit, ramp in self._ramps.items()}
        layers = [(self._probability, maps.probability, by_unit[1])]
        for method, strip in self._heat.items():
            weights = by_unit[strip.unit]
            if self._scheme.detected:
                weights = weights * maps.explained[..., None, None]
            heat = resample(maps.heat[method], self._scheme.tiling.size // strip.unit)
            layers.append((strip, heat, weights))
        weighted = [(strip, values * weights, weights) for strip, values, weights in layers]
        for i, window in enumerate(batch.windows):
            yield from self._advance(window.row)
            for strip, values, weights in weighted:
                strip.add(window, values[i], weights[i])

    def finish(self) -> Iterator[FinishedRows]:
        """The rows that are left, down to the end of the cell."""
        yield from self._advance(self._core.bottom)

    def _advance(self, until: int) -> Iterator[FinishedRows]:
        """Hand out the rows above ``until``, one step of the lattice at a time."""
        while self._row < until:
            bottom = min(self._row + self._scheme.tiling.step, until)
            products = dict(self._finished(bottom))
            if products:
                yield FinishedRows(
                    max(self._row, self._core.row), *_download(products, self._device)
                )
            self._row = bottom

    def _finished(self, bottom: int) -> Iterator[tuple[str, Tensor]]:
        if taken := self._probability.pop_rows(bottom):
            means, weights = taken
            seen = weights > 0
            self.valid_px += seen.sum()
            classes = decide(means, sigmoid=self._scheme.sigmoid)[None].to(torch.uint8)
            yield "classes", torch.where(seen, classes, NODATA)
            yield "probability", torch.where(seen, to_levels(means[1:], self._certain), NODATA)
        for method, strip in self._heat.items():
            if taken := strip.pop_rows(bottom):
                means, weights = taken
                yield method, self._stored(method, means, weights > 0)

    def _stored(self, method: str, means: Tensor, seen: Tensor) -> Tensor:
        """Raw means as they are written: levels of the calibrated scale, or float32."""
        if self._tops is None:
            return torch.where(seen, means, torch.nan)
        return torch.where(seen, to_levels(means, self._tops[method]), NODATA)


def _tops(scheme: StitchPlan, device: torch.device) -> dict[str, Tensor] | None:
    """(C,) by method, uploaded once; an empty class has an infinite top."""
    if scheme.calibration is None:
        return None
    return {
        method: torch.tensor([top or torch.inf for top in scheme.calibration[method]]).to(device)
        for method in scheme.methods
    }


def to_levels(values: Tensor, tops: Tensor) -> Tensor:
    """(C, h, w), (C,) to uint8 ``round(254 * min(value / top, 1))``; 0 where top is infinite."""
    return (LEVELS * (values / tops[:, None, None]).clamp(max=1)).round().to(torch.uint8)


def _download(
    products: dict[str, Tensor], device: torch.device
) -> tuple[dict[str, Tensor], torch.cuda.Event | None]:
    """Start the copies to the host; a GPU goes on computing meanwhile."""
    if device.type != "cuda":
        return products, None
    host = {
        name: torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        for name, values in products.items()
    }
    for name, values in products.items():
        host[name].copy_(values, non_blocking=True)
    event: torch.cuda.Event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return host, event


def unit_of(method: str, tiling: Tiling) -> int:
    """Edge in pixels of the blocks that a heatmap is stored in; 1 for pixels."""
    return 1 if method in PIXEL_METHODS else tiling.stride


def block_validity(valid: Tensor, unit: int) -> Tensor:
    """(B, 1, S, S) to (B, 1, S/unit, S/unit) bool: a block counts if any pixel of it does."""
    return F.max_pool2d(valid.float(), unit) > 0


def _outer(ramp: NDArray[np.float32], device: torch.device) -> Tensor:
    return torch.from_numpy(np.outer(ramp, ramp)).to(device)
