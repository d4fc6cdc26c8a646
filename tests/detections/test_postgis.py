"""Detections in PostGIS, as ogr2ogr loads them: their SRID, their areas, and a join with zones."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import geopandas as gpd
import pytest
import shapely
from support.cities import CUSTOM_WKT
from support.pieces import make_rules, pieces_of_cells

from capecam.detections.assembly import assemble, write_detections
from capecam.detections.export import export

pytestmark = pytest.mark.slow

BIN = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("postgresql"))
POSTGIS = [*Path("/usr/share/postgresql").glob("*/extension/postgis.control")]
SUPERUSER = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
"""PostgreSQL refuses to run as root."""

Query = Callable[[str], str]


@pytest.fixture(scope="module")
def query() -> Iterator[Query]:
    """A server of its own, without a network."""
    if not (POSTGIS and shutil.which("ogr2ogr")):
        pytest.skip("no PostGIS; apt-get install postgresql-15-postgis-3 gdal-bin")
    with ExitStack() as ends, pytest.MonkeyPatch.context() as patch:
        # Not in pytest's folder, which is private, and too long a path for a socket.
        folder = Path(ends.enter_context(TemporaryDirectory(prefix="postgis-")))
        if SUPERUSER:
            shutil.chown(folder, "postgres")

        def run(*command: str | Path) -> None:
            subprocess.run([*SUPERUSER, *command], check=True, capture_output=True, cwd=folder)

        patch.setenv("PGHOST", str(folder))
        patch.setenv("PGUSER", "postgres")
        data = ["-D", folder / "data"]
        run(BIN / "initdb", *data, "-A", "trust", "-U", "postgres", "-N")
        options = f"-k {folder} -h ''"
        run(BIN / "pg_ctl", *data, "-w", "-o", options, "-l", folder / "log", "start")
        ends.callback(run, BIN / "pg_ctl", *data, "-m", "immediate", "stop")

        def ask(sql: str) -> str:
            command = [BIN / "psql", "-qAt", "-v", "ON_ERROR_STOP=1", "-c", sql]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            return done.stdout

        ask("CREATE EXTENSION postgis")
        yield ask


def load(path: Path, table: str) -> None:
    command = ["ogr2ogr", "-f", "PostgreSQL", "PG:dbname=postgres", path, "-nln", table]
    command += ["-overwrite", "-lco", "GEOMETRY_NAME=shape"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("crs", ["ESRI:102562", CUSTOM_WKT, "EPSG:2048", "EPSG:32734"])
@pytest.mark.parametrize("kind", ["gpkg", "fgb"])
def test_postgis_knows_srid_areas_and_zones(
    query: Query, tmp_path: Path, kind: str, crs: str
) -> None:
    rules = make_rules(join_distance_px=1.0, min_area_m2=0.01)
    wkt = crs if crs == CUSTOM_WKT else gpd.GeoSeries(crs=crs).crs.to_wkt()
    rules = replace(rules, grid=replace(rules.grid, crs=wkt))
    write_detections(tmp_path, assemble(pieces_of_cells(tmp_path, 20, 30), rules), rules)
    table = gpd.read_parquet(tmp_path / "detections.parquet")
    load(export(tmp_path, kind, tmp_path / f"given.{kind}"), "detections")
    srid = "102562" if crs == CUSTOM_WKT else crs.split(":")[1]
    assert query("SELECT DISTINCT ST_SRID(shape) FROM detections").split() == [srid]
    sums = "SELECT sum(area_m2), sum(ST_Area(shape)), count(*) FROM detections"
    stored, measured, count = map(float, query(sums).split("|"))
    assert stored == pytest.approx(measured, rel=1e-9 if "102562" in srid else 1e-3)
    assert count == len(table)

    left, bottom, right, top = table.total_bounds
    middle = (left + right) / 2
    boxes = [shapely.box(left, bottom, middle, top), shapely.box(middle, bottom, right, top)]
    zones = gpd.GeoDataFrame({"ward": ["west", "east"]}, geometry=boxes, crs=table.crs)
    zones.to_crs("EPSG:4326").to_file(tmp_path / "zones.fgb", driver="FlatGeobuf")
    load(tmp_path / "zones.fgb", "zones")
    joined = query(
        "SELECT ward, count(*) FROM detections AS d JOIN zones AS z "
        f"ON ST_Within(ST_PointOnSurface(d.shape), ST_Transform(z.shape, {srid})) GROUP BY ward"
    )
    found = {ward: int(number) for ward, number in (line.split("|") for line in joined.split())}
    west = int((table.representative_point().x < middle).sum())
    assert found == {"west": west, "east": len(table) - west}
