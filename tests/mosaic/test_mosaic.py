"""Validity of pixels, and many files on one grid. Oracle: rasterio."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyproj
import pytest
import rasterio
import rasterio.shutil
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp, Resampling
from rasterio.warp import calculate_default_transform, reproject
from support.cities import CORNER, CRS, CUSTOM_WKT, GSD, blobs, write_tif

from capecam.errors import ImageError, UsageError
from capecam.grid import Grid, Tiling, Window
from capecam.imagery.crs import crs_key
from capecam.imagery.discovery import find_images, name_images
from capecam.imagery.header_reader import HeaderRules, read_header, read_headers
from capecam.imagery.validation.file_type import cut_off
from capecam.mosaic.aoi import AreaOfInterest, read_shapes
from capecam.mosaic.city import open_city
from capecam.mosaic.diagnostics import image_diagnostics, summarize_diagnostics
from capecam.mosaic.mosaic import Mosaic, Source
from capecam.mosaic.reader import Reader
from capecam.pipeline.tiles import batches, read_tiles
from capecam.settings import MosaicSettings, Settings


def read(mosaic, window):
    with Reader(mosaic) as reader:
        return reader.read(window)


def test_the_same_grid_by_another_name_is_the_same_grid() -> None:
    lo19 = crs_key(pyproj.CRS("ESRI:102562").to_wkt())
    assert crs_key(CUSTOM_WKT) == lo19
    assert crs_key(pyproj.CRS("EPSG:2048").to_wkt()) != lo19


@pytest.mark.parametrize("kind", ["mask", "alpha", "nodata", "none"])
def test_validity(tmp_path: Path, kind: str) -> None:
    pixels = np.maximum(blobs(90, 110), 1)
    hole = np.zeros((90, 110), bool)
    hole[10:30, 50:] = True
    options = {}
    if kind == "mask":
        options["mask"] = ~hole
    elif kind == "alpha":
        pixels = np.concatenate([pixels, np.where(hole, 0, 255)[None].astype(np.uint8)])
        i = ColorInterp
        options["colorinterp"] = (i.red, i.green, i.blue, i.alpha)
    elif kind == "nodata":
        pixels[:, hole] = 0
        pixels[0, 40, 40] = 0  # one band alone does not make a pixel nodata
        options["nodata"] = 0
    else:
        hole[:] = False
    write_tif(tmp_path / "a.tif", pixels, **options)
    mosaic = open_city([str(tmp_path / "a.tif")], None).mosaic
    found, valid = read(mosaic, mosaic.grid.window)
    assert np.array_equal(valid, ~hole)
    assert np.array_equal(found, np.where(hole, 0, pixels[:3]))


def test_windows_read_across_borders_and_past_the_edge(tmp_path: Path) -> None:
    whole = blobs(200, 300)
    for n, (r, c) in enumerate([(0, 0), (0, 137), (93, 0), (93, 137)]):
        r1, c1 = (93, 200)[r > 0], (137, 300)[c > 0]
        write_tif(tmp_path / f"{n}.tif", whole[:, r:r1, c:c1], c, r)
    mosaic = open_city([str(tmp_path)], None).mosaic
    assert mosaic.grid.window == Window(0, 0, 200, 300)
    window = Window(-10, 100, 150, 220)
    found, valid = read(mosaic, window)
    expected = np.zeros((3, 150, 220), np.uint8)
    expected[:, 10:, :200] = whole[:, :140, 100:]
    assert np.array_equal(found, expected)
    assert np.array_equal(valid, np.pad(np.ones((140, 200), bool), ((10, 0), (0, 20))))


def test_the_grid_is_that_of_the_most_and_others_snap(tmp_path: Path) -> None:
    for n, shift in enumerate([(0.3, 0.0), (0, 0), (0, 0)]):
        write_tif(tmp_path / f"{n}.tif", blobs(50, 60), 60 * n, 0, shift_px=shift)
    write_tif(tmp_path / "wgs.tif", blobs(50, 60), crs="EPSG:32734")
    write_tif(tmp_path / "named.tif", blobs(50, 60), 180, 0, crs=CUSTOM_WKT)
    city = open_city([str(tmp_path)], None)
    sources = {s.name: s for s in city.mosaic.sources}
    assert [sources[n].window.col for n in ("0", "1", "2", "named")] == [0, 60, 120, 180]
    assert sources["0"].shift_px == (0.3, 0)
    assert sources["1"].shift_px == (0, 0)
    assert set(city.failures) == {"wgs"}
    assert "CRS or resolution" in city.failures["wgs"]


def test_an_anchor_moves_the_origin_to_whole_pixels(tmp_path: Path) -> None:
    write_tif(tmp_path / "a.tif", blobs(50, 60))
    grid = open_city([str(tmp_path)], (0.0, 0.0)).mosaic.grid
    assert grid.window == Window(47_037_500, -637_500, 50, 60)
    assert (grid.transform.c, grid.transform.f) == CORNER
    odd = open_city([str(tmp_path)], (CORNER[0] - 0.1, CORNER[1])).mosaic.grid
    assert (odd.window.col, odd.transform.c) == (1, CORNER[0])


@pytest.mark.parametrize("readers", [0, 3])
def test_every_window_with_imagery_comes_once_and_in_order(tmp_path: Path, readers: int) -> None:
    whole = blobs(333, 700)
    write_tif(tmp_path / "a.tif", whole[:, :, :300])
    write_tif(tmp_path / "b.tif", whole[:, :, 300:], 300)
    mosaic = open_city([str(tmp_path)], None).mosaic
    tiling = Tiling(32, 12, 2)
    core = Window(0, 0, 333, 300)
    tiles = list(read_tiles(partial(Reader, mosaic, "a"), tiling, core, readers=readers))
    rows, cols = tiling.indices(core)
    assert [t.window for t in tiles] == [tiling.window(i, j) for i in rows for j in cols]
    for tile in tiles[:: len(tiles) // 20]:
        expected, valid = read(mosaic, tile.window)
        assert np.array_equal(tile.pixels.numpy(), expected)
        assert np.array_equal(tile.valid.numpy(), valid)


@pytest.mark.parametrize("tiling", [Tiling(60, 20, 10), Tiling(60, 40, 10), Tiling(640, 90, 10)])
@pytest.mark.parametrize("readers", [0, 3])
def test_tiles_across_bands_and_parts(tmp_path: Path, tiling: Tiling, readers: int) -> None:
    """Tiles start and end within bands of rows, or are higher than one, and lie apart."""
    whole = blobs(1333, 700)
    mask = np.random.default_rng(0).random((1333, 300)) < 0.5
    write_tif(tmp_path / "a.tif", whole[:, :, :300], mask=mask)
    write_tif(tmp_path / "b.tif", whole[:, :, 300:], 300)
    mosaic = open_city([str(tmp_path)], None).mosaic
    core = Window(0, 0, 1333, 300)
    apart = np.array([shapely.box(10, 3, 30, 700), shapely.box(240, 500, 290, 1100)])
    interest = AreaOfInterest((shapely.STRtree(apart),))
    tiles = read_tiles(
        partial(Reader, mosaic, "a"), tiling, core, interest=interest, readers=readers,
        image=mosaic.source("a"),
    )  # fmt: skip
    found = list(tiles)
    selected = sorted(interest.selected_windows(tiling, core))
    assert [tile.window for tile in found] == [tiling.window(i, j) for i, j in selected]
    for tile in found[:: len(found) // 40 + 1]:
        pixels, valid = read(mosaic, tile.window)
        assert np.array_equal(tile.pixels.numpy(), pixels)
        assert np.array_equal(tile.valid.numpy(), valid)


@pytest.mark.parametrize("block", [{}, {"blockxsize": 48, "blockysize": 48}, {"tiled": False}])
def test_every_block_of_an_image_is_read_once(tmp_path: Path, block: dict[str, object]) -> None:
    write_tif(tmp_path / "a.tif", blobs(1333, 300), **block)
    mosaic = open_city([str(tmp_path)], None).mosaic
    source = mosaic.source("a")
    height = source.header.metadata.block[0]
    tiling, core = Tiling(60, 20, 10), Window(230, 0, 1000, 300)  # a part of the image
    read_px = np.zeros(tiling.window_read(core).shape, int)
    tops = []

    def count(window: Window, *_: object) -> None:
        read_px[window.slices(tiling.window_read(core))] += 1
        tops.append(window.row)

    for _ in read_tiles(partial(Reader, mosaic), tiling, core, image=source, on_read=count):
        pass
    assert (read_px == 1).all()
    assert len(tops) > 1
    assert not any(top % height for top in tops[1:])


def test_windows_without_imagery_are_not_run(tmp_path: Path) -> None:
    mask = np.zeros((200, 200), bool)
    mask[:20, :20] = True
    write_tif(tmp_path / "a.tif", blobs(200, 200), mask=mask)
    mosaic = open_city([str(tmp_path)], None).mosaic
    reader = partial(Reader, mosaic, "a")
    tiles = list(read_tiles(reader, Tiling(40, 0, 10), mosaic.grid.window))
    assert [t.window for t in tiles] == [Window(0, 0, 40, 40)]
    (batch,) = batches(tiles, 4)
    assert batch.pixels.shape == (4, 3, 40, 40)
    assert batch.valid.sum() == 400


BAD = {
    "text": (b"<html>404</html>", "not a readable GeoTIFF"),
    "empty": (b"", r"empty \(0 bytes\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_no_rasters(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(ImageError, match=message):
        read_header(tmp_path / "a.tif")


def test_a_vrt_in_disguise_is_not_opened(tmp_path: Path) -> None:
    source = write_tif(tmp_path / "real.tif", blobs(30, 30))
    with rasterio.open(source) as dataset:
        rasterio.shutil.copy(dataset, tmp_path / "a.vrt", driver="VRT")
    (tmp_path / "a.vrt").rename(tmp_path / "b.tif")
    with pytest.raises(ImageError, match="not a readable GeoTIFF but a VRT; use --allow-vrt"):
        read_header(tmp_path / "b.tif")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crs": None}, "no coordinate reference system"),
        ({"dtype": "uint16"}, "pixels are uint16"),
        ({"count": 1}, r"1 band\(s\)"),
    ],
)
def test_images_that_cannot_be_used_say_why(tmp_path: Path, options: dict, message: str) -> None:
    pixels = blobs(30, 30)[: options.pop("count", 3)].astype(options.pop("dtype", "uint8"))
    write_tif(tmp_path / "a.tif", pixels, **options)
    with pytest.raises(ImageError, match=message):
        read_header(tmp_path / "a.tif")


def test_headers_are_the_same_from_other_processes(tmp_path: Path, monkeypatch) -> None:
    paths = [write_tif(tmp_path / f"{n}.tif", blobs(20, 20 + n), col=20 * n) for n in range(5)]
    paths[3].write_text("not a raster")
    here = read_headers(paths)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("capecam.imagery.header_reader.HEADERS_A_PROCESS", 2)
    elsewhere = read_headers(paths, HeaderRules(apart=True))
    assert [str(found) for found in elsewhere] == [str(found) for found in here]
    assert [isinstance(found, ImageError) for found in here] == [False] * 3 + [True, False]


def test_a_truncated_image_fails_when_it_is_read(tmp_path: Path) -> None:
    path = write_tif(
        tmp_path / "a.tif",
        np.random.default_rng(0).integers(0, 255, (3, 600, 600)).astype(np.uint8),
    )
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[: whole // 2])
    half = path.stat().st_size
    mosaic = open_city([str(path)], None).mosaic
    (source,) = mosaic.sources
    message = f"the file is {half} bytes, its directory points to {whole}: it was not copied whole"
    assert source.header.metadata.missing == message
    (kind,) = [
        remark.finding for remark in image_diagnostics(source.header, Settings()) if remark.warning
    ]
    assert kind == "is shorter than its own directory says: it was not copied whole"
    with pytest.raises(ImageError, match=rf"a\.tif: cannot be decoded at rows.* \({message}\)"):
        read(mosaic, mosaic.grid.window)


@pytest.mark.parametrize("layout", [{}, {"tiled": False}, {"compress": "none"}, {"BIGTIFF": "YES"}])
def test_a_whole_file_reaches_its_own_end(tmp_path: Path, layout: dict) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (3, 300, 310)).astype(np.uint8)
    path = write_tif(tmp_path / "a.tif", noise, **layout)
    assert cut_off(path) is None
    whole = path.read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 200, 100):
        path.write_bytes(whole[:size])
        assert f"the file is {size} bytes, its directory points to" in cut_off(path)


def test_sources_are_found_and_named(tmp_path: Path) -> None:
    for name in ("x/a.tif", "y/a.TIF", "y/b.tiff", "y/note.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_images([str(tmp_path / "x"), str(tmp_path / "*" / "*.TIF"), str(tmp_path / "y")])
    assert [p.name for p in found.paths] == ["a.tif", "a.TIF", "b.tiff"]
    names = list(name_images(found.paths))
    assert names[2] == "b"
    assert all(len(n) == len("a_012345") and n.startswith("a_") for n in names[:2])
    with pytest.raises(UsageError, match="there is no such file"):
        find_images([str(tmp_path / "z")])
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "list.txt").write_text("# two of them\n../x\n\n../y/b.tiff\n")
    listed = find_images([f"@{tmp_path / 'lists' / 'list.txt'}"])
    assert [p.name for p in listed.paths] == ["a.tif", "b.tiff"]
    with pytest.raises(UsageError, match="the list of images cannot be read"):
        find_images([f"@{tmp_path / 'none.txt'}"])


def test_where_images_overlap_every_pixel_has_one_cell(tmp_path: Path) -> None:
    whole = blobs(200, 300)
    for name, r, c, h, w in (
        ("a", 0, 0, 120, 180), ("b", 0, 130, 150, 170), ("c", 90, 0, 110, 150),
        ("d", 100, 100, 100, 200), ("under", 20, 140, 30, 100),
    ):  # fmt: skip
        write_tif(tmp_path / f"{name}.tif", whole[:, r : r + h, c : c + w], c, r)
    mosaic = open_city([str(tmp_path)], None).mosaic
    cells = mosaic.cells(Tiling(), 12_500)
    assert [cell.name for cell in cells] == ["a", "b", "c", "d"]
    owners = np.zeros((200, 300), int)
    for cell in cells:
        own = np.ones(cell.core.shape, bool)
        for part in cell.taken:
            own[part.slices(cell.core)] = False
        owners[cell.core.slices(mosaic.grid.window)] += own
    assert (owners == 1).all()


def test_images_wholly_under_others_are_named(tmp_path: Path) -> None:
    images = ("left", 0, 60), ("right", 60, 60), ("under", 20, 80), ("copy", 0, 60)
    for name, col, width in images:
        write_tif(tmp_path / f"{name}.tif", blobs(50, width), col)
    city = open_city([str(tmp_path)], None)
    assert [cell.name for cell in city.mosaic.cells(Tiling(), 12_500)] == ["copy", "under", "right"]
    (group,) = summarize_diagnostics(city, Settings())
    assert group.diagnostic.warning
    assert str(group).startswith("lies wholly under other images (1: left): fills their pixels")


boxes = st.builds(
    Window, *[st.integers(-60, 60)] * 2, *[st.integers(1, 90)] * 2
)  # fmt: skip


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.lists(boxes, min_size=1, max_size=7), st.integers(20, 120))
def test_however_images_overlap_every_pixel_has_one_cell(places: list, cell_size: int) -> None:
    sources = [Source(None, f"{n}", window, (0.0, 0.0)) for n, window in enumerate(places)]
    grid = Grid(pyproj.CRS(CRS).to_wkt(), CORNER, (GSD, GSD), Window(-60, -60, 210, 210))
    covered = np.zeros(grid.window.shape, bool)
    for window in places:
        covered[window.slices(grid.window)] = True
    owners = np.zeros(grid.window.shape, int)
    mosaic = Mosaic(grid, tuple(sorted(sources, key=lambda source: source.key)))
    for cell in mosaic.cells(Tiling(20, 4, 2), cell_size):
        own = np.ones(cell.core.shape, bool)
        for part in cell.taken:
            own[part.slices(cell.core)] = False
        owners[cell.core.slices(grid.window)] += own
    assert np.array_equal(owners, covered.astype(int))


def test_blocks_that_decode_are_used_of_a_damaged_neighbour(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(1, 255, (3, 600, 600)).astype(np.uint8)
    path = write_tif(tmp_path / "a.tif", noise, blockxsize=128, blockysize=128)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    write_tif(tmp_path / "b.tif", noise, 600)
    mosaic = open_city([str(tmp_path)], None).mosaic
    unreadable: dict[str, str] = {}
    with Reader(mosaic, "b", unreadable) as reader:
        found, valid = reader.read(Window(0, 0, 600, 1200))
    assert valid[:, 600:].all()
    assert valid[:128, :600].all()
    assert not valid[512:, :600].any()
    assert 0.3 < valid[:, :600].mean() < 0.7
    whole = np.concatenate([noise, noise], axis=2)
    assert np.array_equal(found, np.where(valid, whole, 0))
    assert list(unreadable) == ["a"]
    with pytest.raises(ImageError, match=r"a\.tif: cannot be decoded"), Reader(mosaic, "a") as own:
        own.read(Window(0, 0, 600, 1200))


def test_align_error_refuses_what_lies_off_the_grid(tmp_path: Path) -> None:
    for n, shift in enumerate([(0.3, 0.0), (0, 0), (0, 0)]):
        write_tif(tmp_path / f"{n}.tif", blobs(50, 60), 60 * n, 0, shift_px=shift)
    city = open_city([str(tmp_path)], None, MosaicSettings(align="error"))
    assert [s.name for s in city.mosaic.sources] == ["1", "2"]
    assert "0.3, 0 px (right, down) off the grid" in city.failures["0"]


@pytest.mark.parametrize("kind", ["none", "mask", "nodata"])
def test_align_warp_reprojects_other_grids(tmp_path: Path, kind: str) -> None:
    """Compare a scene with a bright square on the city's grid with one warped to UTM by GDAL."""
    scene = np.full((3, 300, 400), 90, np.uint8)
    scene[:, 100:180, 200:260] = 220
    write_tif(tmp_path / "in" / "a.tif", scene)
    write_tif(tmp_path / "in" / "b.tif", scene, 0, 300)
    shifted = write_tif(tmp_path / "c.tif", scene, 400, 150)
    with rasterio.open(shifted) as source:
        transform, width, height = calculate_default_transform(
            source.crs, "EPSG:32734", source.width, source.height, *source.bounds, resolution=0.1
        )
        in_utm = np.zeros((3, height, width), np.uint8)
        for band in range(3):
            reproject(
                rasterio.band(source, band + 1), in_utm[band], dst_transform=transform,
                dst_crs="EPSG:32734", resampling=Resampling.bilinear,
            )  # fmt: skip
    options = {"mask": in_utm.any(axis=0)} if kind == "mask" else {}
    options |= {"nodata": 0} if kind == "nodata" else {}
    write_tif(tmp_path / "in" / "c.tif", in_utm, transform=transform, crs="EPSG:32734", **options)
    assert set(open_city([str(tmp_path / "in")], None).failures) == {"c"}
    city = open_city([str(tmp_path / "in")], None, MosaicSettings(align="warp"))
    assert not city.failures
    found, valid = read(city.mosaic, Window(150, 400, 300, 400))
    assert valid[10:-10, 10:-10].all()
    assert abs(found[0, 5:-5, 5:-5].astype(int) - scene[0, 5:-5, 5:-5]).mean() < 1
    around = city.mosaic.sources[[s.name for s in city.mosaic.sources].index("c")].window
    found, valid = read(city.mosaic, around)
    black = valid & (found == 0).all(axis=0)
    assert black.any() == (kind == "none")  # black is imagery if nothing says no


