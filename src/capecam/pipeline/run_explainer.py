"""Explain objects and places of an earlier run, with its own network and imagery."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property

import geopandas as gpd
import numpy as np
import shapely
import torch
from numpy.typing import NDArray

from capecam.attribution.device import pick_device
from capecam.attribution.object_engine import ObjectEngine
from capecam.detections.regions import mask
from capecam.errors import CapecamError, UsageError
from capecam.grid import Window
from capecam.model.model import Model
from capecam.mosaic.reader import Reader
from capecam.pipeline.object_explainer import ObjectExplainer, ObjectExplanation
from capecam.pipeline.object_group import GroupResult, ObjectGroup
from capecam.pipeline.object_tiles import ExplainedObject, tile_windows
from capecam.pipeline.run_engine import build_object_engine, load_run_model
from capecam.store.run_folder import RunFolder

log = logging.getLogger(__name__)


class RunExplainer:
    """Explains objects of a run as the run does.

    Args:
        run: that is finished.
        device: device to compute on; None: as in the settings of the run.
        model: network of the run, if it is loaded already.
    """

    def __init__(
        self, run: RunFolder, device: str | None = None, model: Model | None = None
    ) -> None:
        self._run, self._device, self._model = run, device, model

    def load(self) -> None:
        """Load the network and the imagery now, and not for the first object.

        Raises:
            UsageError: no image can be used, or the checkpoint is another.
        """
        _ = self._run.mosaic, self._engine

    def explain(self, target: ExplainedObject) -> ObjectExplanation:
        """Explain one object.

        Raises:
            UsageError: its images are gone or have changed, or the checkpoint is another.
            ImageError: its image cannot be decoded there.
            NotFiniteError: the network's gradients overflowed.
        """
        run, own = self._run, None
        for window in self._windows(target.shape):
            sources = run.mosaic.touching(window)
            run.check_unchanged(sources, whole=False)
            inside = (s.name for s in sources if s.window.box.intersects(target.shape))
            own = own or next(inside, None)
        with Reader(run.mosaic, own) as reader:
            tiling, batch_size = run.settings.tiling.tiling, run.record.batch_size
            explainer = ObjectExplainer(self._engine, reader, tiling, batch_size)
            (explanation,) = explainer.explain([target])
        return explanation

    def explain_groups(self, groups: Iterable[ObjectGroup]) -> Iterator[GroupResult]:
        """Explain the objects of a city one by one, as its workers do, as far as possible."""
        for group in groups:
            try:
                stored = tuple(self.explain(target).stored() for target in group.objects)
            except UsageError as error:
                log.warning("detections are not explained: %s", error)
                return
            except CapecamError as error:
                yield GroupResult(group, None, str(error))
            else:
                yield GroupResult(group, stored)

    def with_others(self, target: ExplainedObject) -> ExplainedObject:
        """Return an object with the other detections of its class that its tiles show."""
        class_id, shapes = self._detections
        tiles = shapely.union_all([window.box for window in self._windows(target.shape)])
        near = shapes[(class_id == target.class_id) & shapely.intersects(shapes, tiles)]
        others = near[~shapely.intersects(shapely.buffer(near, -0.5), target.shape)]
        return replace(target, others=tuple(others))

    def likeliest_class(self, shape: shapely.Geometry) -> int:
        """Return the foreground class with the highest mean probability in a shape.

        Raises:
            UsageError: there is no imagery.
        """
        window = self._windows(shape)[0]
        with Reader(self._run.mosaic) as reader:
            pixels, valid = reader.read(window)
        inside = mask(shape, window) & valid
        if not inside.any():
            raise UsageError("there is no imagery at that place, only nodata; choose another")
        probability = self._engine.probabilities(torch.from_numpy(pixels)[None])[0]
        return 1 + int(probability[1:, inside].mean(axis=1).argmax())

    def _windows(self, shape: shapely.Geometry) -> list[Window]:
        tiling = self._run.settings.tiling.tiling
        return tile_windows(shape, tiling.size, tiling.stride, self._run.mosaic.grid.window)

    @cached_property
    def _detections(self) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
        """Read class (N,) and shape (N,) in lattice pixels of all detections."""
        table = gpd.read_parquet(self._run.detections(), columns=["class_id", "geometry"])
        shapes = shapely.transform(table.geometry.to_numpy(), self._run.grid.to_lattice)
        return table["class_id"].to_numpy(), shapely.transform(shapes, np.round)

    @cached_property
    def _engine(self) -> ObjectEngine:
        """Build the engine for the first object, so that an unknown one fails without loading."""
        model = load_run_model(self._run, self._model)
        device = pick_device(self._device or self._run.settings.compute.device)
        record = self._run.record
        precision = record.precision if device.type == record.device else "fp32"
        return build_object_engine(model, self._run.settings.objects, precision, device)
