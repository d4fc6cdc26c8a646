"""The QGIS project and the style of every product; opened in QGIS where it is installed."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import zipfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import rasterio
from support.cities import CUSTOM_WKT, blobs, colours_model, write_tif
from support.qgis_editing import PYTHON, require_qgis

from capecam.errors import OutputError
from capecam.run.city_products import finish
from capecam.run.supervisor import run
from capecam.settings.loading import load
from capecam.store.run_folder import RunFolder
from capecam.store.verify import verify
from capecam.views.qgis.layer_tree import project_of
from capecam.views.qgis.project import to_element

ROOT = Path(__file__).parents[2]
"""The Python interpreter that has the modules of QGIS."""


WHOLE = blobs(500, 600, seed=5)

VALID = np.ones((500, 600), bool)
VALID[100:200, 230:300] = False
"""Hole in the western image, 350 px wide; the eastern one starts at 250 and fills most of it."""


def make(folder: Path, crs: str = "ESRI:102562", brightest: int = 255, **options) -> Path:
    """Run on two overlapping images, one with a hole; options by key, with __ for the dot."""
    images = folder / "images"
    pixels = np.minimum(WHOLE, np.array([255, 255, brightest], np.uint8)[:, None, None])
    west, valid = pixels[:, :, :350], VALID[:, :350]
    write_tif(images / "west.tif", np.where(valid, west, 0), crs=crs, mask=valid)
    write_tif(images / "east.tif", pixels[:, :, 250:], 250, crs=crs)
    given = {key.replace("__", "."): value for key, value in options.items()}
    defaults = {
        "sources": [str(images)], "out": str(folder / "out"), "compute.readers": 0,
        "explain.calibration_tiles": 8, "detections.min_area_m2": 0.0,
        "qgis.imagery": True, "about.attribution": "City of Blobs",
    }  # fmt: skip
    return run(load(None, defaults | given), model=colours_model()).out


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """Output of a run with raw heatmaps, an empty class, a CRS without a code, and no imagery."""
    return make(
        tmp_path_factory.mktemp("other"), CUSTOM_WKT, brightest=60,
        explain__heatmap_dtype="float32",
        explain__methods=["gradcampp", "layercam", "guided_gradcam"], detections__min_area_m2=3.0,
        detections__keep_rejected=True, explain__where="detected", qgis__imagery=False,
    )  # fmt: skip


def project(out: Path) -> ET.Element:
    with zipfile.ZipFile(out / "capecam.qgz") as archive:
        return ET.fromstring(archive.read("capecam.qgs"))


def layers(out: Path) -> dict[str, ET.Element]:
    found = {x.findtext("id"): x for x in project(out).iterfind("projectlayers/maplayer")}
    return {key.removeprefix("capecam_"): layer for key, layer in found.items()}


def test_a_group_per_theme(out, other) -> None:
    def groups(out: Path) -> list[tuple[str, int]]:
        tree = project(out).findall("layer-tree-group/layer-tree-group")
        return [(group.get("name"), len(group)) for group in tree]

    assert groups(out) == [
        ("Review queue", 1), ("Detections", 2), ("Cells ledger", 1),
        ("Each object's explanation", 3), ("Grad-CAM", 3), ("Grad-CAM++", 3),
        ("Guided Grad-CAM", 3), ("Probability", 3), ("Classes", 1),
        ("Imagery", 1),
    ]  # fmt: skip
    assert groups(other) == [
        ("Review queue", 1), ("Detections", 3), ("Cells ledger", 1),
        ("Each object's explanation", 3), ("Grad-CAM++", 3), ("LayerCAM", 3),
        ("Guided Grad-CAM", 3), ("Probability", 3), ("Classes", 1),
    ]  # fmt: skip


def test_at_first_there_are_detections_and_explanations_of_what_was_found_most(out) -> None:
    found = json.loads((out / "run.json").read_text())["totals"]["by_class"]
    most = max(found, key=lambda name: found[name][0])
    shown = [
        layer.get("name")
        for group in project(out).iterfind(
            "layer-tree-group/layer-tree-group[@checked='Qt::Checked']"
        )
        for layer in group.iterfind("layer-tree-layer[@checked='Qt::Checked']")
    ]
    assert shown == ["All detections", "Regions in each image", most, "Images of the run"]


def test_themes_show_what_they_are_called_for(out, other) -> None:
    def themes(folder: Path) -> dict[str, set[str]]:
        return {
            theme.get("name"): {
                layer.get("id").removeprefix("capecam_")
                for layer in theme.iterfind("layer[@visible='1']")
            }
            for theme in project(folder).iterfind("visibility-presets/visibility-preset")
        }

    found = {"detections", "density"}
    names = [entry.name for entry in load(None).model.classes[1:]]
    for folder, ground in ((out, {"imagery"}), (other, set())):
        shown = themes(folder)
        assert shown["Overview"] == found | ground
        assert shown["Review"] == {"review"} | ground
        per_class = [shown[f"Explain, {name}"] for name in names]
        assert per_class == [found | {f"objects_{band}"} | ground for band in (1, 2, 3)]
        assert shown["Explain"] in per_class


def test_the_project_says_what_it_shows(out) -> None:
    record = json.loads((out / "run.json").read_text())
    abstract = project(out).findtext("projectMetadata/abstract")
    for text in (
        *(f"{name} {count}" for name, (count, _) in record["totals"]["by_class"].items()),
        "2 of 2 images", f"capecam {record['capecam']}, run ", f" of {record['started'][:10]};",
        record["checkpoint"]["architecture"], "City of Blobs", "capecam review",
    ):  # fmt: skip
        assert text in abstract
    assert layers(out)["imagery"].findtext("resourceMetadata/rights") == "City of Blobs"


def test_a_project_does_not_grow_with_its_images(out) -> None:
    few = RunFolder.open(out)
    cells = {f"{name}_{n}": cell for name, cell in few.cells.items() for n in range(1_400)}
    texts = [
        ET.tostring(to_element(project_of(run, {}))) for run in (few, replace(few, cells=cells))
    ]
    assert len(texts[1]) < len(texts[0]) + 100


def test_every_path_is_relative_and_every_layer_explained(out, other) -> None:
    for folder in (out, other):
        for key, layer in layers(folder).items():
            source = layer.findtext("datasource")
            assert re.fullmatch(r"\./[\w.]+(\|.*)?", source), source
            assert (folder / source.split("|")[0]).exists()
            assert len(layer.findtext("abstract")) > 40, key
        with zipfile.ZipFile(folder / "capecam.qgz") as archive:
            assert str(folder.parent) not in archive.read("capecam.qgs").decode()


def test_the_crs_is_that_of_the_imagery_without_a_code(out, other) -> None:
    for folder in (out, other):
        wkt = json.loads((folder / "run.json").read_text())["grid"]["crs"]
        for path in ("projectCrs", "mapcanvas/destinationsrs", "projectlayers/maplayer/srs"):
            found = project(folder).find(f"{path}/spatialrefsys")
            assert found.findtext("wkt") == wkt
            assert found.find("authid") is None
        assert project(folder).findtext("properties/SpatialRefSys/ProjectionsEnabled") == "1"


def test_a_product_alone_looks_as_in_the_project(out) -> None:
    """.qml, GeoPackage and project hold the same elements."""

    def drawn(element: ET.Element, name: str) -> str:
        found = element.find(name)
        ET.indent(found)
        found.tail = ""
        return ET.tostring(found, encoding="unicode")

    for key, stem in {
        "classes": "classes",
        "gradcam_1": "gradcam",
        "probability_1": "probability",
        "imagery": "imagery",
    }.items():
        qml = ET.parse(out / f"{stem}.qml").getroot()
        assert drawn(qml, "pipe") == drawn(layers(out)[key], "pipe")
    for file in ("detections", "cells"):
        with closing(sqlite3.connect(out / f"{file}.gpkg")) as database:
            ((qml,),) = database.execute(
                "SELECT styleQML FROM layer_styles WHERE useAsDefault AND f_table_name = ?", [file]
            )
        for name in ("renderer-v2", "labeling"):
            assert drawn(ET.fromstring(qml), name) == drawn(layers(out)[file], name)


def test_a_style_lies_beside_every_raster_and_is_the_same(out) -> None:
    for path in [*out.glob("*.vrt"), *out.rglob("*.tif")]:
        city = out / f"{path.stem.split('.')[0]}.qml"
        assert path.with_suffix(".qml").read_bytes() == city.read_bytes()


def test_colours_end_at_the_top_of_the_scale(out, other) -> None:
    tops = json.loads((other / "run.json").read_text())["calibration"]["tops"]["layercam"]
    assert tops[2] is None
    for folder, ends in ((out, [1.0] * 3), (other, tops)):
        for band, end in enumerate(ends, start=1):
            method = "layercam" if folder is other else "gradcam"
            layer = layers(folder)[f"{method}_{band}"]
            renderer = layer.find("pipe/rasterrenderer")
            items = renderer.findall("rastershader/colorrampshader/item")
            assert float(renderer.get("classificationMax")) == (end or 1.0)
            assert (items[0].get("alpha"), float(items[0].get("value"))) == ("0", 0.0)
            assert float(items[-1].get("value")) == (end or 1.0)
            assert ("(empty)" in layer.findtext("layername")) == (end is None)
            names = [
                s.get("name") for s in layer.iterfind("map-layer-style-manager/map-layer-style")
            ]
            assert names == ["default", "jet"]


def test_raw_guided_maps_have_the_colours_of_stored_ones(out, other) -> None:
    """Stored levels are square roots; of raw values, the colours go by the root."""

    def colours(folder: Path) -> list[tuple[float, str, str]]:
        path = "pipe/rasterrenderer/rastershader/colorrampshader/item"
        items = layers(folder)["guided_gradcam_1"].iterfind(path)
        return [(float(i.get("value")), i.get("color"), i.get("alpha")) for i in items]

    record = json.loads((other / "run.json").read_text())
    top = record["calibration"]["tops"]["guided_gradcam"][0]
    expected = [(pytest.approx(top * value**2), *rest) for value, *rest in colours(out)]
    assert colours(other) == expected


def test_finishing_again_gives_the_same_and_leaves_cells_alone(out) -> None:
    before = (out / "capecam.qgz").read_bytes()
    removed = out / "cells" / "east" / "gradcam.qml"
    expected = removed.read_bytes()
    removed.unlink()
    made = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/*.tif")}
    finish(out)
    assert removed.read_bytes() == expected
    assert (out / "capecam.qgz").read_bytes() == before
    assert {path: path.stat().st_mtime_ns for path in made} == made


@pytest.mark.thorough
def test_out_and_images_may_be_behind_links(tmp_path, monkeypatch) -> None:
    """The system follows a link before ``..``; a path is counted without it."""
    here = tmp_path / "here"
    for folder in ("disk/deep/out", "store/deep/images", "here"):
        (tmp_path / folder).mkdir(parents=True)
    (here / "out").symlink_to(tmp_path / "disk" / "deep" / "out")
    (here / "images").symlink_to(tmp_path / "store" / "deep" / "images")
    monkeypatch.chdir(here)
    make(Path())
    monkeypatch.chdir(tmp_path)
    assert rasterio.open(here / "out" / "imagery.vrt").read().any()
    assert not verify(here / "out").findings
    assert RunFolder.open(here / "out").mosaic.sources, "images are found again from elsewhere"


def test_out_behind_a_dangling_link_is_refused(tmp_path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "gone")
    with pytest.raises(OutputError, match="out: it is a link that leads nowhere"):
        make(tmp_path)


@pytest.mark.thorough
def test_verify_opens_what_products_name(tmp_path) -> None:
    out = make(tmp_path)
    assert not verify(out).findings
    (tmp_path / "images" / "west.tif").unlink()
    (out / "cells.gpkg").unlink()
    named = {Path(f.path).name: (f.problem, f.remedy) for f in verify(out).findings}
    assert list(named) == ["imagery.vrt", "capecam.qgz"]
    assert re.fullmatch(r"names 1 file\(s\) that .* opened: .*/west.tif", named["imagery.vrt"][0])
    assert named["capecam.qgz"][0] == "names ./cells.gpkg, which does not exist"
    assert "capecam finish" in named["capecam.qgz"][1]
    (out / "capecam.qgz").write_bytes(b"PK no more")
    assert {Path(f.path).name for f in verify(out).findings} == set(named)


def test_a_damaged_style_is_found_and_mended(out) -> None:
    path = out / "cells" / "west" / "classes.qml"
    path.write_text("<qgis/>")
    (finding,) = verify(out).findings
    assert finding.path == str(path)
    assert "capecam finish" in finding.remedy
    finish(out)
    assert not verify(out).findings


@pytest.mark.thorough
def test_new_colours_are_new_styles_and_no_work(tmp_path) -> None:
    out = make(tmp_path)
    made = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/*.tif")}
    classes = [entry.model_dump() for entry in load(None).model.classes]
    classes[1]["color"] = "#123456"
    make(tmp_path, model__classes=classes)
    assert {path: path.stat().st_mtime_ns for path in made} == made
    assert "#123456" in (out / "cells" / "east" / "classes.qml").read_text()


def test_imagery_is_the_images_where_they_are_valid(out, other) -> None:
    anywhere = VALID.copy()
    anywhere[:, 250:] = True
    with rasterio.open(out / "imagery.vrt") as dataset:
        assert np.array_equal(dataset.read_masks(1) > 0, anywhere)
        assert np.array_equal(dataset.read(), np.where(anywhere, WHOLE, 0))
    assert 'relativeToVRT="1">../images/' in (out / "imagery.vrt").read_text()
    assert not list(other.glob("imagery.*"))


@pytest.fixture(scope="module")
def check() -> Callable[..., subprocess.CompletedProcess]:
    """Run ``scripts/qgis_check.py`` with the Python of QGIS."""
    require_qgis("core")

    def check(*arguments: object) -> subprocess.CompletedProcess:
        command = [PYTHON, ROOT / "scripts" / "qgis_check.py", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)

    return check


@pytest.mark.qgis
@pytest.mark.parametrize("kind", ["out", pytest.param("other", marks=pytest.mark.thorough)])
def test_real_qgis_opens_it(request, check, kind: str, tmp_path) -> None:
    done = check(request.getfixturevalue(kind), "--pictures", tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok ") == 16
    wanted = {"whole.png", "close.png", "page.png", "selected.png", "theme_review.png"}
    assert wanted <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.qgis
def test_real_qgis_shows_what_is_wrong(out, check, tmp_path) -> None:
    broken = tmp_path / "out"
    shutil.copytree(out, broken)
    (broken / "classes.vrt").unlink()
    (broken / "cells" / "east" / "gradcam.qml").unlink()
    with closing(sqlite3.connect(broken / "detections.gpkg")) as database, database:
        database.execute("UPDATE layer_styles SET styleQML = ''")
    done = check(broken)
    assert done.returncode == 1
    assert "capecam_classes is not valid" in done.stdout
    (alone,) = [x for x in done.stdout.splitlines() if "opened alone" in x]
    assert "gradcam.tif is drawn by" in alone
    assert "detections is drawn by singleSymbol" in alone
