"""Write the index of encoders (capecam.model.encoder_index) for the versions installed here.

Builds every encoder of segmentation_models_pytorch and timm on the meta device, those of timm at
the depths 5, 4 and 3; takes about half an hour of a core.
"""

from __future__ import annotations

import logging
import warnings
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

import timm
import torch
from segmentation_models_pytorch.encoders import get_encoder, get_encoder_names

import capecam.model
from capecam.model.encoder_index import TIMM, digests
from capecam.model.meta import OnMeta
from capecam.model.recognition import shapes_of

INDEX = Path(capecam.model.__file__).parent / "data" / "encoders.txt"

DEPTHS = (5, 4, 3)
"""Depths that architectures use."""

Row = tuple[str, str, int]


def encoder_names() -> list[str]:
    """Names of all encoders; timm's have a prefix."""
    return [*get_encoder_names(), *(TIMM + name for name in timm.list_models())]


def rows(name: str) -> Iterator[tuple[Row, str]]:
    """Yield a row of the index for each depth of an encoder; none if it is no encoder for smp."""
    for depth in DEPTHS if name.startswith(TIMM) else DEPTHS[:1]:
        try:
            with OnMeta():
                encoder = get_encoder(name, depth=depth)
        except Exception:  # smp and timm refuse in many ways
            continue
        yield (*digests(shapes_of(encoder.state_dict())), depth * name.startswith(TIMM)), name


def built(name: str) -> list[tuple[Row, str]]:
    """Rows of one encoder, in a process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    return list(rows(name))


def page(found: list[tuple[Row, str]]) -> str:
    """The whole index."""
    by_row: defaultdict[Row, list[str]] = defaultdict(list)
    for row, name in found:
        by_row[row].append(name)
    versions = ", ".join(f"{p} {version(p)}" for p in ("segmentation_models_pytorch", "timm"))
    lines = (" ".join(map(str, (*row, *sorted(names)))) for row, names in sorted(by_row.items()))
    head = f"# {versions}; written by scripts/encoder_index.py\n# names shapes depth encoders\n"
    return head + "\n".join(lines) + "\n"


if __name__ == "__main__":
    with ProcessPoolExecutor() as pool:
        found = [entry for entries in pool.map(built, encoder_names()) for entry in entries]
    INDEX.write_text(page(found), encoding="ascii")
    print(f"{len(found)} rows, {INDEX.stat().st_size / 1e3:.0f} kB: {INDEX}")
