"""``objects.tif``: shares of the objects' own explanations, equal to a slow loop over pixels."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
from rio_cogeo import cog_validate
from support.cities import blobs, colours_model, quick_settings, write_tif
from support.oracles import bilinear

from capecam.detections.assembly import assemble, assembly_rules, cell_pieces
from capecam.detections.regions import mask
from capecam.grid import Tiling, Window
from capecam.io.heat_layer import OBJECT_SHARE_MAX
from capecam.pipeline.object_shares import object_shares
from capecam.run.city_products import finish
from capecam.run.object_stage import explain_detections
from capecam.run.outcome import RunOutcome
from capecam.run.supervisor import run
from capecam.store.object_store import StoredObject
from capecam.store.run_folder import RunFolder
from capecam.store.verify import verify

HEIGHT, WIDTH = 320, 640
SIZE, STRIDE = 320, 10
PIXEL = (0.08, 0.08)
NEAR_M = 12.8


def explain(folder: Path, **options: object) -> RunOutcome:
    return run(quick_settings(folder, **options), model=colours_model())


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return blobs(HEIGHT, WIDTH, seed=5)


@pytest.fixture(scope="module")
def whole(pixels, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    write_tif(folder / "in" / "a.tif", pixels)
    return explain(folder).out


@pytest.fixture(scope="module")
def halves(pixels, tmp_path_factory) -> Path:
    """Output of the same imagery in two images, cut where nothing divides it."""
    folder = tmp_path_factory.mktemp("halves")
    write_tif(folder / "in" / "a.tif", pixels[:, :, :333])
    write_tif(folder / "in" / "b.tif", pixels[:, :, 333:], 333)
    return explain(folder).out


@pytest.fixture
def mine(halves, tmp_path) -> Path:
    """A copy of that output that a test may change."""
    return Path(shutil.copytree(halves.parent, tmp_path / "mine")) / "out"


def explained(out: Path) -> list[tuple[int, shapely.Geometry, StoredObject]]:
    """Class, shape in lattice pixels and explanation of every object of a run."""
    folder = RunFolder.open(out)
    found = assemble(cell_pieces(folder), assembly_rules(folder))
    stored = explain_detections(folder, found, lambda _: [])
    assert None not in stored
    return list(zip(found.objects.class_id.tolist(), found.objects.geometry, stored, strict=True))


def layer(out: Path, name: str = "objects.vrt") -> np.ndarray:
    with rasterio.open(out / name) as dataset:
        return dataset.read()


def slow_shares(shape: shapely.Geometry, stored: StoredObject) -> dict[tuple[int, int], float]:
    """Shares by (row, col) of a block, by loops: docs/outputs.md, word for word."""
    inside = np.argwhere(mask(shape, Window(0, 0, HEIGHT, WIDTH)))
    energy: dict[tuple[int, int], float] = {}
    near = set()
    for (top, left), heat in zip(stored.windows.tolist(), stored.maps, strict=True):
        fine = bilinear(heat.astype(float), SIZE, SIZE)
        for row in range(top, top + SIZE, STRIDE):
            for col in range(left, left + SIZE, STRIDE):
                block = row // STRIDE, col // STRIDE
                part = fine[row - top :, col - left :][:STRIDE, :STRIDE]
                energy[block] = energy.get(block, 0.0) + part.sum()
                y, x = (
                    np.clip(inside[:, n], at, at + STRIDE - 1) for n, at in ((0, row), (1, col))
                )
                gaps = np.hypot((inside[:, 0] - y) * PIXEL[1], (inside[:, 1] - x) * PIXEL[0])
                if gaps.min() <= NEAR_M + 1e-6:
                    near.add(block)
    total = math.fsum(energy.values())
    return {block: energy[block] / total for block in near}


def test_a_block_has_its_share_of_the_object_near_it(whole) -> None:
    levels = layer(whole)
    expected = np.full(levels.shape, -1.0)
    objects = explained(whole)
    assert len(objects) > 5
    for class_id, shape, stored in objects:
        for (row, col), share in slow_shares(shape, stored).items():
            if 0 <= row < levels.shape[1] and 0 <= col < levels.shape[2]:
                at = class_id - 1, row, col
                expected[at] = max(expected[at], share)
    assert np.array_equal(levels == 255, expected == -1)
    value = 254 * np.minimum(expected / OBJECT_SHARE_MAX, 1)
    assert np.abs(levels - value)[levels != 255].max() < 0.5 + 1e-6
    assert (levels != 255).any(axis=(1, 2)).all()
    assert 100 < levels[levels != 255].max() <= 254


def test_the_parts_of_a_wide_object_are_added() -> None:
    tiling = Tiling(SIZE, 70, STRIDE)
    shape = shapely.box(20, 100, 500, 130)
    maps = np.random.default_rng(0).random((2, 20, 20)).astype(np.float32)
    stored = StoredObject(np.zeros(9), np.array([[-40, -20], [-40, 220]]), maps)
    shares, expected = object_shares(shape, stored, tiling, PIXEL), slow_shares(shape, stored)
    assert shares.window == Window(-4, -2, 32, 56)
    for (row, col), value in np.ndenumerate(shares.values):
        assert expected.get((row - 4, col - 2), np.nan) == pytest.approx(value, nan_ok=True)
    assert 0.9 < np.nansum(shares.values) <= 1


def test_a_map_of_zeros_has_shares_of_zero() -> None:
    stored = StoredObject(np.zeros(9), np.array([[0, 0]]), np.zeros((1, 20, 20), np.float32))
    shares = object_shares(shapely.box(150, 150, 170, 170), stored, Tiling(), PIXEL).values
    assert set(np.unique(shares[~np.isnan(shares)])) == {0.0}
    assert not np.isnan(shares).all()


def test_the_files_are_what_the_contract_says(halves) -> None:
    for path in [*halves.glob("cells/*/objects.tif"), halves / "objects.overview.tif"]:
        assert cog_validate(path, strict=True, quiet=True)[0]
    with rasterio.open(halves / "cells" / "a" / "objects.tif") as dataset:
        assert dataset.descriptions == ("solar panel", "water heater", "pool heater")
        assert (dataset.dtypes, dataset.nodata) == (("uint8",) * 3, 255)
        assert dataset.scales == (OBJECT_SHARE_MAX / 254,) * 3
        assert dataset.res == (0.8, 0.8)
        assert dataset.shape == (32, 34)
        tags = dataset.tags(1)
        assert (tags["CAPECAM_METHOD"], tags["CAPECAM_TARGET_LAYER"]) == ("hirescam", "stride 8")
    with rasterio.open(halves / "objects.vrt") as city:
        assert city.scales == (OBJECT_SHARE_MAX / 254,) * 3
        assert city.shape == (32, 64)


def test_it_is_the_same_however_the_city_is_cut(whole, halves) -> None:
    assert np.array_equal(layer(whole), layer(halves))


def test_the_same_run_leaves_the_files_alone(mine) -> None:
    before = {path: path.stat().st_mtime_ns for path in mine.glob("cells/*/objects.tif")}
    assert len(before) == 2
    assert explain(mine.parent).kept == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_only_what_changes_is_written_again(mine) -> None:
    """The smallest solar panel is in the west, farther from the east than it is drawn."""
    paths = [mine / "cells" / cell / "objects.tif" for cell in "ab"]
    times, old = [path.stat().st_mtime_ns for path in paths], layer(mine)
    outcome = explain(mine.parent, detections__min_area_m2={"solar panel": 6.0})
    assert outcome.kept == 2
    again = [path.stat().st_mtime_ns for path in paths]
    assert again[0] > times[0]
    assert again[1] == times[1]
    new = layer(mine)
    assert (new[0] == 255).sum() > (old[0] == 255).sum()
    assert np.array_equal(new[1:], old[1:])
    assert not verify(mine).findings


def test_without_explanations_there_are_no_files(mine) -> None:
    explain(mine.parent, objects__explain="none")
    assert not list(mine.rglob("objects*"))
    assert not verify(mine).findings
    explain(mine.parent)
    assert (mine / "objects.vrt").exists()


def test_verify_finds_damage_and_finish_mends_it(mine) -> None:
    path = mine / "cells" / "b" / "objects.tif"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (finding,) = verify(mine).findings
    assert finding.path == str(path)
    assert "capecam finish" in finding.remedy
    finish(mine)
    assert path.read_bytes() == whole
    assert not verify(mine).findings
    record = json.loads((mine / "run.json").read_text())["objects"]
    assert set(record) == {"a", "b"}
    path.unlink()
    assert [finding.path for finding in verify(mine).findings] == [str(path)]
