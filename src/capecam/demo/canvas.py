"""The paper the sample city is drawn on: frames in metres, windows of pixels, soft painting.

Everything is painted through an alpha mask computed from distances in metres, so a 4 cm panel frame
covers half an 8 cm pixel instead of a whole one, and every edge looks photographed, not drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from capecam.grid import Window

METRES_PER_PX = 0.08

Floats = NDArray[np.floating[Any]]
"""Coordinates, coverages and colours; stored as float32, whatever a step computes in."""
Colour = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Frame:
    """A place and a heading: origin in pixels, u to its right and v downwards when not turned."""

    col_px: float
    row_px: float
    angle_rad: float

    def at(self, u_m: float, v_m: float, turn_rad: float = 0.0) -> Frame:
        """The frame whose origin lies at (u, v) metres of this one, turned by `turn_rad`."""
        cos, sin = math.cos(self.angle_rad), math.sin(self.angle_rad)
        return Frame(
            self.col_px + (u_m * cos - v_m * sin) / METRES_PER_PX,
            self.row_px + (u_m * sin + v_m * cos) / METRES_PER_PX,
            self.angle_rad + turn_rad,
        )

    def coords_m(self, window: Window) -> tuple[Floats, Floats]:
        """(u, v), each (h, w) in metres, of the window's pixel centres."""
        x = np.arange(window.width, dtype=np.float32) + np.float32(window.col + 0.5 - self.col_px)
        y = np.arange(window.height, dtype=np.float32) + np.float32(window.row + 0.5 - self.row_px)
        cos = np.float32(math.cos(self.angle_rad) * METRES_PER_PX)
        sin = np.float32(math.sin(self.angle_rad) * METRES_PER_PX)
        return x[None, :] * cos + y[:, None] * sin, y[:, None] * cos - x[None, :] * sin

    def polygon_px(self, points_m: list[tuple[float, float]]) -> shapely.Polygon:
        """The polygon through `points_m` (u, v), in pixel coordinates (col, row)."""
        corners = [self.at(u_m, v_m) for u_m, v_m in points_m]
        return shapely.Polygon([(corner.col_px, corner.row_px) for corner in corners])

    def box_px(self, half_u_m: float, half_v_m: float) -> shapely.Polygon:
        """The centred rectangle of these half sizes, in pixel coordinates (col, row)."""
        return self.polygon_px(
            [
                (-half_u_m, -half_v_m),
                (half_u_m, -half_v_m),
                (half_u_m, half_v_m),
                (-half_u_m, half_v_m),
            ]
        )


@dataclass(frozen=True, slots=True)
class Sun:
    """Direction of the light; in Cape Town from the north: shadows fall down the picture."""

    towards_col: float
    towards_row: float
    elevation_rad: float

    def shadow_px(self, height_m: float) -> tuple[float, float]:
        """(columns, rows) by which the shadow of a point at `height_m` is displaced."""
        length_px = height_m / math.tan(self.elevation_rad) / METRES_PER_PX
        return -self.towards_col * length_px, -self.towards_row * length_px

    def light(self, downslope_rad: float, pitch: float) -> float:
        """Brightness factor of a plane falling towards `downslope_rad` (pixel axes) by `pitch`."""
        slope = math.atan(pitch)
        facing = math.cos(downslope_rad) * self.towards_col + math.sin(downslope_rad) * (
            self.towards_row
        )
        cosine = (
            math.cos(slope) * math.sin(self.elevation_rad)
            + math.sin(slope) * math.cos(self.elevation_rad) * facing
        )
        # Sky light fills 45 % of what a flat roof gets: read by eye off shaded roof faces.
        return 0.45 + 0.55 * max(cosine, 0.0) / math.sin(self.elevation_rad)


def soft(distance_m: Floats, blur_m: float = METRES_PER_PX) -> Floats:
    """Coverage 0..1 of a pixel whose centre lies `distance_m` inside an edge."""
    covered: Floats = np.clip(distance_m / np.float32(blur_m) + np.float32(0.5), 0, 1)
    return covered


def soft_box(u_m: Floats, v_m: Floats, half_u_m: float, half_v_m: float) -> Floats:
    """Coverage of the centred rectangle of these half sizes."""
    return soft(np.minimum(half_u_m - np.abs(u_m), half_v_m - np.abs(v_m)))


def soft_lines(coordinate_m: Floats, pitch_m: float, width_m: float) -> Floats:
    """Coverage of lines of `width_m`, one at every multiple of `pitch_m`."""
    offset = coordinate_m - pitch_m * np.round(coordinate_m / np.float32(pitch_m))
    inside = np.float32(width_m / 2) - np.abs(offset)
    # A line thinner than a pixel can never cover more than its own width of it.
    return np.minimum(soft(inside), np.float32(min(1.0, width_m / METRES_PER_PX)))


def smooth_noise(rng: np.random.Generator, height_px: int, width_px: int, cell_px: float) -> Floats:
    """(H, W) float32 noise of about unit spread whose blobs are `cell_px` wide."""
    coarse = rng.standard_normal(
        (math.ceil(height_px / cell_px) + 3, math.ceil(width_px / cell_px) + 3), dtype=np.float32
    )
    box = (1.0, 1.0, 1.0 + width_px / cell_px, 1.0 + height_px / cell_px)
    image = Image.fromarray(coarse).resize((width_px, height_px), Image.Resampling.BICUBIC, box=box)
    return np.asarray(image)


