"""Evidence of objects. Oracle: distance transforms on the arrays of a whole city."""

from __future__ import annotations

import itertools
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt
from support.cities import blobs, colours_model, write_tif

from capecam.detections import neighbourhood, signals
from capecam.detections.assembly import assemble, assembly_rules, cell_pieces, review_ranks
from capecam.detections.early_evidence import EarlyEvidence
from capecam.detections.evidence import Evidence, evidence_rasters
from capecam.detections.evidence_cache import EVIDENCE_CACHE, EvidenceCache
from capecam.detections.heatmap_stats import MEASURES
from capecam.detections.neighbourhood import NEIGHBOURHOOD_M, RING_M, neighbourhood_strips, within
from capecam.detections.object_columns import evidence_words
from capecam.detections.regions import mask
from capecam.grid import Cell, Window
from capecam.run import early_process
from capecam.run.city_products import finish
from capecam.run.early_process import EarlyEvidenceProcess
from capecam.run.supervisor import run
from capecam.settings.loading import load
from capecam.store.ledger import Ledger
from capecam.store.run_folder import RunFolder, known_run

METHODS = ("gradcam", "gradcampp", "guided_gradcam")
GSD = 0.08
SIZE = 480


def explain(images: Path, out: Path, **options) -> Path:
    settings = load(
        None,
        {
            "sources": [str(images)],
            "out": str(out),
            "detections.min_area_m2": 0.0,
            "compute.readers": 0,
            "explain.calibration_tiles": 4,
            **{key.replace("__", "."): value for key, value in options.items()},
        },
    )
    assert run(settings, model=colours_model()).exit_code == 0
    return out


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    pixels = blobs(SIZE, SIZE, seed=11)
    pixels[:, 300:303, 300:460] = 30
    pixels[0, 300:303, 300:460] = 240  # long and thin, across four of the sixteen images
    pixels[2, 301, 380:400] = 250  # another class in its middle
    return pixels


