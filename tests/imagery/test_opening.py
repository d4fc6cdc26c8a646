"""Hostile and broken image files end in one clear line, and no other file is read."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from support.cities import blobs, write_tif
from support.memory import at_most

from capecam.errors import ImageError, UsageError
from capecam.imagery.checksums import match_checksums
from capecam.imagery.header_reader import HeaderRules, read_header, read_headers
from capecam.mosaic.city import open_city
from capecam.mosaic.diagnostics import image_diagnostics
from capecam.mosaic.reader import Reader
from capecam.settings import ImagerySettings, Settings

VRTS = ImagerySettings(allow_vrt=True)


def pixels_of(city):
    with Reader(city.mosaic) as reader:
        return reader.read(city.mosaic.grid.window)


def vrt_of(name: str, inner: str = "", *, size: int = 64, attributes: str = "") -> str:
    """Return a VRT with one band from a file."""
    source = f"<SimpleSource><SourceFilename>{name}</SourceFilename></SimpleSource>"
    return (
        f'<VRTDataset rasterXSize="{size}" rasterYSize="{size}">'
        f'<VRTRasterBand dataType="Byte" band="1" {attributes}>{inner or source}</VRTRasterBand>'
        "</VRTDataset>"
    )


def raw_of(name: Path) -> str:
    """Return a VRT whose pixels are the bytes of any file."""
    return vrt_of(
        "",
        f"<SourceFilename>{name}</SourceFilename><ImageOffset>0</ImageOffset>"
        "<PixelOffset>1</PixelOffset><LineOffset>64</LineOffset>",
        attributes='subClass="VRTRawRasterBand"',
    )


NO_TIFF = {
    "empty": (b"", r"empty \(0 bytes\)"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
    "html": (b"\n<!DOCTYPE html><html>404</html>", "an HTML page: the download failed"),
    "xml": (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', "an XML text"),
    "vrt": (vrt_of("/etc/passwd").encode(), "a VRT; use --allow-vrt"),
    "json": (b'{"error": 403}', "a JSON text"),
    "jpeg": (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG with another name"),
    "png": (b"\x89PNG\r\n\x1a\n", "a PNG with another name"),
    "jp2": (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000"),
    "zip": (b"PK\x03\x04....", "a ZIP archive; unpack it, or name /vsizip/"),
    "gzip": (b"\x1f\x8b\x08", "a gzip archive"),
    "text": (b"see the other folder", "a text"),
    "zeros": (bytes(5000), "nothing but zeros"),
    "noise": (bytes(range(256)), "something else"),
    "short": (b"II*\0\x08", "ends after 5 bytes"),
    "short BigTIFF": (b"II+\0\x08\0\0\0\x10", "ends after 9 bytes"),
    "no page": (
        b"II*\0" + struct.pack("<I", 900),
        "8 bytes, its first directory is at 900: it was",
    ),
}


@pytest.mark.parametrize("name", NO_TIFF)
def test_what_is_no_tiff_is_called_what_it_is(tmp_path: Path, name: str) -> None:
    content, message = NO_TIFF[name]
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(ImageError, match=message) as caught:
        read_header(tmp_path / "a.tif")
    assert "\n" not in str(caught.value)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path, monkeypatch) -> None:
    write_tif(tmp_path / "good.tif", blobs(40, 40))
    os.mkfifo(tmp_path / "pipe.tif")
    (tmp_path / "folder.tif").mkdir()
    (tmp_path / "dangling.tif").symlink_to("nowhere.tif")
    (tmp_path / "loop.tif").symlink_to("loop.tif")
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.tif")
    failures = open_city([str(tmp_path)], None).failures
    expected = {
        "pipe": "a pipe (FIFO)", "folder": "is a folder", "socket": "is a socket",
        "dangling": "a link to nowhere.tif, which is not there", "loop": "cannot be read",
    }  # fmt: skip
    assert set(failures) == set(expected)
    assert all(words in failures[name] for name, words in expected.items())
    with pytest.raises(UsageError, match="/dev/zero: is a device"):
        open_city(["/dev/zero"], None)


@pytest.mark.parametrize("suffix", [".msk", ".ovr", ".mSk", ".ovr.msk"])
@pytest.mark.parametrize("kind", ["simple", "raw"])
def test_a_sidecar_is_no_way_to_another_file(tmp_path: Path, suffix: str, kind: str) -> None:
    secret = write_tif(tmp_path / "elsewhere" / "secret.tif", blobs(64, 64)[:1])
    write_tif(tmp_path / "in" / "a.tif", blobs(64, 64))
    if suffix == ".ovr.msk":
        write_tif(tmp_path / "in" / "a.tif.ovr", blobs(32, 32))
    content = raw_of(secret) if kind == "raw" else vrt_of(str(secret))
    (tmp_path / "in" / f"a.tif{suffix}").write_text(content)
    with pytest.raises(UsageError, match=r"a\.tif\.\w+.*not a readable GeoTIFF but a VRT"):
        open_city([str(tmp_path / "in")], None)


@pytest.mark.parametrize("inside", [True, False])
def test_metadata_are_no_way_to_another_file(tmp_path: Path, inside: bool) -> None:
    path = write_tif(tmp_path / "a.tif", blobs(64, 64))
    (tmp_path / "b.vrt").write_text(raw_of(Path("/etc/passwd")))
    if inside:
        with rasterio.open(path, "r+") as dataset:
            dataset.update_tags(ns="OVERVIEWS", OVERVIEW_FILE=str(tmp_path / "b.vrt"))
    else:
        (tmp_path / "a.tif.aux.xml").write_text(
            '<PAMDataset><Metadata domain="OVERVIEWS"><MDI key="&#79;VERVIEW_FILE">'
            f"{tmp_path}/b.vrt</MDI></Metadata></PAMDataset>"
        )
    with pytest.raises(ImageError, match=r"send readers to another file \(OVERVIEW_FILE="):
        read_header(path)


def test_sidecars_must_be_plain_files_in_the_folders(tmp_path: Path) -> None:
    for name in "abc":
        write_tif(tmp_path / "in" / f"{name}.tif", blobs(40, 40))
    os.mkfifo(tmp_path / "in" / "a.tif.aux.xml")
    (tmp_path / "in" / "b.tif.aux.xml").write_text('<!DOCTYPE x [<!ENTITY a "b">]><PAMDataset/>')
    mask = write_tif(tmp_path / "other" / "m.tif", blobs(40, 40)[:1])
    (tmp_path / "in" / "c.tif.msk").symlink_to(mask)
    with pytest.raises(UsageError) as caught:
        open_city([str(tmp_path / "in")], None)
    for words in ("pipe (FIFO)", "has a document type", "link out of the folders given"):
        assert words in str(caught.value)
    assert (
        len(read_headers([tmp_path / "in" / "c.tif"], HeaderRules(folders=(str(tmp_path),)))) == 1
    )


def test_masks_crs_and_place_beside_an_image_still_count(tmp_path: Path) -> None:
    hole = np.zeros((64, 64), bool)
    hole[10:20, 30:] = True
    pixels = blobs(64, 64)
    path = write_tif(tmp_path / "a.tif", pixels)
    mask = write_tif(tmp_path / "a.tif.msk", np.where(hole, 0, 255).astype(np.uint8)[None])
    with rasterio.open(mask, "r+") as dataset:
        dataset.update_tags(INTERNAL_MASK_FLAGS_1=2)
    found, valid = pixels_of(open_city([str(path)], None))
    assert np.array_equal(valid, ~hole)
    assert np.array_equal(found, np.where(hole, 0, pixels))
    bare = tmp_path / "b.tif"
    profile = {"width": 64, "height": 64, "count": 3, "dtype": "uint8"}
    with rasterio.open(bare, "w", driver="GTiff", **profile) as dataset:
        dataset.write(pixels)
    bare.with_suffix(".tfw").write_text("0.08\n0\n0\n-0.08\n-51000.04\n-3763000.04\n")
    wkt = rasterio.crs.CRS.from_string("ESRI:102562").to_wkt()
    (tmp_path / "b.tif.aux.xml").write_text(f"<PAMDataset><SRS>{wkt}</SRS></PAMDataset>")
    header = read_header(bare)
    assert header.pixel == (0.08, 0.08)
    assert "Lo19" in header.crs


def tiff(path: Path, *tags: tuple[int, int, int], tail: bytes = b"") -> Path:
    """Write a TIFF of one directory with tags (number, type, value) and nothing else."""
    entries = b"".join(
        struct.pack("<HHII", number, kind, 1, value) for number, kind, value in sorted(tags)
    )
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    path.write_bytes(head + entries + struct.pack("<I", 0) + tail)
    return path


def header_tags(width, height, *, compression=8, rows=None, bands=3, tile=None):
    blocks = [(322, 3, tile), (323, 3, tile), (324, 4, 200), (325, 4, 50)]
    strips = [(273, 4, 200), (278, 4, rows or height), (279, 4, 50)]
    return (
        (256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, compression), (262, 3, 2),
        (277, 3, bands), (284, 3, 1), *(blocks if tile else strips),
    )  # fmt: skip


BOMBS = {
    "2 billion pixels": (
        header_tags(46_341, 46_341, tile=4_096),
        "of which it holds 50 bytes: no imagery is so",
    ),
    "many blocks": (header_tags(4000, 4000, tile=16), "in 62500 blocks, more than a file of"),
    "a huge tile": (header_tags(16_000, 16_000, tile=16_000), "732 MB each when decoded"),
    "a huge strip of LERC": (header_tags(16_000, 16_000, compression=34887), "732 MB each"),
    "a huge strip of ZSTD": (header_tags(32_000, 32_000, compression=50000), "2929 MB each"),
    "bands": (header_tags(16, 16, bands=65_535), "65535 bands; at most 1024"),
    "metadata": ((*header_tags(16, 16), (270, 2, 0)), "100 MB of metadata"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_what_a_header_declares_is_not_allocated(tmp_path: Path, name: str) -> None:
    tags, message = BOMBS[name]
    path = tiff(tmp_path / "a.tif", *tags, tail=bytes(30_000 if "huge" in name else 900))
    if name == "metadata":
        raw = path.read_bytes()
        path.write_bytes(
            raw.replace(struct.pack("<HHI", 270, 2, 1), struct.pack("<HHI", 270, 2, 100 << 20))
        )
    started = time.monotonic()
    with at_most(megabytes=300), pytest.raises(ImageError, match=message):
        read_header(path)
    assert time.monotonic() - started < 1


def test_pages_in_a_circle_and_pages_without_end(tmp_path: Path) -> None:
    page = struct.pack("<H", 1) + struct.pack("<HHII", 256, 4, 1, 7)
    (tmp_path / "a.tif").write_bytes(b"II*\0\x08\0\0\0" + page + struct.pack("<I", 8))
    with pytest.raises(ImageError, match="not a readable GeoTIFF"):
        read_header(tmp_path / "a.tif")
    step = len(page) + 4
    chain = b"".join(page + struct.pack("<I", 8 + (n + 1) * step) for n in range(5000))
    (tmp_path / "b.tif").write_bytes(b"II*\0\x08\0\0\0" + chain)
    with pytest.raises(ImageError, match="more than 4096 pages"):
        read_header(tmp_path / "b.tif")


@pytest.mark.parametrize(
    "options",
    [
        {"compress": "zstd", "tiled": True, "blockxsize": 512, "blockysize": 512},
        {"compress": "zstd", "tiled": False, "blockysize": 6000},
        {"compress": "deflate", "tiled": True, "sparse_ok": True, "bigtiff": "yes"},
        {"compress": None, "tiled": True, "sparse_ok": True},
    ],
)
def test_blank_and_sparse_images_are_images(tmp_path: Path, options: dict) -> None:
    size, path = 6000, tmp_path / "a.tif"
    place = {"crs": "ESRI:102562", "transform": rasterio.Affine(0.08, 0, 0, 0, -0.08, 0)}
    profile = {"width": size, "height": size, "count": 3, "dtype": "uint8", **place, **options}
    with rasterio.open(path, "w", driver="GTiff", **profile) as dataset:
        if "sparse_ok" not in options:
            for row in range(0, size, 1000):
                dataset.write(
                    np.full((3, 1000, size), 9, np.uint8), window=((row, row + 1000), (0, size))
                )
    assert read_header(path).placement.width == size


def damaged(path: Path) -> None:
    """Flip bits that a codec does not notice."""
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0x10
    path.write_bytes(raw)


def listed(tmp_path: Path, line: str, algorithm: str = "sha256", **images: Path) -> ImagerySettings:
    lines = [
        line.format(digest=hashlib.new(algorithm, path.read_bytes()).hexdigest(), name=name)
        for name, path in images.items()
    ]
    (tmp_path / "sums.txt").write_text("# delivered today\r\n\r\n" + "\r\n".join(lines))
    return ImagerySettings(checksums=tmp_path / "sums.txt")


@pytest.mark.parametrize(
    ("line", "algorithm"),
    [
        ("{digest}  {name}.tif", "sha256"), ("{digest} *in/{name}.tif", "md5"),
        ("{digest}  ./{name}.tif", "sha1"), ("SHA512 ({name}.tif) = {digest}", "sha512"),
        ("{digest}  /delivery/in/{name}.tif", "md5"),
    ],
)  # fmt: skip
def test_flips_that_no_codec_notices(tmp_path: Path, line: str, algorithm: str) -> None:
    images = {n: write_tif(tmp_path / "in" / f"{n}.tif", blobs(64, 64), 64 * i, compress=None)
              for i, n in enumerate("ab")}  # fmt: skip
    settings = listed(tmp_path, line, algorithm, **images)
    whole = open_city([str(tmp_path / "in")], None, imagery=settings)
    assert whole.failures == {}
    damaged(images["b"])
    assert open_city([str(tmp_path / "in")], None).failures == {}
    city = open_city([str(tmp_path / "in")], None, imagery=settings)
    assert [source.name for source in city.mosaic.sources] == ["a"]
    assert f"b.tif: its {algorithm} is " in city.failures["b"]
    assert "; deliver it again" in city.failures["b"]


def test_unchanged_images_are_not_read_again_for_their_checksum(tmp_path: Path, caplog) -> None:
    a = write_tif(tmp_path / "in" / "a.tif", blobs(64, 64), compress=None)
    write_tif(tmp_path / "in" / "b.tif", blobs(64, 64), 64)
    settings = listed(tmp_path, "{digest}  in/{name}.tif", a=a)

    def failures() -> dict[str, str]:
        return open_city(
            [str(tmp_path / "in")], None, imagery=settings, cache_folder=tmp_path
        ).failures

    assert failures() == {}
    assert "names no checksum of 1 of 2 images" in caplog.text
    before = a.stat()
    damaged(a)
    os.utime(a, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert failures() == {}  # it has not been read
    os.utime(a)
    assert set(failures()) == {"a"}


@pytest.mark.parametrize("line", ["a.tif", "123  a.tif", "z" * 64 + "  a.tif", "0" * 40])
def test_a_malformed_list_of_checksums_names_the_line(tmp_path: Path, line: str) -> None:
    write_tif(tmp_path / "in" / "a.tif", blobs(64, 64))
    (tmp_path / "sums.txt").write_text("0" * 32 + "  b.tif\n" + line + "\n")
    settings = ImagerySettings(checksums=tmp_path / "sums.txt")
    with pytest.raises(UsageError, match=r"sums\.txt, line 2: not a checksum and file name"):
        open_city([str(tmp_path / "in")], None, imagery=settings)


def test_checksums_find_their_images_by_the_end_of_the_path(tmp_path: Path) -> None:
    names = ("x/a.tif", "y/a.tif", "y/b.tif", "y/c.tif", "z/c.tif")
    images = {name: tmp_path / name for name in names}
    listed = {"/elsewhere/x/a.tif": "0", "/elsewhere/y/a.tif": "1", "b.tif": "2", "c.tif": "3"}
    found = match_checksums(listed, tmp_path / "lists", images)
    assert found == {"x/a.tif": "0", "y/a.tif": "1", "y/b.tif": "2"}
    assert match_checksums(listed, tmp_path / "z", images)["z/c.tif"] == "3"


def test_checksums_of_thousands_of_one_name_find_their_images_at_once(tmp_path: Path) -> None:
    images = {f"{n}": tmp_path / f"{n}" / "ortho.tif" for n in range(3000)}
    listed = {f"/elsewhere/{n}/ortho.tif": f"{n}" for n in range(3000)}
    started = time.process_time()
    assert match_checksums(listed, tmp_path, images) == {name: name for name in images}
    assert time.process_time() - started < 10


def test_of_several_pages_the_first_is_used_and_it_is_said(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", blobs(64, 64))
    with rasterio.open(path) as dataset:
        rasterio.shutil.copy(dataset, tmp_path / "b.tif")
        rasterio.shutil.copy(dataset, tmp_path / "b.tif", APPEND_SUBDATASET="YES")
    assert not image_diagnostics(read_header(path), Settings())
    (remark,) = image_diagnostics(read_header(tmp_path / "b.tif"), Settings())
    assert remark.warning
    assert remark.finding == "has 2 pages"
