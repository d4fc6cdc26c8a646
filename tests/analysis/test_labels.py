"""Labels of what people have looked at, read back as a training would."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.features import rasterize
from support.cities import blobs, colours_model, write_tif
from support.commands import typed
from support.reviews import sql

from capecam.analysis.review.coco import annotation, without_holes
from capecam.analysis.review.labels import export_labels
from capecam.analysis.review.queue import add_queue
from capecam.analysis.review.review_file import ReviewFile
from capecam.grid import Window
from capecam.io.cog import why_not_cog
from capecam.run.supervisor import run
from capecam.settings.loading import load
from capecam.store.run_folder import RunFolder

HEIGHT, WIDTH, TILE = 200, 300, 64

PIXELS = blobs(HEIGHT, WIDTH, seed=4)
PIXELS[:] = np.where(PIXELS == 230, 20, PIXELS)  # only the objects below
BOXES = {  # (top, left, bottom, right) of objects by the channel that is bright
    "a": (0, 10, 10, 30, 40), "b": (1, 50, 50, 80, 90), "c": (2, 20, 140, 50, 160),
    "d": (0, 130, 200, 160, 230), "e": (1, 90, 260, 110, 290),
}  # fmt: skip
for channel, top, left, bottom, right in BOXES.values():
    PIXELS[channel, top:bottom, left:right] = 230
PIXELS[0, 140:150, 210:220] = 20  # a hole in d
VALID = np.ones((HEIGHT, WIDTH), np.bool_)
VALID[:, 295:] = False


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run with five objects: a, b, c, d and e."""
    folder = tmp_path_factory.mktemp("labels")
    write_tif(folder / "in" / "a.tif", PIXELS, mask=VALID)
    run(load(None, {
        "sources": [str(folder / "in")], "out": str(folder / "out"), "compute.readers": 0,
        "explain.calibration_tiles": 1, "explain.methods": ["gradcam"], "objects.explain": "none",
        "tiling.size": TILE, "tiling.overlap": 0, "tiling.stride": 8,
        "detections.min_area_m2": 0.0,
    }), model=colours_model())  # fmt: skip
    return folder / "out"


@pytest.fixture
def out(made, tmp_path) -> Path:
    shutil.copytree(made.parent, tmp_path / "city")
    return tmp_path / "city" / "out"


def outlines(out: Path) -> dict[str, shapely.Geometry]:
    """Outlines of the objects in pixels of the image, by name."""
    run_ = RunFolder.open(out)
    table = gpd.read_parquet(out / "detections.parquet")
    shapes = shapely.transform(table.geometry.to_numpy(), run_.grid.to_lattice)
    assert len(shapes) == len(BOXES)
    return {
        name: next(s for s in shapes if s.intersects(shapely.Point(left + 1, top + 1)))
        for name, (_, top, left, _, _) in BOXES.items()
    }


def look(out: Path, **words: str) -> None:
    """Write verdicts on objects by name; of another class: the class."""
    add_queue(out, 99)
    run_ = RunFolder.open(out)
    rows = pyogrio.read_dataframe(out / "review.gpkg", layer="verdicts", fid_as_index=True)
    shapes = shapely.transform(rows.geometry.to_numpy(), run_.grid.to_lattice)
    for name, word in words.items():
        _, top, left, _, _ = BOXES[name]
        (fid,) = rows.index[shapely.intersects(shapes, shapely.Point(left + 1, top + 1))]
        set_ = f"'{word}'" if word in ("right", "wrong") else f"'wrong', true_class = '{word}'"
        sql(out / "review.gpkg", f"UPDATE verdicts SET verdict = {set_} WHERE fid = {fid}")


