"""Panels: a tile as the network saw it, for people to look at. ``capecam panel`` (docs/outputs.md).

The figure of the original work: the tile, the prediction in class colours, and a heatmap for each
method and class; recomputed from the imagery with the run's own network and settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import shapely
import torch

from capecam.attribution.engine import Engine
from capecam.attribution.maps import Maps, check_finite
from capecam.attribution.methods import decide
from capecam.detections.measurement import lonlat, middle_pixel_m
from capecam.errors import UsageError
from capecam.grid import Window
from capecam.io.gdal import gdal_settings
from capecam.model.model import Model
from capecam.mosaic.mosaic import Mosaic
from capecam.mosaic.reader import Reader
from capecam.pipeline.run_engine import build_run_engine, load_run_model
from capecam.pipeline.tiles import Tile, batches
from capecam.store.run_folder import RunFolder
from capecam.views.panels.detection_lookup import Detection, find, queue
from capecam.views.panels.panel import Panel
from capecam.views.panels.tile_lookup import tile_of
from capecam.views.panels.tile_view import Provenance


class Panels:
    """The panels of one run; to be used in a ``with``.

    >>> with Panels.open("out") as panels:
    ...     panels.of_detection("1_680_154").save("panel.png")
    """

    def __init__(self, run: RunFolder, device: str | None, model: Model | None) -> None:
        self._run, self._device, self._model = run, device, model

    @classmethod
    @contextmanager
    def open(
        cls, out: Path | str, *, device: str | None = None, model: Model | None = None
    ) -> Iterator[Panels]:
        """Those of the run in a folder.

        Args:
            out: the folder.
            device: else as the run's settings say.
            model: the run's network, if it is loaded already.

        Raises:
            OutputError: the folder holds no run.
            UsageError: none of its images can be used.
        """
        with gdal_settings():
            run = RunFolder.open(Path(out))
            _ = run.mosaic  # so that missing images are found here
            yield cls(run, device, model)

    @property
    def imagery(self) -> Mosaic:
        """All of the run's that can be used now."""
        return self._run.mosaic

    def top(self, count: int) -> list[str]:
        """The ids of the first detections of the review queue.

        Raises:
            UsageError: there is no detection.
        """
        return queue(self._run.detections(), count)

    def of_detection(self, id_: str) -> Panel:
        """The tile in which a detection is most whole, and of equals most in the middle.

        Raises:
            UsageError: there is no such detection; or its images are gone or have changed, or the
                checkpoint is another.
            ImageError: its image cannot be decoded there.
            NotFiniteError: the network's gradients overflowed.
        """
        subject = find(self._run.detections(), id_, self._run.mosaic.grid)
        self._run.check_images(subject.images)
        (place,) = self._run.mosaic.grid.to_map(shapely.get_coordinates(subject.region.centroid))
        return self._panel(subject.region, (float(place[0]), float(place[1])), subject)

    def at(self, x: float, y: float) -> Panel:
        """The tile in which a place is nearest to the middle.

        Args:
            x: in the CRS of the imagery.
            y: likewise.

        Raises:
            UsageError: there is no imagery; otherwise as :meth:`of_detection`.
        """
        grid = self._run.mosaic.grid
        left, bottom, right, top = grid.bounds
        if not (left <= x < right and bottom < y <= top):
            raise UsageError(
                f"{x:.10g}, {y:.10g} lies outside of the imagery, which goes from {left:.10g} to "
                f"{right:.10g} and from {bottom:.10g} to {top:.10g} in {pyproj.CRS(grid.crs).name}"
                "; give coordinates in that CRS"
            )
        col, row = map(floor, grid.to_lattice_exact(x, y))
        return self._panel(Window(row, col, 1, 1).box, (x, y), None)

    def _panel(self, region: Any, place: tuple[float, float], subject: Detection | None) -> Panel:
        run = self._run
        tiling, grid, model = run.settings.tiling.tiling, run.mosaic.grid, self._engine.model
        window = tile_of(region, tiling, run.interest())
        tile = self._read(window, region)
        maps = self._explain(tile)
        shown = grid.crop(window)
        width_m, height_m = map(float, middle_pixel_m(shown))
        probability = maps.probability[0]
        return Panel(
            grid=shown,
            pixels=tile.pixels.permute(1, 2, 0).numpy(),
            valid=tile.valid.numpy(),
            probability=probability.float().cpu().numpy(),
            decided=decide(probability, sigmoid=model.sigmoid).cpu().numpy(),
            heat={name: heat[0].float().cpu().numpy() for name, heat in maps.heat.items()},
            scale_max=run.record.calibration.scale_max,
            classes=model.classes,
            place=place,
            lonlat=subject.lonlat if subject else _lonlat(grid.crs, place),
            pixel_m=(width_m, height_m),
            images=tuple(source.name for source in run.mosaic.touching(window)),
            footing=self._footing(),
            decisive=run.settings.decisive_method,
            subject=subject,
        )

    def _read(self, window: Window, region: Any) -> Tile:
        """As the run read it: what cannot be decoded of other images is nodata."""
        run = self._run
        seen = run.mosaic.touching(window)
        own = [source.name for source in seen if source.window.box.intersects(region)]
        with Reader(run.mosaic, own[0] if own else None) as reader:
            pixels, valid = reader.read(window)
        if not valid.any():
            raise UsageError("there is no imagery at that place, only nodata; choose another")
        run.check_unchanged(seen, whole=bool(valid.all()))
        return Tile(window, torch.from_numpy(pixels), torch.from_numpy(valid))

    def _explain(self, tile: Tile) -> Maps:
        """In a batch of the run's size on a GPU, where bits depend on it; alone on a CPU."""
        engine = self._engine
        size = 1 if engine.device.type == "cpu" else self._run.record.batch_size
        (batch,) = batches([tile], size)
        maps = engine(batch.pixels, batch.valid)
        check_finite(maps.broken, engine.precision)
        return maps

    @cached_property
    def _engine(self) -> Engine:
        """Loaded when the first tile is explained, so that a wrong id costs nothing."""
        return build_run_engine(self._run, load_run_model(self._run, self._model), self._device)

    def _footing(self) -> Provenance:
        engine = self._engine
        model = engine.model
        return Provenance(
            engine.score, model.architecture, model.target_layer, engine.precision,
            engine.device.type,
        )  # fmt: skip


def _lonlat(crs: str, place: tuple[float, float]) -> tuple[float, float]:
    ((lon, lat),) = lonlat(crs, np.array([place]))
    return float(lon), float(lat)
