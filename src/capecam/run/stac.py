"""``OUT/stac``: a static STAC 1.1 catalogue of a run, with an item a cell and one of the network.

``catalog.json`` has the collection of the cells and the item of the network. All links are
relative, so that the folder of the run can be moved and published as it is. Everything is a plain
dictionary: pystac would be a dependency for what json writes; tests validate with it.

https://github.com/radiantearth/stac-spec; extensions in ``EXTENSIONS``
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyproj
import shapely

from capecam.detections.measurement import middle_pixel_m
from capecam.grid import Grid
from capecam.io.gdal import open_readonly
from capecam.io.longitudes import TURN, in_one_turn
from capecam.io.reprojection import WGS84, reproject
from capecam.run.stac_model import (
    FILE,
    MLM,
    model_asset,
    model_name,
    model_properties,
    multihash,
    quoted,
)
from capecam.runtime.files import atomic_write
from capecam.settings import TITLES
from capecam.settings.about import spdx_expression
from capecam.settings.capture_date import CaptureDate
from capecam.store.edited import is_edited, set_aside
from capecam.store.file_names import (
    CATALOGUE,
    DETECTIONS,
    GEOPACKAGE,
    OBJECTS,
    PIECES,
    PROJECT,
    REPORT,
    SUMMARY,
)
from capecam.store.records import FileFacts
from capecam.store.run_folder import RunFolder

CATALOG, COLLECTION, MODEL, CELLS = "catalog.json", "collection.json", "model.json", "cells"

EXTENSIONS = [
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/raster/v2.0.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
    FILE,
]
"""Extensions of the item of a cell."""

TITLE = "Maps of rooftop solar, and of why the network says so"

UNKNOWN = "1900-01-01T00:00:00Z", "9999-12-31T23:59:59Z"
"""Interval of items whose capture date is not known: STAC demands one, without open ends. These are
the ends that the best practices of MLM name; a collection says null."""

JSON_TYPE, GEOJSON_TYPE = "application/json", "application/geo+json"
COG_TYPE = "image/tiff; application=geotiff; profile=cloud-optimized"
PARQUET_TYPE = "application/vnd.apache.parquet"

CITY_FILES = {
    DETECTIONS: (PARQUET_TYPE, "all detections, as GeoParquet"),
    GEOPACKAGE: ("application/geopackage+sqlite3", "all detections, as a GeoPackage"),
    SUMMARY: ("text/csv", "number and area by class"),
    PROJECT: ("application/vnd.qgis.qgz", "QGIS project"),
    REPORT: ("text/html", "report"),
}
"""Media types and titles of the collection's assets, beside a virtual raster a product."""

DIGITS = 7
"""Decimals of longitudes and latitudes: a centimetre."""

Tree = dict[str, Any]


