"""``capecam review OUT --add FILE``: verdicts that were given in a page without a server.

Such a page (``capecam view --export``, ``--single``) saves them as GeoJSON, in the CRS of the run.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import geopandas as gpd
import pandas as pd
import pyproj

from capecam.analysis.review.queue import ReviewRows
from capecam.analysis.review.review_file import LAYERS, ReviewFile
from capecam.errors import UsageError
from capecam.imagery.crs import proj_string
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
    content = _read(download)
    if content["proj4"] != (own := proj_string(file.crs)):
        raise UsageError(
            f"{download}: its coordinates are in {content['proj4']}, those of {out} in {own}; add "
            "it to the run that it was made with"
        )
    review, named = file.read(if_any=True), ReviewFile(download, file.crs, file.classes)
    known = {VERDICTS: review.verdicts, MISSED: pd.concat([review.missed, review.proposed])}
    new: dict[str, gpd.GeoDataFrame] = {}
    for layer in (VERDICTS, MISSED):
        given = named.checked(layer, _rows(content, layer, file.crs))
        there = set(_keys(known[layer]))
        is_new = [key not in there for key in _keys(given)]
        columns = [*LAYERS[layer].columns, "geometry"]
        new[layer] = given.loc[is_new, columns].replace({"": None})
    file.add({})  # makes the file, or layers that it lacks
    with rows_in_place(file.path) as rows:
        for layer, table in new.items():
            for n in range(len(table)):
                rows.insert(layer, table.iloc[[n]])
    added, filled = sum(map(len, new.values())), len(review.looked_at) + len(new[VERDICTS])
    not_yet = len(review.verdicts) - len(review.looked_at)
    return ReviewRows(file.path, added, not_yet, filled, 0, 0, "row(s)")


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a downloaded file."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        table = gpd.GeoDataFrame.from_features(content["features"])
        if content["name"] == DOWNLOAD and set(table["layer"]) <= {VERDICTS, MISSED}:
            return content
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); correct the path") from error
    except (ValueError, KeyError, TypeError, AttributeError):
        pass  # it is something else
    raise UsageError(
        f"{path}: is no file of verdicts; download it with the page of capecam view --export or "
        "--single"
    )


def _rows(content: dict[str, Any], layer: str, crs: pyproj.CRS) -> gpd.GeoDataFrame:
    """Return the features of a layer as its columns, with their row in the file, from 1."""
    table = gpd.GeoDataFrame.from_features(content["features"], crs)
    table = table.assign(row=table.index + 1)[table["layer"] == layer]
    table = table.reindex(columns=[*LAYERS[layer].columns, "row", "geometry"])
    return table.assign(checked_at=table["checked_at"].map(_local)).reset_index(drop=True)


def _local(text: Any) -> str:
    """Return a time as the review file has it: of this machine, in milliseconds."""
    try:
        moment = datetime.fromisoformat(str(text)).astimezone()
    except ValueError:
        return str(text or "")
    return moment.replace(tzinfo=None).isoformat(timespec="milliseconds")


def _keys(rows: pd.DataFrame) -> list[tuple[str, str]]:
    """Return what tells rows apart: the object and the time of looking."""
    return list(zip(rows["id"], rows["checked_at"], strict=True))
