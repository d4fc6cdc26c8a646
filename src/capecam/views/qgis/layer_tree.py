"""Layer tree of a run's project: its layers, their groups, and their abstracts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq

from capecam.detections.measurement import middle_pixel_m
from capecam.detections.neighbourhood import NEIGHBOURHOOD_M
from capecam.io.heat_layer import OBJECT_SHARE_MAX
from capecam.settings import OBJECT_TITLES, PIXEL_METHODS, TITLES
from capecam.store.file_names import GEOPACKAGE, LAYER, OBJECTS, REJECTED
from capecam.store.run_folder import RunFolder
from capecam.views.palette import EVIDENCE_COLORS
from capecam.views.qgis import abstracts
from capecam.views.qgis.product_styles import CLASSES, IMAGERY, PROBABILITY, method_styles
from capecam.views.qgis.project import Bounds, Group, MapLayer, Project, Theme
from capecam.views.qgis.review_pages import EXPLAIN, REVIEW, review_pages
from capecam.views.styles.layers import (
    FAR,
    cells_style,
    classes_style,
    density_style,
    detections_style,
    imagery_scale,
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
    columns = pq.read_schema(run.detections()).names
    queue, detections, imagery = _queue(columns), _detections(run, columns), _imagery(run)
    objects, heatmaps = _objects(run, counts), _heatmaps(run, counts)
    explained = (objects + heatmaps)[:1]
    groups = (
        queue, detections, _ledger(), *objects, *heatmaps, _probability(run), _classes(run),
        *imagery,
    )  # fmt: skip
    bounds, record = _bounds(run), run.record
    pages = review_pages(
        queue.layers[0],
        explained[0].layers[0] if explained else None,
        bounds=bounds,
        metres=float(middle_pixel_m(run.grid).mean() / np.mean(run.grid.pixel)),
        footer=_provenance(run),
    )
    return Project(
        title=TITLE,
        abstract=_abstract(run, counts),
        created=record.started or "",
        crs=run.grid.crs,
        bounds=bounds,
        groups=groups,
        themes=tuple(_themes(queue, detections, explained, imagery, run.names[1:])),
        layouts=(pages,),
    )


def _themes(
    queue: Group,
    detections: Group,
    explained: Sequence[Group],
    imagery: Sequence[Group],
    names: Sequence[str],
) -> Iterator[Theme]:
    """Yield what is shown together; explanations of the ticked class, and of each of them."""
    found = _ticked(detections, *imagery)
    yield Theme("Overview", found)
    yield Theme(EXPLAIN, found | _ticked(*explained))
    yield Theme(REVIEW, _ticked(queue, *imagery))
    for group in explained:
        for name, layer in zip(names, group.layers, strict=True):
            yield Theme(f"{EXPLAIN}, {name}", found | {layer.id})


def _ticked(*groups: Group) -> frozenset[str]:
    """Return the ids of the layers that are ticked in some groups."""
    return frozenset(layer.id for group in groups for layer in group.layers if layer.ticked)


def _provenance(run: RunFolder) -> str:
    """Return in a line which network found this, when, in whose images, and who may use it."""
    about, started = run.about, run.record.started
    parts = [
        f"{about.software}, run {about.run}" + (f" of {started[:10]}" if started else ""),
        f"network: {about.model}, sha256 {about.model_sha256[:12]}",
        f"images of {about.captured}" if about.captured else "",
        f"rights: {about.rights}" if about.rights else "",
    ]
    return "; ".join(filter(None, parts))


def _abstract(run: RunFolder, counts: Mapping[str, int]) -> str:
    found = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    return abstracts.PROJECT.format(
        found=found, done=len(run.cells), cells=len(run.record.cells), about=_provenance(run)
    )


def _bounds(run: RunFolder) -> Bounds:
    """Return the bounds of the finished cells, not of all images."""
    return run.layer(f"{CLASSES}.tif").grid.bounds


def _queue(columns: Sequence[str]) -> Group:
    source = f'{GEOPACKAGE}|layername={LAYER}|subset="review" <= {QUEUE}'
    about = abstracts.QUEUE.format(count=QUEUE)
    nodes = range(1, len(EVIDENCE_COLORS) + 2)  # without the object of a page
    layer = MapLayer(
        "review", f"First {QUEUE} to look at", source, about, queue_style(columns),
        legend=_only(nodes),
    )  # fmt: skip
    return Group("Review queue", (layer,))


def _detections(run: RunFolder, columns: Sequence[str]) -> Group:
    source = f"{GEOPACKAGE}|layername="
    outlines = replace(detections_style(run.settings.model.classes, columns), from_scale=FAR)
    layers = [
        MapLayer(LAYER, "All detections", source + LAYER, abstracts.DETECTIONS, outlines),
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
    return MapLayer("density", "Regions in each image", CELLS, about, density_style(counts))


def _ledger() -> Group:
    layer = MapLayer("cells", "State of each image", CELLS, abstracts.CELLS, cells_style())
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
                name,
                f"{OBJECTS}.vrt",
                about,
                default[1],
                dict(others),
                ticked=name == ticked,
                legend=_unit(f"share in a block of {block_m:.2g} m"),
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
    unit = "raw value" if run.raw else "0 to 1 of the city's scale"
    if run.is_by_root(method) and not run.raw:
        unit = "root of 0 to 1 of the scale"
    layers = []
    for band, (name, top) in enumerate(zip(names, scale, strict=True), start=1):
        default, *others = method_styles(run, method, band).items()
        layers.append(
            MapLayer(
                f"{method}_{band}",
                f"{name}{'' if top is not None else ' (empty)'}",
                f"{method}.vrt",
                _about(run, method, name, top),
                default[1],
                dict(others),
                ticked=name == ticked,
                legend=_unit(unit),
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
            entry.name,
            f"{PROBABILITY}.vrt",
            abstracts.PROBABILITY.format(name=entry.name),
            probability_style(band, entry.color),
            legend=_unit("probability, 0 to 1"),
        )
        for band, entry in enumerate(run.settings.model.classes[1:], start=1)
    )
    return Group("Probability", tuple(layers))


def _classes(run: RunFolder) -> Group:
    classes = run.settings.model.classes
    nodes = range(2, len(classes) + 1)  # without the band and the background
    layer = MapLayer(
        CLASSES, "Class of each pixel", f"{CLASSES}.vrt", abstracts.CLASSES, classes_style(classes),
        legend=_only(nodes),
    )  # fmt: skip
    return Group("Classes", (layer,))


def _imagery(run: RunFolder) -> list[Group]:
    if not (run.out / IMAGERY).exists():
        return []
    about, scale = abstracts.IMAGERY, imagery_scale(run.grid)
    if scale:
        about += abstracts.IMAGERY_SCALE.format(scale=scale)
    layer = MapLayer(
        "imagery", "Images of the run", IMAGERY, about, imagery_style(run.grid),
        legend={"legend/node-order": "empty"}, attribution=run.about.attribution,
    )  # fmt: skip
    return [Group("Imagery", (layer,), ticked=True)]


def _only(nodes: Iterable[int]) -> dict[str, str]:
    """Return the property of a legend that has only some entries, counted from 0."""
    return {"legend/node-order": ",".join(map(str, nodes))}


def _unit(text: str) -> dict[str, str]:
    """Return the property of a legend that has a unit in place of the band's name."""
    return {"legend/label-0": text}
