"""The report in a real browser, from disk, with the network off."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.outputs import write_output

from capecam.grid import Window
from capecam.views.report.report import write_report

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 375, "height": 812}
CONTEXT = {"viewport": DESKTOP, "offline": True, "reduced_motion": "reduce"}
VIEW_WIDTH = "document.getElementById('map-svg').viewBox.baseVal.width"
AA, AA_LARGE = 4.5, 3.0
"""Minimum contrast of text (WCAG 2.2, 1.4.3)."""

pytestmark = pytest.mark.chromium


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """Report of sixteen images, one of which failed, and 300 objects; panels for the first two."""
    out = tmp_path_factory.mktemp("report")
    cells = [Window(2500 * r, 2500 * c, 2500, 2500) for r in range(4) for c in range(4)]
    write_output(out, 300, cells=cells, failed=[5], reason="x.tif: cannot be decoded")
    panel = out / "panel.webp"
    Image.new("RGB", (900, 300), "#345").save(panel)
    return write_report(out, queue=20, panels=2, draw_panel=lambda _: panel.read_bytes())


@pytest.fixture
def opened(browser) -> Iterator[Any]:
    """Open pages; finally check that no network request was made and no error was printed."""
    contexts, errors, requests = [], [], []

    def open_page(path: Path, **options: Any) -> Any:
        context = browser.new_context(**{**CONTEXT, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert errors == []
    outside = [url for url in requests if not url.startswith("data:")]
    assert all(url.startswith("file:///") and url.endswith("report.html") for url in outside)
    assert len(outside) == len(contexts)


def view(page) -> list[float]:
    """Return x, y, width and height of the visible part of the map, in metres."""
    return [float(value) for value in page.get_attribute("#map-svg", "viewBox").split()]


def wait_until(page, condition: str) -> None:
    """Wait for a condition in the page; wait_for_function is forbidden by the page's policy."""
    end = time.monotonic() + 10
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(20)


def shown(page) -> list[dict]:
    """Return the visible rows of the queue."""
    return page.eval_on_selector_all(
        ".queue tbody tr",
        "rows => rows.filter(r => r.checkVisibility()).map(r => ({...r.dataset}))",
    )


def focused(page) -> str:
    return page.evaluate("document.activeElement.closest('tr')?.dataset.review ?? ''")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.thorough)])
