"""Maps down: tiles blended to seamless rows of rasters, streaming.

Windows arrive row-major, so every row above the newest window is final. Memory is one row of
tiles of a cell, whatever its height; it lives on the engine's device, and only finished rows come
down, already as they are stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from capecam.attribution import decide, resample
from capecam.batch import Batch
from capecam.grid import Tiling, Window
from capecam.maps import Maps
from capecam.settings import PIXEL_METHODS

NODATA = 255
"""Of all uint8 products; 0..254 are values, so that 254 steps make the scale 1/254."""
LEVELS = 254


@dataclass(frozen=True, slots=True)
class Rows:
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
    """Weighted sums over one row of tiles, in units of ``unit`` pixels."""

    def __init__(
        self,
        tiling: Tiling,
        reach: Window,
        unit: int,
        *,
        bands: int,
        weights: int,
        taken: Sequence[Window] = (),
        device: torch.device,
    ) -> None:
        self.unit, self._taken = unit, taken
        self._height = tiling.size // unit
        self._left, self._top = reach.col // unit, reach.row // unit
        shape = (self._height, reach.width // unit)
        self._sums = torch.zeros((bands, *shape), device=device)
        self._weights = torch.zeros((weights, *shape), device=device)

    def add(self, window: Window, weighted: Tensor, weight: Tensor) -> None:
        """Add a tile's (bands, n, n) values times weight, and its (weights, n, n) weight."""
        row, col = window.row // self.unit - self._top, window.col // self.unit - self._left
        if not 0 <= row <= self._height - weight.shape[1]:
            raise ValueError(f"{window} is not in the strip's row; windows must come row-major")
        place = (slice(None), slice(row, row + weight.shape[1]), slice(col, col + weight.shape[2]))
        self._sums[place] += weighted
        self._weights[place] += weight

    def take(self, until: int, core: Window) -> Iterator[tuple[Tensor, Tensor]]:
        """Means and weights of the rows above ``until`` that are in ``core``; they are final.

        Rows and core are in the strip's units. Weight 0 means that nothing was seen there, or that
        it belongs to another cell.
        """
        while self._top < until:
            n = min(until - self._top, self._height)
            first, last = max(core.row - self._top, 0), min(core.bottom - self._top, n)
            if first < last:
                cols = slice(core.col - self._left, core.right - self._left)
                weights = self._weights[:, first:last, cols]
                rows = Window.between(self._top + first, core.col, self._top + last, core.right)
                for part in filter(None, map(rows.intersection, self._taken)):
                    weights[:, *part.slices(rows)] = 0
                yield self._sums[:, first:last, cols] / weights.clamp(min=1e-12), weights
            self._sums, self._weights = _scroll(self._sums, n), _scroll(self._weights, n)
            self._top += n


def _scroll(x: Tensor, n: int) -> Tensor:
    """Drop the first n rows, append n rows of zeros."""
    return F.pad(x[:, n:], (0, 0, 0, n))


