"""``capecam summarize``: counts and areas by zone and class, and changes between two runs.

An object is counted in the zone of its inside point, or in the row ``(outside)``, so that rows add
up to the city.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
from numpy.typing import NDArray

from capecam.analysis.change import STATUSES, RunYear, check_comparable, compare_runs
from capecam.analysis.duplicates import without_repeated
from capecam.analysis.result_folder import result_folder
from capecam.analysis.zones import COLUMNS, OUTSIDE, ZoneRules, Zones, shapes_of
from capecam.errors import UsageError
from capecam.io.gdal import gdal_settings
from capecam.io.geopackage import holds, remove_journals
from capecam.io.parquet_texts import texts_of
from capecam.io.reprojection import metres_per_unit
from capecam.io.vector_reader import read_polygons
from capecam.io.vector_writer import write_geoparquet, write_gpkg
from capecam.runtime.files import atomic_write
from capecam.settings import ClassSettings
from capecam.store.edited import set_aside
from capecam.store.file_names import DETECTIONS
from capecam.views.styles.layers import changes_style, zones_style
from capecam.views.styles.qml import LayerStyle, embed_style

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

DECIMALS = {
    "zone_km2": 12, "valid_share": 9, "valid_share_before": 9, "per_km2": 6, "per_building": 9,
}  # fmt: skip
"""Decimals in the files; areas in m² have 6 (:func:`_whole_mm2`)."""

FORMATS = {
    "area_m2": "{:,.1f}", "area_m2_before": "{:,.1f}", "area_m2_change": "{:+,.1f}",
    "count_change": "{:+,d}", "zone_km2": "{:,.3f}", "valid_share": "{:.1%}",
    "valid_share_before": "{:.1%}", "per_km2": "{:,.1f}", "per_building": "{:.4f}",
}  # fmt: skip
"""Formats on the terminal."""

SUMMED = (
    "count", "area_m2", "count_before", "area_m2_before", "count_change", "area_m2_change",
    "kept", "new", "gone", "unseen",
)  # fmt: skip
"""Columns that add up over zones."""

MAX_ROWS = 60
"""Maximum number of rows on the terminal."""

NAME_WIDTH = 24
"""Maximum length of a zone's name on the terminal."""

ONE_RUN = (
    "zone", "class", "count", "area_m2", "zone_km2", "valid_share", "per_km2", "buildings",
    "per_building",
)  # fmt: skip
TWO_RUNS = (
    "zone", "class", "count", "count_before", "count_change", "area_m2", "area_m2_change",
    "per_building", "new", "gone", "unseen",
)  # fmt: skip
"""Columns on the terminal, in at most 120 characters; the files have all columns."""

ZONES, CHANGES = "zones", "changes"
"""Names of layers, and stems of files."""


@dataclass(frozen=True, slots=True)
class ZoneSummary:
    """Result of counting in zones."""

    table: gpd.GeoDataFrame
    """Table of zones.parquet: one row per zone and class; ``(outside)`` is last."""
    coarse: int
    """Number of zones whose valid imagery was partly counted at reduced resolution."""
    files: tuple[Path, ...]
    """Files that were written."""

    @property
    def zones(self) -> int:
        """Return the number of zones."""
        return int(self.table.loc[self.table["zone_id"] > 0, "zone_id"].nunique())

    @property
    def rows(self) -> pd.DataFrame:
        """Return the table without shapes and the zones' own attributes."""
        return pd.DataFrame(self.table[[name for name in COLUMNS if name in self.table]])

    def to_json(self) -> dict[str, Any]:
        """Return the result of ``--json``."""
        rows = self.rows.astype(object)
        return {
            "zones": self.zones,
            "zones_counted_at_1_16": self.coarse,
            "rows": rows.where(rows.notna(), None).to_dict("records"),
            "files": [str(path) for path in self.files],
        }

    def to_text(self) -> str:
        """Return the rows with objects and the totals by class, as text."""
        rows = self.rows
        shown = TWO_RUNS if "count_before" in rows else ONE_RUN
        columns = [name for name in shown if name in rows]
        summed = [name for name in columns if name in SUMMED]
        totals = rows.groupby("class", sort=False)[summed].sum().round(6) + 0  # no -0.0
        lines = [
            *self._row_lines(rows, columns),
            "",
            f"{self.zones} zone(s) and the area outside of them:",
            _as_text(totals.reset_index()),
            "",
        ]
        if self.coarse:
            lines.append(f"valid imagery of {self.coarse} large zone(s) was counted at 1/16")
        if self.files:
            lines.append(f"written: {', '.join(map(str, self.files))}")
        return "\n".join(lines)

    def _row_lines(self, rows: pd.DataFrame, columns: Sequence[str]) -> Iterator[str]:
        """Yield the first rows with objects, and the number of those not shown."""
        filled = (rows[[name for name in SUMMED if name in rows]] != 0).any(axis=1)
        table = rows.loc[filled, list(columns)]
        where = f"in {self.files[0]}" if self.files else "not shown"
        if len(table):
            yield _as_text(table.head(MAX_ROWS))
        if len(table) > MAX_ROWS:
            yield f"... and {len(table) - MAX_ROWS} more rows {where}"
        if empty := len(rows) - len(table):
            yield f"{empty} row(s) without objects are {where}{' only' * bool(self.files)}"


