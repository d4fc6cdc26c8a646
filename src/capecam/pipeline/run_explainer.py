"""Explain objects and places of an earlier run, with its own network and imagery."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

from capecam.attribution.device import pick_device
from capecam.attribution.object_engine import ObjectEngine
from capecam.model.model import Model
from capecam.mosaic.reader import Reader
from capecam.pipeline.object_explainer import ObjectExplainer, ObjectExplanation
from capecam.pipeline.object_group import GroupResult, ObjectGroup
from capecam.pipeline.object_tiles import ExplainedObject, tile_windows
from capecam.pipeline.run_engine import build_object_engine, load_run_model
from capecam.store.run_folder import RunFolder


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

    def explain(self, target: ExplainedObject) -> ObjectExplanation:
        """Explain one object.

        Raises:
            UsageError: its images are gone or have changed, or the checkpoint is another.
            ImageError: its image cannot be decoded there.
            NotFiniteError: the network's gradients overflowed.
        """
        run, mosaic = self._run, self._run.mosaic
        tiling = run.settings.tiling.tiling
        own = None
        for window in tile_windows(target.shape, tiling.size, tiling.stride, mosaic.grid.window):
            sources = mosaic.touching(window)
            run.check_unchanged(sources, whole=False)
            inside = (s.name for s in sources if s.window.box.intersects(target.shape))
            own = own or next(inside, None)
        with Reader(mosaic, own) as reader:
            batch_size = self._run.record.batch_size
            explainer = ObjectExplainer(self._engine, reader, tiling, batch_size)
            (explanation,) = explainer.explain([target])
        return explanation

    def explain_groups(self, groups: Iterable[ObjectGroup]) -> Iterator[GroupResult]:
        """Explain the objects of a city one by one, as its workers do."""
        for group in groups:
            yield GroupResult(
                group, tuple(self.explain(target).stored() for target in group.objects)
            )

    @cached_property
    def _engine(self) -> ObjectEngine:
        """Build the engine for the first object, so that an unknown one fails without loading."""
        model = load_run_model(self._run, self._model)
        device = pick_device(self._device or self._run.settings.compute.device)
        record = self._run.record
        precision = record.precision if device.type == record.device else "fp32"
        return build_object_engine(model, self._run.settings.objects, precision, device)
