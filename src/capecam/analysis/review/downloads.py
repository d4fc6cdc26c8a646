"""``capecam review OUT --add FILE``: verdicts that were given in a page without a server.

Such a page (``capecam view --export``, ``--single``) saves them as GeoJSON, in the CRS of the run.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyproj

from capecam.analysis.review.queue import ReviewRows
from capecam.analysis.review.review_file import LAYERS, ReviewFile
from capecam.analysis.review.strict_columns import check
from capecam.errors import UsageError
from capecam.imagery.crs import name_of, proj_string
from capecam.io.geopackage_rows import rows_in_place
from capecam.store.file_names import MISSED, VERDICTS
from capecam.store.run_folder import RunFolder

DOWNLOAD = "capecam review"
"""``name`` of a file of verdicts."""


def add_download(out: Path, download: Path, path: Path | None = None) -> ReviewRows:
    """Add the rows of a downloaded file that are not in the review file yet.

    Args:
        out: folder of the run.
        download: the GeoJSON file.
        path: review file, which is made if need be; None: ``review.gpkg`` in the folder.

    Raises:
        OutputError: the folder holds no run, or the review file cannot be written.
        UsageError: a file is something else, is of a city in another CRS, or something in it is
            wrong.
    """
    run = RunFolder.open_finished(out)
    file = ReviewFile.of(run, path)
    given, added = _read(download, file.crs), 0
    layers = {layer: _rows(given, layer) for layer in (VERDICTS, MISSED)}
    for layer, table in layers.items():
        ReviewFile(download, file.crs, file.classes).checked(layer, table)
    file.add({})  # makes the file, or layers that it lacks
    with rows_in_place(file.path) as rows:
        for layer, table in layers.items():
            plain = table.drop(columns="row").replace({"": None, np.nan: None})
            for n, key in enumerate(plain[["id", "checked_at"]].to_dict("records")):
                if rows.last(layer, {str(name): value for name, value in key.items()}) is None:
                    rows.insert(layer, plain.iloc[[n]])
                    added += 1
    review = file.read()
    filled = len(review.looked_at)
    return ReviewRows(file.path, added, len(review.verdicts) - filled, filled, 0, 0, "row(s)")


def _read(path: Path, crs: pyproj.CRS) -> gpd.GeoDataFrame:
    """Return the features of a downloaded file, with their row in it, from 1.

    Args:
        path: of the file.
        crs: that it must be in.
    """
    try:
        content = json.loads(path.read_bytes())
        table = gpd.GeoDataFrame.from_features(content["features"], crs)
        known = content["name"] == DOWNLOAD and set(table["layer"]) <= {VERDICTS, MISSED}
        given = content["crs"]["properties"]["name"], content["proj4"]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); correct the path") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        known = False  # it is something else
    if not known:
        raise UsageError(
            f"{path}: is no file of verdicts; download it with the page of capecam view --export "
            "or --single"
        )
    if given != (own := (name_of(crs), proj_string(crs))):
        raise UsageError(
            f"{path}: its coordinates are in {' '.join(given)}, those of the run in "
            f"{' '.join(own)}; add it to the run that it was made with"
        )
    table = table.assign(row=table.index + 1)
    check(str(path), table, table.geometry.isna(), table["layer"], "has no geometry; remove it")
    return table


def _rows(table: gpd.GeoDataFrame, layer: str) -> gpd.GeoDataFrame:
    """Return the rows of a layer with its columns, and ``row``."""
    rows = table[table["layer"] == layer]
    rows = rows.reindex(columns=[*LAYERS[layer].columns, "row", "geometry"])
    return rows.assign(checked_at=rows["checked_at"].map(_local)).reset_index(drop=True)


def _local(text: Any) -> str:
    """Return a time as the review file has it: of this machine, in milliseconds."""
    try:
        moment = datetime.fromisoformat(str(text)).astimezone()
    except ValueError:
        return str(text or "")
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds")