def _short(name: str) -> str:
    return name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 3] + "..."


def _as_text(table: pd.DataFrame) -> str:
    formats: dict[str, Any] = {name: FORMATS[name].format for name in table if name in FORMATS}
    if "zone" in table:
        formats["zone"] = _short
    return str(table.to_string(index=False, na_rep="", formatters=formats))


@dataclass(frozen=True, slots=True)
class _Sheet:
    """Rows of the table: one per zone and class; the last ones are outside."""

    zones: Zones
    classes: tuple[ClassSettings, ...]

    def count(self, zone: Integers, class_id: Any, weights: Floats | None = None) -> NDArray[Any]:
        """Return (rows,) the number of objects, or the sum of their weights."""
        shape = len(self.zones) + 1, len(self.classes)
        flat = np.ravel_multi_index((zone, np.asarray(class_id) - 1), shape)
        return np.bincount(flat, weights, shape[0] * shape[1])

    def spread(self, values: NDArray[Any], outside: Any = np.nan) -> NDArray[Any]:
        """Repeat (zones,) values for every class: (rows,)."""
        return np.repeat(np.append(values, outside), len(self.classes))

    def count_objects(self, objects: gpd.GeoDataFrame) -> tuple[Integers, Floats]:
        """Return (rows,) the number of objects, and (rows,) their area in m²."""
        class_id = objects["class_id"].to_numpy()
        count = self.count(self.zones.of_objects(objects), class_id)
        shape, zone, share = self.zones.split(shapes_of(objects))
        area = self.count(zone, class_id[shape], objects["area_m2"].to_numpy()[shape] * share)
        return count, _whole_mm2(area.reshape(-1, len(self.classes))).ravel()


def _whole_mm2(area: Floats) -> Floats:
    """Round (zones + 1, classes) m² so that they add up to the rounded sum."""
    whole = np.diff(np.rint(np.cumsum(area, axis=0) * 1e6), axis=0, prepend=0)
    return np.asarray(whole / 1e6)


def summarize(
    out: Path, later: Path | None, rules: ZoneRules, *, to: Path | None = None
) -> ZoneSummary:
    """Count the detections of one or two runs by zone, and write the tables.

    The files ``zones.csv``, ``zones.parquet`` and ``zones.gpkg``, with two runs also
    ``changes.parquet`` and ``changes.gpkg``, are written into the folder of the later run, if that
    can be written.

    Args:
        out: folder of a run; of two runs, the earlier one.
        later: folder of the later run.
        rules: zones, and rules of counting.
        to: folder for the files, instead of the later run's.

    Raises:
        OutputError: a folder holds no run.
        UsageError: a file cannot be used, no zone is near, or the runs have different classes.
    """
    with gdal_settings():
        after = RunYear.open(later or out)
        before = RunYear.open(out) if later else None
        if before:
            check_comparable(before, after)
        zones = Zones.read(rules, [after, before] if before else [after])
        sheet = _Sheet(zones, after.classes)
        shares, factor = zones.valid(after)
        columns = _counted(sheet, after, shares)
        if rules.footprints:
            columns |= _on_buildings(sheet, after, rules.footprints, columns["count"])
        changes = None
        if before:
            changes = compare_runs(before, after, rules.min_iou)
            columns |= _changed(sheet, changes, columns)
            columns["valid_share_before"] = sheet.spread(zones.valid(before)[0])
    table = _table(sheet, columns)
    files: list[Path] = []
    with result_folder(after.out, to) as folder:
        texts = texts_of(after.out / DETECTIONS)
        files = _write(folder, table, changes, _style(table, after.classes), texts)
    return ZoneSummary(table, int(np.sum(factor > 1)), tuple(files))


def _counted(sheet: _Sheet, year: RunYear, shares: Floats) -> dict[str, NDArray[Any]]:
    """Return the columns of every summary."""
    count, area = sheet.count_objects(year.detections)
    km2 = sheet.zones.km2()
    return {
        "count": count,
        "area_m2": area,
        "zone_km2": sheet.spread(km2),
        "valid_share": sheet.spread(shares),
        "per_km2": _ratio(count, sheet.spread(km2 * shares)),
    }


def _ratio(count: Integers, of: NDArray[Any]) -> Floats:
    """Divide; NaN where the divisor is 0."""
    empty = np.full(len(count), np.nan)
    return np.asarray(np.divide(count, of, out=empty, where=of > 0))


