"""Places below the class decision, outside of every detection, and what people say of them."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
from support.cities import GSD, colours_model, quick_settings, write_tif
from support.commands import typed
from support.reviews import sql

from capecam.detections.misses import MISSES_COLUMNS, find_misses
from capecam.run.supervisor import run
from capecam.store.run_folder import RunFolder

DIM = 175
"""A value at which the network below gives a class .26, less than the background."""


def mapped(folder: Path, **options: object) -> RunFolder:
    """Run on two images side by side with a detection, its dim edge, and dim objects."""
    pixels = np.full((3, 192, 384), 30, np.uint8)
    pixels[0, 20:60, 20:60] = DIM  # the soft edge of a detection
    pixels[0, 30:50, 30:50] = 230
    pixels[0, 100:120, 180:200] = DIM  # across the edge of the images
    pixels[1, 100:140, 300:340] = DIM
    pixels[2, 20:23, 300:302] = DIM  # small
    for n in range(2):
        part = pixels[:, :, 192 * n : 192 * (n + 1)]
        write_tif(folder / "in" / f"{n}.tif", part, col=192 * n)
    options = {"run__in_process": True, "objects__explain": "none"} | options
    settings = quick_settings(folder, **options)
    run(settings, model=colours_model(background=4.0, gain=16.0))
    return RunFolder.open_finished(Path(settings.out))


@pytest.mark.parametrize("in_process", [True, pytest.param(False, marks=pytest.mark.thorough)])
def test_misses_are_what_is_likely_apart_from_detections(tmp_path: Path, in_process: bool) -> None:
    folder = mapped(tmp_path, detections__min_area_m2=0.1, run__in_process=in_process)
    misses = find_misses(folder)
    assert list(misses.columns) == [*MISSES_COLUMNS, "geometry"]
    assert misses["id"].tolist() == ["m2_300_100", "m1_180_100"]
    assert misses["review"].tolist() == [1, 2]
    assert misses["area_m2"].tolist() == pytest.approx([1600 * GSD**2, 400 * GSD**2])
    assert misses["probability"].to_numpy() == pytest.approx(0.26, abs=0.05)
    assert misses["expected_m2"].tolist() == pytest.approx(
        (misses["area_m2"] * misses["probability"]).tolist()
    )
    assert misses["images"].tolist() == ["1", "0,1"]
    assert misses.geometry.area.tolist() == pytest.approx(misses["area_m2"].tolist())


def test_an_object_that_a_filter_dropped_for_its_confidence_is_a_miss(tmp_path: Path) -> None:
    folder = mapped(tmp_path, detections__min_area_m2=0.1, detections__min_confidence=0.99)
    misses = find_misses(folder)
    assert "m1_20_20" in misses["id"].tolist()


def test_misses_do_not_depend_on_the_cells(tmp_path: Path) -> None:
    whole = find_misses(mapped(tmp_path / "a", tiling__size=160))
    cut = find_misses(mapped(tmp_path / "b", tiling__size=160, tiling__cell_size=160))
    assert whole.drop(columns="images").equals(cut.drop(columns="images"))
    assert len(whole) == 3


def test_misses_are_proposed_once_and_count_when_they_are_confirmed(tmp_path: Path) -> None:
    out = mapped(tmp_path, detections__min_area_m2=0.001).out

    def asked(command: str, *options: object) -> dict:
        return json.loads(typed(command, out, *options, "--json").stdout)

    def missed() -> int:
        return asked("evaluate", "--reviews")["classes"][-1]["missed"]

    answer = asked("review", "--misses", "--top", 2)
    assert (answer["added"], answer["not_yet"], answer["queue"]) == (2, 2, 3)
    assert asked("review", "--misses", "--top", 2)["added"] == 0
    assert asked("review", "--misses")["added"] == 1
    file = out / "review.gpkg"
    proposed = gpd.read_file(file, layer="missed")
    assert proposed["id"].tolist() == ["m2_300_100", "m1_180_100", "m3_300_20"]
    assert missed() == 0
    sql(file, "UPDATE missed SET verdict = 'missed' WHERE id = 'm2_300_100'")
    sql(file, "UPDATE missed SET verdict = 'nothing' WHERE id = 'm1_180_100'")
    assert missed() == 1
    sql(file, "INSERT INTO missed (geom, class) SELECT geom, class FROM missed WHERE fid = 3")
    assert missed() == 2, "it is drawn by hand"
    answer = asked("review", "--misses")
    assert (answer["added"], answer["not_yet"], answer["looked_at"]) == (0, 1, 2)
