"""COGs are those of GDAL's COG driver, written in one pass: what differs is named here."""

from __future__ import annotations

import errno
import itertools
import json
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from support.fileserver import served
from support.memory import at_most
from support.tracing import LO19

from capecam.grid import Window
from capecam.io.cog import (
    CogBlockWriter,
    CogSet,
    Product,
    copy_with_tags,
    why_not_cog,
    write_cog,
)
from capecam.io.cog_layout import is_big
from capecam.io.pyramid import is_valid, level_shapes, mean_of_2x2

PRODUCTS = {
    "classes": Product(
        "classes", ("class",), "uint8", 255, palette={0: (9, 8, 7), 1: (0, 255, 0)}
    ),
    "probability": Product("probability", ("solar panel",), "uint8", 255, scale=1 / 254),
    "guided": Product(
        "guided", ("a", "b", "Müller & <c>"), "uint8", 255, scale=1 / 254,
        tags=({"CAPECAM_METHOD": "guided", "CAPECAM_CALIBRATION": "none"},) * 3,
    ),
    "raw": Product("raw", ("a", "b"), "float32", float("nan")),
}  # fmt: skip
SHAPES = {
    "a pixel": (1, 1),
    "smaller than a block": (511, 300),
    "a block": (512, 512),
    "one more": (512, 513),
    "four blocks": (1024, 1024),
    "odd": (1025, 1537),
    "levels that become odd": (1500, 2100),
    "narrow": (3, 2500),
    "tall": (2600, 1),
}
DEBIAN = "/usr/bin/python3"


