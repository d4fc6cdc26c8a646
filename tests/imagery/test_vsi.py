"""Allowed VRTs, and images over HTTP."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from support.cities import blobs, write_tif
from support.fileserver import served

from capecam.errors import ImageError, UsageError
from capecam.imagery.fingerprint import files_of
from capecam.io.gdal import gdal_settings
from capecam.io.paths import in_words, location
from capecam.mosaic.city import open_city
from capecam.mosaic.reader import Reader
from capecam.settings import ImagerySettings
from capecam.settings.loading import load
from capecam.store.staleness import ImageHashes

VRTS = ImagerySettings(allow_vrt=True)


def pixels_of(city):
    with Reader(city.mosaic) as reader:
        return reader.read(city.mosaic.grid.window)


def write_vrt(path: Path, source: Path) -> Path:
    """Write a VRT of a file with GDAL."""
    path.parent.mkdir(exist_ok=True)
    with rasterio.open(source) as dataset:
        rasterio.shutil.copy(dataset, path, driver="VRT")
    return path


def test_an_allowed_vrt_is_an_image_and_its_sources_count(tmp_path: Path) -> None:
    pixels = blobs(64, 64)
    source = write_tif(tmp_path / "data" / "a.tif", pixels)
    vrt = write_vrt(tmp_path / "in" / "b.vrt", source)
    with pytest.raises(UsageError, match=r"b\.vrt: a VRT, which is read only with --allow-vrt"):
        open_city([str(vrt)], None)
    with pytest.raises(UsageError, match="is in none of the folders given; name its"):
        open_city([str(vrt)], None, imagery=VRTS)
    city = open_city([str(tmp_path / "in"), str(source.parent)], None, imagery=VRTS)
    assert {s.name for s in city.mosaic.sources} == {"a", "b"}
    (image,) = (s for s in city.mosaic.sources if s.name == "b")
    assert np.array_equal(pixels_of(city)[0], pixels)
    before = ImageHashes().facts(image).sha256
    write_tif(source, pixels[:, ::-1])
    assert ImageHashes().facts(image).sha256 != before


def changed(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


BAD_VRTS = {
    "raw": ("<VRTRasterBand ", '<VRTRasterBand subClass="VRTRawRasterBand" ', "VRTRawRasterBand"),
    "python": ("<VRTRasterBand ", '<VRTRasterBand subClass="VRTDerivedRasterBand" ', "run code"),
    "function": ("<SimpleSource>", "<PixelFunctionType>f</PixelFunctionType><SimpleSource>",
                 "<PixelFunctionType>, which is not read"),
    "warped": ("<VRTDataset ", '<VRTDataset subClass="VRTWarpedDataset" ', "subClass=..."),
    "memory": ("SimpleSource>", "AveragedSource>", "<AveragedSource>, which is not read"),
    "options": ("<SimpleSource>", "<SimpleSource><OpenOptions/>", "<OpenOptions>"),
    "attribute": ("<SimpleSource>", '<SimpleSource SourceFilename="/etc/passwd">',
                  "<SimpleSource SourceFilename=...>"),
    "entities": ("<VRTDataset ", '<!DOCTYPE x [<!ENTITY a "b">]><VRTDataset ', "a document type"),
    "deep": ("<SimpleSource>", "<Metadata>" * 5000 + "</Metadata>" * 5000 + "<SimpleSource>",
             "elements are nested more than"),
    "metadata": ("<SimpleSource>", '<Metadata domain="Overviews"/><SimpleSource>',
                 "lead to other files"),
    "network": (">a.tif<", ">/vsicurl/http://127.0.0.1:1/a.tif<", "sources must be files"),
    "gdal's own names": (">a.tif<", ">GTIFF_DIR:1:a.tif<", "there is no such file"),
    "two places": ('relativeToVRT="1"', 'relativetoVRT="0" relativeToVRT="1"', "must be files"),
    "itself": (">a.tif<", ">b.vrt<", "a circle of them"),
    "a kernel of no digits": ("<SimpleSource>", "<SimpleSource><Size>\u00b2</Size>", "a filter of"),
    "huge": ('rasterXSize="64"', 'rasterXSize="2000000000"', "cannot fill"),
    "no xml": ("<VRTDataset ", "<<", "not a readable VRT"),
    "not a tiff": (">a.tif<", ">note.txt<", "not a readable GeoTIFF but a text"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_VRTS)
def test_a_vrt_that_could_do_more_is_refused(tmp_path: Path, name: str) -> None:
    write_tif(tmp_path / "a.tif", blobs(64, 64))
    (tmp_path / "note.txt").write_text("secret")
    vrt = write_vrt(tmp_path / "b.vrt", tmp_path / "a.tif")
    old, new, message = BAD_VRTS[name]
    vrt.write_text(changed(vrt.read_text(), old, new))
    failures = open_city([str(tmp_path)], None, imagery=VRTS).failures
    assert set(failures) == {"b"}
    assert message in failures["b"]
    assert "\n" not in failures["b"]


def test_a_source_of_a_vrt_may_be_a_link_within_the_folders_only(tmp_path: Path) -> None:
    source = write_tif(tmp_path / "private" / "a.tif", blobs(64, 64))
    vrt = write_vrt(tmp_path / "in" / "b.vrt", source)
    (tmp_path / "in" / "link").symlink_to(source.parent)
    vrt.write_text(re.sub(r'"[01]">[^<]*a\.tif<', '"1">link/a.tif<', vrt.read_text()))
    with pytest.raises(UsageError, match="is in none of the folders given"):
        open_city([str(tmp_path / "in")], None, imagery=VRTS)


def test_the_sources_of_a_vrt_behind_a_link_are_those_that_gdal_opens(tmp_path: Path) -> None:
    write_tif(tmp_path / "in" / "a.tif", blobs(64, 64))
    there = write_tif(tmp_path / "in" / "sub" / "a.tif", blobs(64, 64)[:, ::-1])
    vrt = write_vrt(tmp_path / "in" / "sub" / "b.vrt", there)
    (tmp_path / "in" / "b.vrt").symlink_to("sub/b.vrt")
    assert files_of(tmp_path / "in" / "b.vrt") == [tmp_path / "in" / "b.vrt", there]
    with rasterio.open(vrt) as dataset:
        wanted = dataset.read()
    city = open_city([str(tmp_path / "in" / "b.vrt")], None, imagery=VRTS)
    assert np.array_equal(pixels_of(city)[0], wanted)


def test_the_names_in_a_vrt_are_those_that_gdal_reads_whatever_its_encoding(tmp_path: Path) -> None:
    write_tif(tmp_path / "\xe9.tif", blobs(64, 64))
    vrt = write_vrt(tmp_path / "b.vrt", tmp_path / "\xe9.tif")
    text = f'<?xml version="1.0" encoding="iso-8859-1"?>{vrt.read_text("utf-8")}'
    vrt.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match="a VRT that is not UTF-8; save it as UTF-8"):
        open_city([str(vrt)], None, imagery=VRTS)


def test_a_network_that_stumbles_is_asked_again(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.1")
    noise = np.random.default_rng(0).integers(1, 255, (3, 300, 300)).astype(np.uint8)
    write_tif(tmp_path / "a.tif", noise, blockxsize=64, blockysize=64)
    with served(tmp_path, failures=3) as host, gdal_settings():
        city = open_city([f"/vsicurl/http://someone:secret@{host}/a.tif"], None)
        (image,) = city.mosaic.sources
        assert (image.name, "secret" in str(image.header.path)) == ("a", False)
        assert np.array_equal(pixels_of(city)[0], noise)
        assert len(ImageHashes().facts(image).sha256) == 64
        with pytest.raises(UsageError, match=r"nothing\.tif: not a readable GeoTIFF"):
            open_city([f"/vsicurl/http://{host}/nothing.tif"], None)


def test_a_network_that_dies_fails_the_image(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "1")
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.1")
    noise = np.random.default_rng(0).integers(1, 255, (3, 1500, 1500)).astype(np.uint8)
    write_tif(tmp_path / "b.tif", noise, blockxsize=64, blockysize=64)
    with gdal_settings():
        with served(tmp_path) as host:
            city = open_city([f"/vsicurl/http://u:secret@{host}/b.tif"], None)
        with pytest.raises(ImageError, match=r"b\.tif: cannot be decoded") as caught:
            pixels_of(city)
        with pytest.raises(ImageError, match=r"b\.tif"):
            ImageHashes().facts(city.mosaic.sources[0])
    assert "secret" not in str(caught.value)


def test_what_gdal_says_of_a_secret_path_is_told_without_it() -> None:
    path = location("/vsicurl/https://me:pw@x.org/a.tif?sig=pw")
    for said in (f"{path.gdal}: no", "https://me:pw@x.org/a.tif?sig=pw: no"):
        assert in_words(path, OSError(said)).endswith("x.org/a.tif: no")
        assert "pw" not in in_words(path, OSError(said))


def test_virtual_paths_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("sources: [/vsicurl/https://x.org/a.tif, in, '@list.txt']\n")
    sources = load(tmp_path / "a.yaml").sources
    assert sources == ("/vsicurl/https://x.org/a.tif", f"{tmp_path}/in", f"@{tmp_path}/list.txt")


def test_a_mask_served_beside_an_image_is_no_way_to_a_file_of_this_machine(tmp_path: Path) -> None:
    secret = write_tif(tmp_path / "secret.tif", blobs(64, 64)[:1])
    write_tif(tmp_path / "in" / "a.tif", blobs(64, 64))
    (tmp_path / "in" / "a.tif.msk").write_text(
        '<VRTDataset rasterXSize="64" rasterYSize="64"><Metadata><MDI key="INTERNAL_MASK_FLAGS_1">'
        '2</MDI></Metadata><VRTRasterBand dataType="Byte" band="1"><SimpleSource><SourceFilename>'
        f"{secret}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with (
        served(tmp_path / "in") as host,
        gdal_settings(),
        pytest.raises(UsageError, match=r"a\.tif\.msk, which belongs to it, is no GeoTIFF"),
    ):
        open_city([f"/vsicurl/http://{host}/a.tif"], None)
