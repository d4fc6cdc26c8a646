"""Which tiles go together where only those with a detection are explained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def group_by_classes(
    explained: Sequence[Sequence[bool]], size: int
) -> Iterator[tuple[tuple[int, ...], list[int]]]:
    """Classes, and up to ``size`` tiles where exactly these are to be explained."""
    by_classes: dict[tuple[int, ...], list[int]] = {}
    for tile, flags in enumerate(explained):
        classes = tuple(c for c, flag in enumerate(flags) if flag)
        by_classes.setdefault(classes, []).append(tile)
    by_classes.pop((), None)
    for classes, tiles in by_classes.items():
        for start in range(0, len(tiles), size):
            yield classes, tiles[start : start + size]


def padded(x: Tensor, size: int) -> Tensor:
    """(n, ...) -> (size, ...), zeros behind."""
    return torch.cat([x, x.new_zeros(size - len(x), *x.shape[1:])])