def write_catalogue(run: RunFolder, products: Mapping[str, FileFacts]) -> dict[str, FileFacts]:
    """Write the catalogue of a run, and remove the items of cells that it has no more.

    A file that is right already is not touched; one that somebody has edited is kept as a copy.

    Args:
        run: with all city products but the report.
        products: those of the city that have checksums.

    Returns:
        The files of the catalogue, by their path in it.
    """
    folder, written, before = run.out / CATALOGUE, dict[str, FileFacts](), run.record.stac
    (folder / CELLS).mkdir(parents=True, exist_ok=True)
    for name, tree in _documents(run, products):
        # Those of cells have one line: for several, json has no encoder in C.
        indent = None if name.startswith(CELLS) else 1
        path, text = folder / name, f"{json.dumps(tree, indent=indent)}\n"
        if not path.is_file() or path.read_bytes() != text.encode():
            _keep(path, before.get(name))
            with atomic_write(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        written[name] = FileFacts.of(path)
    for name in sorted(before.keys() - written.keys()):  # and nothing that somebody has put there
        path = folder / name
        if path.is_file():
            _keep(path, before[name])
            path.unlink()
    return written


def _keep(path: Path, written: FileFacts | None) -> None:
    """Copy a file that is not as it was last written."""
    if is_edited(path, {path.name: written} if written else {}):
        set_aside(path)


def _documents(run: RunFolder, products: Mapping[str, FileFacts]) -> Iterator[tuple[str, Tree]]:
    """Yield the path and the content of every file of the catalogue."""
    footprints = _Footprints.of(run)
    has_model = run.settings.checkpoint is not None
    yield CATALOG, _catalog(run, has_model=has_model)
    yield COLLECTION, _collection(run, footprints, products)
    if has_model:
        yield MODEL, _model(run, footprints)
    rasters = {product: _Raster.of(run, product) for product in run.products}
    place = _projection(run)
    for name in run.cells:
        yield f"{CELLS}/{name}.json", _cell(run, name, footprints, rasters, place)


def _catalog(run: RunFolder, *, has_model: bool) -> Tree:
    links = [_link("root", CATALOG, TITLE), _link("child", COLLECTION, "Cells")]
    if has_model:
        links.append(_link("item", MODEL, run.about.model, GEOJSON_TYPE))
    return {
        "type": "Catalog",
        "stac_version": "1.1.0",
        "id": f"capecam-{run.about.run.split()[0]}",
        "title": TITLE,
        "description": f"A run of {run.about.software} with the network {run.about.model}.",
        "links": links,
    }


def _collection(run: RunFolder, footprints: _Footprints, products: Mapping[str, FileFacts]) -> Tree:
    captured = CaptureDate(run.about.captured) if run.about.captured else None
    interval = [_time(captured.start), _time(captured.end)] if captured else [None, None]
    files = CITY_FILES | {
        f"{Path(product).stem}.vrt": ("application/x-gdal-vrt", f"{_title(product)}, of all cells")
        for product in run.products
    }
    return {
        "type": "Collection",
        "stac_version": "1.1.0",
        "stac_extensions": [FILE],
        "id": "cells",
        "title": "Cells",
        "description": "Images of the run: class, probability and explanations of every pixel; "
        "the detections of all of them are assets of this collection.",
        **_rights(run),
        "extent": {
            "spatial": {"bbox": [footprints.hull]},
            "temporal": {"interval": [interval]},
        },
        "links": [
            _link("root", CATALOG, TITLE),
            _link("parent", CATALOG, TITLE),
            *_licence_links(run),
            *(_link("item", f"{CELLS}/{name}.json", name, GEOJSON_TYPE) for name in run.cells),
        ],
        "assets": {
            name: {
                **_asset(f"../{name}", products.get(name)),
                "type": kind,
                "title": title,
                "roles": ["data"],
            }
            for name, (kind, title) in files.items()
        },
    }


def _cell(
    run: RunFolder,
    name: str,
    footprints: _Footprints,
    rasters: Mapping[str, _Raster],
    place: Tree,
) -> Tree:
    """Return the item of a cell."""
    about, files, grid = run.about_cell(name), run.files(name), run.grid.crop(run.core(name))
    captured = CaptureDate(about.captured) if about.captured else None
    product, _, version = about.software.partition(" ")
    links = [
        _link("root", f"../{CATALOG}", TITLE),
        _link("parent", f"../{COLLECTION}", "Cells"),
        _link("collection", f"../{COLLECTION}", "Cells"),
        *_licence_links(run),
    ]
    if run.settings.checkpoint is not None:
        network = _link("derived_from", f"../{MODEL}", run.about.model, GEOJSON_TYPE)
        links.append({**network, "mlm:name": model_name(run), "processing:level": "L4"})
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": EXTENSIONS,
        "id": name,
        "collection": "cells",
        **footprints.of_cell(name),
        "properties": {
            "title": name,
            **_times(captured),
            **_rights(run),
            **place,
            "processing:level": "L4",
            "processing:lineage": f"Image {run.cells[name].image}; network {about.model} "
            f"(sha256 {about.model_sha256}); run {about.run}.",
            **({"processing:software": {product: version}} if version else {}),
        },
        "links": links,
        "assets": {
            **{
                Path(product).stem: {
                    **_asset(f"../../cells/{name}/{product}", files[product]),
                    **raster.asset(grid),
                }
                for product, raster in rasters.items()
                if product in files
            },
            "regions": {
                **_asset(f"../../cells/{name}/{PIECES}", files.get(PIECES)),
                "type": PARQUET_TYPE,
                "title": "Regions, before they are joined across cells and filtered",
                "roles": ["data"],
            },
            "detections": {
                **_asset(f"../../{DETECTIONS}", None),
                "type": PARQUET_TYPE,
                "title": f"Detections of all cells; those of this one have {run.cells[name].image} "
                "in their column images",
                "roles": ["data"],
            },
        },
    }


