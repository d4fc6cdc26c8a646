"""Pixels and validity of any GeoTIFF that a city may deliver. Oracle: rasterio."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.enums import ColorInterp
from rasterio.transform import Affine
from support.cities import CORNER, CRS, GSD, blobs, colours_model, write_tif
from support.commands import typed

from capecam.errors import UsageError
from capecam.grid import Window
from capecam.mosaic.city import open_city
from capecam.mosaic.mosaic import Mosaic
from capecam.mosaic.reader import Reader
from capecam.mosaic.value_range import find_value_range
from capecam.run.inspection import inspect_path
from capecam.run.plan import make_plan
from capecam.run.supervisor import run
from capecam.run.text_table import key_value_table, text_table
from capecam.settings import ImagerySettings, MosaicSettings, Settings, ValueRange
from capecam.settings.loading import load
from capecam.store.run_folder import RunFolder

SHAPE = (150, 210)
"""Not multiples of the 64 px of a block."""

R, G, B, A, U, N, GRAY = (
    ColorInterp[name] for name in ("red", "green", "blue", "alpha", "undefined", "nir", "gray")
)
BLOCKS = {"tiled": True, "blockxsize": 64, "blockysize": 64}


def scene(dtype: str = "uint8") -> np.ndarray:
    """Return (3, H, W) values from 1 on; beyond bytes, over 4,000 levels."""
    pixels = np.maximum(blobs(*SHAPE), 1)
    return pixels if dtype == "uint8" else (pixels.astype(np.float64) * 16 + 7).astype(dtype)


def hole() -> np.ndarray:
    """Return (H, W) bool: True is no imagery."""
    mask = np.zeros(SHAPE, bool)
    mask[20:70, 100:] = True
    return mask


def with_alpha(pixels: np.ndarray) -> np.ndarray:
    """Return (4, H, W) with opaque, translucent and transparent pixels."""
    top = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 1
    alpha = np.where(hole(), 0, top).astype(pixels.dtype)
    alpha[100:120] = 1
    return np.concatenate([pixels, alpha[None]])


def with_nodata(pixels: np.ndarray, value: float = 0) -> np.ndarray:
    """Return pixels with nodata, and with its value in one band only, which is imagery."""
    pixels = pixels.copy()
    pixels[:, hole()] = value
    pixels[0, 5:9, 5:9] = value
    return pixels


def plain(path: Path, pixels: np.ndarray | None = None, **profile) -> Path:
    """Write a GeoTIFF with these options, by default RGB."""
    pixels = scene() if pixels is None else pixels
    return write_tif(path, pixels, **{"tiled": False, "photometric": "RGB", **profile})


def as_cog(path: Path) -> Path:
    raw = plain(path.with_name("raw"), **BLOCKS)
    rasterio.shutil.copy(raw, path, driver="COG", compress="DEFLATE", blocksize=128)
    raw.unlink()
    return path


def with_external_mask(path: Path) -> Path:
    plain(path)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(~hole())
    assert path.with_name(path.name + ".msk").exists()
    return path


def bgra(path: Path) -> Path:
    pixels = with_alpha(scene())[[2, 1, 0, 3]]
    return plain(path, pixels, colorinterp=(B, G, R, A), alpha="YES", photometric="MINISBLACK")


JPEG = {"compress": "jpeg", "photometric": "YCBCR"}
STORED: dict[str, Callable[[Path], Path]] = {
    "striped, uncompressed": lambda p: plain(p, compress="none"),
    "one strip": lambda p: plain(p, blockysize=SHAPE[0]),
    "tiled": lambda p: plain(p, **BLOCKS),
    "planar": lambda p: plain(p, interleave="band", **BLOCKS),
    "planar in strips": lambda p: plain(p, interleave="band"),
    "lzw with a predictor": lambda p: plain(p, compress="lzw", predictor=2),
    "zstd": lambda p: plain(p, compress="zstd", **BLOCKS),
    "lzma": lambda p: plain(p, compress="lzma"),
    "packbits": lambda p: plain(p, compress="packbits"),
    "webp, lossless": lambda p: plain(p, compress="webp", webp_lossless=True, **BLOCKS),
    "webp": lambda p: plain(p, compress="webp", **BLOCKS),
    "webp with alpha": lambda p: plain(p, with_alpha(scene()), compress="webp", alpha="YES"),
    "lerc": lambda p: plain(p, compress="lerc", **BLOCKS),
    "lerc, rounded": lambda p: plain(p, compress="lerc_zstd", max_z_error=3, **BLOCKS),
    "jpeg": lambda p: plain(p, **JPEG, **BLOCKS),
    "jpeg in strips": lambda p: plain(p, **JPEG),
    "jpeg as RGB": lambda p: plain(p, compress="jpeg", **BLOCKS),
    "jpeg, planar": lambda p: plain(p, compress="jpeg", interleave="band"),
    "jpeg with a mask": lambda p: plain(p, **JPEG, **BLOCKS, mask=~hole()),
    "bigtiff": lambda p: plain(p, bigtiff="YES"),
    "cog": as_cog,
    "internal mask": lambda p: plain(p, mask=~hole()),
    "external mask": with_external_mask,
    "mask and nodata": lambda p: plain(p, with_nodata(scene(), 9), mask=~hole()[::-1], nodata=9),
    "alpha": lambda p: plain(p, with_alpha(scene()), alpha="YES"),
    "alpha and a mask": lambda p: plain(p, with_alpha(scene()), alpha="YES", mask=~hole()[::-1]),
    "nodata": lambda p: plain(p, with_nodata(scene()), nodata=0),
    "a fourth band": lambda p: plain(p, with_alpha(scene()), colorinterp=(R, G, B, U)),
    "blue, green, red, alpha": bgra,
}  # fmt: skip


def read_image(
    path: Path, window: Window | None = None, **imagery
) -> tuple[np.ndarray, np.ndarray, Mosaic]:
    """Return pixels and validity of one image as the network receives them, and the mosaic."""
    settings = ImagerySettings(**imagery)
    mosaic = open_city([str(path)], None, MosaicSettings(), settings).mosaic
    with Reader(mosaic) as reader:
        return *reader.read(window or mosaic.grid.window), mosaic


@pytest.mark.parametrize("name", STORED)
def test_pixels_and_validity_are_those_of_rasterio(tmp_path: Path, name: str) -> None:
    path = STORED[name](tmp_path / "a.tif")
    with rasterio.open(path) as dataset:
        colors = [dataset.colorinterp.index(color) + 1 for color in (R, G, B)]
        pixels, valid = dataset.read(colors), dataset.dataset_mask() > 0
    found, usable, mosaic = read_image(path)
    assert np.array_equal(usable, valid)
    assert np.array_equal(found, np.where(valid, pixels, 0))
    part = Window(37, 61, 83, 149)  # reaches past the edge
    found, usable, _ = read_image(path, part)
    within = part.intersection(mosaic.grid.window)
    assert within is not None
    rows, cols = within.slices(mosaic.grid.window)
    assert np.array_equal(usable[: within.height, : within.width], valid[rows, cols])
    assert np.array_equal(
        found[:, : within.height, : within.width], pixels[:, rows, cols] * valid[rows, cols]
    )


def test_alpha_decides_where_there_is_nodata_too_and_a_mask_over_both(tmp_path: Path) -> None:
    """Rasterio documents the first, but its dataset_mask makes a transparent pixel valid there,
    because its alpha differs from nodata."""
    pixels = with_alpha(with_nodata(scene(), 9))
    _, valid, _ = read_image(plain(tmp_path / "a.tif", pixels, alpha="YES", nodata=9))
    assert np.array_equal(valid, ~hole())
    pixels[:3, 140:] = 9
    _, valid, _ = read_image(plain(tmp_path / "b.tif", pixels, alpha="YES", nodata=9))
    assert valid[140:].all()
    mask = np.ones(SHAPE, bool)
    mask[:, 50:60] = False
    _, valid, _ = read_image(plain(tmp_path / "c.tif", pixels, alpha="YES", nodata=9, mask=mask))
    assert np.array_equal(valid, mask)


def refused(path: Path, message: str, **imagery) -> None:
    with pytest.raises(UsageError, match=message):
        read_image(path, **imagery)


def read_valid(path: Path, **imagery) -> np.ndarray:
    pixels, valid, _ = read_image(path, **imagery)
    assert valid.all()
    return pixels


def test_bands_go_by_their_colours_and_else_by_place(tmp_path: Path) -> None:
    pixels = np.concatenate([scene(), 255 - scene()])
    path = tmp_path / "a.tif"
    grey = {"photometric": "MINISBLACK"}
    plain(path, pixels[:5], colorinterp=(N, B, R, U, G), **grey)
    assert np.array_equal(read_valid(path), pixels[[2, 4, 1]])
    plain(path, pixels[:3], **grey)
    assert np.array_equal(read_valid(path), pixels[:3])
    plain(path, pixels[:4], **grey)
    assert np.array_equal(read_valid(path), pixels[:3])
    plain(path, pixels[:5], **grey)
    refused(path, r"which of its 5 band\(s\) are red, green and blue \(gray.*--bands R,G,B")
    assert np.array_equal(read_valid(path, bands="5,2,2"), pixels[[4, 1, 1]])
    refused(path, r"there is no band 6 \(--bands\), only 5 band\(s\)", bands="6,1,2")
    plain(path, pixels[:3], colorinterp=(N, R, G), **grey)
    refused(path, r"which of its 3 band\(s\).*\(nir, red, green\)")
    plain(path, with_alpha(pixels[:3]), alpha="YES")
    refused(path, "band 4 is alpha, not a colour", bands="2,3,4")


def test_one_band_is_a_picture_only_where_that_is_said(tmp_path: Path) -> None:
    grey = {"photometric": "MINISBLACK"}
    path = plain(tmp_path / "a.tif", scene()[:1], **grey)
    refused(path, r"1 band\(s\) \(gray\), expected red, green and blue; use --bands gray")
    assert np.array_equal(read_valid(path, bands="gray"), scene()[[0, 0, 0]])
    refused(path, "band 1 has no colour table", bands="palette")
    plain(path, with_alpha(scene())[2:], colorinterp=(GRAY, A), **grey, alpha="YES")
    refused(path, r"2 band\(s\) \(gray, alpha\).*--bands gray")
    found, valid, _ = read_image(path, bands="gray")
    assert np.array_equal(valid, ~hole())
    assert np.array_equal(found, scene()[[2, 2, 2]] * ~hole())
    for bands in ("gray", "auto"):
        refused(plain(path, scene(), photometric="MINISWHITE"), "is a negative", bands=bands)


def with_palette(path: Path, index: np.ndarray, colors: dict, **profile) -> Path:
    plain(path, index, photometric="palette", **profile)
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, colors)
    return path


def test_a_palette_gives_the_colours_of_its_table(tmp_path: Path) -> None:
    index = (scene()[:1] % 40).astype(np.uint8)
    index[0, hole()] = 255
    colors = {n: (n, 200 - n, 3 * n, 255) for n in range(40)} | {255: (1, 2, 3, 255)}
    path = with_palette(tmp_path / "a.tif", index, colors, nodata=255)
    refused(path, r"1 band\(s\) \(palette\).*--bands palette")
    refused(path, "values are not grey levels; use --bands palette", bands="gray")
    found, valid, _ = read_image(path, bands="palette")
    n = index[0]
    assert np.array_equal(valid, ~hole())
    assert np.array_equal(found, np.stack([n, 200 - n, 3 * n]) * ~hole())


@pytest.mark.parametrize("photometric", ["CMYK", "CIELAB", "ICCLAB", "ITULAB"])
def test_what_is_not_rgb_is_not_taken_for_it(tmp_path: Path, photometric: str) -> None:
    count = 4 if photometric == "CMYK" else 3
    pixels = np.concatenate([scene(), scene()])[:count]
    path = plain(tmp_path / "a.tif", pixels, photometric=photometric)
    for bands in ("auto", "1,2,3", "gray"):
        refused(path, "its colours are (CMYK|CIELab|ICCLab|ITULab), not RGB", bands=bands)


KINDS = ["int8", "uint16", "int16", "uint32", "int32", "int64", "uint64", "float32", "float64"]


def expected_bytes(values: np.ndarray, low: float, high: float) -> np.ndarray:
    share = (values.astype(np.float64) - low) / (high - low)
    return np.round(255 * np.minimum(np.maximum(share, 0), 1)).astype(np.uint8)


@pytest.mark.parametrize("dtype", KINDS)
def test_other_types_become_pixels_by_a_scale_that_is_given(tmp_path: Path, dtype: str) -> None:
    pixels = scene().astype(np.int64) * 16 + 7
    pixels = (pixels // 32 - 20 if dtype == "int8" else pixels).astype(dtype)
    path = plain(tmp_path / "a.tif", pixels, photometric="MINISBLACK")
    refused(path, f"pixels are {dtype}, expected uint8; .*--scale LOW,HIGH.*2%,98%")
    low, high = (-5.5, 90) if dtype == "int8" else (400.25, 3000)
    found = read_valid(path, scale=f"{low},{high}")
    assert np.array_equal(found, expected_bytes(pixels, low, high))
    assert {0, 255} <= set(found.ravel())


def test_bytes_are_never_scaled_but_masks_of_few_bits_are(tmp_path: Path) -> None:
    assert np.array_equal(read_valid(plain(tmp_path / "a.tif"), scale="0,10"), scene())
    few = scene() // 16
    path = plain(tmp_path / "b.tif", few, nbits=4)
    refused(path, "pixels are 4-bit, expected uint8")
    assert np.array_equal(read_valid(path, scale="0,15"), few * 17)
    twelve = plain(tmp_path / "c.tif", scene("uint16"), nbits=12)
    refused(twelve, "pixels are uint16")


@pytest.mark.parametrize("dtype", ["complex64", "complex_int16"])
def test_complex_numbers_are_no_picture(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "a.tif"
    profile = {"crs": CRS, "width": 8, "height": 8, "count": 3}
    with rasterio.open(path, "w", driver="GTiff", dtype=dtype, **profile) as dataset:
        dataset.transform = Affine(1, 0, 0, 0, -1, 0)
    refused(path, f"complex numbers .{dtype}", scale="0,1")


def test_what_is_no_number_is_no_imagery(tmp_path: Path) -> None:
    pixels = scene("float32")
    pixels[1, 3:5] = np.nan
    pixels[2, 7, 7] = np.inf
    pixels[:, 60:62] = -9999
    pixels[0, 64] = -9999
    expected = np.ones(SHAPE, bool)
    expected[3:5] = expected[7, 7] = expected[60:62] = False
    for nodata in (-9999, float("nan")):
        path = plain(tmp_path / "a.tif", pixels, photometric="MINISBLACK", nodata=nodata)
        found, valid, _ = read_image(path, scale="0,4000")
        expected[60:62] = nodata != -9999
        assert np.array_equal(valid, expected)
        assert np.array_equal(found, expected_bytes(np.nan_to_num(pixels), 0, 4000) * expected)


def test_sixteen_bits_of_alpha_and_nodata_that_no_pixel_can_have(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.tif", with_alpha(scene("uint16")), alpha="YES")
    found, valid, _ = read_image(path, scale="0,4087")
    assert np.array_equal(valid, ~hole())
    assert np.array_equal(found, expected_bytes(scene("uint16"), 0, 4087) * ~hole())
    path = plain(tmp_path / "b.tif", np.minimum(scene(), 254), nodata=255)
    path.write_bytes(path.read_bytes().replace(b"255\0", b"-99\0"))
    assert np.array_equal(read_valid(path), np.minimum(scene(), 254))


def write_mosaic(folder: Path, cuts: list[int], pixels: np.ndarray, **profile) -> Mosaic:
    """Write pixels as images side by side, and open them."""
    for n, (left, right) in enumerate(zip([0, *cuts], [*cuts, pixels.shape[2]], strict=True)):
        part = pixels[:, :, left:right]
        write_tif(folder / f"{n}.tif", part, left, photometric="MINISBLACK", **profile)
    imagery = ImagerySettings(scale="2%,98%")
    return open_city([str(folder)], None, MosaicSettings(), imagery).mosaic


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_percentiles_are_of_the_whole_mosaic_however_it_is_cut(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(3)
    pixels = (rng.gamma(2.0, 400.0, (3, 700, 900)) * np.array([1, 2, 3])[:, None, None]).astype(
        dtype
    )
    pixels[:, :, 500:] += 1000
    pixels[:, 100:200, 100:300] = 0
    whole = write_mosaic(tmp_path / "one", [], pixels, nodata=0)
    parts = write_mosaic(tmp_path / "many", [111, 500, 777], pixels, nodata=0)
    valid = pixels[:, (pixels != 0).any(axis=0)]
    expected = np.percentile(valid, [2, 98], method="inverted_cdf")
    percentiles = ValueRange(2, 98, percent=True)
    for mosaic in (whole, parts):
        found = find_value_range(mosaic, percentiles, 0)
        assert (found.low, found.high) == tuple(expected)


def test_percentiles_of_a_large_mosaic_are_close_and_the_same_for_any_cut(
    tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("capecam.mosaic.value_range.EDGE", 32)
    rng = np.random.default_rng(3)
    pixels = rng.gamma(2.0, 400.0, (3, 700, 900)).astype(np.float32)
    percentiles = ValueRange(2, 98, percent=True)
    found = [
        find_value_range(write_mosaic(tmp_path / str(n), cuts, pixels), percentiles, 0)
        for n, cuts in enumerate([[], [45, 333]])
    ]
    assert found[0] == found[1]
    low, high = np.percentile(pixels, [1.5, 2.5]), np.percentile(pixels, [97.5, 98.5])
    assert low[0] < found[0].low < low[1]
    assert high[0] < found[0].high < high[1]


def test_percentiles_of_nothing_are_refused(tmp_path: Path) -> None:
    same = np.full((3, *SHAPE), 700, np.uint16)
    mosaic = write_mosaic(tmp_path / "same", [], same)
    with pytest.raises(UsageError, match="both are 700 in these images; give values"):
        find_value_range(mosaic, ValueRange(2, 98, percent=True), 0)
    mosaic = write_mosaic(tmp_path / "none", [], same, nodata=700)
    named = r"no image has a valid pixel .*: .*none.*\.tif; correct their mask"
    with pytest.raises(UsageError, match=named):
        find_value_range(mosaic, ValueRange(2, 98, percent=True), 0)


def fill_hole(dtype: str, value: float) -> np.ndarray:
    pixels = scene().astype(dtype)
    pixels[:, hole()] = value
    return pixels


def opaque(pixels: np.ndarray, top: int) -> np.ndarray:
    """Return (4, H, W) with an alpha band of two values."""
    return np.concatenate([pixels, np.where(hole(), 0, top).astype(pixels.dtype)[None]])


GREY = {"photometric": "MINISBLACK"}
BYTES = {"scale": "0,255"}
SAME: dict[str, tuple[Callable[[Path], Path], dict[str, str]]] = {
    "external mask": (with_external_mask, {}),
    "alpha": (lambda p: plain(p, opaque(scene(), 255), alpha="YES"), {}),
    "nodata": (lambda p: plain(p, fill_hole("uint8", 9), nodata=9), {}),
    "nodata and alpha": (
        lambda p: plain(p, opaque(fill_hole("uint8", 9), 255), alpha="YES", nodata=9), {},
    ),
    "16 bits": (
        lambda p: plain(p, opaque(scene().astype("uint16") * 257, 65535), alpha="YES"),
        {"scale": "0,65535"},
    ),
    "no number": (lambda p: plain(p, fill_hole("float32", np.nan), **GREY, nodata=np.nan), BYTES),
    "float": (lambda p: plain(p, fill_hole("float64", -9999), **GREY, nodata=-9999), BYTES),
    "blue, green, red": (
        lambda p: plain(p, scene()[::-1], **GREY, mask=~hole()), {"bands": "3,2,1"},
    ),
}  # fmt: skip


def resampled(path: Path, **imagery) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels and validity of an image that is resampled to 13 cm."""
    settings = ImagerySettings(**imagery)
    mosaic = open_city([str(path)], None, MosaicSettings(), settings, gsd_m=0.13).mosaic
    assert mosaic.sources[0].warped
    with Reader(mosaic) as reader:
        return reader.read(mosaic.grid.window)