class Canvas:
    """The growing picture: linear colours, truth labels and shared noise for textures."""

    def __init__(self, rng: np.random.Generator, height_px: int, width_px: int, sun: Sun) -> None:
        self.height_px, self.width_px, self.sun = height_px, width_px, sun
        self._extent = Window(0, 0, height_px, width_px)
        self.pixels = np.empty((height_px, width_px, 3), np.float32)
        self.labels = np.zeros((height_px, width_px), np.uint8)
        self.objects: list[tuple[int, shapely.Polygon]] = []
        self.coarse = sum_of_noise(rng, height_px, width_px, (500.0, 150.0, 45.0))
        self.mid = sum_of_noise(rng, height_px, width_px, (14.0, 6.0))
        self.fine = smooth_noise(rng, height_px, width_px, 1.7)
        # What is left of the light in a shadow; deep ones looked like panels to the first network.
        self.shade = float(rng.uniform(0.24, 0.5))

    def window(self, shape_px: shapely.Geometry, margin_px: int = 2) -> Window | None:
        """The pixels around `shape_px`, or None where the canvas does not reach it."""
        if shape_px.is_empty:
            return None
        left, top, right, bottom = (int(edge) for edge in shape_px.bounds)
        around = Window.between(
            top - margin_px, left - margin_px, bottom + 1 + margin_px, right + 1 + margin_px
        )
        return around.intersection(self._extent)

    def place(self, window: Window) -> tuple[slice, slice]:
        """Index of a window in the pixels, the labels and the noises."""
        return window.slices(self._extent)

    def blend(self, window: Window, alpha: Floats, colour: Colour | Floats) -> None:
        """Lay `colour`, (3,) or (h, w, 3), over the window as far as `alpha` (h, w) covers."""
        view = self.pixels[self.place(window)]
        view += alpha[:, :, None] * (np.asarray(colour, np.float32) - view)

    def darken(self, window: Window, alpha: Floats, factor: float) -> None:
        """Multiply the window by `factor` where `alpha` is 1: what a shadow does."""
        # Shade is lit by the sky alone, so it turns bluish: less of red goes through.
        tint = np.array([0.92, 1.0, 1.06], np.float32) * np.float32(factor)
        self.pixels[self.place(window)] *= 1 - alpha[:, :, None] * (1 - tint)

    def grain(self, window: Window, fine: float, mid: float = 0.0) -> Floats:
        """(h, w, 1) brightness factors around 1 from the shared noise."""
        rough = 1 + fine * self.fine[self.place(window)] + mid * self.mid[self.place(window)]
        return np.asarray(rough[:, :, None], np.float32)

    def fill(
        self,
        shape_px: shapely.Geometry,
        colour: Colour,
        fine: float = 0.03,
        mid: float = 0.03,
        strength: float = 1.0,
    ) -> None:
        """Paint a polygon in a grained colour."""
        window = self.window(shape_px)
        if window is not None:
            alpha = polygon_alpha(shape_px, window) * np.float32(strength)
            grained = np.asarray(colour, np.float32) * self.grain(window, fine, mid)
            self.blend(window, alpha, grained)

    def cast(self, shape_px: shapely.Geometry, factor: float | None = None) -> None:
        """Darken a polygon as a shadow, as deep as the scene's unless `factor` says otherwise."""
        window = self.window(shape_px)
        if window is not None:
            alpha = polygon_alpha(shape_px, window)
            self.darken(window, alpha, self.shade if factor is None else factor)

    def cast_box(self, frame: Frame, half_u_m: float, half_v_m: float, height_m: float) -> None:
        """The shadow that a box of `height_m` throws on what is already painted around it."""
        foot = frame.box_px(half_u_m, half_v_m)
        moved = shapely.transform(foot, lambda xy: xy + np.array(self.sun.shadow_px(height_m)))
        self.cast(shapely.union(foot, moved).convex_hull)

    def add_object(self, class_id: int, polygon_px: shapely.Polygon) -> None:
        """Write a truth object into the labels; parts outside the canvas are cut off."""
        frame = shapely.box(0, 0, self.width_px, self.height_px)
        for part in shapely.get_parts(polygon_px.intersection(frame)):
            window = self.window(part) if isinstance(part, shapely.Polygon) else None
            if window is None:
                continue
            inside = covers_centres(part, window)
            if inside.any():
                self.labels[self.place(window)][inside] = class_id
                self.objects.append((class_id, part))


def sum_of_noise(
    rng: np.random.Generator, height_px: int, width_px: int, cells_px: tuple[float, ...]
) -> Floats:
    """The mean of noises with blobs of several sizes, scaled back to about unit spread."""
    total = np.zeros((height_px, width_px), np.float32)
    for cell_px in cells_px:
        total += smooth_noise(rng, height_px, width_px, cell_px)
    total /= np.float32(math.sqrt(len(cells_px)))
    return total


def covers_centres(polygon_px: shapely.Geometry, window: Window) -> NDArray[np.bool_]:
    """(h, w) bool: whether the centre of each pixel of the window lies inside the polygon."""
    shapely.prepare(polygon_px)
    cols, rows = np.meshgrid(
        np.arange(window.width) + (window.col + 0.5),
        np.arange(window.height) + (window.row + 0.5),
    )
    return np.asarray(shapely.contains_xy(polygon_px, cols, rows), np.bool_)


def polygon_alpha(shape_px: shapely.Geometry, window: Window) -> Floats:
    """(h, w) coverage of a polygon, from a mask drawn at twice the resolution."""
    mask = Image.new("L", (2 * window.width, 2 * window.height))
    draw = ImageDraw.Draw(mask)
    origin = np.array([window.col, window.row])
    for part in shapely.get_parts(shape_px):
        points = (shapely.get_coordinates(shapely.get_exterior_ring(part)) - origin) * 2 - 0.5
        draw.polygon([(float(x), float(y)) for x, y in points], fill=255)
    return np.asarray(mask.reduce(2), np.float32) / np.float32(255)
