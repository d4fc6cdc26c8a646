"""Numbers of objects. Oracle: loops over pixels and blocks, written from docs/method.md."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
import torch
from scipy.ndimage import distance_transform_edt
from support.cities import GSD, blobs, colours_model, write_tif

from capecam.attribution.object_engine import ObjectEngine
from capecam.detections.object_columns import OBJECT_COLUMNS
from capecam.grid import Tiling, Window
from capecam.mosaic.city import city_of
from capecam.mosaic.mosaic import Mosaic
from capecam.mosaic.reader import Reader
from capecam.pipeline.object_explainer import ObjectExplainer, ObjectExplanation
from capecam.pipeline.object_tiles import ExplainedObject, centred, object_tiles, tile_windows
from capecam.settings.loading import load

SIZE, TILE, STRIDE = 400, 160, 10
"""Of the image, of a tile and of a block in pixels."""


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return blobs(SIZE, SIZE, seed=5)


@pytest.fixture(scope="module")
def mosaic(pixels: np.ndarray, tmp_path_factory) -> Mosaic:
    folder = tmp_path_factory.mktemp("images")
    write_tif(folder / "a.tif", pixels)
    return city_of(load(None, {"sources": [str(folder)]}), None, apart=False).mosaic


def explained(mosaic: Mosaic, target: ExplainedObject, batch_size: int = 4) -> ObjectExplanation:
    with Reader(mosaic) as reader:
        engine = ObjectEngine(colours_model())
        explainer = ObjectExplainer(engine, reader, Tiling(TILE, 40, STRIDE), batch_size)
        (explanation,) = explainer.explain([target])
    return explanation


def bright(pixels: np.ndarray, band: int) -> shapely.Geometry:
    """The first bright rectangle of a band, in pixels."""
    rows, cols = np.nonzero(pixels[band] == 230)
    row, col = rows[0], cols[0]
    bottom = row + np.argmin(np.append(pixels[band, row:, col], 0) == 230)
    right = col + np.argmin(np.append(pixels[band, row, col:], 0) == 230)
    return shapely.box(col, row, right, bottom)


def test_numbers_equal_those_of_loops(mosaic: Mosaic, pixels: np.ndarray) -> None:
    shape = bright(pixels, 0)
    other = shapely.box(0, 0, 25, 25)
    explanation = explained(mosaic, ExplainedObject("1_0_0", 1, shape, (other,)))
    (part,), numbers = explanation.parts, explanation.numbers()
    window, heat = part.window, part.at_pixels.astype(float)
    rows, cols = np.mgrid[window.row : window.bottom, window.col : window.right] + 0.5
    inside = shapely.contains_xy(shape, cols, rows)
    distance = distance_transform_edt(~inside) * GSD
    beside = shapely.contains_xy(other, cols, rows) & ~inside
    total = heat.sum()
    assert numbers["own_share"] == pytest.approx(heat[inside].sum() / total)
    assert numbers["own_near"] == pytest.approx(heat[distance <= 2.0 + 1e-9].sum() / total)
    assert numbers["own_peak_m"] == pytest.approx(distance[heat == heat.max()].min())
    assert numbers["leak"] == pytest.approx(heat[beside].sum() / total)
    # The network goes by its own pixels alone.
    assert numbers["alone"] == pytest.approx(1.0, abs=0.01)
    assert numbers["without"] < 0.3
    assert numbers["own_drop"] > numbers["random_drop"] + 0.3
    assert list(numbers) == list(OBJECT_COLUMNS)


def test_the_drop_is_that_of_the_highest_blocks(mosaic: Mosaic, pixels: np.ndarray) -> None:
    explanation = explained(mosaic, ExplainedObject("1_0_0", 1, bright(pixels, 0)))
    (part,) = explanation.parts
    engine = ObjectEngine(colours_model())
    n = TILE // STRIDE
    blocks = part.at_pixels.reshape(n, STRIDE, n, STRIDE).mean(axis=(1, 3))
    own = int(part.tile.part.reshape(n, STRIDE, n, STRIDE).any(axis=(1, 3)).sum())
    assert own > round(0.03 * n * n)  # as many as the object has
    chosen = np.argsort(-blocks, axis=None, kind="stable")[:own]
    place = np.arange(TILE)
    gauss = np.exp(-(((place - place[:, None]) / (TILE / 8)) ** 2) / 2)
    blur = (gauss @ part.pixels.astype(float) @ gauss) / (gauss @ np.ones((TILE, TILE)) @ gauss)
    changed = part.pixels.copy()
    for block in chosen:
        i, j = divmod(int(block), n)
        at = np.s_[:, i * STRIDE : (i + 1) * STRIDE, j * STRIDE : (j + 1) * STRIDE]
        changed[at] = blur[at].round()
    both = np.stack([part.pixels, changed])
    probability = engine.probabilities(torch.from_numpy(both))[:, 1][:, part.tile.part].mean(axis=1)
    drop = 1 - probability[1] / probability[0]
    assert np.sort(-blocks, axis=None)[len(chosen) - 1] < 0  # no block of 0 is among them
    assert explanation.numbers()["own_drop"] == pytest.approx(drop, abs=1e-3)


def test_tiles_have_their_object_in_the_centre_and_lie_on_blocks_of_the_mosaic() -> None:
    extent = Window(0, 0, 1003, 1003)
    assert centred(shapely.box(300, 500, 340, 520), 160, 10, extent) == Window(430, 240, 160, 160)
    assert centred(shapely.box(0, 0, 30, 30), 160, 10, extent) == Window(0, 0, 160, 160)
    edge = centred(shapely.box(980, 980, 1003, 1003), 160, 10, extent)
    assert edge == Window(850, 850, 160, 160)  # the last pixel is on it
    small = centred(shapely.box(0, 0, 30, 30), 160, 10, Window(0, 0, 50, 50))
    assert small == Window(0, 0, 160, 160)


def test_an_object_wider_than_a_tile_is_explained_in_parts(mosaic: Mosaic) -> None:
    shape = shapely.union(shapely.box(20, 100, 380, 130), shapely.box(20, 130, 40, 330))
    target = ExplainedObject("1_0_0", 1, shape)
    tiles = list(object_tiles(target, TILE, STRIDE, mosaic.grid.window, (GSD, GSD)))
    assert len(tiles) > 4
    covered = np.zeros((SIZE, SIZE), int)
    for tile in tiles:
        rows, cols = tile.window.slices(mosaic.grid.window)
        covered[rows, cols] += tile.part
        assert not (tile.part & ~tile.inside).any()
    assert covered.max() == 1
    assert covered.sum() == shape.area
    explanation = explained(mosaic, target)
    assert [part.window for part in explanation.parts] == tile_windows(
        shape, TILE, STRIDE, mosaic.grid.window
    )
    assert 0 <= explanation.numbers()["own_share"] <= 1


def test_results_do_not_depend_on_the_objects_before(mosaic: Mosaic, pixels: np.ndarray) -> None:
    targets = [ExplainedObject(str(band), band + 1, bright(pixels, band)) for band in range(3)]
    with Reader(mosaic) as reader:
        engine = ObjectEngine(colours_model())
        explainer = ObjectExplainer(engine, reader, Tiling(TILE, 40, STRIDE), 4)
        together = [each.numbers() for each in explainer.explain(targets)]
        apart = [next(explainer.explain([target])).numbers() for target in reversed(targets)]
    assert together == apart[::-1]
