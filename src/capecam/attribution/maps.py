"""Results of an engine for a batch of tiles, and the grouping of tiles by classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from capecam.errors import NotFiniteError
from capecam.runtime import notebook_html

SHOWN_TILES = 2
"""Number of tiles that a notebook shows."""


@dataclass(frozen=True, slots=True)
class Signals:
    """Results of one forward and its backward passes. C: number of foreground classes."""

    logits: Tensor
    """(B, 1 + C, H, W)."""
    activations: Tensor
    """(B, K, h, w), A at the target layer."""
    gradients: Tensor
    """(B, C, K, h, w), dS_c/dA."""
    guided: Tensor | None
    """(B, C, 3, H, W), guided gradient of S_c with respect to the unnormalised pixels."""
    shared: Tensor | None
    """(B, 1, 3, H, W), guided gradient of the sum of all foreground classes' scores."""


@dataclass(frozen=True, slots=True)
class LayerSignals:
    """Results of one forward and the backward of one score of each tile."""

    logits: Tensor
    """(B, 1 + C, H, W)."""
    activations: Tensor
    """(B, K, h, w), A; or the pixels, (B, 3, H, W)."""
    gradients: Tensor
    """dS/dA, of the same shape."""


class Explanation(NamedTuple):
    """Results of a forward and its backward passes. C: classes that were asked for."""

    logits: Tensor
    """(B, 1 + all foreground classes, H, W)."""
    heat: dict[str, Tensor]
    """As of :class:`Maps`."""
    singular: Tensor
    """(B,) int64; see :class:`Maps`."""


@dataclass(frozen=True, slots=True)
class Maps:
    """Unscaled maps of a batch of tiles. C: foreground classes, in the order of the model."""

    probability: Tensor
    """(B, 1 + C, H, W), softmax; channel 0 is the background."""
    heat: dict[str, Tensor]
    """Heatmaps by method: CAMs (B, C, h, w) at the target layer's resolution, ``PIXEL_METHODS``
    (B, C, H, W); not negative, never scaled per tile."""
    explained: Tensor
    """(B, C) bool; False where ``where='detected'`` skipped tile and class (the map is 0)."""
    singular: Tensor
    """() int64; number of Grad-CAM++ entries skipped because their denominator vanishes."""

    @property
    def broken(self) -> Tensor:
        """() int64; number of heatmap values that are not finite, in fp16 by overflow."""
        return torch.stack([(~maps.isfinite()).sum() for maps in self.heat.values()]).sum()

    def __repr__(self) -> str:
        """Return the sizes of the maps."""
        B, channels, height, width = self.probability.shape
        maps = ", ".join(f"{name} {_size(heat)}" for name, heat in self.heat.items())
        return f"Maps(tiles: {B} of {height} x {width} px; classes: {channels - 1}; {maps})"

    def _repr_html_(self) -> str:
        """Return the maps of the first tiles as pictures, each up to its own maximum."""
        _, channels, *_ = self.probability.shape
        head = ["tile", "map", *(f"class {c}" for c in range(1, channels))]
        rows = [
            [str(tile), name, *map(_picture, maps[tile].float().cpu())]
            for tile in range(min(SHOWN_TILES, len(self.probability)))
            for name, maps in {"probability": self.probability[:, 1:], **self.heat}.items()
        ]
        return notebook_html.table([[repr(self)]]) + notebook_html.table(rows, head)


def _size(heat: Tensor) -> str:
    return f"{heat.shape[-2]} x {heat.shape[-1]}"


def _picture(values: Tensor) -> str:
    """Return a map as a picture, with its maximum below."""
    top = float(values.max())
    colors = notebook_html.heat_colors(values.numpy() / (top or 1.0))
    shown = notebook_html.small_picture(colors, f"maximum {top:.3g}")
    return notebook_html.joined(shown, notebook_html.Html("<br>"), f"{top:.3g}")


def check_finite(broken: Tensor, precision: str) -> None:
    """Wait for the count of ``Maps.broken``, and raise if it is not 0.

    Raises:
        NotFiniteError: heatmaps have values that are not finite.
    """
    if count := int(broken):
        remedy = (
            "use --precision bf16 or fp32"
            if precision == "fp16"
            else "check the checkpoint and how its input is scaled (model.input_max)"
        )
        raise NotFiniteError(f"{count} values of heatmaps are not finite in {precision}; {remedy}")


def join_maps(parts: Sequence[Maps]) -> Maps:
    """Concatenate batches of maps."""
    if len(parts) == 1:
        return parts[0]
    return Maps(
        torch.cat([part.probability for part in parts]),
        {name: torch.cat([part.heat[name] for part in parts]) for name in parts[0].heat},
        torch.cat([part.explained for part in parts]),
        torch.stack([part.singular for part in parts]).sum(),
    )


def group_by_classes(
    explained: Sequence[Sequence[bool]], size: int
) -> Iterator[tuple[tuple[int, ...], list[int]]]:
    """Yield classes, and at most ``size`` tiles in which exactly these are to be explained.

    Args:
        explained: flags by tile and foreground class.
        size: maximum number of tiles in a group.
    """
    by_classes: dict[tuple[int, ...], list[int]] = {}
    for tile, flags in enumerate(explained):
        classes = tuple(c for c, flag in enumerate(flags) if flag)
        by_classes.setdefault(classes, []).append(tile)
    by_classes.pop((), None)
    for classes, tiles in by_classes.items():
        for start in range(0, len(tiles), size):
            yield classes, tiles[start : start + size]
