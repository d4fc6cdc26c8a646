"""Assembly of pieces into files, which do not depend on the number of cells or of a batch."""

from __future__ import annotations

import itertools
import json
import sqlite3
from contextlib import closing

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow.dataset import dataset, field
from support.pieces import make_rules, pieces_of_cells
from support.tracing import LO19, NAMES, rasters, trace

from capecam.detections import assembly
from capecam.detections.assembly import CellPieces, assemble, join_across_cells, write_detections
from capecam.detections.measurement import write_pieces
from capecam.detections.regions import Pieces, join
from capecam.io import vector_writer
from capecam.io.geopackage import holds
from capecam.run.editable_products import write_geopackage
from capecam.store.file_names import REJECTED


@settings(max_examples=150, deadline=None)
@given(rasters, st.sets(st.integers(1, 13), max_size=5), st.sampled_from([0.0, 1.0, 2.0, 5.0]))
def test_rows_of_cells_give_the_objects_of_all_at_once(
    classes: np.ndarray, cuts: set[int], distance: float
) -> None:
    edges = [0, *sorted(c for c in cuts if c < len(classes)), len(classes)]
    rows = [trace(classes[a:b], row=a) for a, b in itertools.pairwise(edges)]
    next_row = [float(row) for row in edges[1:-1]] + [np.inf]
    joined = Pieces.concatenate(list(join_across_cells(zip(rows, next_row, strict=True), distance)))
    expected = join(Pieces.concatenate(rows), distance)
    assert [g.wkb for g in joined.geometry] == [g.wkb for g in expected.geometry]
    assert np.array_equal(joined.class_id, expected.class_id)
    assert np.array_equal(joined.level_sum, expected.level_sum)


def test_objects_are_yielded_as_soon_as_they_are_complete() -> None:
    classes = np.zeros((30, 10), np.uint8)
    classes[2:5, 2:5] = classes[18:20, 2:5] = 1  # the second may continue below row 20
    objects = join_across_cells(
        [(trace(classes[:20]), 20.0), (trace(classes[20:], row=20), np.inf)], 2.0
    )
    assert [len(some) for some in objects] == [1, 1]


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_files_do_not_depend_on_the_cells(tmp_path, monkeypatch, batch: int) -> None:
    monkeypatch.setattr(vector_writer, "ROW_GROUP", 7)
    rules = make_rules(join_distance_px=1.0, min_area_m2=0.01, simplify_m=0.08, keep_rejected=True)
    outs, counts = [], []
    for name, size in (("whole", (40, 60)), ("cells", (7, 13))):
        out = tmp_path / name
        out.mkdir()
        monkeypatch.setattr(assembly, "BATCH", batch)
        found = assemble(pieces_of_cells(out, *size), rules)
        summary = write_detections(out, found, rules)
        kept = gpd.read_parquet(out / "detections.parquet")
        assert summary["count"].sum() == len(kept) > 20
        assert len(gpd.read_parquet(out / "rejected.parquet")) > 20
        outs.append(out)
        counts.append(found.steps)
    assert counts[0] == counts[1]
    for file in ("detections.parquet", "rejected.parquet", "summary.csv"):
        assert (outs[0] / file).read_bytes() == (outs[1] / file).read_bytes()


def test_geopackage_and_geoparquet_have_the_same_rows(tmp_path) -> None:
    cells, rules = pieces_of_cells(tmp_path, 10, 20), make_rules(min_area_m2=0.0)
    write_detections(tmp_path, assemble(cells, rules), rules)
    write_geopackage(tmp_path, rules)
    table = gpd.read_parquet(tmp_path / "detections.parquet")
    package = gpd.read_file(tmp_path / "detections.gpkg", layer="detections")
    assert package.drop(columns="geometry").equals(table.drop(columns="geometry"))
    assert shapely.equals_exact(package.geometry, table.geometry).all()
    assert package.crs == table.crs
    assert table.crs.to_authority() == ("ESRI", "102562")
    field = pq.read_schema(tmp_path / "detections.parquet").field("area_m2")
    assert field.metadata[b"unit"].decode() == "m²"
    with closing(sqlite3.connect(tmp_path / "detections.gpkg")) as database:
        described = database.execute("SELECT column_name, name, description FROM gpkg_data_columns")
        names, titles, texts = zip(*described, strict=True)
    assert list(names) == list(table.columns[:-1])
    assert "Area (m²)" in titles
    assert "mean probability of the object's class over its pixels [0..1]" in texts


