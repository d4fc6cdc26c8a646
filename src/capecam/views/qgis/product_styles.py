"""Styles of a run's rasters, and the ``.qml`` files beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from capecam.mosaic.imagery_vrt import write_imagery
from capecam.mosaic.mosaic import Mosaic
from capecam.runtime.files import atomic_write
from capecam.store.file_names import OBJECTS
from capecam.store.run_folder import RunFolder
from capecam.views.styles.layers import (
    classes_style,
    heat_styles,
    imagery_style,
    object_styles,
    probability_style,
)
from capecam.views.styles.qml import LayerStyle

CLASSES, PROBABILITY = "classes", "probability"

IMAGERY = "imagery.vrt"


def method_styles(run: RunFolder, method: str, band: int) -> dict[str, LayerStyle]:
    """Return the styles of a band by name, the default first."""
    top = run.scale_max(method)[band - 1] if run.raw else None
    return heat_styles(band, top or 1.0, by_root=run.raw and run.is_by_root(method))


def style_of(run: RunFolder, product: str) -> LayerStyle:
    """Return the style of a raster opened on its own: its first class with a positive value."""
    classes = run.settings.model.classes
    if product == CLASSES:
        return classes_style(classes)
    if product == PROBABILITY:
        return probability_style(1, classes[1].color)
    if product == OBJECTS:
        return next(iter(object_styles(1).values()))
    bands = (band for band, top in enumerate(run.scale_max(product), start=1) if top is not None)
    return next(iter(method_styles(run, product, next(bands, 1)).values()))


def update_imagery_layer(out: Path, mosaic: Mosaic, *, wanted: bool) -> None:
    """Write ``imagery.vrt`` into OUT, or remove that of an earlier run.

    Its style is there first: without one QGIS looks for the darkest and the brightest pixel of the
    city, which took 415 s for 2,616 images of 12,500 x 12,500 px. An earlier one stays until all
    styles are written, so that it is not taken for one that somebody has edited.
    """
    path = out / IMAGERY
    style = path.with_suffix(".qml")
    if not wanted:
        path.unlink(missing_ok=True)
        style.unlink(missing_ok=True)
        return
    if not style.exists():
        _write_text(style, imagery_style(mosaic.grid).to_qml())
    with atomic_write(path) as temporary:
        write_imagery(temporary, mosaic)


def write_styles(run: RunFolder) -> None:
    """Write a ``.qml`` beside every raster of the city and of its cells.

    Styles are not among the inputs of a cell, so that new colours do not make cells stale.
    """
    for product in map(Path, run.products):
        text = style_of(run, product.stem).to_qml()
        for path in _qml_paths(run, product):
            _write_text(path, text)
    if (run.out / IMAGERY).exists():
        style = imagery_style(run.grid)
        _write_text((run.out / IMAGERY).with_suffix(".qml"), style.to_qml())


def _write_text(path: Path, text: str) -> None:
    """Write a text file, unless it is there already: a city has thousands."""
    if not path.exists() or path.read_bytes() != text.encode():
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _qml_paths(run: RunFolder, product: Path) -> Iterator[Path]:
    yield run.out / product.with_suffix(".qml")
    yield run.out / product.with_suffix(".overview.qml")
    for name in run.cells:
        if product.name in run.files(name):
            yield run.path(name, product.name).with_suffix(".qml")