def add_missed(out: Path, *boxes: tuple) -> None:
    """Draw boxes (left, top, right, bottom) in pixels as missed water heaters."""
    run_ = RunFolder.open(out)
    shapes = shapely.transform(np.array([shapely.box(*b) for b in boxes]), run_.grid.to_map)
    missed = gpd.GeoDataFrame({"class": "water heater"}, geometry=shapes, crs=run_.grid.crs,
                              index=range(len(boxes)))  # fmt: skip
    ReviewFile.of(run_).add({"missed": missed})


def add_block(out: Path, *, checked: bool = True, rows: tuple[str, ...] = ()) -> None:
    """Draw the block of pixels 0..128 x 128..256."""
    run_ = RunFolder.open(out)
    (shape,) = shapely.transform(np.array([shapely.box(128, 0, 256, 128)]), run_.grid.to_map)
    block = gpd.GeoDataFrame(
        {"block": ["b1"], "probability": [0.5], "checked": [checked]}, geometry=[shape],
        crs=run_.grid.crs,
    )  # fmt: skip
    ReviewFile.of(run_).add({"sample": block})


def read(folder: Path) -> dict[tuple[int, int], np.ndarray]:
    """Masks by column and row of the tile."""
    found = {}
    for path in sorted((folder / "masks").glob("*.tif")):
        _, col, row = path.stem.split("_")
        with rasterio.open(path) as dataset:
            found[int(col), int(row)] = dataset.read(1)
    return found


def burn(shape: shapely.Geometry) -> np.ndarray:
    return rasterize([shape], out_shape=(HEIGHT, WIDTH)).astype(bool)


def whole(tiles: dict[tuple[int, int], np.ndarray]) -> np.ndarray:
    """The masks as one image; 254 where there is no tile."""
    image = np.full((4 * TILE, 5 * TILE), 254, np.uint8)
    for (col, row), tile in tiles.items():
        image[row : row + TILE, col : col + TILE] = tile
    return image[:HEIGHT, :WIDTH]


def test_a_pixel_has_a_label_only_where_somebody_looked(out, tmp_path) -> None:
    """a is right, b is wrong and nothing, c is of another class, d and e are not looked at."""
    look(out, a="right", b="wrong", c="solar panel")
    add_missed(out, (3, 150, 9, 160), (128, 132, 135, 140))
    labels = export_labels(out, tmp_path / "labels")
    image, shape = whole(read(tmp_path / "labels")), outlines(out)
    expected = np.full((HEIGHT, WIDTH), 254, np.uint8)
    tiles = {  # row, column: all of its objects are known
        (0, 0): True, (0, 64): True, (64, 0): True, (64, 64): True, (0, 128): True,
        (128, 0): False, (128, 128): False,  # only something that was missed
    }  # fmt: skip
    for (row, col), is_complete in tiles.items():
        expected[row : row + TILE, col : col + TILE] = 0 if is_complete else 255
    expected[burn(shape["a"])] = 1
    expected[burn(shape["c"])] = 1
    expected[150:160, 3:9] = expected[132:140, 128:135] = 2
    assert np.array_equal(image, expected)
    assert (labels.tiles, labels.complete, labels.objects) == (7, 5, 4)


@pytest.mark.thorough
def test_what_was_not_looked_at_is_unknown_with_the_rest_of_its_tile(out, tmp_path) -> None:
    """d, with a hole, lies in four tiles; only the missed one beside it was looked at."""
    look(out, e="right")
    add_missed(out, (190, 135, 195, 140))
    labels = export_labels(out, tmp_path / "labels")
    image = whole(read(tmp_path / "labels"))
    expected = np.full((HEIGHT, WIDTH), 254, np.uint8)
    expected[128:192, 128:192] = 255  # d does not reach into this tile; nobody may have looked
    expected[135:140, 190:195] = 2
    expected[128:192, 192:256] = 255
    expected[135:140, 192:195] = 2
    expected[64:128, 256:295] = 0
    expected[64:128, 295:] = 255  # no imagery
    expected[burn(outlines(out)["e"]) & VALID] = 2
    assert np.array_equal(image, expected)
    entries = json.loads((tmp_path / "labels" / "labels.json").read_text())["images"]
    assert {e["file_name"]: (e["complete"], e["known_share"]) for e in entries} == {
        "images/tile_256_64.tif": (True, 1.0),
        "images/tile_128_128.tif": (False, round(10 / 64**2, 6)),
        "images/tile_192_128.tif": (False, round(15 / 64**2, 6)),
    }
    assert labels.complete == 1


