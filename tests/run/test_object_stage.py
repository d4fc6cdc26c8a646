"""Detections are explained once, whatever happens in between."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from support.cities import blobs, colours_model, quick_settings, write_tif

from capecam.detections.object_columns import EVIDENCE_WORDS, OBJECT_COLUMNS
from capecam.pipeline.object_explainer import ObjectExplainer
from capecam.run.city_products import finish
from capecam.run.supervisor import run
from capecam.store.object_store import FOLDER

OPTIONS = {"tiling__size": 160, "tiling__overlap": 40, "compute__readers": 0}


def table_of(city: Path) -> pd.DataFrame:
    return gpd.read_parquet(city / "out" / "detections.parquet").set_index("id")


def explain(city: Path, **options: object) -> pd.DataFrame:
    settings = quick_settings(city, **{**OPTIONS, **options})
    outcome = run(settings, model=colours_model())
    assert outcome.exit_code == 0
    return table_of(city)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Four images and a finished run."""
    folder, pixels = tmp_path_factory.mktemp("city"), blobs(160, 640, seed=3)
    for n in range(4):
        write_tif(folder / "in" / f"{n}.tif", pixels[:, :, n * 160 : (n + 1) * 160], n * 160)
    explain(folder)
    return folder


@pytest.fixture
def city(finished, tmp_path: Path) -> Path:
    """A copy of that city, of a test's own."""
    return Path(shutil.copytree(finished, tmp_path / "city"))


@pytest.fixture
def fresh(city: Path) -> Path:
    """The same city before its first run."""
    shutil.rmtree(city / "out")
    return city


@pytest.fixture
def explained(monkeypatch) -> list[str]:
    """Ids of the objects that are explained."""
    ids: list[str] = []
    explain = ObjectExplainer._read

    def noted(self, target):
        ids.append(target.id)
        return explain(self, target)

    monkeypatch.setattr(ObjectExplainer, "_read", noted)
    return ids


def test_every_detection_has_numbers_and_a_word(fresh: Path, explained: list[str]) -> None:
    table = explain(fresh)
    assert sorted(explained) == sorted(table.index)
    assert not table[[*OBJECT_COLUMNS]].drop(columns="leak").isna().all(axis=None)
    assert set(table["evidence"]) <= set(EVIDENCE_WORDS)
    assert (table["without"] < 0.5).mean() > 0.8


def test_only_what_changed_is_explained_again(city: Path, explained: list[str]) -> None:
    before = table_of(city)
    explain(city)
    assert explained == []
    pixels = blobs(160, 160, seed=9)
    write_tif(city / "in" / "3.tif", pixels, 480)
    after = explain(city)
    assert explained
    untouched = before[before["images"] == "0"].index.intersection(after.index)
    assert len(untouched)
    assert not set(untouched) & set(explained)
    explained.clear()
    explain(city, objects__stride=8, objects__layer="encoder.0")
    assert sorted(explained) == sorted(after.index)


def test_the_result_does_not_depend_on_the_cut(city: Path, tmp_path: Path) -> None:
    parts = table_of(city)
    whole = tmp_path / "whole"
    write_tif(whole / "in" / "all.tif", blobs(160, 640, seed=3))
    one = explain(whole)
    columns = [*OBJECT_COLUMNS, "evidence", "review"]
    pd.testing.assert_frame_equal(parts[columns], one[columns], check_exact=True)


def test_a_killed_run_continues_with_the_next_cell(
    fresh: Path, explained: list[str], monkeypatch
) -> None:
    write = np.savez_compressed
    done = []

    def interrupt(file, **arrays):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(arrays)
        write(file, **arrays)

    monkeypatch.setattr(np, "savez_compressed", interrupt)
    with pytest.raises(KeyboardInterrupt):
        explain(fresh)
    monkeypatch.setattr(np, "savez_compressed", write)
    explained.clear()
    table = explain(fresh)
    assert 0 < len(explained) == len(table) - len(done[0]["keys"])
    reference = table.copy()
    (fresh / "out" / FOLDER / "0.npz").write_bytes(b"damaged")
    pd.testing.assert_frame_equal(explain(fresh), reference)


def test_as_many_as_are_wanted_are_explained(fresh: Path, explained: list[str]) -> None:
    table = explain(fresh, objects__explain="none")
    assert explained == []
    assert table["own_drop"].isna().all()
    assert set(table["evidence"]) == {""}
    table = explain(fresh, objects__explain="2")
    assert sorted(explained) == sorted(table.index[table["review"] <= 2])
    assert table["own_drop"].notna().sum() == 2


def test_finish_without_the_network_keeps_what_is_explained(city: Path, caplog) -> None:
    table = table_of(city)
    next((city / "out" / FOLDER).glob("*.npz")).unlink()
    finish(city / "out")
    rest = gpd.read_parquet(city / "out" / "detections.parquet").set_index("id")
    assert re.search("detections are not explained: .* was given in memory", caplog.text)
    known = rest["alone"].notna()
    assert 0 < known.sum() < len(rest)
    assert rest.loc[known, "alone"].equals(table.loc[rest.index[known], "alone"])
