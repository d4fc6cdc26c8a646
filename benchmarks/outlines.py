"""Measure regular outlines beside simpler ones, against the true shapes of the objects.

Usage: outlines.py [--city DIR] [--polygons FILE] [--count N] [--csv FILE]

Shapes are drawn at random angles as pixels, once as they are (clean), and once with edges that are
blurred and uneven, like those of a network (uneven). With --city, the detections of a city that
`capecam demo DIR` and `capecam run` have made are compared with its true objects, too; with
--polygons, those of a file in metres are drawn as pixels of 8 cm.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import geopandas as gpd
import numpy as np
import shapely
from memory import append_rows, environment
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from shapely.affinity import rotate, scale, translate

from capecam.detections.regions import mask
from capecam.detections.regularization import regular_outlines
from capecam.detections.tracing import Tracer
from capecam.grid import Window
from capecam.store.run_folder import known_run

Shapes = NDArray[np.object_]

PIXEL_M = 0.08
SIZES_PX = 12, 100
"""Smallest and largest edge of a drawn shape: 1 and 8 m; the median annotated object has 29 px."""

BLUR_PX, UNEVEN_PX, WAVE_PX = 2.0, 0.6, 3.0
"""Uneven edges: blur, standard deviation of the way that edges move, and size of their waves."""

SMALLEST_IOU = 0.3
"""IoU from which on a detection of a city is compared with a true object."""

WAYS: dict[str, Callable[[Shapes], Shapes]] = {
    "pixels": lambda shapes: shapes,
    "Douglas-Peucker, 1 px": lambda shapes: shapely.simplify(shapes, 1.0),
    "smallest rectangle": shapely.oriented_envelope,
    "regular": regular_outlines,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--city", type=Path, help="folder of capecam demo, with a run in out/")
    parser.add_argument("--polygons", type=Path, help="vector file in metres")
    parser.add_argument("--count", type=int, default=200, help="drawn objects of each shape")
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/outlines.csv"))
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    sets = list(drawn(arguments.count, rng))
    if arguments.polygons:
        polygons = gpd.read_file(arguments.polygons).geometry.to_numpy()
        polygons = shapely.transform(polygons, lambda xy: xy * [1, -1] / PIXEL_M)
        sets += [(arguments.polygons.stem, *edges) for edges in both_edges(polygons, rng)]
    if arguments.city:
        sets.append((arguments.city.name, "detected", *city(arguments.city)))
    for each in sets:
        rows = list(measure(*each))
        for row in rows:
            print(row)
        append_rows(arguments.csv, rows)


def drawn(count: int, rng: np.random.Generator) -> Iterator[tuple[str, str, Shapes, Shapes]]:
    """Yield name and edges of shapes, (N,) outlines of pixels, and (N,) true outlines."""
    box = shapely.box
    unit: dict[str, shapely.Polygon] = {
        "rectangle": box(0, 0, 1, 0.6),
        "L": box(0, 0, 1, 1) - box(0.5, 0.4, 1, 1),
        "U": box(0, 0, 1, 1) - box(0.3, 0.4, 0.7, 1),
        "frame": box(0, 0, 1, 1) - box(0.3, 0.3, 0.7, 0.7),
        "triangle": shapely.Polygon([(0, 0), (1, 0), (0.2, 0.8)]),
        "trapezium": shapely.Polygon([(0, 0), (1, 0), (0.8, 0.5), (0.2, 0.5)]),
        "disc": shapely.Point(0, 0).buffer(0.5, quad_segs=64),
        "ellipse": scale(shapely.Point(0, 0).buffer(0.5, quad_segs=64), 1, 0.6),
    }
    for name, shape in unit.items():
        true = np.empty(count, object)
        for n, size in enumerate(rng.uniform(*SIZES_PX, count)):
            turned = rotate(scale(shape, size, size, origin=(0, 0)), rng.uniform(0, 90), (0, 0))
            true[n] = translate(turned, *rng.uniform(0, 1, 2))
        for edges in both_edges(true, rng):
            yield name, *edges


def both_edges(true: Shapes, rng: np.random.Generator) -> Iterator[tuple[str, Shapes, Shapes]]:
    """Yield the word for the edges, (N,) outlines of pixels, and the (N,) shapes drawn in them."""
    for word in ("clean", "uneven"):
        pixels = [in_pixels(shape, rng if word == "uneven" else None) for shape in true]
        found = np.array([shape is not None for shape in pixels])
        yield word, np.array(pixels, object)[found], true[found]


def in_pixels(shape: shapely.Geometry, rng: np.random.Generator | None) -> shapely.Polygon | None:
    """Return the largest region of pixels of a shape, with uneven edges if there is a generator."""
    left, top, right, bottom = (int(bound) for bound in shape.bounds)
    window = Window.between(top - 9, left - 9, bottom + 9, right + 9)
    inside = mask(shape, window)
    if rng is not None:
        wave = gaussian_filter(rng.standard_normal(window.shape), WAVE_PX)
        # An edge that is blurred falls by 1 / (sigma sqrt(2 pi)) a pixel in its middle.
        slope = 1 / (BLUR_PX * np.sqrt(2 * np.pi))
        moved = wave / wave.std() * UNEVEN_PX * slope
        inside = gaussian_filter(inside.astype(float), BLUR_PX) + moved > 0.5
    tracer = Tracer(window.col, "")
    tracer.add(window.row, inside.astype(np.uint8), np.zeros((3, *window.shape), np.uint8))
    regions = tracer.finish().geometry
    return max(regions, key=shapely.area) if len(regions) else None


def city(folder: Path) -> tuple[Shapes, Shapes]:
    """Return (N,) outlines of detections in pixels, and those of the true objects they are."""
    grid = known_run(folder / "out").pixel_grid
    found = gpd.read_parquet(folder / "out" / "detections.parquet")
    pixels = shapely.transform(found.geometry.to_numpy(), grid.to_lattice)
    truth = gpd.read_file(folder / "truth.gpkg").to_crs(found.crs)
    true = shapely.transform(truth.geometry.to_numpy(), grid.to_pixels)
    row, of = shapely.STRtree(true).query(pixels, predicate="intersects")
    shares = iou(pixels[row], true[of])
    right_class = found["class_id"].to_numpy()[row] == truth["class_id"].to_numpy()[of]
    best = np.lexsort((-shares, row))
    best = best[(right_class & (shares > SMALLEST_IOU))[best]]
    best = best[np.unique(row[best], return_index=True)[1]]
    return pixels[row[best]], true[of[best]]


def measure(name: str, edges: str, pixels: Shapes, true: Shapes) -> Iterator[dict[str, object]]:
    """Yield a row for each way to make outlines."""
    before = iou(pixels, true).mean()
    for way, make in WAYS.items():
        start = time.process_time()
        outlines = make(pixels)
        seconds = time.process_time() - start
        shares = iou(outlines, true)
        error = np.abs(shapely.area(outlines) / shapely.area(pixels) - 1)
        yield {
            "shape": name,
            "edges": edges,
            "outline": way,
            "objects": len(pixels),
            "vertices": round(float(shapely.get_num_coordinates(outlines).mean()), 2),
            "iou_true": round(float(shares.mean()), 4),
            "gain": round(float(shares.mean() - before), 4),
            "iou_pixels": round(float(iou(outlines, pixels).mean()), 4),
            "right_angles": round(right_angles(outlines), 3),
            "area_error_max": round(float(error.max()), 4),
            "deviation_px_p95": round(
                float(np.quantile(shapely.hausdorff_distance(outlines, pixels), 0.95)), 2
            ),
            "ms": round(1e3 * seconds / len(pixels), 3),
            **environment(),
        }


def iou(a: Shapes, b: Shapes) -> NDArray[np.float64]:
    """Return (N,) intersections over unions."""
    both = shapely.area(shapely.intersection(a, b))
    return np.asarray(both / (shapely.area(a) + shapely.area(b) - both))


def right_angles(shapes: Sequence[shapely.Geometry]) -> float:
    """Return the share of corners within 1 degree of a right angle."""
    right = corners = 0
    for ring in shapely.get_rings(shapely.get_parts(shapes)):
        step = np.diff(shapely.get_coordinates(ring), axis=0)
        heading = np.degrees(np.arctan2(step[:, 1], step[:, 0]))
        turn = np.diff(heading, append=heading[:1]) % 180
        right += int((np.abs(turn - 90) < 1).sum())
        corners += len(turn)
    return right / corners


if __name__ == "__main__":
    main()
