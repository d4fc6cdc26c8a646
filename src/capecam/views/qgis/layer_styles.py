"""How a run's rasters look, and a ``.qml`` beside each of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from capecam.mosaic.imagery_vrt import write_imagery
from capecam.mosaic.mosaic import Mosaic
from capecam.runtime.files import atomic_write
from capecam.store.run_folder import RunFolder
from capecam.views.styles.layers import (
    classes_style,
    heat_style,
    imagery_style,
    jet_style,
    probability_style,
)
from capecam.views.styles.qml import LayerStyle

CLASSES, PROBABILITY = "classes", "probability"

IMAGERY = "imagery.vrt"


def heat_styles(run: RunFolder, method: str, band: int) -> dict[str, LayerStyle]:
    """By name, the first of them the default."""
    top = (run.scale_max(method)[band - 1] if run.raw else None) or 1.0
    return {"inferno": heat_style(band, top), "jet": jet_style(band, top)}


def style_of(run: RunFolder, product: str) -> LayerStyle:
    """Of a raster opened alone: its first class of which there is something."""
    classes = run.settings.model.classes
    if product == CLASSES:
        return classes_style(classes)
    if product == PROBABILITY:
        return probability_style(1, classes[1].color)
    known = (band for band, top in enumerate(run.scale_max(product), start=1) if top is not None)
    return heat_styles(run, product, next(known, 1))["inferno"]


def lay_out_imagery(out: Path, mosaic: Mosaic, *, wanted: bool) -> None:
    """The images as a layer of OUT, or none of an earlier run.

    Its style comes first: without one QGIS looks for the darkest and the brightest pixel of the
    city, which took it 415 s for 2,616 images of 12,500 x 12,500 px.
    """
    path = out / IMAGERY
    style = path.with_suffix(".qml")
    if not wanted:
        path.unlink(missing_ok=True)
        style.unlink(missing_ok=True)
        return
    _write_text(style, imagery_style().to_qml())
    with atomic_write(path) as temporary:
        write_imagery(temporary, mosaic)


def write_styles(run: RunFolder) -> None:
    """A ``.qml`` beside every raster of the city and of its cells.

    They are no part of what a cell is made from, so that new colours make no cell again.
    """
    for product in map(Path, run.products):
        text = style_of(run, product.stem).to_qml()
        for path in _places(run, product):
            _write_text(path, text)


def _write_text(path: Path, text: str) -> None:
    """Unless it is there: a city has thousands."""
    if not path.exists() or path.read_text("utf-8") != text:
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _places(run: RunFolder, product: Path) -> Iterator[Path]:
    yield run.out / product.with_suffix(".qml")
    yield run.out / product.with_suffix(".overview.qml")
    for name, cell in run.cells.items():
        if product.name in cell.files:
            yield run.path(name, product.name).with_suffix(".qml")
