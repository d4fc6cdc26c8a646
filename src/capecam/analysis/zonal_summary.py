"""Counts and areas per zone and class; and what changed between two years.

An object is counted in the zone that its inside point lies in; what lies in no zone is in the row
``(outside)``, so that rows add up to the city.
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
from capecam.analysis.zones import COLUMNS, OUTSIDE, ZoneRules, Zones, shapes_of
from capecam.detections.measurement import inside_points
from capecam.errors import UsageError
from capecam.io.gdal import gdal_settings
from capecam.io.vector_reader import read_polygons
from capecam.io.vector_writer import write_geoparquet, write_gpkg
from capecam.runtime.files import atomic_write
from capecam.settings import ClassSettings
from capecam.views.styles.geopackage import embed_style
from capecam.views.styles.layers import changes_style, zones_style
from capecam.views.styles.qml import LayerStyle

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

DECIMALS = {
    "zone_km2": 12, "valid_share": 9, "valid_share_before": 9, "per_km2": 6, "per_building": 9,
}  # fmt: skip
"""In the files; areas in m² have 6 (:func:`_whole_mm2`)."""

FORMATS = {
    "area_m2": "{:,.1f}", "area_m2_before": "{:,.1f}", "area_m2_change": "{:+,.1f}",
    "count_change": "{:+,d}", "zone_km2": "{:,.3f}", "valid_share": "{:.1%}",
    "valid_share_before": "{:.1%}", "per_km2": "{:,.1f}", "per_building": "{:.4f}",
}  # fmt: skip
"""On the terminal."""

SUMMED = (
    "count", "area_m2", "count_before", "area_m2_before", "count_change", "area_m2_change",
    "kept", "new", "gone", "unseen",
)  # fmt: skip
"""What adds up over zones."""

SHOWN = 60
"""Rows that people see on the terminal."""

NAME_WIDTH = 24
"""Letters of a zone's name there."""

ONE_RUN = (
    "zone", "class", "count", "area_m2", "zone_km2", "valid_share", "per_km2", "buildings",
    "per_building",
)  # fmt: skip
TWO_RUNS = (
    "zone", "class", "count", "count_before", "count_change", "area_m2", "area_m2_change",
    "per_building", "new", "gone", "unseen",
)  # fmt: skip
"""Columns that people see there, in at most 120 characters; the files have all."""

ZONES, CHANGES = "zones", "changes"
"""Layers, and stems of files."""


@dataclass(frozen=True, slots=True)
class ZoneSummary:
    """What was found in every zone."""

    table: gpd.GeoDataFrame
    """As in zones.parquet: a row a zone and class; ``(outside)`` comes last."""
    coarse: int
    """Zones of which at least a part was too large to look at every pixel for valid imagery."""
    files: tuple[Path, ...]
    """What was written."""

    @property
    def zones(self) -> int:
        """How many there are."""
        return int(self.table.loc[self.table["zone_id"] > 0, "zone_id"].nunique())

    @property
    def rows(self) -> pd.DataFrame:
        """The table without shapes and the zones' own attributes."""
        return pd.DataFrame(self.table[[name for name in COLUMNS if name in self.table]])

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        rows = self.rows.astype(object)
        return {
            "zones": self.zones,
            "zones_counted_at_1_16": self.coarse,
            "rows": rows.where(rows.notna(), None).to_dict("records"),
            "files": [str(path) for path in self.files],
        }

    def to_text(self) -> str:
        """For people: the rows that hold something, and the totals by class."""
        rows = self.rows
        shown = TWO_RUNS if "count_before" in rows else ONE_RUN
        columns = [name for name in shown if name in rows]
        summed = [name for name in columns if name in SUMMED]
        totals = rows.groupby("class", sort=False)[summed].sum().round(6) + 0  # no -0.0
        lines = [
            *self._row_lines(rows, columns),
            "",
            f"{self.zones} zone(s) and what lies outside of them:",
            _as_text(totals.reset_index()),
            "",
        ]
        if self.coarse:
            lines.append(f"valid imagery of {self.coarse} large zone(s) was counted at 1/16")
        return "\n".join([*lines, f"written: {', '.join(map(str, self.files))}"])

    def _row_lines(self, rows: pd.DataFrame, columns: Sequence[str]) -> Iterator[str]:
        """The first of those that hold something, and how many are not shown."""
        something = (rows[[name for name in SUMMED if name in rows]] != 0).any(axis=1)
        found = rows.loc[something, list(columns)]
        if len(found):
            yield _as_text(found.head(SHOWN))
        if len(found) > SHOWN:
            yield f"... and {len(found) - SHOWN} rows more in {self.files[0]}"
        if empty := len(rows) - len(found):
            yield f"{empty} row(s) without an object are left out; {self.files[0]} has them"


def _short(name: str) -> str:
    return name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 3] + "..."


def _as_text(table: pd.DataFrame) -> str:
    formats: dict[str, Any] = {name: FORMATS[name].format for name in table if name in FORMATS}
    if "zone" in table:
        formats["zone"] = _short
    return str(table.to_string(index=False, na_rep="", formatters=formats))


