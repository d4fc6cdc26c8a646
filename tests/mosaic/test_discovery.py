"""Sources are found once each, and odd file names work in all products."""

from __future__ import annotations

import json
import os
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from support.cities import blobs, colours_model, write_tif

from capecam.errors import UsageError
from capecam.imagery.discovery import find_images, name_images
from capecam.mosaic.city import open_city
from capecam.run.supervisor import run
from capecam.settings.loading import load
from capecam.store.verify import verify

SIZE = 64

ODD = [
    "two words; 100%", "it's \"a<b>\" & #1", unicodedata.normalize("NFD", "Café"), "new\nline\t",
    "-dash", "back\\slash", "x[1]*?", "n" * 251, "\x01control", ".hidden", "..", "com,ma ",
    "a_r0c1", "a", "GTIFF_DIR:1:a", "日本 $HOME {z} ~",
]  # fmt: skip


def names_of(*sources: object, **options: bool) -> dict[str, str]:
    found = find_images([str(source) for source in sources], **options)
    return {name: str(path) for name, path in name_images(found.paths).items()}


@pytest.mark.thorough
def test_odd_names_end_in_whole_products(tmp_path: Path, monkeypatch) -> None:
    for n, name in enumerate(ODD):
        write_tif(tmp_path / "in" / f"{name}.tif", blobs(SIZE, SIZE, seed=n), n * SIZE)
    monkeypatch.chdir(tmp_path / "in")
    given = {
        "sources": [f"./{name}.tif" if name.startswith("-") else f"{name}.tif" for name in ODD],
        "out": str(tmp_path / "out"), "tiling.size": 64, "tiling.overlap": 0, "tiling.stride": 8,
        "explain.calibration_tiles": 2, "explain.methods": ["gradcam"], "compute.readers": 0,
        "detections.min_area_m2": 0.0, "qgis.imagery": True,
    }  # fmt: skip
    outcome = run(load(None, given), model=colours_model())
    assert outcome.failures == {}
    assert outcome.done == len(ODD)
    assert not verify(outcome.out).to_json().get("problems")
    record = json.loads((outcome.out / "run.json").read_text())
    folders = {path.name for path in (outcome.out / "cells").iterdir()}
    assert folders == set(record["cells"])
    assert set(ODD[:3]) | {"-dash", "x[1]*?", "a", ODD[-1]} <= folders
    with rasterio.open(outcome.out / "classes.vrt") as dataset:
        assert (dataset.read(1) != 255).all()
    with rasterio.open(outcome.out / "imagery.vrt") as dataset:
        seen = dataset.read_masks(1).any(axis=0).reshape(len(ODD), SIZE).all(axis=1)
    assert {ODD[n] for n in np.flatnonzero(~seen)} == {"new\nline\t", "\x01control"}
    detections = gpd.read_file(outcome.out / "detections.gpkg", layer="detections")
    assert set(",".join(detections["images"]).split(",")) <= folders


def test_a_name_that_is_not_utf8_is_one_line(tmp_path: Path) -> None:
    write_tif(tmp_path / "in" / "good.tif", blobs(40, 40))
    write_tif(tmp_path / "bad.tif", blobs(40, 40), 40)
    os.rename(tmp_path / "bad.tif", os.fsencode(tmp_path / "in") + b"/stra\xdfe.tif")
    failures = open_city([str(tmp_path / "in")], None).failures
    ((name, reason),) = failures.items()
    assert name.startswith("stra_e_")
    assert reason.endswith("stra\\udcdfe.tif: its name is not UTF-8; rename it")
    reason.encode()


def test_a_file_named_twice_counts_once(tmp_path: Path, monkeypatch) -> None:
    path = write_tif(tmp_path / "in" / "a.tif", blobs(40, 40))
    (tmp_path / "in" / "b.tif").symlink_to("a.tif")
    (tmp_path / "also").symlink_to("in")
    monkeypatch.chdir(tmp_path)
    assert names_of("in", "also", path, "in/../in/a.tif", "in/*.tif") == {"a": str(path)}
    assert names_of("in/b.tif") == {"b": "in/b.tif"}


def test_a_link_out_of_the_folders_is_not_followed(tmp_path: Path) -> None:
    write_tif(tmp_path / "in" / "a.tif", blobs(40, 40))
    outside = write_tif(tmp_path / "private" / "secret.tif", blobs(40, 40), 40)
    link = tmp_path / "in" / "b.tif"
    link.symlink_to(outside)
    for source in (tmp_path / "in", tmp_path / "in" / "*.tif"):
        city = open_city([str(source)], None)
        assert set(city.failures) == {"b"}
        assert "is a link out of the folders given, to" in city.failures["b"]
    for more in (link, tmp_path / "private"):
        city = open_city([str(tmp_path / "in"), str(more)], None)
        assert (len(city.mosaic.sources), city.failures) == (2, {})


def test_a_folder_behind_a_link_that_a_glob_meets_is_not_trusted(tmp_path: Path) -> None:
    write_tif(tmp_path / "in" / "sub" / "a.tif", blobs(40, 40))
    write_tif(tmp_path / "private" / "secret.tif", blobs(40, 40), 40)
    (tmp_path / "in" / "link").symlink_to(tmp_path / "private")
    for source in (tmp_path / "in" / "*", tmp_path / "in" / "*" / "*.tif"):
        city = open_city([str(source)], None)
        assert [image.name for image in city.mosaic.sources] == ["a"]
        assert "secret.tif: is behind a link out of the folders given" in city.failures["secret"]