def _model(run: RunFolder, footprints: _Footprints) -> Tree:
    """Return the item of the network; its place and time are those of this run."""
    checkpoint, captured = run.settings.checkpoint, run.about.captured
    if checkpoint is None:
        raise ValueError("a network without a file has no item")
    sha256 = run.record.checkpoint.sha256
    properties = model_properties(run)
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [MLM, FILE],
        "id": f"{properties['mlm:name']}-{sha256[:12]}",
        **footprints.of_hull(),
        "properties": {
            "title": run.about.model,
            "description": "The network of this run. Place and time are those of the images that "
            "it was run on, not of those that it was trained on.",
            **_times(CaptureDate(captured) if captured else None),
            **properties,
        },
        "links": [_link("root", CATALOG, TITLE), _link("parent", CATALOG, TITLE)],
        "assets": {"model": model_asset(checkpoint, sha256, run.out / CATALOGUE)},
    }


@dataclass(frozen=True, slots=True)
class _Raster:
    """A product of cells, as an asset has it."""

    tree: Tree
    """Fields that are the same in all cells."""
    stride: int
    """Edge of a pixel, in pixels of the imagery."""

    @classmethod
    def of(cls, run: RunFolder, product: str) -> Self:
        """Read the bands of a product from its first raster."""
        stride = run.stride(product)
        resolution_m = round(stride * float(middle_pixel_m(run.grid).mean()), 4)
        with open_readonly(run.layer(product).tiles[0].path) as dataset:
            bands = [
                {
                    "name": description,
                    "data_type": dtype,
                    "nodata": "nan" if np.isnan(nodata) else nodata,
                    "raster:spatial_resolution": resolution_m,
                    **({"raster:scale": scale, "raster:offset": 0} if scale != 1 else {}),
                }
                for description, dtype, nodata, scale in zip(
                    dataset.descriptions,
                    dataset.dtypes,
                    dataset.nodatavals,
                    dataset.scales,
                    strict=True,
                )
            ]
            is_classes = dataset.colorinterp[0].name == "palette"
        if is_classes:
            values = enumerate(run.names)
            bands[0]["description"] = ", ".join(f"{value}: {name}" for value, name in values)
        tree = {"type": COG_TYPE, "title": _title(product), "roles": ["data"], "bands": bands}
        return cls(tree, stride)

    def asset(self, grid: Grid) -> Tree:
        """Return the fields of the asset of a cell with this grid of pixels of the imagery."""
        own = grid.coarsen(self.stride) or grid
        t = own.transform
        return {
            **self.tree,
            "proj:shape": list(own.window.shape),
            "proj:transform": [t.a, t.b, t.c, t.d, t.e, t.f],
        }


