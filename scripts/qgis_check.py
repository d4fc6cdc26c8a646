"""Does real QGIS open what a run has left, as it is meant to look?

Usage: /usr/bin/python3 scripts/qgis_check.py OUT [--pictures DIR]

Run it with the Python that QGIS belongs to (Debian: apt-get install --no-install-recommends
python3-qgis); capecam is not needed. A line a check; the exit code is 1 if one is bad. The pictures
are there to be looked at: the map as it opens, close up, with everything selected, every theme and
every group, a page with the legend, and the first pages of the review queue.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from qgis.core import (
    Qgis,
    QgsApplication,
    QgsCoordinateReferenceSystem,
    QgsDataProvider,
    QgsExpression,
    QgsExpressionContext,
    QgsExpressionContextUtils,
    QgsFeature,
    QgsFeatureRequest,
    QgsGeometry,
    QgsLayerTreeGroup,
    QgsLayerTreeModel,
    QgsLayoutExporter,
    QgsLayoutItemLegend,
    QgsLayoutItemMap,
    QgsLayoutItemPage,
    QgsLayoutPoint,
    QgsMapLayer,
    QgsMapRendererParallelJob,
    QgsMapSettings,
    QgsPointXY,
    QgsPrintLayout,
    QgsProject,
    QgsRasterLayer,
    QgsRectangle,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QRectF, QSize, Qt
from qgis.PyQt.QtGui import QColor, QImage

SIZE = QSize(1400, 1000)
DPI = 96
CLOSE = 500
"""Denominator of the scale of close pictures."""
CELLS = 20
"""Cells of which every product is opened alone; they are made alike."""
SAMPLE = 200
"""Detections that are looked for on the map."""
PAGES = 3
"""Pages of the review queue that are looked at; they are made alike."""
PALE = 24
"""Levels by which a pixel must differ from the empty map."""
OBJECTS, OBJECTS_TOP = "objects", 0.1
HEAT = "singlebandpseudocolor"
QML = {"classes": "paletted"}


@dataclass
class Report:
    """What was looked at."""

    bad: int = 0

    def check(self, what: str, problems: Iterable[str]) -> None:
        """Note a check with what is wrong, if anything."""
        found = list(problems)
        self.bad += bool(found)
        print(f"BAD  {what}: {'; '.join(found[:5])}" if found else f"ok   {what}", flush=True)


@dataclass(frozen=True)
class Run:
    """What the run says of itself."""

    out: Path
    record: dict

    @property
    def crs(self) -> QgsCoordinateReferenceSystem:
        return QgsCoordinateReferenceSystem.fromWkt(self.record["grid"]["crs"])

    @property
    def classes(self) -> list[dict]:
        return self.record["settings"]["model"]["classes"]

    @property
    def found(self) -> set[str]:
        """Classes of which there is a detection."""
        with (self.out / "summary.csv").open(newline="") as file:
            return {row["class"] for row in csv.DictReader(file) if int(row["count"])}

    @property
    def methods(self) -> list[str]:
        """Heatmaps: the objects' own, and those of tiles."""
        made = [OBJECTS, *self.record["settings"]["explain"]["methods"]]
        return [method for method in made if (self.out / f"{method}.vrt").exists()]

    def top(self, product: str, band: int) -> float:
        """The value that has the last colour."""
        if product == OBJECTS:
            return OBJECTS_TOP
        raw = self.record["settings"]["explain"]["heatmap_dtype"] == "float32"
        tops = self.record["calibration"]["tops"].get(product) if raw else None
        return (tops and tops[band - 1]) or 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder of a run")
    parser.add_argument("--pictures", type=Path, help="where to leave them")
    arguments = parser.parse_args()
    application = QgsApplication([], True)  # layouts want a screen, if only an offscreen one
    application.initQgis()
    out = arguments.out.resolve()
    run = Run(out, json.loads((out / "run.json").read_text()))
    report = Report()
    print(f"QGIS {Qgis.QGIS_VERSION}")
    with opened(out / "capecam.qgz", report) as project:
        report.check("every layer is valid, in the CRS of the imagery", layers(project, run))
        report.check("renderers, ranges and styles", renderers(project, run))
        report.check("groups, and what shows at first", tree(project, run))
        report.check("legends name everything once, with a unit", legends(project))
        report.check("themes", themes(project))
        report.check("columns have names, detections a tip and a form", columns(project))
        report.check("detections are on the map", drawn(project, run))
        report.check("every layer that is not empty draws something", not_blank(project, run))
        report.check("what is selected is seen, and what is under it", selection(project))
        report.check("labels lie at their objects", labels(project))
        report.check("a page for each object of the queue", pages(project, arguments.pictures))
        if arguments.pictures:
            take_pictures(project, arguments.pictures)
    with tempfile.TemporaryDirectory(dir=out.parent) as moved:
        shutil.copytree(out, moved, copy_function=copied, dirs_exist_ok=True)
        there = Run(Path(moved), run.record)
        with opened(there.out / "capecam.qgz", report) as project:
            report.check("moved to another folder, it opens there", layers(project, there))
            report.check("and shows the detections", drawn(project, there))
    report.check("each product opened alone is styled", alone(run))
    sys.stdout.flush()
    # QGIS's own clean-up at exit crashes in some builds, with everything done.
    os._exit(1 if report.bad else 0)