def test_it_fits_and_can_be_read(opened, report, tmp_path, size, scheme) -> None:
    page = opened(report, viewport=size, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert page.locator("h1").inner_text().startswith("300 objects on")
    assert page.locator("#map-squares path").count() >= 2
    picture = tmp_path / "page.png"
    page.screenshot(path=picture, full_page=True)
    with Image.open(picture) as drawn:
        corner = drawn.convert("L").getpixel((2, 2))
    assert corner < 60 if scheme == "dark" else corner > 230
    assert page.evaluate(FAINT, [AA, AA_LARGE]) == []


FAINT = """([minimum, minimumLarge]) => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (color) => {
    const [r, g, b] = rgba(color).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if (rgba(color)[3] === 255) return color;
    }
    return "#fff";
  };
  const faint = [];
  for (const node of document.querySelectorAll("body *")) {
    const own = [...node.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !node.checkVisibility() || node.matches("script, style, title")) continue;
    const style = getComputedStyle(node);
    const front = light(node instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [front, light(ground(node))].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < (large ? minimumLarge : minimum)) faint.push(`${contrast} ${node.textContent}`);
  }
  return faint;
}"""
"""Script that returns the texts with too little contrast."""


def test_the_queue_is_filtered_sorted_and_opened_up(opened, report) -> None:
    page = opened(report)
    assert [row["review"] for row in shown(page)] == [str(n) for n in range(1, 13)]
    assert page.locator("#queue-shown").inner_text() == "12 of 20 shown"
    page.get_by_role("button", name="Show all 20").click()
    assert len(shown(page)) == 20
    assert focused(page) == "13"
    for ascending in (True, False):
        page.get_by_role("button", name="m²", exact=True).click()
        areas = [float(row["area"]) for row in shown(page)]
        assert areas == sorted(areas, reverse=not ascending)
    heads = page.eval_on_selector_all("[aria-sort]", "h => h.map(x => x.ariaSort)")
    assert sorted(heads) == ["descending", *["none"] * 4]
    wanted = [(row["class"], row["evidence"]) for row in shown(page)]
    page.locator("#class-filter").select_option(label=wanted[0][0])
    page.locator("#queue-evidence").select_option(wanted[0][1])
    rows = [(row["class"], row["evidence"]) for row in shown(page)]
    assert rows == [wanted[0]] * wanted.count(wanted[0])
    assert page.locator("#queue-shown").inner_text() == f"{len(rows)} shown"


def test_a_closer_look_by_click_and_keys(opened, report) -> None:
    page = opened(report)
    dialog, title = page.locator("#closer"), page.locator("#closer-title")
    page.locator(".open").nth(1).click()
    row = json.loads(page.locator("#queue-data").text_content())[1]
    assert f"then #id={row['id']} at the end" in dialog.inner_text()
    assert "capecam view " in dialog.inner_text()
    assert title.inner_text().endswith("rank 2")
    assert dialog.locator(".panel img").count() == 1, "the panel of the second"
    assert page.get_by_role("button", name="Previous").is_enabled()
    page.keyboard.press("ArrowRight")
    assert title.inner_text().endswith("rank 3")
    assert dialog.locator(".panel img").count() == 0
    assert "capecam panel" in dialog.inner_text()
    assert "its probability falls" in dialog.inner_text()
    assert dialog.locator("table").count() == 0, "no numbers of the tile's heatmaps"
    page.get_by_role("button", name="Previous").click()
    page.keyboard.press("ArrowLeft")
    assert title.inner_text().endswith("rank 1")
    assert page.get_by_role("button", name="Previous").is_disabled()
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert focused(page) == "1", "the focus returns to the row"


def test_everything_is_reached_by_keyboard_alone(opened, report) -> None:
    page = opened(report)
    reached = []
    for _ in range(90):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("(at => at.id || at.getAttribute('class') || '')(document.activeElement)")
        )
        if page.evaluate("document.activeElement.classList.contains('open')"):
            break
    for control in ("skip", "class-filter", "map-in", "map-home", "map-svg", "queue-evidence"):
        assert control in reached
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.locator("#closer").is_visible()
    inside = set()
    for _ in range(6):
        page.keyboard.press("Tab")
        inside.add(
            page.evaluate(
                "(at => at === document.body || !!at.closest('#closer'))(document.activeElement)"
            )
        )
    assert inside == {True}, "what lies behind is out of reach"
    page.get_by_role("button", name="Close", exact=True).press("Enter")
    assert not page.locator("#closer").is_visible()


def test_the_map_by_buttons_and_keys(opened, report) -> None:
    page = opened(report)
    whole = view(page)
    page.locator("#map-in").click()
    closer = view(page)
    assert closer[2] == pytest.approx(whole[2] / 1.6)
    page.locator("#map-svg").focus()
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    right = view(page)
    assert right[2] == pytest.approx(whole[2] / 1.6**2)
    assert right[0] > closer[0]
    page.keyboard.press("0")
    assert view(page) == pytest.approx(whole)
    page.keyboard.press("ArrowDown")
    assert view(page) == pytest.approx(whole), "there is nothing beyond the city"


def test_the_map_by_wheel_and_mouse(opened, report) -> None:
    page = opened(report)
    svg = page.locator("#map-svg")
    svg.scroll_into_view_if_needed()
    whole, box = view(page), svg.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.wheel(0, 40)
    wait_until(page, "scrollY > 0")
    assert view(page) == pytest.approx(whole), "the wheel belongs to the page"
    svg.scroll_into_view_if_needed()
    page.locator("#map-svg").focus()
    before = view(page)
    page.mouse.wheel(0, -480)
    wait_until(page, f"{VIEW_WIDTH} < {before[2] * 0.9}")
    near = view(page)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 60, y, steps=4)
    page.mouse.up()
    moved = view(page)
    assert moved[0] == pytest.approx(near[0] - 60 * near[2] / box["width"], rel=1e-3)
    assert not page.locator("#closer").is_visible(), "a drag is no click"


def test_the_map_by_two_fingers(opened, report) -> None:
    page = opened(report, viewport=PHONE, has_touch=True)
    svg = page.locator("#map-svg")
    svg.scroll_into_view_if_needed()
    whole, box = view(page), svg.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = page.context.new_cdp_session(page)

    def fingers(kind: str, apart: float | None) -> None:
        points = (
            []
            if apart is None
            else [{"x": x - apart, "y": y, "id": 0}, {"x": x + apart, "y": y, "id": 1}]
        )
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    fingers("touchStart", 20)
    for apart in (25, 30, 35, 40):
        fingers("touchMove", apart)
    fingers("touchEnd", None)
    wait_until(page, f"{VIEW_WIDTH} < {whole[2] / 1.5}")
    page.locator("#map-home").tap()
    assert view(page) == pytest.approx(whole)


