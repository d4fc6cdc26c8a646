"""What a reviewer says, written into the review file row by row (docs/review.md).

A row is there when the answer is: each is one transaction in the file itself, which QGIS may edit
at the same time. A page that got no answer sends its verdict again; a repetition within
``RETRY_S`` is the same verdict.
"""

from __future__ import annotations

import getpass
import json
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

import geopandas as gpd
import pyogrio
import shapely

from capecam.analysis.review.review_file import LAYERS, RIGHT, UNSURE, WRONG, ReviewFile, about
from capecam.errors import OutputError, UsageError
from capecam.io.geopackage_editing import layers_of
from capecam.io.geopackage_rows import rows_in_place
from capecam.store.file_names import MISSED, VERDICTS
from capecam.store.run_folder import RunFolder

RETRY_S = 60.0
"""Time within which the same verdict on the same id is a repeated request, and not a second look:
a server that was killed is started again by then."""

MAX_NOTE = 2_000
"""Characters of a note."""

MAX_VERTICES = 5_000

SHOWN = {
    VERDICTS: ("id", "class", "verdict", "true_class", "note", "reviewer", "checked_at"),
    MISSED: ("class", "m2", "note", "reviewer", "checked_at"),
}
"""Columns that the page is shown."""

Shapes = Callable[[str], tuple[int, shapely.Geometry]]
"""Returns class and outline of a detection by its id."""


class Verdicts:
    """The review file of a run, for one server.

    Args:
        run: the run.
        shape_of: looks up a detection; raises UsageError if there is none.
    """

    def __init__(self, run: RunFolder, shape_of: Shapes) -> None:
        self._run, self._shape_of = run, shape_of
        self._file = ReviewFile.of(run)
        self._added: dict[tuple[str, int], str] = {}
        """``checked_at`` of the rows that this server has added, by layer and number."""
        self._lock = threading.Lock()
        """Held while the file is open in any way; see ``io.geopackage_rows``."""
        self._about = about(run)

    def problem(self) -> str:
        """Return why verdicts cannot be written; "" if they can."""
        try:
            with self._lock:
                self._file.read(if_any=True)
        except (UsageError, OutputError) as error:
            return str(error)
        path = self._file.path
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            return f"{path}: cannot be written; correct its permissions"
        return ""

    def add(
        self, id_: str, verdict: str, true_class: str = "", note: str = ""
    ) -> dict[str, object]:
        """Add a verdict on a detection, and return its row.

        Raises:
            UsageError: there is no such detection, or the verdict contradicts itself.
            OutputError: the file cannot be written.
        """
        names = self._file.names
        if verdict not in (RIGHT, WRONG, UNSURE):
            raise UsageError(f"verdict must be {RIGHT}, {WRONG} or {UNSURE}; got {verdict!r}")
        class_id, shape = self._shape_of(id_)
        self._check_class(true_class or names[class_id])
        is_same = true_class in ("", names[class_id])
        if (verdict == WRONG and true_class and is_same) or (verdict != WRONG and not is_same):
            raise UsageError(
                f"{verdict} contradicts the true class {true_class}; the map says "
                f"{names[class_id]}: give {WRONG} and another class, or {RIGHT} and none"
            )
        true_class = "" if is_same else true_class
        said = {"id": id_, "class": names[class_id], "verdict": verdict, "true_class": true_class}
        return self._insert(VERDICTS, {**said, "note": _checked_note(note)}, shape, {"id": id_})

    def add_missed(
        self, geometry: Mapping[str, Any], class_name: str, m2: float | None, note: str = ""
    ) -> dict[str, object]:
        """Add an object that the map has missed, and return its row.

        Args:
            geometry: GeoJSON polygon, or a point, in the CRS of the run.
            class_name: its class.
            m2: its area, which a point needs.
            note: anything.

        Raises:
            UsageError: the geometry or the class is unusable.
            OutputError: the file cannot be written.
        """
        shape = _shape(geometry)
        self._check_class(class_name)
        if not shapely.intersects(shapely.box(*self._run.grid.bounds), shape):
            raise UsageError("the object is outside of the imagery; draw it on the map")
        is_point = shape.geom_type == "Point"
        if is_point and not (m2 is not None and 0 < m2 < 1e6):
            raise UsageError("a point needs its area in m2; give a number above 0")
        area = m2 if is_point else None
        said = {"class": class_name, "m2": area, "note": _checked_note(note)}
        return self._insert(MISSED, said, shape, {"class": class_name, "m2": area})

    def undo(self, layer: str, row: int) -> dict[str, object]:
        """Remove a row that this server has added.

        Raises:
            UsageError: it has not, or somebody else has removed or changed the row.
            OutputError: the file cannot be written.
        """
        with self._lock:
            checked_at = self._added.get((layer, row))
            if checked_at is None:
                raise UsageError(
                    "that row was not added since the server started; see the review file"
                )
            with rows_in_place(self._file.path) as rows:
                is_removed = rows.delete(layer, row, {"checked_at": checked_at})
            del self._added[layer, row]
        if not is_removed:
            raise UsageError(f"row {row} of {layer} is not as it was added any more; it stays")
        return {"layer": layer, "row": row}

    def read(self) -> dict[str, list[dict[str, Any]]]:
        """Return the rows of both layers, also those of other people, the latest verdict last.

        Raises:
            OutputError: the file cannot be read.
        """
        with self._lock:
            if not self._file.path.exists():
                return {VERDICTS: [], MISSED: []}
            with suppress(OutputError):  # read-only, or busy: what can be read is read
                self._forget_counts()
            try:
                verdicts, missed = (self._rows(layer) for layer in (VERDICTS, MISSED))
            except (OSError, RuntimeError, ValueError) as error:
                raise OutputError(
                    f"{self._file.path}: cannot be read ({str(error)[:200]}); try again"
                ) from error
        verdicts.sort(key=lambda row: (row["checked_at"], row["row"]))  # as they are counted
        for row in verdicts:
            row["verdict"] = row["verdict"].strip().lower()
        shown = [row for row in missed if not row.pop("id") or row["verdict"] == "missed"]
        for row in shown:
            del row["verdict"]
        return {VERDICTS: verdicts, MISSED: [row for row in shown if row["geometry"]]}

    def _forget_counts(self) -> None:
        """Let no row be left out that was added while QGIS had the file open."""
        with rows_in_place(self._file.path) as rows:
            for layer in {VERDICTS, MISSED} & rows.layers():
                rows.forget_count(layer)

    def _rows(self, layer: str) -> list[dict[str, Any]]:
        """Return the rows of a layer; there may be fewer columns, and more."""
        if layer not in layers_of(self._file.path):
            return []
        with_geometry = layer == MISSED
        table = pyogrio.read_dataframe(
            self._file.path, layer=layer, fid_as_index=True, read_geometry=with_geometry
        )
        names = [*SHOWN[layer], *(("id", "verdict") if with_geometry else ())]
        columns: dict[str, list[Any]] = {"row": table.index.to_list()}
        for name in names:
            values = table[name].tolist() if name in table else [None] * len(table)
            columns[name] = [_plain(value, is_number=name == "m2") for value in values]
        if with_geometry:
            shapes = table.geometry.to_crs(self._file.crs) if table.crs else table.geometry
            columns["geometry"] = [_geojson(shape) for shape in shapes]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _insert(
        self,
        layer: str,
        said: Mapping[str, Any],
        shape: shapely.Geometry,
        key: Mapping[str, object],
    ) -> dict[str, object]:
        """Add a row, unless it repeats the last one with the same key."""
        now = datetime.now()
        who = {"reviewer": _user(), "checked_at": now.isoformat(timespec="milliseconds")}
        row = {**said, **who, **self._about}
        stored = {name: None if value == "" else value for name, value in row.items()}
        table = gpd.GeoDataFrame([stored], geometry=[shape], crs=self._file.crs)
        with self._lock:
            self._make_layers()
            with rows_in_place(self._file.path) as rows:
                before = rows.last(layer, {**key, "reviewer": stored["reviewer"]})
                if before is not None and _repeats(before, stored, now):
                    number, row["checked_at"] = int(before["row"]), before["checked_at"]
                else:
                    number = rows.insert(layer, table)
            self._added[layer, number] = str(row["checked_at"])
        shown = {name: row[name] for name in SHOWN[layer]}
        more = {"geometry": _geojson(shape)} if layer == MISSED else {}
        return {"row": number, **shown, **more}

    def _make_layers(self) -> None:
        """Make the file, or the layers that it lacks."""
        if self._file.path.exists():
            with rows_in_place(self._file.path) as rows:
                if rows.layers() >= LAYERS.keys():
                    return
        self._file.add({})

    def _check_class(self, name: str) -> None:
        if name not in self._file.names[1:]:
            raise UsageError(
                f"{name!r} is no class of the run; there is {', '.join(self._file.names[1:])}"
            )


