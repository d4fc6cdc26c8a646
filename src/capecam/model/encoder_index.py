"""Index of encoders by their tensors, so that a few of some 1,400 have to be built.

``scripts/encoder_index.py`` writes it from all encoders that segmentation_models_pytorch and timm
can build. It only narrows a search: what is found is built and compared (``model.recognition``), so
an index of other versions may miss an encoder, and never leads to a wrong one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes of floating-point tensors by name."""

DIGITS = 10
"""Hexadecimal digits of a digest: two of 4,000 encoders are equal by chance in 1 of 100,000."""

TIMM = "tu-"
"""Prefix of timm's encoders in segmentation_models_pytorch."""

ALIASES = ("regnet", "res2", "resnest", "gernet")
"""Beginnings of timm's names that segmentation_models_pytorch also takes with ``timm-``."""

RENAMED = "tu-tf_mobilenetv3"
"""Beginning of those that it takes as ``timm-mobilenetv3``."""


class IndexedEncoder(NamedTuple):
    """An encoder of the index; those of timm lack the stages below their depth."""

    names: str
    """Digest of the names of its tensors."""
    shapes: str
    """Digest of names and shapes."""
    depth: int
    """Number of its stages; 0 if its tensors are the same at every depth."""
    name: str


def digests(shapes: Shapes) -> tuple[str, str]:
    """Return the digests of the names, and of the names and shapes, of an encoder's tensors."""
    names = sorted(shapes)
    return _digest(names), _digest(f"{name} {','.join(map(str, shapes[name]))}" for name in names)


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:DIGITS]


@cache
def index() -> tuple[IndexedEncoder, ...]:
    """Read the index; its lines hold both digests, a depth and the names of encoders."""
    text = (files("capecam.model") / "data" / "encoders.txt").read_text(encoding="ascii")
    rows = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return tuple(
        IndexedEncoder(names, shapes, int(depth), encoder)
        for names, shapes, depth, *encoders in rows
        for encoder in encoders
    )


def same_shapes(shapes: Shapes) -> list[IndexedEncoder]:
    """Return the encoders whose tensors have these names and shapes."""
    _, digest = digests(shapes)
    return [entry for entry in index() if entry.shapes == digest]


def same_names(shapes: Shapes) -> list[IndexedEncoder]:
    """Return the encoders whose tensors have these names, and perhaps other shapes."""
    digest, _ = digests(shapes)
    return [entry for entry in index() if entry.names == digest]


def other_name(encoder: str) -> str | None:
    """Return the deprecated name of a timm encoder, of the same network; None if it has none."""
    if encoder.startswith(RENAMED):
        return encoder.replace("tu-tf_", "timm-", 1)
    if encoder.startswith(tuple(TIMM + family for family in ALIASES)):
        return encoder.replace(TIMM, "timm-", 1)
    return None
