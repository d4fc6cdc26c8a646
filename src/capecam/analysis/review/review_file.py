"""``OUT/review.gpkg``: what people say about the detections of a run (docs/review.md).

Anybody may write it: capecam, a viewer, QGIS, ogr2ogr. It is read strictly, since a verdict that is
misread is worse than an error, and capecam only ever adds rows to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Self

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyogrio
import pyproj
import shapely

from capecam.analysis.review.strict_columns import check, flag_column, number_column, text_column
from capecam.errors import OutputError, UsageError
from capecam.imagery.datum import registered_crs
from capecam.io.geopackage_editing import append_rows, edited_geopackage, layers_of, make_layer
from capecam.io.vector_file_type import kind_of
from capecam.io.vector_layers import EVERY_ROW
from capecam.io.vector_reader import read_polygons
from capecam.settings import ClassSettings
from capecam.store.file_names import MISSED, REVIEW, SAMPLE, SAMPLE_DESIGN, VERDICTS
from capecam.store.run_folder import RunFolder
from capecam.views.styles.qml import embed_style
from capecam.views.styles.review import missed_style, sample_style, verdicts_style

RIGHT, WRONG = "right", "wrong"

UNSURE = "unsure"
"""What people say who looked and could not tell: read as not yet looked at."""

IS_MISSED, IS_NOTHING = "missed", "nothing"
"""What people say of a place where an object may be missed."""

TEXT, REAL, BOOLEAN = pa.string(), pa.float64(), pa.bool_()


@dataclass(frozen=True, slots=True)
class ReviewLayer:
    """Columns and geometry of a layer of the review file."""

    columns: Mapping[str, pa.DataType]
    needed: tuple[str, ...]
    """Columns without which it is another tool's layer."""
    geometry: str | None = "MultiPolygon"
    """None: a plain table."""

    @property
    def schema(self) -> pa.Schema:
        """Return the columns, without the geometry."""
        return pa.schema(list(self.columns.items()))


WHO = {"note": TEXT, "reviewer": TEXT, "checked_at": TEXT, "model": TEXT, "run": TEXT}

LAYERS: Mapping[str, ReviewLayer] = {
    VERDICTS: ReviewLayer(
        {
            "id": TEXT, "class": TEXT, "verdict": TEXT, "true_class": TEXT, "true_m2": REAL,
            "block": TEXT, **WHO,
        },
        ("class", "verdict"),
    ),
    MISSED: ReviewLayer(
        {
            "id": TEXT, "class": TEXT, "verdict": TEXT, "m2": REAL, "probability": REAL,
            "block": TEXT, **WHO,
        },
        ("class",),
    ),
    SAMPLE: ReviewLayer(
        {
            "block": TEXT, "stratum": TEXT, "zone": TEXT, "probability": REAL, "weight": REAL,
            "checked": BOOLEAN, "draw": TEXT,
        },
        ("block", "probability", "checked"),
        "Polygon",
    ),
    SAMPLE_DESIGN: ReviewLayer({"draw": TEXT}, ("draw",), geometry=None),
}  # fmt: skip
"""Layers of the file; a person may leave out any, and add others."""


@dataclass(frozen=True, slots=True, eq=False)
class Review:
    """Content of a review file, in the CRS of the run.

    Texts that are missing are "", numbers NaN, and ``class_id`` and ``true_class_id`` 0 where no
    class is named. ``row`` is the number of a row in its layer, from 1. Other columns are as they
    are in the file.
    """

    path: Path
    verdicts: gpd.GeoDataFrame
    """Columns of the layer, ``row``, ``class_id`` and ``true_class_id``."""
    missed: gpd.GeoDataFrame
    """The same without ``true_class_id``; polygons, and points with their area in ``m2``."""
    proposed: gpd.GeoDataFrame
    """Places of the queue of misses, whatever people say of them; ``missed`` has those that they
    confirm."""
    sample: gpd.GeoDataFrame
    """Blocks, with ``row``."""
    design: pd.DataFrame
    """The table that describes how the sample was drawn; empty without one."""

    @property
    def looked_at(self) -> gpd.GeoDataFrame:
        """Return the verdicts that are filled in."""
        return self.verdicts[self.verdicts["verdict"] != ""]

    def done_blocks(self) -> list[str]:
        """Return the ids of the sampled blocks that are checked, with every verdict filled in."""
        unfilled = set(self.verdicts["block"][self.verdicts["verdict"] == ""])
        checked = self.sample["block"][self.sample["checked"]]
        return [block for block in checked if block not in unfilled]