def test_the_map_tells_what_is_there(opened, report) -> None:
    page = opened(report)
    tip = page.locator("#map-tip")
    failed = page.get_by_role("img", name="image 5 failed: x.tif: cannot be decoded")
    failed.focus()
    assert "cannot be decoded" in tip.inner_text()
    page.locator("#map-svg").focus()
    assert not tip.is_visible()
    box = failed.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert tip.inner_text().startswith("image 5 failed")
    page.locator(".spot .ring").first.click(force=True)
    assert page.locator("#closer-title").inner_text().endswith("rank 1")


def test_the_map_of_one_class_counts_that_class(opened, report) -> None:
    page = opened(report)
    summary = page.locator("#map-summary")
    assert summary.inner_text().startswith("objects per square of")
    page.locator("#map-measure").select_option("1")
    assert summary.inner_text().startswith("m² per square of")
    page.locator("#class-filter").select_option("3")
    data = json.loads(page.locator("#map-data").text_content())
    squares = data["levels"][0]["squares"]
    most = max(squares[n + 7] for n in range(0, len(squares), 8))
    number = f"{most:,.1f}".removesuffix(".0") if most < 10 else f"{most:,.0f}"
    assert len(data["levels"]) > 1 or summary.inner_text().endswith(f"maximum {number}.")


@pytest.mark.thorough
def test_a_hundred_thousand_objects_open_at_once(opened, tmp_path) -> None:
    across = 12_500
    cells = [Window(across * r, across * c, across, across) for r in range(40) for c in range(70)]
    write_output(tmp_path, 100_000, cells=cells)
    page = opened(write_report(tmp_path))
    timing = page.evaluate("performance.getEntriesByType('navigation')[0].toJSON()")
    assert timing["domComplete"] < 5000, "milliseconds; on a busy machine with 2 cores"
    coarse = page.locator("#map-summary").inner_text()
    seconds = page.evaluate("""() => {
      const start = performance.now();
      for (let n = 0; n < 6; n++) document.getElementById("map-in").click();
      return (performance.now() - start) / 6000;
    }""")
    assert seconds < 0.5
    assert page.locator("#map-summary").inner_text() != coarse, "closer, the squares are smaller"


def test_on_paper_everything_is_open(opened, report, tmp_path) -> None:
    page = opened(report)
    printed = page.pdf(path=tmp_path / "report.pdf", format="A4")
    assert len(re.findall(rb"/Type /Page\b", printed)) <= 7, "no half-empty pages; it had 8"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert len(shown(page)) == 20
    assert page.locator("details:not([open])").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0


def test_without_scripts_tables_and_charts_are_there(opened, report) -> None:
    page = opened(report, java_script_enabled=False)
    assert page.locator(".queue tbody tr").count() == 20
    assert page.locator(".chart .bar").count() > 10
    assert "your browser does not run" in page.locator("#map noscript").inner_text()


def test_one_class_is_chosen_for_the_whole_page(opened, report) -> None:
    page = opened(report)
    everything = page.evaluate(VISIBLE)
    assert {"1", "2", "3", "all"} <= set(everything)
    assert not page.locator("#class-only").is_visible()
    page.locator("#class-filter").select_option(label="water heater")
    assert set(page.evaluate(VISIBLE)) == {"2"}
    assert page.locator("#class-only").inner_text().startswith("Only water heater:")
    assert {row["class"] for row in shown(page)} == {"water heater"}
    heads = page.locator("#evidence thead th:visible").all_inner_texts()
    assert heads == ["evidence and its meaning", "water heater"]
    assert (
        page.locator("#classes .chart").evaluate_all(
            "charts => charts.filter(chart => chart.checkVisibility()).length"
        )
        == 2
    ), "of sizes and of confidences"
    page.locator("#map-svg").hover()
    tip = page.locator("#map-tip").inner_text()
    assert "solar" not in tip
    assert "pool" not in tip
    page.locator("#class-filter").select_option("")
    assert sorted(page.evaluate(VISIBLE)) == sorted(everything)


VISIBLE = """[...document.querySelectorAll("main [data-of]:not(#map-queue *)")]
  .filter((node) => node.checkVisibility()).map((node) => node.dataset.of)"""
