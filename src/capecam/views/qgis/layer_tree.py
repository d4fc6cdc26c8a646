"""Layer tree of a run's project: its layers, their groups, and their abstracts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from capecam.detections.measurement import middle_pixel_m
from capecam.detections.neighbourhood import NEIGHBOURHOOD_M
from capecam.io.heat_layer import OBJECT_SHARE_MAX
from capecam.settings import OBJECT_TITLES, PIXEL_METHODS, TITLES
from capecam.store.file_names import GEOPACKAGE, LAYER, OBJECTS, REJECTED
from capecam.store.run_folder import RunFolder
from capecam.views.qgis import abstracts
from capecam.views.qgis.product_styles import CLASSES, IMAGERY, PROBABILITY, method_styles
from capecam.views.qgis.project import Bounds, Group, MapLayer, Project
from capecam.views.styles.layers import (
    FAR,
    IMAGERY_SCALE,
    cells_style,
    classes_style,
    density_style,
    detections_style,
    imagery_style,
    object_styles,
    probability_style,
    queue_style,
    rejected_style,
)

TITLE = "capecam"

CELLS = "cells.gpkg|layername=cells"

QUEUE = 200
"""Number of detections that the review layer shows at first: a morning's work."""


def project_of(run: RunFolder, counts: Mapping[str, int]) -> Project:
    """Return the project of a run.

    Args:
        run: a run with its city products.
        counts: number of detections by class name.
    """
    groups = [
        _queue(),
        _detections(run),
        _ledger(),
        *_objects(run, counts),
        *_heatmaps(run, counts),
        _probability(run),
        _classes(run),
        *_imagery(run),
    ]
    return Project(TITLE, run.grid.crs, _bounds(run), tuple(groups))


def _bounds(run: RunFolder) -> Bounds:
    """Return the bounds of the finished cells, not of all images."""
    return run.layer(f"{CLASSES}.tif").grid.bounds


def _queue() -> Group:
    source = f'{GEOPACKAGE}|layername={LAYER}|subset="review" <= {QUEUE}'
    about = abstracts.QUEUE.format(count=QUEUE)
    layer = MapLayer("review", f"First {QUEUE} to look at", source, about, queue_style())
    return Group("Review queue", (layer,))


def _detections(run: RunFolder) -> Group:
    source = f"{GEOPACKAGE}|layername="
    outlines = replace(detections_style(run.settings.model.classes), from_scale=FAR)
    layers = [
        MapLayer(LAYER, "Detections", source + LAYER, abstracts.DETECTIONS, outlines),
        _density(run),
    ]
    if run.settings.detections.keep_rejected:
        about, style = abstracts.REJECTED, rejected_style()
        rejected = MapLayer(REJECTED, "Rejected", source + REJECTED, about, style, ticked=False)
        layers.append(rejected)
    return Group("Detections", tuple(layers), ticked=True)


def _density(run: RunFolder) -> MapLayer:
    counts = np.array([cell.detections for cell in run.cells.values()], np.float64)
    about = abstracts.DENSITY.format(scale=FAR)
    return MapLayer("density", "Found, from afar", CELLS, about, density_style(counts))


def _ledger() -> Group:
    layer = MapLayer("cells", "Cells", CELLS, abstracts.CELLS, cells_style())
    return Group("Cells ledger", (layer,))


def _objects(run: RunFolder, counts: Mapping[str, int]) -> list[Group]:
    """Return the group of the objects' own explanations, if there are any."""
    if not _explains_objects(run):
        return []
    names, tiling, settings = run.names[1:], run.settings.tiling, run.settings.objects
    block_m = tiling.stride * float(middle_pixel_m(run.grid).mean())
    ticked, layers = _most_frequent(names, counts), []
    for band, name in enumerate(names, start=1):
        default, *others = object_styles(band).items()
        about = abstracts.OBJECTS.format(
            method=OBJECT_TITLES[settings.method],
            name=name,
            block=block_m,
            reach=NEIGHBOURHOOD_M,
            top=100 * OBJECT_SHARE_MAX,
        )
        layers.append(
            MapLayer(
                f"{OBJECTS}_{band}",
                f"Explanations, {name}",
                f"{OBJECTS}.vrt",
                about,
                default[1],
                dict(others),
                ticked=name == ticked,
            )
        )
    return [Group("Each object's explanation", tuple(layers), ticked=True, exclusive=True)]


