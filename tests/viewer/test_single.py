"""One HTML file shows what the server shows, takes verdicts, and asks for nothing."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_city
from PIL import Image
from starlette.testclient import TestClient
from support.commands import typed

from capecam.analysis.review.review_file import ReviewFile
from capecam.grid import Window
from capecam.store.run_folder import RunFolder
from capecam.viewer.single import disjoint, write_single

VIEW = {"width": 1200, "height": 700}


@pytest.fixture(scope="module")
def file(out: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_single(out, tmp_path_factory.mktemp("single") / "roofs.html", 3).file


def files_in(page: str) -> dict[str, bytes]:
    """Return the files of a page by name."""
    pattern = r'<script type="text/plain" data-file="([^"]+)" data-type="[^"]+">([^<]*)</script>'
    return {name: b64decode(content) for name, content in re.findall(pattern, page)}


def test_a_file_has_its_detections_and_all_around_them(file: Path, client: TestClient) -> None:
    files = files_in(file.read_text())
    queue = json.loads(files["run/0/queue.json"])
    of_server = client.get("/run/0/queue.json?limit=3").json()
    assert queue == {**of_server, "total": 3}
    for name in (f"run/0/thumbnails/{row[0]}.jpg" for row in queue["rows"]):
        assert files[name] == client.get(f"/{name}").content
    tiles = [name for name in files if name.startswith("run/0/imagery/")]
    assert any("/imagery/0/" in name for name in tiles)
    assert all(files[name] == client.get(f"/{name}").content for name in tiles)
    city = json.loads(files["city.json"])
    assert not city["served"]
    (run,) = city["runs"]
    cells = [row[0] for row in run["cells"]["rows"]]
    for layer in run["layers"]:
        if layer["kind"] == "raster":
            assert layer["overview"] is None
            assert all(layer["cell_file"].replace("{cell}", cell) in files for cell in cells)


def test_windows_that_overlap_are_joined() -> None:
    chain = [Window(0, 0, 10, 10), Window(0, 18, 10, 10), Window(5, 8, 10, 12), Window(50, 0, 5, 5)]
    assert disjoint(chain) == [Window(0, 0, 15, 28), Window(50, 0, 5, 5)]


def test_what_cannot_be_written_is_said(out: Path, tmp_path: Path) -> None:
    for options, reason in (
        (["--single", tmp_path / "a.txt"], r"name it \*\.html"),
        (["--single", tmp_path / "no/a.html"], "make it first"),
        (["--top", 5], "--top is for --single"),
        (["--top", 5, "--export", tmp_path / "a"], "--top is for --single"),
        (["--top", 1001, "--single", tmp_path / "a.html"], "less than or equal to 1000"),
        ([out, "--export", tmp_path / "a", "--single", tmp_path / "a.html"], "leave out OUT2"),
        (["--single", tmp_path / "a.html", "--host", "127.0.0.1"], "serve nothing"),
        (["--single", tmp_path / "a.html", "--no-browser"], "serve nothing"),
    ):
        assert re.search(reason, typed("view", out, *options, code=2).stderr)
    assert list(tmp_path.iterdir()) == []


@contextmanager
def address(out: Path) -> Iterator[str]:
    """Serve a run, and yield the address."""
    command = [sys.executable, "-m", "capecam", "view", str(out), "--no-browser", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def opened(browser: Any, link: str, errors: list[str], **options: Any) -> Any:
    page = browser.new_context(viewport=VIEW, reduced_motion="reduce", **options).new_page()
    page.on("console", lambda said: said.type == "error" and errors.append(said.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(link)
    page.wait_for_selector("html[data-ready]")
    settle(page)
    return page


def settle(page: Any) -> None:
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(400)


def picture(page: Any) -> np.ndarray:
    """Return the left half of the map, without card and footer, when it stands still."""
    box = page.locator("#map").bounding_box()
    clip = {**box, "width": box["width"] / 2, "height": box["height"] - 60}
    last, now = b"", page.screenshot(clip=clip)
    while now != last:
        page.wait_for_timeout(700)
        last, now = now, page.screenshot(clip=clip)
    return np.asarray(Image.open(io.BytesIO(now)).convert("RGB")).astype(int)


@pytest.mark.chromium
@pytest.mark.thorough
def test_it_opens_from_the_disk_and_is_reviewed(
    browser: Any, out: Path, file: Path, tmp_path: Path
) -> None:
    errors: list[str] = []
    page = opened(browser, file.as_uri(), errors, offline=True)
    assert page.get_by_role("tab", name="Review").get_attribute("aria-selected") == "true"
    queue = json.loads(files_in(file.read_text())["run/0/queue.json"])
    first, second = (row[0] for row in queue["rows"][:2])
    assert page.get_by_text(first).is_visible(), "the head of the queue is selected"
    place = page.evaluate("location.hash")
    with address(out) as server:
        here, there = (opened(browser, url + place, errors) for url in (file.as_uri(), server))
        differs = np.abs(picture(here) - picture(there)).max(axis=2) > 2
        assert differs.mean() < 1e-4, "but for corners of outlines, which are drawn in any order"
    page.keyboard.press("n")
    page.get_by_text(second).wait_for()
    page.keyboard.press("y")
    settle(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    saved = tmp_path / "mine.geojson"
    download.value.save_as(saved)
    assert errors == []
    review = tmp_path / "review.gpkg"
    assert "2 row(s) added" in typed("review", out, "--add", saved, "--reviews", review).stdout
    assert "0 row(s) added" in typed("review", out, "--add", saved, "--reviews", review).stdout
    found = ReviewFile.of(RunFolder.open(out), review).read().verdicts
    assert found[["id", "verdict"]].to_numpy().tolist() == [[first, "wrong"], [second, "right"]]
    assert (found["run"].str.startswith(out.name)).all()


@pytest.mark.chromium
@pytest.mark.thorough
def test_in_a_sandbox_verdicts_last_until_it_is_closed(
    browser: Any, file: Path, tmp_path: Path
) -> None:
    """As an e-mail shows it, where the browser forbids the page to keep anything."""
    frame = f'<iframe sandbox="allow-scripts" src="{file.as_uri()}" width="1000" height="600">'
    (tmp_path / "mail.html").write_text(frame)
    page = browser.new_page()
    page.goto((tmp_path / "mail.html").as_uri())
    shown = page.frame_locator("iframe")
    shown.get_by_text("This browser keeps nothing here").wait_for()
    shown.get_by_role("button", name="Wrong").click()
    shown.locator(".verdict", has_text="Wrong").wait_for()
    shown.get_by_role("button", name="Dark colours").click()
    assert shown.locator("html[data-theme=dark]").count() == 1
    page.close()


@pytest.mark.chromium
@pytest.mark.thorough
def test_raw_heatmaps_look_like_levels(browser: Any, tmp_path: Path) -> None:
    errors: list[str] = []
    pictures = []
    for dtype in ("uint8", "float32"):
        folder = tmp_path / dtype
        folder.mkdir()
        given = {"explain__methods": ["guided_gradcam"], "objects__explain": 0}
        out = make_city(folder, explain__heatmap_dtype=dtype, **given)
        page = opened(browser, write_single(out, folder / "a.html", 1).file.as_uri(), errors)
        pictures.append(picture(page))
    assert errors == []
    levels, raw = pictures
    assert np.ptp(levels, axis=(0, 1)).max() > 100, "there is a heatmap"
    assert (np.abs(raw - levels).max(axis=2) > 6).mean() < 0.01, "but for rounding"