def test_a_checked_block_is_known_whatever_the_map_says_now(out, tmp_path) -> None:
    """c is in the block, and was found after it had been checked: there is no object."""
    add_block(out)
    export_labels(out, tmp_path / "labels")
    tiles = read(tmp_path / "labels")
    assert sorted(tiles) == [(128, 0), (128, 64), (192, 0), (192, 64)]
    assert not any(tile.any() for tile in tiles.values())
    entries = json.loads((tmp_path / "labels" / "labels.json").read_text())["images"]
    assert {entry["complete_by"] for entry in entries} == {"block"}


def test_a_tile_at_the_edge_of_the_imagery_can_be_complete(out, tmp_path) -> None:
    """Pixels 192..300 x 128..200: blocks end where the imagery does, tiles beyond."""
    run_ = RunFolder.open(out)
    (shape,) = shapely.transform(np.array([shapely.box(192, 128, 300, 200)]), run_.grid.to_map)
    block = {"block": ["b1"], "probability": [0.5], "checked": [True]}
    ReviewFile.of(run_).add(
        {"sample": gpd.GeoDataFrame(block, geometry=[shape], crs=run_.grid.crs)}
    )
    export_labels(out, tmp_path / "labels")
    entries = json.loads((tmp_path / "labels" / "labels.json").read_text())["images"]
    assert len(entries) == 4
    assert {entry["complete_by"] for entry in entries} == {"block"}
    tile = read(tmp_path / "labels")[256, 192]
    assert (tile[:8, :39] == 0).all()
    assert (tile[8:] == 255).all()
    assert (tile[:, 39:] == 255).all()


def test_a_block_that_is_not_done_is_not_known(out, tmp_path) -> None:
    add_block(out, checked=False)
    with pytest.raises(Exception, match="nobody has looked at anything on the images; fill in"):
        export_labels(out, tmp_path / "labels")
    assert list(tmp_path.iterdir()) == [tmp_path / "city"]


@pytest.mark.thorough
def test_a_point_and_a_contradiction_make_a_place_unknown(out, tmp_path) -> None:
    look(out, a="right", b="right")
    run_ = RunFolder.open(out)
    file = ReviewFile.of(run_)
    rows = file.read().looked_at
    a = rows[[s.area < 6 for s in rows.geometry]][["id", "class", "geometry"]]
    file.add({"verdicts": a.assign(verdict="wrong")})
    sql(out / "review.gpkg", "UPDATE verdicts SET checked_at = '2026'")
    x, y = run_.grid.xy(100, 100)
    points = gpd.GeoDataFrame(
        {"class": ["water heater"], "m2": [np.pi * 0.4**2]}, geometry=[shapely.Point(x, y)],
        crs=run_.grid.crs,
    )  # fmt: skip
    points.to_file(out / "other.gpkg", layer="missed")
    other = ReviewFile.of(run_, out / "other.gpkg")
    other.add({"verdicts": file.read().verdicts[["id", "class", "verdict", "checked_at",
                                                "geometry"]]})  # fmt: skip
    export_labels(out, tmp_path / "labels", out / "other.gpkg")
    image, shape = whole(read(tmp_path / "labels")), outlines(out)
    assert (image[burn(shape["a"])] == 255).all()
    disc = burn(shapely.Point(100, 100).buffer(5))
    assert (image[disc] == 255).all()
    assert (image[burn(shape["b"])] == 2).all()
    entries = json.loads((tmp_path / "labels" / "labels.json").read_text())["images"]
    assert not next(e for e in entries if e["file_name"] == "images/tile_64_64.tif")["complete"]


