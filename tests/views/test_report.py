"""The report has the numbers of the tables, escapes names, and stays small."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import pytest
import shapely
from PIL import Image
from support.cities import blobs, colours_model, write_tif
from support.outputs import write_output

import capecam.views.report
from capecam.detections.object_columns import OBJECT_COLUMNS
from capecam.errors import OutputError, UsageError
from capecam.grid import Grid, Tiling, Window
from capecam.io.heat_layer import OBJECT_SHARE_MAX
from capecam.pipeline.object_shares import object_shares
from capecam.run.city_products import finish
from capecam.run.supervisor import run
from capecam.settings import CAPE_TOWN_CLASSES, ClassSettings
from capecam.settings.loading import load
from capecam.store.file_names import REPORT
from capecam.store.object_store import StoredObject
from capecam.store.run_folder import RunFolder
from capecam.views.palette import EVIDENCE_COLORS, LIGHT_PAGE, MARK_CONTRAST, contrast
from capecam.views.report import picture
from capecam.views.report.captions import (
    date_and_time,
    interval,
    own_explanation,
    randomisation,
    stability,
)
from capecam.views.report.density import FINEST, levels
from capecam.views.report.histograms import confidences, sizes
from capecam.views.report.object_maps import brightness
from capecam.views.report.report import write_report
from capecam.views.report.thumbnails import OWN
from capecam.views.report.with_panels import WIDTH_PX, write_report_with_panels

PACKAGE = Path(capecam.views.report.__file__).parent

MB = 1_000_000
NASTY = '</script><img src=x onerror=alert(1)> "o\'k" ü {{ 7 * 7 }}'


class Page(HTMLParser):
    """Contents of a page: its text, addresses, attributes and data."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text("utf-8")
        self.addresses: list[str] = []
        self.ids: set[str] = set()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.data: dict[str, object] = {}
        self._script: str | None = None
        self._text: list[str] = []
        self.feed(self.html)
        self.text = " ".join(" ".join(self._text).split())

    def handle_starttag(self, tag, attrs) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.attributes |= set(given)
        self.ids.add(given.get("id", ""))
        self.addresses += [given[name] for name in ("src", "href") if name in given]
        self._script = given.get("id") or "code" if tag in ("script", "style") else None

    def handle_endtag(self, _tag) -> None:
        self._script = None

    def handle_data(self, data) -> None:
        if self._script is None:
            self._text.append(data)
        elif self._script.endswith("-data"):
            self.data[self._script] = json.loads(data)

    def number(self, class_name: str, kind: str) -> float:
        """Return a number from the row of a class in the table of classes."""
        start = rf'<tr data-class="{class_name}"[^>]*>'
        row = re.search(rf'{start}.*?data-{kind}="([^"]+)"', self.html, re.S)
        return float(row[1])


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """Output of a run over two images and a file that is not an image."""
    folder = tmp_path_factory.mktemp("report")
    whole = blobs(320, 640, seed=3)
    write_tif(folder / "images" / "a.tif", whole[:, :, :330])
    write_tif(folder / "images" / "b's <b>.tif", whole[:, :, 330:], 330)
    (folder / "images" / "bad.tif").write_text("not an image")
    options = {
        "sources": [str(folder / "images")], "out": folder / "out",
        "tiling.size": 160, "tiling.overlap": 40, "explain.calibration_tiles": 4,
        "detections.min_area_m2": 0.5, "run.in_process": True,
    }  # fmt: skip
    run(load(None, options), model=colours_model())
    return folder / "out"


def test_a_run_leaves_a_report_whose_totals_are_those_of_the_summary(small: Path) -> None:
    page = Page(small / REPORT)
    summary = pd.read_csv(small / "summary.csv")
    assert summary["count"].min() > 0
    totals = json.loads((small / "run.json").read_text())["totals"]["by_class"]
    for row in summary.to_dict("records"):
        found = page.number(row["class"], "count"), page.number(row["class"], "area")
        assert list(found) == [row["count"], row["area_m2"]] == totals[row["class"]]
    data = page.data["map-data"]
    for level in data["levels"]:
        numbers = np.array(level["squares"]).reshape(-1, 2 + 2 * len(summary))[:, 2:]
        assert numbers[:, ::2].sum(axis=0).tolist() == summary["count"].tolist()
        assert numbers[:, 1::2].sum(axis=0) == pytest.approx(
            summary["area_m2"], abs=0.1 * len(numbers)
        )
    assert f"{summary['count'].sum()} objects on" in page.text
    assert date_and_time(json.loads((small / "run.json").read_text())["started"]) in page.text


