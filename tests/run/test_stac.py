"""``OUT/stac``: valid by pystac and stac-model without a network, and what it says."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyproj
import pystac
import pytest
import rasterio
import shapely
from pystac.extensions.file import FileExtension
from pystac.extensions.mlm import MLMExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from stac_model.schema import MLModelProperties
from support.cities import CUSTOM_WKT
from support.runs import make_run

from capecam.grid import Grid, Window
from capecam.run.stac import write_catalogue
from capecam.run.stac_model import model_properties
from capecam.store.records import FileFacts
from capecam.store.run_folder import RunFolder
from capecam.store.verify import verify
from capecam.views.qgis.product_styles import write_styles

SCHEMAS = Path(__file__).parent / "stac_schemas"
PROJJSON = "https://proj.org/schemas/v0.7/projjson.schema.json"


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("a test asks for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def validator() -> JsonSchemaSTACValidator:
    """pystac's, with the schemas of extensions, and that of PROJ which PROJ brings along."""
    validator = JsonSchemaSTACValidator()
    schemas = [json.loads(path.read_text()) for path in SCHEMAS.glob("*.json")]
    validator.schema_cache |= {schema["$id"]: schema for schema in schemas}
    projjson = Path(pyproj.datadir.get_data_dir()) / "projjson.schema.json"
    validator.schema_cache[PROJJSON] = json.loads(projjson.read_text())
    return validator


def read(out: Path, validator: JsonSchemaSTACValidator) -> tuple[pystac.Catalog, pystac.Collection]:
    """The catalogue and its collection, which are valid with everything in them."""
    pystac.validation.set_validator(validator)
    catalog = pystac.Catalog.from_file(str(out / "stac/catalog.json"))
    catalog.validate_all()
    return catalog, catalog.get_child("cells")


def test_every_cell_and_the_network_have_a_valid_item(city, validator) -> None:
    _, collection = read(city / "out", validator)
    items = {item.id: item for item in collection.get_items()}
    assert items.keys() == {str(n) for n in range(9)}
    for name, item in items.items():
        rasters = {path.stem for path in (city / f"out/cells/{name}").glob("*.tif")}
        assert item.assets.keys() == rasters | {"regions", "detections"}
        assert ProjectionExtension.ext(item).code == "ESRI:102562"
        for key in rasters:
            asset = item.assets[key]
            path = Path(asset.get_absolute_href())
            file, projection = FileExtension.ext(asset), ProjectionExtension.ext(asset)
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            assert (file.size, file.checksum) == (path.stat().st_size, f"1220{digest}")
            with rasterio.open(path) as dataset:
                assert projection.shape == list(dataset.shape)
                assert projection.transform == list(dataset.transform)[:6]
                bands = asset.extra_fields["bands"]
                assert tuple(band["name"] for band in bands) == dataset.descriptions
                assert [band.get("raster:scale", 1.0) for band in bands] == [*dataset.scales]
        (network,) = (link for link in item.links if link.rel == "derived_from")
        assert network.get_absolute_href() == str(city / "out/stac/model.json")
    assets = [*collection.assets.values(), *(a for i in items.values() for a in i.assets.values())]
    assert all(Path(asset.get_absolute_href()).is_file() for asset in assets)
    assert collection.license == "other"


def test_the_network_is_an_item_of_mlm(city, validator) -> None:
    catalog, _ = read(city / "out", validator)
    (item,) = catalog.get_items()
    network = MLMExtension.ext(item)
    assert (network.mlm_name, network.architecture) == ("model", "FPN (resnet18)")
    assert network.hyperparameters.to_dict()["explanation"]["methods"] == ["gradcam"]
    properties = MLModelProperties(
        **{key: value for key, value in item.properties.items() if key.startswith("mlm:")}
    )
    assert properties.input[0].input.shape == [-1, 3, 64, 64]
    scaling = [(entry.mean, entry.stddev) for entry in properties.input[0].value_scaling]
    assert np.allclose(scaling, np.array([[0.485, 0.229], [0.456, 0.224], [0.406, 0.225]]) * 255)
    names = [entry.description for entry in properties.output[0].classes]
    assert names == ["background", "solar panel", "water heater", "pool heater"]
    assert properties.output[0].result.shape == [-1, 4, 64, 64]
    asset = item.assets["model"]
    path = Path(asset.get_absolute_href())
    assert path.samefile(city / "model.pt")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert FileExtension.ext(asset).checksum == f"1220{digest}"


def test_a_number_of_channels_that_is_not_known_is_open(city) -> None:
    """As in records of version 0.1: two classes may have one channel or two."""
    run = RunFolder.open(city / "out")
    checkpoint = run.record.checkpoint.model_copy(update={"channels": 0})
    record = run.record.model_copy(update={"checkpoint": checkpoint})
    properties = model_properties(replace(run, record=record))
    output = MLModelProperties(**{k: v for k, v in properties.items() if "mlm:" in k}).output[0]
    assert output.result.shape == [-1, -1, 64, 64]
    assert "softmax" not in output.description


