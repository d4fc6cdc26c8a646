"""Blurring parts of a tile: what an object's probability owes to itself and to its surroundings."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from capecam.api import Model
from capecam.attribution.interventions import blurred, grey, replaced
from reasons.subjects import Subject, probability

Mask = NDArray[np.bool_]
ALONE_MARGINS_PX = (0, 6, 12)
"""Up to about a metre of 8 cm."""
WITHOUT_MARGINS_PX = (0, 4)
EDGE_PX = 4
"""Width of the margin that shares an object's colour: the lens blurs, and panels cast shadows."""


def grown(mask: Mask, by_px: float) -> Mask:
    """Return a mask with all pixels at most so far away."""
    return np.asarray(distance_transform_edt(~mask) <= by_px)


def tile_blur(pixels: Tensor, inside: Mask) -> Tensor:
    """Blur all pixels."""
    return blurred(pixels, torch.ones(inside.shape, dtype=torch.bool))


def blur_around(pixels: Tensor, inside: Mask) -> Tensor:
    """Blur without the object, so that its colour is not in its own replacement."""
    return blurred(pixels, torch.from_numpy(~grown(inside, EDGE_PX)))


def grey_blur(pixels: Tensor, inside: Mask) -> Tensor:
    """Blur all pixels, and take the colours away.

    A blur alone keeps the colour of the roof, which may be what a network goes by.
    """
    return grey(tile_blur(pixels, inside))


def flat_grey(pixels: Tensor, _inside: Mask) -> Tensor:
    """Return the same grey everywhere."""
    return torch.full_like(pixels, 128)


REPLACEMENTS: dict[str, Callable[[Tensor, Mask], Tensor]] = {
    "blur": tile_blur,
    "blur around": blur_around,
    "grey blur": grey_blur,
    "flat grey": flat_grey,
}


OBJECT_FILLS = ("blur", "blur around")
WAYS = tuple(
    [("alone", name, margin) for name in REPLACEMENTS for margin in ALONE_MARGINS_PX]
    + [
        ("without", name, margin)
        for name in ("blur", "blur around")
        for margin in WITHOUT_MARGINS_PX
    ]
)
"""What is kept or removed, the replacement, and the margin in pixels."""


def interventions(subject: Subject) -> Iterator[tuple[str, Tensor]]:
    """Yield every intervention's name and tile (3, S, S)."""
    inside, pixels = subject.inside, subject.pixels
    baselines = {name: make(pixels, inside) for name, make in REPLACEMENTS.items()}
    for what, name, margin in WAYS:
        object_px = grown(inside, margin)
        removed = torch.from_numpy(object_px if what == "without" else ~object_px)
        yield f"{what} {name} {margin}", replaced(pixels, baselines[name], removed)


def measure_interventions(model: Model, subject: Subject, p0: float) -> dict[str, float]:
    """Return what is left of an object's probability, by intervention."""
    named = dict(interventions(subject))
    values = probability(model, torch.stack(list(named.values())), subject.inside) / p0
    return dict(zip(named, values.tolist(), strict=True))
