"""After `make demo`: one picture of everything.

Usage: demo_report.py DIR [--at COL,ROW] [--size PX] [--small FILE]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image, ImageDraw, ImageFont
from rasterio.windows import Window

HEATMAPS = {"gradcam": "Grad-CAM", "gradcampp": "Grad-CAM++", "guided_gradcam": "Guided Grad-CAM"}
SMALL_PX = 1600
"""Width of the copy for the README."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--at", help="col,row of the picture's corner; default: most classes")
    parser.add_argument("--size", type=int, default=640)
    parser.add_argument("--small", type=Path, help="also a copy of this name, smaller")
    arguments = parser.parse_args()
    folder, out = arguments.folder, arguments.folder / "out"
    image = sorted((folder / "images").glob("*.tif"))[0]
    at = (
        tuple(map(int, arguments.at.split(",")))
        if arguments.at
        else busiest(out / "cells" / image.stem / "classes.tif", arguments.size)
    )
    window = Window(*at, arguments.size, arguments.size)
    sheet = picture(image, out / "cells" / image.stem, window)
    sheet.save(out / "picture.png")
    print(f"picture: {out / 'picture.png'}")
    if arguments.small:
        sheet.thumbnail((SMALL_PX, SMALL_PX))
        sheet.save(arguments.small, quality=88)


def busiest(classes: Path, size: int) -> tuple[int, int]:
    """Corner of the window with the most of its rarest class."""
    with rasterio.open(classes) as dataset:
        values = dataset.read(1)
    corners = [
        (col, row)
        for row in range(0, values.shape[0] - size + 1, size // 4)
        for col in range(0, values.shape[1] - size + 1, size // 4)
    ]

    def rarest(corner: tuple[int, int]) -> int:
        col, row = corner
        counts = np.bincount(values[row : row + size, col : col + size].ravel(), minlength=256)
        return int(counts[1:4].min())

    return max(corners, key=rarest)


def picture(image: Path, cell: Path, window: Window) -> Image.Image:
    """Imagery, classes and heatmaps side by side; a row of heat per class."""
    with rasterio.open(image) as dataset:
        pixels = dataset.read((1, 2, 3), window=window).transpose(1, 2, 0)
    with rasterio.open(cell / "classes.tif") as dataset:
        classes, palette = dataset.read(1, window=window), dataset.colormap(1)
        names = rasterio.open(cell / "gradcam.tif").descriptions
    rows = [
        {
            "Imagery": pixels,
            f"Classes: {name}": overlay(pixels, classes, palette, band),
            **{
                f"{title}: {name}": heat(pixels, cell / f"{method}.tif", band, window)
                for method, title in HEATMAPS.items()
            },
        }
        for band, name in enumerate(names, start=1)
    ]
    size, margin, title = pixels.shape[0], 8, 40
    across, down = size + margin, size + title + margin
    sheet = Image.new("RGB", (len(rows[0]) * across + margin, len(rows) * down + margin), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(28)
    for row, panels in enumerate(rows):
        for col, (caption, values) in enumerate(panels.items()):
            x, y = margin + col * across, margin + row * down
            draw.text((x, y), caption, "black", font)
            sheet.paste(Image.fromarray(values), (x, y + title))
    return sheet


def overlay(pixels: np.ndarray, classes: np.ndarray, palette: dict, class_id: int) -> np.ndarray:
    """The prediction over the imagery: this class in its colour, the others faint."""
    shown = pixels.astype(float)
    for value in range(1, 4):
        share = 0.6 if value == class_id else 0.2
        where = classes == value
        shown[where] = (1 - share) * shown[where] + share * np.array(palette[value][:3])
    return shown.astype(np.uint8)


def heat(pixels: np.ndarray, path: Path, band: int, window: Window) -> np.ndarray:
    """A heatmap over the greyed imagery, on the city's scale (no stretch)."""
    with rasterio.open(path) as dataset, rasterio.open(path.parent / "classes.tif") as fine:
        factor = round(dataset.transform.a / fine.transform.a)
        part = Window(
            window.col_off / factor,
            window.row_off / factor,
            window.width / factor,
            window.height / factor,
        )
        values = dataset.read(
            band, window=part, out_shape=pixels.shape[:2], masked=True, boundless=False
        ).filled(0)
    strength = (values / 254)[..., None]
    grey = np.repeat(pixels.mean(axis=2, keepdims=True), 3, axis=2) * 0.6
    return ((1 - strength) * grey + strength * ramp(strength[..., 0])).astype(np.uint8)


def ramp(x: np.ndarray) -> np.ndarray:
    """(H, W) of 0..1 to (H, W, 3): dark red, orange, pale yellow; lightness rises evenly."""
    stops = np.array([[90, 0, 60], [200, 40, 40], [250, 140, 30], [255, 250, 190]], float)
    return np.stack([np.interp(x, np.linspace(0, 1, 4), stops[:, c]) for c in range(3)], axis=-1)


if __name__ == "__main__":
    main()
