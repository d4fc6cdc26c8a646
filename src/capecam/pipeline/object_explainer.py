"""Explain objects: the map of each, and what happens to it when parts of its tile are blurred.

The numbers are defined in docs/method.md#objects, and are columns of the detections.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from capecam.attribution.interventions import blurred, grey, replaced, to_pixels
from capecam.attribution.object_engine import ObjectEngine, Targets, at_pixels
from capecam.detections.measurement import pixel_m
from capecam.detections.object_columns import OBJECT_COLUMNS
from capecam.errors import ImageError
from capecam.grid import Tiling, Window
from capecam.mosaic.reader import Reader
from capecam.pipeline.blocks import block_any, block_mean, block_ranks
from capecam.pipeline.object_tiles import ExplainedObject, ObjectTile, object_tiles
from capecam.store.object_store import StoredObject

VERSION = 2
"""To be increased when the same objects get other maps or numbers."""

NEAR_M = 2.0
"""Distance up to which energy is near an object."""

MARGIN_M = 1.0
"""Margin of an object that is kept with it, where everything else is blurred."""

TOP_SHARE = 0.03
"""Share of a tile's blocks that are blurred: 31 of 1,024, about the size of two large objects. An
object with more blocks loses as many as it has, since fewer cannot hide it."""

SEED = 0
"""Seed of the random blocks."""

CHANGES = ("map", "random", "distance", "alone", "without")
"""Interventions, in the order in which they are tried."""


@dataclass(frozen=True, slots=True, eq=False)
class ObjectPart:
    """Map of an object in one tile."""

    tile: ObjectTile
    pixels: NDArray[np.uint8]
    """(3, S, S); 0 where invalid."""
    valid: NDArray[np.bool_]
    """(S, S)."""
    heat: NDArray[np.floating]
    """(h, w) raw map at the resolution of the layer."""
    at_pixels: NDArray[np.floating]
    """(S, S) the same at pixels, 0 where invalid."""
    probability: NDArray[np.float64]
    """(1 + C,) of the part: in the whole tile, and after each of ``CHANGES``."""

    @property
    def window(self) -> Window:
        """Position of the tile, in lattice pixels."""
        return self.tile.window


@dataclass(frozen=True, slots=True, eq=False)
class ObjectExplanation:
    """Explanation of the network's decision for an object."""

    target: ExplainedObject
    parts: tuple[ObjectPart, ...]
    """One, unless the object is wider than a tile."""

    @property
    def probability(self) -> float:
        """Mean probability of the class over the object, in its tile."""
        return float(_probability(self.parts)[0])

    def numbers(self) -> dict[str, float]:
        """Return the values of ``OBJECT_COLUMNS``; NaN where a map is 0 everywhere."""
        return _numbers(self.parts)

    def stored(self) -> StoredObject:
        """Return what is kept of it."""
        return StoredObject(
            np.array([*self.numbers().values()]),
            np.array([(part.window.row, part.window.col) for part in self.parts]),
            np.stack([part.heat for part in self.parts]).astype(np.float32),
        )


