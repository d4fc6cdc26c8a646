"""A city's layer at 1/16: it shows what the layer shows, where it shows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from support.tracing import LO19

from capecam.grid import Window
from capecam.io.cog import CogSet, Product, why_not_cog
from capecam.io.overview import write_overview
from capecam.io.vrt import Layer, VrtTile, write_vrt

PATCH = 80
"""Edge of the patches of one value that the truth is made of."""
PRODUCTS = {
    "classes": Product("classes", ("class",), "uint8", 255, palette={1: (0, 255, 0)}),
    "levels": Product("levels", ("a", "b"), "uint8", 255, scale=1 / 254),
    "raw": Product("raw", ("a", "b"), "float32", float("nan")),
}
HULL = Window(-37, 1003, 1500, 2300)


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    patches = np.random.default_rng(1).integers(0, 4, (2, 20, 30)).astype(np.uint8)
    return np.kron(patches, np.ones((PATCH, PATCH), np.uint8))[:, : HULL.height, : HULL.width]


def tiles(folder: Path, product: Product, truth: np.ndarray) -> Layer:
    """Of odd sizes, with a gap, cut from the truth; one has overviews of its own, two have none."""
    windows = [
        Window(-37, 1003, 1500, 1111), Window(-37, 2114, 333, 1189), Window(900, 2500, 563, 803),
    ]  # fmt: skip
    made = []
    for n, window in enumerate(windows):
        cell = folder / f"cell{n}"
        cell.mkdir()
        with CogSet(cell, LO19.crop(window), None, [product]) as cogs:
            part = truth[(slice(len(product.bands)), *window.slices(HULL))]
            cogs.writers[product.name].write(part.astype(product.dtype))
            cogs.finish()
        made.append(VrtTile(cell / f"{product.name}.tif", window, str(n)))
    return Layer.over(LO19, made)


@pytest.mark.parametrize("name", PRODUCTS)
def test_it_shows_the_layer_in_its_place(tmp_path, truth, name: str) -> None:
    product = PRODUCTS[name]
    layer = tiles(tmp_path, product, truth)
    assert layer.grid.window == HULL
    path = tmp_path / "layer.overview.tif"
    write_overview(path, layer, previous=path)
    write_vrt(tmp_path / "layer.vrt", layer, path)
    assert why_not_cog(path) is None
    with rasterio.open(path) as small, rasterio.open(tmp_path / "layer.vrt") as vrt:
        assert small.transform[:6] == tuple(np.multiply(vrt.transform[:6], (16, 1, 1, 1, 16, 1)))
        assert (small.descriptions, small.scales) == (vrt.descriptions, vrt.scales)
        assert vrt.overviews(1) == [16]
        found, full = (np.nan_to_num(d.read(), nan=255) for d in (small, vrt))
    compared = 0
    for row in range(1, full.shape[1] // 16 - 1):
        for col in range(1, full.shape[2] // 16 - 1):
            # It may be off by half a pixel of its own, where a tile's size is no multiple of 16.
            around = full[:, row * 16 - 8 : row * 16 + 24, col * 16 - 8 : col * 16 + 24]
            low, high = around.min(axis=(1, 2)), around.max(axis=(1, 2))
            if np.array_equal(low, high):
                assert np.array_equal(found[:, row, col], low), (row, col)
                compared += 1
    assert compared > 2000
