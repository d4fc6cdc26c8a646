"""A run says what is unusual about its images: in the log, closing lines, run.json and report."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.cities import CORNER, blobs, colours_model, quick_settings, write_tif

from capecam.grid import Cell, Window
from capecam.mosaic.border_probe import BorderProbe
from capecam.run.city_products import finish
from capecam.run.plan import make_plan
from capecam.run.summary import summary
from capecam.run.supervisor import run
from capecam.run.unusual_images import pixel_warnings
from capecam.store.run_folder import known_run

SIZE = 320
PIXELS = blobs(SIZE, SIZE, seed=5)
EMPTY = "has no valid pixel in the part that was processed"
BORDER = "has a nearly black or white border that is not marked as nodata"


def with_alpha(value: int) -> np.ndarray:
    return np.concatenate([PIXELS, np.full((1, SIZE, SIZE), value, np.uint8)])


def with_border(value: int) -> np.ndarray:
    pixels = PIXELS.copy()
    pixels[:, :, : SIZE // 5] = value
    return pixels


IMAGES: dict[str, Callable[[Path, int], Path]] = {
    "empty": lambda path, col: write_tif(path, with_alpha(0), col, photometric="RGB", alpha="yes"),
    "four": lambda path, col: write_tif(path, with_alpha(9), col, photometric="minisblack"),
    "black": lambda path, col: write_tif(path, with_border(4), col),
    "white": lambda path, col: write_tif(path, with_border(252), col),
    "plain": lambda path, col: write_tif(path, PIXELS, col),
}


@pytest.fixture(scope="module")
def city(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unusual")
    for number, (name, write) in enumerate(IMAGES.items()):
        write(folder / "in" / f"{name}.tif", number * SIZE)
    return folder


def test_all_that_is_unusual_is_said_everywhere(city, caplog) -> None:
    caplog.set_level(logging.INFO, "capecam")
    plan = make_plan(quick_settings(city))
    outcome = run(quick_settings(city), model=colours_model())
    assert outcome.exit_code == 0
    unusual = known_run(city / "out").unusual
    of_plan = [(g.diagnostic.finding, g.images) for g in plan.diagnostics]
    assert [(e.what, e.images) for e in unusual] == [
        *of_plan, (EMPTY, ("empty",)), (BORDER, ("black", "white")),
    ]  # fmt: skip
    assert sum("more bands than red" in what for what, _ in of_plan) == 1
    assert sum("does not say which bands" in what for what, _ in of_plan) == 1
    log, closing = caplog.messages, summary(outcome)
    assert all(sum(what in line for line in log) == 1 for what, _ in of_plan)
    assert f"warning: {EMPTY} (1: empty): is nodata in all products" in closing
    assert f"warning: {BORDER} (2: black, white): counts as imagery, up to 20% of" in closing
    page = (city / "out" / "report.html").read_text("utf-8")
    assert all(entry.what in page and entry.does in page for entry in unusual)
    assert "2 warnings</a> about the images" in page
    assert len(list(pixel_warnings(finish(city / "out")))) == 2, "not twice as many"


@pytest.mark.parametrize(("collar", "expected"), [("none", [BORDER]), ("auto", [])])
def test_a_border_that_is_left_out_needs_no_warning(tmp_path, collar, expected) -> None:
    write_tif(tmp_path / "in" / "a.tif", with_border(1))
    outcome = run(quick_settings(tmp_path, imagery__collar=collar), model=colours_model())
    assert [entry.what for entry in outcome.city.unusual] == expected


def test_an_empty_image_over_another_is_named(tmp_path) -> None:
    write_tif(tmp_path / "in" / "a.tif", with_alpha(0), photometric="RGB", alpha="yes")
    write_tif(tmp_path / "in" / "b.tif", np.tile(PIXELS, (1, 1, 2)))
    outcome = run(quick_settings(tmp_path), model=colours_model())
    assert [(entry.what, entry.images) for entry in outcome.city.unusual] == [(EMPTY, ("a",))]


def test_an_image_outside_of_the_area_of_interest_needs_no_warning(tmp_path) -> None:
    IMAGES["plain"](tmp_path / "in" / "plain.tif", 0)
    IMAGES["empty"](tmp_path / "in" / "empty.tif", SIZE)
    box = (CORNER[0], CORNER[1] - 9, CORNER[0] + 5, CORNER[1])
    outcome = run(quick_settings(tmp_path, mosaic__bbox=box), model=colours_model())
    assert outcome.city.unusual == ()


@pytest.mark.parametrize("seed", range(5))
def test_the_border_does_not_depend_on_how_the_cell_is_read(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(100, 300, 2)
    core = Window(int(rng.integers(-50, 50)), int(rng.integers(-50, 50)), int(height), int(width))
    pixels = rng.integers(30, 200, (3, height, width)).astype(np.uint8)
    pixels[:, :, : width // 4] = 3
    valid = rng.random((height, width)) > 0.1
    whole, parts = BorderProbe(Cell("a", "a", core)), BorderProbe(Cell("a", "a", core))
    whole.add(core, pixels, valid)
    cuts = [sorted({0, *rng.integers(1, n, 3).tolist(), int(n)}) for n in (height, width)]
    for top, bottom in zip(cuts[0], cuts[0][1:], strict=False):
        for left, right in zip(cuts[1], cuts[1][1:], strict=False):
            window = Window(core.row + top, core.col + left, bottom - top, right - left)
            inside = window.slices(core)
            parts.add(window, pixels[:, *inside], valid[inside])
    assert parts.share() == whole.share() == pytest.approx(0.25, abs=0.03)
    outside = BorderProbe(Cell("a", "a", core, (core,)))
    outside.add(core, pixels, valid)
    assert outside.share() == 0, "all of it belongs to other images"