class ObjectExplainer:
    """Explains objects one after the other, with one network on one device.

    Args:
        engine: of the run's network.
        reader: of the imagery.
        tiling: of the run.
        batch_size: number of tiles in a batch on a GPU; a CPU takes one object at a time.
    """

    def __init__(
        self, engine: ObjectEngine, reader: Reader, tiling: Tiling, batch_size: int
    ) -> None:
        self._engine, self._reader, self._tiling = engine, reader, tiling
        self._count = max(1, batch_size // len(CHANGES)) if engine.device.type != "cpu" else 1

    def explain(self, targets: Iterable[ExplainedObject]) -> Iterator[ObjectExplanation]:
        """Yield the explanation of each object, in their order.

        Raises:
            ImageError: an image cannot be decoded there.
            NotFiniteError: the network's gradients overflowed.
        """
        waiting: list[tuple[ExplainedObject, list[_Read]]] = []
        for target in targets:
            waiting.append((target, self._read(target)))
            if sum(len(tiles) for _, tiles in waiting) >= self._count:
                yield from self._flush(waiting)
                waiting = []
        yield from self._flush(waiting)

    def _read(self, target: ExplainedObject) -> list[_Read]:
        grid = self._reader.mosaic.grid
        size = pixel_m(grid, np.array([target.shape.centroid.coords[0]]))[0].tolist()
        tiles = object_tiles(
            target, self._tiling.size, self._tiling.stride, grid.window, (size[0], size[1])
        )
        return [_Read(tile, target.class_id, *self._reader.read(tile.window)) for tile in tiles]

    def _flush(
        self, waiting: Sequence[tuple[ExplainedObject, list[_Read]]]
    ) -> Iterator[ObjectExplanation]:
        """Explain the tiles of some objects together, in batches of one size."""
        tiles = [tile for _, read in waiting for tile in read]
        parts = [
            part
            for start in range(0, len(tiles), self._count)
            for part in self._explain(tiles[start : start + self._count])
        ]
        for target, read in waiting:
            own, parts = parts[: len(read)], parts[len(read) :]
            yield ObjectExplanation(target, tuple(own))

    def _explain(self, tiles: Sequence[_Read]) -> list[ObjectPart]:
        """Explain at most as many tiles as fit a batch; a GPU gets batches of one shape."""
        device, count = self._engine.device, self._count
        padded = [*tiles, *[tiles[0]] * (count - len(tiles))]
        pixels, valid, part = (
            torch.from_numpy(np.stack(arrays)).to(device)
            for arrays in zip(*((t.pixels, t.valid, t.part) for t in padded), strict=True)
        )
        targets = Targets(torch.tensor([t.class_id for t in padded], device=device), part)
        heat, before = self._engine.maps(pixels, valid, targets)
        detailed = at_pixels(heat, valid)
        removed = torch.stack([self._removed(t, detailed[n]) for n, t in enumerate(padded)])
        # (count, changes, ...): all changes of a tile follow each other.
        inside = torch.from_numpy(np.stack([t.tile.inside for t in padded])).to(device)
        changed = replaced(pixels[:, None], replacements(pixels, valid, inside), removed)
        again = Targets(*(x.repeat_interleave(len(CHANGES), 0) for x in (targets.class_id, part)))
        after = self._engine.probability(changed.flatten(0, 1), again)
        probability = torch.cat([before[:, None], after.reshape(count, -1)], dim=1)
        numbers = probability.double().cpu().numpy()
        return [
            ObjectPart(
                tile.tile,
                tile.pixels,
                tile.valid,
                heat[n].cpu().numpy(),
                detailed[n].cpu().numpy(),
                numbers[n],
            )
            for n, tile in enumerate(tiles)
        ]

    def _removed(self, read: _Read, heat: Tensor) -> Tensor:
        """Return the pixels (changes, S, S) that each change blurs."""
        tile, stride = read.tile, self._tiling.stride
        place = tile.window.row % 2**32, tile.window.col % 2**32
        rng = np.random.default_rng([SEED, read.class_id, *place])
        valid = block_any(read.valid, stride)
        distance = tile.outside_m - tile.depth_m
        orders = (
            -block_mean(heat.double().cpu().numpy(), stride),
            np.zeros(valid.shape),
            block_mean(distance, stride),
        )
        count = top_count(valid, block_any(tile.inside & read.valid, stride))
        blocks = np.stack([block_ranks(key, valid, rng) < count for key in orders])
        by_block = to_pixels(torch.from_numpy(blocks), stride)
        by_pixel = np.stack([~tile.within(MARGIN_M), tile.inside])
        both = torch.cat([by_block, torch.from_numpy(by_pixel)]) & torch.from_numpy(read.valid)
        return both.to(self._engine.device)


def top_count(valid: NDArray[np.bool_], own: NDArray[np.bool_]) -> int:
    """Return the number of blocks that are blurred, of (n, n) with imagery and the object's own."""
    return max(1, round(TOP_SHARE * int(valid.sum())), int(own.sum()))


def replacements(pixels: Tensor, valid: Tensor, inside: Tensor) -> Tensor:
    """Return what each of ``CHANGES`` puts in place of removed pixels: (B, changes, 3, S, S).

    The surroundings become grey, since a blur keeps the colour of a roof; the object becomes like
    its surroundings, without its own colour.
    """
    blur = blurred(pixels, valid)
    by_change = {"alone": grey(blur), "without": blurred(pixels, valid & ~inside)}
    return torch.stack([by_change.get(change, blur) for change in CHANGES], dim=1)


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """A tile that has been read."""

    tile: ObjectTile
    class_id: int
    pixels: NDArray[np.uint8]
    valid: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if not self.part.any():
            raise ImageError(f"there is no imagery at the object in {self.tile.window}")

    @property
    def part(self) -> NDArray[np.bool_]:
        """Pixels (S, S) whose score is explained."""
        return self.tile.part & self.valid


def _probability(parts: Sequence[ObjectPart]) -> NDArray[np.float64]:
    """Return (1 + C,) probabilities over the pixels of all parts: before, and after each change."""
    weights = [int((part.tile.part & part.valid).sum()) for part in parts]
    return np.average([part.probability for part in parts], axis=0, weights=weights)


def _numbers(parts: Sequence[ObjectPart]) -> dict[str, float]:
    """Compute the numbers of an object from its parts.

    Energies are summed. Probabilities are means over the pixels of all parts. The peak is that of
    the part with the highest.
    """
    energy = sum(float(part.at_pixels.sum(dtype=np.float64)) for part in parts)

    def share(masks: Iterable[NDArray[np.bool_]]) -> float:
        """Return the share of the energy in a mask of each part's tile."""
        inside = sum(
            float(part.at_pixels[mask].sum(dtype=np.float64))
            for part, mask in zip(parts, masks, strict=True)
        )
        return inside / energy if energy > 0 else np.nan

    peak = max(parts, key=lambda part: float(part.at_pixels.max()))
    at_peak = peak.at_pixels == peak.at_pixels.max()
    before, *after = _probability(parts)
    left = dict(zip(CHANGES, np.asarray(after) / before if before else [np.nan] * 5, strict=True))
    return dict(
        zip(
            OBJECT_COLUMNS,
            (
                share(part.tile.inside for part in parts),
                share(part.tile.within(NEAR_M) for part in parts),
                float(peak.tile.outside_m[at_peak].min()) if energy > 0 else np.nan,
                share(part.tile.others for part in parts),
                *(1 - left[change] for change in ("map", "random", "distance")),
                left["alone"],
                left["without"],
            ),
            strict=True,
        )
    )