@dataclass(frozen=True, slots=True)
class _Sheet:
    """A row for every zone and class; the last rows are outside."""

    zones: Zones
    classes: tuple[ClassSettings, ...]

    def tally(self, zone: Integers, class_id: Any, weights: Floats | None = None) -> NDArray[Any]:
        """(rows,) how many there are, or how much."""
        shape = len(self.zones) + 1, len(self.classes)
        flat = np.ravel_multi_index((zone, np.asarray(class_id) - 1), shape)
        return np.bincount(flat, weights, shape[0] * shape[1])

    def spread(self, values: NDArray[Any], outside: Any = np.nan) -> NDArray[Any]:
        """(zones,) to (rows,): the same for every class."""
        return np.repeat(np.append(values, outside), len(self.classes))

    def found(self, objects: gpd.GeoDataFrame) -> tuple[Integers, Floats]:
        """(rows,) how many objects there are, and (rows,) their m²."""
        class_id = objects["class_id"].to_numpy()
        count = self.tally(self.zones.holding(inside_points(objects, self.zones.crs)), class_id)
        shape, zone, share = self.zones.split(shapes_of(objects))
        area = self.tally(zone, class_id[shape], objects["area_m2"].to_numpy()[shape] * share)
        return count, _whole_mm2(area.reshape(-1, len(self.classes))).ravel()


def _whole_mm2(area: Floats) -> Floats:
    """(zones + 1, classes) m² rounded so that they add up to the rounded sum."""
    whole = np.diff(np.rint(np.cumsum(area, axis=0) * 1e6), axis=0, prepend=0)
    return np.asarray(whole / 1e6)


def summarize(out: Path, later: Path | None, rules: ZoneRules) -> ZoneSummary:
    """Count what a run found in each zone, or what two runs did, and write it down.

    ``zones.csv``, ``zones.parquet`` and ``zones.gpkg``, and with two runs ``changes.parquet`` and
    ``changes.gpkg``, into the folder of the later.

    Args:
        out: folder of a run; with two, of the earlier.
        later: of the later.
        rules: which zones, and what is counted.

    Raises:
        OutputError: a folder holds no run.
        UsageError: a file cannot be used, no zone lies near, or the runs have other classes.
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
    return ZoneSummary(table, int(np.sum(factor > 1)), _write(after, table, changes))


def _counted(sheet: _Sheet, year: RunYear, shares: Floats) -> dict[str, NDArray[Any]]:
    """Columns that there always are."""
    count, area = sheet.found(year.detections)
    km2 = sheet.zones.km2()
    return {
        "count": count,
        "area_m2": area,
        "zone_km2": sheet.spread(km2),
        "valid_share": sheet.spread(shares),
        "per_km2": _ratio(count, sheet.spread(km2 * shares)),
    }


def _ratio(count: Integers, of: NDArray[Any]) -> Floats:
    """NaN where there is nothing to divide by."""
    empty = np.full(len(count), np.nan)
    return np.asarray(np.divide(count, of, out=empty, where=of > 0))


def _on_buildings(
    sheet: _Sheet, year: RunYear, path: Path, count: Integers
) -> dict[str, NDArray[Any]]:
    """Columns that come with footprints. Only buildings on valid imagery are counted."""
    houses = read_polygons(path, year.crs, near=year.extent, columns=[])
    if houses.empty:
        raise UsageError(f"{path}: no footprint lies on the imagery of {year.out}; check its CRS")
    points = houses.geometry.representative_point()
    zone = sheet.zones.holding(points[year.saw(points)])
    each = np.bincount(zone, minlength=len(sheet.zones) + 1)
    buildings = sheet.spread(each[:-1], each[-1])
    return {"buildings": buildings, "per_building": _ratio(count, buildings)}


def _changed(
    sheet: _Sheet, changes: gpd.GeoDataFrame, columns: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """Columns that come with a second run; names the zone of each of the changes."""
    zone = sheet.zones.holding(inside_points(changes, sheet.zones.crs))
    names = np.append(sheet.zones.table["zone"], OUTSIDE)
    changes.insert(2, "zone", pd.Series(names[zone], index=changes.index, dtype="str"))
    earlier = changes["run"] == "before"
    count, area = sheet.found(changes[earlier])
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
        changed[status] = sheet.tally(zone[chosen], changes["class_id"][chosen])
    return changed


def _table(sheet: _Sheet, columns: Mapping[str, NDArray[Any]]) -> gpd.GeoDataFrame:
    """All columns, in their order."""
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
    """With a type that every format has, and that can be missing in the last row."""
    if attribute.dtype == object:
        return attribute.map(str, na_action="ignore").astype("str")
    kinds = {"i": "Int64", "u": "Int64", "b": "boolean"}
    return attribute.astype(kinds.get(attribute.dtype.kind, attribute.dtype))


def _write(
    year: RunYear, table: gpd.GeoDataFrame, changes: gpd.GeoDataFrame | None
) -> tuple[Path, ...]:
    """The files, each whole or not at all."""
    csv = year.out / "zones.csv"
    with atomic_write(csv) as temporary:
        table.drop(columns="geometry").to_csv(temporary, index=False, lineterminator="\n")
    files = [csv, *_write_layer(year.out, ZONES, table, _style(table, year.classes))]
    if changes is not None:
        files += _write_layer(year.out, CHANGES, changes, changes_style())
    return tuple(files)


def _write_layer(
    out: Path, layer: str, table: gpd.GeoDataFrame, style: LayerStyle
) -> tuple[Path, Path]:
    parquet, gpkg = out / f"{layer}.parquet", out / f"{layer}.gpkg"
    with atomic_write(parquet) as temporary:
        write_geoparquet(temporary, table)
    with atomic_write(gpkg) as temporary:
        write_gpkg(temporary, {layer: parquet}, pyproj.CRS(table.crs))
        embed_style(temporary, layer, style)
    return parquet, gpkg


def _style(table: gpd.GeoDataFrame, classes: Sequence[ClassSettings]) -> LayerStyle:
    """Of zones, by what this run found in them."""
    rows = table.groupby("class_id")["per_km2"]
    return zones_style(classes, [rows.get_group(k).to_numpy() for k in range(1, len(classes) + 1)])
