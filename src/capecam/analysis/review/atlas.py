"""The blocks of a sample as pages to print, to be filled in with a pencil."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image

from capecam.analysis.review.review_file import Review, ReviewFile
from capecam.errors import UsageError
from capecam.grid import Grid, Window
from capecam.io.gdal import gdal_settings
from capecam.mosaic.reader import Reader
from capecam.runtime.files import atomic_write
from capecam.settings import ClassSettings
from capecam.store.run_folder import RunFolder
from capecam.views.report.page import data_url
from capecam.views.report.svg_paths import svg_path

MARGIN = 0.08
"""Imagery shown around a block, as a share of its edge: an object at its edge is seen whole."""

MAX_PX = 1000
"""Maximum edge of a picture: 64 m at 8 cm with its margin have 928 pixels."""

QUALITY = 80
"""Of WebP: 100 to 200 KB a block of 64 m."""

STYLE = """\
body { font: 11pt sans-serif; margin: 1em auto; max-width: 18cm; }
section { break-after: page; }
h1 { font-size: 14pt; }
svg { width: 100%; height: auto; max-height: 17cm; background: #eee; }
path { fill: none; stroke-width: 1.5; vector-effect: non-scaling-stroke; }
.block { stroke: #fff; stroke-dasharray: 6 4; }
text { font: bold 14px sans-serif; fill: #fff; stroke: #000; stroke-width: 3;
       paint-order: stroke; text-anchor: middle; }
table { border-collapse: collapse; width: 100%; }
td, th { border: 1px solid #999; padding: 2px 6px; text-align: left; }
"""

HELP = (
    "Is each numbered object there, and of its class? Then look for objects that have no number: "
    "draw them, and write their class below. What lies mostly outside of the dashed square belongs "
    "to another block. Afterwards, copy this into the review file, and set checked."
)


@dataclass(frozen=True, slots=True)
class _Page:
    """A block to draw."""

    name: str
    shape: shapely.Polygon
    """In pixels."""
    rows: gpd.GeoDataFrame
    """Verdicts of the block, shapes in pixels."""


def write_atlas(out: Path, path: Path, review: Path | None = None) -> None:
    """Write the blocks of a sample that are not checked yet as an HTML file, a page each.

    Args:
        out: folder of the run.
        path: the file to write, ``*.html``.
        review: the review file; None: ``review.gpkg`` in the folder of the run.

    Raises:
        OutputError: the folder holds no run.
        UsageError: the file is not of HTML, there is no sample, or the imagery is gone.
        ImageError: an image cannot be read.
    """
    if path.suffix.lower() not in {".html", ".htm"}:
        raise UsageError(f"{path}: the atlas must be HTML, such as atlas.html; a browser prints it")
    run = RunFolder.open_finished(out)
    content = ReviewFile.of(run, review).read()
    if not len(content.sample):
        raise UsageError(f"{content.path}: holds no sample; draw one with capecam sample OUT")
    with (
        gdal_settings(),
        Reader(run.mosaic) as reader,
        atomic_write(path) as temporary,
        temporary.open("w", encoding="utf-8") as stream,
    ):
        stream.write(
            f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Sample of '
            f"{escape(out.name)}</title><style>{STYLE}</style></head><body>\n"
        )
        for page in _pages(content, run.grid):
            stream.write(_section(page, reader, run.settings.model.classes))
        stream.write("</body></html>\n")


def _pages(review: Review, grid: Grid) -> Iterator[_Page]:
    """Yield the blocks that are not checked."""
    verdicts = review.verdicts[review.verdicts["block"] != ""]
    moved = shapely.transform(verdicts.geometry.to_numpy(), grid.to_pixels)
    named = verdicts.drop(columns=verdicts.geometry.name).rename(columns={"class": "class_name"})
    verdicts = gpd.GeoDataFrame(named, geometry=moved)
    by_block = dict(iter(verdicts.groupby("block")))
    for row in review.sample[~review.sample["checked"]].itertuples():
        shape = shapely.transform(row.geometry, grid.to_pixels)
        yield _Page(row.block, shape, by_block.get(row.block, verdicts.iloc[:0]))


def _section(page: _Page, reader: Reader, classes: Sequence[ClassSettings]) -> str:
    """Return a page as HTML."""
    window = _window(page.shape)
    picture = data_url(_picture(reader.read(window)[0]), "webp")
    colors = {entry.name: entry.color for entry in classes}
    marks = [_path(page.shape, 'class="block"')]
    for number, row in enumerate(page.rows.itertuples(), start=1):
        color = colors.get(str(row.class_name), "#ffffff")
        marks.append(_path(row.geometry, f'stroke="{color}"'))
        x, y = shapely.get_coordinates(row.geometry.centroid)[0]
        marks.append(f'<text x="{x:.1f}" y="{y:.1f}">{number}</text>')
    lines = "".join(
        f"<tr><td>{number}</td><td>{escape(name)}</td><td>{escape(key)}</td>"
        "<td>right ☐ wrong ☐, it is</td></tr>"
        for number, (name, key) in enumerate(
            zip(page.rows["class_name"], page.rows["id"], strict=True), start=1
        )
    )
    box = f"{window.col} {window.row} {window.width} {window.height}"
    place = f'x="{window.col}" y="{window.row}" width="{window.width}" height="{window.height}"'
    return (
        f"<section><h1>Block {escape(page.name)}</h1><p>{HELP}</p>"
        f'<svg viewBox="{box}"><image href="{picture}" {place}/>{"".join(marks)}</svg>'
        f"<table><tr><th></th><th>class on the map</th><th>id</th><th>verdict</th></tr>{lines}"
        "</table><p>Missed: ____________________  Checked completely ☐</p></section>\n"
    )


def _window(shape: shapely.Polygon) -> Window:
    """Return the pixels of a block and its margin."""
    left, top, right, bottom = shape.bounds
    margin = MARGIN * max(right - left, bottom - top)
    corners = np.array([top - margin, left - margin, bottom + margin, right + margin])
    return Window.between(*np.rint(corners).astype(int).tolist())


def _picture(pixels: NDArray[np.uint8]) -> bytes:
    """Return (3, height, width) pixels as WebP, reduced if there are too many."""
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.thumbnail((MAX_PX, MAX_PX))
    stream = io.BytesIO()
    image.save(stream, "WEBP", quality=QUALITY)
    return stream.getvalue()


def _path(shape: shapely.Geometry, attributes: str) -> str:
    """Return the outlines of polygons as an SVG path."""
    return f'<path {attributes} d="{svg_path(shape)}"/>'