def about(run: RunFolder) -> dict[str, str]:
    """Return which model and which run a verdict is on, for the columns of these names."""
    checkpoint = run.record.checkpoint
    return {
        "model": f"{checkpoint.architecture} {checkpoint.sha256[:12]}",
        "run": " ".join(filter(None, (run.out.resolve().name, run.record.started))),
    }


@dataclass(frozen=True, slots=True)
class ReviewFile:
    """The review file of a run, which may not exist yet."""

    path: Path
    crs: pyproj.CRS
    """CRS of the run, in which layers are made and read."""
    classes: tuple[ClassSettings, ...]
    """Classes of the run, 0 first."""
    near: shapely.Geometry | None = None
    """Place of the imagery in ``crs``, around which longitudes are counted."""

    @classmethod
    def of(cls, run: RunFolder, path: Path | None = None) -> Self:
        """Return the review file of a run: by default ``review.gpkg`` in its folder."""
        crs = registered_crs(run.grid.crs)
        near = shapely.box(*run.grid.bounds)
        return cls(path or run.out / REVIEW, crs, tuple(run.settings.model.classes), near)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of all classes, 0 first."""
        return tuple(entry.name for entry in self.classes)

    def add(self, tables: Mapping[str, pd.DataFrame]) -> None:
        """Add rows to layers, all or none; nothing that is in the file changes.

        Layers that the file does not have are made, with the forms and styles of QGIS; so is the
        file. An empty mapping only makes what is missing.

        Args:
            tables: rows by layer; columns that the layer does not have are added to it.

        Raises:
            OutputError: the file is open in another program, damaged, or cannot be written.
            UsageError: it is something else, or a layer is another tool's.
        """
        if self.path.exists():
            layers = _layers(self.path)
            self._check_layers(layers)
            if layers.keys() >= LAYERS.keys() and not any(map(len, tables.values())):
                return
        elif not self.path.parent.is_dir():
            raise OutputError(f"{self.path}: there is no folder {self.path.parent}; make it first")
        elif self.path.suffix.lower() != ".gpkg":
            raise UsageError(f"{self.path}: the review file must be a GeoPackage, *.gpkg")
        with edited_geopackage(self.path) as copy:
            known = layers_of(copy)
            for name in LAYERS.keys() - known.keys():
                layer = LAYERS[name]
                make_layer(copy, name, layer.schema, self.crs, layer.geometry)
            for name, rows in tables.items():
                append_rows(copy, name, rows)
            self._embed_styles(copy, LAYERS.keys() - known.keys())

    def _embed_styles(self, path: Path, made: set[str]) -> None:
        styles = {
            VERDICTS: verdicts_style(self.classes),
            MISSED: missed_style(self.classes),
            SAMPLE: sample_style(),
        }
        for name in styles.keys() & made:
            embed_style(path, name, styles[name])

    def read(self, *, if_any: bool = False) -> Review:
        """Read the file.

        Args:
            if_any: a file that does not exist has no rows.

        Raises:
            UsageError: there is no such file, none of the layers, or something in it is wrong.
        """
        layers = {} if if_any and not self.path.exists() else self._known_layers()
        missed = self._missed(self._read(MISSED, layers))
        is_proposed, verdict = missed["id"] != "", missed["verdict"]
        is_missed = (verdict == IS_MISSED) | (~is_proposed & (verdict != IS_NOTHING))
        review = Review(
            self.path,
            self._verdicts(self._read(VERDICTS, layers)),
            missed[is_missed],
            missed[is_proposed],
            self._sample(self._read(SAMPLE, layers)),
            pyogrio.read_dataframe(
                self.path, layer=SAMPLE_DESIGN, read_geometry=False, where=EVERY_ROW
            )
            if SAMPLE_DESIGN in layers
            else LAYERS[SAMPLE_DESIGN].schema.empty_table().to_pandas(),
        )
        self._check_blocks(review)
        return review

    def _known_layers(self) -> dict[str, list[str]]:
        """Return the columns of the layers; at least one must be a layer of a review file."""
        layers = _layers(self.path)
        self._check_layers(layers)
        if not layers.keys() & LAYERS.keys():
            shown = ", ".join(layers) or "none"
            raise UsageError(
                f"{self.path}: has none of the layers {VERDICTS}, {MISSED} and {SAMPLE}, only "
                f"{shown}; make a review file with capecam review OUT"
            )
        return layers

    def _check_layers(self, layers: Mapping[str, Sequence[str]]) -> None:
        """Raise UsageError if a layer with one of the names is another tool's."""
        for name in layers.keys() & LAYERS.keys():
            missing = [column for column in LAYERS[name].needed if column not in layers[name]]
            if missing:
                raise UsageError(
                    f"{self.path}: layer {name} has no column {', '.join(missing)}, only "
                    f"{', '.join(layers[name]) or 'geometry'}; rename the layer if it is another "
                    "tool's, or add the column (docs/review.md)"
                )

    def _read(self, name: str, layers: Mapping[str, Sequence[str]]) -> gpd.GeoDataFrame:
        """Read a layer as it is, with ``row``; without one, no rows."""
        source = Path(f"{self.path}|layername={name}")
        if name not in layers or self._is_empty(name):
            table = gpd.GeoDataFrame(geometry=gpd.GeoSeries(crs=self.crs))
        else:
            table = read_polygons(
                source, self.crs, near=self.near, everywhere=True, with_points=name == MISSED
            )
        return table.assign(row=table.index.to_numpy(np.int64) + 1).reset_index(drop=True)

    def _is_empty(self, name: str) -> bool:
        """Return True for a layer without rows."""
        first = pyogrio.read_dataframe(
            self.path, layer=name, read_geometry=False, where=EVERY_ROW, max_features=1
        )
        return not len(first)

    def checked(self, name: str, table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
        """Return rows of verdicts or missed objects as :meth:`read` does.

        Raises:
            UsageError: something in them is wrong, in a row of this file.
        """
        return self._verdicts(table) if name == VERDICTS else self._missed(table)

    def _verdicts(self, table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
        where = f"{self.path}: {VERDICTS}"
        texts = {name: text_column(table, name) for name in _names(VERDICTS, TEXT)}
        verdict = texts["verdict"] = texts["verdict"].str.lower()
        check(where, table, ~verdict.isin(["", RIGHT, WRONG, UNSURE]), verdict,
               f"verdict must be {RIGHT}, {WRONG}, {UNSURE} or empty")  # fmt: skip
        verdict = texts["verdict"] = verdict.where(verdict != UNSURE, "")
        table = table.assign(**texts, true_m2=number_column(table, "true_m2", where))
        table["class_id"] = self._class_ids(table, "class", where)
        table["true_class_id"] = self._class_ids(table, "true_class", where)
        filled, named = verdict != "", table["true_class_id"] > 0
        check(where, table, filled & (table["class_id"] == 0), table["class"],
               "a verdict needs the class that the map says; fill in class")  # fmt: skip
        check(where, table, ~filled & named, table["true_class"],
               f"has a true_class and no verdict; write {WRONG}, or {RIGHT}")  # fmt: skip
        is_same = named & (table["true_class_id"] == table["class_id"])
        check(where, table, (verdict == WRONG) & is_same, table["true_class"],
               f"is {WRONG}, but true_class is the class; clear one of them")  # fmt: skip
        check(where, table, (verdict == RIGHT) & named & ~is_same, table["true_class"],
               f"is {RIGHT}, but true_class is another class; write {WRONG}")  # fmt: skip
        table.loc[is_same, ["true_class", "true_class_id"]] = "", 0
        return table

    def _missed(self, table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
        where = f"{self.path}: {MISSED}"
        texts = {name: text_column(table, name) for name in _names(MISSED, TEXT)}
        verdict = texts["verdict"] = texts["verdict"].str.lower()
        check(where, table, ~verdict.isin(["", IS_MISSED, IS_NOTHING]), verdict,
               f"verdict must be {IS_MISSED}, {IS_NOTHING} or empty")  # fmt: skip
        table = table.assign(**texts, m2=number_column(table, "m2", where))
        table["class_id"] = self._class_ids(table, "class", where)
        check(where, table, table["class_id"] == 0, table["class"],
               "a missed object needs a class; fill in class")  # fmt: skip
        is_point = shapely.get_dimensions(table.geometry.to_numpy()) == 0
        several = is_point & (shapely.get_num_geometries(table.geometry.to_numpy()) > 1)
        check(where, table, several, texts["class"], "has several points; give each its own row")
        check(where, table, is_point & table["m2"].isna(), texts["class"],
               "a point needs its area in m2; fill it in, or draw the outline")  # fmt: skip
        return table

    def _sample(self, table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
        where = f"{self.path}: {SAMPLE}"
        texts = {name: text_column(table, name) for name in _names(SAMPLE, TEXT)}
        numbers = {name: number_column(table, name, where) for name in _names(SAMPLE, REAL)}
        table = table.assign(**texts, **numbers, checked=flag_column(table, "checked", where))
        block, probability = table["block"], table["probability"]
        twice = (block == "") | block.duplicated()
        check(where, table, twice, block, "block must be there, and once")
        check(where, table, ~(probability <= 1), probability, "probability must be in 0..1")
        return table

    def _check_blocks(self, review: Review) -> None:
        """Raise UsageError if a row names a block that is not in the sample."""
        known = ["", *review.sample["block"]]
        for name, table in ((VERDICTS, review.verdicts), (MISSED, review.missed)):
            check(f"{self.path}: {name}", table, ~table["block"].isin(known), table["block"],
                   f"is no block of the layer {SAMPLE}; correct or clear it")  # fmt: skip

    def _class_ids(self, table: pd.DataFrame, column: str, where: str) -> pd.Series:
        """Return the class that a column of texts names; 0 where it is empty."""
        index = {"": 0} | {name: n for n, name in enumerate(self.names) if n}
        names = table[column]
        unknown = names[~names.isin(index)]
        if len(unknown):
            near = get_close_matches(unknown.iloc[0], self.names[1:], 1)
            hint = near[0] if near else ", ".join(self.names[1:])
            check(where, table, ~names.isin(index), names, f"unknown {column}; there is {hint}")
        return names.map(index).astype(np.int64)


def _layers(path: Path) -> dict[str, list[str]]:
    """Return the columns of the layers by name; of other layers than the file's own, none.

    Raises:
        UsageError: it cannot be read, or is no GeoPackage.
    """
    kind_of(path)  # refuses files that lead to others
    with path.open("rb") as stream:
        is_database = stream.read(15) == b"SQLite format 3"
    if not is_database:
        raise UsageError(f"{path}: is no GeoPackage; convert it with ogr2ogr, a layer at a time")
    try:
        names = layers_of(path)
        return {
            name: list(pyogrio.read_info(path, layer=name)["fields"]) if name in LAYERS else []
            for name in names
        }
    except (OSError, RuntimeError, ValueError, IndexError) as error:
        raise UsageError(
            f"{path}: cannot be read as a GeoPackage ({str(error)[:200]}); copy it again"
        ) from error


def _names(layer: str, kind: pa.DataType) -> list[str]:
    """Return the columns of a type of a layer."""
    return [name for name, known in LAYERS[layer].columns.items() if known == kind]