def test_a_glob_may_begin_with_a_wildcard(tmp_path: Path, monkeypatch) -> None:
    for n in (1, 2):
        write_tif(tmp_path / f"in{n}" / f"{n}.tif", blobs(40, 40), 40 * n)
    monkeypatch.chdir(tmp_path)
    city = open_city(["in*/*.tif"], None)
    assert (len(city.mosaic.sources), city.failures) == (2, {})


def test_no_image_is_lost_among_thousands_of_one_name() -> None:
    paths = [Path(f"/delivery/{n}/ortho.tif") for n in range(20_000)]  # a dozen share six digits
    names = name_images(paths)
    assert sorted(names.values()) == sorted(paths)
    assert max(map(len, names)) == len("ortho_") + 16


def test_images_of_one_name_are_both_made(tmp_path: Path) -> None:
    for n, name in enumerate(("x/a.tif", "y/a.tif", "y/A.TIFF", "y/b.tif", "y/big.tif")):
        write_tif(tmp_path / name, blobs(40, 40), 40 * n)
    write_tif(tmp_path / "y" / "big_r0c1.tif", blobs(40, 40), 400)
    names = names_of(tmp_path / "x", tmp_path / "y")
    assert {"b", "big"} <= set(names)
    hashed = sorted(set(names) - {"b", "big"})
    assert [name.rsplit("_", 1)[0] for name in hashed] == ["A", "a", "a", "big_r0c1"]
    assert len(open_city([str(tmp_path / "x"), str(tmp_path / "y")], None).mosaic.sources) == 6


def test_hidden_files_and_others_of_a_folder_are_no_images(tmp_path: Path) -> None:
    for name in ("a.tif", "._a.tif", ".b.tif", "a.tfw", "a.tif.aux.xml", "c.vrt", "d.TIFF"):
        (tmp_path / name).touch()
    assert set(names_of(tmp_path)) == {"a", "d"}
    assert set(names_of(tmp_path / "*")) == {"a", "d"}
    assert set(names_of(tmp_path, vrt=True)) == {"a", "c", "d"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_lists_as_people_save_them(tmp_path: Path, encoding: str) -> None:
    for name in ("Straße.tif", "b.tif", "x[1].tif"):
        (tmp_path / name).touch()
    text = "# a list\r\nStraße.tif\r\n\r\n  b.tif  \r\nx[1].tif\r\ngone.tif\r\n"
    (tmp_path / "list.txt").write_bytes(text.encode(encoding))
    found = find_images([f"@{tmp_path}/list.txt"])
    assert set(name_images(found.paths)) == {"Straße", "b", "x[1]", "gone"}
    ((path, reason),) = found.refused.items()
    assert path == tmp_path / "gone.tif"
    assert f"there is no such file, or no GeoTIFF in it (line 6 of {tmp_path}/list.txt)" in reason


@pytest.mark.parametrize(
    "source",
    [
        "WMS:https://example.com", "<VRTDataset/>", "GTIFF_DIR:1:a.tif", "", "a\0b", "x" * 5000,
        "NETCDF:a:b", "https://example.com/a.tif",
    ],
)  # fmt: skip
def test_what_is_no_file_is_no_source(tmp_path: Path, source: str, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_tif(tmp_path / "a.tif", blobs(40, 40))
    with pytest.raises(UsageError, match="there is no such file"):
        find_images([source])


def test_a_cut_archive_is_one_line(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (3, 200, 200)).astype(np.uint8)
    write_tif(tmp_path / "a.tif", noise)
    whole = tmp_path / "a.tgz"
    with tarfile.open(whole, "w:gz") as archive:
        archive.add(tmp_path / "a.tif", "a.tif")
        archive.add(tmp_path / "a.tif", "b.tif")
    for part in (0.3, 0.8):
        cut = tmp_path / "cut.tgz"
        cut.write_bytes(whole.read_bytes()[: int(whole.stat().st_size * part)])
        with pytest.raises(UsageError, match=r"cut\.tgz: cannot be read as an archive"):
            open_city([f"/vsitar/{cut}"], None)


def test_archives_are_read_as_folders_are(tmp_path: Path) -> None:
    pixels = blobs(80, 80)
    for n in range(2):
        write_tif(tmp_path / f"{n}.tif", pixels[:, :, 40 * n : 40 * n + 40], 40 * n)
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for n in range(2):
            archive.write(tmp_path / f"{n}.tif", f"deep/{n}.tif")
    for source in ("all.zip", "all.zip/deep", "all.zip/deep/1.tif"):
        city = open_city([f"/vsizip/{tmp_path}/{source}"], None)
        expected = pixels if "1.tif" not in source else pixels[:, :, 40:]
        assert city.mosaic.grid.window.shape == expected.shape[1:]
    with pytest.raises(UsageError, match="there is no GeoTIFF in it"):
        open_city([f"/vsizip/{tmp_path}/all.zip/other"], None)
    with pytest.raises(UsageError, match="there is no such archive"):
        open_city([f"/vsizip/{tmp_path}/none.zip"], None)