def test_coco_is_what_its_readers_expect(out, tmp_path) -> None:
    look(out, a="right", b="right", c="right", d="right", e="right")
    export_labels(out, tmp_path / "labels")
    tree = json.loads((tmp_path / "labels" / "labels.json").read_text())
    masks = read(tmp_path / "labels")
    assert tree["categories"] == [
        {"id": 1, "name": "solar panel", "supercategory": "object"},
        {"id": 2, "name": "water heater", "supercategory": "object"},
        {"id": 3, "name": "pool heater", "supercategory": "object"},
    ]
    images = {entry["id"]: entry for entry in tree["images"]}
    assert sorted(entry["id"] for entry in tree["annotations"]) == list(
        range(1, len(tree["annotations"]) + 1)
    )
    painted = {number: np.zeros((TILE, TILE), np.uint8) for number in images}
    for entry in tree["annotations"]:
        assert set(entry) >= {"id", "image_id", "category_id", "segmentation", "area", "bbox"}
        assert entry["iscrowd"] == 0
        mask = np.zeros((TILE, TILE), bool)
        for flat in entry["segmentation"]:
            assert len(flat) >= 6
            assert len(flat) % 2 == 0
            assert 0 <= min(flat) <= max(flat) <= TILE
            mask ^= rasterize([shapely.Polygon(np.reshape(flat, (-1, 2)))],
                              out_shape=mask.shape).astype(bool)  # fmt: skip
        assert mask.sum() == entry["area"]
        rows, cols = np.nonzero(mask)
        left, top, width, height = entry["bbox"]
        assert (left, top) == (cols.min(), rows.min())
        assert (left + width, top + height) == (cols.max() + 1, rows.max() + 1)
        painted[entry["image_id"]][mask] = entry["category_id"]
    for number, entry in images.items():
        _, col, row = Path(entry["file_name"]).stem.split("_")
        mask = masks[int(col), int(row)]
        assert np.array_equal(np.where(mask == 255, 0, mask), painted[number] * (mask != 255))
        assert (entry["width"], entry["height"]) == (TILE, TILE)
    assert sum(len(entry["segmentation"]) > 1 for entry in tree["annotations"]) >= 1  # the hole


def test_files_are_cogs_in_their_place(out, tmp_path) -> None:
    look(out, a="right", e="wrong")
    typed("export", out, "--labels", tmp_path / "labels")
    run_ = RunFolder.open(out)
    for kind in ("images", "masks"):
        for path in (tmp_path / "labels" / kind).iterdir():
            assert why_not_cog(path) is None
            _, col, row = path.stem.split("_")
            with rasterio.open(path) as dataset:
                window = Window(int(row), int(col), TILE, TILE)
                assert dataset.transform == run_.grid.crop(window).transform
                assert dataset.shape == (TILE, TILE)
                assert dataset.crs.to_wkt() == rasterio.crs.CRS.from_wkt(run_.grid.crs).to_wkt()
    with rasterio.open(tmp_path / "labels" / "images" / "tile_0_0.tif") as dataset:
        assert np.array_equal(dataset.read(), PIXELS[:, :TILE, :TILE])
        assert [c.name for c in dataset.colorinterp] == ["red", "green", "blue"]
        assert dataset.compression.name == "deflate"
    with rasterio.open(tmp_path / "labels" / "images" / "tile_256_64.tif") as dataset:
        assert np.array_equal(dataset.dataset_mask()[:, : WIDTH - 256] > 0, VALID[:TILE, 256:])
    with rasterio.open(tmp_path / "labels" / "masks" / "tile_0_0.tif") as dataset:
        assert (dataset.nodata, dataset.dtypes) == (255, ("uint8",))
        assert dataset.colormap(1)[1][:3] == (0, 255, 0)


