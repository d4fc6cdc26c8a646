"""Explain detections, places and polygons of a finished run (``capecam explain``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from capecam.analysis.explain_selection import Selection
from capecam.detections.measurement import pixel_m
from capecam.detections.object_columns import MEANINGS, OBJECT_COLUMNS, evidence_words
from capecam.errors import CapecamError, UsageError
from capecam.grid import Grid
from capecam.io.cog import Product, write_cog
from capecam.io.gdal import gdal_settings
from capecam.model.model import Model
from capecam.mosaic.aoi import read_shapes
from capecam.mosaic.place import Point, map_point
from capecam.pipeline.object_explainer import ObjectExplanation, ObjectPart
from capecam.pipeline.object_tiles import ExplainedObject
from capecam.pipeline.run_explainer import RunExplainer
from capecam.run.text_table import text_table
from capecam.runtime import notebook_html
from capecam.store.run_folder import RunFolder
from capecam.views.panels.detection_lookup import find, queue

PICTURE_PX = 320
"""Width of a tile with its map in a notebook."""

PLACE_M = 1.0
"""Half the edge of the square that stands for a place without a detection."""


@dataclass(frozen=True, slots=True, eq=False)
class Explained:
    """Explanation of an object, with what it says in words."""

    explanation: ObjectExplanation
    class_name: str
    numbers: dict[str, float]
    word: str

    @property
    def id(self) -> str:
        """Id of the detection, or a name for the place."""
        return self.explanation.target.id

    def to_json(self) -> dict[str, Any]:
        """Return the numbers; None where they are not defined."""
        rounded = {k: None if np.isnan(v) else round(v, 6) for k, v in self.numbers.items()}
        confidence = round(self.explanation.probability, 6)
        names = {"id": self.id, "class": self.class_name, "confidence": confidence}
        return {**names, **rounded, "evidence": self.word}

    def __repr__(self) -> str:
        """Return what it says in a line, without the maps."""
        numbers = ", ".join(f"{name} {_short(value)}" for name, value in self.numbers.items())
        return f"Explained({self.id}, {self.class_name}: {self.word or 'no map'}; {numbers})"

    def _repr_html_(self) -> str:
        """Return its picture and numbers."""
        from capecam.views.panels.tile_drawing import object_picture  # noqa: PLC0415 matplotlib

        pictures = [
            notebook_html.small_picture(
                object_picture(part.pixels, part.at_pixels, part.tile.inside), self.id, PICTURE_PX
            )
            for part in self.explanation.parts
        ]
        meaning = MEANINGS.get(self.word, "Its map is 0 everywhere.")
        rows = [("id", self.id), ("class", self.class_name), (self.word, meaning)]
        rows += [(name, _short(value)) for name, value in self.numbers.items()]
        return notebook_html.joined(*pictures, notebook_html.table(rows))


@dataclass(frozen=True, slots=True)
class ExplainedSelection:
    """Result of ``capecam explain``."""

    explained: tuple[Explained, ...]
    files: tuple[Path, ...]
    """Maps that were written."""
    failures: dict[str, str]
    """Reasons by object."""

    def to_json(self) -> dict[str, Any]:
        """Return the numbers of all objects, and the files."""
        return {
            "objects": [each.to_json() for each in self.explained],
            "files": [str(path) for path in self.files],
            "failures": self.failures,
        }

    def to_text(self) -> str:
        """Return a table, and the files."""
        return "\n".join([to_text(self.explained), *map(str, self.files)])


def explain_and_write(
    out: Path, selection: Selection, folder: Path, *, device: str | None = None
) -> ExplainedSelection:
    """Explain the selected objects, and write their maps.

    Raises:
        OutputError: the folder holds no run.
        UsageError: there is no such detection or place; the checkpoint or images are others.
    """
    explained, files, failures = [], list[Path](), dict[str, str]()
    with gdal_settings():
        run = RunFolder.open(out)
        explainer = RunExplainer(run, device)
        for target in _targets(run, selection, explainer):
            try:
                each = described(explainer.explain(target), run.names)
            except UsageError:
                raise
            except CapecamError as error:
                failures[target.id] = str(error)
            else:
                explained.append(each)
                files += write_maps(folder, each, run)
    return ExplainedSelection(tuple(explained), tuple(files), failures)


def explain_object(
    out: Path | str,
    detection: str | None = None,
    *,
    at: tuple[float, float] | None = None,
    geometry: Path | None = None,
    class_name: str | None = None,
    device: str | None = None,
    model: Model | None = None,
) -> Explained:
    """Explain one object of a run.

    >>> explained = explain_object("out", "1_680_154")
    >>> explained.word, explained.numbers["alone"], explained.explanation.parts[0].at_pixels

    Args:
        out: folder of the run.
        detection: id of a detection; or
        at: longitude and latitude of a place, WGS 84, or its map coordinates; or
        geometry: file with a polygon, of which the first on the images counts.
        class_name: class to ask about; None: that of the detection, else the most probable.
        device: device to compute on; None: as in the settings of the run.
        model: network of the run, if it is loaded already.

    Raises:
        OutputError: the folder holds no run.
        UsageError: there is no such detection or place; the checkpoint or images are others.
        ImageError: its image cannot be decoded there.
        NotFiniteError: the network's gradients overflowed.
    """
    ids = () if detection is None else (detection,)
    selection = Selection(ids, None, at, geometry, class_name)
    with gdal_settings():
        run = RunFolder.open(Path(out))
        explainer = RunExplainer(run, device, model)
        return described(explainer.explain(next(_targets(run, selection, explainer))), run.names)


def described(explanation: ObjectExplanation, names: Sequence[str]) -> Explained:
    """Return an explanation with its numbers and word."""
    numbers = explanation.numbers()
    word = str(evidence_words(pd.DataFrame([numbers]))[0])
    return Explained(explanation, names[explanation.target.class_id], numbers, word)


def _targets(
    run: RunFolder, selection: Selection, explainer: RunExplainer
) -> Iterator[ExplainedObject]:
    """Yield the selected objects, with the other detections of their class nearby."""
    class_id = None
    if selection.class_name is not None:
        if selection.class_name not in run.names[1:]:
            known = ", ".join(run.names[1:])
            raise UsageError(f"--class must be one of {known}; got {selection.class_name!r}")
        class_id = run.names.index(selection.class_name)
    for target in _shapes(run, selection):
        asked = class_id or target.class_id or explainer.likeliest_class(target.shape)
        yield explainer.with_others(replace(target, class_id=asked))


def _shapes(run: RunFolder, selection: Selection) -> Iterator[ExplainedObject]:
    """Yield the selected shapes; class 0 is not known yet."""
    grid = run.grid
    if selection.at is not None:
        yield _at(run, selection.at)
    elif selection.geometry is not None:
        shapes = read_shapes(selection.geometry, grid)
        inside = [shape for shape in shapes if shapely.intersects(shape, grid.window.box)]
        if not inside:
            raise UsageError(f"{selection.geometry}: no polygon is on the images; check its CRS")
        for number, shape in enumerate(inside, start=1):
            yield ExplainedObject(f"{selection.geometry.stem}_{number}", 0, shape)
    else:
        ids = selection.detections or queue(run.detections(), selection.top or 1)
        for id_ in ids:
            detection = find(run.detections(), id_, grid)
            outline = shapely.transform(detection.outline, np.round)
            yield ExplainedObject(id_, detection.class_id, outline)


def _at(run: RunFolder, place: Point) -> ExplainedObject:
    """Return the detection at a place, or a square around it."""
    x, y = map_point(place, run.grid)
    table = gpd.read_parquet(run.detections(), columns=["id", "class_id", "geometry"])
    for row in table[table.intersects(shapely.Point(x, y))].itertuples():
        outline = shapely.transform(row.geometry, run.grid.to_lattice)
        return ExplainedObject(str(row.id), int(row.class_id), shapely.transform(outline, np.round))
    here = shapely.Point(run.grid.to_pixels(np.array([[x, y]]))[0])
    return ExplainedObject(f"at_{place[0]:.6f}_{place[1]:.6f}", 0, square_at(run.grid, here))


def square_at(grid: Grid, here: shapely.Point) -> shapely.Geometry:
    """Return the square that stands for a place; both in lattice pixels."""
    width, height = pixel_m(grid, np.array([[here.x, here.y]]))[0]
    dx, dy = PLACE_M / width, PLACE_M / height
    return shapely.box(here.x - dx, here.y - dy, here.x + dx, here.y + dy)


def write_maps(folder: Path, explained: Explained, run: RunFolder) -> list[Path]:
    """Write the raw map of an explanation as a COG for each part; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = explained.explanation.parts
    suffixes = [f"_part{n}" if len(parts) > 1 else "" for n in range(1, len(parts) + 1)]
    paths = [folder / f"{explained.id}{suffix}.tif" for suffix in suffixes]
    for path, part in zip(paths, parts, strict=True):
        _write_map(path, part, explained, run)
    return paths


def _write_map(path: Path, part: ObjectPart, explained: Explained, run: RunFolder) -> None:
    tags = {"CAPECAM_OBJECT": explained.id, "CAPECAM_METHOD": run.settings.objects.method}
    product = Product(path.stem, (explained.class_name,), "float32", np.nan, tags=(tags,))
    values = np.where(part.valid, part.at_pixels, np.nan)[None].astype(np.float32)
    write_cog(path, product, run.grid.crop(part.window), values, run.about.tiff_tags())


def to_text(explained: Sequence[Explained]) -> str:
    """Return the numbers of some explanations as a table."""
    rows = [
        [each.id, each.class_name, each.word, *(_short(each.numbers[c]) for c in OBJECT_COLUMNS)]
        for each in explained
    ]
    return text_table(["id", "class", "evidence", *OBJECT_COLUMNS], rows, width=160)


def _short(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"
