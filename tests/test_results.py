"""The results of a run as notebooks read them: across cells, with their place, and as pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
import torch
import xarray
from matplotlib import pyplot as plt
from support.cities import blobs, colours_model, quick_settings, write_tif
from support.networks import images, tiny_model, tiny_network

from capecam.api import (
    Engine,
    Model,
    ModelSettings,
    Outcome,
    Raster,
    Results,
    plot_heatmap,
    read_detections,
    read_heatmap,
    run,
)
from capecam.errors import OutputError, UsageError
from capecam.grid import Grid, Window
from capecam.pipeline import run_engine
from capecam.runtime.notebook_html import heat_colors

CLASS = "solar panel"


@pytest.fixture(scope="module")
def results(city: Path) -> Results:
    return Results.open(city / "out")


def by_cell(out: Path, method: str, raster: Raster) -> np.ndarray:
    """The heatmap of all cells, put together by the transforms of their files."""
    whole = np.full(raster.shape, np.nan, np.float32)
    for path in out.glob(f"cells/*/{method}.tif"):
        with rasterio.open(path) as dataset:
            col, row = ~raster.transform @ (dataset.transform.c, dataset.transform.f)
            rows, cols = dataset.shape
        place = slice(round(row), round(row) + rows), slice(round(col), round(col) + cols)
        whole[place] = read_heatmap(out, path.parent.name, method, CLASS)
    return whole


def test_a_heatmap_is_that_of_all_cells(results: Results) -> None:
    heat = results.heatmap("gradcam", CLASS)
    assert heat.values.dtype == np.float32
    np.testing.assert_array_equal(heat, by_cell(results.out, "gradcam", heat))
    record = json.loads((results.out / "run.json").read_text())
    top = record["calibration"]["tops"]["gradcam"][0]
    raw = results.heatmap("gradcam", CLASS, raw=True)
    np.testing.assert_allclose(raw, heat.values * top, rtol=1e-6)
    assert (heat.units, raw.units) == ("share of the city's scale", "score")


def test_a_box_is_a_part_of_it_in_map_units_or_degrees(results: Results) -> None:
    whole = results.heatmap("gradcam", CLASS)
    t = whole.transform
    left, top = t @ (22.5, 20)  # across four cells: images are of 25 x 25 blocks
    right, bottom = t @ (30, 31.01)
    part = results.heatmap("gradcam", CLASS, (left, bottom, right, top))
    np.testing.assert_array_equal(part, whole.values[20:32, 22:30])
    assert part.transform @ (0, 0) == pytest.approx(t @ (22, 20))
    to_degrees = pyproj.Transformer.from_crs(results.crs, "EPSG:4326", always_xy=True)
    degrees = to_degrees.transform_bounds(left + 1, bottom + 1, right - 1, top - 1)
    inside = results.heatmap("gradcam", CLASS, degrees)
    np.testing.assert_array_equal(inside, whole.values[21:30, 24:29])


def test_the_imagery_is_that_of_the_files(results: Results, city: Path) -> None:
    bounds = results.bounds
    with rasterio.open(city / "images" / "4.tif") as dataset:
        part = results.imagery(tuple(dataset.bounds))
        np.testing.assert_array_equal(part.values[:3], dataset.read())
        assert part.transform.almost_equals(dataset.transform)
    assert (part.values[3] == 255).all()
    assert (bounds[2] - bounds[0], bounds[3] - bounds[1]) == pytest.approx((28.8, 28.8))


def test_what_there_is_not_says_what_there_is(results: Results, monkeypatch) -> None:
    def refused(match: str, *what: object) -> None:
        with pytest.raises(UsageError, match=match):
            results.heatmap(*what)

    refused("no heatmap 'gradcan'; it must be one of gradcam", "gradcan", CLASS)
    refused("no class 'panel'; it must be one of solar panel, water", "gradcam", "panel")
    refused(r"bbox \(0, 0, 1, 1\) is not on the cells .* bounds -51000, ", "gradcam", CLASS,
            (0, 0, 1, 1))  # fmt: skip
    monkeypatch.setattr("capecam.api.results.MAX_BYTES", 1000)
    refused("45 x 45 pixels would take 0.0 GiB; give a smaller bbox", "gradcam", CLASS)


def test_xarray_has_the_place(results: Results) -> None:
    heat = results.heatmap("gradcam", CLASS)
    array = heat.to_xarray()
    assert isinstance(array, xarray.DataArray)
    assert array.dims == ("y", "x")
    left, bottom, right, top = heat.bounds
    assert (float(array.x[0]), float(array.y[0])) == pytest.approx((left + 0.32, top - 0.32))
    assert (float(array.x[-1]), float(array.y[-1])) == pytest.approx((right - 0.32, bottom + 0.32))
    assert pyproj.CRS(array.spatial_ref.attrs["crs_wkt"]) == results.crs
    terms = map(float, array.spatial_ref.attrs["GeoTransform"].split())
    assert tuple(terms) == pytest.approx(heat.transform.to_gdal())
    assert array.attrs["units"] == "share of the city's scale"
    colours = results.imagery((left, bottom, left + 1, bottom + 1)).to_xarray()
    assert colours.sel(band="alpha").dims == ("y", "x")


def test_xarray_has_degrees_in_a_geographic_crs() -> None:
    grid = Grid("EPSG:4326", (18.4, -33.9), (1e-6, 1e-6), Window(0, 0, 2, 3))
    array = Raster(np.zeros((2, 3), np.float32), grid, "heat").to_xarray()
    assert array.x.attrs == {"standard_name": "longitude", "units": "degrees_east"}
    assert array.y.attrs == {"standard_name": "latitude", "units": "degrees_north"}


def test_a_large_raster_is_shrunk_before_it_is_coloured() -> None:
    grid = Grid("EPSG:32734", (0, 0), (1, 1), Window(0, 0, 8, 6000))
    values = np.full((8, 6000), 0.5, np.float32)
    values[1, 1] = 1  # not drawn, but the top of the scale
    colors = Raster(values, grid, "heat")._colors()
    assert colors.shape == (3, 2000, 3)
    assert (colors == heat_colors(np.array([[0.5]]))).all()


def test_a_run_without_detections_says_so(city: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(city / "out", tmp_path / "out")
    found = len(read_detections(copy))
    (copy / "detections.parquet").unlink()
    results = Results.open(copy)
    assert f"detections: {found};" in repr(results)
    assert CLASS in results._repr_html_()
    with pytest.raises(OutputError, match=r"holds no detections.parquet; .* capecam finish"):
        _ = results.detections
    record = json.loads((copy / "run.json").read_text())
    record["totals"] = {}
    (copy / "run.json").write_text(json.dumps(record))
    assert "detections: none yet;" in repr(Results.open(copy))


def test_the_network_is_loaded_once(city: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, loaded = Results.open(city / "out"), list[Path]()
    load = run_engine.load_model

    def counted(path: Path, settings: ModelSettings) -> Model:
        loaded.append(path)
        return load(path, settings)

    monkeypatch.setattr(run_engine, "load_model", counted)
    id_ = results.detections["id"][0]
    results.explain(id_)
    results.panel(id_)
    assert len(loaded) == 1


def test_raw_values_and_roots(tmp_path: Path) -> None:
    """Two cells with a gap between them, of a run with levels, and of one with raw values."""
    pixels = blobs(64, 128, seed=3)
    write_tif(tmp_path / "in" / "1.tif", pixels[:, :, :64])
    write_tif(tmp_path / "in" / "2.tif", pixels[:, :, 64:], col=128)
    common = {
        "tiling__size": 64, "tiling__stride": 8, "objects__explain": 0,
        "explain__methods": ["gradcam", "guided_gradcam"],
    }  # fmt: skip
    found = {}
    for dtype in ("uint8", "float32"):
        out = str(tmp_path / dtype)
        settings = quick_settings(tmp_path, explain__heatmap_dtype=dtype, out=out, **common)
        found[dtype] = Results.open(run(settings, model=colours_model()).out)
    for method in ("gradcam", "guided_gradcam"):
        levels, floats = (found[dtype].heatmap(method, CLASS) for dtype in found)
        raw = found["float32"].heatmap(method, CLASS, raw=True)
        np.testing.assert_array_equal(raw, by_cell(found["float32"].out, method, raw))
        assert np.nanmax(raw) > 0
        third = raw.shape[1] // 3
        assert np.isnan(levels.values[:, third : 2 * third]).all(), "no cell is there"
        np.testing.assert_allclose(levels, floats, atol=0.01)
        np.testing.assert_allclose(
            found["uint8"].heatmap(method, CLASS, raw=True), raw, atol=0.01 * np.nanmax(raw)
        )
        assert levels.gamma == (0.5 if method == "guided_gradcam" else 1.0)


def test_notebooks_show_tables_and_pictures(results: Results) -> None:
    model = tiny_model(tiny_network())
    pixels = images(2, 64)
    maps = Engine(model, ["gradcam", "guided_gradcam"])(pixels, torch.ones(2, 64, 64) > 0)
    explained = results.explain(results.detections["id"][0])
    corner = (*results.bounds[:2], -50_990, -3_763_020.8)
    shown = [
        (model, "Model(for tests, classes: background, solar panel", "water heater"),
        (maps, "Maps(tiles: 2 of 64 x 64 px; classes: 3; gradcam 16 x 16, guided", "<img"),
        (explained, f"Explained({explained.id}, {explained.class_name}: ", "<img"),
        (results, "Results(", "<img"),
        (results.heatmap("gradcam", CLASS), "Raster(gradcam, solar panel: 45 x 45", "<img"),
        (results.imagery(corner), "Raster(imagery: 4 x 100 x 125", "<img"),
        (Outcome(Path("out"), {"a<1>": "damaged"}), "Outcome(out; cells: 0 done,", "a&lt;1&gt;"),
    ]
    for result, line, part in shown:
        assert repr(result).startswith(line)
        assert len(repr(result)) < 300
        assert part in result._repr_html_()
        assert "<table" in result._repr_html_()
    panel = results.panel(results.detections["id"][0])
    assert panel._repr_png_().startswith(b"\x89PNG")
    assert repr(panel) == f"Panel(detection {explained.id}; gradcam)"


def test_a_heatmap_is_drawn_over_its_image(results: Results) -> None:
    left, bottom, *_ = results.bounds
    bbox = (left, bottom, left + 16, bottom + 16)
    heat, image = results.heatmap("gradcam", CLASS, bbox), results.imagery(bbox)
    axes = plot_heatmap(heat, image)
    assert axes.get_title() == "gradcam, solar panel"
    extents = [drawn.get_extent() for drawn in axes.images]
    assert extents[1] == pytest.approx([left, left + 16, bottom, bottom + 16])
    assert extents[0] == pytest.approx(extents[1])
    axes = plot_heatmap(torch.rand(8, 8, requires_grad=True), images(1, 64)[0])
    assert [drawn.get_extent() for drawn in axes.images] == [[0, 64, 64, 0]] * 2
    plt.close("all")
    with pytest.raises(UsageError, match=r"heat must be \(h, w\), got \(3, 8, 8\)"):
        plot_heatmap(torch.rand(3, 8, 8))
