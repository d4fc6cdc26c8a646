"""Shapes as paths of SVG."""

from __future__ import annotations

import shapely


def svg_path(shape: shapely.Geometry) -> str:
    """Return the outlines of polygons, in tenths of a unit."""
    rings = (ring for part in shapely.get_parts(shape) for ring in (part.exterior, *part.interiors))
    return " ".join(
        "M" + " ".join(f"{x:.1f},{y:.1f}" for x, y in shapely.get_coordinates(ring)) + "Z"
        for ring in rings
    )
