"""Panels of a run: tiles with their prediction and heatmaps, as figures (docs/outputs.md).

The imagery and the object's own map; and as in the figures of the original work, the prediction in
class colours, and a heatmap per method and class. Maps are computed from the imagery with the run's
own network and settings.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import product
from math import ceil, floor
from pathlib import Path

import numpy as np
import shapely
import torch

from capecam.attribution.engine import Engine
from capecam.attribution.maps import Maps, check_finite
from capecam.attribution.methods import decide
from capecam.detections.measurement import lonlat, middle_pixel_m
from capecam.errors import UsageError
from capecam.grid import Tiling, Window
from capecam.io.gdal import gdal_settings
from capecam.model.model import Model
from capecam.mosaic.aoi import AreaOfInterest
from capecam.mosaic.mosaic import Mosaic
from capecam.mosaic.place import map_point
from capecam.mosaic.reader import Reader
from capecam.pipeline.object_tiles import ExplainedObject
from capecam.pipeline.run_engine import build_run_engine, load_run_model
from capecam.pipeline.run_explainer import RunExplainer
from capecam.pipeline.tiles import Tile, batches
from capecam.store.run_folder import RunFolder
from capecam.views.panels.detection_lookup import Detection, find, queue
from capecam.views.panels.object_map import ObjectMap
from capecam.views.panels.panel import Panel
from capecam.views.panels.panel_data import Provenance


class Panels:
    """Panels of one run; to be opened in a ``with`` statement.

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
        """Open the run in a folder.

        Args:
            out: folder of the run.
            device: device to compute on; None: as in the settings of the run.
            model: network of the run, if it is loaded already.

        Raises:
            OutputError: the folder holds no run.
            UsageError: none of its images can be used.
        """
        with gdal_settings():
            run = RunFolder.open(Path(out))
            _ = run.mosaic  # so that missing images raise here
            yield cls(run, device, model)

    @property
    def imagery(self) -> Mosaic:
        """Return the images of the run that can be used now."""
        return self._run.mosaic

    def top(self, count: int) -> list[str]:
        """Return the ids of the first detections of the review queue.

        Raises:
            UsageError: there are no detections.
        """
        return queue(self._run.detections(), count)

    def of_detection(self, id_: str) -> Panel:
        """Return the panel of a detection, with its own map, in the tile that holds most of it.

        Raises:
            UsageError: there is no such detection; or its images are gone or have changed, or the
                checkpoint is another.
            ImageError: its image cannot be decoded there.
            NotFiniteError: the network's gradients overflowed.
        """
        detection = find(self._run.detections(), id_, self._run.mosaic.grid)
        self._run.check_images(detection.images)
        centroid = shapely.get_coordinates(detection.outline.centroid)
        x, y = self._run.mosaic.grid.to_map(centroid)[0].tolist()
        return self._panel(detection.outline, (x, y), detection)

    def at(self, x: float, y: float) -> Panel:
        """Return the panel of a place, in the tile with most imagery whose centre is nearest.

        Args:
            x: longitude, WGS 84; or coordinate in the CRS of the imagery.
            y: latitude; or coordinate in the CRS of the imagery.

        Raises:
            UsageError: there is no imagery; otherwise as :meth:`of_detection`.
        """
        grid = self._run.mosaic.grid
        x, y = map_point((x, y), grid)
        col, row = map(floor, grid.to_lattice_exact(x, y))
        return self._panel(Window(row, col, 1, 1).box, (x, y), None)

    def _panel(
        self, outline: shapely.Geometry, point: tuple[float, float], detection: Detection | None
    ) -> Panel:
        run = self._run
        tiling = run.settings.tiling.tiling
        near = run.mosaic.touching(tiling.window_read(_bounding(outline)))
        imagery = shapely.union_all([source.window.box for source in near])
        window = tile_of(outline, tiling, run.interest(), imagery)
        tile = self._read(window, outline)
        engine, maps = self._engine, self._explain(tile)
        model, probability = engine.model, maps.probability[0]
        grid = run.mosaic.grid.crop(window)
        width_m, height_m = middle_pixel_m(grid).tolist()
        lon, lat = detection.lonlat if detection else lonlat(grid.crs, np.array([point]))[0]
        return Panel(
            grid=grid,
            pixels=tile.pixels.permute(1, 2, 0).numpy(),
            valid=tile.valid.numpy(),
            probability=probability.float().cpu().numpy(),
            predicted=decide(probability, sigmoid=model.sigmoid).cpu().numpy(),
            heat={name: heat[0].float().cpu().numpy() for name, heat in maps.heat.items()},
            scale_max=run.record.calibration.scale_max,
            classes=model.classes,
            point=point,
            lonlat=(float(lon), float(lat)),
            pixel_m=(width_m, height_m),
            images=tuple(source.name for source in run.mosaic.touching(window)),
            provenance=Provenance(
                score=engine.score,
                network=model.architecture,
                target_layer=model.target_layer,
                precision=engine.precision,
                device=engine.device.type,
            ),
            evidence_method=run.settings.decisive_method,
            detection=detection,
            own=self._own(detection) if detection else None,
        )

    def _read(self, window: Window, outline: shapely.Geometry) -> Tile:
        """Read a tile as the run did: what cannot be decoded of other images is nodata."""
        run = self._run
        sources = run.mosaic.touching(window)
        own = next((s.name for s in sources if s.window.box.intersects(outline)), None)
        with Reader(run.mosaic, own) as reader:
            pixels, valid = reader.read(window)
        if not valid.any():
            raise UsageError("there is no imagery at that place, only nodata; choose another")
        run.check_unchanged(sources, whole=bool(valid.all()))
        return Tile(window, torch.from_numpy(pixels), torch.from_numpy(valid))

    def _explain(self, tile: Tile) -> Maps:
        """Compute the maps of a tile.

        On a GPU in a batch of the run's size, on which the last bits depend; alone on a CPU.
        """
        engine = self._engine
        size = 1 if engine.device.type == "cpu" else self._run.record.batch_size
        (batch,) = batches([tile], size)
        maps = engine(batch.pixels, batch.valid)
        check_finite(maps.broken, engine.precision)
        return maps

    def _own(self, detection: Detection) -> ObjectMap:
        """Compute the own map of a detection."""
        target = ExplainedObject(detection.id, detection.class_id, detection.outline)
        explanation = self._explainer.explain(target)
        return ObjectMap.of(explanation, detection, self._run.settings.objects.method)

    @cached_property
    def _loaded(self) -> Model:
        """Load the network for the first tile, so that an unknown id fails without loading it."""
        return load_run_model(self._run, self._model)

    @cached_property
    def _engine(self) -> Engine:
        """Build the engine of the tile's maps."""
        return build_run_engine(self._run, self._loaded, self._device)

    @cached_property
    def _explainer(self) -> RunExplainer:
        """Build the engine of the objects' own maps."""
        return RunExplainer(self._run, self._device, self._loaded)


