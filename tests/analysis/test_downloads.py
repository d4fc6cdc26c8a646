"""Verdicts of a page without a server are added to the review file, once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import geopandas as gpd
import pyogrio
import pytest
import shapely
from support.commands import typed
from support.outputs import write_output

from capecam.analysis.review.review_file import ReviewFile
from capecam.imagery.crs import proj_string
from capecam.store.run_folder import RunFolder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    write_output(tmp_path, 5)
    return tmp_path


def feature(shape: shapely.Geometry, layer: str = "verdicts", **properties: object) -> Any:
    stamp = {"checked_at": "2026-11-30T10:20:30.123Z", "note": "", "run": "out", "model": "FPN"}
    return {
        "type": "Feature",
        "properties": {"layer": layer, **stamp, **properties},
        "geometry": json.loads(shapely.to_geojson(shape)),
    }


def download(out: Path, *features: Any, **content: object) -> Path:
    """A file as the page saves it (viewer/src/review.js)."""
    proj4 = proj_string(ReviewFile.of(RunFolder.open(out)).crs)
    path = out / "review-out.geojson"
    crs = {"type": "name", "properties": {"name": "ESRI:102562"}}
    named = {"type": "FeatureCollection", "name": "capecam review", "crs": crs, "proj4": proj4}
    path.write_text(json.dumps({**named, "features": features, **content}))
    return path


def test_rows_are_added_once(out: Path) -> None:
    detections = gpd.read_parquet(out / "detections.parquet")
    first, second = detections.iloc[0], detections.iloc[1]
    wrong = feature(
        first.geometry, id=first["id"], **{"class": first["class"]}, verdict="wrong", true_class=""
    )
    missed = feature(
        shapely.Point(second.geometry.centroid), "missed", **{"class": second["class"]}, m2=4.5,
        verdict="missed",
    )  # fmt: skip
    third = detections.iloc[2]
    unsure = feature(third.geometry, id=third["id"], **{"class": third["class"]}, verdict="unsure")
    typed("review", out, "--top", 0)
    assert "1 row(s) added" in typed("review", out, "--add", download(out, wrong)).stdout
    assert "1 row(s) added" in typed("review", out, "--add", download(out, wrong, missed)).stdout
    said = typed("review", out, "--add", download(out, missed, unsure, unsure)).stdout
    assert "1 row(s) added; 1 to be looked at, 1 looked at" in said
    kept = pyogrio.read_dataframe(out / "review.gpkg", layer="verdicts")
    assert kept["verdict"].tolist() == ["wrong", "unsure"], "the viewer shows it, with its note"
    review = ReviewFile.of(RunFolder.open(out)).read()
    verdict, _ = review.verdicts.to_dict("records")
    assert (verdict["id"], verdict["verdict"], verdict["run"]) == (first["id"], "wrong", "out")
    assert verdict["geometry"].equals(first.geometry)
    assert verdict["checked_at"].endswith("30.123")
    assert review.missed["m2"].tolist() == [4.5]
    typed("evaluate", out, "--reviews")


def test_what_is_wrong_in_a_file_is_named_and_nothing_is_added(out: Path) -> None:
    point = shapely.Point(0, 0)
    maybe = feature(point, verdict="maybe", **{"class": "solar panel"})
    for features, content, reason in (
        ([feature(point)], {"name": "other"}, "is no file of verdicts"),
        ([maybe], {"proj4": "+proj=longlat"}, "the run that it was made with"),
        ([{**maybe, "geometry": None}], {}, "row 1 ('verdicts'): has no geometry"),
        ([maybe], {}, "verdicts, row 1 ('maybe')"),
    ):
        path = download(out, *features, **content)
        assert reason in typed("review", out, "--add", path, code=2).stderr
    absent = typed("review", out, "--add", out / "no.geojson", code=2)
    assert "no.geojson: there is no such file" in absent.stderr
    assert not (out / "review.gpkg").exists()
