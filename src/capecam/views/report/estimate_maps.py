"""Maps of the zones of estimates, as shapes for SVG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray

from capecam.settings import ClassSettings
from capecam.store.file_names import ESTIMATES
from capecam.views.report.svg_paths import svg_path

WIDTH = 240.0
"""Width of a map in the units of its view box."""

TOLERANCE = 0.4
"""Maximum distance of simplified borders from the true ones, in the same units."""

MAX_ZONES = 2000


@dataclass(frozen=True, slots=True)
class ZoneShape:
    """Zone on a map."""

    path: str
    opacity: float
    """0..1, by the estimated number of objects per area."""
    title: str


@dataclass(frozen=True, slots=True)
class ZoneMap:
    """Map of one class."""

    name: str
    color: str
    height: float
    zones: tuple[ZoneShape, ...]


def zone_maps(
    out: Path, estimates: Mapping[str, Any] | None, classes: Sequence[ClassSettings]
) -> list[ZoneMap]:
    """Return a map of the estimates of each class; none without zones, or too many of them.

    Args:
        out: folder of the run.
        estimates: ``estimates.json``, or None.
        classes: foreground classes, class 1 first.
    """
    path = out / f"{ESTIMATES}.parquet"
    if estimates is None or not estimates["zones"] or not path.exists():
        return []
    table = gpd.read_parquet(path)
    table = table[table["zone_id"] > 0]
    if not 0 < table["zone_id"].nunique() <= MAX_ZONES:
        return []
    left, bottom, right, top = table.total_bounds
    scale = WIDTH / (right - left)
    size = np.array([scale, -scale])
    shapes = shapely.transform(table.geometry.to_numpy(), lambda xy: (xy - (left, top)) * size)
    table = table.assign(shape=shapely.simplify(shapes, TOLERANCE), dense=_density(table))
    return [
        ZoneMap(entry.name, entry.color, (top - bottom) * scale, tuple(_shapes(rows)))
        for class_id, entry in enumerate(classes, start=1)
        for rows in [table[table["class_id"] == class_id]]
    ]


def _density(table: gpd.GeoDataFrame) -> NDArray[np.float64]:
    """Return (N,) estimated objects per checked and unchecked block of a zone."""
    blocks = table["blocks"].to_numpy(float)
    number = table["count_est"].to_numpy(float)
    density: NDArray[np.float64] = np.zeros(len(table))
    np.divide(number, blocks, out=density, where=blocks > 0)
    return density


def _shapes(rows: gpd.GeoDataFrame) -> Iterator[ZoneShape]:
    most = max(float(rows["dense"].max()), 1e-9)
    for row in rows.to_dict("records"):
        title = (
            f"{row['zone']}: {row['count_est']:,.0f} [{row['count_lo']:,.0f}, "
            f"{row['count_hi']:,.0f}]"
        )
        yield ZoneShape(svg_path(row["shape"]), max(row["dense"], 0) / most, title)