def test_a_capture_date_that_is_not_known_is_every_date(city, validator) -> None:
    _, collection = read(city / "out", validator)
    item = next(collection.get_items())
    assert item.datetime is None
    assert item.common_metadata.start_datetime == datetime(1900, 1, 1, tzinfo=UTC)
    assert item.common_metadata.end_datetime == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert collection.extent.temporal.intervals == [[None, None]]


def make_catalogue(out: Path, crs: str, corner: tuple[float, float], pixel: float) -> None:
    grid = Grid(pyproj.CRS(crs).to_wkt(), corner, (pixel, pixel), Window(0, 0, 40, 60))
    make_run(out, np.zeros((40, 60), np.uint8), grid, [Window(0, 0, 40, 30), Window(0, 30, 40, 30)])
    write_catalogue(RunFolder.open(out), {})


@pytest.mark.parametrize(
    ("crs", "corner", "pixel"),
    [("EPSG:32760", (816_000.0, 8_005_000.0), 100.0), ("EPSG:4326", (179.98, -17.0), 0.001),
     ("EPSG:32701", (181_000.0, 8_005_000.0), 100.0)],
)  # fmt: skip
def test_footprints_are_cut_at_the_antimeridian(tmp_path, validator, crs, corner, pixel) -> None:
    make_catalogue(tmp_path, crs, corner, pixel)
    _, collection = read(tmp_path, validator)
    to_degrees = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    crossed = 0
    for n, item in enumerate(sorted(collection.get_items(), key=lambda item: item.id)):
        shape, (west, south, east, north) = shapely.geometry.shape(item.geometry), item.bbox
        assert shape.is_valid
        assert shape.bounds[0] >= -180
        assert shape.bounds[2] <= 180
        crossed += west > east
        assert (shape.geom_type == "MultiPolygon") == (west > east)
        for x, y in ((0.5, 0.5), (29.5, 39.5), (15, 20)):
            lon, lat = to_degrees.transform(corner[0] + (30 * n + x) * pixel, corner[1] - y * pixel)
            lon = (lon + 180) % 360 - 180
            assert shape.covers(shapely.Point(lon, lat))
            assert south <= lat <= north
            assert (west <= lon <= east) if west <= east else (lon >= west or lon <= east)
    assert crossed == 1
    ((west, _, east, _),) = collection.extent.spatial.bboxes
    assert west > 179 > -179 > east


def test_a_crs_without_a_code_is_said_in_full(tmp_path, validator) -> None:
    make_catalogue(tmp_path, CUSTOM_WKT, (-51_000.0, -3_763_000.0), 0.08)
    _, collection = read(tmp_path, validator)
    projection = ProjectionExtension.ext(next(collection.get_items()))
    assert projection.code is None
    crs = pyproj.CRS(CUSTOM_WKT)
    assert pyproj.CRS.from_wkt(projection.wkt2) == crs
    assert pyproj.CRS.from_json_dict(projection.projjson) == crs


def test_edits_are_kept_and_found_and_items_that_are_gone_removed(city, tmp_path, caplog) -> None:
    out = tmp_path / "out"
    shutil.copytree(city / "out", out)
    assert verify(out).exit_code == 0
    changed = out / "stac/collection.json"
    changed.write_text(changed.read_text().replace('"Cells"', '"My cells"'))
    (finding,) = verify(out).findings
    assert finding.path == str(changed)
    assert "capecam finish" in finding.remedy
    run = RunFolder.open(out)
    for edited in (out / "stac/catalog.json", out / "classes.qml"):
        edited.write_bytes("Zürich".encode("latin-1"))
    foreign = out / "stac/cells/mine.json"
    foreign.write_text("{}")
    (out / "cells/8/cell.json").unlink()
    before = (out / "stac/cells/3.json").stat()
    written = write_catalogue(RunFolder.open(out), run.record.products)
    assert "cells/8.json" not in written
    assert not (out / "stac/cells/8.json").exists()
    assert '"My cells"' in (out / "stac/edited/collection-1.json").read_text()
    assert "is not as capecam wrote it" in caplog.text
    assert (out / "stac/cells/3.json").stat() == before
    assert foreign.read_text() == "{}"
    foreign.unlink()
    assert [*(out / "stac/cells").iterdir()] == [*(out / "stac/cells").glob("?.json")]
    assert written["collection.json"] == FileFacts.of(changed)
    assert (out / "stac/edited/catalog-1.json").read_bytes() == b"Z\xfcrich"
    write_styles(run)
    assert "<qgis" in (out / "classes.qml").read_text()