@pytest.mark.parametrize("name", SAME)
def test_resampling_sees_the_same_pixels(tmp_path: Path, name: str) -> None:
    """Compared with those of a plain RGB file with a mask."""
    make, imagery = SAME[name]
    expected, valid = resampled(plain(tmp_path / "plain.tif", mask=~hole()))
    found, usable = resampled(make(tmp_path / "a.tif"), **imagery)
    assert 0.5 < valid.mean() < 0.9
    assert np.array_equal(usable, valid)
    assert np.array_equal(found, expected)


def test_resampling_makes_no_colours_that_a_palette_lacks(tmp_path: Path) -> None:
    index = np.where(hole(), 255, scene()[0] % 2)[None].astype(np.uint8)
    colors = {0: (255, 0, 0, 255), 1: (0, 0, 255, 255), 255: (9, 9, 9, 255)}
    path = with_palette(tmp_path / "a.tif", index, colors, nodata=255)
    found, valid = resampled(path, bands="palette")
    assert 0.5 < valid.mean() < 0.9
    assert {tuple(color) for color in found[:, valid].T.tolist()} == {(255, 0, 0), (0, 0, 255)}


def test_resampling_what_has_a_mask_and_an_alpha_band_is_refused(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.tif", with_alpha(scene()), alpha="YES", mask=~hole()[::-1])
    with pytest.raises(UsageError, match="has a mask and an alpha band"):
        resampled(path)


def test_resampling_what_has_nodata_and_a_fourth_colour_is_refused(tmp_path: Path) -> None:
    """GDAL would treat a pixel as valid where infrared is not nodata."""
    pixels = np.concatenate([np.where(hole(), 0, np.maximum(scene(), 1)), scene()[:1]])
    path = plain(tmp_path / "a.tif", pixels, nodata=0, photometric="RGB", alpha="NO")
    with pytest.raises(UsageError, match="nodata and further bands"):
        resampled(path)


def settings(folder: Path, **options) -> Settings:
    given = {key.replace("__", "."): value for key, value in options.items()}
    defaults = {
        "sources": [str(folder / "in")], "out": str(folder / "out"), "tiling.size": 64,
        "tiling.overlap": 24, "tiling.stride": 8, "explain.calibration_tiles": 4,
        "compute.readers": 0, "qgis.imagery": True, "imagery.scale": "2%,98%",
    }  # fmt: skip
    return load(None, defaults | given)


def run_planned(folder: Path, **options) -> tuple[set[str], str]:
    """Run what plan announces; return the cells and the scale in run.json."""
    given = settings(folder, **options)
    planned = set(make_plan(given).todo)
    assert run(given, model=colours_model()).done == len(planned)
    return planned, json.loads((folder / "out" / "run.json").read_text())["scale"]


@pytest.mark.thorough
def test_a_run_finds_the_scale_once_and_stays_with_it(tmp_path: Path, caplog) -> None:
    values = blobs(*SHAPE).astype(np.uint16) * 20
    write_tif(tmp_path / "in" / "a.tif", values, 0, **GREY)
    write_tif(tmp_path / "in" / "b.tif", values[::-1], SHAPE[1], **GREY)
    write_tif(tmp_path / "in" / "bytes.tif", scene(), 0, 300)
    cells, scale = run_planned(tmp_path, model__gsd_m=0.2)
    warnings = [record.message for record in caplog.records if "trained on" in record.message]
    assert len(warnings) == 1
    assert "(3: a, b, bytes): objects look 2.5 times larger" in warnings[0]
    assert (cells, scale) == ({"a", "b", "bytes"}, expected_scale(np.stack([values, values[::-1]])))

    out = RunFolder.open(tmp_path / "out")
    assert not out.cells["bytes"].inputs.reading
    assert set(out.cells["a"].inputs.reading) == {"a", "b"}
    window = Window(0, 0, SHAPE[0], 2 * SHAPE[1])
    with Reader(out.mosaic) as reader, rasterio.open(out.out / "imagery.vrt") as shown:
        read_pixels = reader.read(window)[0]
        rows, cols = window.slices(out.grid.window)
        drawn = shown.read(window=(rows.indices(shown.height)[:2], cols.indices(shown.width)[:2]))
    assert np.abs(read_pixels.astype(int) - drawn).max() <= 1
    assert np.array_equal(
        read_pixels[:, :, : SHAPE[1]], expected_bytes(values, *map(float, scale.split(",")))
    )

    write_tif(tmp_path / "in" / "bright.tif", values * 3, 0, 600, **GREY)
    assert run_planned(tmp_path, model__gsd_m=0.2) == ({"bright"}, scale)
    for options in ({"run__recalibrate": True}, {"imagery__scale": "0,9000"}):
        again = make_plan(settings(tmp_path, model__gsd_m=0.2, **options)).todo
        assert set(again) >= {"a", "b", "bright"}
    assert "changed: reading.a.scale" in again["a"]
    assert "bytes" not in again
    other_bands = make_plan(settings(tmp_path, imagery__bands="1,1,1")).todo
    assert "reading.a.bands, reading.a.scale" in other_bands["a"]


def expected_scale(values: np.ndarray) -> str:
    low, high = np.percentile(values, [2, 98], method="inverted_cdf")
    return f"{low},{high}"


def place(dx: float = GSD, dy: float = GSD) -> Affine:
    return Affine(dx, 0, CORNER[0], 0, -dy, CORNER[1])


def with_nodata_in_one_band(path: Path) -> Path:
    """Write a VRT; a GeoTIFF has one nodata value for all bands."""
    vrt = path.with_suffix(".vrt")
    with rasterio.open(plain(path, nodata=0)) as dataset:
        rasterio.shutil.copy(dataset, vrt, driver="VRT")
    vrt.write_text(re.sub("<NoDataValue>0</NoDataValue>", "", vrt.read_text(), count=2))
    return vrt


BOTH = {"alpha": "YES", "nodata": 9}
CITY = {"model.gsd_m": 0.08}
UNUSUAL: dict[str, tuple[Callable[[Path], Path], dict, str, str]] = {
    "order": (bgra, {}, "in the order blue, green, red, alpha", "bands 3, 2, 1 are read as red"),
    "more bands": (STORED["a fourth band"], {}, r"more bands .* 4 .undefined.", "leaves them out"),
    "no colours": (
        lambda p: plain(p, **GREY), {}, "does not say which bands are red", "--bands R,G,B",
    ),
    "grey": (
        lambda p: plain(p, scene()[:1], **GREY), {"imagery.bands": "gray"}, "is read as grey",
        "band 1 is red, green and blue",
    ),
    "16 bits": (
        lambda p: plain(p, scene("uint16")), {"imagery.scale": "2%,98%"}, "pixels are uint16",
        "percentiles 2% and 98% of the whole mosaic .* found by the first run",
    ),
    "8 bits": (plain, {"imagery.scale": "0,9"}, "pixels are uint8", "--scale is for other types"),
    "both": (
        lambda p: plain(p, with_alpha(scene()), **BOTH), {}, "has nodata beside its alpha band",
        "its alpha band alone says",
    ),
    "one nodata": (
        with_nodata_in_one_band, {"imagery.allow_vrt": True}, "nodata in some of its bands only",
        "is imagery everywhere",
    ),
    "jpeg": (lambda p: plain(p, **JPEG, nodata=0), {}, "compression that changes", "--collar auto"),
    "no CRS": (
        lambda p: plain(p, crs=None), {"imagery.crs": CRS}, "says no CRS",
        "ESRI:102562. is assigned",
    ),
    "south-up": (
        lambda p: plain(p, transform=place(dy=-GSD)), {"mosaic.align": "warp"}, "is south-up",
        "is straightened",
    ),
    "degrees": (
        lambda p: plain(p, crs="EPSG:4326", transform=Affine(8.6e-7, 0, 18.4, 0, -7.2e-7, -33.9)),
        {}, "coordinates in degrees", "on the ellipsoid",
    ),
    "feet": (
        lambda p: plain(p, crs="EPSG:2263", transform=Affine(0.26, 0, 98e4, 0, -0.26, 2e5)), {},
        "a unit of 0.304801 m", "converted to metres",
    ),
    "large": (
        plain, {"tiling.size": 50, "tiling.overlap": 0, "tiling.cell_size": 100},
        "larger than 100 px", "in about 6 parts",
    ),
    "oblong": (
        lambda p: plain(p, transform=place(0.07, 0.09)), {}, "not square: 0.07 x 0.09 m",
        "stretched",
    ),
    "coarse": (
        lambda p: plain(p, transform=place(0.12, 0.12)), CITY,
        "pixels of 0.12 m on the ground; the model was trained on 0.08 m",
        "objects look 1.5 times smaller .*--gsd model",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_is_unusual_is_said_and_what_a_run_does(tmp_path: Path, name: str) -> None:
    make, options, finding, action = UNUSUAL[name]
    found = inspect_path(str(make(tmp_path / "a.tif")), load(None, options))
    assert found.exit_code == 0
    remarks = found.diagnostics or ()
    assert (
        len([r for r in remarks if re.search(finding, r.finding) and re.search(action, r.action)])
        == 1
    )
    assert max(map(len, found.to_text().splitlines()[2:])) <= 100


def test_nothing_is_unusual_about_8_cm_rgb(tmp_path: Path) -> None:
    for profile in ({}, {"mask": ~hole()}, JPEG, {"alpha": "YES", "pixels": opaque(scene(), 255)}):
        path = plain(tmp_path / "a.tif", **{**BLOCKS, **profile})
        found = inspect_path(str(path), load(None, CITY))
        assert found.diagnostics == ()
        assert "nothing unusual" in found.to_text()


def test_an_image_that_is_refused_is_described_all_the_same(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.tif", scene("uint16"))
    done = typed("inspect", path, code=2)
    assert "type               uint16" in done.stdout
    assert done.stderr.count("\n") == 1
    assert "expected uint8; say which values" in done.stderr
    path.write_text("no image")
    assert "a.tif: not a readable GeoTIFF" in str(inspect_path(str(path), load(None)).refusal)


def test_plan_says_what_is_unusual_kind_by_kind(tmp_path: Path) -> None:
    for n in range(5):
        write_tif(tmp_path / "in" / f"{n}.tif", scene(), SHAPE[1] * n, 0, photometric="RGB")
        bgra(tmp_path / "in" / f"bgra{n}.tif")
    for n in range(2):
        plain(tmp_path / "in" / f"deep{n}.tif", scene("uint16"))
    plan = make_plan(load(None, {"sources": [str(tmp_path / "in")]}))
    refused, order, under = plan.diagnostics
    assert (refused.images, order.images) == (
        ("deep0", "deep1"),
        tuple(f"bgra{n}" for n in range(5)),
    )
    assert under.images == order.images, "all of them are where 0.tif is"
    assert refused.diagnostic.finding == "pixels are uint16, expected uint8"
    assert refused.diagnostic.action.startswith("leaves it out; say which values")
    assert "5: bgra0, bgra1, bgra2, ..." in plan.to_text()
    assert json.loads(json.dumps(plan.to_json()))["unusual"][1]["images"] == list(order.images)


def test_tables_line_up_and_stay_within_their_width() -> None:
    long = "words " * 40
    text = text_table(("one", "two", "three"), [("a", "b", long), ("c" * 30, long, "d")], 60)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 60
    assert set(lines[1]) == {"|", "-"}
    second = lines[0].index("| two")
    assert all(line[second : second + 2] in ("| ", "|-") for line in lines)
    assert text.count("c") == 30
    assert text.count("words") == 80
    assert key_value_table([("a", "b"), ("long name", "c")]).splitlines() == [
        "a          b",
        "long name  c",
    ]