def _on_buildings(
    sheet: _Sheet, year: RunYear, path: Path, count: Integers
) -> dict[str, NDArray[Any]]:
    """Return the columns with footprints. Only buildings on valid imagery are counted."""
    buildings = read_polygons(path, year.crs, near=year.extent, columns=[])
    if buildings.empty:
        raise UsageError(f"{path}: no footprint lies on the imagery of {year.out}; check its CRS")
    buildings = without_repeated(buildings, path, "buildings", metres_per_unit(year.crs))
    points = buildings.geometry.representative_point()
    zone = sheet.zones.holding(points[year.is_covered(points)])
    each = np.bincount(zone, minlength=len(sheet.zones) + 1)
    number = sheet.spread(each[:-1], each[-1])
    return {"buildings": number, "per_building": _ratio(count, number)}


def _changed(
    sheet: _Sheet, changes: gpd.GeoDataFrame, columns: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Return the columns with a second run, and add the zone of each change."""
    zone = sheet.zones.of_objects(changes)
    names = np.append(sheet.zones.table["zone"], OUTSIDE)
    changes.insert(2, "zone", pd.Series(names[zone], index=changes.index, dtype="str"))
    earlier = changes["run"] == "before"
    count, area = sheet.count_objects(changes[earlier])
    changed = {
        "count_before": count,
        "area_m2_before": area,
        "count_change": columns["count"] - count,
        "area_m2_change": np.round(columns["area_m2"] - area, 6) + 0.0,  # no -0.0
    }
    for status in STATUSES:
        chosen = changes["status"] == status
        if status == "kept":
            chosen &= ~earlier  # a pair is counted where the later of the two lies
        changed[status] = sheet.count(zone[chosen], changes["class_id"][chosen])
    return changed


def _table(sheet: _Sheet, columns: Mapping[str, NDArray[Any]]) -> gpd.GeoDataFrame:
    """Return the table with all columns in order."""
    zones, classes = sheet.zones.table, sheet.classes
    named = {
        "zone_id": sheet.spread(zones["zone_id"], 0),
        "zone": sheet.spread(zones["zone"], OUTSIDE),
        "class_id": np.tile(np.arange(1, len(classes) + 1), len(zones) + 1),
        "class": np.tile([entry.name for entry in classes], len(zones) + 1),
        **columns,
    }
    table = pd.DataFrame({name: named[name] for name in COLUMNS if name in named})
    table = table.round(DECIMALS).astype({"zone": "str", "class": "str"})
    own = zones.drop(columns=["zone_id", "zone", "geometry"])
    own = own.apply(_plain).reindex(sheet.spread(zones.index, len(zones)))
    table = pd.concat([table, own.reset_index(drop=True)], axis=1)
    return gpd.GeoDataFrame(table, geometry=sheet.spread(sheet.zones.shapes, None), crs=zones.crs)


def _plain(attribute: pd.Series) -> pd.Series:
    """Convert an attribute to a nullable type that every format has."""
    if attribute.dtype == object:
        return attribute.map(str, na_action="ignore").astype("str")
    kinds = {"i": "Int64", "u": "Int64", "b": "boolean"}
    return attribute.astype(kinds.get(attribute.dtype.kind, attribute.dtype))


def _write(
    folder: Path,
    table: gpd.GeoDataFrame,
    changes: gpd.GeoDataFrame | None,
    style: LayerStyle,
    texts: Mapping[str, str],
) -> list[Path]:
    """Write the files, with the statements about the detections, and return their paths."""
    csv = folder / "zones.csv"
    with atomic_write(csv) as temporary:
        table.drop(columns="geometry").to_csv(temporary, index=False, lineterminator="\n")
    files = [csv, *_write_layer(folder, ZONES, table, style, texts)]
    if changes is not None:
        files += _write_layer(folder, CHANGES, changes, changes_style(), texts)
    return files


def _write_layer(
    folder: Path,
    layer: str,
    table: gpd.GeoDataFrame,
    style: LayerStyle,
    texts: Mapping[str, str],
) -> tuple[Path, Path]:
    parquet, gpkg = folder / f"{layer}.parquet", folder / f"{layer}.gpkg"
    if gpkg.exists() and not holds(gpkg, {layer: parquet}):
        set_aside(gpkg)
    with atomic_write(parquet) as temporary:
        write_geoparquet(temporary, table, texts=texts)
    with atomic_write(gpkg) as temporary:
        write_gpkg(temporary, {layer: parquet}, pyproj.CRS(table.crs))
        embed_style(temporary, layer, style)
        remove_journals(gpkg)
    return parquet, gpkg


def _style(table: gpd.GeoDataFrame, classes: Sequence[ClassSettings]) -> LayerStyle:
    """Return the style of zones, by detections per km²."""
    rows = table.groupby("class_id")["per_km2"]
    return zones_style(classes, [rows.get_group(k).to_numpy() for k in range(1, len(classes) + 1)])
