"""The sample city: seeded aerial scenes at 8 cm per pixel with exact truth.

Nothing here comes from a photograph. Streets, plots, houses and collectors are laid out at random
in metres by `land`, painted by `objects` and `props`, and then photographed:
blurred, hazed and noised. The truth polygons and the label raster are the same thing, drawn once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from capecam.demo.canvas import METRES_PER_PX, Canvas, Colour, Frame, Sun
from capecam.demo.distractors import ROOF_PROPS, paint_roof_prop
from capecam.demo.roof_objects import (
    PanelArray,
    Wing,
    cast_roof,
    paint_panels,
    paint_pool_heater,
    paint_roof,
    paint_water_heater,
)
from capecam.demo.street_layout import House, build, lay_out, paint_ground, paint_lot, plant

SOLAR_PANEL, WATER_HEATER, POOL_HEATER = 1, 2, 3
MIN_SIDE_PX = 320
GAP_PX = 0.4 / METRES_PER_PX  # objects keep this far apart, so none of them touch as pixels


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One collector in the truth; `polygon` is in pixel coordinates (col, row), y down."""

    class_id: int
    polygon: shapely.Polygon

    def __post_init__(self) -> None:
        if self.class_id not in (SOLAR_PANEL, WATER_HEATER, POOL_HEATER):
            raise ValueError(f"class must be 1, 2 or 3, got {self.class_id}")