def copied(source: str, target: str) -> None:
    """Rasters are large and only read; a database with two names can be damaged."""
    (shutil.copy2 if source.endswith(".gpkg") else os.link)(source, target)


@contextmanager
def opened(path: Path, report: Report) -> Iterator[QgsProject]:
    """The project, until another one is opened."""
    project, started = QgsProject.instance(), time.perf_counter()
    fine = project.read(str(path))
    took = time.perf_counter() - started
    report.check(f"{path.name} opens ({took:.2f} s)", [] if fine else [project.error()])
    yield project
    project.clear()


def layers(project: QgsProject, run: Run) -> Iterator[str]:
    """What is wrong with the layers as data."""
    if project.crs() != run.crs:
        yield f"the project is in {name_of(project.crs())}"
    if not project.mapLayers():
        yield "there is none"
    for layer in project.mapLayers().values():
        if not layer.isValid():
            yield f"{layer.id()} is not valid ({layer.source()})"
        elif layer.crs() != run.crs:
            yield f"{layer.id()} is in {name_of(layer.crs())}"
        if not layer.source().startswith(f"{run.out}/"):
            yield f"{layer.id()} comes from {layer.source()}"
        if len(layer.abstract()) < 40:
            yield f"{layer.id()} is not explained"


def name_of(crs: QgsCoordinateReferenceSystem) -> str:
    return crs.authid() or crs.toWkt()[:60]


def renderers(project: QgsProject, run: Run) -> Iterator[str]:
    """What is wrong with how they are drawn."""
    for layer in project.mapLayers().values():
        if isinstance(layer, QgsVectorLayer):
            yield from vector_problems(layer)
        else:
            yield from raster_problems(layer, run)
    for layer in of_kind(project, run.methods):
        manager = layer.styleManager()
        if "jet" not in manager.styles() or not manager.setCurrentStyle("jet"):
            yield f"{layer.id()} has no style jet"
            continue
        yield from raster_problems(layer, run)
        manager.setCurrentStyle("default")


def of_kind(project: QgsProject, products: Iterable[str]) -> list[QgsRasterLayer]:
    """The layers of some products."""
    found = [x for x in project.mapLayers().values() if isinstance(x, QgsRasterLayer)]
    return [layer for layer in found if Path(layer.source()).stem in products]


def vector_problems(layer: QgsVectorLayer) -> Iterator[str]:
    kind = layer.renderer().type()
    if kind != "RuleRenderer":
        yield f"{layer.name()} is drawn by {kind}"
    elif not layer.renderer().rootRule().children():
        yield f"{layer.name()} has no rule"
    if not layer.labelsEnabled():
        yield f"{layer.name()} has no labels"


