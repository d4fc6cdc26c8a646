"""The viewer's page in a real browser, with a small run behind it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from PIL import Image
from shapely import box
from shapely.geometry import shape
from support.cities import CORNER, GSD, blobs, colours_model, quick_settings, write_tif
from viewer.page_server import Run, Site, served

from capecam.run.supervisor import run

DESKTOP, PHONE = {"width": 1200, "height": 800}, {"width": 390, "height": 800}
SIDE, IMAGE = 1300, 650
"""Edges of the city and of its four images in pixels; blocks of 10 px do not fit either."""
SHIFT = (3, 7)
"""Columns and rows from the anchor of the tiles to the corner of the city."""
FAILED = "image 3"
REASON = "<b>the file is damaged</b>"

pytestmark = [pytest.mark.chromium, pytest.mark.thorough]


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """Output of a run over four images, on a lattice that begins elsewhere."""
    folder = tmp_path_factory.mktemp("city")
    whole = blobs(SIDE, SIDE, seed=2)
    for n in range(4):
        row, col = n // 2 * IMAGE, n % 2 * IMAGE
        part = whole[:, row : row + IMAGE, col : col + IMAGE]
        write_tif(folder / "in" / f"image {n}.tif", part, col, row)
    anchor = [CORNER[0] - SHIFT[0] * GSD, CORNER[1] + SHIFT[1] * GSD]
    settings = quick_settings(folder, tiling__anchor=anchor, objects__explain=0)
    run(settings, model=colours_model())
    return folder / "out"


@pytest.fixture
def site(out, tmp_path) -> Site:
    return Site([Run(out, failed={FAILED: REASON})], tmp_path)


@pytest.fixture
def errors() -> list[str]:
    """Errors that pages have printed."""
    return []


@pytest.fixture
def opened(browser, errors) -> Iterator[Any]:
    """Open pages; finally check that nothing else was asked and that no error was printed."""
    servers, contexts, outside = [], [], []

    def open_page(site: Site, link: str = "", **options: Any) -> Any:
        server = served(site)
        address = server.__enter__()
        servers.append(server)
        usual = {"viewport": DESKTOP, "reduced_motion": "reduce"}
        context = browser.new_context(**{**usual, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda said: said.type == "error" and errors.append(said.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        ours = (address, "data:", f"blob:{address}")
        page.on(
            "request",
            lambda asked: asked.url.startswith(ours) or outside.append(asked.url),
        )
        page.goto(address + link)
        page.wait_for_selector("html[data-ready]")
        settle(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    for server in servers:
        server.__exit__(None, None, None)
    assert errors == []
    assert outside == []


def settle(page) -> None:
    """Wait until what was asked for is drawn."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(150)


def map_box(page) -> dict[str, float]:
    return page.locator("#map").bounding_box()


def screen(page) -> np.ndarray:
    """Return the pixels of the map, (height, width, 3)."""
    picture = page.screenshot(clip=map_box(page))
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)


