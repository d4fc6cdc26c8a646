"""The results of a finished run, for notebooks and scripts."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Self

import geopandas as gpd
import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray
from PIL import Image

from capecam.analysis.change import RunYear, check_comparable, compare_runs
from capecam.analysis.explain import Explained, explain_object
from capecam.api.raster import Raster
from capecam.errors import UsageError
from capecam.grid import Grid, Window
from capecam.io.gdal import gdal_settings, open_readonly
from capecam.io.layer_reader import LayerReader
from capecam.model.model import Model
from capecam.mosaic.aoi import Bounds, rectangle
from capecam.mosaic.reader import Reader
from capecam.pipeline.run_engine import load_run_model
from capecam.runtime import notebook_html
from capecam.store.file_names import DETECTIONS
from capecam.store.run_folder import RunFolder, product
from capecam.views.panels.panel import Panel
from capecam.views.panels.panels import Panels
from capecam.views.report.picture import city_picture

MAX_BYTES = 1 << 30
"""Maximum size of what is read at once, 1 GiB: heatmaps at 0.8 m of 86 km², or imagery at 8 cm of
1.7 km²."""

TOUCH_PX = 1e-6
"""Depth by which a box has to reach into a pixel; an edge that is shared does not count."""

PICTURE_PX = 480
"""Width of the city's picture in a notebook."""


class Results:
    """A finished run: its detections, heatmaps, imagery and explanations.

    >>> results = Results.open("out")
    >>> results.heatmap("gradcam", "solar panel", bbox=(18.44, -33.99, 18.45, -33.98))

    A ``bbox`` is left, bottom, right and top in the CRS of the imagery, or in degrees (WGS 84), and
    gives all pixels that it touches, as far as there are cells.

    Args:
        run: the folder of the run.
        model: network of the run, for explanations; None: it is loaded from the checkpoint for
            the first one, and kept.
    """

    def __init__(self, run: RunFolder, model: Model | None = None) -> None:
        self._run, self._given = run, model

    @classmethod
    def open(cls, out: Path | str, *, model: Model | None = None) -> Self:
        """Open the folder of a run, such as ``run(...).out``.

        Args:
            out: the folder.
            model: network of the run if it was given in memory, or is loaded already.

        Raises:
            OutputError: it holds no run, or no finished cell.
        """
        return cls(RunFolder.open_finished(Path(out)), model)

    @property
    def out(self) -> Path:
        """Folder of the run."""
        return self._run.out

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes without the background."""
        return self._run.names[1:]

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the heatmaps."""
        return self._run.settings.explain.methods

    @property
    def crs(self) -> pyproj.CRS:
        """CRS of the imagery, and of everything that is returned."""
        return pyproj.CRS.from_wkt(self._run.grid.crs)

    @property
    def bounds(self) -> Bounds:
        """Left, bottom, right and top of all cells, in the CRS of the imagery."""
        return self._run.layer("classes.tif").grid.bounds

    @cached_property
    def detections(self) -> gpd.GeoDataFrame:
        """Detections, one row per object; see :func:`read_detections`."""
        return read_detections(self.out)

    def heatmap(
        self, method: str, class_name: str, bbox: Bounds | None = None, *, raw: bool = False
    ) -> Raster:
        """Return a heatmap of a class across all cells.

        Args:
            method: name of the heatmap, such as ``gradcam``.
            class_name: name of the class.
            bbox: box to read; None: the whole city.
            raw: in units of the network's score, instead of shares of the city's scale.

        Returns:
            (rows, columns) float32; NaN where there is no data. Shares are 0..1, whatever
            ``--heatmap-dtype`` the run has.

        Raises:
            UsageError: there is no such heatmap or class; or the box is elsewhere, or too large.
        """
        _check_choice("heatmap", method, self.methods)
        _check_choice("class", class_name, self.classes)
        heat, class_id = self._run.heat(method), self._run.names.index(class_name)
        if heat.layer is None:
            raise UsageError(
                f"{self.out}: its images are smaller than a block of {method}, so that it has no "
                "values; run with a smaller --stride"
            )
        grid = _cropped(heat.layer.grid, bbox, np.dtype(np.float64).itemsize)
        with gdal_settings(), closing(LayerReader(heat.layer)) as reader:
            stored = reader.read(class_id, grid.window)
        top = self._run.scale_max(method)[class_id - 1]
        if raw and self._run.raw:
            values = stored
        else:
            values = heat.scaled(stored, class_id) * ((top or 0.0) if raw else 1.0)
        units = "score" if raw else "share of the city's scale"
        gamma = 0.5 if heat.by_root else 1.0
        name = f"{method}, {class_name}"
        return Raster(np.asarray(values, np.float32), grid, name, units, gamma)

    def imagery(self, bbox: Bounds | None = None) -> Raster:
        """Return the imagery as the network sees it.

        Args:
            bbox: box to read; None: everything.

        Returns:
            (4, rows, columns) uint8, red, green, blue, and alpha: 0 where there is no imagery.

        Raises:
            UsageError: no image can be used any more; or the box is elsewhere, or too large.
            ImageError: an image cannot be decoded there.
        """
        with gdal_settings():
            grid = _cropped(self._run.layer("classes.tif").grid, bbox, 4)
            with Reader(self._run.mosaic) as reader:
                pixels, valid = reader.read(grid.window)
        alpha = np.where(valid, np.uint8(255), np.uint8(0))
        bands = ("red", "green", "blue", "alpha")
        return Raster(np.concatenate([pixels, alpha[None]]), grid, "imagery", bands=bands)

    def explain(
        self, detection: str | None = None, *, at: tuple[float, float] | None = None
    ) -> Explained:
        """Explain a detection by its id, or a place; see :func:`explain_object`."""
        return explain_object(self.out, detection, at=at, model=self._model)

    @cached_property
    def _model(self) -> Model:
        """Load the network for the first explanation."""
        return load_run_model(self._run, self._given)

    def panel(self, detection: str) -> Panel:
        """Return the panel of a detection by its id, which a notebook shows as a picture.

        Raises:
            UsageError: as :meth:`Panels.of_detection`.
        """
        with Panels.open(self.out, model=self._model) as panels:
            return panels.of_detection(detection)

    def changes_since(self, earlier: Results) -> gpd.GeoDataFrame:
        """Return the detections of both runs, as ``kept``, ``new``, ``gone`` or ``unseen``.

        Args:
            earlier: run of an earlier year, of the same classes.

        Returns:
            A row per detection: ``run`` (``before`` or ``after``), ``status``, ``id``,
            ``other_id``, ``iou``, and what detections have, in the CRS of this run.

        Raises:
            UsageError: the runs have different classes.
        """
        with gdal_settings():
            years = RunYear.open(earlier.out), RunYear.open(self.out)
            check_comparable(*years)
            return compare_runs(*years)

    def __repr__(self) -> str:
        """Return what there is in a line."""
        cells, by_class = len(self._run.cells), self._run.record.totals.by_class
        found = sum(count for count, _ in by_class.values()) if by_class else "none yet"
        maps = ", ".join(self.methods)
        return f"Results({self.out}; cells: {cells}; detections: {found}; heatmaps: {maps})"

    def _repr_html_(self) -> str:
        """Return the picture of the city, and its detections by class."""
        by_class = self._run.record.totals.by_class
        rows = [(name, f"{n:,}", f"{m2:,.1f}") for name, (n, m2) in by_class.items()]
        parts = [
            notebook_html.table([[repr(self)]]),
            notebook_html.table(rows, ("class", "count", "area m²")),
        ]
        if drawn := city_picture(self._run, None):
            pixels = np.asarray(Image.open(io.BytesIO(drawn.image)).convert("RGBA"))
            parts.append(notebook_html.small_picture(pixels, drawn.kind, PICTURE_PX))
        return notebook_html.joined(*parts)