class Stitcher:
    """Turns a cell's batches of maps into rows of its products.

    Args:
        tiling: the lattice.
        core: the pixels that the cell covers.
        methods: heatmaps, as in ``Maps.heat``.
        classes: number of foreground classes.
        calibration: by method and class the raw value that becomes 254, None for an empty class;
            None instead of the mapping writes raw float32 heatmaps.
        detected: whether tiles and classes can be unexplained.
        sigmoid: whether the only class is decided by a sigmoid.
        taken: parts of the core that belong to other cells.
        device: of the maps.
    """

    def __init__(
        self,
        tiling: Tiling,
        core: Window,
        methods: Sequence[str],
        classes: int,
        calibration: Mapping[str, Sequence[float | None]] | None,
        *,
        detected: bool,
        sigmoid: bool = False,
        taken: Sequence[Window] = (),
        device: torch.device,
    ) -> None:
        self._tiling, self._core, self._device = tiling, core, device
        self._blocks = core.blocks(tiling.stride)
        self._tops = None if calibration is None else self._on_device(methods, calibration)
        self._detected, self._sigmoid = detected, sigmoid
        reach = tiling.reach(core)
        blocks = filter(None, (window.blocks(tiling.stride) for window in taken))
        others = {1: taken, tiling.stride: tuple(blocks)}
        self._row = reach.row
        self._weights = {unit: _outer(tiling.weights(unit), device) for unit in (1, tiling.stride)}
        self._certain = torch.ones(classes, device=device)
        self.valid_px = torch.zeros((), dtype=torch.int64, device=device)
        """() pixels with imagery in the rows that are finished."""
        self._probability = Strip(
            tiling, reach, 1, bands=classes + 1, weights=1, taken=others[1], device=device
        )
        self._heat = {
            method: Strip(
                tiling,
                reach,
                self._unit(method),
                bands=classes,
                weights=classes if detected else 1,
                taken=others[self._unit(method)],
                device=device,
            )
            for method in methods
            if method in PIXEL_METHODS or self._blocks
        }

    def _on_device(
        self, methods: Sequence[str], calibration: Mapping[str, Sequence[float | None]]
    ) -> dict[str, Tensor]:
        """Uploaded once; an empty class has an infinite top."""
        return {
            method: torch.tensor([top or torch.inf for top in calibration[method]]).to(self._device)
            for method in methods
        }

    def _unit(self, method: str) -> int:
        return 1 if method in PIXEL_METHODS else self._tiling.stride

    def add(self, batch: Batch, maps: Maps) -> Iterator[Rows]:
        """Blend a batch in; yields the rows that it completes."""
        stride = self._tiling.stride
        valid = batch.valid.to(self._device)[:, None]
        pixel_weights = self._weights[1] * valid
        block_weights = self._weights[stride] * block_validity(valid, stride)
        explained = maps.explained[..., None, None] if self._detected else None
        layers = [(self._probability, maps.probability, pixel_weights)]
        for method, strip in self._heat.items():
            weights = pixel_weights if strip.unit == 1 else block_weights
            weights = weights if explained is None else weights * explained
            heat = maps.heat[method]
            heat = heat if strip.unit == 1 else to_blocks(heat, self._tiling)
            layers.append((strip, heat, weights))
        weighted = [(strip, values * weights, weights) for strip, values, weights in layers]
        for i, window in enumerate(batch.windows):
            yield from self._advance(window.row)
            for strip, values, weights in weighted:
                strip.add(window, values[i], weights[i])

    def finish(self) -> Iterator[Rows]:
        """The rows that are left, down to the end of the cell."""
        yield from self._advance(self._core.bottom)

    def _advance(self, until: int) -> Iterator[Rows]:
        """Hand out the rows above ``until``, one step of the lattice at a time."""
        while self._row < until:
            bottom = min(self._row + self._tiling.step, until)
            products = self._finished(bottom)
            if products:
                yield Rows(max(self._row, self._core.row), *_download(products, self._device))
            self._row = bottom

    def _finished(self, bottom: int) -> dict[str, Tensor]:
        products: dict[str, list[Tensor]] = {}
        for means, weights in self._probability.take(bottom, self._core):
            seen = weights > 0
            self.valid_px += seen.sum()
            classes = decide(means, sigmoid=self._sigmoid)[None].to(torch.uint8)
            products.setdefault("classes", []).append(torch.where(seen, classes, NODATA))
            levels = to_levels(means[1:], self._certain)
            products.setdefault("probability", []).append(torch.where(seen, levels, NODATA))
        for method, strip in self._heat.items():
            core = self._core if strip.unit == 1 else self._blocks
            if core is None:
                continue
            for means, weights in strip.take(-(-bottom // strip.unit), core):
                products.setdefault(method, []).append(self._stored(method, means, weights > 0))
        return {name: torch.cat(parts, dim=1) for name, parts in products.items()}

    def _stored(self, method: str, means: Tensor, seen: Tensor) -> Tensor:
        """Raw means as they are written: levels of the calibrated scale, or float32."""
        if self._tops is None:
            return torch.where(seen, means, torch.nan)
        levels = to_levels(means, self._tops[method])
        return torch.where(seen, levels, NODATA)


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


def to_blocks(cam: Tensor, tiling: Tiling) -> Tensor:
    """(B, C, h, w) CAMs resampled straight to blocks: (B, C, size/stride, size/stride)."""
    return resample(cam, tiling.size // tiling.stride)


def block_validity(valid: Tensor, stride: int) -> Tensor:
    """(B, 1, S, S) to (B, 1, S/stride, S/stride) bool: a block counts if any pixel of it does."""
    return F.max_pool2d(valid.float(), stride) > 0


def _outer(ramp: NDArray[np.float32], device: torch.device) -> Tensor:
    return torch.from_numpy(np.outer(ramp, ramp)).to(device)