def test_pictures_failures_and_what_could_be_added_are_there(small: Path) -> None:
    page = Page(small / REPORT)
    pictures = [address for address in page.addresses if address.startswith("data:image/webp")]
    rows = len(page.data["queue-data"])
    assert rows == len(pd.read_parquet(small / "detections.parquet"))
    assert len(pictures) == 1 + 2 * rows, "that of the city, and two of each object"
    assert "bad" in page.text
    assert "not a readable GeoTIFF" in page.text
    assert "b's <b>" in {name for name, *_ in page.data["map-data"]["cells"]}
    assert "capecam evaluate" in page.text
    assert "capecam audit" in page.text
    assert not {"scores", "audit"} & page.ids


def test_objects_have_their_own_maps_and_numbers(small: Path, tmp_path: Path) -> None:
    rows = Page(small / REPORT).data["queue-data"]
    assert {row["heatTitle"] for row in rows} == {OWN}
    texts = dict(rows[0]["own"])
    assert list(texts) == ["Explanation", "Blurred", "Alone", "Without"]
    assert not rows[0]["methods"]
    out = tmp_path / "out"
    shutil.copytree(small, out)
    shutil.rmtree(out / ".objects")
    without_maps = Page(write_report(out)).data["queue-data"]
    assert {row["heatTitle"] for row in without_maps} == {"Grad-CAM on the city's scale"}
    assert dict(without_maps[0]["own"]) == texts


def test_an_object_without_an_explanation_has_the_numbers_of_the_tile(tmp_path: Path) -> None:
    write_output(tmp_path, 3)
    table = gpd.read_parquet(tmp_path / "detections.parquet")
    table.loc[table["review"] == 1, [*OBJECT_COLUMNS]] = np.nan
    table.loc[table["review"] == 1, "evidence"] = ""
    table.to_parquet(tmp_path / "detections.parquet")
    first, second, _ = Page(write_report(tmp_path)).data["queue-data"]
    assert (first["own"], first["evidence"], len(first["methods"])) == ([], "", 1)
    assert (len(second["own"]), second["methods"]) == (4, [])


def test_numbers_of_an_explanation_in_words() -> None:
    row = dict(zip(OBJECT_COLUMNS, (0.5, 0.9, 0, 0, 0.8, -0.1, 0.95, 1.2, 0.1), strict=True))
    texts = dict(own_explanation(row))
    assert "50 % of it on the object" in texts["Explanation"].replace("\xa0", " ")
    assert "highest on it" in texts["Explanation"]
    assert "not at all at random" in texts["Blurred"]
    assert "over 100" in texts["Alone"]
    assert "highest 2.5 m away" in dict(own_explanation({**row, "own_peak_m": 2.5}))["Explanation"]
    empty = row | dict.fromkeys(OBJECT_COLUMNS[:4], np.nan)
    assert dict(own_explanation(empty))["Explanation"] == "0 everywhere"


def test_a_thumbnail_is_as_bright_as_the_raster_of_objects() -> None:
    maps = np.random.default_rng(0).random((2, 20, 20)).astype(np.float32)
    stored = StoredObject(np.zeros(9), np.array([[-40, -20], [-40, 220]]), maps)
    window, tiling = Window(-40, -20, 320, 560), Tiling(320, 70, 10)
    drawn = brightness(stored, 320, 10, window)
    shares = object_shares(shapely.box(20, 100, 500, 130), stored, tiling, (0.08, 0.08))
    blocks = (drawn**2).reshape(32, 10, 56, 10).mean(axis=(1, 3)) * OBJECT_SHARE_MAX
    near = ~np.isnan(shares.values)
    assert near.sum() > 1000
    assert blocks[near] == pytest.approx(shares.values[near], rel=1e-4)
    part = brightness(stored, 320, 10, Window(0, 100, 90, 70))
    assert np.array_equal(part, drawn[40:130, 120:190])


