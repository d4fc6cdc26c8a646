"""Explanations of one run, in the process that explains."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from capecam.analysis.explain import described, square_at
from capecam.errors import CapecamError, UsageError
from capecam.io.gdal import gdal_settings
from capecam.pipeline.object_tiles import ExplainedObject, tile_windows
from capecam.pipeline.run_explainer import RunExplainer
from capecam.store.run_folder import RunFolder
from capecam.viewer.outlines import read_outlines
from capecam.viewer.overlays import overlays_of, plain_numbers
from capecam.viewer.target import Target

log = logging.getLogger(__name__)

PLACE = "place"
"""Id of a place without a detection."""


class RunExplanations:
    """Explains objects and places of a run.

    Args:
        out: folder of the run.
    """

    def __init__(self, out: Path) -> None:
        self._out = out

    def warm_up(self) -> None:
        """Load what the first explanation needs; if it cannot be, that one says why."""
        try:
            with gdal_settings():
                self._explainer.load()
        except CapecamError as error:
            log.warning("nothing can be explained: %s", error)

    def answer(self, target: Target) -> dict[str, Any] | str:
        """Return an explanation as the page is sent it, or why there is none."""
        started = time.perf_counter()
        try:
            with gdal_settings():
                found = self._explain(target)
        except CapecamError as error:
            return str(error)
        return {**found, "took_s": round(time.perf_counter() - started, 3)}

    @cached_property
    def _run(self) -> RunFolder:
        return RunFolder.open(self._out)

    @cached_property
    def _explainer(self) -> RunExplainer:
        return RunExplainer(self._run)

    def _explain(self, target: Target) -> dict[str, Any]:
        run = self._run
        wanted, outline = self._object(target)
        if not wanted.class_id:
            class_id = self._explainer.likeliest_class(wanted.shape)
            wanted = replace(wanted, class_id=class_id)
        each = described(
            self._explainer.explain(self._with_others(wanted, target.outlines)), run.names
        )
        overlays = [
            (
                overlay.png,
                {
                    "title": overlay.title,
                    "extent": overlay.extent,
                    "legend": [{"label": text, "color": color} for text, color in overlay.legend],
                    "unit": overlay.unit,
                },
            )
            for overlay in overlays_of(each.explanation, run.grid, run.settings)
        ]
        return {
            "id": each.id,
            "class": each.class_name,
            "class_id": wanted.class_id,
            "confidence": round(each.explanation.probability, 6),
            "numbers": plain_numbers(each.numbers),
            "evidence": each.word,
            "outline": json.loads(shapely.to_geojson(outline)),
            "overlays": overlays,
        }

    def _object(self, target: Target) -> tuple[ExplainedObject, shapely.Geometry]:
        """Return what is to be explained, and its outline in the CRS of the run; class 0 is not
        known yet."""
        grid = self._run.grid
        ids, classes, shapes = read_outlines(target.outlines, target.bounds)
        west, south, *_ = target.bounds
        for id_, class_id, shape in zip(ids, classes.tolist(), shapes, strict=True):
            is_wanted = id_ == target.id
            if is_wanted or (target.id is None and shapely.intersects_xy(shape, west, south)):
                wanted = target.class_id or class_id
                local = shapely.transform(shape, grid.to_lattice)
                return ExplainedObject(id_, wanted, local), shape
        if target.id is not None:
            raise UsageError(f"there is no detection {target.id!r}; reload the page")
        here = shapely.Point(grid.to_pixels(np.array([[west, south]]))[0])
        if not shapely.intersects(grid.window.box, here):
            raise UsageError("that place is outside of the imagery; click on it")
        square = square_at(grid, here)
        outline = shapely.transform(square, grid.to_map)
        return ExplainedObject(PLACE, target.class_id or 0, square), outline

    def _with_others(self, wanted: ExplainedObject, outlines: Path) -> ExplainedObject:
        """Return an object with the other detections of its class that its tiles show."""
        run, tiling = self._run, self._run.settings.tiling.tiling
        windows = tile_windows(wanted.shape, tiling.size, tiling.stride, run.grid.window)
        bounds = np.array([run.grid.crop(window).bounds for window in windows])
        around = (*bounds[:, :2].min(axis=0).tolist(), *bounds[:, 2:].max(axis=0).tolist())
        ids, classes, shapes = read_outlines(outlines, around)
        local = shapely.transform(shapes, run.grid.to_lattice)
        tiles = shapely.union_all([window.box for window in windows])
        is_other = (classes == wanted.class_id) & (np.array(ids, object) != wanted.id)
        near = local[is_other & shapely.intersects(local, tiles)]
        return replace(wanted, others=tuple(near))