"""Script that returns the class of everything visible that is of one, or of all."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marks_stand_out_from_what_is_behind_them(opened, report, scheme) -> None:
    """The palest square, too: its edge has 3:1, whatever imagery is under it."""
    page = opened(report, color_scheme=scheme)
    assert page.locator("#map-squares path").count() >= 2
    found = page.evaluate(MARKS)
    assert len(found) > 100
    assert {kind for kind, _ in found} == {"mark", "word", "part", "bar", "square", "legend"}
    assert min(found, key=lambda mark: mark[1])[1] >= AA_LARGE


MARKS = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const light = (color) => {
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const root = getComputedStyle(document.documentElement);
  const contrast = (color, ground) => {
    const [a, b] = [light(color), light(root.getPropertyValue(ground))].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const found = [];
  const measure = (kind, selector, property, ground, pseudo) => {
    for (const node of document.querySelectorAll(selector))
      found.push([kind, contrast(getComputedStyle(node, pseudo)[property], ground)]);
  };
  measure("mark", ".mark", "borderTopColor", "--paper");
  measure("word", ".word", "borderTopColor", "--paper", "::before");
  measure("part", ".part", "borderTopColor", "--paper");
  measure("bar", "rect.bar", "stroke", "--paper");
  measure("square", "#map-squares path", "stroke", "--land");
  measure("legend", "#map-legend i", "borderTopColor", "--paper");
  return found;
}"""
"""Script that returns kinds of marks, and the contrast of their edges with the background."""


def test_close_by_the_objects_of_the_queue_have_outlines(opened, report) -> None:
    page = opened(report)
    assert page.locator(".spot circle.ring").first.is_visible()
    assert page.locator(".spot path.outline:visible").count() == 0
    for _ in range(12):
        page.locator("#map-in").click()
    assert page.locator(".spot.near").count() == 20
    assert page.locator(".spot.near circle:visible").count() == 0
    data = json.loads(page.locator("#map-data").text_content())
    box = page.locator(".spot path.outline").first.evaluate("p => { const b = p.getBBox(); "
        "return [b.x + b.width / 2, b.y + b.height / 2]; }")  # fmt: skip
    assert box == pytest.approx(data["queue"][0], abs=0.2)


def test_the_map_says_how_to_open_its_place_in_the_viewer(opened, report) -> None:
    page = opened(report)
    data = json.loads(page.locator("#map-data").text_content())
    text = page.locator(".viewer").inner_text()
    assert "capecam view " in text
    x, y, resolution = map(float, page.locator("#map-view code").inner_text()[1:].split(","))
    scale = view(page)[2] / page.locator("#map-svg").evaluate("svg => svg.clientWidth")
    assert resolution == pytest.approx(scale, rel=0.01)
    left, top, unit_x, unit_y = data["place"]
    assert x == pytest.approx(left + data["width"] / 2 * unit_x, abs=resolution)
    assert y == pytest.approx(top - data["height"] / 2 * unit_y, abs=resolution)


def test_tables_scroll_on_a_phone_and_say_so(opened, tmp_path) -> None:
    write_output(tmp_path, 30)
    classes = [
        {"class": name, "true": 1234, "found": 1234, "precision": 0.5, "recall": 0.5, "f1": 0.5,
         "average_precision": 0.5, "true_m2": 12345.0, "found_m2": 12345.0, "curve": [],
         "intervals_95": {key: [0.4, 0.6] for key in ("precision", "recall", "f1")}}
        for name in ("solar panel", "water heater", "pool heater")
    ]  # fmt: skip
    scores = {"truth": "t.gpkg", "area_km2": 1.0, "iou": 0.5, "classes": classes, "steps": [],
              "confusion": {}, "detections": "1" * 64}  # fmt: skip
    (tmp_path / "evaluation.json").write_text(json.dumps(scores))
    page = opened(write_report(tmp_path), viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    box = page.locator("#scores .scroll").first
    cue = page.locator("#scores .scroll + .cue").first
    assert cue.inner_text() == "There is more to the right →"
    box.focus()
    page.keyboard.press("End")
    box.evaluate("box => box.scrollTo(box.scrollWidth, 0)")
    cue.filter(has_text="←").wait_for()
    assert "more-left" in box.get_attribute("class")
    wide = opened(tmp_path / "report.html")
    assert wide.locator("#scores .scroll + .cue").first.inner_text() == ""
    assert wide.locator("#scores .scroll").first.get_attribute("tabindex") is None
