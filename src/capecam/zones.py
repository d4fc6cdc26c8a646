"""Counts and areas per zone: suburbs, wards, parcels; and what changed between two years.

A place belongs to one zone at most, so that rows add up to the city: to the first in the file's
order, and what lies in none to the row ``(outside)``. An object's area goes to the zones that it
lies on, by the shares of its outline; the object itself is counted where its inside point lies.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import shapely
from numpy.typing import NDArray

from capecam.errors import UsageError
from capecam.ledger import replacing
from capecam.raster import gdal_settings
from capecam.settings import ClassSettings
from capecam.styles import Rule, embed_style, graduated, to_qml
from capecam.tables import GeoParquet, write_gpkg
from capecam.vectorfiles import read_polygons
from capecam.years import MIN_IOU, STATUSES, Year, check_comparable, compare, inside_points

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Shapes = NDArray[np.object_]

OUTSIDE = "(outside)"
"""Name of the last row: what lies in no zone. Its ``zone_id`` is 0, and it has no shape."""

COLUMNS = (
    "zone_id", "zone", "class_id", "class", "count", "area_m2", "zone_km2", "valid_share",
    "per_km2", "buildings", "per_building", "count_before", "area_m2_before",
    "valid_share_before", "count_change", "area_m2_change", "kept", "new", "gone", "unseen",
)  # fmt: skip
"""Of zones.csv and the others, in this order; then the zones' own attributes and the geometry.
``buildings`` and ``per_building`` come with footprints, what follows them with a second run."""

RESERVED = (*COLUMNS, "geometry", "geom", "fid")
"""An attribute of the zones that is called so, in small letters or large, gets ``zone_`` before its
name."""

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

SLIVER_M = 1.0
"""Overlaps narrower than this come from drawing one border twice."""

WHOLE = 1e-9
"""Shares of an object that miss 1 by less are whole but for rounding."""

DENSE_DEGREES = 0.005
"""For geodesic areas: lines that are straight in degrees get a point at least every 500 m."""

METRES_A_DEGREE = 111_320.0

SHOWN = 60
"""Rows that people see on the terminal."""

ZONES, CHANGES = "zones", "changes"
"""Layers, and stems of files."""


@dataclass(frozen=True, slots=True)
class ZoneRules:
    """Which zones, and what is counted in them."""

    zones: Path
    """Polygons in any vector format and CRS."""
    name: str | None = None
    """Column with their names; else the first with text, else their numbers."""
    footprints: Path | None = None
    """Buildings, in any vector format and CRS."""
    min_iou: float = MIN_IOU
    """What overlaps less is not the same object in two years."""

    def __post_init__(self) -> None:
        if not 0 < self.min_iou <= 1:
            raise UsageError(f"the smallest IoU must be above 0 and at most 1, got {self.min_iou}")


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
        """For people: the rows, and the totals by class."""
        rows = self.rows.drop(columns=["zone_id", "class_id"])
        summed = [name for name in SUMMED if name in rows]
        totals = rows.groupby("class", sort=False)[summed].sum().round(6) + 0  # no -0.0
        lines = [_as_text(rows.head(SHOWN))]
        if len(rows) > SHOWN:
            lines.append(f"... and {len(rows) - SHOWN} rows more in {self.files[0]}")
        lines += [
            "",
            f"{self.zones} zone(s) and what lies outside of them:",
            _as_text(totals.reset_index()),
            "",
        ]
        if self.coarse:
            lines.append(f"valid imagery of {self.coarse} large zone(s) was counted at 1/16")
        return "\n".join([*lines, f"written: {', '.join(map(str, self.files))}"])


def _as_text(table: pd.DataFrame) -> str:
    formats = {name: FORMATS[name].format for name in table if name in FORMATS}
    return str(table.to_string(index=False, na_rep="", formatters=formats))


@dataclass(frozen=True, slots=True)
class Zones:
    """Places that do not overlap."""

    table: gpd.GeoDataFrame
    """``zone_id`` (the number of the feature in the file, from 1), ``zone`` (its name), the file's
    own attributes, and as geometry what belongs to the zone; the index counts from 0."""

    @classmethod
    def read(cls, rules: ZoneRules, years: Sequence[Year]) -> Zones:
        """Those that touch the extent of a run, in the CRS of the first run.

        Raises:
            UsageError: there is none, or the file cannot be used.
        """
        crs, path = years[0].crs, rules.zones
        table = read_polygons(path, crs)
        names = _names(table, rules.name, path)
        table = table.rename(columns=_renamed(table.columns.drop("geometry")))
        table.insert(0, "zone_id", np.asarray(table.index) + 1)
        table.insert(1, "zone", names)
        extents = pd.concat([gpd.GeoSeries([y.extent], crs=y.crs).to_crs(crs) for y in years])
        on_earth = np.isfinite(table.bounds).all(axis=1)
        table = table[on_earth & table.intersects(extents.union_all())].reset_index(drop=True)
        if table.empty:
            raise UsageError(
                f"{path}: no zone touches the imagery of {years[0].out}; check its CRS"
            )
        return cls(table.set_geometry(_first_come(table, path), crs=crs))

    def __len__(self) -> int:
        return len(self.table)

    @property
    def crs(self) -> pyproj.CRS:
        """Of the shapes."""
        return pyproj.CRS(self.table.crs)

    @property
    def shapes(self) -> Shapes:
        """(N,) what belongs to each."""
        return _shapes(self.table)

    def km2(self) -> Floats:
        """(N,) their areas."""
        return _area_m2(self.shapes, self.crs) / 1e6

    def holding(self, points: gpd.GeoSeries) -> Integers:
        """(P,) index of the zone that each point lies in, N where in none.

        On a border it is the first.
        """
        tree = shapely.STRtree(points.to_numpy())
        zone, point = tree.query(self.shapes, predicate="intersects")
        found = np.full(len(points), len(self))
        np.minimum.at(found, point, zone)
        return found

    def split(self, shapes: Shapes) -> tuple[Integers, Integers, Floats]:
        """Which shapes lie on which zones (N is none), and the share of the shape that does.

        The shares of a shape add up to 1.
        """
        zones = self.shapes
        shapely.prepare(zones)
        zone, shape = shapely.STRtree(shapes).query(zones, predicate="intersects")
        share = shapely.contains(zones[zone], shapes[shape]).astype(float)
        cut = np.flatnonzero(share == 0)
        inside = shapely.intersection(zones[zone[cut]], shapes[shape[cut]])
        share[cut] = shapely.area(inside) / shapely.area(shapes[shape[cut]])
        total = np.bincount(shape, share, len(shapes))
        whole = total > 1 - WHOLE
        share /= np.where(whole, total, 1.0)[shape]
        rest = np.flatnonzero(~whole)
        return (
            np.concatenate([shape, rest]),
            np.concatenate([zone, np.full(len(rest), len(self))]),
            np.concatenate([share, 1 - total[rest]]),
        )

    def valid(self, year: Year) -> tuple[Floats, Integers]:
        """(N,) share of each that has valid imagery; (N,) edge of a sample, in pixels."""
        placed = self.table.geometry.to_crs(year.crs).to_numpy()
        return year.coverage.shares(shapely.transform(placed, year.grid.to_pixels))


def _names(table: gpd.GeoDataFrame, column: str | None, path: Path) -> list[str]:
    """Of the zones; where there is none, the number."""
    attributes = table.columns.drop("geometry")
    if column is not None and column not in attributes:
        near = difflib.get_close_matches(column, attributes, 1) or attributes
        raise UsageError(f"{path}: has no column {column!r}; did you mean {', '.join(near)}?")
    if column is None:
        text = (name for name in attributes if pd.api.types.is_string_dtype(table[name].dropna()))
        column = next((name for name in text if table[name].notna().any()), None)
    numbers = [str(index + 1) for index in table.index]
    if column is None:
        return numbers
    named = zip(table[column].notna(), table[column], numbers, strict=True)
    return [str(name) if known else number for known, name, number in named]


def _renamed(attributes: Iterable[str]) -> dict[str, str]:
    """New names by old ones, for those that are ours; SQLite knows no capital letters."""
    taken, renamed = set(RESERVED), {}
    for name in attributes:
        new = name
        while new.lower() in taken:
            new = f"zone_{new}"
        taken.add(new.lower())
        renamed[name] = new
    return renamed


def _first_come(table: gpd.GeoDataFrame, path: Path) -> Shapes:
    """The zones, each without what belongs to those before it."""
    shapes = _shapes(table)
    b, a = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    a, b = a[a < b], b[a < b]
    common, pair = shapely.get_parts(shapely.intersection(shapes[a], shapes[b]), return_index=True)
    flat = shapely.area(common) == 0  # most zones only share a border
    common, pair = common[~flat], pair[~flat]
    own = shapes.copy()
    for later in np.unique(b[pair]):
        before = shapely.union_all(shapes[np.unique(a[pair][b[pair] == later])])
        own[later] = shapely.difference(shapes[later], before)
    width_m = 2 * shapely.area(common) / shapely.length(common) * _metres(table.crs)
    wide = np.unique(pair[width_m > SLIVER_M])
    if len(wide):
        area = _area_m2(common[width_m > SLIVER_M], table.crs).sum()
        first, second = table["zone"].iloc[[a[wide[0]], b[wide[0]]]]
        log.warning(
            "%s: %d pair(s) of zones overlap, by %.1f m² (%s and %s first); what lies there "
            "belongs to the one that comes first in the file",
            path, len(wide), area, first, second,
        )  # fmt: skip
    return _multi(own)


def _shapes(table: gpd.GeoDataFrame) -> Shapes:
    return np.asarray(table.geometry.to_numpy())


def _multi(shapes: Shapes) -> Shapes:
    """Of one type, as GIS formats want a layer."""
    multi = np.empty(len(shapes), object)
    multi[:] = [shapely.MultiPolygon(list(shapely.get_parts(shape))) for shape in shapes]
    return multi


def _metres(crs: pyproj.CRS) -> float:
    """In a unit of a CRS; in degrees, along a meridian."""
    return METRES_A_DEGREE if crs.is_geographic else crs.axis_info[0].unit_conversion_factor


def _area_m2(shapes: Shapes, crs: pyproj.CRS) -> Floats:
    """(N,) areas; geodesic for a CRS in degrees."""
    if not crs.is_geographic:
        return np.asarray(shapely.area(shapes) * _metres(crs) ** 2)
    geod = crs.get_geod() or pyproj.Geod(ellps="WGS84")
    dense = shapely.orient_polygons(shapely.segmentize(shapes, DENSE_DEGREES))
    return np.array([geod.geometry_area_perimeter(shape)[0] for shape in dense])


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
        shape, zone, share = self.zones.split(_shapes(objects))
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
        after = Year.open(later or out)
        before = Year.open(out) if later else None
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
            changes = compare(before, after, rules.min_iou)
            columns |= _changed(sheet, changes, columns)
            columns["valid_share_before"] = sheet.spread(zones.valid(before)[0])
    table = _table(sheet, columns)
    return ZoneSummary(table, int(np.sum(factor > 1)), _write(after, table, changes))


def _counted(sheet: _Sheet, year: Year, shares: Floats) -> dict[str, NDArray[Any]]:
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
    sheet: _Sheet, year: Year, path: Path, count: Integers
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
    year: Year, table: gpd.GeoDataFrame, changes: gpd.GeoDataFrame | None
) -> tuple[Path, ...]:
    """The files, each whole or not at all."""
    csv = year.out / "zones.csv"
    with replacing(csv) as temporary:
        table.drop(columns="geometry").to_csv(temporary, index=False, lineterminator="\n")
    files = [csv, *_write_layer(year.out, ZONES, table, _zone_style(table, year.classes))]
    if changes is not None:
        files += _write_layer(year.out, CHANGES, changes, CHANGE_STYLE)
    return tuple(files)


def _write_layer(
    out: Path, layer: str, table: gpd.GeoDataFrame, style: Sequence[Rule]
) -> tuple[Path, Path]:
    parquet, gpkg = out / f"{layer}.parquet", out / f"{layer}.gpkg"
    crs = pyproj.CRS(table.crs)
    with replacing(parquet) as temporary, GeoParquet(temporary, crs) as file:
        file.add(table)
    with replacing(gpkg) as temporary:
        write_gpkg(temporary, {layer: parquet}, crs)
        embed_style(temporary, layer, to_qml(style))
    return parquet, gpkg


def _zone_style(table: gpd.GeoDataFrame, classes: Sequence[ClassSettings]) -> list[Rule]:
    """Objects per km², a class at a time; the first one shows."""
    rules = []
    for class_id, entry in enumerate(classes, start=1):
        values = table.loc[table["class_id"] == class_id, "per_km2"].to_numpy()
        shades = graduated("per_km2", values, entry.color, "no valid imagery")
        shown = class_id == 1
        rules.append(
            Rule(f"{entry.name} per km²", f'"class_id" = {class_id}', shown=shown, inside=shades)
        )
    return rules


CHANGE_STYLE = (
    Rule("new", "\"status\" = 'new'", "#2166AC"),
    Rule("gone", "\"status\" = 'gone'", "#D6604D"),
    Rule("unseen in the other year", "\"status\" = 'unseen'", "#FFE08A"),
    Rule("kept", "\"status\" = 'kept' AND \"run\" = 'after'", "#B0B0B0"),
    Rule("kept, as before", "\"status\" = 'kept' AND \"run\" = 'before'", "#DDDDDD", shown=False),
)
"""Colours that people who do not tell red from green can tell."""