def raster_problems(layer: QgsRasterLayer, run: Run) -> Iterator[str]:
    """Type, range, and that nothing shows where there is nothing."""
    product, renderer = Path(layer.source()).name.split(".")[0], layer.renderer()
    name = layer.source()
    if product == "imagery":
        if renderer.type() != "multibandcolor":
            yield f"{name} is drawn by {renderer.type()}"
        return
    wanted = QML.get(product, HEAT)
    if renderer.type() != wanted:
        yield f"{name} is drawn by {renderer.type()}, not {wanted}"
    elif wanted == "paletted":
        colors = [entry.color for entry in renderer.classes()]
        if colors[0].alpha() or [c.name() for c in colors[1:]] != [
            entry["color"].lower() for entry in run.classes[1:]
        ]:
            yield f"{name} has the colours {[c.name(QColor.HexArgb) for c in colors]}"
    else:
        band, top = renderer.band(), run.top(product, renderer.band())
        ends = renderer.classificationMin(), renderer.classificationMax()
        items = renderer.shader().rasterShaderFunction().colorRampItemList()
        if abs(ends[0]) > 0 or abs(ends[1] - top) > 1e-6 * top:
            yield f"{name} goes from {ends[0]} to {ends[1]}, not from 0 to {top}"
        if items[0].value != 0 or items[0].color.alpha() or not items[-1].color.alpha():
            yield f"{name} is not transparent at 0, or is at its end"
        if class_of(layer, run) is None:
            yield f"{name} shows {layer.bandName(band)}"


def tree(project: QgsProject, run: Run) -> Iterator[str]:
    """What is wrong with the legend."""
    root = project.layerTreeRoot()
    groups = [group.name() for group in root.findGroups()]
    for wanted in ("Review queue", "Detections", "Cells ledger", "Probability", "Classes"):
        if wanted not in groups:
            yield f"there is no group {wanted}, but {groups}"
    alone = [by_name(group) for group in root.findGroups()]
    yield from (f"no group of its own for {m}" for m in run.methods if {m} not in alone)
    for group in root.findGroups():
        ticked = [node for node in group.findLayers() if node.itemVisibilityChecked()]
        if group.isMutuallyExclusive() and len(ticked) != 1:
            yield f"ticking {group.name()} would show {len(ticked)} layers"
        if not group.isMutuallyExclusive() and any(m in by_name(group) for m in run.methods):
            yield f"{group.name()} can show heatmaps over each other"
    shown = [node.layer() for node in root.findLayers() if node.isVisible()]
    heat = [layer for layer in shown if layer in of_kind(project, run.methods)]
    rest = {layer.id() for layer in shown} - {layer.id() for layer in heat}
    if len(heat) != min(1, len(run.methods)) or not rest <= {
        "capecam_density",
        "capecam_detections",
        "capecam_imagery",
    }:
        yield f"at first there are {sorted(layer.id() for layer in shown)}"
    data, view = QgsRectangle(), project.viewSettings().defaultViewExtent()
    for layer in of_kind(project, ["classes"]):
        data = layer.extent()
    if not view.contains(data) or view.width() > 1.5 * data.width() + data.height():
        yield f"the map opens at {view.toString(0)}, the data are at {data.toString(0)}"


def legends(project: QgsProject) -> Iterator[str]:
    """What the legend says twice, or without a unit."""
    root = project.layerTreeRoot()
    model = QgsLayerTreeModel(root)
    for group in root.findGroups():
        for node in group.findLayers():
            if node.name() == group.name():
                yield f"{group.name()} is in {group.name()}"
            entries = [x.data(Qt.DisplayRole) for x in model.layerLegendNodes(node)]
            if any(str(text).startswith("Band ") for text in entries) or (
                node.layer().type() == QgsMapLayer.RasterLayer and node.name() in entries
            ):
                yield f"the legend of {node.name()} in {group.name()} has {entries}"


def themes(project: QgsProject) -> Iterator[str]:
    """What is wrong with the themes, and what they leave behind."""
    collection, root = project.mapThemeCollection(), project.layerTreeRoot()
    model = QgsLayerTreeModel(root)
    as_it_opens = collection.createThemeFromCurrentState(root, model)
    for wanted in ("Overview", "Explain", "Review"):
        if not collection.hasMapTheme(wanted):
            yield f"there is no theme {wanted}, but {collection.mapThemes()}"
            continue
        collection.applyTheme(wanted, root, model)
        shown = {node.layer().id() for node in root.findLayers() if node.isVisible()}
        of_theme = {layer.id() for layer in collection.mapThemeVisibleLayers(wanted)}
        if shown != of_theme or not shown:
            yield f"{wanted} shows {sorted(shown)}, not {sorted(of_theme)}"
        for group in root.findGroups():
            if not any(node.itemVisibilityChecked() for node in group.findLayers()):
                yield f"after {wanted}, ticking {group.name()} would show nothing"
    collection.insert("as it opens", as_it_opens)
    collection.applyTheme("as it opens", root, model)
    collection.removeMapTheme("as it opens")


