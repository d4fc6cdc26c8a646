"""Panels show the maps that were stitched, give their strength, and fit their page."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import matplotlib
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import rasterio
import shapely
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from support.cities import CORNER, GSD, blobs, colours_model, write_tif

from capecam.attribution.engine import Engine
from capecam.attribution.methods import resample
from capecam.detections.object_columns import OBJECT_COLUMNS
from capecam.errors import CheckpointError, OutputError, UsageError
from capecam.grid import Tiling, Window
from capecam.mosaic.aoi import EVERYWHERE, AreaOfInterest
from capecam.pipeline.object_tiles import ExplainedObject
from capecam.pipeline.run_explainer import RunExplainer
from capecam.pipeline.stitching import to_levels
from capecam.run.supervisor import run
from capecam.settings import METHODS, OBJECT_METHODS, ClassSettings
from capecam.settings.loading import load
from capecam.store.run_folder import RunFolder, known_run
from capecam.views.palette import EVIDENCE_COLORS, MARK_CONTRAST, WHITE, contrast, edge
from capecam.views.panels import captions
from capecam.views.panels import figure as figure_module
from capecam.views.panels import panel as panel_module
from capecam.views.panels.detection_lookup import find
from capecam.views.panels.object_map import MapPart, ObjectMap
from capecam.views.panels.page_layout import TEXT, fitting, joined, width_cm, wrapped
from capecam.views.panels.panel import Panel
from capecam.views.panels.panel_data import PanelStyle
from capecam.views.panels.panels import Panels, tile_of
from capecam.views.panels.selection import PanelSelection
from capecam.views.panels.tile_drawing import COLORMAPS, round_down, smooth, stretched
from capecam.views.panels.writing import PanelDestination, write_panels

SIZE = 160
METHOD_LIST = ("gradcam", "gradcampp", "guided_gradcam")
STYLE = PanelStyle()
LAND = shapely.box(-9999, -9999, 9999, 9999)
"""Imagery everywhere."""


def run_images(folder: Path, **options) -> Path:
    """Run a network of known weights on ``folder/images``; return the output folder."""
    out = folder / "out"
    settings = {
        "sources": [str(folder / "images")], "out": str(out), "compute.readers": 0,
        "detections.min_area_m2": 0.0, "explain.calibration_tiles": 4,
        "tiling.size": SIZE, "tiling.overlap": 40, **options,
    }  # fmt: skip
    run(load(None, settings), model=colours_model())
    return out


@pytest.fixture(scope="module")
def city(tmp_path_factory) -> Path:
    """Folder of a run on two images side by side, in overlapping tiles."""
    folder = tmp_path_factory.mktemp("panels")
    write_tif(folder / "images" / "a.tif", blobs(360, 420, seed=5))
    write_tif(folder / "images" / "b.tif", blobs(360, 200, seed=6), col=420)
    run_images(folder)
    return folder


@pytest.fixture
def out(city, tmp_path) -> Path:
    """Copy of the output of that run, to be changed."""
    return Path(shutil.copytree(city / "out", tmp_path / "out"))


@pytest.fixture(scope="module")
def panel(city) -> Panel:
    """Panel of the first detection of the review queue."""
    with Panels.open(city / "out", model=colours_model()) as panels:
        return panels.of_detection(panels.top(1)[0])


# --- Maps -----------------------------------------------------------------------------------------


def stored(out: Path, product: str, window: Window, unit: int = 1) -> np.ndarray:
    """Read a window from a product with pixels of ``unit`` px."""
    with rasterio.open(out / f"{product}.vrt") as dataset:
        rows = (window.row // unit, window.bottom // unit)
        return dataset.read(window=(rows, (window.col // unit, window.right // unit)))


def levels(out: Path, panel: Panel, method: str, tiling: Tiling) -> np.ndarray:
    """Return the map of a method on the city's scale, as a run stores it."""
    heat = torch.from_numpy(panel.heat[method])[None]
    heat = heat if method == "guided_gradcam" else resample(heat, tiling.size // tiling.stride)
    tops = [top or torch.inf for top in panel.scale_max[method]]
    floor = known_run(out).calibration.floor.get(method)
    raised = None if floor is None else torch.tensor([raw or torch.inf for raw in floor])
    return to_levels(heat[0], torch.tensor(tops), raised).numpy()


@pytest.mark.parametrize("score", ["mean", "predicted"])
def test_without_overlap_a_panel_equals_the_rasters(tmp_path: Path, score: str) -> None:
    """Without overlap, each pixel is in one tile only."""
    pixels = blobs(2 * SIZE, 2 * SIZE, seed=7)
    write_tif(tmp_path / "images" / "a.tif", pixels)
    out = run_images(tmp_path, **{"tiling.overlap": 0, "explain.score": score})
    tiling = Tiling(SIZE, 0, 10)
    with Panels.open(out, model=colours_model()) as panels:
        shown = panels.at(CORNER[0] + 200 * GSD, CORNER[1] - 100 * GSD)
    window = shown.grid.window
    assert window == Window(0, SIZE, SIZE, SIZE)
    assert np.array_equal(shown.pixels.transpose(2, 0, 1), pixels[:, :SIZE, SIZE:])
    assert np.array_equal(shown.predicted, stored(out, "classes", window)[0])
    probability = to_levels(torch.from_numpy(shown.probability[1:]), torch.ones(3)).numpy()
    assert np.array_equal(probability, stored(out, "probability", window))
    for method in METHOD_LIST:
        expected = stored(out, method, window, 1 if method == "guided_gradcam" else 10)
        assert expected.max() > 50, "there are values to compare"
        assert np.array_equal(levels(out, shown, method, tiling), expected), method


def test_maps_are_those_of_the_engine_on_a_tile_of_the_run(city, panel) -> None:
    with (
        rasterio.open(city / "images" / "a.tif") as a,
        rasterio.open(city / "images" / "b.tif") as b,
    ):
        whole = np.concatenate([a.read(), b.read()], axis=2)
    window = panel.grid.window
    assert window.row % 120 == window.col % 120 == 0, "on the tile grid"
    pixels, valid = np.zeros((3, SIZE, SIZE), np.uint8), np.zeros((SIZE, SIZE), bool)
    part = whole[:, window.row : window.bottom, window.col : window.right]
    pixels[:, : part.shape[1], : part.shape[2]] = part
    valid[: part.shape[1], : part.shape[2]] = True
    maps = Engine(colours_model(), METHOD_LIST)(
        torch.from_numpy(pixels)[None], torch.from_numpy(valid)[None]
    )
    assert np.array_equal(panel.valid, valid)
    for method in METHOD_LIST:
        assert np.array_equal(panel.heat[method], maps.heat[method][0].numpy()), method
    assert np.array_equal(panel.probability, maps.probability[0].numpy())


# --- Tiles ----------------------------------------------------------------------------------------


def test_the_tile_holds_the_whole_object_near_its_centre() -> None:
    tiling = Tiling(320, 70)
    assert tile_of(shapely.box(400, 400, 420, 420), tiling, EVERYWHERE, LAND).row == 250
    # In the overlap of two tiles: whole in one of them, or nearer to the centre of one.
    assert tile_of(shapely.box(240, 10, 300, 20), tiling, EVERYWHERE, LAND).col == 0
    assert tile_of(shapely.box(260, 10, 330, 20), tiling, EVERYWHERE, LAND).col == 250
    assert tile_of(shapely.box(255, 10, 275, 20), tiling, EVERYWHERE, LAND).col == 0
    assert tile_of(shapely.box(300, 10, 316, 20), tiling, EVERYWHERE, LAND).col == 250
    huge = shapely.box(0, 0, 1000, 30)
    assert tile_of(huge, tiling, EVERYWHERE, LAND).col in (250, 500)


def test_the_tile_is_the_one_with_most_imagery() -> None:
    """At the edge of the city, the tile centred best on an object is nearly empty."""
    tiling, shape = Tiling(320, 70), shapely.box(10, 2, 60, 50)
    assert tile_of(shape, tiling, EVERYWHERE, LAND) == Window(-250, -250, 320, 320)
    corner = shapely.box(0, 0, 5000, 5000)
    assert tile_of(shape, tiling, EVERYWHERE, corner) == Window(0, 0, 320, 320)
    cut = shapely.box(10, 2, 80, 50)
    assert tile_of(cut, tiling, EVERYWHERE, corner).col == 0


@given(
    col=st.integers(0, 400), row=st.integers(0, 400), width=st.integers(1, 330),
    height=st.integers(1, 330),
)  # fmt: skip
def test_an_object_is_whole_in_its_tile_if_it_is_in_any(col, row, width, height) -> None:
    """An object wider than the overlap may be in none, although it is narrower than a tile."""
    tiling, shape = Tiling(320, 70), shapely.box(col, row, col + width, row + height)
    tiles = [tiling.window(i, j).box for i in range(-2, 4) for j in range(-2, 4)]
    chosen = tile_of(shape, tiling, EVERYWHERE, LAND).box
    assert chosen.covers(shape) == any(tile.covers(shape) for tile in tiles)
    most = max(shapely.intersection(shape, tile).area for tile in tiles)
    assert shapely.intersection(shape, chosen).area == most


def test_the_tile_is_one_that_was_processed() -> None:
    tiling, shape = Tiling(320, 70), shapely.box(300, 10, 316, 20)
    only_first = AreaOfInterest((shapely.STRtree([shapely.box(0, 0, 200, 200)]),))
    assert tile_of(shape, tiling, only_first, LAND).col == 0
    elsewhere = AreaOfInterest((shapely.STRtree([shapely.box(5000, 5000, 5001, 5001)]),))
    assert tile_of(shape, tiling, elsewhere, LAND).col == 250


def test_a_place_is_in_its_tile(city) -> None:
    with Panels.open(city / "out", model=colours_model()) as panels:
        for col, row in ((0, 0), (619, 359), (419, 200), (420, 200)):
            x, y = CORNER[0] + (col + 0.5) * GSD, CORNER[1] - (row + 0.5) * GSD
            shown = panels.at(x, y)
            assert shown.grid.window.contains(Window(row, col, 1, 1))
            assert shown.detection is None
            assert shown.lonlat == pytest.approx((18.45, -33.99), abs=0.02)
            assert panels.at(*shown.lonlat).point == pytest.approx((x, y), abs=1e-3)
        for x, y in ((CORNER[0] - 1, CORNER[1] - 1), (CORNER[0] + 50, CORNER[1] - 1)):
            with pytest.raises(
                UsageError, match=r"outside of the imagery, which goes from -51000 t"
            ):
                panels.at(x, y)


def test_a_detection_is_found_in_any_row_group(out) -> None:
    path, grid = out / "detections.parquet", RunFolder.open(out).mosaic.grid
    pq.write_table(pq.read_table(path), path, row_group_size=2)
    for row in gpd.read_parquet(path).to_dict("records"):
        found = find(path, row["id"], grid)
        assert (found.id, found.class_id) == (row["id"], row["class_id"])
        assert found.lonlat == (row["lon"], row["lat"])
        assert shapely.transform(found.outline, grid.to_map).equals_exact(row["geometry"], 1e-6)


# --- Texts ----------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_a_map_under_a_twentieth_of_the_citys_scale_is_faint(panel) -> None:
    """Stretched to full brightness, noise would look as strong as an explanation."""
    method, class_id = "gradcam", panel.detection.class_id
    low, high = panel.extent(method, class_id)

    def scaled(share: float) -> Panel:
        tops = tuple(high / share if k == class_id else None for k in (1, 2, 3))
        return replace(panel, scale_max={**panel.scale_max, method: tops})

    for share, text in ((1.7, "1.70"), (0.5, "0.50"), (0.051, "0.051"), (20.2, "20")):
        assert not scaled(share).is_negligible(method, class_id)
        assert captions.scale(scaled(share), method, class_id)[1:] == (text, "x the city's scale")
    for share, text in ((0.049, "0.049"), (5e-6, "5e-06")):
        weak = scaled(share)
        assert weak.is_negligible(method, class_id)
        assert captions.scale(weak, method, class_id)[1] == text
        assert texts(weak).count("negligible") == texts(panel).count("negligible") + 1
        bright, faint = (np.ptp(picture(each, method), axis=2).max() for each in (panel, weak))
        assert faint < bright / 3, "the tile is grey"
    assert float(captions.scale(scaled(0.5), method, class_id)[0]) == pytest.approx(
        low / high / 2, abs=0.005
    )


def test_a_picture_is_as_bright_as_its_bar_says(panel) -> None:
    """The ends of the bar are the lowest and the highest value where there is imagery."""
    valid = panel.valid.copy()
    valid[:, : SIZE // 2] = False
    heat = np.zeros_like(panel.heat["gradcam"])
    heat[:, 1, 1], heat[:, 1, 4] = 9.0, 3.0
    half = replace(panel, valid=valid, heat={**panel.heat, "gradcam": heat})
    assert half.extent("gradcam", 1) == (0, 3)
    assert replace(half, valid=panel.valid).extent("gradcam", 1) == (0, 9)
    nowhere = replace(half, heat={"gradcam": np.where(heat == 9, heat, 0)})
    assert texts(nowhere).count("empty") == len(nowhere.rows(STYLE)), "there is heat in nodata only"


def test_an_empty_map_says_so(panel) -> None:
    empty = replace(panel, heat={m: np.zeros_like(h) for m, h in panel.heat.items()})
    assert not stretched(empty.heat["gradcam"][0], *empty.extent("gradcam", 1)).any()
    assert texts(empty).count("empty") == len(METHOD_LIST) * len(empty.rows(STYLE))
    without = replace(panel, scale_max=dict.fromkeys(panel.heat, (None,) * 3))
    assert captions.scale(without, "gradcam", panel.detection.class_id)[1:] == (
        "1.00", "x its maximum",
    )  # fmt: skip


def test_title_and_measures_are_those_of_the_detection(city, panel) -> None:
    table = gpd.read_parquet(city / "out" / "detections.parquet")
    row = table.set_index("review").loc[1]
    text = "\n".join(texts(panel))
    for part in (
        row["class"], row["id"], row["evidence"], f"{row['area_m2']:.1f} m²",
        f"confidence {row['confidence']:.2f}", f"{-row['lat']:.6f}° S", f"{row['lon']:.6f}° E",
        "no. 1 in the review queue", f"{row['gradcam_in']:.2f} inside", "the class's mean logit",
    ):  # fmt: skip
        assert part in text, part
    assert "Grad-CAM++" in text
    assert "Guided Grad-CAM" in text


def test_every_name_has_a_text() -> None:
    assert set(captions.TITLES) == set(METHODS)
    assert set(captions.OBJECT_TITLES) == set(OBJECT_METHODS)
    columns = [column for texts in captions.MEASURES.values() for column in texts]
    assert sorted([*columns, "own_peak_m"]) == sorted(OBJECT_COLUMNS)


def test_the_first_row_is_the_class_of_the_detection(panel) -> None:
    own = panel.detection.class_id
    others = [k for k in (1, 2, 3) if k != own]
    predicted = np.zeros_like(panel.predicted)
    nothing = replace(panel, predicted=predicted)
    assert nothing.rows(STYLE) == [own]
    assert sorted(nothing.rows(PanelStyle(all_classes=True))) == [1, 2, 3]
    assert sorted(replace(nothing, detection=None).rows(STYLE)) == [1, 2, 3]
    predicted = predicted.copy()
    predicted[:4, :4], predicted[0, :8] = others[0], others[1]
    assert replace(panel, predicted=predicted).rows(STYLE) == [own, *others]
    many = tuple(ClassSettings(name=str(k), color="#123456") for k in range(9))
    crowd = replace(
        panel, classes=many, probability=np.full((9, SIZE, SIZE), 1 / 9), detection=None
    )
    assert len(replace(crowd, predicted=np.zeros_like(predicted)).rows(STYLE)) == 4


# --- The object's own map -------------------------------------------------------------------------

NUMBERS = {
    "own_share": 0.444, "own_near": 0.817, "own_peak_m": 0.0, "leak": np.nan, "own_drop": 0.931,
    "random_drop": -0.004, "distance_drop": 0.62, "alone": 1.024, "without": 0.035,
}  # fmt: skip


def own_map(word: str = "itself", size: tuple[int, int] = (SIZE, SIZE), **numbers) -> ObjectMap:
    """Return an own map with a peak in its upper left."""
    heat = np.zeros((size[0] // 16, size[1] // 16), np.float32)
    heat[2, 3] = 0.02
    window = Window(20, 30, *size)
    return ObjectMap(
        window=window,
        pixels=np.full((*size, 3), 90, np.uint8),
        valid=np.ones(size, bool),
        parts=(MapPart(window, heat),),
        method="hirescam",
        numbers=NUMBERS | numbers,
        word=word,
    )


def test_the_own_map_comes_with_its_numbers(panel) -> None:
    shown = texts(replace(panel, own=own_map()))
    own = shown.index("Object's own map: HiResCAM")
    assert shown.index("Imagery") < own < shown.index("Grad-CAM")
    for number, meaning in (
        ("0.44", "on the object"), ("0.82", "on it or within 2 m"), ("–", "on others of its class"),
        ("0.93", "the map's top blocks"), ("0.62", "those nearest the object"),
        ("0.00", "as many at random"), ("1.02", "the object and 1 m around"),
        ("0.04", "its surroundings"),
    ):  # fmt: skip
        assert shown[shown.index(meaning) - 1] == number
    assert shown[shown.index("evidence:") - 1] == "itself", "and not the word of the detection"
    assert "highest on the object" in captions.verdict(own_map())
    assert "highest 1.3 m from the object" in captions.verdict(own_map(own_peak_m=1.34))
    assert captions.verdict(own_map("", own_peak_m=np.nan)) == ""


def test_a_place_has_the_prediction_in_place_of_an_own_map(panel) -> None:
    place = replace(panel, detection=None, own=None)
    assert "evidence:" not in texts(place)
    assert texts(place).count("Prediction") == 1
    assert "Prediction" not in texts(panel)


def test_the_own_map_is_that_of_the_run(city, panel) -> None:
    """The numbers are those of the table; and computing them again gives the same."""
    run = RunFolder.open(city / "out")
    target = ExplainedObject(panel.detection.id, panel.detection.class_id, panel.detection.outline)
    explanation = RunExplainer(run, model=colours_model()).explain(target)
    (part,), (shown,) = explanation.parts, panel.own.parts
    assert shown.window == panel.own.window == part.window
    assert np.array_equal(shown.heat, part.heat)
    assert np.array_equal(panel.own.pixels.transpose(2, 0, 1), part.pixels)
    assert np.array_equal(panel.own.valid, part.valid)
    row = panel.detection.row
    assert dict(panel.own.numbers) == {name: row[name] for name in OBJECT_COLUMNS}
    assert panel.own.word == row["evidence"] != ""
    never = replace(panel.detection, row={**row, **dict.fromkeys(OBJECT_COLUMNS, np.nan)})
    again = ObjectMap.of(explanation, never, "hirescam")
    assert again.word == panel.own.word
    assert np.isnan(again.numbers["leak"]), "it depends on the others"
    for name in set(OBJECT_COLUMNS) - {"leak"}:
        assert again.numbers[name] == pytest.approx(row[name], nan_ok=True)


def test_an_object_wider_than_a_tile_is_shown_whole(city, panel) -> None:
    """Its imagery is that of all parts, beside which nothing was explained."""
    run = RunFolder.open(city / "out")
    shape = shapely.unary_union([shapely.box(20, 20, 420, 60), shapely.box(20, 20, 60, 300)])
    explanation = RunExplainer(run, model=colours_model()).explain(ExplainedObject("x", 1, shape))
    own = ObjectMap.of(explanation, panel.detection, "hirescam")
    assert len(own.parts) == len(explanation.parts) > 2
    assert own.window.box.covers(shape)
    assert not own.valid.all()
    for part in explanation.parts:
        at = part.window.slices(own.window)
        assert np.array_equal(own.pixels[at].transpose(2, 0, 1), part.pixels)
        assert own.valid[at].all()
    assert own.extent == (0, max(part.heat.max() for part in explanation.parts))
    drawn = figure_of(replace(panel, own=own))
    whole = [
        a for a in drawn.axes if a.images and a.images[0].get_array().shape[:2] == own.valid.shape
    ]
    assert len(whole) == 2, "imagery and map"


def pictures(figure) -> list:
    """Return the axes that hold a picture, in the order of drawing."""
    return [axes for axes in figure.axes if axes.images]


def test_the_word_and_the_classes_have_the_colours_of_the_palette(panel) -> None:
    """With an edge where white paper needs one."""
    shown = figure_of(replace(panel, own=own_map()))
    squares = {to_hex(axes.patch.get_facecolor()).upper(): axes for axes in shown.axes}
    for color in (EVIDENCE_COLORS[own_map().word], panel.classes[1].color):
        drawn = to_hex(squares[color.upper()].patch.get_edgecolor()).upper()
        assert drawn == edge(color, WHITE).upper()
        assert contrast(drawn, WHITE) >= MARK_CONTRAST


def test_a_guided_own_map_hides_the_imagery(panel) -> None:
    """It is drawn as the guided maps of the tile are."""
    coarse, heat = own_map(), np.zeros((SIZE, SIZE), np.float32)
    heat[40, 50] = 0.02
    fine = replace(coarse, method="guided", parts=(MapPart(coarse.window, heat),))
    assert fine.is_pixelwise
    assert not coarse.is_pixelwise
    colours = pictures(figure_of(replace(panel, own=fine)))[1].images[0].get_array()[..., :3]
    dark = COLORMAPS["inferno"].colours(np.zeros(()))
    assert (np.abs(colours - dark) > 0.01).any(axis=2).sum() == 1, "a single pixel"
    assert "Object's own map: guided gradient" in texts(replace(panel, own=fine))


def test_an_own_map_without_energy_is_empty(panel) -> None:
    own = own_map()
    own.parts[0].heat[:] = 0
    shown = texts(replace(panel, own=own))
    assert shown.count("empty") == texts(panel).count("empty") + 1
    assert captions.own_scale(own) == ("0", "0", "x its maximum")


def test_a_tile_that_cuts_the_object_says_so(panel) -> None:
    """It is wider than the overlap, and no tile of the run holds it whole."""
    window = panel.grid.window
    box = shapely.box(window.col + 60, window.row + 10, window.right + 20, window.row + 30)
    cut = replace(panel, detection=replace(panel.detection, outline=box), own=own_map())
    assert cut.share_in_tile == pytest.approx(100 / 120)
    assert any(text.endswith("it cuts the object and holds 83 % of it") for text in texts(cut))
    most = shapely.box(window.col, window.row, window.right + 0.1, window.bottom)
    almost = replace(panel, detection=replace(panel.detection, outline=most))
    assert captions.tile(almost).endswith("holds 99 % of it")
    whole = replace(panel, detection=replace(panel.detection, outline=window.box), own=own_map())
    assert not any("cuts" in text for text in texts(whole))


# --- Page -----------------------------------------------------------------------------------------


def figure_of(panel: Panel, style: PanelStyle = STYLE) -> Figure:
    return figure_module.draw_panel(panel, style).figure


def picture(panel: Panel, method: str) -> np.ndarray:
    """Return the colours of the first map of a method."""
    figure = figure_of(panel)
    pictures = [axes for axes in figure.axes if axes.images]
    pictures = [axes for axes in pictures if axes.images[0].get_array().shape[0] > 1]  # no bars
    return pictures[3 + list(panel.heat).index(method)].images[0].get_array()[..., :3]


def texts(panel: Panel) -> list[str]:
    figure = figure_of(panel)
    inside = [text.get_text() for axes in figure.axes for text in axes.texts]
    return [text.get_text() for text in figure.texts] + inside


LONG = (
    "photovoltaic panel on a pitched roof with more than three rows and an inverter",
    "Warmwasserbereitungskollektorenanlagenüberwachungseinrichtung_westnordwest",
    "$x_1$ & <b>",
)


def stressed(panel: Panel, methods: int) -> Panel:
    """Return a panel with long names, several images, and a number of methods."""
    classes = [panel.classes[0]]
    classes += [
        ClassSettings(name=n, color=c.color) for n, c in zip(LONG, panel.classes[1:], strict=True)
    ]
    row = {**panel.detection.row, "class": LONG[0]}
    chosen = METHODS[:methods] if methods < 8 else METHODS
    heat = {m: panel.heat["guided_gradcam" if "guided" in m else "gradcam"] for m in chosen}
    return replace(
        panel,
        classes=tuple(classes),
        detection=replace(panel.detection, row=row),
        images=tuple(f"2023_RGB_8cm_W57B_{n}_and_more" for n in range(5)),
        heat=heat,
        scale_max=dict.fromkeys(heat, panel.scale_max["gradcam"]),
    )


@pytest.mark.parametrize(
    "own",
    [
        None,
        own_map("unproven", own_peak_m=11.5),
        own_map(size=(160, 480)),
        own_map(size=(480, 160)),
    ],
)
@pytest.mark.parametrize(
    "methods", [1, 3, 8, *(pytest.param(n, marks=pytest.mark.thorough) for n in (4, 5))]
)
@matplotlib.rc_context(TEXT)
def test_nothing_is_clipped_and_nothing_overlaps(panel, methods: int, own) -> None:
    full = replace(stressed(panel, methods), own=own)
    figure = figure_of(full, PanelStyle(all_classes=True))
    width, height = FigureCanvasAgg(figure).get_width_height()
    boxes = [
        (text.get_text(), shapely.box(*text.get_window_extent().extents)) for text in figure.texts
    ]
    boxes += [("map", shapely.box(*axes.get_window_extent().extents)) for axes in figure.axes]
    page = shapely.box(0, 0, width, height)
    tree = shapely.STRtree([box for _, box in boxes])
    for n, (name, box) in enumerate(boxes):
        assert page.covers(box), name
        for other in tree.query(box):
            if other > n:  # boxes of letters may touch
                assert box.intersection(boxes[other][1]).area < 4, (name, boxes[other][0])
    assert 17.9 < figure.get_figwidth() * 2.54 < 24.1
    shown = {axes.bbox.width for axes in figure.axes}
    assert max(shown) / figure.dpi * 2.54 > 3.4, "maps are large enough to be read"


def test_a_tile_has_the_shape_of_the_ground(panel) -> None:
    """In degrees a pixel is narrower than high."""
    figure = figure_of(replace(panel, pixel_m=(0.06, 0.08)))
    box = pictures(figure)[1].get_window_extent()
    assert box.height / box.width == pytest.approx(8 / 6, rel=0.01)
    assert any(
        t.startswith("9.6 x 12.8 m, col") for t in texts(replace(panel, pixel_m=(0.06, 0.08)))
    )


def test_nodata_is_shown_as_such(panel) -> None:
    valid = panel.valid.copy()
    valid[:, :50] = False
    for axes in figure_of(replace(panel, valid=valid, own=None)).axes:
        if axes.images and axes.images[0].get_array().shape[:2] == valid.shape:
            assert axes.patch.get_hatch(), "where the image is transparent"
            assert np.array_equal(axes.images[0].get_array()[..., 3] > 0, valid)


def test_scale_bars_are_round() -> None:
    assert [round_down(x) for x in (9, 5, 4.9, 1.99, 0.31, 250)] == pytest.approx(
        [5, 5, 2, 1, 0.2, 200]
    )


def test_text_is_measured_and_broken() -> None:
    assert width_cm("mm", 10) == pytest.approx(2 * width_cm("m", 10), rel=0.02)
    assert width_cm("solar panel", 8, "bold") > width_cm("solar panel", 8)
    lines = wrapped("one two three", width_cm("one two", 8) * 1.01, 8)
    assert lines == ["one two", "three"]
    assert "".join(wrapped("x" * 50, 2.0, 8)) == "x" * 50
    assert all(width_cm(line, 8) <= 2.0 for line in wrapped("x" * 50, 2.0, 8))
    assert joined(["a b", "c d"], width_cm("a b", 8) * 1.1, 8) == ["a b", "c d"]
    assert fitting("a long line", 1.0, 8) < 8
    assert fitting("a", 9.0, 8) == 8


def test_heat_hides_the_tile_and_no_heat_does_not() -> None:
    tile = np.full((1, 2, 3), 0.8)
    cold, hot = COLORMAPS["inferno"].picture(np.array([[0.0, 1.0]]), tile)[0]
    assert np.ptp(cold) < 1e-12, "grey"
    assert hot[0] > 0.8 > hot[2], "the bright end is yellow"
    jet = COLORMAPS["jet"].picture(np.array([[0.0, 1.0]]), tile)[0]
    assert jet[0].argmax() == 2, "blue over the tile, as in the original figures"
    assert jet[1].argmax() == 0


def test_pictures_are_smooth_and_stay_in_range() -> None:
    rng = np.random.default_rng(0)
    samples = rng.random((10, 7)).astype(np.float32)
    large = smooth(samples, (330, 77))
    at_samples = large[16::33, 5::11]
    assert at_samples == pytest.approx(samples, abs=1e-6), "it passes through the samples"
    assert samples.min() <= large.min() <= large.max() <= samples.max()
    assert smooth(np.full((3, 3), 2.0), (9, 9)) == pytest.approx(2.0)
    assert smooth(samples, samples.shape) == pytest.approx(samples)
    # A bilinear ramp has corners at samples: a jump of the slope; a smooth one has none.
    peak = np.zeros((10, 10))
    peak[5, 5] = 1
    steps = np.diff(smooth(peak, (330, 330))[5 * 33 + 16], n=2)
    bilinear = np.diff(resample(torch.from_numpy(peak), 330)[5 * 33 + 16].numpy(), n=2)
    assert np.abs(steps).max() < np.abs(bilinear).max() / 3


# --- Files ----------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_a_panel_is_written_for_print_and_for_the_screen(panel, tmp_path) -> None:
    own = np.where(panel.predicted == panel.detection.class_id, panel.predicted, 0)
    panel = replace(
        panel, predicted=own, heat={"gradcam": panel.heat["gradcam"]}
    )  # one row of three
    png = panel.save(tmp_path / "p.png")
    with Image.open(png) as image:
        assert image.width == pytest.approx(18 / 2.54 * 300, abs=2)
        assert image.info["dpi"][0] == pytest.approx(300, abs=0.1)
    pdf = panel.save(tmp_path / "p.PDF").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"/FontFile2" in pdf, "TrueType: its text is text"
    assert b"/CreationDate" not in pdf
    assert panel.encoded("png", 300) == panel.encoded("png", 300)
    for kind in ("webp", "jpeg"):
        with Image.open(io.BytesIO(panel.encoded(kind, 700))) as image:
            assert (image.format, image.width) == (kind.upper(), pytest.approx(700, abs=1))
    with pytest.raises(OutputError, match="a panel is png or pdf"):
        panel.save(tmp_path / "p.jpg")
    with pytest.raises(OutputError, match="there is no folder"):
        panel.save(tmp_path / "none" / "p.png")
    assert {path.name for path in tmp_path.iterdir()} == {"p.png", "p.PDF"}


# --- Selection and destination --------------------------------------------------------------------


def test_exactly_one_option_selects() -> None:
    assert PanelSelection.parse(["a, b", "c"], [], None).detections == ("a", "b", "c")
    assert PanelSelection.parse([], ["-1.5,2"], None).places == ((-1.5, 2.0),)
    for options in (([], [], None), (["a"], [], 1), (["a"], ["1,2"], None)):
        with pytest.raises(UsageError, match="one of --detection ID, --at LON,LAT and --top N"):
            PanelSelection.parse(*options)
    for point in ("1", "1,x", "1,2,3", "nan,1"):
        with pytest.raises(UsageError, match="must be LON,LAT"):
            PanelSelection.parse([], [point], None)


def test_the_destination_follows_from_the_options(tmp_path) -> None:
    assert PanelDestination.parse(tmp_path, None, None) == PanelDestination(
        tmp_path / "panels", "png"
    )
    assert PanelDestination.parse(tmp_path, tmp_path / "a.pdf", None) == PanelDestination(
        tmp_path / "a.pdf", "pdf"
    )
    assert PanelDestination.parse(tmp_path, tmp_path / "a", "pdf") == PanelDestination(
        tmp_path / "a", "pdf"
    )
    with pytest.raises(UsageError, match="is no png; leave out --format"):
        PanelDestination.parse(tmp_path, tmp_path / "a.pdf", "png")
    with pytest.raises(UsageError, match="a panel is png or pdf"):
        PanelDestination.parse(tmp_path, tmp_path / "a.jpg", None)


def test_the_first_of_the_queue_are_written(out, monkeypatch) -> None:
    model = colours_model()
    monkeypatch.setattr("capecam.views.panels.panels.load_run_model", lambda _run, _given: model)
    monkeypatch.setattr(panel_module, "DPI", 50)
    reported: list[Path] = []
    destination = PanelDestination.parse(out, None, None)
    written = write_panels(
        out, PanelSelection(top=2), destination, PanelStyle(), on_written=reported.append
    )
    table = pd.read_parquet(out / "detections.parquet").sort_values("review")
    assert written.paths == reported == [out / "panels" / f"{id_}.png" for id_ in table["id"][:2]]
    assert all(path.exists() for path in reported)
    assert written.exit_code == 0
    with pytest.raises(UsageError, match="is one file for 2 panels"):
        write_panels(out, PanelSelection(top=2), PanelDestination(out / "a.png", "png"), STYLE)


# --- Errors ---------------------------------------------------------------------------------------


def test_messages_name_what_is_missing(out, tmp_path) -> None:
    model = colours_model()
    with pytest.raises(OutputError, match=r"holds no run\.json"), Panels.open(tmp_path / "x"):
        pass
    ids = pd.read_parquet(out / "detections.parquet")["id"].tolist()
    with Panels.open(out, model=model) as panels:
        class_id, col, row = ids[0].split("_")
        with pytest.raises(UsageError, match=f"the nearest are {ids[0]}, "):
            panels.of_detection(f"{class_id}_{int(col) + 1}_{row}")
        with pytest.raises(UsageError, match="an id is CLASS_COLUMN_ROW, such as"):
            panels.of_detection("panel")
    with (
        Panels.open(out, model=replace(model, sha256="1" * 64)) as panels,
        pytest.raises(CheckpointError, match=r"is not the checkpoint of the run.*1111.*0000"),
    ):
        panels.of_detection(ids[0])
    gpd.read_parquet(out / "detections.parquet")[:0].to_parquet(out / "detections.parquet")
    with Panels.open(out, model=model) as panels:
        with pytest.raises(UsageError, match="holds no detection"):
            panels.top(1)
        (out / "detections.parquet").unlink()
        with pytest.raises(UsageError, match="make it with capecam finish"):
            panels.of_detection(ids[0])


def test_images_that_are_gone_or_have_changed_are_named(out, city) -> None:
    table = gpd.read_parquet(out / "detections.parquet")
    id_ = str(table[table["images"] == "b"]["id"].iloc[0])
    image, whole = city / "images" / "b.tif", (city / "images" / "b.tif").read_bytes()
    try:
        write_tif(image, blobs(360, 200, seed=9), col=420)
        with (
            Panels.open(out, model=colours_model()) as panels,
            pytest.raises(UsageError, match=r"b\.tif: has changed since the run"),
        ):
            panels.of_detection(id_)
        image.unlink()
        with (
            Panels.open(out, model=colours_model()) as panels,
            pytest.raises(UsageError, match="gone or cannot be used: b;"),
        ):
            panels.of_detection(id_)
        with Panels.open(out, model=colours_model()) as panels:
            assert panels.at(CORNER[0] + 60 * GSD, CORNER[1] - 60 * GSD).valid.all(), "far from b"
            with pytest.raises(UsageError, match=r"images beside a are gone.*: b; bring them back"):
                panels.at(CORNER[0] + 400 * GSD, CORNER[1] - 60 * GSD)
    finally:
        image.write_bytes(whole)


def test_a_run_opens_from_any_directory(city, tmp_path, monkeypatch) -> None:
    """Relative paths are resolved from the folder of the run, also after everything was moved."""
    moved = Path(shutil.copytree(city, tmp_path / "elsewhere"))
    record = json.loads((moved / "out" / "run.json").read_text())
    record["settings"] |= {"sources": ["demo/images"], "out": "demo/out", "checkpoint": None}
    (moved / "out" / "run.json").write_text(json.dumps(record))
    for folder in (tmp_path, moved, Path("/")):
        monkeypatch.chdir(folder)
        found = RunFolder.open(moved / "out").mosaic.sources
        assert {source.header.path.resolve().parent for source in found} == {moved / "images"}
    record["settings"] |= {"sources": [f"../{moved.name}/images"], "out": "out"}
    (moved / "out" / "run.json").write_text(json.dumps(record))
    assert RunFolder.open(moved / "out").mosaic.sources, "also from the root, which has no parent"
