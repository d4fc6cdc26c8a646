"""Draw docs/evidence.jpg: for each word of evidence an object, its map, and what is left of it.

Usage: evidence_picture.py PICTURE OUT ID [OUT ID ...]

OUT is the folder of a run, and ID a detection in it. The pictures are those of ``capecam view``.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from capecam.analysis.explain import Explained, explain_object
from capecam.store.run_folder import RunFolder
from capecam.viewer.overlays import overlays_of

COLUMNS = ("the image", "its own map", "only the object", "without the object")
NEAR_PX = 80
"""Pixels of the image that are shown, on each side of the object."""


def main(picture: str, *pairs: str) -> None:
    """Draw a row for each pair of OUT and ID."""
    matplotlib.use("Agg")
    rows = list(zip(pairs[::2], pairs[1::2], strict=True))
    figure = Figure(figsize=(10, 2.55 * len(rows)), layout="compressed")
    grid = figure.subplots(len(rows), len(COLUMNS), squeeze=False)
    for axes, title in zip(grid[0], COLUMNS, strict=True):
        axes.set_title(title, fontsize=11)
    for axes, (out, id_) in zip(grid, rows, strict=True):
        _draw(axes, explain_object(out, id_), RunFolder.open(Path(out)))
    figure.savefig(picture, dpi=110, pil_kwargs={"quality": 85})


def _draw(row: NDArray[np.object_], found: Explained, run: RunFolder) -> None:
    """Draw what the network was shown, and the probability of the object's class then."""
    part, *_ = found.explanation.parts
    image = part.pixels.transpose(1, 2, 0)
    changed = [_over(image, o.png) for o in overlays_of(found.explanation, run.grid, run.settings)]
    p, numbers = found.explanation.probability, found.numbers
    notes = (
        f"p = {p:.2f}", "", f"p = {p * numbers['alone']:.2f}", f"p = {p * numbers['without']:.2f}",
    )  # fmt: skip
    for axes, pixels, note in zip(row, (image, *changed), notes, strict=True):
        _show(axes, pixels, part.tile.inside, note)
    row[0].set_ylabel(f"{found.word}\n{found.class_name}", fontsize=11)


def _over(image: NDArray[np.uint8], png: bytes) -> NDArray[np.uint8]:
    """Return an image below a picture with transparency."""
    below = Image.fromarray(image).convert("RGBA")
    return np.asarray(Image.alpha_composite(below, Image.open(io.BytesIO(png))).convert("RGB"))


def _show(axes: Axes, pixels: NDArray[np.uint8], inside: NDArray[np.bool_], note: str) -> None:
    axes.imshow(pixels)
    axes.contour(inside, [0.5], colors="white", linewidths=0.8)
    y, x = (indices.mean() for indices in np.nonzero(inside))
    size = len(pixels)
    west, north = (min(max(v - NEAR_PX, 0), size - 2 * NEAR_PX) for v in (x, y))
    axes.set(xlim=(west, west + 2 * NEAR_PX), ylim=(north + 2 * NEAR_PX, north))
    axes.set(xticks=[], yticks=[])
    if note:
        axes.text(
            0.03, 0.03, note, transform=axes.transAxes, color="white", fontsize=11,
            bbox={"facecolor": "black", "alpha": 0.6, "pad": 2, "linewidth": 0},
        )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