@dataclass(frozen=True, slots=True)
class Scene:
    """A drawn scene: `pixels` (H, W, 3) uint8, `labels` (H, W) uint8 in 0..3, and its objects."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]

    def __post_init__(self) -> None:
        if self.pixels.shape != (*self.labels.shape, 3):
            raise ValueError(
                f"pixels {self.pixels.shape} do not go with labels {self.labels.shape}"
            )


def draw_scene(seed: int, width_px: int, height_px: int) -> Scene:
    """Draw the scene of `seed`; the same arguments give the same bytes.

    Raises ValueError for sides under 320 pixels (25.6 m, about one plot).
    """
    if min(width_px, height_px) < MIN_SIDE_PX:
        raise ValueError(f"a scene is at least {MIN_SIDE_PX} px wide, got {width_px}x{height_px}")
    rng = np.random.default_rng(seed)
    canvas = Canvas(rng, height_px, width_px, random_sun(rng))
    paint_ground(canvas, rng)
    streets = Frame(width_px / 2, height_px / 2, rng.uniform(-math.pi, math.pi))
    lots = lay_out(canvas, rng, streets)
    houses = [build(rng, lot) for lot in lots]
    for lot, house in zip(lots, houses, strict=True):
        paint_lot(canvas, rng, lot, house)
    for house in houses:
        for wing in house.wings:
            cast_roof(canvas, wing)
    for house in houses:
        paint_roof(canvas, house.wings, house.look)
        furnish_roof(canvas, rng, house)
    roofs = shapely.union_all([wing.foot_px for house in houses for wing in house.wings])
    shapely.prepare(roofs)
    for lot in lots:
        plant(canvas, rng, lot, roofs)
    objects = tuple(SceneObject(class_id, shape) for class_id, shape in canvas.objects)
    return Scene(photograph(canvas, rng), canvas.labels, objects)


def random_sun(rng: np.random.Generator) -> Sun:
    """Late morning to early afternoon: the sun stands in the north, within 50 degrees."""
    azimuth = rng.normal(0, math.radians(28))
    return Sun(math.sin(azimuth), -math.cos(azimuth), math.radians(rng.uniform(46, 68)))


class RoofSpace:
    """The free part of each visible face of a building; what is placed is taken out of it."""

    def __init__(self, canvas: Canvas, wings: list[Wing]) -> None:
        self.faces: list[tuple[Frame, shapely.Geometry]] = []
        self.weights: list[float] = []
        for wing in wings:
            others = [other.foot_px for other in wings if other is not wing]
            for frame, outline in wing.faces():
                free = outline.buffer(-0.3 / METRES_PER_PX).difference(shapely.union_all(others))
                fall = frame.angle_rad + math.pi / 2
                north = math.cos(fall) * canvas.sun.towards_col - math.sin(fall)
                if not free.is_empty:
                    self.faces.append((frame, free))
                    # Collectors lie mostly, not always, on the sides that see the sun.
                    self.weights.append(free.area * (0.25 + max(north, 0.0)))

    def place(
        self, rng: np.random.Generator, half_u_m: float, half_v_m: float, tries: int = 40
    ) -> Frame | None:
        """A frame where a box of these half sizes lies free on one face, or None."""
        if not self.faces:
            return None
        share = np.asarray(self.weights) / sum(self.weights)
        for number in rng.choice(len(self.faces), tries, p=share):
            frame, free = self.faces[number]
            left, top, right, bottom = free.bounds
            if free.is_empty:
                continue
            spot = Frame(rng.uniform(left, right), rng.uniform(top, bottom), frame.angle_rad)
            if free.contains(spot.box_px(half_u_m, half_v_m)):
                return spot
        return None

    def take(self, shape_px: shapely.Polygon) -> None:
        """Remove a shape and the gap around it from what is free."""
        taken = shape_px.buffer(GAP_PX, join_style="mitre")
        self.faces = [(frame, free.difference(taken)) for frame, free in self.faces]


def furnish_roof(canvas: Canvas, rng: np.random.Generator, house: House) -> None:
    """Put collectors and look-alikes on a building, collectors first."""
    if not house.wings:
        return
    space = RoofSpace(canvas, house.wings)
    if house.commercial:
        if rng.random() < 0.6:
            for _ in range(rng.choice([1, 2, 3])):
                add_panels(canvas, rng, space, int(rng.integers(20, 90)))
        for _ in range(rng.poisson(6)):
            add_prop(canvas, rng, space)
        return
    if rng.random() < 0.62:
        style = panel_style(rng)
        for _ in range(rng.choice([1, 2], p=[0.75, 0.25])):
            add_panels(canvas, rng, space, array_size(rng), style)
    if rng.random() < 0.64:
        for _ in range(rng.choice([1, 2], p=[0.7, 0.3])):
            add_water_heater(canvas, rng, space)
    if rng.random() < (0.85 if house.has_pool else 0.1):
        for _ in range(rng.choice([1, 2], p=[0.8, 0.2])):
            add_pool_heater(canvas, rng, space)
    for _ in range(rng.poisson(2.2)):
        add_prop(canvas, rng, space)


def array_size(rng: np.random.Generator) -> int:
    """Modules of an array on a house: 1 to 20, mostly many; a few feed one pump or lamp."""
    return int(rng.integers(1, 4)) if rng.random() < 0.12 else min(20, 5 + int(rng.geometric(0.08)))


def panel_style(rng: np.random.Generator) -> tuple[Colour, float]:
    """(glass colour, strength of the frame lines): bluish with frames, or nearly all black."""
    if rng.random() < 0.64:
        tone = rng.uniform(58, 96)
        return (tone * 0.86, tone * 1.02, tone * rng.uniform(1.08, 1.28)), rng.uniform(0.45, 0.95)
    tone = rng.uniform(40, 66)
    return (tone * 0.95, tone, tone * 1.08), rng.uniform(0.1, 0.4)


def add_panels(
    canvas: Canvas,
    rng: np.random.Generator,
    space: RoofSpace,
    modules: int,
    style: tuple[Colour, float] | None = None,
) -> None:
    """Lay an array of about `modules` modules, fewer where the roof is too small."""
    colour, line = panel_style(rng) if style is None else style
    module = (1.0, 1.7) if rng.random() < 0.65 else (1.7, 1.0)
    while modules >= 1:
        most_rows = max(1, round(math.sqrt(modules * module[0] / module[1])))
        rows = int(rng.integers(1, most_rows + 1))
        columns = math.ceil(modules / rows)
        last = columns if rng.random() < 0.7 else int(rng.integers(1, columns + 1))
        array = PanelArray(
            Frame(0, 0, 0), rows, columns, last if rows > 1 else columns, module, colour, line
        )
        spot = space.place(rng, *array.half_m)
        if spot is not None:
            placed = PanelArray(spot, rows, columns, array.last_row, module, colour, line)
            paint_panels(canvas, rng, placed)
            canvas.add_object(SOLAR_PANEL, placed.outline_px)
            space.take(placed.outline_px)
            return
        modules = modules * 4 // 5


def add_water_heater(canvas: Canvas, rng: np.random.Generator, space: RoofSpace) -> None:
    """Lay one water heater: collector and tank together are the object."""
    half_u, half_v = rng.uniform(0.5, 1.1), rng.uniform(0.65, 1.0)
    spot = space.place(rng, half_u, half_v)
    if spot is not None:
        paint_water_heater(canvas, rng, spot, half_u, half_v)
        outline = spot.box_px(half_u, half_v)
        canvas.add_object(WATER_HEATER, outline)
        space.take(outline)


def add_pool_heater(canvas: Canvas, rng: np.random.Generator, space: RoofSpace) -> None:
    """Lay one field of pool heating mats."""
    half_u, half_v = rng.uniform(1.2, 4.2), rng.uniform(1.1, 2.3)
    for shrink in (1.0, 0.75, 0.55):
        spot = space.place(rng, half_u * shrink, half_v * shrink)
        if spot is not None:
            paint_pool_heater(canvas, rng, spot, half_u * shrink, half_v * shrink)
            outline = spot.box_px(half_u * shrink, half_v * shrink)
            canvas.add_object(POOL_HEATER, outline)
            space.take(outline)
            return


def add_prop(canvas: Canvas, rng: np.random.Generator, space: RoofSpace) -> None:
    """Put one background thing on a free place of the roof."""
    spot = space.place(rng, 0.7, 0.8, tries=4)
    if spot is not None:
        paint_roof_prop(canvas, rng, spot, str(rng.choice(list(ROOF_PROPS))))
        space.take(spot.box_px(0.7, 0.8))


def photograph(canvas: Canvas, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(H, W, 3) uint8: uneven light, colour cast, haze, lens blur, then sensor noise."""
    cast = rng.normal(1.0, 0.03, 3) * rng.normal(1.0, 0.06) * np.array([0.97, 1.02, 0.99])
    haze = np.float32(rng.uniform(4, 22) * np.array([0.85, 1.05, 1.1]))
    gamma = rng.uniform(0.88, 1.18)
    colourful = rng.uniform(0.7, 1.1)
    blur_px, noise = rng.uniform(0.7, 1.25), rng.uniform(0.8, 2.4)
    sharp = np.empty(canvas.pixels.shape, np.uint8)
    for top in range(0, canvas.height_px, 512):
        rows = slice(top, top + 512)
        light = canvas.pixels[rows].clip(0, 255)
        grey = light.mean(axis=2, keepdims=True)
        light = (grey + np.float32(colourful) * (light - grey)) * np.float32(cast)
        light *= 1 + 0.03 * canvas.coarse[rows, :, None]
        light = 255 * (light.clip(0, 255) / 255) ** np.float32(gamma)
        sharp[rows] = (light * (1 - haze / 255) + haze).clip(0, 255)
    blurred = np.asarray(Image.fromarray(sharp).filter(ImageFilter.GaussianBlur(blur_px)))
    photo = np.empty_like(blurred)
    for top in range(0, canvas.height_px, 512):
        rows = slice(top, top + 512)
        grain = rng.standard_normal(blurred[rows].shape, dtype=np.float32) * np.float32(noise)
        photo[rows] = (blurred[rows] + grain + 0.5).clip(0, 255)
    return photo
