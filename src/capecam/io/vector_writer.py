"""Writing tables of polygons: GeoParquet, and GeoPackage and other formats from it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pyproj
from numpy.typing import NDArray

from capecam.io.parquet_texts import NO_TEXTS, texts_of

ROW_GROUP = 65_536
"""Rows that readers of a GeoParquet can skip together."""


def write_geoparquet(
    path: Path,
    table: gpd.GeoDataFrame,
    review: NDArray[np.int64] | None = None,
    *,
    texts: Mapping[str, str] = NO_TEXTS,
) -> None:
    """Write a table of multipolygons as GeoParquet (specification 1.1.0).

    ``GeoDataFrame.to_parquet`` would name its own version in the file.

    Args:
        path: the file to write.
        table: N rows, with the geometry as the last column.
        review: (N,) an additional column ``review``, put before the geometry.
        texts: further metadata of the file.
    """
    geo = json.dumps(_geo_metadata(table))

    def to_arrow(part: slice) -> pa.Table:
        stream = table.iloc[part].to_arrow(index=False, geometry_encoding="WKB")
        with pa.RecordBatchReader.from_stream(stream) as batches:
            # pyarrow 26 cannot combine chunks where there are empty ones.
            rows = pa.Table.from_batches([b for b in batches if len(b)], batches.schema)
        if review is not None:
            index = rows.schema.get_field_index("geometry")
            rows = rows.add_column(index, "review", pa.array(review[part]))
            rows = rows.replace_schema_metadata({"geo": geo, **rows.schema.metadata})
        return rows.combine_chunks()

    with pq.ParquetWriter(path, to_arrow(slice(0)).schema) as writer:
        for start in range(0, max(len(table), 1), ROW_GROUP):
            writer.write_table(to_arrow(slice(start, start + ROW_GROUP)))
        writer.add_key_value_metadata({"geo": geo, **texts})


def _geo_metadata(table: gpd.GeoDataFrame) -> dict[str, object]:
    """Return the file's metadata under the key ``geo``; an empty table has no bounding box."""
    crs = pyproj.CRS(table.crs).to_json_dict()
    column = {"encoding": "WKB", "crs": crs, "geometry_types": ["MultiPolygon"]}
    if len(table):
        column["bbox"] = table.total_bounds.tolist()
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


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
    source: Path, path: Path, layer: str, crs: pyproj.CRS, *, driver: str, **options: object
) -> None:
    """Write a GeoParquet as a layer of a file of another format, batch by batch.

    Args:
        source: the GeoParquet.
        path: the file to write.
        layer: name of the layer.
        crs: CRS of the geometry.
        driver: GDAL's driver of the format.
        options: options of pyogrio, such as ``layer_options``.
    """
    with pq.ParquetFile(source) as table:
        pyogrio.write_arrow(
            pa.RecordBatchReader.from_batches(table.schema_arrow, table.iter_batches()),
            path,
            driver=driver,
            layer=layer,
            geometry_name="geometry",
            geometry_type="MultiPolygon",
            crs=crs.to_wkt("WKT1_GDAL"),
            **options,
        )


def index_column(path: Path, layer: str, column: str) -> None:
    """Add an index of a column to a layer of a GeoPackage."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f'CREATE INDEX "{layer}_{column}" ON "{layer}" ("{column}")')


def crs_of(path: Path) -> pyproj.CRS:
    """Return the CRS of a GeoParquet that was written here."""
    geo = json.loads(pq.read_metadata(path).metadata[b"geo"])
    return pyproj.CRS.from_json_dict(geo["columns"]["geometry"]["crs"])