def _cropped(grid: Grid, bbox: Bounds | None, value_bytes: int) -> Grid:
    """Return the part of a grid that a box touches.

    Args:
        grid: the whole.
        bbox: the box; None: all of it.
        value_bytes: memory that a pixel takes.

    Raises:
        UsageError: none; or it has too many pixels for the memory.
    """
    window = grid.window
    if bbox is not None:
        shared = shapely.intersection(rectangle(bbox, grid), window.box)
        left, top, right, bottom = shapely.buffer(shared, -TOUCH_PX)[0].bounds or (np.nan,) * 4
        if math.isnan(left):
            edges = ", ".join(f"{value:.10g}" for value in grid.bounds)
            raise UsageError(
                f"bbox {bbox} is not on the cells of the run, which have the bounds {edges} in the "
                "CRS of the imagery; give left, bottom, right, top in it, or in degrees"
            )
        window = Window.between(
            math.floor(top), math.floor(left), math.ceil(bottom), math.ceil(right)
        )
    size = window.height * window.width * value_bytes
    if size > MAX_BYTES:
        raise UsageError(
            f"{window.height} x {window.width} pixels would take {size / 2**30:.1f} GiB; give a "
            "smaller bbox"
        )
    return grid.crop(window)


def _check_choice(kind: str, name: str, names: Sequence[str]) -> None:
    """Raise UsageError if a name is none of those that there are."""
    if name not in names:
        raise UsageError(f"the run has no {kind} {name!r}; it must be one of {', '.join(names)}")


def read_detections(out: Path | str) -> gpd.GeoDataFrame:
    """Return the detections of a run: one row per object, in the CRS of the imagery.

    Raises:
        OutputError: the run has none yet.
    """
    return gpd.read_parquet(product(Path(out), DETECTIONS))


def read_heatmap(out: Path | str, cell: str, method: str, band: str) -> NDArray[np.float32]:
    """Return one heatmap of one cell.

    Args:
        out: the folder of a run.
        cell: name of the cell.
        method: name of the heatmap, such as ``gradcam``.
        band: name of a class.

    Returns:
        (rows, columns) raw values as shares of the city's scale, 0 to 1, or raw values of a run
        with ``--heatmap-dtype float32``; NaN where there is no data.

    Raises:
        KeyError: the file has no such band; the message lists its bands.
    """
    with open_readonly(Path(out) / "cells" / cell / f"{method}.tif") as dataset:
        if band not in dataset.descriptions:
            raise KeyError(f"{method} has no band {band!r}, only {dataset.descriptions}")
        index = dataset.descriptions.index(band) + 1
        values = dataset.read(index, masked=True).astype(np.float32) * dataset.scales[index - 1]
        if dataset.tags(index).get("CAPECAM_TRANSFER") == "sqrt":
            values **= 2
    return np.asarray(np.ma.filled(values, np.nan), np.float32)