def draw(product: Product, shape: tuple[int, int], valid: float = 1.0) -> np.ndarray:
    """(bands, height, width) of noise, as it comes in levels or in raw values.

    Left of ``valid`` it has values, in the left half of that with holes, and right of it nodata.
    """
    rng, shape = np.random.default_rng(0), (len(product.bands), *shape)
    pixels = rng.integers(0, 255, shape) if product.dtype == "uint8" else rng.normal(size=shape)
    pixels = pixels.astype(product.dtype)
    edge = round(shape[2] * valid)
    pixels[:, :, : edge // 2][:, rng.random((shape[1], edge // 2)) < 0.3] = product.nodata
    pixels[:, :, edge:] = product.nodata
    return pixels


def grid(shape: tuple[int, int]):
    return LO19.crop(Window(5, 7, *shape))


def write_with_gdal(path: Path, product: Product, pixels: np.ndarray) -> None:
    """What capecam did before it had a writer of its own."""
    where = grid(pixels.shape[1:])
    profile = {
        "driver": "GTiff", "crs": where.crs, "transform": where.transform, "dtype": product.dtype,
        "count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2],
        "nodata": product.nodata, "tiled": True, "blockxsize": 512, "blockysize": 512,
        "photometric": "MINISBLACK", "sparse_ok": True,
    }  # fmt: skip
    with rasterio.MemoryFile() as raw:
        with raw.open(**profile) as dataset:
            dataset.write(pixels)
            dataset.descriptions = product.bands
            if product.scale != 1.0:
                dataset.scales = (product.scale,) * len(pixels)
            if product.palette:
                dataset.write_colormap(1, product.palette)
            for band, tags in enumerate(product.tags, start=1):
                dataset.update_tags(band, **tags)
        with raw.open() as dataset:
            rasterio.shutil.copy(
                dataset, path, driver="COG", compress="ZSTD", level=1, blocksize=512,
                overview_resampling="NEAREST" if product.palette else "AVERAGE",
                bigtiff="IF_SAFER", sparse_ok=True,
            )  # fmt: skip


def facts(path: Path) -> dict[str, object]:
    """Everything that a reader of a file is told, but for its pixels."""
    with rasterio.open(path) as d:
        assert d.compression is not None
        return {
            "profile": repr(d.profile), "bounds": d.bounds, "wkt": d.crs.to_wkt(),
            "tags": [d.tags(ns=ns) for ns in d.tag_namespaces() if ns != "DERIVED_SUBDATASETS"],
            "tags of bands": [d.tags(band) for band in d.indexes], "bands": d.descriptions,
            "colours": d.colorinterp, "palette": d.colormap(1) if d.count == 1 and
            d.colorinterp[0].name == "palette" else None, "scales": d.scales, "offsets": d.offsets,
            "overviews": [d.overviews(band) for band in d.indexes], "masks": d.mask_flag_enums,
            "layout": d.tags(ns="IMAGE_STRUCTURE"), "units": d.units,
        }  # fmt: skip


def levels_of(path: str | Path) -> list[np.ndarray]:
    """The pixels of a file and of its overviews."""
    with rasterio.open(path) as dataset:
        pixels, count = [dataset.read()], len(dataset.overviews(1))
    for level in range(count):
        with rasterio.open(path, overview_level=level) as dataset:
            pixels.append(dataset.read())
    return pixels


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("name", PRODUCTS)
def test_files_are_those_of_gdal(tmp_path, name: str, size: str) -> None:
    """All pixels, and overviews until one has an odd edge: GDAL then uses fractions of pixels."""
    product, shape = PRODUCTS[name], SHAPES[size]
    compare_with_gdal(tmp_path, product, draw(product, shape, valid=0.7))


@pytest.mark.parametrize("name", PRODUCTS)
def test_nodata_takes_no_space(tmp_path, name: str) -> None:
    product, shape = PRODUCTS[name], (700, 1100)
    ours, theirs = compare_with_gdal(tmp_path, product, draw(product, shape, valid=0.0))
    assert ours.stat().st_size == theirs.stat().st_size < 8000


def compare_with_gdal(folder: Path, product: Product, pixels: np.ndarray) -> tuple[Path, Path]:
    ours, theirs = folder / "ours.tif", folder / "theirs.tif"
    write_cog(ours, product, grid(pixels.shape[1:]), pixels)
    write_with_gdal(theirs, product, pixels)
    assert why_not_cog(ours) == why_not_cog(theirs)
    assert facts(ours) == facts(theirs)
    found, wanted = levels_of(ours), levels_of(theirs)
    assert [x.shape for x in found] == [x.shape for x in wanted]
    exact = True
    for one, other in zip(found, wanted, strict=True):
        if exact:
            assert np.array_equal(one, other, equal_nan=product.dtype == "float32")
        exact = exact and one.shape[1] % 2 == one.shape[2] % 2 == 0
    return ours, theirs


def mean(pixels: np.ndarray, nodata: float) -> np.ndarray:
    return mean_of_2x2(pixels, is_valid(pixels, nodata), nodata)


def test_overviews_with_odd_edges_leave_the_last_row_or_column_out(tmp_path) -> None:
    product, shape = PRODUCTS["guided"], (1027, 1037)
    pixels = draw(product, shape)
    write_cog(tmp_path / "a.tif", product, grid(shape), pixels)
    full, *overviews = levels_of(tmp_path / "a.tif")
    assert level_shapes(*shape) == [(1027, 1037), (513, 518), (256, 259)]
    for overview in overviews:
        height, width = 2 * overview.shape[1], 2 * overview.shape[2]
        assert np.array_equal(overview, mean(full[:, :height, :width].copy(), 255))
        full = overview


@pytest.mark.parametrize(
    ("four", "wanted"),
    [
        ([0, 0, 0, 1], 0), ([0, 0, 1, 1], 1), ([0, 1, 1, 1], 1), ([254] * 4, 254),
        ([1, 2, 2, 255], 2), ([1, 1, 2, 255], 1), ([1, 2, 255, 255], 2), ([7, 255, 255, 255], 7),
        ([255] * 4, 255),
    ],
)  # fmt: skip
def test_means_are_over_valid_pixels_and_rounded_half_up(four, wanted) -> None:
    for order in itertools.permutations(four):
        block = np.array(order, np.uint8).reshape(1, 2, 2)
        assert mean(block, 255).tolist() == [[[wanted]]]
        block = np.where(block == 255, np.nan, block).astype(np.float32)
        valid = [value for value in four if value != 255]
        exact = np.float32(np.mean(valid)) if valid else np.float32(np.nan)
        assert np.array_equal(mean(block, np.nan), [[[exact]]], equal_nan=True)


@pytest.mark.parametrize("name", PRODUCTS)
def test_bytes_depend_neither_on_strips_nor_on_threads_nor_on_the_order(tmp_path, name) -> None:
    product, shape = PRODUCTS[name], (1700, 1300)
    pixels = draw(product, shape)
    write_cog(tmp_path / "whole.tif", product, grid(shape), pixels)
    wanted = (tmp_path / "whole.tif").read_bytes()

    for cuts in ((1, 2, 600, 1024), (512, 1025), tuple(range(0, 1700, 250))):
        with CogSet(tmp_path, grid(shape), None, [product]) as cogs:
            for rows in np.split(pixels, cuts, axis=1):
                cogs.writers[product.name].write(rows)
            cogs.finish()
        assert (tmp_path / f"{product.name}.tif").read_bytes() == wanted

    corners = list(itertools.product(range(0, 1700, 512), range(0, 1300, 512)))
    for order in (corners[::-1], sorted(corners, key=lambda c: hash(c) % 7)):
        with closing(CogBlockWriter(tmp_path / "blocks.tif", product, grid(shape))) as writer:
            for row, col in order:
                writer.write(row, col, pixels[:, row : row + 512, col : col + 512])
            writer.finish()
        assert (tmp_path / "blocks.tif").read_bytes() == wanted


def test_blocks_that_are_not_written_are_nodata(tmp_path) -> None:
    product, shape = PRODUCTS["guided"], (1100, 2100)
    pixels = draw(product, shape, valid=0.0)
    pixels[:, 512:1024, 1024:1536] = draw(product, (512, 512))
    write_cog(tmp_path / "rows.tif", product, grid(shape), pixels)
    with closing(CogBlockWriter(tmp_path / "blocks.tif", product, grid(shape))) as writer:
        writer.write(512, 1024, pixels[:, 512:1024, 1024:1536])
        writer.finish()
    assert (tmp_path / "blocks.tif").read_bytes() == (tmp_path / "rows.tif").read_bytes()


@pytest.mark.thorough
@pytest.mark.parametrize("shape", [(600, 60_000), (60_000, 600)])
def test_long_rasters_take_little_memory(tmp_path, shape) -> None:
    """Of 108 MB: 1.5 rows of blocks, at most 16 MB of compressed blocks, and the allocator's."""
    product = PRODUCTS["guided"]
    strip = draw(product, (250, shape[1]))
    limit = 70 if shape[0] > shape[1] else 270  # a row of blocks has 92 MB
    with at_most(limit), CogSet(tmp_path, grid(shape), None, [product]) as cogs:
        for row in range(0, shape[0], 250):
            cogs.writers["guided"].write(strip[:, : shape[0] - row])
        cogs.finish()
    assert why_not_cog(tmp_path / "guided.tif") is None
    with rasterio.open(tmp_path / "guided.tif") as dataset:
        assert len(dataset.overviews(1)) == 7
        for row in range(0, shape[0] - 100, 250 * 80):
            window = rasterio.windows.Window(shape[1] - 99, row, 99, 100)
            assert np.array_equal(dataset.read(window=window), strip[:, :100, -99:])


@pytest.mark.parametrize(
    ("shape", "big"),
    [((38_000, 38_000), False), ((38_500, 38_500), True), ((513, 1_500_000), False),
     ((513, 1_750_000), True)],
)  # fmt: skip
def test_files_are_big_tiffs_where_gdals_are(shape, big) -> None:
    """GDAL 3.10 takes 4 to 10 s for each of these, all nodata; this was observed once."""
    assert is_big(level_shapes(*shape), 1) == big


def test_big_tiffs_are_like_others(tmp_path, monkeypatch) -> None:
    product, shape = PRODUCTS["guided"], (1100, 1100)
    pixels = draw(product, shape)
    write_cog(tmp_path / "classic.tif", product, grid(shape), pixels)
    monkeypatch.setattr("capecam.io.cog_layout.BIG", 1_000_000)
    write_cog(tmp_path / "big.tif", product, grid(shape), pixels)
    assert (tmp_path / "classic.tif").read_bytes()[:4] == b"II*\0"
    assert (tmp_path / "big.tif").read_bytes()[:4] == b"II+\0"
    assert why_not_cog(tmp_path / "big.tif") is None
    assert facts(tmp_path / "big.tif") == facts(tmp_path / "classic.tif")
    pairs = zip(levels_of(tmp_path / "big.tif"), levels_of(tmp_path / "classic.tif"), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)


def test_without_all_rows_there_is_no_file(tmp_path) -> None:
    product = PRODUCTS["classes"]
    for rows in (0, 9, 11, 600):
        with pytest.raises(ValueError, match=rf"classes\.tif: got {rows} of 10 rows"):
            write_cog(tmp_path / "classes.tif", product, grid((10, 10)), draw(product, (rows, 10)))
    with CogSet(tmp_path, grid((1000, 1000)), None, [product]) as cogs:
        cogs.writers["classes"].write(draw(product, (999, 1000)))
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_and_leaves_no_file(tmp_path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    product = PRODUCTS["guided"]
    with CogSet(tmp_path, grid((1000, 1000)), None, [product]) as cogs:
        monkeypatch.setattr(tempfile.SpooledTemporaryFile, "write", full)
        with pytest.raises(OSError, match="No space left"):
            cogs.writers["guided"].write(draw(product, (1000, 1000)))
    assert not list(tmp_path.iterdir())


ONE = {"CAPECAM_LICENCE": "CC0-1.0", "TIFFTAG_SOFTWARE": "capecam 0.1"}
OTHER = {"CAPECAM_LICENCE": "in words, © Müller & <c>", "TIFFTAG_COPYRIGHT": "© Müller"}


@pytest.mark.parametrize("big", [False, True], ids=["classic", "big"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_new_tags_give_the_bytes_of_a_file_written_with_them(
    tmp_path, monkeypatch, name, big
) -> None:
    """Also where blocks are missing, and where there were no tags, or are none any more."""
    monkeypatch.setattr("capecam.io.cog_layout.BIG", 1000 if big else 10**9)
    product, shape, copy = PRODUCTS[name], (600, 600), tmp_path / "copy.tif"
    pixels = draw(product, shape, valid=0.5)
    tags = {"none": {}, "one": ONE, "other": OTHER}
    for key, texts in tags.items():
        write_cog(tmp_path / f"{key}.tif", product, grid(shape), pixels, texts)
    for before, after in (("none", "one"), ("other", "none"), ("one", "other")):
        copy_with_tags(tmp_path / f"{before}.tif", copy, tags[after])
        assert copy.read_bytes() == (tmp_path / f"{after}.tif").read_bytes(), (before, after)
    with rasterio.open(copy) as dataset:
        assert OTHER.items() <= dataset.tags().items()
    assert why_not_cog(copy) is None


def test_files_of_gdal_get_tags_too(tmp_path) -> None:
    """Those of version 0.1, which GDAL has laid out."""
    product, shape = PRODUCTS["guided"], (1100, 1100)
    write_with_gdal(tmp_path / "gdal.tif", product, draw(product, shape, valid=0.5))
    copy_with_tags(tmp_path / "gdal.tif", tmp_path / "copy.tif", OTHER)
    assert why_not_cog(tmp_path / "copy.tif") is None
    with rasterio.open(tmp_path / "copy.tif") as dataset:
        assert OTHER.items() <= dataset.tags().items()
    pairs = zip(levels_of(tmp_path / "gdal.tif"), levels_of(tmp_path / "copy.tif"), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)


def requests_of(host: str, name: str, read: Callable[[rasterio.DatasetReader], object]) -> int:
    """Number of requests to open a file and to read from it."""

    def count() -> int:
        with urllib.request.urlopen(f"http://{host}/requests") as answer:
            return int(answer.read())

    before = count()
    with rasterio.open(f"/vsicurl/http://{host}/{name}") as dataset:
        read(dataset)
    return count() - before


def test_a_reader_over_http_asks_as_seldom_as_of_gdals_file(tmp_path) -> None:
    product, shape = PRODUCTS["guided"], (3000, 3000)
    pixels = draw(product, shape)
    block = rasterio.windows.Window(512, 1024, 512, 512)
    reads = {"overview": lambda d: d.read(out_shape=(3, 375, 375)),
             "block": lambda d: d.read(window=block)}  # fmt: skip
    for name in reads:
        write_cog(tmp_path / f"{name}-ours.tif", product, grid(shape), pixels)
        write_with_gdal(tmp_path / f"{name}-theirs.tif", product, pixels)
    settings = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "VSI_CACHE": False}
    with served(tmp_path) as host, rasterio.Env(**settings):
        for name, read in reads.items():
            ours, theirs = (
                requests_of(host, f"{name}-{kind}.tif", read) for kind in ("ours", "theirs")
            )
            assert 0 < ours <= theirs, name


OTHER_GDAL = """
import json, sys
from osgeo import gdal
from osgeo_utils.samples.validate_cloud_optimized_geotiff import validate
gdal.UseExceptions()
found = {}
for path in sys.argv[1:]:
    dataset = gdal.Open(path)
    bands = [dataset.GetRasterBand(1)]
    bands += [bands[0].GetOverview(n) for n in range(bands[0].GetOverviewCount())]
    *problems, _ = validate(path, full_check=True)
    layout = dataset.GetMetadata("IMAGE_STRUCTURE").get("LAYOUT")
    found[path] = [layout, problems, [band.Checksum() for band in bands]]
print(json.dumps(found))
"""


@pytest.mark.qgis
def test_the_gdal_of_qgis_3_22_reads_it_and_finds_every_leader(tmp_path, monkeypatch) -> None:
    """With the validator of GDAL's authors, which looks at every block."""
    probe = [DEBIAN, "-c", "import osgeo_utils.samples.validate_cloud_optimized_geotiff"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip(f"{DEBIAN} has no GDAL; apt-get install --no-install-recommends python3-gdal")
    paths, shape = [], (1100, 2100)
    for big, (name, product) in itertools.product((False, True), PRODUCTS.items()):
        monkeypatch.setattr("capecam.io.cog_layout.BIG", 1000 if big else 10**9)
        paths.append(tmp_path / f"{name}-{big}.tif")
        write_cog(paths[-1], product, grid(shape), draw(product, shape, valid=0.5))
    command = [DEBIAN, "-c", OTHER_GDAL, *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for path, (layout, problems, checksums) in json.loads(done.stdout).items():
        assert (layout, problems) == ("COG", [[], []]), path
        with rasterio.open(path) as dataset:
            assert checksums[0] == dataset.checksum(1), path
        assert len(checksums) == 4