def _repeats(before: Mapping[str, Any], row: Mapping[str, Any], now: datetime) -> bool:
    """Return whether a row says what one of a moment ago says."""
    said = [name for name in row if name not in ("checked_at", "run", "model")]
    if any(before.get(name) != row[name] for name in said):
        return False
    try:
        age = (now - datetime.fromisoformat(str(before["checked_at"]))).total_seconds()
    except (TypeError, ValueError):  # somebody has typed something else
        return False
    return 0 <= age <= RETRY_S


def _checked_note(note: str) -> str:
    if len(note) > MAX_NOTE:
        raise UsageError(f"a note may have {MAX_NOTE} characters; shorten it")
    return note.strip()


def _shape(geometry: Mapping[str, Any]) -> shapely.Geometry:
    """Return the geometry of a GeoJSON object that is a valid polygon or a point."""
    try:
        shape = shapely.from_geojson(json.dumps(geometry))
    except (shapely.errors.GEOSException, TypeError, ValueError) as error:
        raise UsageError(f"geometry: {str(error)[:100]}; it must be GeoJSON") from error
    if shape.geom_type not in ("Point", "Polygon", "MultiPolygon") or shape.is_empty:
        raise UsageError("geometry must be a polygon or a point")
    if shapely.get_num_coordinates(shape) > MAX_VERTICES or not shapely.is_valid(shape):
        raise UsageError(
            f"the outline crosses itself, or has over {MAX_VERTICES} corners; draw it again"
        )
    return shapely.force_2d(shape)


def _geojson(shape: shapely.Geometry | None) -> dict[str, Any] | None:
    if shape is None or shape.is_empty:
        return None
    found: dict[str, Any] = json.loads(shapely.to_geojson(shape))
    return found


def _plain(value: Any, *, is_number: bool = False) -> Any:
    """Return a value for JSON: a number or None, or a text, "" where there is none."""
    is_missing = value is None or value != value  # noqa: PLR0124 NaN
    if is_number:
        return None if is_missing else float(value)
    return "" if is_missing else str(value)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, a number without a name
        return ""
