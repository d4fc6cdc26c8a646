"""Settings from what a checkpoint says about itself, such as its hyperparameters."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Mapping, Sequence

from capecam.settings import CAPE_TOWN_CLASSES, ClassSettings

Facts = Mapping[str, object]
"""Texts, numbers and lists of them, by key (``Weights.facts``)."""

GSD = re.compile(r"(?:.*_)?(?:gsd|ground_sampling)(?:_m)?", re.IGNORECASE)
TILE = re.compile(r"(?:tile|image|img|crop|input)_?size(?:_px)?", re.IGNORECASE)
CLASSES = re.compile(r".*(?:class|label|categor).*", re.IGNORECASE)

GSD_M = 0.005, 10.0
TILE_PX = 32, 4096
"""Limits of what such keys are believed."""

HUE_STEP = 0.618
"""Golden section, by which hues never come close to each other."""


def gsd_m(facts: Facts) -> float | None:
    """Return the size of a pixel on the ground in training; None if it is not said."""
    return next((size for size in _numbers(facts, GSD) if GSD_M[0] <= size <= GSD_M[1]), None)


def tile_px(facts: Facts) -> int | None:
    """Return the edge of a tile in training; None if it is not said."""
    sizes = _numbers(facts, TILE)
    return next((int(size) for size in sizes if TILE_PX[0] <= size <= TILE_PX[1]), None)


def _numbers(facts: Facts, pattern: re.Pattern[str]) -> list[float]:
    """Return the numbers of keys; of a list, the first."""
    values = [value for key, value in facts.items() if pattern.fullmatch(key)]
    firsts = [v[0] if isinstance(v, (list, tuple)) and v else v for v in values]
    return [v for v in firsts if isinstance(v, (int, float)) and not isinstance(v, bool)]


def input_max(facts: Facts) -> float | None:
    """Return the input of the network for a pixel of 255; None if it is not said."""
    value = facts.get("input_max")
    return float(value) if isinstance(value, (int, float)) and value > 0 else None


def guess_classes(channels: int, facts: Facts) -> tuple[tuple[ClassSettings, ...], str]:
    """Return names and colours of the classes, and where the names are from.

    Args:
        channels: of the output; one is the logit of a sigmoid, of two classes.
        facts: of the checkpoint.
    """
    count = max(channels, 2)
    for key, value in facts.items():
        if CLASSES.fullmatch(key) and isinstance(value, (list, tuple)):
            names = [name for name in value if isinstance(name, str) and name]
            if len(names) == count - 1 and "background" not in map(str.lower, names):
                names = ["background", *names]
            if len(names) == len(set(names)) == count:
                return colored_classes(names), f"{key} of the checkpoint"
    if count == len(CAPE_TOWN_CLASSES):
        return CAPE_TOWN_CLASSES, "capecam's own four classes: a guess"
    first = "solar panel" if count == 2 else "class 1"
    others = (f"class {n}" for n in range(2, count))
    return colored_classes(["background", first, *others]), "a guess"


def colored_classes(names: Sequence[str]) -> tuple[ClassSettings, ...]:
    """Return classes with a colour each: capecam's own, and then others that differ."""
    colors = [entry.color for entry in CAPE_TOWN_CLASSES]
    colors += [_color(n) for n in range(len(names) - len(colors))]
    return tuple(
        ClassSettings(name=name, color=color) for name, color in zip(names, colors, strict=False)
    )


def _color(number: int) -> str:
    parts = colorsys.hsv_to_rgb((0.15 + HUE_STEP * number) % 1, 0.8, 0.95)
    return "#" + "".join(f"{round(255 * part):02X}" for part in parts)