def columns(project: QgsProject) -> Iterator[str]:
    """Columns without a name, and what is wrong with the tip over a detection."""
    for layer in project.mapLayers().values():
        if isinstance(layer, QgsVectorLayer):
            nameless = [f.name() for f in layer.fields() if not f.alias() and f.name() != "fid"]
            if nameless:
                yield f"{layer.id()} has no names for {nameless}"
    for name in ("capecam_detections", "capecam_review"):
        layer = project.mapLayer(name)
        if not layer.editFormConfig().tabs():
            yield f"{name} has no form"
        for feature in layer.getFeatures(QgsFeatureRequest().setLimit(1)):
            tip = tip_of(layer, feature)
            if "[%" in tip or feature["class"] not in tip or feature["id"] not in tip:
                yield f"the tip of {name} is {tip!r}"


def tip_of(layer: QgsVectorLayer, feature: QgsFeature) -> str:
    """What is shown over a feature."""
    scopes = QgsExpressionContextUtils.globalProjectLayerScopes(layer)
    context = QgsExpressionContext(scopes)
    context.setFeature(feature)
    return QgsExpression.replaceExpressionText(layer.mapTipTemplate(), context)


def selection(project: QgsProject) -> Iterator[str]:
    """Whether selected detections differ from others, and from white, from afar and close up."""
    color = project.selectionColor()
    if color == QColor(Qt.white) or color.alpha() == 255:
        yield f"what is selected is {color.name(QColor.HexArgb)}"
    for name in ("capecam_detections", "capecam_review"):
        layer = project.mapLayer(name)
        for feature in largest(layer):
            for settings in (close_up(project, feature), as_opened(project)):
                settings.setFlag(QgsMapSettings.DrawSelection, True)
                settings.setLayers([layer])
                before = render(settings)
                layer.select(feature.id())
                if layer.isInScaleRange(settings.scale()) and render(settings) == before:
                    yield f"a selected object of {name} looks like the others"
                layer.removeSelection()


def labels(project: QgsProject) -> Iterator[str]:
    """Labels that are not within 2 mm of their object."""
    layer = project.mapLayer("capecam_detections")
    for feature in largest(layer):
        settings = close_up(project, feature)
        settings.setLayers([layer])
        job = QgsMapRendererParallelJob(settings)
        job.start()
        job.waitForFinished()
        found = job.takeLabelingResults().labelsWithinRect(settings.visibleExtent())
        if not found:
            yield f"there is no label at 1:{CLOSE}"
        for label in found:
            shape = layer.getFeature(label.featureId).geometry()
            away = QgsGeometry.fromRect(label.labelRect).distance(shape)
            if away > 2 * settings.extent().width() / (settings.outputSize().width() / DPI * 25.4):
                yield f"{label.labelText} is {away:.1f} units away"


def pages(project: QgsProject, pictures: Path | None) -> Iterator[str]:
    """What is wrong with the pages of the review queue; the first ones are pictures."""
    layout = project.layoutManager().layoutByName("Review queue")
    if layout is None:
        yield "there is no layout Review queue"
        return
    atlas, queue = layout.atlas(), project.mapLayer("capecam_review")
    atlas.updateFeatures()
    if (
        not atlas.enabled()
        or atlas.coverageLayer() != queue
        or atlas.count() != sum(1 for _ in queue.getFeatures())
    ):
        yield f"{atlas.count()} pages of {atlas.coverageLayer()}"
    atlas.beginRender()
    for rank in range(1, PAGES + 1):
        if not atlas.next():
            break
        feature = layout.reportContext().feature()
        if feature["review"] != rank:
            yield f"page {rank} is of {feature['review']}"
        image = QgsLayoutExporter(layout).renderPageToImage(0, dpi=DPI)
        for item in (x for x in layout.items() if isinstance(x, QgsLayoutItemMap)):
            if not item.extent().contains(feature.geometry().boundingBox()):
                yield f"page {rank} does not show its object in {item.id()}"
            if abs(item.rect().width() - item.rect().height()) > 0.1:
                yield f"{item.id()} of page {rank} is not square"
            if not mapped(image, item.sceneBoundingRect()):
                yield f"{item.id()} of page {rank} is white"
        if pictures:
            pictures.mkdir(parents=True, exist_ok=True)
            image.save(str(pictures / f"{atlas.currentFilename()}.png"))
    atlas.endRender()


