"""Datums and epochs: the same numbers are the same place only on the same datum. Oracle: PROJ."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
import rasterio.shutil
from rasterio.transform import from_origin
from support.cities import CORNER, CUSTOM_WKT, GSD, blobs, write_tif

from capecam.imagery.datum import datum_of, is_assumed, registered_crs, same_crs
from capecam.imagery.header_reader import read_header
from capecam.mosaic.city import City, open_city
from capecam.mosaic.diagnostics import DiagnosticGroup, summarize_diagnostics
from capecam.settings import MosaicSettings, Settings

MELBOURNE, TOHOKU, VANCOUVER = (320_000.0, 5_810_000.0), (-5000.0, -150_000.0), (490_000.0, 5.45e6)
LO19 = "ESRI:102562"
GRS80 = 'SPHEROID["GRS 1980",6378137,298.2572221]'
ZONE55 = "+proj=tmerc +lon_0=147 +k=0.9996 +x_0=500001 +y_0=1e7"
"""But for a metre."""
OLD_TOWGS84 = "446.448,-125.157,542.06,0.15,0.247,0.842,-20.489"


def wkt(crs: str) -> str:
    """As GDAL says it, which is what a file contains."""
    return rasterio.CRS.from_user_input(crs).wkt


def esri(crs: str) -> str:
    return rasterio.CRS.from_user_input(crs).to_wkt(version="WKT1_ESRI")


def grid(meridian: float, datum: str, spheroid: str, scale: float = 1, x: float = 0, y: float = 0):
    """A grid that no registry has under this name."""
    return (
        f'PROJCS["City grid",GEOGCS["GCS",DATUM["{datum}",{spheroid}],PRIMEM["Greenwich",0],'
        'UNIT["degree",0.0174532925199433]],PROJECTION["Transverse_Mercator"],'
        f'PARAMETER["latitude_of_origin",0],PARAMETER["central_meridian",{meridian}],'
        f'PARAMETER["scale_factor",{scale}],PARAMETER["false_easting",{x}],'
        f'PARAMETER["false_northing",{y}],UNIT["metre",1]]'
    )


def lo19(datum: str) -> str:
    return grid(19, datum, 'SPHEROID["WGS 84",6378137,298.257223563]')


def mga55(datum: str) -> str:
    return grid(147, datum, GRS80, 0.9996, 500_000, 10_000_000)


SAME = [
    *((code, esri(code)) for code in ("EPSG:28355", "EPSG:7855", "EPSG:6677", "EPSG:6339")),
    *((code, pyproj.CRS(code).to_wkt()) for code in ("EPSG:25832", "EPSG:32632", LO19)),
    ("EPSG:27700", f"{wkt('EPSG:27700')}".replace('AUTHORITY["EPSG","6277"]', "").replace(
        ',299.3249646,AUTHORITY["EPSG","7001"]],', f",299.3249646],TOWGS84[{OLD_TOWGS84}]")),
    ("EPSG:26910", "+proj=utm +zone=10 +datum=NAD83 +units=m"),
    *((LO19, lo19(name)) for name in (
        "Hartebeesthoek94", "D_Hartebeesthoek_1994", "Hartebeesthoek 94", "HARTEBEESTHOEK_1994")),
    *(("EPSG:28355", mga55(name)) for name in (
        "Geocentric_Datum_of_Australia_1994", "GDA94", "D_GDA_1994", "GDA 94")),
    ("EPSG:7855", mga55("GDA2020")),
    ("EPSG:3006", "EPSG:25833"), ("EPSG:25832", "EPSG:7791"), ("EPSG:8255", "EPSG:6318"),
]  # fmt: skip
"""One datum in several spellings, or datums that a registry makes equal: SWEREF99 is ETRS89."""

ASSUMED = [
    (LO19, CUSTOM_WKT),
    *((LO19, lo19(name)) for name in (
        "unknown", "City of Cape Town", "Cape", "Not_specified_based_on_WGS_84_spheroid")),
    ("EPSG:28355", "+proj=utm +zone=55 +south +ellps=GRS80 +units=m"),
    ("EPSG:7855", "+proj=utm +zone=55 +south +ellps=GRS80 +towgs84=0,0,0 +units=m"),
    ("EPSG:7855", mga55("Unspecified datum based upon the GRS 1980 Ellipsoid")),
    ("EPSG:26910", "+proj=utm +zone=10 +ellps=GRS80 +units=m"),
]  # fmt: skip
"""No datum, a misleading one, or WGS 84 in a grid that no registry has."""

OTHER = [
    ("EPSG:28355", "EPSG:7855"), ("EPSG:28355", mga55("GDA2020")), ("EPSG:4283", "EPSG:7844"),
    ("EPSG:2451", "EPSG:6677"), ("EPSG:26910", "EPSG:3157"), ("EPSG:26910", "EPSG:6339"),
    ("EPSG:3157", "EPSG:6339"), ("EPSG:25832", "EPSG:32632"), ("EPSG:3037", "EPSG:32737"),
    ("EPSG:4326", "EPSG:9755"), (LO19, lo19("World Geodetic System 1984 (G1762)")),
    (LO19, lo19("Moznet (ITRF94)")), (CUSTOM_WKT, lo19("Cyprus Geodetic Reference System 1993")),
    ("EPSG:9000", "EPSG:9069"), ("EPSG:26718", "EPSG:26918"), ("EPSG:2048", LO19),
    ("EPSG:2263", "EPSG:32118"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_a_datum_is_one_however_it_is_spelt(one: str, other: str) -> None:
    one, other = wkt(one), wkt(other)
    assert same_crs(one, other)
    assert same_crs(other, one)
    assert not is_assumed(one, other)


@pytest.mark.parametrize(("one", "other"), ASSUMED)
def test_a_datum_that_is_not_said_is_assumed(one: str, other: str) -> None:
    one, other = wkt(one), wkt(other)
    assert same_crs(one, other)
    assert same_crs(other, one)
    assert is_assumed(one, other)


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_datums_realisations_and_axes_keep_grids_apart(one: str, other: str) -> None:
    assert not same_crs(wkt(one), wkt(other))
    assert not same_crs(wkt(other), wkt(one))


def without_code(code: str) -> str:
    """A CRS under a name that no registry has."""
    renamed = re.sub(r'^PROJCS\["[^"]*"', 'PROJCS["City grid"', wkt(code))
    return re.sub(r',AUTHORITY\["EPSG","\d+"\]\]$', "]", renamed)


def claiming(code: str, crs: str) -> str:
    """A CRS that says it has the code of another one."""
    authority, number = code.split(":")
    return f'{re.sub(r",AUTHORITY[^,]*,[^,]*$", "", crs[:-1])},AUTHORITY["{authority}","{number}"]]'


def geographic(crs: str) -> str:
    """A geographic CRS without its code: longitude comes first then."""
    return re.sub(r",AXIS.*$", ',AXIS["Longitude",EAST],AXIS["Latitude",NORTH]]', wkt(crs))


@pytest.mark.parametrize(("code", "crs"), [
    (LO19, wkt(LO19)), (LO19, CUSTOM_WKT), (LO19, lo19("D_Hartebeesthoek_1994")),
    ("EPSG:2048", without_code("EPSG:2048")), ("EPSG:27700", SAME[7][1]),
    ("EPSG:7855", mga55("GDA2020")),
    (LO19, claiming("EPSG:2048", wkt(LO19))), (LO19, claiming("EPSG:2048", lo19("unknown"))),
    ("EPSG:2048", claiming(LO19, wkt("EPSG:2048"))),
    ("EPSG:32734", claiming("EPSG:32733", wkt("EPSG:32734"))),
    ("EPSG:28355", claiming("EPSG:7855", wkt("EPSG:28355"))),
    ("EPSG:4326", wkt("+proj=longlat +datum=WGS84")), ("EPSG:4326", wkt("EPSG:4326")),
    ("OGC:CRS84", wkt("OGC:CRS84")), ("EPSG:4148", geographic("EPSG:4148")),
])  # fmt: skip
def test_a_grid_gets_the_code_of_its_parameters(code: str, crs: str) -> None:
    assert registered_crs(crs).to_authority(min_confidence=100) == tuple(code.split(":"))


@pytest.mark.parametrize("crs", [
    lo19("Moznet (ITRF94)"), "+proj=utm +zone=55 +south +ellps=GRS80 +units=m",
    "+proj=longlat +ellps=GRS80",
    lo19("Hartebeesthoek94")[:-1] + ',AXIS["Westing",WEST],AXIS["Southing",SOUTH]]',
])  # fmt: skip
def test_a_grid_of_no_registry_or_of_several_stays_as_it_is(crs: str) -> None:
    assert registered_crs(wkt(crs)) == pyproj.CRS.from_wkt(wkt(crs))


def test_without_projs_database_names_are_compared(monkeypatch, tmp_path: Path) -> None:
    from capecam.imagery import datum  # noqa: PLC0415 its cache is emptied

    monkeypatch.setattr(pyproj.datadir, "get_data_dir", lambda: str(tmp_path))
    monkeypatch.setattr(datum, "_codes", datum._codes.__wrapped__)
    assert datum._codes() == {}
    assert datum_of.__wrapped__(wkt("EPSG:28355")).name == "Geocentric Datum of Australia 1994"


def city(folder: Path, place: tuple[float, float], *crss: str, align: str = "snap") -> City:
    """Images side by side, by the numbers of their coordinates."""
    for n, crs in enumerate(crss):
        corner = from_origin(place[0] + n * 60 * GSD, place[1], GSD, GSD)
        write_tif(folder / f"{n}.tif", blobs(50, 60, n), crs=crs, transform=corner)
    return open_city([str(folder)], None, MosaicSettings(align=align))


def warnings(found: City) -> list[DiagnosticGroup]:
    groups = summarize_diagnostics(found, Settings())
    return [group for group in groups if group.diagnostic.warning]


@pytest.mark.parametrize("align", ["snap", "error"])
@pytest.mark.parametrize(
    ("most", "one", "place", "said"),
    [
        ("EPSG:28355", "EPSG:7855", MELBOURNE, "the same coordinates are 1.56 m apart"),
        ("EPSG:2452", "EPSG:6678", TOHOKU, "without touhokutaiheiyouoki2011.gsb, missing here"),
        ("EPSG:26910", "EPSG:3157", VANCOUVER, "PROJ knows no transformation between them"),
        ("EPSG:26910", "EPSG:6339", VANCOUVER, "its datum is NAD83 (National Spatial Reference"),
    ],
)
def test_another_datum_does_not_fit(
    tmp_path: Path, most: str, one: str, place: tuple[float, float], said: str, align: str
) -> None:
    found = city(tmp_path, place, most, most, one, align=align)
    assert [source.name for source in found.mosaic.sources] == ["0", "1"]
    assert said in found.failures["2"]
    assert "--align warp" in found.failures["2"]


def test_warp_moves_an_image_by_the_datum_shift(tmp_path: Path) -> None:
    found = city(tmp_path, MELBOURNE, "EPSG:28355", "EPSG:28355", "EPSG:7855", align="warp")
    x, y = MELBOURNE[0] + 120 * GSD, MELBOURNE[1]
    to_94 = pyproj.Transformer.from_crs("EPSG:7855", "EPSG:28355", always_xy=True)
    east, north = to_94.transform(x, y)
    window = found.mosaic.sources[-1].window
    assert window.col == np.floor((east - MELBOURNE[0]) / GSD) == 113
    assert window.row == np.floor((MELBOURNE[1] - north) / GSD) == 18
    assert not warnings(found)
    said = [str(group) for group in summarize_diagnostics(found, Settings())]
    assert any("GDA94 to GDA2020 (1) is good to 0.01 m" in text for text in said)


@pytest.mark.parametrize(
    ("most", "one", "place", "said"),
    [
        ("EPSG:2452", "EPSG:6678", TOHOKU, "without touhokutaiheiyouoki2011.gsb"),
        ("EPSG:26910", "EPSG:3157", VANCOUVER, "PROJ knows no transformation"),
        ("EPSG:28355", f"{ZONE55} +ellps=GRS80", MELBOURNE, "no transformation"),
    ],
)
def test_warp_without_a_good_transformation_warns(
    tmp_path: Path, most: str, one: str, place: tuple[float, float], said: str
) -> None:
    (warning,) = warnings(city(tmp_path, place, most, most, one, align="warp"))
    assert warning.images == ("2",)
    assert said in str(warning)


def test_an_assumed_datum_is_a_warning(tmp_path: Path) -> None:
    found = city(tmp_path, CORNER, LO19, lo19("unknown"), CUSTOM_WKT, lo19("D_Hartebeesthoek_1994"))
    assert not found.failures
    assert {group.images for group in warnings(found)} == {("1",), ("2",)}
    assert "gdal_edit.py -a_srs" in str(warnings(found)[0])


def test_images_without_a_datum_do_not_join_two_datums(tmp_path: Path) -> None:
    unsaid = "+proj=utm +zone=55 +south +ellps=GRS80 +units=m"
    crss = ("EPSG:28355", "EPSG:28355", "EPSG:7855", unsaid, unsaid, unsaid, unsaid)
    found = city(tmp_path, MELBOURNE, *crss)
    assert set(found.failures) == {"2"}
    assert datum_of(found.mosaic.grid.crs).code == "EPSG:6283"
    (warning,) = warnings(found)
    assert warning.images == ("3", "4", "5", "6")


def test_the_largest_group_has_one_datum(tmp_path: Path) -> None:
    crss = ["EPSG:28355"] * 2 + ["EPSG:7855"] * 2 + ["EPSG:32755"] * 3
    found = city(tmp_path, MELBOURNE, *crss)
    assert [source.name for source in found.mosaic.sources] == ["4", "5", "6"]


def write_at_epoch(path: Path, year: float | None, col: int) -> None:
    """An image in ITRF2020, as GDAL writes it with a coordinate epoch."""
    place = from_origin(147 + col * 1e-6, -37, 1e-6, 1e-6)
    pixels, vrt = blobs(50, 60), path.with_suffix(".vrt")
    with rasterio.open(write_tif(path, pixels, crs="EPSG:9990", transform=place)) as dataset:
        rasterio.shutil.copy(dataset, vrt, driver="VRT")
    if year is not None:
        text = vrt.read_text().replace("<SRS ", f'<SRS coordinateEpoch="{year}" ', 1)
        vrt.write_text(text.replace(path.name, f"{path.stem}.src"))
        path.rename(path.with_suffix(".src"))
        rasterio.shutil.copy(vrt, path, driver="GTiff")
    vrt.unlink()


@pytest.mark.parametrize("align", ["snap", "warp"])
def test_coordinates_of_another_epoch_do_not_fit(tmp_path: Path, align: str) -> None:
    for n, year in enumerate([2010.0, 2010.0, 2020.5, None]):
        write_at_epoch(tmp_path / f"{n}.tif", year, 60 * n)
    assert read_header(tmp_path / "2.tif").placement.epoch == 2020.5
    found = open_city([str(tmp_path)], None, MosaicSettings(align=align))
    assert set(found.failures) == {"2"}
    assert "those of 2020.5, and of 2010 in the 3 images" in found.failures["2"]
    assert "gdalwarp -s_coord_epoch -t_coord_epoch" in found.failures["2"]
    warning = warnings(found)[-1]
    assert warning.images == ("3",)
    assert "epoch" in str(warning)
