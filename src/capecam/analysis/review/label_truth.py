"""What verdicts say about every pixel: a class, no object, or nothing.

Learning from a map's own detections would teach the network its own errors, so that a pixel has a
label only where somebody has looked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from capecam.analysis.matching import overlaps
from capecam.analysis.review.review_file import Review
from capecam.analysis.review.verdicts import (
    SAME_IOU,
    areas_m2,
    detections_of,
    match_verdicts,
    one_per_detection,
)
from capecam.detections.measurement import pixel_m
from capecam.detections.regions import mask
from capecam.grid import Grid, Tiling, Window
from capecam.io.cog import NODATA
from capecam.io.polygon_repair import polygonal
from capecam.store.run_folder import RunFolder

DETECTION, MISSED = "detection", "missed"

SNAP_PX = 1e-3
"""Distance from a corner of a pixel below which a vertex is that corner; map coordinates of the
size of a UTM northing lose 1e-8 px of 8 cm on the way."""

Shapes = NDArray[np.object_]


@dataclass(frozen=True, slots=True, eq=False)
class TileTruth:
    """Known objects and pixels of one tile."""

    window: Window
    """In lattice pixels."""
    classes: NDArray[np.uint8]
    """(height, width) index of the class, 255 where nobody has looked or there is no imagery."""
    objects: NDArray[np.intp]
    """Positions in ``LabelTruth.objects`` of the objects in the tile."""
    complete_by: str
    """``block`` or ``verdicts``: why every object of the tile is known; "" if not all are."""


@dataclass(frozen=True, eq=False)
class LabelTruth:
    """Objects that people have confirmed, corrected or drawn, and where they have looked."""

    objects: gpd.GeoDataFrame
    """``id``, ``class_id``, ``class``, ``m2``, ``source``, ``block`` and outlines, in the CRS of
    the run; ``class_id`` is 0 for a detection that is no object."""
    grid: Grid
    detections: Shapes
    """Outlines of the detections without a verdict, in lattice pixels."""
    doubtful: Shapes
    """Outlines, in lattice pixels, of what people disagree on, or have marked with a point."""
    checked: shapely.Geometry
    """Union of the checked blocks of the sample, in lattice pixels."""

    @cached_property
    def shapes(self) -> Shapes:
        """Outlines of ``objects`` in lattice pixels."""
        return to_lattice(self.objects.geometry.to_numpy(), self.grid)

    def windows(self, tiling: Tiling) -> list[Window]:
        """Return the tiles with something that was looked at, row-major."""
        places = set()
        for shape in (*self.shapes, *shapely.get_parts(self.checked)):
            left, top, right, bottom = shape.bounds
            box = Window.between(
                int(np.floor(top)), int(np.floor(left)), int(np.ceil(bottom)), int(np.ceil(right))
            )
            rows, cols = tiling.indices(box)
            for i in rows:
                for j in cols:
                    if _reaches(shape, tiling.window(i, j)):
                        places.add((i, j))
        return [tiling.window(i, j) for i, j in sorted(places)]

    def tile(self, window: Window, valid: NDArray[np.bool_]) -> TileTruth:
        """Return what is known about a tile.

        Args:
            window: the tile.
            valid: (height, width) True is imagery, at least one pixel.
        """
        inside = self._inside(self._shapes_index, self.shapes, window)
        unseen = self._inside(self._detections_index, self.detections, window)
        doubtful = [shape for shape in self.doubtful if _reaches(shape, window)]
        checked = _burnt([self.checked], window)
        complete_by = ""
        is_looked_at = (self.objects["source"].to_numpy()[inside] == DETECTION).any()
        if not doubtful and checked[valid].all():
            complete_by = "block"
        elif not doubtful and not len(unseen) and is_looked_at:
            complete_by = "verdicts"
        classes = np.full(window.shape, NODATA, np.uint8)
        classes[checked | bool(complete_by)] = 0
        classes[_burnt(self.detections[unseen], window) & ~checked] = NODATA
        class_ids = self.objects["class_id"].to_numpy(np.uint8)
        order = inside[np.argsort(class_ids[inside] > 0, kind="stable")]  # what is nothing first
        for row in order:
            classes[mask(clip(self.shapes[row], window), window)] = class_ids[row]
        classes[_burnt(doubtful, window) | ~valid] = NODATA
        return TileTruth(window, classes, inside[class_ids[inside] > 0], complete_by)

    @cached_property
    def _shapes_index(self) -> shapely.STRtree:
        return shapely.STRtree(self.shapes)

    @cached_property
    def _detections_index(self) -> shapely.STRtree:
        return shapely.STRtree(self.detections)

    def _inside(self, index: shapely.STRtree, shapes: Shapes, window: Window) -> NDArray[np.intp]:
        """Return the positions of shapes with an area in a window, ascending."""
        near = np.sort(index.query(window.box))
        kept = [row for row in near if _reaches(shapes[row], window)]
        return np.array(kept, np.intp)


def clip(shape: shapely.Geometry, window: Window) -> shapely.Geometry:
    """Return the part of an outline in a window, without the lines and points where it touches."""
    return polygonal(shapely.intersection(shape, window.box))


def _reaches(shape: shapely.Geometry, window: Window) -> bool:
    return bool(clip(shape, window).area > 0)


def _burnt(shapes: Shapes | list[shapely.Geometry], window: Window) -> NDArray[np.bool_]:
    """Return (height, width) True in any of the shapes."""
    burnt = np.zeros(window.shape, np.bool_)
    for shape in shapes:
        part = clip(shape, window)
        if part.area > 0:
            burnt |= mask(part, window)
    return burnt


def to_lattice(shapes: Shapes, grid: Grid) -> Shapes:
    """Return outlines in map coordinates in lattice pixels, on corners where they are near one."""

    def convert(points: NDArray[np.float64]) -> NDArray[np.float64]:
        exact = grid.to_pixels(points)
        corners = np.rint(exact)
        return np.where(np.abs(exact - corners) < SNAP_PX, corners, exact)

    return np.asarray(shapely.transform(shapes, convert), object)


def label_truth(run: RunFolder, review: Review) -> LabelTruth:
    """Return what a review says about the imagery of a run.

    The outline of a verdict counts, and not that of the detection now: it is what was looked at.
    """
    detections = detections_of(run)
    found = match_verdicts(review.verdicts, detections)
    distinct = one_per_detection(found.looked_at)
    verdicts = pd.concat([distinct.rows, found.unmatched]).sort_index()
    verdicts = verdicts[~verdicts.geometry.normalize().to_wkb().duplicated(keep="last")]
    is_point = shapely.get_dimensions(review.missed.geometry.to_numpy()) == 0
    is_rough = is_point | (review.missed["id"] != "").to_numpy()  # an outline of a proposal
    drawn = review.missed[~is_rough]
    objects = pd.concat([
        _objects(verdicts, verdicts["truth_id"], "true_m2", run.names, DETECTION),
        _without_known(drawn, verdicts, run),
    ])  # fmt: skip
    is_seen = np.zeros(len(detections), np.bool_)
    is_seen[distinct.rows["detection"].to_numpy(np.intp)] = True
    done = review.sample[review.sample["block"].isin(review.done_blocks())]
    blocks = to_lattice(done.geometry.to_numpy(), run.grid)
    doubtful = [
        *to_lattice(distinct.disputed.geometry.to_numpy(), run.grid),
        *_discs(review.missed[is_point], run.grid),
        *to_lattice(review.missed.geometry.to_numpy()[is_rough & ~is_point], run.grid),
    ]
    shapes = to_lattice(detections.geometry.to_numpy(), run.grid)
    return LabelTruth(
        gpd.GeoDataFrame(objects.reset_index(drop=True), crs=detections.crs),
        run.grid,
        shapes[~is_seen],
        np.array([*doubtful, None], object)[:-1],
        shapely.union_all(blocks),
    )


def _objects(
    table: gpd.GeoDataFrame, class_ids: pd.Series, given: str, names: tuple[str, ...], source: str
) -> gpd.GeoDataFrame:
    ids = table.get("id", "")  # what was missed has none
    return gpd.GeoDataFrame(
        {
            "id": ids,
            "class_id": class_ids.to_numpy(np.int64),
            "class": np.array(names, object)[class_ids.to_numpy(np.int64)],
            "m2": areas_m2(table, given),
            "source": source,
            "block": table["block"],
        },
        geometry=table.geometry,
        crs=table.crs,
    )


def _without_known(
    drawn: gpd.GeoDataFrame, verdicts: gpd.GeoDataFrame, run: RunFolder
) -> gpd.GeoDataFrame:
    """Return what was missed, without what has been found since and confirmed."""
    confirmed = verdicts[verdicts["truth_id"] > 0]
    i, j, iou = overlaps(drawn.geometry.to_numpy(), confirmed.geometry.to_numpy(), 0.0)
    same = drawn["class_id"].to_numpy()[i] == confirmed["truth_id"].to_numpy()[j]
    left = drawn.drop(index=drawn.index[np.unique(i[same & (iou > SAME_IOU)])])
    return _objects(left, left["class_id"], "m2", run.names, MISSED)


def _discs(points: gpd.GeoDataFrame, grid: Grid) -> Iterator[shapely.Geometry]:
    """Yield discs with the area of objects that are marked with a point, in lattice pixels."""
    for shape, m2 in zip(points.geometry, points["m2"], strict=True):
        (centre,) = grid.to_pixels(shapely.get_coordinates(shape)[:1])
        width, height = pixel_m(grid, centre[None])[0]
        radius = np.sqrt(m2 / np.pi / (width * height))
        yield shapely.Point(centre).buffer(radius)