def tile_of(
    outline: shapely.Geometry,
    tiling: Tiling,
    interest: AreaOfInterest,
    imagery: shapely.Geometry,
) -> Window:
    """Return the tile that holds most of a shape.

    If several do, the one with most imagery, and of these the one centred best on it. Only tiles
    that the run has processed, or any tile if it has processed none there. A shape wider than the
    overlap may be whole in no tile, although it is narrower than a tile.

    Args:
        outline: shape in pixels of the grid, with an area.
        tiling: tiles of the run.
        interest: area that the run has processed.
        imagery: rectangles of the images nearby, in pixels of the grid.
    """
    pixels = _bounding(outline)
    processed = interest.selected_windows(tiling, pixels)
    windows = [
        tiling.window(i, j) for i, j in sorted(processed or product(*tiling.indices(pixels)))
    ]
    centre = pixels.box.centroid

    def rank(window: Window) -> tuple[int, int, float]:
        inside, seen = (
            round(shapely.intersection(shape, window.box).area) for shape in (outline, imagery)
        )
        return -inside, -seen, shapely.distance(centre, window.box.centroid)

    return min(windows, key=rank)


def _bounding(outline: shapely.Geometry) -> Window:
    """Return the smallest window that holds a shape."""
    left, top, right, bottom = outline.bounds
    return Window.between(floor(top), floor(left), ceil(bottom), ceil(right))