def _explains_objects(run: RunFolder) -> bool:
    return f"{OBJECTS}.tif" in run.products


def _heatmaps(run: RunFolder, counts: Mapping[str, int]) -> list[Group]:
    """Return one group per method, the first one ticked if objects have no explanations."""
    methods = [m for m in run.settings.explain.methods if f"{m}.tif" in run.products]
    return [
        Group(
            TITLES[method],
            tuple(_heatmap(run, method, counts)),
            ticked=method == methods[0] and not _explains_objects(run),
            exclusive=True,
        )
        for method in methods
    ]


def _heatmap(run: RunFolder, method: str, counts: Mapping[str, int]) -> list[MapLayer]:
    """Return one layer per class; the class with the most detections is ticked."""
    names, scale = run.names[1:], run.scale_max(method)
    nonempty = [name for name, top in zip(names, scale, strict=True) if top is not None]
    ticked = _most_frequent(nonempty or names, counts)
    layers = []
    for band, (name, top) in enumerate(zip(names, scale, strict=True), start=1):
        default, *others = method_styles(run, method, band).items()
        layers.append(
            MapLayer(
                f"{method}_{band}",
                f"{TITLES[method]}, {name}{'' if top is not None else ' (empty)'}",
                f"{method}.vrt",
                _about(run, method, name, top),
                default[1],
                dict(others),
                ticked=name == ticked,
            )
        )
    return layers


def _most_frequent(names: Sequence[str], counts: Mapping[str, int]) -> str:
    """Return the class with the most detections."""
    return max(names, key=lambda name: counts.get(name, 0))


def _about(run: RunFolder, method: str, name: str, top: float | None) -> str:
    if top is None:
        return abstracts.EMPTY.format(method=TITLES[method], name=name)
    explain, by_root = run.settings.explain, run.is_by_root(method)
    about = abstracts.HEAT.format(
        method=TITLES[method],
        what=abstracts.WHAT if method in PIXEL_METHODS else abstracts.WHERE,
        name=name,
        top=f"{top:.3g}" if run.raw else "1",
        of=abstracts.OF_DETECTIONS if by_root else abstracts.OF_ALL,
        raw=top,
        levels=abstracts.ROOTS if by_root and not run.raw else "",
        score=explain.score,
    )
    about += abstracts.OF_TILE if _explains_objects(run) else ""
    return about + (abstracts.DETECTED if explain.where == "detected" else "")


def _probability(run: RunFolder) -> Group:
    layers = (
        MapLayer(
            f"{PROBABILITY}_{band}",
            f"Probability, {entry.name}",
            f"{PROBABILITY}.vrt",
            abstracts.PROBABILITY.format(name=entry.name),
            probability_style(band, entry.color),
        )
        for band, entry in enumerate(run.settings.model.classes[1:], start=1)
    )
    return Group("Probability", tuple(layers))


def _classes(run: RunFolder) -> Group:
    style = classes_style(run.settings.model.classes)
    layer = MapLayer(CLASSES, "Classes", f"{CLASSES}.vrt", abstracts.CLASSES, style)
    return Group("Classes", (layer,))


def _imagery(run: RunFolder) -> list[Group]:
    if not (run.out / IMAGERY).exists():
        return []
    about = abstracts.IMAGERY.format(scale=IMAGERY_SCALE)
    layer = MapLayer("imagery", "Imagery", IMAGERY, about, imagery_style())
    return [Group("Imagery", (layer,), ticked=True)]