@pytest.fixture(scope="module")
def whole(scene, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    write_tif(folder / "a.tif", scene)
    return explain(folder, tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def sixteen(scene, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sixteen")
    edges = [0, 113, 257, 391, SIZE]
    for i, (top, bottom) in enumerate(itertools.pairwise(edges)):
        for j, (left, right) in enumerate(itertools.pairwise(edges)):
            write_tif(folder / f"{i}{j}.tif", scene[:, top:bottom, left:right], left, top)
    return explain(folder, tmp_path_factory.mktemp("out"))


def layer(out: Path, name: str, band: int) -> np.ndarray:
    """Return (SIZE, SIZE) raw shares of the city's scale, 0..1; NaN is nodata."""
    with rasterio.open(out / f"{name}.vrt") as dataset:
        values = dataset.read(band).astype(float)
        values = np.where(values == dataset.nodata, np.nan, values / 254)
        values **= 2 if dataset.tags(band).get("CAPECAM_TRANSFER") == "sqrt" else 1
    factor = 10 if values.shape != (SIZE, SIZE) else 1
    return values.repeat(factor, 0).repeat(factor, 1)[:SIZE, :SIZE]


def expected(values: np.ndarray, own: np.ndarray) -> dict[str, float]:
    """Compute the measures as docs/outputs.md defines them, on whole arrays."""
    distance = distance_transform_edt(~own) * GSD
    near = (distance <= NEIGHBOURHOOD_M + 1e-9) & ~np.isnan(values)
    inside = own & near
    ring = (distance <= RING_M + 1e-9) & near & ~own
    energy, peak = np.nansum(values[near]), values[near].max()
    return {
        "in": values[inside].mean(),
        "ring": values[ring].mean(),
        "share": values[inside].sum() / energy if energy else np.nan,
        "peak": peak,
        "peak_m": distance[near & (values == peak)].min() if peak else np.nan,
    }


def expected_signals(out: Path, class_id: int, own: np.ndarray) -> dict[str, float]:
    """Compute the signals from probabilities as docs/method.md defines them."""
    p = np.stack([layer(out, "probability", k) for k in (1, 2, 3)])
    p = np.concatenate([np.maximum(1 - p.sum(axis=0), 0)[None], p]).round(12)
    distance, valid = distance_transform_edt(~own), ~np.isnan(p[1])
    lead = p[class_id] - np.delete(p, class_id, axis=0).max(axis=0)
    outside = valid & (lead <= 1e-9)
    edge = p[class_id][outside & (distance > 0) & (distance <= 3)]
    near = p[class_id][outside & (distance > 3) & (distance <= 12)]
    padded = np.pad(own, 1)
    beside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    rim = p[:, own & ~beside]
    share = rim / rim.sum(axis=0)
    bits = -np.where(share > 0, share * np.log2(np.where(share > 0, share, 1)), 0).sum(axis=0)
    return {
        "soft_edge": edge.mean() / p[class_id][own].mean() if edge.size else np.nan,
        "margin": lead[own].mean(),
        "border_entropy": bits.mean(),
        "near_probability": near.mean() if near.size else np.nan,
    }


def test_measures_equal_those_of_the_arrays(whole: Path) -> None:
    table, grid = gpd.read_parquet(whole / "detections.parquet"), known_run(whole).pixel_grid
    shapes = shapely.transform(table.geometry.to_numpy(), grid.to_lattice)
    assert len(table) > 8
    compared = 0
    for shape, row in zip(shapes, table.to_dict("records"), strict=True):
        own = mask(shape, Window(0, 0, SIZE, SIZE))
        for method in METHODS:
            measures = expected(layer(whole, method, row["class_id"]), own)
            for measure, value in measures.items():
                found = row[f"{method}_{measure}"]
                assert found == pytest.approx(value, abs=1e-9, nan_ok=True), (method, measure)
                compared += not np.isnan(value) and value > 0
        others = {
            k: layer(whole, "probability", k)[own].mean() for k in {1, 2, 3} - {row["class_id"]}
        }
        assert row["rival_in"] == pytest.approx(max(others.values()))
        for signal, value in expected_signals(whole, row["class_id"], own).items():
            assert row[signal] == pytest.approx(value, abs=1e-9, nan_ok=True), signal
    assert compared > 60


@pytest.mark.thorough
def test_evidence_does_not_depend_on_the_cells(whole: Path, sixteen: Path) -> None:
    a, b = (gpd.read_parquet(out / "detections.parquet") for out in (whole, sixteen))
    pd.testing.assert_frame_equal(
        a.drop(columns=["images", "geometry"]), b.drop(columns=["images", "geometry"]),
        check_exact=True,
    )  # fmt: skip
    assert b["images"].str.contains(",").any()


def test_evidence_does_not_depend_on_strips_and_processes(whole: Path, monkeypatch) -> None:
    before = (whole / "detections.parquet").read_bytes()
    monkeypatch.setattr(neighbourhood, "STRIP", 37)
    monkeypatch.setattr(signals, "STRIP", 11)
    monkeypatch.setattr("capecam.detections.evidence.CHUNK", 2)
    monkeypatch.setattr("capecam.detections.evidence.MIN_CHUNKS", 1)
    (whole / EVIDENCE_CACHE).unlink()
    finish(whole)
    assert (whole / "detections.parquet").read_bytes() == before


def count_measured(monkeypatch) -> list[int]:
    """Return a list that gets the number of objects of each call that measures."""
    counts, measure = [], Evidence._measure

    def counted(self, objects):
        counts.append(len(objects))
        return measure(self, objects)

    monkeypatch.setattr(Evidence, "_measure", counted)
    return counts


@pytest.fixture(scope="module")
def strips(scene, tmp_path_factory) -> RunFolder:
    """A run of six images side by side: the evidence of an object reads up to all of them."""
    folder = tmp_path_factory.mktemp("strips")
    for n in range(6):
        write_tif(folder / f"{n}.tif", scene[:, :, n * 80 : (n + 1) * 80], n * 80)
    settings = {"explain__methods": ("gradcam",), "tiling__size": 160, "tiling__overlap": 40}
    out = explain(folder, tmp_path_factory.mktemp("out"), objects__explain="none", **settings)
    return RunFolder.open(out)


def rows_of_the_end(folder: RunFolder) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the evidence of all objects as the city's products have it, and which was known."""
    rasters, known = evidence_rasters(folder), []
    cache = EvidenceCache(folder.out / EVIDENCE_CACHE, len(rasters.columns))
    lookup = cache.lookup
    cache.lookup = lambda keys: known.append(lookup(keys)[0]) or lookup(keys)
    with Evidence(rasters, folder.grid, 0, cache) as evidence:
        found = assemble(cell_pieces(folder), assembly_rules(folder), evidence)
    return found.table.drop(columns="geometry"), np.concatenate(known)


@pytest.mark.parametrize("order", ["012345", "405132"])
def test_early_evidence_is_what_the_end_would_measure(strips: RunFolder, order: str) -> None:
    (strips.out / EVIDENCE_CACHE).unlink(missing_ok=True)
    expected, known = rows_of_the_end(strips)
    assert not known.any()
    cores = {name: strips.core(name) for name in strips.cells}
    early = EarlyEvidence(strips.out, cores, set(cores))
    measured = 0
    for n in order:
        measured += early.settle(n)
        early.save()
        table, known = rows_of_the_end(strips)
        assert known.sum() == measured  # each object once
        assert table.equals(expected)
    assert known.all()


def test_a_cell_that_failed_is_waited_for_but_not_read(strips: RunFolder, tmp_path: Path) -> None:
    cores = {name: strips.core(name) for name in strips.cells}
    failed = Ledger.of(strips.out).folder / "2"
    (strips.out / EVIDENCE_CACHE).unlink(missing_ok=True)
    try:
        failed.rename(tmp_path / "2")
        early = EarlyEvidence(strips.out, cores, set(cores))
        for name in cores:
            early.settle(name)
        early.save()
        assert rows_of_the_end(RunFolder.open(strips.out))[1].all()
    finally:
        (tmp_path / "2").rename(failed)
    known = rows_of_the_end(strips)[1]
    assert not known.any()  # all of this small city is near the cell that is there again


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_process_measures_beside_the_run(
    strips: RunFolder, caplog, monkeypatch, is_killed: bool
) -> None:
    monkeypatch.setattr(early_process, "FEW", 0)
    (strips.out / EVIDENCE_CACHE).unlink(missing_ok=True)
    expected, _ = rows_of_the_end(strips)
    cells = [Cell(name, name, strips.core(name)) for name in strips.cells]
    with EarlyEvidenceProcess(strips.out, cells, cells[:1], wanted=True) as process:
        process.settled(cells[0])
        if is_killed:
            process._child.kill()
    table, known = rows_of_the_end(strips)
    assert known.any() is not is_killed
    assert table.equals(expected)
    assert ("measured after the last cell" in caplog.text) is is_killed


@pytest.mark.thorough
def test_only_objects_near_a_change_are_measured_again(scene, tmp_path: Path, monkeypatch) -> None:
    for n in range(4):
        part = scene[:, :, n * 120 : (n + 1) * 120]
        write_tif(tmp_path / "images" / f"{n}.tif", part, n * 120)
    settings = {"explain__methods": ("gradcam",), "tiling__size": 160, "tiling__overlap": 40}
    out = explain(tmp_path / "images", tmp_path / "out", **settings)
    table = gpd.read_parquet(out / "detections.parquet")
    counts = count_measured(monkeypatch)
    finish(out)
    assert sum(counts) == 0
    changed = scene[:, :, :120].copy()
    changed[:, :60, :60] = 35
    write_tif(tmp_path / "images" / "0.tif", changed)
    explain(tmp_path / "images", out, **settings)
    assert 0 < sum(counts) < len(table)
    before = (out / "detections.parquet").read_bytes()
    (out / EVIDENCE_CACHE).write_bytes(b"damaged")
    counts.clear()
    finish(out)
    assert sum(counts) > len(table) / 2
    assert (out / "detections.parquet").read_bytes() == before


def test_raw_heatmaps_give_the_same_measures_but_for_rounding(
    scene, whole: Path, tmp_path: Path
) -> None:
    write_tif(tmp_path / "images" / "a.tif", scene)
    raw = explain(tmp_path / "images", tmp_path / "out", explain__heatmap_dtype="float32")
    a, b = (gpd.read_parquet(out / "detections.parquet") for out in (whole, raw))
    columns = [f"{m}_{k}" for m in METHODS for k in MEASURES if k != "peak_m"]
    assert np.nanmax(np.abs(a[columns].to_numpy(float) - b[columns].to_numpy(float))) < 1 / 254


def test_a_heatmap_without_a_single_block_has_no_measures(tmp_path: Path) -> None:
    pixels = np.full((3, 6, 6), 30, np.uint8)
    pixels[0] = 240
    write_tif(tmp_path / "in" / "a.tif", pixels, 2, 2)
    anchor = (-51_000.0, -3_763_000.0)
    out = explain(
        tmp_path / "in", tmp_path / "out", tiling__anchor=anchor, explain__methods=["gradcam"]
    )
    assert not (out / "gradcam.vrt").exists()
    table = gpd.read_parquet(out / "detections.parquet")
    assert len(table)
    assert table[[f"gradcam_{measure}" for measure in MEASURES]].isna().all(axis=None)


@pytest.mark.thorough
def test_a_failed_neighbour_leaves_a_gap(sixteen: Path, tmp_path: Path) -> None:
    record = known_run(sixteen)
    assert set(Ledger.of(sixteen).done()) == set(record.cells)
    table = gpd.read_parquet(sixteen / "detections.parquet").set_index("id")
    gone = Ledger.of(sixteen).folder / "00"
    try:
        gone.rename(tmp_path / "00")
        finish(sixteen)
        rest = gpd.read_parquet(sixteen / "detections.parquet").set_index("id")
    finally:
        (tmp_path / "00").rename(gone)
        finish(sixteen)
    far = rest[
        rest.geometry.distance(shapely.box(-51_000, -3_763_009.04, -50_990.96, -3_763_000)) > 13
    ]
    assert len(far) > 2
    assert far["gradcam_share"].equals(table.loc[far.index, "gradcam_share"])


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.tuples(*[st.sampled_from([0.07, 0.08, 0.1])] * 2),
    st.sampled_from([0.3, 0.5, 0.8]),
)
def test_within_equals_a_distance_transform(seed: int, pixel, distance_m: float) -> None:
    rng = np.random.default_rng(seed)
    region = rng.random(rng.integers(1, 12, 2)) < 0.3
    region[0, 0] = True
    region_window = Window(5, 7, *region.shape)
    window = Window(-5, -3, region.shape[0] + 18, region.shape[1] + 17)
    padded = np.zeros(window.shape, bool)
    padded[region_window.slices(window)] = region
    expected = distance_transform_edt(~padded, sampling=pixel[::-1]) <= distance_m + 1e-9
    assert np.array_equal(within(region, region_window, distance_m, pixel, window), expected)


def test_a_tall_object_is_divided_into_strips() -> None:
    shape = shapely.box(0, 0, 40, 5000)
    strips = list(neighbourhood_strips(shape, (GSD, GSD)))
    assert len(strips) == 6
    assert sum(int(strip.inside.sum()) for strip in strips) == 40 * 5000
    assert sum(int(strip.ring.sum()) for strip in strips) == sum(
        int(s.ring.sum()) for s in neighbourhood_strips(shapely.box(0, 0, 5000, 40), (GSD, GSD))
    )


@pytest.mark.parametrize(
    ("alone", "without", "own_drop", "expected"),
    [
        (0.9, 0.1, 0.9, "itself"),
        (0.1, 0.9, 0.9, "context"),
        (0.1, 0.1, 0.9, "both"),
        (0.9, 0.9, 0.9, "either"),
        (0.9, 0.1, 0.05, "unproven"),  # no better than the random blocks
        (0.9, 0.1, np.nan, "unproven"),
        (0.1, 0.9, 0.05, "context"),  # which the interventions prove
        (0.1, 0.1, np.nan, "both"),
        (np.nan, np.nan, np.nan, ""),
    ],
)
def test_words(alone: float, without: float, own_drop: float, expected: str) -> None:
    numbers = {"alone": alone, "without": without, "own_drop": own_drop, "random_drop": 0.02}
    assert evidence_words(pd.DataFrame([numbers])).tolist() == [expected]


def test_the_queue_starts_with_the_least_confident_or_the_least_likely_right() -> None:
    table = pd.DataFrame({"confidence": [0.9, 0.5, 0.7, 0.5], "area_m2": [2.0, 9.0, 2.0, 3.0]})
    assert review_ranks(table).tolist() == [4, 2, 3, 1]
    assert review_ranks(table.assign(p_right=[0.1, 0.8, 0.1, 0.9])).tolist() == [1, 3, 2, 4]