def mapped(image: QImage, box: QRectF) -> bool:
    """Whether there is anything but white in a box of a page, in mm."""
    scale = DPI / 25.4
    part = image.copy(QRectF(
        box.x() * scale, box.y() * scale, box.width() * scale, box.height() * scale
    ).toRect().adjusted(3, 3, -3, -3))  # fmt: skip
    empty = QImage(part)
    empty.fill(Qt.white)
    return part != empty


def largest(layer: QgsVectorLayer) -> list[QgsFeature]:
    """The largest detection, if there is one."""
    return list(layer.getFeatures(QgsFeatureRequest().addOrderBy('"area_m2"', False).setLimit(1)))


def close_up(project: QgsProject, feature: QgsFeature) -> QgsMapSettings:
    """The map at an object."""
    settings = as_opened(project)
    zoom(settings, feature.geometry().centroid().asPoint(), CLOSE)
    return settings


def by_name(group: QgsLayerTreeGroup) -> set[str]:
    """The products that a group shows."""
    return {Path(node.layer().source()).stem for node in group.findLayers()}


def drawn(project: QgsProject, run: Run) -> Iterator[str]:
    """Whether the map differs from an empty one where there are detections."""
    layer = project.mapLayer("capecam_detections")
    settings = as_opened(project)
    image, empty = render(settings), QColor(settings.backgroundColor())
    to_pixel = settings.mapToPixel()
    hidden = 0
    features = list(layer.getFeatures(QgsFeatureRequest().setLimit(SAMPLE)))
    for feature in features:
        point = to_pixel.transform(feature.geometry().pointOnSurface().asPoint())
        hidden += not differs(image, round(point.x()), round(point.y()), empty)
    if hidden:
        yield f"{hidden} of {len(features)} detections do not show on the map as it opens"
    if run.found and not features:
        yield f"there is no detection, but summary.csv counts {sorted(run.found)}"


def differs(image: QImage, x: int, y: int, empty: QColor) -> bool:
    """Whether something is drawn within 2 px."""
    near = [(x + dx, y + dy) for dx in range(-2, 3) for dy in range(-2, 3)]
    return any(
        abs(channel - background) > PALE
        for place in near
        if image.valid(*place)
        for channel, background in zip(
            image.pixelColor(*place).getRgb(), empty.getRgb(), strict=True
        )
    )


def not_blank(project: QgsProject, run: Run) -> Iterator[str]:
    """Layers of which nothing is to be seen, at a scale at which they show.

    One that is empty must be blank; one of a class that was not found may be.
    """
    for layer in project.mapLayers().values():
        empty = "(empty)" in layer.name() or (
            isinstance(layer, QgsVectorLayer) and not layer.featureCount()
        )
        shown = class_of(layer, run)
        idle = not run.found or (shown is not None and shown not in run.found)
        settings = as_opened(project)
        settings.setLayers([layer])
        if layer.hasScaleBasedVisibility() and not layer.isInScaleRange(settings.scale()):
            near = layer.minimumScale() * 0.9 < settings.scale()
            scale = layer.minimumScale() * 0.9 if near else layer.maximumScale() * 1.1
            zoom(settings, layer.extent().center(), scale)
        image = render(settings)
        background = QImage(image)
        background.fill(settings.backgroundColor())
        blank = image == background
        if blank != empty and not (blank and idle):
            yield f"{layer.id()} {'is not blank' if empty else 'draws nothing'}"


def class_of(layer: QgsMapLayer, run: Run) -> str | None:
    """Of a raster that shows one class; None: it is another."""
    if not isinstance(layer, QgsRasterLayer) or layer.renderer().type() != HEAT:
        return None
    name = layer.bandName(layer.renderer().band()).split(": ")[-1]
    return name if name in [entry["name"] for entry in run.classes] else None