def test_nothing_in_it_leads_outside(small: Path) -> None:
    page = Page(small / REPORT)
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "default-src 'none'" in page.html
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org/2000/svg)", page.html)
    assert not {"iframe", "object", "embed", "audio", "video"} & set(page.tags)


def test_the_same_command_makes_it_again_and_finish_does_too(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(small, out)
    (out / REPORT).unlink()
    finish(out)
    assert Page(out / REPORT).data["map-data"] == Page(small / REPORT).data["map-data"]
    assert len(Page(write_report(out, queue=2)).data["queue-data"]) == 2
    assert "left out" in Page(write_report(out, queue=0)).text


def without_imagery(out: Path, folder: Path) -> Path:
    """Return a copy of a run whose images are gone."""
    shutil.copytree(out, folder / "out")
    record = json.loads((out / "run.json").read_text())
    record["settings"]["sources"] = [str(folder / "nowhere")]
    (folder / "out" / "run.json").write_text(json.dumps(record))
    return folder / "out"


def test_imagery_that_is_gone_is_said_and_stops_nothing(small: Path, tmp_path: Path) -> None:
    page = Page(write_report(without_imagery(small, tmp_path)))
    assert "No object has a picture" in page.text
    assert "there is no such file" in page.text
    pictures = [address for address in page.addresses if address.startswith("data:image")]
    assert len(pictures) == 1, "of the classes, under the map"
    assert "Under them are the classes" in page.text


def test_one_damaged_image_costs_only_its_own_pictures(small: Path, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(small.parent / "images", images)
    content = (images / "a.tif").read_bytes()
    (images / "a.tif").write_bytes(content[: len(content) // 2] + bytes(len(content) // 2))
    out = tmp_path / "out"
    shutil.copytree(small, out)
    record = json.loads((out / "run.json").read_text())
    record["settings"]["sources"] = [str(images)]
    (out / "run.json").write_text(json.dumps(record))
    entries = Page(write_report(out)).data["queue-data"]
    problems = {tuple(entry["images"]): entry["problems"] for entry in entries}
    assert problems["b's <b>",] == []
    assert "a.tif" in problems["a",][0]


def test_panels_are_asked_for_the_head_of_the_queue(small: Path) -> None:
    asked = []

    def panel(id_: str) -> bytes:
        asked.append(id_)
        if len(asked) == 2:
            raise UsageError("the checkpoint is another")
        return b"panel of " + id_.encode()

    page = Page(write_report(small, panels=3, draw_panel=panel))
    queue = page.data["queue-data"]
    assert asked == [entry["id"] for entry in queue[:3]]
    assert [entry["panel"] is not None for entry in queue[:4]] == [True, False, True, False]
    assert queue[0]["panel"].startswith("data:image/webp;base64,")
    assert queue[1]["problems"] == ["No panel: the checkpoint is another"]
    assert not queue[3]["problems"], "none was asked for"


def test_panels_are_computed_with_the_runs_own_network(small: Path, tmp_path, caplog) -> None:
    done = []
    page = Page(
        write_report_with_panels(
            small, panels=2, model=colours_model(), on_progress=lambda *n: done.append(n)
        )
    )
    queue = page.data["queue-data"]
    panels = [entry["panel"] for entry in queue[:3]]
    assert panels[2] is None
    for panel in panels[:2]:
        with Image.open(io.BytesIO(base64.b64decode(panel.partition(",")[2]))) as image:
            assert (image.format, image.width) == ("WEBP", WIDTH_PX)
    assert done == [(1, 2), (2, 2)]
    assert not caplog.records


def test_a_network_that_is_gone_leaves_a_report_without_panels(small: Path, caplog) -> None:
    queue = Page(write_report_with_panels(small, panels=2)).data[
        "queue-data"
    ]  # it was only ever in memory
    assert [bool(entry["problems"]) for entry in queue[:3]] == [True, True, False]
    assert "was given in memory" in queue[0]["problems"][0]
    (record,) = caplog.records
    assert record.getMessage().startswith("2 panel(s) could not be drawn: ")


def test_names_cannot_break_out(tmp_path: Path) -> None:
    classes = (
        ClassSettings(name="background", color="#000000"),
        ClassSettings(name=NASTY, color="#00ff00"),
    )
    cells = [Window(0, 0, 500, 500), Window(0, 500, 500, 500)]
    write_output(tmp_path, 20, classes=classes, cells=cells, failed=[1], reason=NASTY)
    page = Page(write_report(tmp_path))
    assert page.tags.count("script") == 3
    assert "onerror" not in page.attributes
    assert NASTY in page.text
    assert page.data["map-data"]["cells"][1][5] == NASTY


def test_a_run_that_found_nothing(tmp_path: Path) -> None:
    write_output(tmp_path, 0)
    page = Page(write_report(tmp_path))
    assert "found no object that passes the filters of this run" in page.text
    assert "nothing to review" in page.text
    assert page.number("solar panel", "count") == 0
    assert page.data["queue-data"] == []


def test_failed_cells_are_on_the_map_with_their_reasons(tmp_path: Path) -> None:
    cells = [Window(0, 1000 * n, 1000, 1000) for n in range(4)]
    write_output(tmp_path, 50, cells=cells, failed=[2], reason="no space left")
    page = Page(write_report(tmp_path))
    drawn = {name: reason for name, *_, reason in page.data["map-data"]["cells"] if reason != 80}
    assert drawn == {"image 2": "no space left"}
    assert "3 of 4" in page.text
    assert "1 failed ( reasons )" in " ".join(page.text.split())


def test_degrees_are_drawn_in_metres(tmp_path: Path) -> None:
    degrees = Grid(
        pyproj.CRS("EPSG:4326").to_wkt(), (18.4, -33.9), (1e-6, 1e-6), Window(0, 0, 9, 9)
    )
    summary = write_output(tmp_path, 30, grid=degrees, cells=[Window(0, 0, 5000, 5000)])
    data = Page(write_report(tmp_path)).data["map-data"]
    assert data["width"] == pytest.approx(
        5000 * 1e-6 * 111_320 * np.cos(np.radians(33.9)), rel=0.01
    )
    assert data["height"] == pytest.approx(5000 * 1e-6 * 110_900, rel=0.01)
    squares = np.array(data["levels"][-1]["squares"]).reshape(-1, 8)
    assert squares[:, 2::2].sum() == summary["count"].sum()
    assert squares[:, :2].min() >= 0
    assert (
        squares[:, :2].max(axis=0) * data["levels"][-1]["size"] <= [data["width"], data["height"]]
    ).all()


def test_a_hundred_thousand_objects_are_summaries(tmp_path: Path) -> None:
    across = 12_500
    cells = [Window(across * r, across * c, across, across) for r in range(20) for c in range(30)]
    write_output(tmp_path, 100_000, cells=cells, failed=[7])
    path = write_report(tmp_path)
    assert path.stat().st_size < 1 * MB
    data = Page(path).data["map-data"]
    for level in data["levels"]:
        squares = np.array(level["squares"]).reshape(-1, 8)
        assert squares[:, 2::2].sum() == 100_000
        assert len(squares) <= FINEST
    assert len(data["levels"]) >= 2, "closer, the squares are smaller"


def test_scores_and_audit_are_shown_where_there_are_any(tmp_path: Path) -> None:
    write_output(tmp_path, 10)
    (tmp_path / "evaluation.json").write_text(json.dumps(scores(detections="2" * 64)))
    record = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**record, "audit": audited()}))
    page = Page(write_report(tmp_path))
    assert {"scores", "audit"} <= page.ids
    assert "0.75 0.50 to 0.90" in page.text
    assert "F1 is highest, 0.60, at a minimum confidence of 0" in page.text
    assert page.html.count('<polyline class="line precision" points="28.0,37.0 100.5,12.0 "/>') == 1
    assert "The scores are of other detections" in page.text
    assert audited()["conclusion"] in page.text
    assert "Changes as soon as the last layers are randomized" in page.text
    assert "capecam audit" not in page.text
    (tmp_path / "run.json").write_text(json.dumps({**record, "audit": {"methods": []}}))
    older = Page(write_report(tmp_path))
    assert "audit" not in older.ids, "it tested something else"
    assert "capecam audit" in older.text
    (tmp_path / "evaluation.json").write_text(json.dumps(scores(detections="1" * 64)))
    page = Page(write_report(tmp_path))
    assert "The scores are of other detections" not in page.text
    assert "Wrong detections found in the first looks" not in page.text
    auc = {"value": 0.97, "low": 0.9, "high": 1.0}
    found = {"queue": {"found": [8, 30], "auc": auc}, "random": {"found": [0.75, 30.0]}}
    looks = {"objects": 40, "errors": 30, "looks": [10, 40], "orders": found}
    scored = scores(detections="1" * 64) | {"queue": looks, "misses": None}
    (tmp_path / "evaluation.json").write_text(json.dumps(scored))
    text = Page(write_report(tmp_path)).text
    assert "Wrong detections found in the first looks" in text
    assert "0.97 0.90 to 1.00" in text
    assert "queue 8 30" in text


def scores(detections: str) -> dict:
    entry = {
        "class": "solar panel", "true": 4, "found": 4, "matched": 3, "precision": 0.75,
        "recall": None, "f1": 0.75, "average_precision": None, "true_m2": 20.0, "found_m2": 21.0,
        "intervals_95": {"precision": [0.5, 0.9], "recall": None, "f1": None},
    }  # fmt: skip
    steps = [{"step": "tracing", **entry}]
    points = ((0.0, 0.75, 0.5, 0.6), (0.5, 1.0, 0.25, 0.4), (0.95, None, 0.0, 0.0))
    keys = ("confidence", "precision", "recall", "f1")
    entry["curve"] = [dict(zip(keys, point, strict=True)) for point in points]
    return {"truth": "t.gpkg", "area_km2": 0.2, "iou": 0.5, "classes": [entry], "steps": steps,
            "confusion": {"(nothing)": {"(nothing)": 0}}, "detections": detections}  # fmt: skip


def test_intervals_that_are_not_known_are_not_printed(tmp_path: Path) -> None:
    assert interval(0.5, 0.75) == "0.50 to 0.75"
    assert interval(0.996, 0.999) == "0.996 to 0.999", "more digits, so that the ends differ"
    assert interval(1200.2, 1300, digits=0) == "1,200 to 1,300"
    for unknown in ((1.0, 1.0), (None, None), (0.5, None), (float("nan"), 1.0), (0.7, 0.6)):
        assert interval(*unknown) == ""
    write_output(tmp_path, 10)
    scored = scores(detections="1" * 64)
    entry = scored["classes"][0]
    entry |= {"precision": 1.0, "intervals_95": {"precision": [1.0, 1.0], "recall": None}}
    entry["intervals_95"]["f1"] = [0.7, 0.8]
    (tmp_path / "evaluation.json").write_text(json.dumps(scored))
    record = json.loads((tmp_path / "run.json").read_text())
    audit = audited() | {"methods": [method(above_random=estimate(0.25, 0.25, 0.25))]}
    (tmp_path / "run.json").write_text(json.dumps({**record, "audit": audit}))
    text = Page(write_report(tmp_path)).text
    assert "1.00 to 1.00" not in text
    assert "0.25 to 0.25" not in text
    assert "0.75 0.70 to 0.80" in text
    assert "Where no range is given, it is not known" in text
    assert "Where no range" not in Page(write_scored(tmp_path, [0.5, 0.9])).text


def write_scored(out: Path, ends: list[float]) -> Path:
    """Write the report of a run whose scores have an interval each."""
    scored = scores(detections="1" * 64)
    scored["classes"][0]["intervals_95"] = {"precision": ends, "recall": ends, "f1": ends}
    (out / "evaluation.json").write_text(json.dumps(scored))
    return write_report(out)


def test_the_map_has_a_picture_of_the_imagery_in_its_place(small: Path) -> None:
    page = Page(small / REPORT)
    tag = re.search(
        r'<image id="map-picture" href="data:image/webp;base64,([^"]+)"([^>]*)>', page.html
    )
    box = {name: float(value) for name, value in re.findall(r'(\w+)="([-\d.]+)"', tag[2])}
    data = page.data["map-data"]
    assert box == {"x": 0, "y": 0, "width": data["width"], "height": data["height"]}
    whole = blobs(320, 640, seed=3).transpose(1, 2, 0)
    with Image.open(io.BytesIO(base64.b64decode(tag[1]))) as image:
        assert image.size == (640, 320)
        drawn = np.asarray(image.convert("RGB"), float)
    blocks = (drawn - whole).reshape(40, 8, 80, 8, 3).mean(axis=(1, 3))
    assert np.abs(blocks).mean() < 2, "WebP loses the noise, and no place"


def test_without_imagery_the_picture_is_of_the_classes(small: Path, tmp_path: Path) -> None:
    run_folder = RunFolder.open(without_imagery(small, tmp_path))
    drawn = picture.city_picture(run_folder, None)
    assert drawn is not None
    assert drawn.kind == "classes"
    with Image.open(io.BytesIO(drawn.image)) as image:
        pixels = np.asarray(image.convert("RGBA"), float)
    table = gpd.read_parquet(small / "detections.parquet")
    grid, edge = run_folder.grid, drawn.window.height / len(pixels)
    hits = []
    for shape, class_id in zip(table.geometry, table["class_id"], strict=True):
        col, row = grid.to_pixels(shapely.get_coordinates(shape.representative_point()))[0]
        *color, alpha = pixels[int(row // edge), int(col // edge)]
        hits.append(alpha > 128 and np.argmax(color) == np.argmax(CAPE_TOWN_CLASSES[class_id].rgb))
    assert np.mean(hits) > 0.6, "an overview misses small objects"


def test_pictures_are_bounded(monkeypatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 4), np.uint8)
    monkeypatch.setattr(picture, "MAX_BYTES", 40_000)
    content = picture.encoded(noise)
    assert len(content) <= 40_000
    with Image.open(io.BytesIO(content)) as image:
        assert image.width < 512


def test_objects_of_the_queue_have_their_outlines_on_the_map(small: Path) -> None:
    data = Page(small / REPORT).data["map-data"]
    table = gpd.read_parquet(small / "detections.parquet").sort_values("review")
    assert len(data["outlines"]) == len(data["queue"]) == len(table)
    left, top, unit_x, unit_y = data["place"]
    for (size, path), shape in zip(data["outlines"], table.geometry, strict=True):
        points = np.array(re.findall(r"([-\d.]+),([-\d.]+)", path), float)
        there = points * (unit_x, -unit_y) + (left, top)
        assert shapely.distance(shape.boundary, shapely.points(there)).max() < 0.15
        bounds = shapely.multipoints(there).bounds
        assert bounds == pytest.approx(shape.bounds, abs=0.15)
        x0, y0, x1, y1 = shape.bounds
        assert size == pytest.approx(max(x1 - x0, y1 - y0), abs=0.06)


def test_what_is_by_class_can_be_filtered(tmp_path: Path) -> None:
    """Every table, chart and bar that names a class says which it is of."""
    write_output(tmp_path, 60)
    scored = scores(detections="1" * 64)
    (tmp_path / "evaluation.json").write_text(json.dumps(scored))
    html = Page(write_report(tmp_path)).html
    names = [entry.name for entry in CAPE_TOWN_CLASSES[1:]]
    for number, name in enumerate(names, start=1):
        assert f'<option value="{number}">{name}</option>' in html
        assert f'<tr data-class="{name}" data-of="{number}">' in html
    body = html[html.index("<main>") : html.index("<footer>")]
    rows = re.findall(r"<(?:th|figcaption|p)[^>]*>(?:<span[^>]*></span>)?([^<]+)</", body)
    assert {name: rows.count(name) for name in names}["solar panel"] >= 7
    loose = re.findall(
        r"<(tr|figure|div class=\"row\")>\s*<(?:th|figcaption|p)[^>]*>(?:<span[^>]*></span>)?"
        r"(solar panel|water heater|pool heater)<", body,
    )  # fmt: skip
    assert loose == []


def test_the_palette_is_in_the_page_with_the_colours_of_the_run(tmp_path: Path) -> None:
    classes = (
        ClassSettings(name="background", color="#000000"),
        ClassSettings(name="pale", color="#FFF9C4"),
    )
    write_output(tmp_path, 12, classes=classes)
    html = Page(write_report(tmp_path)).html
    assert html.count("--class-1:#FFF9C4;") == 3, "light, dark and printed"
    edges = re.findall(r"--class-1-edge:(#\w{6});", html)
    assert contrast(edges[0], LIGHT_PAGE.paper) >= MARK_CONTRAST
    assert edges[1] == "#FFF9C4", "on a dark page it needs none"
    assert html.count(f"--context:{EVIDENCE_COLORS['context']};") == 3


def estimate(mean: float | None, low: float | None = None, high: float | None = None) -> dict:
    return {"count": 5, "mean": mean, "low": low, "high": high}


def method(**changed) -> dict:
    return {
        "method": "gradcam",
        "title": "Grad-CAM",
        "insertion_minus_deletion": estimate(-0.8, -0.9, -0.7),
        "above_random": estimate(0.04, 0.01, 0.07),
        "above_distance": estimate(-1.4, -1.5, -1.3),
        "shift_correlation": estimate(0.9),
        "leak": estimate(None),
        "randomised": {"head": estimate(0.1), "encoder": estimate(0.0)},
        "seconds": 0.25,
        "reason": "Cannot be believed: worse than the mere distance to the object.",
        **changed,
    }


def audited() -> dict:
    return {
        "conclusion": "With this network, Grad-CAM cannot be believed about objects.",
        "by_class": {"solar panel": 5}, "skipped": {}, "shift_px": 80, "methods": [method()],
        "baselines": [
            {"method": name, "insertion_minus_deletion": estimate(0.6, 0.5, 0.7)}
            for name in ("distance", "random")
        ],
        "kept": {"0": estimate(0.5), "8": estimate(1.0)},
        "rule": {"randomized": 0.5},
    }  # fmt: skip


def test_audits_are_read_in_plain_words() -> None:
    assert "shows what was learnt" in randomisation(method(), 0.5)
    late = {"head": estimate(0.9), "decoder": estimate(0.8), "encoder": estimate(0.1)}
    assert "until encoder is randomized" in randomisation(method(randomised=late), 0.5)
    assert "shows the image" in randomisation(method(randomised={"head": estimate(0.9)}), 0.5)
    assert "Not defined" in randomisation(method(randomised={"head": estimate(None)}), 0.5)
    assert stability(method()).startswith("Stays the same")
    assert stability(method(shift_correlation=estimate(0.5))).startswith("Depends")
    assert stability(method(shift_correlation=estimate(None))).startswith("Not defined")


def test_histograms_hold_every_value() -> None:
    values = np.exp(np.random.default_rng(0).normal(1.5, 1, 500))
    found = sizes(values, values.min(), values.max())
    assert sum(bar.count for bar in found.bars) == 500
    assert all(bar.x >= 0 and bar.x + bar.width <= 1 + 1e-9 for bar in found.bars)
    assert [label for _, label in found.ticks][:4] == ["0.1", "0.2", "0.5", "1"]
    assert found.quartiles == tuple(np.percentile(values, (25, 50, 75)))
    for value in (1.0, 10.0, 1.7):  # on the border of two bars, and alone
        assert sum(bar.count for bar in sizes(np.array([value]), value, value).bars) == 1
    both_ends = confidences(np.array([0.0, 1.0]))
    assert [(bar.x, bar.count) for bar in both_ends.bars] == [(0.0, 1), (pytest.approx(0.95), 1)]
    assert confidences(np.array([])).median is None


def test_squares_count_each_object_once() -> None:
    points = np.array([[-0.1, 5.0], [0.0, 5.0], [9.99, 5.0], [10.0, 5.0]])
    (level,) = levels(points, np.array([1, 1, 2, 1]), np.ones(4), (300.0, 200.0), 2)
    assert level.size_m == 10
    assert level.squares.tolist() == [[-1, 0], [0, 0], [1, 0]]
    assert level.count.tolist() == [[1, 0], [1, 1], [1, 0]]


def test_it_wants_city_products(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="start with capecam run"):
        write_report(tmp_path)
    write_output(tmp_path, 3)
    (tmp_path / "detections.parquet").unlink()
    with pytest.raises(OutputError, match="capecam finish"):
        write_report(tmp_path)


def test_it_needs_no_torch() -> None:
    code = "import sys, capecam.views.report.report; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_wheel_holds_its_templates() -> None:
    """hatchling packages all files that git does not ignore; none of these is ignored."""
    files = list((PACKAGE / "templates").iterdir())
    assert {path.suffix for path in files} == {".html", ".css", ".js"}
    ignored = subprocess.run(
        ["git", "check-ignore", *map(str, files)], capture_output=True, cwd=PACKAGE, check=False
    )
    assert not ignored.stdout
