"""Validity that a compression may have changed."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from support.cities import blobs, write_tif

from capecam.imagery.header_reader import read_header
from capecam.imagery.validation.tiff import has_jpeg_mask
from capecam.mosaic.diagnostics import image_diagnostics
from capecam.settings import Settings

RGBA = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)
VALID = np.full((1, 128, 128), 255, np.uint8)
VALID[:, :37] = 0


def warned(path: Path) -> list[str]:
    return [r.finding for r in image_diagnostics(read_header(path), Settings()) if r.warning]


@pytest.mark.parametrize(
    ("lossy", "profile"),
    [
        (True, {"compress": "jpeg"}),
        (True, {"compress": "jpeg", "interleave": "band"}),
        (True, {"compress": "lerc", "MAX_Z_ERROR": "5"}),
        (False, {"compress": "lerc"}),
        (False, {"compress": "webp"}),
        (False, {"compress": "webp", "WEBP_LOSSLESS": "YES"}),
        (False, {"compress": "deflate"}),
    ],
)
def test_lossy_alpha_is_a_warning(tmp_path: Path, lossy: bool, profile: dict[str, str]) -> None:
    pixels = np.concatenate([blobs(128, 128), VALID])
    path = write_tif(tmp_path / "a.tif", pixels, colorinterp=RGBA, **profile)
    expected = ["has an alpha band and a compression that changes values"] if lossy else []
    assert warned(path) == expected


@pytest.mark.parametrize(("compress", "lossy"), [("jpeg", True), ("deflate", False)])
def test_a_lossy_external_mask_is_a_warning(tmp_path: Path, compress: str, lossy: bool) -> None:
    path = write_tif(tmp_path / "a.tif", blobs(128, 128), compress="jpeg", photometric="ycbcr")
    mask = write_tif(tmp_path / "mask.tif", VALID, compress=compress)
    with rasterio.open(mask, "r+") as dataset:
        dataset.update_tags(**{f"INTERNAL_MASK_FLAGS_{band}": "2" for band in (1, 2, 3)})
    mask.rename(tmp_path / "a.tif.msk")
    assert read_header(path).pixels.validity == "mask"
    expected = ["has a mask and a compression that changes values"] if lossy else []
    assert warned(path) == expected


def test_the_mask_that_gdal_writes_into_a_jpeg_is_exact(tmp_path: Path) -> None:
    profile = {"compress": "jpeg", "photometric": "ycbcr", "mask": VALID[0]}
    assert warned(write_tif(tmp_path / "a.tif", blobs(128, 128), **profile)) == []


@pytest.mark.parametrize(
    ("subfile", "compression", "lossy"), [(4, 7, True), (4, 8, False), (1, 7, False), (5, 6, True)]
)
def test_a_lossy_internal_mask_is_found(subfile: int, compression: int, lossy: bool) -> None:
    def page(following: int, *tags: tuple[int, int]) -> bytes:
        entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags]
        return struct.pack("<H", len(tags)) + b"".join(entries) + struct.pack("<I", following)

    image = page(8 + 2 + 2 * 12 + 4, (254, 0), (259, 7))
    tiff = b"II*\0\x08\0\0\0" + image + page(0, (254, subfile), (259, compression))
    assert has_jpeg_mask(io.BytesIO(tiff), len(tiff), is_mask=False) is lossy
