"""Messages that name the right remedy, and all of them at once."""

from __future__ import annotations

import logging
import os
import re
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from rasterio.transform import Affine
from support.cities import CORNER, GSD, blobs, write_tif

from capecam.errors import ImageError, UsageError
from capecam.imagery.header_reader import read_header
from capecam.mosaic.city import City, open_city
from capecam.mosaic.reader import Reader
from capecam.mosaic.value_range import find_value_range
from capecam.runtime import logs
from capecam.settings import ImagerySettings, MosaicSettings, ValueRange

REWRITE = "gdal_translate -co COMPRESS=DEFLATE"
PERCENTILES = ValueRange(low=2, high=98, percent=True)


def failure(path: Path) -> str:
    """Message on an image whose header or pixels cannot be read."""
    try:
        mosaic = open_city([str(path)], None).mosaic
    except UsageError as error:
        return str(error)
    with Reader(mosaic) as reader, pytest.raises(ImageError) as raised:
        reader.read(mosaic.grid.window)
    return str(raised.value)


@pytest.mark.parametrize(
    "code", [2, 4, 6, 9, 32766, 32809, 34661, 34676, 34712, 33003, 50002, 52546, 65000]
)
def test_a_compression_that_gdal_lacks_is_to_be_rewritten(tmp_path: Path, code: int) -> None:
    """CCITT, old JPEG, JBIG, NeXT, Thunderscan, SGI Log, JPEG 2000, JPEG XL, and unknown ones."""
    path = write_tif(tmp_path / "a.tif", blobs(64, 64))
    entry = struct.pack("<HHIH", 259, 3, 1, 8)
    path.write_bytes(path.read_bytes().replace(entry, struct.pack("<HHIH", 259, 3, 1, code)))
    message = failure(path)
    assert REWRITE in message
    assert "deliver it again" not in message


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [(rb"\xff\xc0", b"\xff\xc3"), (rb"\xff\xc0", b"\xff\xcb"), (rb"(\xff\xc0..)\x08", b"\\1\x0c")],
    ids=["lossless", "arithmetic and lossless", "12 bits"],
)
def test_a_variant_of_jpeg_that_gdal_lacks_is_to_be_rewritten(
    tmp_path: Path, pattern: bytes, replacement: bytes
) -> None:
    path = write_tif(tmp_path / "a.tif", blobs(64, 64), compress="jpeg", photometric="ycbcr")
    path.write_bytes(re.sub(pattern, replacement, path.read_bytes(), flags=re.DOTALL))
    assert REWRITE in failure(path)


def spoilt(path: Path) -> Path:
    data = bytearray(path.read_bytes())
    data[-2000:-500] = bytes(1500)
    path.write_bytes(data)
    return path


def test_damage_is_to_be_delivered_again(tmp_path: Path) -> None:
    message = failure(spoilt(write_tif(tmp_path / "a.tif", blobs(64, 64))))
    assert message.endswith("deliver it again")
    assert REWRITE not in message


def wide(folder: Path, name: str, col: int = 0) -> Path:
    return write_tif(folder / f"{name}.tif", blobs(64, 64).astype(np.uint16) * 9, col)


def percentiles(city: City) -> ValueRange:
    return find_value_range(city.mosaic, PERCENTILES, 0)


@pytest.mark.parametrize("names", ["a", "ab"])
def test_percentiles_of_what_cannot_be_decoded(tmp_path: Path, names: str) -> None:
    for n, name in enumerate(names):
        spoilt(wide(tmp_path, name, 64 * n))
    city = open_city([str(tmp_path)], None, imagery=ImagerySettings(scale=PERCENTILES))
    with pytest.raises(UsageError) as raised:
        percentiles(city)
    for name in names:
        assert f"{name}.tif: cannot be decoded at rows" in str(raised.value)
    assert "there is no valid pixel" not in str(raised.value)
    wide(tmp_path, "whole", 200)
    city = open_city([str(tmp_path)], None, imagery=ImagerySettings(scale=PERCENTILES))
    assert percentiles(city).high > 255


ROTATED = Affine.translation(*CORNER) @ Affine.rotation(20) @ Affine.scale(GSD, -GSD)
CURES = {
    "--crs": {"crs": "EPSG:32734"},
    "--bands R,G,B": {"bands": (1, 2, 3)},
    "--scale LOW,HIGH": {"scale": ValueRange(low=0, high=999)},
}


@pytest.mark.parametrize("given", [(), *((cure,) for cure in CURES), tuple(CURES)])
@pytest.mark.parametrize("align", ["snap", "warp"])
def test_all_that_is_missing_is_in_one_message(
    tmp_path: Path, given: tuple[str, ...], align: str
) -> None:
    pixels = np.concatenate([blobs(64, 64), blobs(64, 64)[:2]]).astype(np.uint16)
    path = write_tif(tmp_path / "a.tif", pixels, crs=None, transform=ROTATED)
    settings = ImagerySettings(**{k: v for cure in given for k, v in CURES[cure].items()})
    missing = {cure for cure in CURES if cure not in given} | {"--align warp"} - {
        f"--align {align}"
    }
    if not missing:
        assert open_city([str(path)], None, MosaicSettings(align=align), settings)
        return
    with pytest.raises(UsageError) as raised:
        open_city([str(path)], None, MosaicSettings(align=align), settings)
    message = str(raised.value)
    assert {cure for cure in (*CURES, "--align warp") if cure in message} == missing
    assert message.count("a.tif") == 1
    assert "\n" not in message


def test_no_place_and_no_crs_are_said_together(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", blobs(64, 64)[:1], crs=None, transform=Affine.identity())
    with pytest.raises(ImageError, match=r"has no georeference .* has no coordinate .* has 1 band"):
        read_header(path)
    with pytest.raises(ImageError, match=r"world file .* --crs, .*--bands gray"):
        read_header(path)


@pytest.fixture
def library_levels(monkeypatch):
    """Restore what ``logs.configure`` changes in this process."""
    monkeypatch.delenv("CPL_LOG", raising=False)
    names = ("capecam", *logs.LIBRARIES)
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    logging.captureWarnings(False)
    os.environ.pop("CPL_LOG", None)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG])
@pytest.mark.usefixtures("library_levels")
def test_warnings_of_libraries_are_for_debugging(caplog, capsys, level: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.configure(level)
        warnings.warn("raw", RuntimeWarning, stacklevel=1)
        for name in ("rasterio._env", "pyogrio._io", "fiona.ogrext"):
            logging.getLogger(name).warning("raw")
        logging.captureWarnings(False)
    assert len(caplog.records) == (4 if level == logging.DEBUG else 0)
    assert "raw" not in capsys.readouterr().err
    assert os.environ["CPL_LOG"] == os.devnull