def test_what_is_not_of_interest_is_not_run(tmp_path: Path) -> None:
    write_tif(tmp_path / "a.tif", blobs(400, 600))
    x, y = CORNER
    tiling = Tiling(40, 0, 10)

    def chosen(**settings) -> set[tuple[int, int]]:
        city = open_city([str(tmp_path / "a.tif")], None, MosaicSettings(**settings))
        core = city.mosaic.grid.window
        reader = partial(Reader, city.mosaic, "a")
        tiles = read_tiles(reader, tiling, core, interest=city.interest)
        return {(t.window.row // 40, t.window.col // 40) for t in tiles}

    def place(*pixels: int) -> tuple[float, ...]:
        left, top, right, bottom = (p * GSD for p in pixels)
        return x + left, y - bottom, x + right, y - top

    assert len(chosen()) == 10 * 15
    part = {(i, j) for i in (1, 2) for j in (3, 4, 5)}
    assert chosen(bbox=",".join(map(str, place(120, 40, 240, 120)))) == part
    aoi = gpd.GeoSeries([shapely.box(*place(120, 40, 240, 120))], crs=CRS)
    shrunk = aoi.buffer(-0.01)
    assert chosen(bbox=tuple(shrunk.to_crs("EPSG:4326").total_bounds)) >= part
    shrunk.to_crs("EPSG:4326").to_file(tmp_path / "aoi.geojson")
    assert chosen(aoi=tmp_path / "aoi.geojson") == part
    houses = gpd.GeoSeries([shapely.box(*place(*p)) for p in ((5, 5, 9, 9), (130, 50, 170, 60))])
    houses.set_crs(CRS).to_file(tmp_path / "houses.gpkg")
    assert chosen(footprints=tmp_path / "houses.gpkg") == {(0, 0), (1, 3), (1, 4)}
    both = {"aoi": tmp_path / "aoi.geojson", "footprints": tmp_path / "houses.gpkg"}
    assert chosen(**both) == {(1, 3), (1, 4)}
    with pytest.raises(UsageError, match="--bbox: nothing of it is on the images"):
        chosen(bbox=(0, 0, 1, 1))
    with pytest.raises(UsageError, match="there is no such file"):
        chosen(aoi=tmp_path / "none.gpkg")
    (tmp_path / "bad.gpkg").write_text("no layer")
    with pytest.raises(UsageError, match="cannot be read as a vector layer"):
        chosen(aoi=tmp_path / "bad.gpkg")


def test_an_area_in_degrees_has_the_borders_that_it_has_on_the_ground(tmp_path: Path) -> None:
    """The chord of the southern border passes 80 m from this place, in its middle."""
    crs = pyproj.CRS("ESRI:102562")
    x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(18.5, -34)
    grid = Grid(crs.to_wkt(), (x - 4, y + 4), (0.08, 0.08), Window(0, 0, 100, 100))
    area = gpd.GeoSeries([shapely.box(18, -34, 19, -33)], crs="EPSG:4326")
    area.to_file(tmp_path / "area.geojson")
    (shape,) = read_shapes(tmp_path / "area.geojson", grid)
    assert shapely.intersects_xy(shape, [50, 50], [49, 51]).tolist() == [True, False]


def test_the_pixel_size_is_that_of_the_files(tmp_path: Path) -> None:
    write_tif(tmp_path / "a.tif", blobs(50, 60))
    assert open_city([str(tmp_path)], None).mosaic.grid.pixel == (GSD, GSD)
