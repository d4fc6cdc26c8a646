"""The picture of docs/method.md: an object for each word of evidence.

Usage: evidence_figure.py DEMO FILE, where DEMO is the folder of ``make demo``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rasterio.windows import from_bounds

from capecam.detections.evidence import EVIDENCE_WORDS
from capecam.detections.neighbourhood import NEIGHBOURHOOD_M, RING_M

METHOD = "gradcam"


def main() -> None:
    demo, target = Path(sys.argv[1]), Path(sys.argv[2])
    table = gpd.read_parquet(demo / "out" / "detections.parquet")
    figure = Figure(figsize=(12, 6.9), layout="constrained")
    axes = figure.subplots(2, len(EVIDENCE_WORDS))
    for column, word in enumerate(EVIDENCE_WORDS):
        row = example(table[table["evidence"] == word], word)
        imagery, heat = axes[:, column]
        show_imagery(imagery, demo, row)
        shown = show_heat(heat, demo, row)
        imagery.set_title(f"{word}: {row['class']}, {row['confidence']:.2f}")
        inside, ring, peak, away = (row[f"{METHOD}_{m}"] for m in ("in", "ring", "peak", "peak_m"))
        heat.set_title(f"in {inside:.2f}, ring {ring:.2f}\npeak {peak:.2f}, {away:.1f} m away")
    figure.colorbar(shown, ax=axes, shrink=0.5, label="Grad-CAM, 0..1 of the city's scale")
    figure.savefig(target, dpi=110, pil_kwargs={"quality": 85})
    print(target)


def example(rows: gpd.GeoDataFrame, word: str) -> gpd.GeoSeries:
    """The clearest: focused by the heat inside, others by their place in the queue."""
    inside = rows[~rows["images"].str.contains(",")]  # whose surroundings one image shows
    if word == "context":
        return inside.nsmallest(1, "review").iloc[0]
    by = {"focused": f"{METHOD}_in", "saturated": "confidence", "weak": "area_m2"}[word]
    return inside.nlargest(1, by).iloc[0]


def window(row: gpd.GeoSeries) -> tuple[float, float, float, float]:
    """What is shown: the object and all that its numbers look at."""
    left, bottom, right, top = row.geometry.bounds
    half = max(right - left, top - bottom) / 2 + NEIGHBOURHOOD_M + 1
    x, y = (left + right) / 2, (bottom + top) / 2
    return x - half, y - half, x + half, y + half


def show_imagery(axes: Axes, demo: Path, row: gpd.GeoSeries) -> None:
    bounds = window(row)
    with rasterio.open(demo / "images" / f"{row['images']}.tif") as dataset:
        part = from_bounds(*bounds, dataset.transform)
        pixels = dataset.read((1, 2, 3), window=part, boundless=True)
    left, bottom, right, top = bounds
    axes.imshow(np.moveaxis(pixels, 0, -1), extent=(left, right, bottom, top))
    outlines(axes, row)


def show_heat(axes: Axes, demo: Path, row: gpd.GeoSeries) -> object:
    left, bottom, right, top = bounds = window(row)
    with rasterio.open(demo / "out" / f"{METHOD}.vrt") as dataset:
        band = dataset.descriptions.index(row["class"]) + 1
        part = from_bounds(*bounds, dataset.transform)
        values = dataset.read(band, window=part, boundless=True, masked=True) / 254
    shown = axes.imshow(values, extent=(left, right, bottom, top), vmin=0, vmax=1, cmap="inferno")
    outlines(axes, row)
    return shown


def outlines(axes: Axes, row: gpd.GeoSeries) -> None:
    """The object, its ring, and how far ``share`` and ``peak`` look."""
    shapes = [row.geometry, row.geometry.buffer(RING_M), row.geometry.buffer(NEIGHBOURHOOD_M)]
    for shape, style in zip(shapes, ("-", "--", ":"), strict=True):
        gpd.GeoSeries([shape]).boundary.plot(ax=axes, color="white", linestyle=style, linewidth=1.3)
    axes.set_axis_off()


if __name__ == "__main__":
    main()
