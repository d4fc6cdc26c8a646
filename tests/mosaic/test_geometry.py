"""Orientation, CRS and resolution of images. Oracle: a scene draw_scene in map coordinates."""

from __future__ import annotations

from math import sqrt
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine, from_origin
from support.cities import CORNER, CRS, GSD, blobs, write_tif

from capecam.detections.measurement import pixel_area_m2
from capecam.errors import ImageError, SettingsError, UsageError
from capecam.grid import Tiling, Window
from capecam.imagery.crs import crs_key
from capecam.imagery.header_reader import read_header
from capecam.mosaic.city import open_city
from capecam.mosaic.diagnostics import summarize_diagnostics
from capecam.mosaic.reader import Reader
from capecam.settings import ImagerySettings, ModelSettings, MosaicSettings, Settings
from capecam.settings.loading import load

WARP = MosaicSettings(align="warp")


def scene(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return (3, ...) uint8 at map coordinates in metres; waves of 4 to 7 m."""
    x, y = x - CORNER[0], y - CORNER[1]
    bands = np.sin(x * 1.5 + y * 0.3), np.cos(y * 1.1 - x * 0.2), np.sin((x + y) * 0.9)
    return np.rint(128 + 100 * np.array(bands)).astype(np.uint8)


def draw_scene(t: Affine, height: int, width: int, to_scene=lambda x, y: (x, y)) -> np.ndarray:
    """Return (3, height, width) of the scene at the pixel centres of a transform."""
    rows, cols = np.mgrid[:height, :width] + 0.5
    x, y = t.a * cols + t.b * rows + t.c, t.d * cols + t.e * rows + t.f
    return scene(*to_scene(x, y))


def not_north_up(kind: str, col: int = 0, row: int = 0, degrees: float = 25.0) -> Affine:
    """Return a transform, not north-up, of a file of 300 x 400 px (height x width)."""
    x, y = CORNER[0] + col * GSD, CORNER[1] - row * GSD
    if kind == "south-up":
        return Affine(GSD, 0, x, 0, GSD, y - 300 * GSD)
    if kind == "mirrored":
        return Affine(-GSD, 0, x + 400 * GSD, 0, -GSD, y)
    c, s = np.cos(np.radians(degrees)) * GSD, np.sin(np.radians(degrees)) * GSD
    if kind == "sheared":
        return Affine(GSD, 0.3 * GSD, x, 0, -GSD, y)
    return Affine(c, s, x, s, -c, y)


def read(mosaic, window=None):
    with Reader(mosaic) as reader:
        return reader.read(window or mosaic.grid.window)


def source(city, name):
    return next(s for s in city.mosaic.sources if s.name == name)


@pytest.mark.parametrize("kind", ["south-up", "mirrored"])
def test_a_flipped_image_on_the_lattice_is_exact(tmp_path: Path, kind: str) -> None:
    pixels = blobs(300, 400)
    flipped = pixels[:, ::-1] if kind == "south-up" else pixels[:, :, ::-1]
    write_tif(tmp_path / "a.tif", flipped, transform=not_north_up(kind))
    write_tif(tmp_path / "b.tif", blobs(300, 50), 400)
    city = open_city([str(tmp_path)], CORNER, WARP)
    assert source(city, "a").window == Window(0, 0, 300, 400)
    found, valid = read(city.mosaic, Window(0, 0, 300, 400))
    assert valid.all()
    assert np.array_equal(found, pixels)


@pytest.mark.parametrize("kind", ["rotated", "sheared"])
def test_a_turned_image_comes_straight(tmp_path: Path, kind: str) -> None:
    t = not_north_up(kind)
    write_tif(tmp_path / "a.tif", draw_scene(t, 300, 400), transform=t)
    write_tif(tmp_path / "b.tif", blobs(50, 50), -50, -50)
    city = open_city([str(tmp_path)], None, WARP)
    window = source(city, "a").window
    found, valid = read(city.mosaic, window)
    grid = city.mosaic.grid.crop(window)
    rows, cols = np.mgrid[: window.height, : window.width] + 0.5
    own_cols, own_rows = ~t @ (grid.transform @ (cols, rows))
    inside = (own_cols > 0) & (own_cols < 400) & (own_rows > 0) & (own_rows < 300)
    assert (valid != inside).mean() < 1e-4  # a centre on the edge
    core = valid & (abs(own_cols - 200) < 199) & (abs(own_rows - 150) < 149)
    off = abs(found.astype(int) - draw_scene(grid.transform, *window.shape))[:, core]
    assert off.max() <= 3
    assert off.mean() < 0.3


@pytest.mark.parametrize("kind", ["south-up", "mirrored", "rotated", "sheared", "gcps"])
def test_without_warp_it_is_refused_with_the_cure(tmp_path: Path, kind: str) -> None:
    if kind == "gcps":
        with_points(tmp_path / "a.tif", not_north_up("rotated"))
    else:
        write_tif(tmp_path / "a.tif", blobs(300, 400), transform=not_north_up(kind))
    with pytest.raises(UsageError, match=r"a\.tif: is .* with --align warp, or with gdalwarp"):
        open_city([str(tmp_path)], None)
    write_tif(tmp_path / "b.tif", blobs(50, 50))
    assert set(open_city([str(tmp_path)], None).failures) == {"a"}


def with_points(path: Path, t: Affine, count: int = 9, **options) -> Path:
    """Write a file without a transform, with ground control points on a grid of 3 x 3."""
    where = [(c, r) for r in (0, 150, 300) for c in (0, 200, 400)][:count]
    points = [GroundControlPoint(r, c, *(t @ (c, r))) for c, r in where]
    write_tif(path, draw_scene(t, 300, 400), transform=Affine.identity(), crs=None)
    with rasterio.open(path, "r+") as dataset:
        dataset.gcps = points, rasterio.CRS.from_user_input(options.get("crs", CRS))
    return path


def test_points_place_an_image_as_its_transform_would(tmp_path: Path) -> None:
    t = not_north_up("rotated", degrees=10)
    with_points(tmp_path / "a.tif", t)
    write_tif(tmp_path / "b.tif", blobs(50, 50), -50, -50)
    city = open_city([str(tmp_path)], None, WARP)
    window = source(city, "a").window
    found, valid = read(city.mosaic, window)
    rows, cols = np.mgrid[: window.height, : window.width] + 0.5
    own_cols, own_rows = ~t @ (city.mosaic.grid.crop(window).transform @ (cols, rows))
    core = (abs(own_cols - 200) < 199) & (abs(own_rows - 150) < 149)
    assert valid[core].all()
    expected = draw_scene(city.mosaic.grid.crop(window).transform, *window.shape)
    off = abs(found.astype(int) - expected)[:, core]
    assert off.max() <= 3
    assert off.mean() < 0.3


@pytest.mark.parametrize("count", [2, 3])
def test_points_that_do_not_span_a_plane_are_refused(tmp_path: Path, count: int) -> None:
    with_points(tmp_path / "a.tif", not_north_up("rotated"), count=count)  # all in the first row
    with pytest.raises(UsageError, match=f"{count} ground control points do not define"):
        open_city([str(tmp_path)], None, WARP)


def test_points_that_are_off_a_plane_are_refused(tmp_path: Path) -> None:
    with_points(tmp_path / "a.tif", not_north_up("rotated"))
    with rasterio.open(tmp_path / "a.tif", "r+") as dataset:
        points, crs = dataset.gcps
        points[4].x += 10 * GSD
        dataset.gcps = points, crs
    with pytest.raises(UsageError, match=r"are up to 8\.9 px off a plane"):
        open_city([str(tmp_path)], None, WARP)


def test_a_world_file_places_an_image(tmp_path: Path) -> None:
    profile = {"driver": "GTiff", "width": 40, "height": 30, "count": 3, "dtype": "uint8"}
    with rasterio.open(tmp_path / "a.tif", "w", **profile) as dataset:
        dataset.write(blobs(30, 40))
    x, y = CORNER[0] + GSD / 2, CORNER[1] - GSD / 2  # of a pixel's centre
    (tmp_path / "a.tfw").write_text("\n".join(map(str, (GSD, 0, 0, -GSD, x, y))))
    imagery = ImagerySettings(crs=CRS)
    grid = open_city([str(tmp_path / "a.tif")], None, imagery=imagery).mosaic.grid
    assert grid.anchor == pytest.approx(CORNER)


def test_a_straight_image_has_the_say_over_many_turned_ones(tmp_path: Path) -> None:
    for n in range(3):
        t = not_north_up("rotated", 500 * n)
        write_tif(tmp_path / f"{n}.tif", draw_scene(t, 300, 400), transform=t)
    write_tif(tmp_path / "straight.tif", blobs(50, 60), 7, 1000)
    city = open_city([str(tmp_path)], None, WARP)
    assert not source(city, "straight").warped
    assert source(city, "straight").shift_px == (0, 0)
    assert all(source(city, str(n)).warped for n in range(3))
    alone = open_city([str(tmp_path / "0.tif")], None, WARP).mosaic
    assert alone.grid.pixel == (GSD, GSD)
    assert 0.3 < read(alone)[1].mean() < 0.7


def test_a_skew_that_is_a_rounding_error_is_none(tmp_path: Path) -> None:
    t = from_origin(*CORNER, GSD, GSD)
    write_tif(tmp_path / "a.tif", blobs(30, 40), transform=Affine(t.a, 1e-9, t.c, -1e-9, t.e, t.f))
    assert read_header(tmp_path / "a.tif").placement.orientation == "north-up"


@pytest.mark.parametrize(
    ("transform", "crs", "message"),
    [
        (Affine.identity(), CRS, "has no georeference .*; deliver its world file"),
        (Affine.identity(), None, "has no georeference .*; deliver its world file"),
        (Affine(0, 0, 5, 0, -1, 5), CRS, "do not define its position"),
        (Affine(2, 2, 5, 1, 1, 5), CRS, "no pixels that have a size"),
        (Affine(np.nan, 0, 5, 0, -1, 5), CRS, "no pixels that have a size"),
        (Affine(1, 0, np.inf, 0, -1, 5), CRS, "no pixels that have a size"),
        (Affine(1e-9, 0, 3e6, 0, -1e-9, 5), CRS, "no two can be told apart"),
        (Affine(0.08, 0, 260_000, 0, -0.08, 6e6), "EPSG:4326", "cannot be degrees"),
        (Affine(1e-6, 0, 18.4, 0, -1e-6, -34), "EPSG:32734", "degrees, it seems"),
        (from_origin(*CORNER, GSD, GSD), "EPSG:4978", "neither projected nor geographic"),
    ],
)
def test_what_lies_nowhere_is_refused(tmp_path: Path, transform, crs, message: str) -> None:
    write_tif(tmp_path / "a.tif", blobs(30, 40), transform=transform, crs=crs)
    for align in ("snap", "warp"):
        with pytest.raises(UsageError, match=message):
            open_city([str(tmp_path)], None, MosaicSettings(align=align), ImagerySettings(crs=CRS))


BODIES = {
    "IAU_2015:49910": "Mars, projected", "IAU_2015:49900": "Mars", "IAU_2015:30110": "Moon",
    "IAU_2015:50200": "Europa", "ESRI:104905": "Mars, an ellipsoid", "IAU_2015:29900": "Venus",
    "+proj=eqc +R=1737400": "no name", "+proj=stere +lat_0=90 +R=2440530": "Mercury",
    "+proj=ob_tran +o_proj=longlat +o_lon_p=0 +o_lat_p=40 +lon_0=10 +R=3396190": "derived",
}  # fmt: skip


@pytest.mark.parametrize("crs", BODIES)
def test_other_celestial_bodies_are_refused(tmp_path: Path, crs: str) -> None:
    wkt = rasterio.CRS.from_user_input(crs).wkt
    write_tif(tmp_path / "a.tif", blobs(30, 40), crs=wkt, transform=from_origin(5, 5, 1e-3, 1e-3))
    with pytest.raises(ImageError, match=r"a\.tif: .* is of another celestial body"):
        read_header(tmp_path / "a.tif")
    write_tif(tmp_path / "b.tif", blobs(30, 40), crs=None)
    with pytest.raises(SettingsError, match=r"--crs .* is of another celestial body"):
        open_city([str(tmp_path / "b.tif")], None, imagery=ImagerySettings(crs=wkt))


@pytest.mark.parametrize("crs", ["EPSG:3857", "+proj=eqc +R=6371000", "ESRI:53009"])
def test_spheres_of_the_earths_size_are_read(tmp_path: Path, crs: str) -> None:
    write_tif(tmp_path / "a.tif", blobs(30, 40), crs=crs)
    assert read_header(tmp_path / "a.tif").crs


@pytest.mark.parametrize("none", [None, 'LOCAL_CS["site",UNIT["metre",1]]'])
def test_a_crs_is_assigned_to_images_that_say_none(tmp_path: Path, none: str | None) -> None:
    write_tif(tmp_path / "a.tif", blobs(30, 40), crs=none)
    write_tif(tmp_path / "b.tif", blobs(30, 40), 40, crs="EPSG:32734")
    city = open_city([str(tmp_path)], None)
    assert "--crs" in city.failures["a"]
    assert "gdal_edit.py -a_srs" in city.failures["a"]
    city = open_city([str(tmp_path / "a.tif")], None, imagery=ImagerySettings(crs=CRS))
    assert crs_key(city.mosaic.grid.crs) == crs_key(pyproj.CRS(CRS).to_wkt())
    city = open_city([str(tmp_path)], None, imagery=ImagerySettings(crs="EPSG:32734"))
    assert len(city.mosaic.sources) == 2
    city = open_city([str(tmp_path)], None, imagery=ImagerySettings(crs=CRS))
    assert len(city.failures) == 1, "b keeps its own"


@pytest.mark.parametrize("crs", ["EPSG:99999", "lo19", "", "EPSG:5773", "EPSG:4978"])
def test_a_bad_crs_setting_is_named(tmp_path: Path, capfd, crs: str) -> None:
    write_tif(tmp_path / "a.tif", blobs(30, 40))
    with pytest.raises(SettingsError, match=f"--crs .imagery.crs.: '{crs}' is no projected"):
        open_city([str(tmp_path)], None, imagery=ImagerySettings(crs=crs))
    assert not "".join(capfd.readouterr())


def test_heights_are_left_out_of_a_crs(tmp_path: Path) -> None:
    write_tif(tmp_path / "a.tif", blobs(30, 40), crs="EPSG:32734+5773")
    write_tif(tmp_path / "b.tif", blobs(30, 40), 40, crs="EPSG:32734")
    city = open_city([str(tmp_path)], None)
    assert len(city.mosaic.sources) == 2
    assert len(pyproj.CRS.from_wkt(city.mosaic.grid.crs).axis_info) == 2


def test_datums_and_axes_keep_grids_apart() -> None:
    def key(crs: str) -> str:
        return crs_key(pyproj.CRS(crs).to_wkt())

    assert key("EPSG:26718") != key("EPSG:26918")  # NAD27 and NAD83: 200 m
    assert key("EPSG:2048") != key("ESRI:102562")
    assert key("EPSG:2263") != key("EPSG:32118")  # feet and metres


PLACES = {
    "EPSG:4326": (18.42, -33.92, 8.6e-7, 7.2e-7),
    "EPSG:3857": (2_050_512.0, -4_016_112.0, 0.096, 0.096),
    "EPSG:2263": (980_000.0, 200_000.0, 0.25, 0.25),
    "EPSG:32734": (264_000.0, 6_235_000.0, 0.1, 0.05),
}
"""Degrees, a projection that is far from true to scale, US survey feet, and oblong pixels."""


@pytest.mark.parametrize("crs", PLACES)
def test_areas_are_on_the_ground(tmp_path: Path, crs: str) -> None:
    """Oracle: an equal-area projection centred on the image."""
    x, y, dx, dy = PLACES[crs]
    write_tif(tmp_path / "a.tif", blobs(40, 60), crs=crs, transform=from_origin(x, y, dx, dy))
    grid = open_city([str(tmp_path)], None).mosaic.grid
    parsed = pyproj.CRS.from_wkt(grid.crs)
    lon, lat = pyproj.Transformer.from_crs(parsed, 4326, always_xy=True).transform(x, y)
    equal = pyproj.CRS(f"+proj=laea +lat_0={lat} +lon_0={lon} +ellps=WGS84")
    there = pyproj.Transformer.from_crs(parsed, equal, always_xy=True)
    east, north = there.transform([x, x + 60 * dx, x], [y, y, y - 40 * dy])
    across, down = np.hypot(east[1], north[1]), np.hypot(east[2], north[2])
    points = np.array([[30.0, 20.0]])
    assert pixel_area_m2(grid, points)[0] == pytest.approx(across * down / 2400, rel=2e-3)
    assert read_header(tmp_path / "a.tif").placement.ground_m == pytest.approx(
        (across / 60, down / 40), rel=2e-3
    )


@pytest.mark.parametrize("crs", PLACES)
def test_the_models_resolution_makes_squares_on_the_ground(tmp_path: Path, crs: str) -> None:
    x, y, dx, dy = PLACES[crs]
    write_tif(tmp_path / "a.tif", blobs(400, 600), crs=crs, transform=from_origin(x, y, dx, dy))
    city = open_city([str(tmp_path)], None, gsd_m=0.08)
    grid, (width, height) = city.mosaic.grid, read_header(tmp_path / "a.tif").placement.ground_m
    assert pixel_area_m2(grid, np.array([[5.0, 5.0]]))[0] == pytest.approx(0.0064, rel=0.01)
    window = city.mosaic.sources[0].window
    assert window.width == pytest.approx(600 * width / 0.08, rel=0.01)
    assert window.height == pytest.approx(400 * height / 0.08, rel=0.01)
    assert read(city.mosaic)[1][2:-2, 2:-2].all()


def test_images_of_the_models_resolution_stay_as_they_are(tmp_path: Path) -> None:
    write_tif(tmp_path / "a.tif", blobs(50, 60), shift_px=(0.25, 0))
    coarse = from_origin(CORNER[0] + 10, CORNER[1], 0.15, 0.15)
    for name in "bc":
        write_tif(tmp_path / f"{name}.tif", blobs(50, 60), transform=coarse)
    city = open_city([str(tmp_path)], None, gsd_m=GSD)
    assert [s.name for s in city.mosaic.sources if not s.warped] == ["a"]
    assert source(city, "a").shift_px == (0, 0)
    assert not city.failures
    with pytest.raises(SettingsError, match=r"needs model\.gsd_m"):
        _ = Settings(mosaic=MosaicSettings(gsd="model")).target_gsd_m
    model = ModelSettings(gsd_m=0.08)
    assert Settings(mosaic=MosaicSettings(gsd="model"), model=model).target_gsd_m == 0.08
    assert Settings(model=model).target_gsd_m is None


@pytest.mark.parametrize(("size", "crs"), [(0.05, CRS), (0.15, CRS), (0.05, "EPSG:32734")])
def test_what_is_resampled_does_not_depend_on_what_is_read(
    tmp_path: Path, size: float, crs: str
) -> None:
    x, y = pyproj.Transformer.from_crs(CRS, crs, always_xy=True).transform(*CORNER)
    noise = np.random.default_rng(0).integers(0, 255, (3, 1300, 1500)).astype(np.uint8)
    write_tif(tmp_path / "a.tif", noise, crs=crs, transform=from_origin(x, y, size, size))
    write_tif(tmp_path / "b.tif", blobs(50, 50), -50, -50)
    city = open_city([str(tmp_path)], None, WARP, gsd_m=GSD)
    window = source(city, "a").window
    whole, whole_valid = read(city.mosaic, window)
    for part in Tiling(211, 0, 1).parts(window, 422):
        found, valid = read(city.mosaic, part[2])
        place = part[2].slices(window)
        assert np.array_equal(found, whole[:, *place])
        assert np.array_equal(valid, whole_valid[place])


def test_what_becomes_coarser_is_averaged(tmp_path: Path) -> None:
    """A chessboard of 5 cm at 15 cm is grey; without a wider kernel it would be black and white."""
    board = np.indices((600, 600)).sum(axis=0) % 2 * 255
    fine = from_origin(*CORNER, 0.05, 0.05)
    write_tif(tmp_path / "a.tif", np.stack([board] * 3).astype(np.uint8), transform=fine)
    found, valid = read(open_city([str(tmp_path)], None, gsd_m=0.15).mosaic)
    assert found.shape == (3, 200, 200)
    assert valid.all()
    assert abs(found[:, 2:-2, 2:-2].astype(int) - 127).max() < 20


@pytest.mark.parametrize("dtype", ["uint8"])
@pytest.mark.parametrize("kind", ["mask", "nodata"])
def test_what_is_not_valid_stays_so(tmp_path: Path, kind: str, dtype: str) -> None:
    t = not_north_up("rotated")
    pixels = np.maximum(draw_scene(t, 300, 400), 1).astype(dtype)
    hole = np.zeros((300, 400), bool)
    hole[100:200, 50:300] = True
    pixels[0, 250:, 300:] = 0  # one band alone is none
    if kind == "nodata":
        pixels[:, hole] = 0
    options = {"mask": ~hole} if kind == "mask" else {"nodata": 0}
    write_tif(tmp_path / "a.tif", pixels, transform=t, **options)
    mosaic = open_city([str(tmp_path)], None, WARP).mosaic
    _, valid = read(mosaic)
    rows, cols = np.mgrid[: valid.shape[0], : valid.shape[1]] + 0.5
    own_cols, own_rows = ~t @ (mosaic.grid.transform @ (cols, rows))
    inside = (abs(own_cols - 175) < 124) & (abs(own_rows - 150) < 49)
    assert not valid[inside].any()
    outside = (abs(own_cols - 175) > 126) | (abs(own_rows - 150) > 51)
    outside &= (abs(own_cols - 200) < 199) & (abs(own_rows - 150) < 149)
    assert valid[outside].all()


def test_what_cannot_be_laid_on_the_grid_fails_alone(tmp_path: Path) -> None:
    for n in range(2):
        write_tif(tmp_path / f"{n}.tif", blobs(50, 50), 50 * n)
    write_tif(tmp_path / "misplaced.tif", blobs(50, 50), transform=from_origin(0, 0, GSD, GSD))
    beside = from_origin(108.99, 0.01, 1e-3, 1e-3)
    write_tif(tmp_path / "beside.tif", blobs(20, 20), crs="EPSG:4326", transform=beside)
    far = from_origin(500_000, 4_000_000, GSD, GSD)
    write_tif(tmp_path / "zone51.tif", blobs(200, 200), crs="EPSG:32651", transform=far)
    world = from_origin(-170, 90, 1, 1)
    write_tif(tmp_path / "world.tif", blobs(170, 340), crs="EPSG:4326", transform=world)
    city = open_city([str(tmp_path)], None, WARP)
    assert [s.name for s in city.mosaic.sources] == ["0", "1"]
    assert "px from the middle of the mosaic" in city.failures["misplaced"]
    assert "CRS of the mosaic" in city.failures["beside"]
    assert len(city.failures) == 4


def test_imagery_unlike_the_models_is_warned_of(tmp_path: Path) -> None:
    degrees, feet = from_origin(18.42, -33.92, 8.6e-7, 7.2e-7), from_origin(98e4, 2e5, 0.5, 0.5)
    write_tif(tmp_path / "degrees.tif", blobs(50, 50), crs="EPSG:4326", transform=degrees)
    write_tif(tmp_path / "feet.tif", blobs(50, 50), crs="EPSG:2263", transform=feet)

    def warning(name: str, gsd_m: float | None, target: float | None = None) -> str | None:
        city = open_city([str(tmp_path / name)], None, gsd_m=target)
        rules = load(None, {"model.gsd_m": gsd_m, "mosaic.gsd": "model" if target else "native"})
        (found, *_) = [
            *(
                k
                for k in summarize_diagnostics(city, rules)
                if "trained on" in k.diagnostic.finding
            ),
            None,
        ]
        return None if found is None else str(found)

    assert warning("degrees.tif", 0.08) is None
    assert warning("feet.tif", None) is None
    assert "0.152 m on the ground" in warning("feet.tif", 0.08)
    assert "1.9 times smaller" in warning("feet.tif", 0.08)
    assert "1.3 times larger" in warning("feet.tif", 0.2)
    assert warning("feet.tif", 0.08, 0.08) is None
    width, height = read_header(tmp_path / "feet.tif").placement.ground_m
    assert sqrt(width * height) == pytest.approx(0.08 * 1.905, 1e-3)