class Projected:
    """A map on the screen whose pixels are ``scale`` pixels of the grid, edges on edges."""

    def __init__(self, page, run: Run, col: int, row: int, scale: float) -> None:
        """The pixel (col, row) of the grid has its corner in the middle of the map."""
        x0, y0, pixel, _ = run.transform
        spot = map_box(page)
        self.half = np.array([spot["width"] // 2, spot["height"] // 2])
        self.resolution = scale * pixel
        odd = np.array([spot["width"] % 2, spot["height"] % 2]) / 2
        self.origin = np.array([x0 + col * pixel, y0 - row * pixel])
        centre = self.origin + odd * [self.resolution, -self.resolution]
        self.link = f"#{centre[0]!r},{centre[1]!r},{self.resolution!r}".replace("np.float64", "")
        self.link = re.sub(r"[()]", "", self.link)

    def __call__(self, x: float, y: float) -> np.ndarray:
        """Return (x, y) on the map in pixels."""
        return self.half + np.array([x - self.origin[0], self.origin[1] - y]) / self.resolution

    def places(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Return x by column and y by row of the centres of the screen's pixels."""
        x = self.origin[0] + (np.arange(shape[1]) + 0.5 - self.half[0]) * self.resolution
        y = self.origin[1] - (np.arange(shape[0]) + 0.5 - self.half[1]) * self.resolution
        return x, y


def go(page, projected: Projected) -> None:
    page.evaluate("link => { location.hash = link; }", projected.link)
    settle(page)


def object_of(site: Site, n: int = 0, cell: int = 0) -> Any:
    """Return a detection of one of the images, the largest first."""
    x0, y0, pixel, _ = site.runs[0].transform
    table = site.runs[0].table.sort_values("area_m2", ascending=False)
    points = table.geometry.representative_point()
    cols, rows = (points.x - x0) / pixel // IMAGE, (y0 - points.y) / pixel // IMAGE
    return table[(rows * 2 + cols) == cell].iloc[n]


def only(site: Site, layer_id: str | None, palette: list[str] | None = None) -> None:
    """Show a single layer, in full, or none."""
    described = site.runs[0].describe()
    for layer in described["layers"]:
        layer.update(visible=layer["id"] == layer_id, opacity=1)
        if palette and layer["id"] == layer_id:
            layer["palette"] = palette
    site.overrides["runs"] = [described]


def hide_detections(page) -> None:
    page.get_by_role("tab", name="Detections").click()
    page.get_by_label("Show detections").uncheck()


def extent_of(mask: np.ndarray) -> np.ndarray:
    """Return left, top, right, bottom of what is set, as edges of pixels."""
    rows, cols = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return np.array([cols[0], rows[0], cols[-1] + 1, rows[-1] + 1])


# Positions


@pytest.mark.parametrize("scale", [1, 0.25, 2])
def test_every_pixel_of_a_heatmap_is_where_rasterio_has_it(opened, site, scale) -> None:
    """Blocks of 10 px across the corner of four cells, one of which failed."""
    palette = [f"#{v:02x}{255 - v:02x}80ff" for v in range(255)] + ["#00000000"]
    only(site, "gradcam/solar panel", palette)
    page = opened(site)
    hide_detections(page)
    projected = Projected(page, site.runs[0], IMAGE, IMAGE, scale)
    go(page, projected)
    seen = screen(page)
    x, y = projected.places(seen.shape)
    with rasterio.open(site.runs[0].out / "gradcam.vrt") as raster:
        values = raster.read(1)
        to_block = ~raster.transform
    tie = 1e-4  # of a block: centres that lie on the edge of two belong to the second
    cols = np.floor(to_block.a * x + to_block.c + tie).astype(int)
    rows = np.floor(to_block.e * y + to_block.f + tie).astype(int)
    inside = np.ix_((rows >= 0) & (rows < values.shape[0]), (cols >= 0) & (cols < values.shape[1]))
    expected = np.full(seen.shape[:2], 255)
    expected[inside] = values[np.ix_(rows[inside[0].ravel()], cols[inside[1].ravel()])]
    x0, y0, pixel, _ = site.runs[0].transform
    shown = expected != 255
    shown &= ~((x > x0 + (IMAGE - 12) * pixel)[None] & (y < y0 - (IMAGE - 12) * pixel)[:, None])
    shown &= (x < x0 + SIDE * pixel)[None] & (y > y0 - SIDE * pixel)[:, None]  # no overhang
    shown[:70], shown[-60:], shown[:, :80], shown[:, -20:] = False, False, False, False  # buttons
    colours = np.stack([expected, 255 - expected, np.full_like(expected, 128)], -1)
    assert shown.sum() > 50_000
    assert len(np.unique(expected[shown])) > 10
    right = np.abs(seen - colours).max(-1) <= 2
    assert right[shown].mean() > 0.9995, "sampled at the centre of every pixel of the screen"


def test_from_afar_the_overview_is_where_it_belongs(opened, site) -> None:
    palette = [f"#{v:02x}{255 - v:02x}80ff" for v in range(255)] + ["#00000000"]
    only(site, "gradcam/solar panel", palette)
    page = opened(site)
    hide_detections(page)
    site.requests.clear()
    projected = Projected(page, site.runs[0], SIDE // 2, SIDE // 2, 8)
    go(page, projected)
    left, top, right, bottom = extent_of(np.abs(screen(page)[:-60, 70:, 2] - 128) <= 3)
    x0, y0, pixel, _ = site.runs[0].transform
    corner = projected(x0, y0) - [70, 0]
    other = projected(x0 + SIDE * pixel, y0 - SIDE * pixel) - [70, 0]
    overhang = 10 / 8  # of blocks
    assert np.array([left, top]) == pytest.approx(corner, abs=1 + overhang)
    assert np.array([right, bottom]) == pytest.approx(other, abs=1 + overhang)


def test_outlines_and_cells_are_within_a_pixel(opened, site) -> None:
    only(site, None)
    found = object_of(site)
    page = opened(site)
    x0, y0, pixel, _ = site.runs[0].transform
    west, south, east, north = found.geometry.bounds
    col, row = round((west - x0) / pixel), round((y0 - north) / pixel)
    projected = Projected(page, site.runs[0], col, row, 0.25)
    go(page, projected)
    color = site.city()["classes"][found["class_id"] - 1]["color"]
    wanted = np.array([int(color[n : n + 2], 16) for n in (1, 3, 5)])
    seen = np.abs(screen(page) - wanted).max(-1) <= 12
    near = np.zeros_like(seen)
    (left, top), (right, bottom) = projected(west, north), projected(east, south)
    near[int(top) - 6 : int(bottom) + 6, int(left) - 6 : int(right) + 6] = True
    half = 1.1  # of the coloured line
    expected = np.array([left - half, top - half, right + half, bottom + half])
    assert extent_of(seen & near) == pytest.approx(expected, abs=1)

    hide_detections(page)
    projected = Projected(page, site.runs[0], IMAGE, IMAGE, 0.5)
    go(page, projected)
    line = np.abs(screen(page) - [0xC2, 0x41, 0x0C]).max(-1) <= 30
    corner = projected(x0 + IMAGE * pixel, y0 - IMAGE * pixel)
    left, top, _, _ = extent_of(line[:-60, 70:])
    assert np.array([left + 70, top]) == pytest.approx(corner - 0.75, abs=1)


# Looking


def test_a_click_selects_and_the_link_says_so(opened, site) -> None:
    page = opened(site)
    found = object_of(site)
    point = found.geometry.representative_point()
    projected = Projected(page, site.runs[0], 0, 0, 1)
    projected.link = f"#{point.x},{point.y},0.08"
    go(page, projected)
    spot = map_box(page)
    page.mouse.click(spot["x"] + spot["width"] / 2, spot["y"] + spot["height"] / 2)
    card = page.locator("section.card").first
    card.get_by_role("heading", name=found["class"]).wait_for()
    assert found["id"] in card.inner_text()
    assert f"id={found['id']}" in page.url
    page.keyboard.press("Escape")
    assert not card.is_visible()
    assert "id=" not in page.url


@pytest.mark.parametrize("is_served", [True, False])
def test_deep_links_are_honoured_and_followed(opened, site, is_served) -> None:
    site.is_served = is_served
    first, last = site.runs[0].table.iloc[3], site.runs[0].table.iloc[-1]
    page = opened(site, f"#id={last['id']}")
    card = page.locator("section.card").first
    assert last["id"] in card.inner_text()
    x, y, metres = (float(n) for n in page.url.partition("&")[2].split(",")[:3])
    west, south, east, north = last.geometry.bounds
    assert (x, y) == pytest.approx(((west + east) / 2, (south + north) / 2), abs=0.01)
    assert metres < 0.2
    page.evaluate("link => { location.hash = link; }", f"#id={first['id']}&{x + 5},{y + 5},0.32")
    page.locator(".card-id", has_text=first["id"]).wait_for()
    settle(page)
    assert page.url.endswith(f"#id={first['id']}&{x + 5:.2f},{y + 5:.2f},0.32"), "it moves as told"
    if not is_served:  # a server says 404, and the browser an error
        page.evaluate("location.hash = '#id=9_9_9'")
        page.get_by_text("There is no detection 9_9_9").wait_for()
        page.evaluate("location.hash = '#id=%&1,2&x,y,z&run=7'")
        page.get_by_text("There is no detection %").wait_for()


def test_the_class_filter_and_the_sliders_filter_everything(opened, site) -> None:
    page = opened(site)
    table = site.runs[0].table
    page.get_by_role("tab", name="Review").click()
    settle(page)
    rows = page.locator(".queue-row")
    assert rows.count() == min(60, len(table))
    page.get_by_role("tab", name="Detections").click()
    for name in ("water heater", "pool heater"):
        page.locator("#page-detections").get_by_label(name).uncheck()
    settle(page)
    page.get_by_role("tab", name="Review").click()
    settle(page)
    kept = table[table["class_id"] == 1]
    assert rows.count() == min(60, len(kept))
    assert {text.strip() for text in page.locator(".queue-class").all_inner_texts()} == {
        "solar panel"
    }
    page.get_by_role("tab", name="Detections").click()
    page.get_by_role("slider", name="Area").fill("10")
    page.get_by_role("tab", name="Review").click()
    assert rows.count() == (kept.iloc[:60]["area_m2"] >= 10).sum()
    others = table[table["class_id"] != 1].geometry.representative_point()
    hidden = others[others.distance(kept.union_all()).idxmax()]
    page.evaluate("link => { location.hash = link; }", f"#{hidden.x},{hidden.y},0.08")
    settle(page)
    spot = map_box(page)
    page.mouse.click(spot["x"] + spot["width"] / 2, spot["y"] + spot["height"] / 2)
    page.get_by_role("heading", name="A place").wait_for()


def test_a_failed_cell_says_why_and_texts_are_no_markup(opened, site) -> None:
    site.overrides["title"] = "<img src=x onerror=alert(1)>"
    page = opened(site)
    assert page.locator("h1").inner_text() == site.overrides["title"]
    hide_detections(page)
    projected = Projected(page, site.runs[0], IMAGE + 300, IMAGE + 300, 1)
    go(page, projected)
    spot = map_box(page)
    page.mouse.move(spot["x"] + spot["width"] / 2, spot["y"] + spot["height"] / 2)
    assert page.locator(".tip").inner_text() == f"{FAILED}: {REASON}"
    assert re.search(
        r"-50\d{3}\.\d, -37630\d\d\.\d\s+18\.4\d{4}° E, 3[34]\.\d{5}° S",
        page.locator(".here").inner_text(),
    )


def test_only_files_that_are_there_are_asked_for(opened, site) -> None:
    described = site.runs[0].describe()
    described["unplaced"] = [["far.tif", "it has no CRS"]]
    for layer in described["layers"]:
        if layer["kind"] == "tiles":
            layer["min_z"] = 1
        elif layer["id"] == "gradcam/solar panel":
            layer.update(cells=["image 1"], overview=None)
    site.overrides["runs"] = [described]
    page = opened(site, f"#{CORNER[0] + 40},{CORNER[1] - 40},0.08")
    rasters = {path for path in site.requests if "/cells/" in path}
    assert rasters == {"/run/0/cells/image%201/gradcam.tif"}
    levels = {path.split("/")[4] for path in site.requests if "/imagery/" in path}
    assert levels == {"1"}, "an export of a large city lacks the finest"
    page.get_by_text("Images without a place: 1").click()
    assert "far.tif it has no CRS" in page.locator("#page-layers").inner_text()


def test_search_takes_ids_and_longitude_latitude(opened, site) -> None:
    page = opened(site)
    found = site.runs[0].table.iloc[1]
    field = page.get_by_role("searchbox")
    page.keyboard.press("/")
    page.keyboard.type(found["id"])
    page.keyboard.press("Enter")
    page.locator(".card-id", has_text=found["id"]).wait_for()
    row = site.runs[0].table.iloc[0]
    field.fill(f"{row['lon']:.6f}, {row['lat']:.6f}")
    field.press("Enter")
    page.get_by_role("heading", name="A place").wait_for()
    settle(page)
    x, y = (float(n) for n in page.url.partition("#")[2].split(",")[:2])
    point = row.geometry.representative_point()
    assert (x, y) == pytest.approx((point.x, point.y), abs=3)
    field.fill("-33.9, 18.4")
    field.press("Enter")
    page.get_by_text("longitude, latitude").wait_for()


def test_many_are_counted_by_place(opened, site) -> None:
    counts = site.runs[0].counts()
    counts["counts"] = {"1": [[0, 0, 1999]], "2": [[0, 0, 1], [4, 4, 2000]]}
    site.runs[0].counts = lambda: counts
    page = opened(site)
    page.keyboard.press("0")
    settle(page)
    seen = screen(page)
    assert (np.abs(seen - [0x16, 0x20, 0x2B]).max(-1) <= 4).sum() > 600, "two dark discs"
    page.get_by_role("tab", name="Detections").click()
    assert page.locator("#page-detections .total").all_inner_texts() == ["1,999", "2,001", ""]
    site.requests.clear()
    page.get_by_role("checkbox", name="water heater").uncheck()
    settle(page)
    assert (np.abs(screen(page) - [0x16, 0x20, 0x2B]).max(-1) <= 4).sum() > 300, "one disc"
    assert not any("detections.fgb" in path for path in site.requests), "which has all classes"
    page.get_by_role("slider", name="Area").fill("10")
    assert "Zoom in to filter" in page.locator("#page-detections .note").inner_text()


def test_swiping_two_runs_and_two_layers(opened, out, tmp_path) -> None:
    site = Site([Run(out), Run(out, 1, "2022")], tmp_path)
    old, new = (run.describe() for run in site.runs)
    for layer in (*old["layers"], *new["layers"]):
        layer.update(visible=layer["id"] == "classes", opacity=1)
        if layer["id"] in ("classes", "probability/solar panel"):
            layer["palette"] = ["#3060a0ff" if layer["id"] == "classes" else "#20c020ff"] * 256
    new["layers"][1]["palette"] = ["#a06030ff"] * 256
    site.overrides["runs"] = [old, new]
    page = opened(site)
    hide_detections(page)
    page.get_by_role("tab", name="Layers").click()
    page.get_by_label("Two runs").check(force=True)
    settle(page)
    middle = map_box(page)["width"] // 2

    def colours_at(edge: int) -> list[tuple[int, ...]]:
        seen = screen(page)
        return [tuple(seen[200, edge - 12].tolist()), tuple(seen[200, edge + 12].tolist())]

    assert colours_at(middle) == [(0x30, 0x60, 0xA0), (0xA0, 0x60, 0x30)]
    assert page.locator(".swipe-left").inner_text() == "2023"
    grip = page.get_by_role("slider", name="Edge between left and right")
    grip.focus()
    for _ in range(5):
        page.keyboard.press("ArrowLeft")
    settle(page)
    assert grip.get_attribute("aria-valuenow") == "40"
    assert colours_at(round(0.4 * map_box(page)["width"])) == [
        (0x30, 0x60, 0xA0),
        (0xA0, 0x60, 0x30),
    ]
    page.get_by_label("Two layers").check(force=True)
    page.get_by_label("Left", exact=True).select_option("classes")
    page.get_by_label("Right", exact=True).select_option("probability/solar panel")
    settle(page)
    assert colours_at(round(0.4 * map_box(page)["width"])) == [
        (0x30, 0x60, 0xA0),
        (0x20, 0xC0, 0x20),
    ]


def test_the_second_run_by_its_link(opened, out, tmp_path) -> None:
    site = Site([Run(out), Run(out, 1, "2022")], tmp_path)
    id_ = site.runs[1].table.iloc[0]["id"]
    page = opened(site, f"#id={id_}&run=1")
    assert page.get_by_label("Run", exact=True).input_value() == "1"
    assert id_ in page.locator("section.card").first.inner_text()
    assert any(path.startswith("/run/1/find") for path in site.requests)
    page.get_by_label("Run", exact=True).select_option("0")
    settle(page)
    assert "run=" not in page.url
    assert "id=" not in page.url, "an id belongs to its run"


def test_zones_have_their_names(opened, site) -> None:
    x0, y0, pixel, _ = site.runs[0].transform
    middle, end = x0 + IMAGE * pixel, x0 + SIDE * pixel
    boxes = [box(x0, y0 - SIDE * pixel, middle, y0), box(middle, y0 - SIDE * pixel, end, y0)]
    table = gpd.GeoDataFrame({"ward": ["West & <b>", "East"]}, geometry=boxes, crs="ESRI:102562")
    table.to_file(site.folder / "run/0/zones.fgb", driver="FlatGeobuf", SPATIAL_INDEX="YES")
    only(site, None)
    site.overrides["runs"][0]["detections"]["zones"] = "run/0/zones.fgb"
    page = opened(site)
    hide_detections(page)
    projected = Projected(page, site.runs[0], IMAGE, 100, 0.5)
    go(page, projected)
    spot = map_box(page)
    for shift, name in ((-40, "West & <b>"), (40, "East")):
        page.mouse.move(spot["x"] + spot["width"] / 2 + shift, spot["y"] + spot["height"] / 2)
        assert page.locator(".tip").inner_text() == name
    page.get_by_label("Show zones").uncheck()
    page.mouse.move(spot["x"] + spot["width"] / 2, spot["y"] + spot["height"] / 2)
    assert not page.locator(".tip").is_visible()


def test_outlines_that_are_being_made_appear_by_themselves(opened, site, errors) -> None:
    site.preparing = {"counts.json": 1, "detections.fgb": 2}
    page = opened(site)
    found = object_of(site)
    point = found.geometry.representative_point()
    page.evaluate("link => { location.hash = link; }", f"#{point.x},{point.y},0.08")
    page.get_by_text("being prepared").wait_for()
    page.wait_for_timeout(3500)
    settle(page)
    spot = map_box(page)
    page.mouse.click(spot["x"] + spot["width"] / 2, spot["y"] + spot["height"] / 2)
    page.locator(".card-id", has_text=found["id"]).wait_for()
    assert errors, "browsers print every 503"
    errors.clear()


def test_a_raster_that_failed_is_read_again(opened, site, errors) -> None:
    only(site, "classes", ["#3060a0ff"] * 256)
    x0, y0, *_ = site.runs[0].transform
    page = opened(site, f"#{x0 - 500},{y0 + 500},0.05")
    hide_detections(page)
    page.route("**/classes.tif", lambda route: route.abort())
    go(page, Projected(page, site.runs[0], 300, 300, 1))
    page.get_by_text("cannot be read").first.wait_for()
    page.unroute("**/classes.tif")
    go(page, Projected(page, site.runs[0], 300, 300, 0.5))
    assert (screen(page) == [0x30, 0x60, 0xA0]).all(-1).mean() > 0.5
    assert errors, "browsers print every failure"
    errors.clear()


def test_a_run_without_detections_is_shown(opened, out, tmp_path) -> None:
    empty = Run(out)
    empty.table = empty.table.iloc[:0]
    page = opened(Site([empty], tmp_path))
    page.keyboard.press("j")
    page.get_by_text("the end of the queue").wait_for()
    assert page.locator(".message.error").count() == 0


# Reviewing


def test_a_queue_that_is_not_read_to_its_end_says_so(opened, site) -> None:
    """More pages than are read at once, without a row that passes the filters."""
    known = site.runs[0].queue(0, 60)
    site.runs[0].queue = lambda offset, **_: {
        **known, "total": 9_999,
        "rows": [[f"1_{offset + n}_0", *row[1:]] for n, row in enumerate(known["rows"])],
    }  # fmt: skip
    page = opened(site)
    page.get_by_role("tab", name="Detections").click()
    page.get_by_role("slider", name="Area").fill("50")
    page.keyboard.press("j")
    page.get_by_text(re.compile("None of the first 1,[0-9]+ .*; J reads on")).wait_for()


def test_the_queue_by_keys(opened, site) -> None:
    page = opened(site)
    ids = list(site.runs[0].table["id"])
    classes = list(site.runs[0].table["class_id"])
    page.get_by_role("tab", name="Review").click()
    settle(page)

    def selected() -> str:
        settle(page)
        return page.locator(".card-id span").inner_text()

    page.keyboard.press("j")
    assert selected() == ids[0]
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert selected() == ids[0]
    for _ in range(3):
        page.keyboard.down("y")
    page.keyboard.up("y")
    assert selected() == ids[1], "a verdict goes on to the next, also of a key that is held"
    page.locator("#note").fill("in the n shade")
    assert len(site.verdicts) == 1, "keys are letters where somebody writes"
    page.locator("#note").press("Tab")
    page.keyboard.press("n")
    assert selected() == ids[2]
    other = next(n for n in (1, 2, 3) if n != classes[2])
    page.keyboard.press(str(other))
    assert selected() == ids[3]
    page.keyboard.press("u")
    settle(page)
    said = [(row["id"], row["verdict"], row["true_class"], row["note"]) for row in site.verdicts]
    name = site.city()["classes"][other - 1]["name"]
    assert said == [
        (ids[0], "right", "", ""), (ids[1], "wrong", "", "in the n shade"),
        (ids[2], "wrong", name, ""), (ids[3], "unsure", "", ""),
    ]  # fmt: skip
    assert page.locator(".verdict").all_inner_texts() == ["Right", "Wrong", "Wrong", "Unsure"]
    site.verdicts.append({"row": 99, "id": ids[4], "verdict": "right"})  # of somebody else
    page.keyboard.press("z")
    page.get_by_text("The verdict is taken back").wait_for()
    assert [row["id"] for row in site.verdicts] == [*ids[:3], ids[4]]
    assert page.locator(".verdict").count() == 4
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()


@pytest.mark.parametrize("kind", ["Outline", "Point"])
def test_a_missed_object_is_drawn(opened, site, kind) -> None:
    page = opened(site)
    x0, y0, pixel, _ = site.runs[0].transform
    projected = Projected(page, site.runs[0], 300, 300, 0.5)
    go(page, projected)
    spot = map_box(page)
    corners = [(290, 290), (310, 290), (310, 320), (290, 320)]
    places = [
        np.add(projected(x0 + col * pixel, y0 - row * pixel), (spot["x"], spot["y"]))
        for col, row in corners
    ]
    page.keyboard.press("m")
    page.get_by_label(kind).check(force=True)
    if kind == "Point":
        page.mouse.click(*places[0])
        page.get_by_label("Its area in m²").fill("4.5")
    else:
        for place in places[:-1]:
            page.mouse.click(*place)
            page.wait_for_timeout(350)
        page.mouse.dblclick(*places[-1])
    page.get_by_label("It is a").select_option("pool heater")
    page.get_by_role("button", name="Save").click()
    settle(page)
    [row] = site.missed
    assert row["class"] == "pool heater"
    flat = np.array(row["geometry"]["coordinates"]).reshape(-1, 2)
    drawn = flat[:4] if kind == "Outline" else flat
    expected = [(x0 + col * pixel, y0 - row_ * pixel) for col, row_ in corners][: len(drawn)]
    assert sorted(map(tuple, drawn)) == pytest.approx(np.array(sorted(expected)), abs=pixel)
    assert row.get("m2") == (4.5 if kind == "Point" else None)
    page.keyboard.press("z")
    page.get_by_text("The drawing is taken back").wait_for()
    assert site.missed == []


def test_without_a_server_verdicts_are_downloaded(opened, site) -> None:
    """Also a verdict that comes before the outline has been read."""
    site.is_served = False
    found, x0, y0 = site.runs[0].table.iloc[0], *site.runs[0].transform[:2]
    page = opened(site, f"#{x0 - 500},{y0 + 500},0.05")
    page.get_by_role("tab", name="Review").click()
    settle(page)
    held: list[Any] = []
    page.route("**/detections.fgb", lambda route: held.append(route))  # noqa: PLW0108 it sets a mark
    page.keyboard.press("j")
    page.keyboard.press("n")
    page.wait_for_timeout(200)
    assert held
    assert page.locator(".verdict").count() == 0
    page.unroute("**/detections.fgb")  # what was held goes on
    page.locator(".verdict").wait_for()
    assert page.get_by_role("button", name="Explain").count() == 0
    page.reload()
    page.wait_for_selector("html[data-ready]")
    page.get_by_role("tab", name="Review").click()
    settle(page)
    assert page.locator(".verdict").all_inner_texts() == ["Wrong"], "they are still there"
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "review-2023.geojson"
    file = json.loads(Path(download.value.path()).read_text())
    assert "review.gpkg" in file["description"]
    [feature] = file["features"]
    assert feature["properties"] | {"checked_at": ""} == {
        "layer": "verdicts", "id": found["id"], "class": found["class"], "verdict": "wrong",
        "true_class": "", "note": "", "checked_at": "", **site.runs[0].about,
    }  # fmt: skip
    assert shape(feature["geometry"]).equals(found.geometry)

    key = "capecam review first a"
    [row] = json.loads(page.evaluate("key => localStorage.getItem(key)", key))
    both = json.dumps([row, {**row, "id": "of another tab"}])
    page.evaluate("([key, rows]) => localStorage.setItem(key, rows)", [key, both])
    page.keyboard.press("j")
    settle(page)
    page.keyboard.press("y")
    settle(page)
    stored = json.loads(page.evaluate("key => localStorage.getItem(key)", key))
    assert [row["verdict"] for row in stored] == ["wrong", "wrong", "right"]
    page.evaluate("() => { Storage.prototype.setItem = () => { throw new Error('no room'); }; }")
    page.keyboard.press("u")
    page.get_by_text("no room").wait_for()
    assert page.locator(".verdict", has_text="Unsure").count() == 0
    assert not any("verdicts" in path for path in site.requests)


# Explaining


def test_an_explanation_lies_over_the_map(opened, site) -> None:
    only(site, None)
    found = site.runs[0].table.iloc[0]
    page = opened(site, f"#id={found['id']}")
    page.keyboard.press("e")
    page.get_by_label("Its own explanation").wait_for()
    settle(page)
    assert site.explained == [{"id": found["id"]}]
    assert "own peak m" in page.locator(".card-why").inner_text()
    bright = (screen(page) > 200).all(-1)[:-60, 70:500].sum()
    page.get_by_label("Its own explanation").uncheck()
    page.get_by_label("Grad-CAM of the tile").check()
    settle(page)
    assert (screen(page)[:-60, 70:500] > 200).all(-1).sum() != bright
    page.get_by_role("button", name="Take it away").click()
    assert page.get_by_label("Its own explanation").count() == 0


def test_a_place_is_explained_or_the_reason_is_told(opened, site, errors) -> None:
    only(site, None)
    found = object_of(site)
    page = opened(site)
    hide_detections(page)  # so that a click means the place
    point = found.geometry.representative_point()
    page.get_by_role("searchbox").fill(f"{point.x}, {point.y}")
    page.get_by_role("searchbox").press("Enter")
    page.get_by_label("As", exact=True).select_option(str(found["class_id"]))
    page.get_by_role("button", name="Explain").click()
    page.get_by_label("Its own explanation").wait_for()
    [asked] = site.explained
    assert asked["class_id"] == found["class_id"]
    assert (asked["x"], asked["y"]) == pytest.approx((point.x, point.y))
    yellow = np.abs(screen(page) - [0xFF, 0xD6, 0x0A]).max(-1) <= 30
    assert yellow.sum() > 200, "its outline"
    x0, y0, *_ = site.runs[0].transform
    site.post = lambda *_: (409, {"error": "Nothing of any class is <here>."})
    page.get_by_role("searchbox").fill(f"{x0 + 1}, {y0 - 1}")
    page.get_by_role("searchbox").press("Enter")
    page.get_by_role("button", name="Explain").click()
    page.get_by_text("Nothing of any class is <here>.").wait_for()
    assert len(errors) == 1, "browsers print every 409"
    errors.clear()


def test_what_cannot_be_explained_or_written_says_why(opened, site) -> None:
    described = site.runs[0].describe()
    described["verdicts_problem"] = "review.gpkg is read-only"
    described["explain_problem"] = "the checkpoint is missing: model.pt"
    site.overrides["runs"] = [described]
    page = opened(site, f"#id={site.runs[0].table.iloc[0]['id']}")
    card = page.locator("section.card").first.inner_text()
    assert "No verdicts: review.gpkg is read-only" in card
    assert "the checkpoint is missing: model.pt" in card
    page.keyboard.press("y")
    settle(page)
    assert site.verdicts == []


# Everywhere


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_the_map_comes_first(opened, site, scheme) -> None:
    page = opened(site, viewport=PHONE, has_touch=True, is_mobile=True, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert map_box(page)["height"] > 0.7 * PHONE["height"]
    page.get_by_role("tab", name="Review").tap()
    settle(page)
    page.locator(".queue-row").first.tap()
    settle(page)
    card = page.locator("section.card").first.bounding_box()
    assert card["width"] == PHONE["width"]
    yellow = np.abs(screen(page) - [0xFF, 0xD6, 0x0A]).max(-1) <= 40
    _, top, _, bottom = extent_of(yellow[: int(card["y"] - map_box(page)["y"])])
    middle = (card["y"] - map_box(page)["y"]) / 2
    assert (top + bottom) / 2 == pytest.approx(middle, abs=6), "above the card"
    page.get_by_role("button", name="Close", exact=True).first.tap()
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(251, 250, 247)", "dark": "rgb(20, 22, 26)"}[scheme]
    page.get_by_role("button", name="Dark colours").tap()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background


def test_every_control_has_a_name_and_a_visible_focus(opened, site) -> None:
    page = opened(site)
    names = []
    for _ in range(40):
        page.keyboard.press("Tab")
        name, width = page.evaluate("""() => {
          const at = document.activeElement;
          if (at === document.body) return ["the browser", "solid"];
          const label =
            at.getAttribute("aria-label") || at.labels?.[0]?.textContent || at.textContent;
          const ring = at.closest(".segments .choice") ?? at;
          return [label?.trim() || at.outerHTML, getComputedStyle(ring).outlineStyle];
        }""")
        names.append(name)
        assert "<" not in name, f"{name} has no name"
        assert width == "solid", name
    assert any(name.startswith("Map of the city") for name in names)
