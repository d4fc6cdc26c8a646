"""Writing tables of polygons: GeoParquet, and GeoPackage and other formats from it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyogrio
import pyproj
import shapely
from numpy.typing import NDArray

from capecam.io.parquet_texts import COMPRESSION, NO_TEXTS, texts_of

ROW_GROUP = 16_384
"""Rows that readers of a GeoParquet can skip together: 12 MB of detections with 43 columns, 38 MB
when they are read. A square kilometre of 200,000 detections, copies of the sample city's side by
side, is in one or two of 13 such groups."""

BBOX = "bbox"
"""Column with the bounds of each geometry, by which readers skip row groups (GeoParquet 1.1)."""

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def write_geoparquet(
    path: Path,
    table: gpd.GeoDataFrame,
    review: NDArray[np.int64] | None = None,
    *,
    texts: Mapping[str, str] = NO_TEXTS,
    by_place: bool = False,
    fields: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Write a table of multipolygons as GeoParquet (specification 1.1.0).

    ``GeoDataFrame.to_parquet`` would name its own version in the file.

    Args:
        path: the file to write.
        table: N rows, with the geometry as the last column; without empty ones to write by place.
        review: (N,) an additional column ``review``, put before the geometry.
        texts: further metadata of the file.
        by_place: sort the rows along a Hilbert curve, and add the column ``BBOX``, so that a part
            of the area is read from a part of the file.
        fields: by column, metadata of its field: ``title``, ``description``, ``unit``.
    """
    order = _hilbert_order(table) if by_place else np.arange(len(table))
    geo = json.dumps(_geo_metadata(table, has_bbox=by_place))

    def to_arrow(start: int, stop: int | None = None) -> pa.Table:
        index = order[start:stop]
        part = table.iloc[index]
        stream = part.to_arrow(index=False, geometry_encoding="WKB")
        with pa.RecordBatchReader.from_stream(stream) as batches:
            # pyarrow 26 cannot combine chunks where there are empty ones.
            rows = pa.Table.from_batches([b for b in batches if len(b)], batches.schema)
        metadata = rows.schema.metadata
        if review is not None:
            at = rows.schema.get_field_index("geometry")
            rows = rows.add_column(at, "review", pa.array(review[index]))
        if by_place:
            rows = rows.append_column(BBOX, _bounds(part.geometry.to_numpy()))
        described = [
            field.with_metadata({**(field.metadata or {}), **(fields or {}).get(field.name, {})})
            for field in rows.schema
        ]
        return rows.cast(pa.schema(described, {"geo": geo, **metadata})).combine_chunks()

    with pq.ParquetWriter(path, to_arrow(0, 0).schema, compression=COMPRESSION) as writer:
        for start in range(0, max(len(table), 1), ROW_GROUP):
            writer.write_table(to_arrow(start, start + ROW_GROUP))
        writer.add_key_value_metadata({"geo": geo, **texts})


def _hilbert_order(table: gpd.GeoDataFrame) -> NDArray[np.int64]:
    """Return (N,) indices of the rows along a Hilbert curve through the centres of their bounds."""
    if table.empty:
        return np.arange(0)
    return np.argsort(table.hilbert_distance().to_numpy(), kind="stable")


def _bounds(shapes: NDArray[np.object_]) -> pa.StructArray:
    corners = shapely.bounds(shapes).reshape(-1, 4).T
    return pa.StructArray.from_arrays([pa.array(each) for each in corners], CORNERS)


def _geo_metadata(table: gpd.GeoDataFrame, *, has_bbox: bool) -> dict[str, object]:
    """Return the file's metadata under the key ``geo``; an empty table has no bounding box."""
    crs = pyproj.CRS(table.crs).to_json_dict()
    column = {"encoding": "WKB", "crs": crs, "geometry_types": ["MultiPolygon"]}
    if len(table):
        column["bbox"] = table.total_bounds.tolist()
    if has_bbox:
        column["covering"] = {"bbox": {corner: [BBOX, corner] for corner in CORNERS}}
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def data_columns(path: Path) -> list[str]:
    """Return the names of a GeoParquet's columns but ``BBOX``, which repeats the geometry."""
    # A zones file may have a column of this name; no other format has structures.
    return [field.name for field in pq.read_schema(path) if not pa.types.is_struct(field.type)]


def write_gpkg(path: Path, layers: Mapping[str, Path], crs: pyproj.CRS) -> None:
    """Write GeoParquet files as the layers of a GeoPackage.

    Statements about their origin become the metadata of the layers (table ``gpkg_metadata``).
    """
    for layer, source in layers.items():
        # Older releases of QGIS warn of version 1.3 and later.
        version = {} if path.exists() else {"VERSION": "1.2"}
        write_layer(
            source,
            path,
            layer,
            crs,
            driver="GPKG",
            dataset_options=version,
            layer_metadata=texts_of(source) or None,
        )


def write_layer(
    source: Path,
    path: Path,
    layer: str,
    crs: pyproj.CRS,
    *,
    driver: str,
    columns: Sequence[str] | None = None,
    decimals: Mapping[str, int] | None = None,
    **options: object,
) -> None:
    """Write a GeoParquet as a layer of a file of another format, batch by batch.

    Args:
        source: the GeoParquet.
        path: the file to write.
        layer: name of the layer.
        crs: CRS of the geometry.
        driver: GDAL's driver of the format.
        columns: columns to write, of those that there are; None for all.
        decimals: by column, decimals to which numbers are rounded.
        options: options of pyogrio, such as ``layer_options``.
    """
    names = [name for name in data_columns(source) if columns is None or name in columns]
    # GDAL's names: GeoPackage keeps these texts in its table gpkg_data_columns.
    metadata = {
        name: {"GDAL:OGR:alternative_name": title, "GDAL:OGR:comment": description}
        for name, (title, description) in column_descriptions(source).items()
    }
    digits = decimals or {}
    with pq.ParquetFile(source) as table:
        schema = pa.schema([
            table.schema_arrow.field(name).with_metadata(metadata.get(name)) for name in names
        ])  # fmt: skip
        batches = (
            pa.record_batch([_rounded(batch[name], digits.get(name)) for name in names], schema)
            for batch in table.iter_batches(columns=names)
        )
        pyogrio.write_arrow(
            pa.RecordBatchReader.from_batches(schema, batches),
            path,
            driver=driver,
            layer=layer,
            geometry_name="geometry",
            geometry_type="MultiPolygon",
            crs=crs.to_wkt("WKT1_GDAL"),
            **options,
        )


def _rounded(values: pa.Array, digits: int | None) -> pa.Array:
    return values if digits is None else pc.round(values, digits)


def column_descriptions(path: Path) -> dict[str, tuple[str, str]]:
    """Return title and description, with its unit, of the described columns of a GeoParquet."""
    found = {}
    for field in pq.read_schema(path):
        texts = {key.decode(): text.decode() for key, text in (field.metadata or {}).items()}
        if "title" in texts:
            unit = f" [{texts['unit']}]" if "unit" in texts else ""
            found[field.name] = (texts["title"], f"{texts['description']}{unit}")
    return found


def index_column(path: Path, layer: str, column: str) -> None:
    """Add an index of a column to a layer of a GeoPackage."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f'CREATE INDEX "{layer}_{column}" ON "{layer}" ("{column}")')


def crs_of(path: Path) -> pyproj.CRS:
    """Return the CRS of a GeoParquet that was written here."""
    geo = json.loads(pq.read_metadata(path).metadata[b"geo"])
    return pyproj.CRS.from_json_dict(geo["columns"]["geometry"]["crs"])
