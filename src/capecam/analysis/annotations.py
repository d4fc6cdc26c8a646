"""Annotated objects with a class, from a vector file."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import shapely

from capecam.errors import UsageError
from capecam.io.vector_reader import read_polygons
from capecam.settings import TruthSettings

log = logging.getLogger(__name__)


def read_objects(
    path: Path,
    names: Sequence[str],
    layout: TruthSettings,
    crs: pyproj.CRS | None = None,
    near: shapely.Geometry | None = None,
) -> gpd.GeoDataFrame:
    """Read the polygons of a file, with ``class_id``, and ``confidence`` if the file has it.

    The class is read from the column ``layout.class_column`` (a name), else from ``class_id`` (a
    number), else from flags: columns that are 1 for one class (``layout.flags``). Rows with no
    flag, or with several, are left out with a warning.

    Args:
        path: vector file (docs/inputs.md).
        names: names of all classes, 0 first.
        layout: columns that hold the class.
        crs: target CRS; None keeps that of the file.
        near: place in ``crs`` around which longitudes are counted; objects far from it count, too.

    Raises:
        UsageError: the file cannot be used, has no class, or an unknown class.
    """
    table = read_polygons(path, crs, near=near, everywhere=True)
    class_id = _class_ids(table, names, layout, path)
    known = (class_id > 0).to_numpy()
    columns = {"class_id": class_id.to_numpy()}
    if "confidence" in table:
        columns["confidence"] = pd.to_numeric(table["confidence"], errors="coerce").to_numpy()
    found = gpd.GeoDataFrame(columns, geometry=table.geometry.to_numpy(), crs=table.crs)
    return found[known].reset_index(drop=True)


def _class_ids(
    table: gpd.GeoDataFrame, names: Sequence[str], layout: TruthSettings, path: Path
) -> pd.Series:
    """Return the class of each row; 0 is none."""
    if layout.class_column in table:
        return _named(table[layout.class_column], names, path)
    if "class_id" in table:
        numbers = pd.to_numeric(table["class_id"], errors="coerce").fillna(-1).astype(np.int64)
        strange = numbers[(numbers < 0) | (numbers >= len(names))]
        if len(strange):
            found = table["class_id"][strange.index[0]]
            raise UsageError(
                f"{path}: class_id must be from 0 to {len(names) - 1}, found {found}"
                "; correct the column, or take it out and name the classes"
            )
        return numbers
    flags = [column for column in layout.flags if column in table]
    if not flags:
        wanted = ", ".join((layout.class_column, "class_id", *layout.flags))
        columns = ", ".join(map(str, table.columns.drop(table.geometry.name)))
        raise UsageError(
            f"{path}: says no class: none of the columns {wanted}, only {columns or 'geometry'}; "
            "name the right ones in the configuration (truth:)"
        )
    return _flagged(table[flags], names, layout, path)


def _named(column: pd.Series, names: Sequence[str], path: Path) -> pd.Series:
    index = {name: number for number, name in enumerate(names)}
    texts = column.fillna(names[0]).astype(str).str.strip()
    unknown = texts[~texts.isin(index)]
    if len(unknown):
        near = get_close_matches(unknown.iloc[0], names, 1) or [", ".join(names[1:])]
        raise UsageError(f"{path}: unknown class {unknown.iloc[0]!r}; did you mean {near[0]}?")
    return texts.map(index)


def _flagged(
    flags: pd.DataFrame, names: Sequence[str], layout: TruthSettings, path: Path
) -> pd.Series:
    for name in layout.flags.values():
        if name not in names:
            raise UsageError(f"truth.flags: unknown class {name!r}; there are {', '.join(names)}")
    classes = np.array([names.index(layout.flags[column]) for column in flags])
    held = flags.apply(pd.to_numeric, errors="coerce").fillna(0).to_numpy() == 1
    one = held.sum(axis=1) == 1
    if not one.all():
        log.warning("%s: %d row(s) have no class or several, left out", path, np.sum(~one))
    return pd.Series(np.where(one, classes[held.argmax(axis=1)], 0), index=flags.index)
