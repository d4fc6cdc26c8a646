"""``capecam estimate``: counts and m² by class and zone, with 95 % intervals.

What the map says is corrected by what people found in the blocks of a random sample
(``estimation``). The review queue is never used: it was chosen because it is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import shapely
from numpy.typing import NDArray

from capecam.analysis.change import RunYear, check_comparable
from capecam.analysis.result_folder import result_folder
from capecam.analysis.review.checked_blocks import CheckedBlocks, read_checked
from capecam.analysis.review.estimation import (
    Shares,
    Totals,
    difference,
    estimate_shares,
    estimate_totals,
    lean_on_whole,
)
from capecam.analysis.review.sentences import sentences
from capecam.analysis.zones import OUTSIDE, ZoneRules, Zones, shapes_of
from capecam.detections.measurement import multipolygons
from capecam.errors import UsageError
from capecam.io.gdal import gdal_settings
from capecam.io.geopackage import holds, remove_journals
from capecam.io.parquet_texts import texts_of
from capecam.io.vector_writer import write_geoparquet, write_gpkg
from capecam.runtime.files import atomic_write, file_digest, write_json
from capecam.store.edited import set_aside
from capecam.store.file_names import DETECTIONS, ESTIMATES, ESTIMATES_JSON
from capecam.store.run_folder import RunFolder
from capecam.views.styles.layers import estimates_style
from capecam.views.styles.qml import LayerStyle, embed_style

Floats = NDArray[np.float64]

WHOLE = "(all)"
"""Zone of the rows of the whole area; its ``zone_id`` is -1."""

SIDES = ("est", "lo", "hi")

COLUMNS = (
    "zone_id", "zone", "class_id", "class",
    *(f"{what}_{side}" for what in ("count", "m2") for side in ("map", *SIDES)),
    "looks", "blocks", "more_looks", "borrowed",
    *(f"{what}_{side}" for what in ("precision", "recall") for side in SIDES),
    *(f"{what}_before_{side}" for what in ("count", "m2") for side in SIDES),
    *(f"{what}_change_{side}" for what in ("count", "m2") for side in SIDES),
    "count_differs", "m2_differs",
)  # fmt: skip
"""Columns of the tables, in this order, before the geometry of the zones; those from
``count_before_est`` on need two runs."""


@dataclass(frozen=True, slots=True)
class EstimateRequest:
    """Request for an estimate: its samples, and its zones."""

    sample: Path | None = None
    """Review file of the (earlier) run; None: ``review.gpkg`` in its folder."""
    sample2: Path | None = None
    """Review file of the later run; None: ``review.gpkg`` in its folder."""
    zones: ZoneRules | None = None
    borrow: bool = False
    """Small zones borrow strength from the whole."""
    partial: bool = False
    """Blocks that are not checked are taken for missing at random."""


@dataclass(frozen=True, slots=True, eq=False)
class YearEstimate:
    """Estimates of one run. D: zones, the last is outside; C: classes; the last row is all."""

    checked: CheckedBlocks
    count: Totals
    m2: Totals
    precision: Shares
    recall: Shares
    borrowed: NDArray[np.bool_]
    """(D + 1, C) True where a zone has borrowed strength."""

    @classmethod
    def of(cls, checked: CheckedBlocks, *, borrow: bool) -> YearEstimate:
        """Estimate what there is."""
        sample = checked.sample
        count, m2 = (estimate_totals(sample, values) for values in (checked.count, checked.m2))
        borrowed = np.zeros(count.total.shape, np.bool_)
        if borrow:
            before = count.variance
            count, m2 = (
                lean_on_whole(totals, values.known)
                for totals, values in ((count, checked.count), (m2, checked.m2))
            )
            borrowed = count.variance != before
        right, found = checked.right, checked.found
        there = checked.count.y.sum(axis=1)
        precision = estimate_shares(sample, right, found, checked.count)
        recall = estimate_shares(sample, right, there, checked.count)
        return cls(checked, count, m2, precision, recall, borrowed)


@dataclass(frozen=True, slots=True, eq=False)
class Estimates:
    """Result of an estimate."""

    table: gpd.GeoDataFrame
    """A row for each zone and class, those of all zones together last: ``COLUMNS``, geometry."""
    facts: dict[str, Any]
    """Origin of the estimates: keys of estimates.json before ``rows``."""
    sentences: tuple[str, ...]
    files: tuple[Path, ...] = ()

    @property
    def rows(self) -> pd.DataFrame:
        """Return the table without shapes."""
        return pd.DataFrame(self.table[[name for name in COLUMNS if name in self.table]])

    def to_json(self) -> dict[str, Any]:
        """Return the result of ``--json`` and estimates.json; what is not known is None."""
        rows = self.rows.astype(object)
        return {
            **self.facts,
            "sentences": list(self.sentences),
            "rows": rows.where(rows.notna(), None).to_dict("records"),
            "files": [str(path) for path in self.files],
        }

    def to_text(self) -> str:
        """Return the result as text."""
        rows = self.rows
        whole = rows[rows["zone_id"] == -1]
        shown = rows if len(rows) <= MAX_ROWS else whole
        lines = [_as_text(shown)]
        if len(shown) < len(rows):
            where = f"in {self.files[0]}" if self.files else "not shown"
            lines.append(f"{len(rows) - len(shown)} rows of zones are {where}")
        lines += ["", *self.sentences]
        if self.files:
            lines += ["", f"written: {', '.join(map(str, self.files))}"]
        return "\n".join(lines)


MAX_ROWS = 60
"""Maximum number of rows on the terminal."""


def _as_text(rows: pd.DataFrame) -> str:
    """Return rows with intervals as ``estimate [low high]``."""
    shown = pd.DataFrame({"zone": rows["zone"].str.slice(0, 24), "class": rows["class"]})
    for what, digits in (("count", 0), ("m2", 0)):
        name = "m²" if what == "m2" else what
        shown[f"{name} on map"] = [f"{value:,.{digits}f}" for value in rows[f"{what}_map"]]
        shown[name] = [_interval(row, what, digits) for _, row in rows.iterrows()]
    if "count_change_est" in rows:
        for what in ("count", "m2"):
            name = f"change of {'m²' if what == 'm2' else what}"
            shown[name] = [_interval(row, f"{what}_change", 0, "+") for _, row in rows.iterrows()]
    shown["looks"] = rows["looks"]
    shown["more to halve"] = rows["more_looks"]
    return str(shown.to_string(index=False))


def _interval(row: pd.Series, what: str, digits: int, sign: str = "") -> str:
    value, low, high = (f"{row[f'{what}_{side}']:{sign},.{digits}f}" for side in SIDES)
    return f"{value} [{low} {high}]" + ("*" if row["borrowed"] else "")


def estimate(
    out: Path, later: Path | None, request: EstimateRequest, *, to: Path | None = None
) -> Estimates:
    """Estimate counts and m² of one or two runs from their samples, and write the tables.

    The files ``estimates.csv``, ``.parquet``, ``.gpkg`` and ``.json`` are written into the folder
    of the later run, if that can be written.

    Args:
        out: folder of a run; of two runs, the earlier one.
        later: folder of the later run.
        request: samples, zones and rules.
        to: folder for the files, instead of the later run's.

    Raises:
        OutputError: a folder holds no run.
        UsageError: a sample is missing, incomplete or was changed, or a file cannot be used.
    """
    if later is None and request.sample2 is not None:
        raise UsageError("--sample2 is of a second run; name its folder, too: OUT OUT2")
    with gdal_settings():
        years = [RunYear.open(folder) for folder in (out, later) if folder is not None]
        if later is not None:
            check_comparable(*years)
        zones = None if request.zones is None else Zones.read(request.zones, years[::-1])
        estimates = [
            YearEstimate.of(
                read_checked(year, path, zones, partial=request.partial), borrow=request.borrow
            )
            for year, path in zip(years, (request.sample, request.sample2), strict=False)
        ]
    table = _table(estimates, zones)
    found = Estimates(table, _facts(estimates, request), sentences(table, estimates[-1].checked))
    return _written(found, years[-1], to)


def _table(estimates: Sequence[YearEstimate], zones: Zones | None) -> gpd.GeoDataFrame:
    """Return a row for each zone and class, and rows of all zones together."""
    last = estimates[-1]
    classes = last.checked.year.classes
    names = [] if zones is None else [*zones.table["zone"], OUTSIDE]
    ids = [] if zones is None else [*zones.table["zone_id"], 0]
    keep = slice(None) if zones is not None else slice(-1, None)

    def spread(values: NDArray[Any]) -> NDArray[Any]:
        """Return the rows of (D + 1, C) values."""
        return np.asarray(values)[keep].ravel()

    def repeated(values: Sequence[Any]) -> NDArray[Any]:
        return np.repeat(np.array(values, object), len(classes))

    checked = last.checked
    looks, blocks = (
        np.append(values, values.sum())
        for values in (checked.looks_by_zone, checked.blocks_by_zone)
    )
    more = last.count.more_looks(checked.looks, len(checked.design.blocks))
    columns: dict[str, Any] = {
        "zone_id": repeated([*ids, -1]).astype(np.int64),
        "zone": repeated([*names, WHOLE]),
        "class_id": np.tile(np.arange(1, len(classes) + 1), len(names) + 1),
        "class": np.tile([entry.name for entry in classes], len(names) + 1),
        "looks": np.repeat(looks[keep], len(classes)),
        "blocks": np.repeat(blocks[keep], len(classes)),
        "more_looks": spread(more).astype(np.int64),
        "borrowed": spread(last.borrowed).astype(np.bool_),
    }
    for what, values in (("count", checked.count), ("m2", checked.m2)):
        known = np.concatenate([values.known, values.known.sum(axis=0, keepdims=True)])
        columns[f"{what}_map"] = spread(known)
        sides = [_sides(getattr(year, what)) for year in estimates]
        columns |= _three(what, [spread(side) for side in sides[-1]])
        if len(estimates) > 1:
            columns |= _three(f"{what}_before", [spread(side) for side in sides[0]])
            change = [spread(side) for side in difference(sides[-1], sides[0])]
            columns |= _three(f"{what}_change", change)
            columns[f"{what}_differs"] = (change[1] > 0) | (change[2] < 0)
    for what, shares in (("precision", last.precision), ("recall", last.recall)):
        for side, of_class in zip(SIDES, (shares.share, shares.low, shares.high), strict=True):
            column = np.full((len(names) + 1, len(classes)), np.nan)
            column[-1] = of_class
            columns[f"{what}_{side}"] = column.ravel()
    table = pd.DataFrame({name: columns[name] for name in COLUMNS if name in columns})
    table = table.round(6).astype({"zone": "str", "class": "str"})
    if zones is None:
        shapes, crs = [_mapped(checked.year)], checked.year.crs
    else:
        shapes, crs = [*shapes_of(zones.table), None, None], zones.crs
    rows = gpd.GeoDataFrame(table, geometry=repeated(shapes), crs=crs)
    outside = rows["zone_id"] == 0
    if not rows.loc[outside, ["blocks", "count_map"]].any(axis=None):
        rows = rows[~outside].reset_index(drop=True)
    return rows


def _mapped(year: RunYear) -> shapely.Geometry:
    """Return the area that a run has mapped."""
    run = RunFolder.open_finished(year.out)
    boxes = np.array([run.core(cell).box for cell in run.cells])
    placed = shapely.transform(shapely.union_all(boxes), run.grid.to_map)
    (shape,) = multipolygons(np.array([placed]))
    return shape


def _sides(totals: Totals) -> tuple[Floats, Floats, Floats]:
    return totals.total, totals.low, totals.high


def _three(what: str, values: Sequence[Floats]) -> dict[str, Floats]:
    return {f"{what}_{side}": value for side, value in zip(SIDES, values, strict=True)}


def _facts(estimates: Sequence[YearEstimate], request: EstimateRequest) -> dict[str, Any]:
    """Return what the estimates rest on."""
    runs = []
    for year in estimates:
        checked = year.checked
        run = RunFolder.open_finished(checked.year.out)
        names = [entry.name for entry in checked.year.classes]
        runs.append({
            "out": str(checked.year.out),
            "sample": str(checked.path),
            "draw": checked.design.digest,
            "detections": run.detections_version or file_digest(run.detections()),
            "same_map": checked.same_map,
            "looks": checked.looks,
            "drawn": checked.drawn,
            "blocks": len(checked.design.blocks),
            "missed_astray": checked.astray,
            "count_rate": dict(zip(names, year.count.rate.round(6).tolist(), strict=True)),
            "m2_rate": dict(zip(names, year.m2.rate.round(6).tolist(), strict=True)),
        })  # fmt: skip
    return {
        "runs": runs,
        "zones": None if request.zones is None else str(request.zones.zones),
        "level": 0.95,
        "borrow": request.borrow,
        "partial": request.partial,
    }


def _written(found: Estimates, year: RunYear, to: Path | None) -> Estimates:
    """Write the files into the folder of a run, if that can be written."""
    written = found
    with result_folder(year.out, to) as folder:
        csv, parquet, gpkg = (folder / f"{ESTIMATES}.{kind}" for kind in ("csv", "parquet", "gpkg"))
        whole = replace(found, files=(csv, parquet, gpkg, folder / ESTIMATES_JSON))
        with atomic_write(csv) as temporary:
            found.rows.to_csv(temporary, index=False, lineterminator="\n")
        if gpkg.exists() and not holds(gpkg, {ESTIMATES: parquet}):
            set_aside(gpkg)
        with atomic_write(parquet) as temporary:
            write_geoparquet(temporary, found.table, texts=texts_of(year.out / DETECTIONS))
        with atomic_write(gpkg) as temporary:
            write_gpkg(temporary, {ESTIMATES: parquet}, pyproj.CRS(found.table.crs))
            embed_style(temporary, ESTIMATES, _style(found.table, year))
            remove_journals(gpkg)
        write_json(folder / ESTIMATES_JSON, whole.to_json())
        written = whole
    return written


def _style(table: gpd.GeoDataFrame, year: RunYear) -> LayerStyle:
    """Return the style of zones, by the estimated number of objects."""
    rows = table[table["zone_id"] > 0] if (table["zone_id"] > 0).any() else table
    numbers = rows.groupby("class_id")["count_est"]
    classes = range(1, len(year.classes) + 1)
    return estimates_style(year.classes, [numbers.get_group(k).to_numpy() for k in classes])