def as_opened(project: QgsProject) -> QgsMapSettings:
    """The map when the project has just been opened."""
    settings = QgsMapSettings()
    settings.setDestinationCrs(project.crs())
    settings.setBackgroundColor(project.backgroundColor())
    settings.setOutputSize(SIZE)
    settings.setOutputDpi(DPI)
    settings.setSelectionColor(project.selectionColor())
    settings.setLabelingEngineSettings(project.labelingEngineSettings())
    settings.setExtent(QgsRectangle(project.viewSettings().defaultViewExtent()))
    for flag in ("Antialiasing", "DrawLabeling", "UseRenderingOptimization"):  # as the window has
        settings.setFlag(getattr(QgsMapSettings, flag), True)
    root = project.layerTreeRoot()
    settings.setLayers([x for x in root.layerOrder() if root.findLayer(x.id()).isVisible()])
    return settings


def zoom(settings: QgsMapSettings, centre: QgsPointXY, scale: float) -> None:
    """To 1:``scale``."""
    extent = settings.extent()
    extent.scale(scale / settings.scale())
    extent = QgsRectangle.fromCenterAndSize(centre, extent.width(), extent.height())
    settings.setExtent(extent)


def render(settings: QgsMapSettings) -> QImage:
    """The map as a picture."""
    context = QgsExpressionContext()
    context.appendScope(QgsExpressionContextUtils.mapSettingsScope(settings))
    settings.setExpressionContext(context)
    job = QgsMapRendererParallelJob(settings)
    job.start()
    job.waitForFinished()
    return job.renderedImage()


def take_pictures(project: QgsProject, folder: Path) -> None:
    """As it opens; close up; each group over the imagery; a page with the legend."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = as_opened(project)
    render(settings).save(str(folder / "whole.png"))
    layer = project.mapLayer("capecam_detections")
    for feature in largest(layer):
        settings = close_up(project, feature)
        render(settings).save(str(folder / "close.png"))
        settings.setFlag(QgsMapSettings.DrawSelection, True)
        layer.selectByRect(settings.extent())
        render(settings).save(str(folder / "selected.png"))
        layer.removeSelection()
        collection = project.mapThemeCollection()
        for theme in collection.mapThemes():
            settings.setLayers(collection.mapThemeVisibleLayers(theme))
            render(settings).save(str(folder / f"theme_{theme.lower().replace(' ', '_')}.png"))
    imagery = project.mapLayer("capecam_imagery")
    for group in project.layerTreeRoot().findGroups():
        ticked = [node.layer() for node in group.findLayers() if node.itemVisibilityChecked()]
        settings.setLayers([*ticked, *([imagery] if imagery else [])])
        render(settings).save(str(folder / f"{group.name().lower().replace(' ', '_')}.png"))
    page(project, folder / "page.png")
    print(f"pictures are in {folder}")


def page(project: QgsProject, path: Path) -> None:
    """The map as it opens, with the legend of every group, as one would print it."""
    layout = QgsPrintLayout(project)
    layout.initializeDefaults()
    layout.pageCollection().page(0).setPageSize("A3", QgsLayoutItemPage.Landscape)
    sheet = QgsLayoutItemMap(layout)
    sheet.attemptSetSceneRect(QRectF(8, 8, 204, 281))
    sheet.setExtent(project.viewSettings().defaultViewExtent())
    layout.addLayoutItem(sheet)
    legend = QgsLayoutItemLegend(layout)
    legend.setLinkedMap(sheet)
    legend.setColumnCount(3)
    layout.addLayoutItem(legend)
    legend.attemptMove(QgsLayoutPoint(214, 8))
    settings = QgsLayoutExporter.ImageExportSettings()
    settings.dpi = DPI
    QgsLayoutExporter(layout).exportToImage(str(path), settings)


def alone(run: Run) -> Iterator[str]:
    """What is wrong with products that are opened without the project."""
    cells = sorted(run.out.glob("cells/[!.]*/cell.json"))[:CELLS]
    folders = [run.out, *(cell.parent for cell in cells)]
    files = [p for folder in folders for ext in ("vrt", "tif") for p in folder.glob(f"*.{ext}")]
    for path in files:
        layer = QgsRasterLayer(str(path), "")
        if not layer.isValid():
            yield f"{path} is not valid"
        else:
            yield from raster_problems(layer, run)
    for path in (run.out / name for name in ("detections.gpkg", "cells.gpkg")):
        database = QgsVectorLayer(str(path), "")
        for entry in database.dataProvider().subLayers():
            name = entry.split(QgsDataProvider.sublayerSeparator())[1]
            if name != "layer_styles":
                yield from vector_problems(QgsVectorLayer(f"{path}|layername={name}", name))


if __name__ == "__main__":
    main()
