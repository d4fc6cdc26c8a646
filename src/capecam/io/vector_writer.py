"""Rows of objects to files, as they come: GeoParquet and GeoPackage."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pyproj
from numpy.typing import NDArray

ROW_GROUP = 65_536
"""Rows of the GeoParquet that readers can skip together; never those of a batch of cells, so that
the file does not depend on how the work was cut."""


class GeoParquet:
    """A file that takes tables of any length, of which there must be at least one.

    ``GeoDataFrame.to_parquet`` wants all rows at once.
    """

    def __init__(self, path: Path, crs: pyproj.CRS) -> None:
        self._path, self._crs = path, crs
        self._writer: pq.ParquetWriter | None = None
        self._held: pa.Table | None = None
        self._bounds: list[NDArray[np.float64]] = []

    def add(self, table: gpd.GeoDataFrame) -> None:
        """Append rows; all tables have the same columns."""
        self._bounds.append(table.total_bounds)
        rows = pa.table(table.to_arrow(index=False, geometry_encoding="WKB"))
        self._held = rows if self._held is None else pa.concat_tables([self._held, rows])
        while len(self._held) > ROW_GROUP:
            self._write(self._held.slice(0, ROW_GROUP))
            self._held = self._held.slice(ROW_GROUP)

    def _write(self, rows: pa.Table) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, rows.schema)
        self._writer.write_table(rows.combine_chunks())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if kind is None and self._held is not None:
            self._write(self._held)
        if self._writer is not None:
            geo = _geo(self._crs, np.array(self._bounds))
            self._writer.add_key_value_metadata({"geo": json.dumps(geo)})
            self._writer.close()


def _geo(crs: pyproj.CRS, bounds: NDArray[np.float64]) -> dict[str, Any]:
    """What makes it GeoParquet (specification 1.1.0); bounds (N, 4) are NaN for empty tables."""
    column = {"encoding": "WKB", "crs": crs.to_json_dict(), "geometry_types": ["MultiPolygon"]}
    bounds = bounds[~np.isnan(bounds[:, 0])]
    if len(bounds):
        column["bbox"] = [*bounds[:, :2].min(axis=0).tolist(), *bounds[:, 2:].max(axis=0).tolist()]
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def with_column(source: Path, target: Path, name: str, values: NDArray[np.int64]) -> None:
    """A copy of a GeoParquet with one more column, before the geometry.

    Args:
        source: the file.
        target: the copy.
        name: of the column.
        values: one a row.
    """
    with pq.ParquetFile(source) as before:
        writer, row = None, 0
        for group in range(before.num_row_groups):
            rows = before.read_row_group(group)
            column = pa.array(values[row : row + len(rows)])
            rows = rows.add_column(rows.schema.get_field_index("geometry"), name, column)
            writer = writer or pq.ParquetWriter(target, rows.schema)
            writer.write_table(rows)
            row += len(rows)
        if writer is not None:
            writer.add_key_value_metadata({"geo": before.metadata.metadata[b"geo"].decode()})
            writer.close()


def write_gpkg(path: Path, layers: Mapping[str, Path], crs: pyproj.CRS) -> None:
    """GeoParquets as the layers of a GeoPackage."""
    for layer, source in layers.items():
        # 1.3 and later make older QGIS warn.
        version = {} if path.exists() else {"VERSION": "1.2"}
        write_layer(source, path, layer, crs, driver="GPKG", dataset_options=version)


def write_layer(
    source: Path, path: Path, layer: str, crs: pyproj.CRS, *, driver: str, **options: Any
) -> None:
    """A GeoParquet as a layer of a file that GDAL writes, a row group at a time.

    Args:
        source: the GeoParquet.
        path: the file.
        layer: its name there.
        crs: of the shapes.
        driver: of GDAL.
        options: of pyogrio, such as ``layer_options``.
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
    """Let readers of a GeoPackage find rows by a column without reading all."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f'CREATE INDEX "{layer}_{column}" ON "{layer}" ("{column}")')


def read_rows(path: Path) -> Iterator[gpd.GeoDataFrame]:
    """The rows of a GeoParquet of ours, a row group at a time."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield gpd.GeoDataFrame.from_arrow(file.read_row_group(group))


def crs_of(path: Path) -> pyproj.CRS:
    """Of a GeoParquet of ours."""
    geo = json.loads(pq.read_metadata(path).metadata[b"geo"])
    return pyproj.CRS.from_json_dict(geo["columns"]["geometry"]["crs"])