def test_polygons_have_their_true_area(out, tmp_path) -> None:
    look(out, a="right", b="pool heater", c="wrong")
    sql(out / "review.gpkg", "UPDATE verdicts SET true_m2 = 9.5 WHERE true_class IS NOT NULL")
    add_missed(out, (3, 150, 9, 160))
    export_labels(out, tmp_path / "labels")
    rows = pyogrio.read_dataframe(tmp_path / "labels" / "labels.gpkg", layer="labels")
    found = {(row["class"], row["source"], round(row["m2"], 4)) for _, row in rows.iterrows()}
    assert found == {
        ("solar panel", "detection", round(20 * 30 * 0.08**2, 4)),
        ("pool heater", "detection", 9.5),
        ("water heater", "missed", round(6 * 10 * 0.08**2, 4)),
    }
    tiles = pyogrio.read_dataframe(tmp_path / "labels" / "labels.gpkg", layer="tiles")
    assert set(tiles["file"]) == {p.name for p in (tmp_path / "labels" / "images").iterdir()}
    assert tiles["objects"].sum() == 1 + 4 + 1


def test_what_was_missed_and_is_found_and_confirmed_is_one_object(out, tmp_path) -> None:
    look(out, b="right")
    add_missed(out, (50, 50, 91, 80))
    assert export_labels(out, tmp_path / "labels").objects == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "a", "--format", "csv"], "exactly one of --format and --labels"),
        (["--labels", "a", "--to", "b"], "exactly one of --format and --labels"),
        ([], "exactly one of --format and --labels"),
        (["--format", "csv", "--reviews", "a"], "--reviews needs --labels"),
        (["--labels", "a", "--reviews", "b"], "b: there is no such file"),
    ],
)
def test_calls_that_make_no_sense(made, options, message) -> None:
    assert message in typed("export", made, *options, code=2).stderr


def test_a_folder_is_not_overwritten(out, tmp_path) -> None:
    look(out, a="right")
    (tmp_path / "labels").mkdir()
    export_labels(out, tmp_path / "labels")
    before = sorted((tmp_path / "labels").rglob("*"))
    message = typed("export", out, "--labels", tmp_path / "labels", code=2).stderr
    assert "exists, and is not overwritten; name a new folder" in message
    assert sorted((tmp_path / "labels").rglob("*")) == before


def test_images_must_be_those_of_the_run(made, tmp_path) -> None:
    (made / "review.gpkg").unlink(missing_ok=True)
    look(made, a="right")
    image = made.parent / "in" / "a.tif"
    image.rename(tmp_path / "a.tif")
    try:
        gone = typed("export", made, "--labels", tmp_path / "labels", code=2).stderr
        write_tif(image, np.roll(PIXELS, 1), mask=VALID)
        changed = typed("export", made, "--labels", tmp_path / "labels", code=2).stderr
    finally:
        shutil.move(tmp_path / "a.tif", image)
        (made / "review.gpkg").unlink()
    assert "there is no such file, or no GeoTIFF in it" in gone
    assert "has changed since the run" in changed
    assert list(tmp_path.iterdir()) == []


def test_holes_are_cut_open() -> None:
    ring = shapely.box(0, 0, 10, 10).difference(shapely.box(2, 2, 4, 8))
    both = ring.difference(shapely.box(5, 4, 9, 6))
    for shape, fewest in ((ring, 2), (both, 3), (shapely.box(0, 0, 1, 1), 1)):
        parts = list(without_holes(shape))
        assert len(parts) >= fewest
        assert not any(len(part.interiors) for part in parts)
        assert sum(part.area for part in parts) == shape.area
        assert shapely.union_all(parts).equals(shape)
    found = annotation(shapely.box(12, 21, 15, 22), Window(20, 10, 8, 8))
    assert found == {
        "segmentation": [[5, 1, 5, 2, 2, 2, 2, 1]], "area": 3, "bbox": [2, 1, 3, 1], "iscrowd": 0,
    }  # fmt: skip