def test_a_description_of_somebody_elses_is_an_edit(tmp_path) -> None:
    cells, rules = pieces_of_cells(tmp_path, 20, 30), make_rules()
    write_detections(tmp_path, assemble(cells, rules), rules)
    write_geopackage(tmp_path, rules)
    path, tables = tmp_path / "detections.gpkg", {"detections": tmp_path / "detections.parquet"}
    assert holds(path, tables)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE gpkg_data_columns SET name = 'm2' WHERE column_name = 'area_m2'")
    assert not holds(path, tables)


def test_a_small_box_is_read_from_few_row_groups(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(vector_writer, "ROW_GROUP", 20)
    cells, rules = (
        pieces_of_cells(tmp_path, 10, 20),
        make_rules(min_area_m2=0.0, join_distance_px=1.0),
    )
    write_detections(tmp_path, assemble(cells, rules), rules)
    path = tmp_path / "detections.parquet"
    table = gpd.read_parquet(path)
    left, bottom, right, top = table.total_bounds
    box = (left, bottom, left + (right - left) / 5, bottom + (top - bottom) / 5)
    within = table.cx[box[0] : box[2], box[1] : box[3]]
    found = gpd.read_parquet(path, bbox=box)
    assert set(within["id"]) <= set(found["id"])  # of which the bounds alone may touch the box
    assert len(found) < len(table) / 5
    (file,) = dataset(path).get_fragments()
    part = file.subset((field("bbox", "xmin") < box[2]) & (field("bbox", "ymin") < box[3]))
    assert len(file.row_groups) == -(-len(table) // 20)
    assert len(part.row_groups) < len(file.row_groups) / 3
    geo = json.loads(pq.read_metadata(path).metadata[b"geo"])["columns"]["geometry"]
    assert set(geo["covering"]["bbox"]) == {"xmin", "ymin", "xmax", "ymax"}
    bounds = pd.DataFrame(pq.read_table(path, columns=["bbox"])["bbox"].to_pylist())
    assert bounds.to_numpy().tolist() == table.bounds.to_numpy().tolist()


def test_without_objects_the_files_are_empty(tmp_path) -> None:
    write_pieces(trace(np.zeros((5, 5), np.uint8)), LO19, NAMES, tmp_path / "p.parquet")
    cells = [CellPieces(0, tmp_path / "p.parquet")]
    rules = make_rules()
    summary = write_detections(tmp_path, assemble(cells, rules), rules)
    write_geopackage(tmp_path, rules)
    assert summary["count"].tolist() == [0, 0, 0]
    assert len(gpd.read_parquet(tmp_path / "detections.parquet")) == 0
    assert len(gpd.read_file(tmp_path / "detections.gpkg", layer="detections")) == 0


def test_rejected_objects_are_counted_and_kept_in_their_own_layer(tmp_path) -> None:
    cells = pieces_of_cells(tmp_path, 40, 60)
    rules = make_rules(join_distance_px=1.0, min_area_m2=0.05, keep_rejected=True)
    found = assemble(cells, rules)
    write_detections(tmp_path, found, rules)
    write_geopackage(tmp_path, rules)
    counts = found.steps
    dropped = gpd.read_file(tmp_path / "detections.gpkg", layer=REJECTED)
    assert set(dropped["reason"]) == {"small"}
    assert (dropped["area_m2"] <= 0.05).all()
    for name in NAMES[1:]:
        assert counts["small"][name] == (dropped["class"] == name).sum() > 0
        assert counts["joined"][name] == counts["small"][name] + counts["kept"][name]
        assert counts["traced"][name] > counts["joined"][name]
    assert dropped.drop(columns="geometry").equals(
        gpd.read_parquet(tmp_path / "rejected.parquet").drop(columns="geometry")
    )
    rules = make_rules(join_distance_px=1.0, min_area_m2=0.05)
    write_detections(tmp_path, assemble(cells, rules), rules)
    assert not (tmp_path / "rejected.parquet").exists()
