"""Layout of the sample city: streets, lots, houses, gardens and trees."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import shapely

from capecam.demo.canvas import METRES_PER_PX, Canvas, Colour, Frame, soft, soft_lines
from capecam.demo.distractors import YARD_PROPS, paint_yard_prop
from capecam.demo.roof_objects import RoofLook, Wing
from capecam.demo.yard_objects import paint_car, paint_pool, paint_tree


@dataclass(frozen=True, slots=True)
class Lot:
    """A piece of land: `frame` at its centre with v towards the street; half sizes in metres."""

    frame: Frame
    half_u_m: float
    half_v_m: float
    kind: str


@dataclass(frozen=True, slots=True)
class House:
    """A building on its lot, before anything of it is painted."""

    wings: list[Wing]
    look: RoofLook
    has_pool: bool
    commercial: bool


GROUND: tuple[Colour, ...] = ((104, 112, 80), (138, 132, 104), (168, 156, 134), (88, 100, 66))
YARDS: tuple[Colour, ...] = (
    (96, 108, 72),
    (116, 118, 86),
    (140, 130, 108),
    (172, 160, 140),
    (150, 128, 116),
    (158, 156, 150),
    (84, 100, 64),
)
DRIVES: tuple[Colour, ...] = ((150, 122, 112), (164, 160, 152), (128, 128, 126), (172, 150, 130))


def paint_ground(canvas: Canvas, rng: np.random.Generator) -> None:
    """Grass, dry grass and sand, mixed by the coarse noise; in strips to spare memory."""
    low, high = (np.array(GROUND[i], np.float32) for i in rng.choice(len(GROUND), 2, replace=False))
    for top in range(0, canvas.height_px, 512):
        rows = slice(top, top + 512)
        mix = np.clip(0.5 + 0.4 * canvas.coarse[rows] + 0.12 * canvas.mid[rows], 0, 1)[:, :, None]
        rough = 1 + 0.05 * canvas.fine[rows] + 0.05 * canvas.mid[rows]
        canvas.pixels[rows] = (low + mix * (high - low)) * rough[:, :, None]


def lay_out(canvas: Canvas, rng: np.random.Generator, streets: Frame) -> list[Lot]:
    """Cut the land into streets and lots; paints the streets, returns the lots in view."""
    reach_m = math.hypot(canvas.width_px, canvas.height_px) / 2 * METRES_PER_PX + 10
    lots: list[Lot] = []
    v_m = -reach_m - rng.uniform(0, 60)
    while v_m < reach_m:
        depth_m = rng.uniform(44, 58)
        u_m = -reach_m - rng.uniform(0, 100)
        road_m = rng.uniform(5.2, 7.0)
        paint_road(canvas, rng, streets.at(0, v_m), reach_m, road_m)
        while u_m < reach_m:
            length_m = rng.uniform(70, 150)
            middle = streets.at(u_m, v_m + 5.5 + depth_m / 2, math.pi / 2)
            paint_road(canvas, rng, middle, depth_m / 2 + 3.0, road_m)
            block = streets.at(u_m + 5.5 + length_m / 2, v_m + 5.5 + depth_m / 2)
            lots += divide(canvas, rng, block, length_m / 2, depth_m / 2)
            u_m += length_m + 11
        v_m += depth_m + 11
    return lots


def divide(
    canvas: Canvas, rng: np.random.Generator, block: Frame, half_u_m: float, half_v_m: float
) -> list[Lot]:
    """The lots of one block that reach into the canvas."""
    if canvas.window(block.box_px(half_u_m, half_v_m)) is None:
        return []
    kind = str(rng.choice(["homes", "small homes", "shops", "park"], p=[0.68, 0.16, 0.12, 0.04]))
    if kind == "park":
        return [Lot(block, half_u_m, half_v_m, kind)]
    narrow, wide = {"homes": (15, 25), "small homes": (9, 13), "shops": (34, 55)}[kind]
    lots = []
    for turn in (0.0, math.pi):
        side = block.at(0, 0, turn)
        edge_m = -half_u_m
        while edge_m < half_u_m - narrow:
            width_m = min(rng.uniform(narrow, wide), half_u_m - edge_m)
            lot = Lot(side.at(edge_m + width_m / 2, half_v_m / 2), width_m / 2, half_v_m / 2, kind)
            edge_m += width_m
            if canvas.window(lot.frame.box_px(lot.half_u_m, lot.half_v_m), 60) is not None:
                lots.append(lot)
    return lots


def paint_road(
    canvas: Canvas, rng: np.random.Generator, road: Frame, half_m: float, width_m: float
) -> None:
    """A street along u: verge, kerb, asphalt, worn centre line and now and then a parked car."""
    tone = rng.uniform(98, 130)
    dashes, verge = rng.random() < 0.3, rng.random() < 0.5
    for u_m in np.arange(-half_m, half_m, 12.0):
        piece = road.at(float(u_m) + 6, 0)
        window = canvas.window(piece.box_px(6.2, 6.0))
        if window is None:
            continue
        u, v = piece.coords_m(window)
        along = soft(6.1 - np.abs(u))
        if verge:
            walk = soft(0.8 - np.abs(np.abs(v) - width_m / 2 - 1.2)) * along
            canvas.blend(window, walk * np.float32(0.8), (160, 154, 146))
        kerb = soft(width_m / 2 + 0.2 - np.abs(v)) * along
        canvas.blend(window, kerb * np.float32(0.8), (168, 166, 160))
        grey = np.array([tone, tone * 1.02, tone * 1.01], np.float32) * canvas.grain(
            window, 0.03, 0.03
        )
        grey = grey * (1 + 0.07 * canvas.coarse[canvas.place(window)][:, :, None])
        wear = 1 + 0.03 * np.cos(v * np.float32(4 * math.pi / width_m))
        canvas.blend(window, soft(width_m / 2 - np.abs(v)) * along, grey * wear[:, :, None])
        if dashes:
            mark = soft_lines(v, 99.0, 0.12) * (np.abs(u) < 1.5)
            canvas.blend(window, mark * np.float32(0.8), (206, 206, 200))
        if rng.random() < 0.2:
            side = rng.choice([-1.0, 1.0]) * (width_m / 2 - 1.1)
            paint_car(canvas, rng, piece.at(rng.uniform(-3, 3), float(side), math.pi / 2))


ROOF_COLOURS: tuple[Colour, ...] = (
    (158, 106, 86),
    (150, 92, 76),
    (128, 110, 98),
    (112, 98, 88),
    (136, 122, 108),
    (112, 114, 112),
    (92, 94, 94),
    (70, 80, 88),
    (104, 114, 104),
)
SHEET_COLOURS: tuple[Colour, ...] = (
    (206, 208, 204),
    (176, 182, 180),
    (150, 158, 156),
    (84, 96, 104),
    (118, 128, 118),
    (150, 82, 72),
    (110, 92, 80),
)
FLAT_COLOURS: tuple[Colour, ...] = (
    (184, 182, 174),
    (158, 156, 150),
    (208, 206, 200),
    (128, 126, 122),
)


def jitter(rng: np.random.Generator, colour: Colour, spread: float = 0.07) -> Colour:
    """The colour, a little brighter or darker and a little off its hue."""
    r, g, b = np.asarray(colour) * rng.normal(1, spread) * rng.normal(1, spread / 4, 3)
    return (float(min(r, 240)), float(min(g, 240)), float(min(b, 240)))


def any_of(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    """One of the colours, jittered."""
    return jitter(rng, colours[rng.choice(len(colours))])


def random_look(rng: np.random.Generator, flat: bool) -> RoofLook:
    """A skin and a colour that go together."""
    if flat:
        return RoofLook(any_of(rng, FLAT_COLOURS), "plain", 0.05)
    if rng.random() < 0.6:
        return RoofLook(any_of(rng, ROOF_COLOURS), "tile", rng.uniform(0.02, 0.05))
    return RoofLook(any_of(rng, SHEET_COLOURS), "corrugated", rng.uniform(0.01, 0.06))


def long_wing(frame: Frame, half_u_m: float, half_v_m: float, kind: str, pitch: float) -> Wing:
    """A wing of these half sizes, turned so that its ridge runs along the longer one."""
    if half_u_m >= half_v_m:
        return Wing(frame, half_u_m, half_v_m, kind, pitch)
    return Wing(frame.at(0, 0, math.pi / 2), half_v_m, half_u_m, kind, pitch)


def build(rng: np.random.Generator, lot: Lot) -> House:
    """Choose a building that fits the lot: one to three wings under one roof."""
    kind = str(rng.choice(["hip", "gable", "flat"], p=[0.48, 0.34, 0.18]))
    look = random_look(rng, kind == "flat")
    if lot.kind == "park":
        return House([], look, False, False)
    if lot.kind == "shops":
        return build_shop(rng, lot)
    return House(build_home(rng, lot, kind), look, bool(rng.random() < 0.52), False)


ROOM_M = 1.2, 1.5
"""What stays free between a building and the edges of its lot, along u and v."""


def build_shop(rng: np.random.Generator, lot: Lot) -> House:
    """One long building, set back from the street."""
    kind = str(rng.choice(["gable", "flat"]))
    if kind == "flat":
        look = random_look(rng, True)
    else:
        look = RoofLook(any_of(rng, SHEET_COLOURS), "corrugated", 0.04)
    half_u_m, half_v_m = lot.half_u_m - ROOM_M[0] - 1, min(lot.half_v_m - ROOM_M[1] - 3, 10)
    pitch = rng.uniform(0.05, 0.16)
    wing = long_wing(lot.frame.at(0, -2.5), half_u_m, half_v_m, kind, pitch)
    return House([wing], look, False, True)


def build_home(rng: np.random.Generator, lot: Lot, kind: str) -> list[Wing]:
    """A wing, and up to two across it."""
    room_u, room_v = lot.half_u_m - ROOM_M[0], lot.half_v_m - ROOM_M[1]
    pitch = rng.uniform(0.22, 0.58)
    half_u = min(room_u, rng.uniform(6.5, 11.0))
    half_v = min(rng.uniform(4.2, 6.8), room_v * 0.55)
    v_m = rng.uniform(-0.25, 0.25) * room_v
    spare = room_u - half_u
    main_frame = lot.frame.at(rng.uniform(-spare, spare), v_m)
    wings = [long_wing(main_frame, half_u, half_v, kind, pitch)]
    for side in rng.choice([-1.0, 1.0], rng.choice([0, 1, 2], p=[0.3, 0.45, 0.25]), replace=False):
        reach = rng.uniform(2.5, 6.0)
        wide = half_u * rng.uniform(0.36, 0.5)
        towards = rng.choice([-1.0, 1.0])
        if half_v + reach + abs(v_m) > room_v:
            reach = room_v - half_v - abs(v_m)
        if reach > 1.2:
            middle = main_frame.at(side * (half_u - wide), towards * (half_v + reach) / 2)
            wings.append(long_wing(middle, wide, (half_v + reach) / 2, kind, pitch))
    return wings


def paint_lot(canvas: Canvas, rng: np.random.Generator, lot: Lot, house: House) -> None:
    """Paint the ground of a lot: yard, walls, drive, pool, and things in the garden."""
    shape = lot.frame.box_px(lot.half_u_m, lot.half_v_m)
    if canvas.window(shape) is None:
        return
    if lot.kind == "park":
        canvas.fill(shape, any_of(rng, YARDS[:3]), 0.06, 0.06, 0.7)
    elif house.commercial:
        paint_car_park(canvas, rng, lot, shape)
    else:
        paint_garden(canvas, rng, lot, shape)
        paint_walls(canvas, rng, lot)
        paint_drive(canvas, rng, lot)
        if house.has_pool:
            place_pool(canvas, rng, lot, house)
        for _ in range(rng.poisson(1.6)):
            u_m = rng.uniform(-0.8, 0.8) * lot.half_u_m
            v_m = rng.uniform(-0.85, 0.85) * lot.half_v_m
            place = lot.frame.at(u_m, v_m, rng.choice([0, 0, 0.4, 0.8]))
            paint_yard_prop(canvas, rng, place, str(rng.choice(list(YARD_PROPS))))


def paint_car_park(
    canvas: Canvas, rng: np.random.Generator, lot: Lot, shape: shapely.Polygon
) -> None:
    """Asphalt around a shop, with a row of cars."""
    tone = rng.uniform(110, 165)
    canvas.fill(shape, (tone, tone, tone * 0.98), 0.03, 0.04)
    for u_m in np.arange(-lot.half_u_m + 2, lot.half_u_m - 2, 2.6):
        if rng.random() < 0.55:
            paint_car(canvas, rng, lot.frame.at(float(u_m), lot.half_v_m - 2.8))


def paint_garden(
    canvas: Canvas, rng: np.random.Generator, lot: Lot, shape: shapely.Polygon
) -> None:
    """The ground of a yard, and beds in it."""
    canvas.fill(shape, any_of(rng, YARDS), 0.05, 0.06, rng.uniform(0.5, 1.0))
    for _ in range(rng.choice([1, 2, 3])):
        place = lot.frame.at(
            rng.uniform(-0.6, 0.6) * lot.half_u_m, rng.uniform(-0.8, 0.8) * lot.half_v_m
        )
        bed = place.box_px(rng.uniform(2, 5), rng.uniform(1.5, 4)).intersection(shape)
        canvas.fill(bed, any_of(rng, YARDS), 0.05, 0.05, rng.uniform(0.5, 1.0))


def paint_drive(canvas: Canvas, rng: np.random.Generator, lot: Lot) -> None:
    """A drive to the street, often with a car on it."""
    drive_u = float(rng.choice([-1.0, 1.0])) * (lot.half_u_m - 2.4)
    drive = lot.frame.at(drive_u, lot.half_v_m - 2.0)
    canvas.fill(drive.at(0, -1.0).box_px(1.7, 4.5), any_of(rng, DRIVES), 0.04, 0.03)
    if rng.random() < 0.6:
        paint_car(
            canvas, rng, drive.at(rng.normal(0, 0.2), rng.uniform(-1.5, 0), rng.normal(0, 0.06))
        )


def place_pool(canvas: Canvas, rng: np.random.Generator, lot: Lot, house: House) -> None:
    """A pool behind the house, where there is room."""
    pool = lot.frame.at(rng.uniform(-0.4, 0.4) * lot.half_u_m, -lot.half_v_m + 4.2)
    half_u_m, half_v_m = rng.uniform(2.2, 4.2), rng.uniform(1.5, 2.3)
    paved = pool.box_px(half_u_m + 0.8, half_v_m + 0.8)
    if not any(wing.foot_px.intersects(paved) for wing in house.wings):
        paint_pool(canvas, rng, pool, half_u_m, half_v_m)


def paint_walls(canvas: Canvas, rng: np.random.Generator, lot: Lot) -> None:
    """Boundary walls, thin and light, with their shadows."""
    if rng.random() < 0.2:
        return
    colour = any_of(rng, ((196, 190, 180), (160, 140, 126), (140, 138, 134)))
    for turn, half_m, far_m in (
        (0.0, lot.half_u_m, lot.half_v_m),
        (math.pi / 2, lot.half_v_m, lot.half_u_m),
        (math.pi, lot.half_u_m, lot.half_v_m),
    ):
        wall = lot.frame.at(0, 0, turn).at(0, -far_m + 0.12)
        canvas.cast_box(wall, half_m, 0.11, 1.5)
        canvas.fill(wall.box_px(half_m, 0.12), colour)


def plant(canvas: Canvas, rng: np.random.Generator, lot: Lot, roofs: shapely.Geometry) -> None:
    """Trees and bushes, some in clumps; a crown never hides a collector, its shadow may.

    `roofs` are the outlines of all houses in pixels: bushes do not grow out of them.
    """
    area_m2 = 4 * lot.half_u_m * lot.half_v_m
    for _ in range(rng.poisson(area_m2 / (500 if lot.kind == "shops" else 125))):
        place = lot.frame.at(rng.uniform(-1, 1) * lot.half_u_m, rng.uniform(-1, 1) * lot.half_v_m)
        for _ in range(rng.choice([1, 2, 5], p=[0.5, 0.3, 0.2])):
            radius_m = min(float(rng.lognormal(0.65, 0.65)), 6.5)
            stem = place.at(rng.normal(0, 2.0), rng.normal(0, 2.0))
            crown = stem.box_px(radius_m * 0.5, radius_m * 0.5)
            window = canvas.window(stem.box_px(radius_m * 1.3, radius_m * 1.3))
            if (
                window is None
                or canvas.labels[canvas.place(window)].any()
                or crown.intersects(roofs)
            ):
                continue
            paint_tree(canvas, rng, stem, radius_m, bool(rng.random() < 0.08 and radius_m > 1.2))