@dataclass(frozen=True, slots=True)
class _Footprints:
    """Footprints of cells in longitude and latitude."""

    cells: Mapping[str, shapely.Geometry]
    """Polygons by name, with longitudes that go on beyond 180."""

    @classmethod
    def of(cls, run: RunFolder) -> Self:
        """Reproject the outlines of all cells."""
        boxes = [shapely.box(*run.grid.crop(run.core(name)).bounds) for name in run.cells]
        crs = pyproj.CRS.from_wkt(run.grid.crs)
        shapes, _ = reproject(np.array(boxes, object), crs, WGS84)
        return cls(dict(zip(run.cells, shapely.orient_polygons(shapes), strict=True)))

    def of_cell(self, name: str) -> Tree:
        """Return ``geometry`` and ``bbox`` of a cell."""
        return self._place(self.cells[name])

    def of_hull(self) -> Tree:
        """Return ``geometry`` and ``bbox`` of a box around all cells."""
        return self._place(shapely.box(*shapely.total_bounds(list(self.cells.values()))))

    @property
    def hull(self) -> list[float]:
        """``bbox`` of all cells."""
        bbox: list[float] = self.of_hull()["bbox"]
        return bbox

    @staticmethod
    def _place(shape: shapely.Geometry) -> Tree:
        """Return a shape and its bounds as RFC 7946 has them: cut at the antimeridian."""
        west, south, east, north = shape.bounds
        (cut,) = in_one_turn(np.array([shape], object), 0.0)
        rounded = shapely.transform(cut, lambda xy: np.round(xy, DIGITS))
        bbox = [_longitude(west, -180.0), south, _longitude(east, 180.0), north]
        return {
            "geometry": json.loads(shapely.to_geojson(rounded)),
            "bbox": [round(float(value), DIGITS) for value in bbox],
        }


def _longitude(degrees: float, edge: float) -> float:
    """Return a longitude from -180 to 180; on the antimeridian the one that is ``edge``."""
    turned = (degrees + TURN / 2) % TURN - TURN / 2
    return edge if turned == -TURN / 2 else turned


def _projection(run: RunFolder) -> Tree:
    """Return the CRS of all rasters: by its code only if it is exactly that one."""
    crs = pyproj.CRS.from_wkt(run.grid.crs)
    authority = crs.to_authority(min_confidence=100)
    if authority is None:
        return {"proj:code": None, "proj:wkt2": crs.to_wkt(), "proj:projjson": crs.to_json_dict()}
    return {"proj:code": ":".join(authority)}


def _times(captured: CaptureDate | None) -> Tree:
    """Return when the images of an item were taken."""
    start, end = (_time(captured.start), _time(captured.end)) if captured is not None else UNKNOWN
    if start == end:
        return {"datetime": start}
    return {"datetime": None, "start_datetime": start, "end_datetime": end}


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _rights(run: RunFolder) -> Tree:
    """Return licence and provider; ``other`` is STAC's word for all that is no SPDX identifier."""
    licence, attribution = run.about.licence, run.about.attribution
    is_listed = licence and " " not in licence and spdx_expression(licence)
    tree: Tree = {"license": licence if is_listed else "other"}
    if attribution:
        tree["providers"] = [{"name": attribution, "roles": ["producer"]}]
    return tree


def _licence_links(run: RunFolder) -> list[Tree]:
    about = run.about
    if not about.licence_url:
        return []
    return [{"rel": "license", "href": about.licence_url, "title": about.licence or "Licence"}]


def _title(product: str) -> str:
    stem = Path(product).stem
    titles = {
        "classes": "Class of each pixel",
        "probability": "Probability of each class",
        OBJECTS: "Each object's own explanation",
    }
    return titles.get(stem) or TITLES.get(stem, stem)


def _asset(href: str, facts: FileFacts | None) -> Tree:
    """Return the fields of any asset; the size and checksum of a file that has recorded ones."""
    tree: Tree = {"href": quoted(href)}
    if facts is not None:
        tree |= {"file:size": facts.bytes, "file:checksum": multihash(facts.sha256)}
    return tree


def _link(rel: str, href: str, title: str, media_type: str = JSON_TYPE) -> Tree:
    start = "" if href.startswith("..") else "./"
    return {"rel": rel, "href": start + quoted(href), "type": media_type, "title": title}
