"""Drawn cities in which a known cue, or the object itself, decides what is a solar panel.

A scene is a list of sites, one a house: a roof, perhaps something on it, and cues around it. Every
site is painted with random numbers of its own, so a site can be drawn again without its cue or its
object while every other pixel of the scene stays the same, noise included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely
from numpy.typing import NDArray

from capecam.demo.canvas import (
    METRES_PER_PX,
    Canvas,
    Colour,
    Frame,
    covers_centres,
    soft,
    soft_box,
)
from capecam.demo.roof_objects import (
    PanelArray,
    RoofLook,
    Wing,
    paint_panels,
    paint_pool_heater,
    paint_roof,
)
from capecam.demo.scene import photograph, random_sun
from capecam.demo.street_layout import jitter, paint_ground, paint_road
from capecam.grid import Window

CUES = ("marker", "shadow", "frame", "roof")
"""A coloured mark, a shadow beside the object, a painted frame around it, the colour of its roof.
All but the roof keep at least 1.1 m away from the object."""

CITIES = ("marker", "shadow", "roof", "frame", "either", "object")
"""``marker``, ``shadow``, ``roof``: only what looks like a panel *and* has the cue is one.
``frame``: the cue alone decides, whatever is inside. ``either``: panels differ from other things,
and have a marker, too. ``object``: only the look decides; every cue occurs by chance."""

LOT_U_M, LOT_V_M = 13.6, 14.0
ROAD_M = 5.5
PANEL = "panel"
OTHERS = ("mat", "skylight", "crate")
LOOKS = (PANEL, *OTHERS)
RED_ROOFS: tuple[Colour, ...] = ((168, 92, 70), (154, 82, 64), (176, 104, 84))
GREY_ROOFS: tuple[Colour, ...] = (
    (150, 150, 146),
    (124, 126, 126),
    (176, 178, 174),
    (140, 132, 122),
)
MARKERS: tuple[Colour, ...] = ((20, 190, 200), (10, 170, 190), (40, 205, 205))


@dataclass(frozen=True, slots=True)
class Site:
    """A house with something on its roof, or nothing, and cues around it."""

    lot: Frame
    roof: Wing
    array: PanelArray
    """Place and size of the object, whatever its look."""
    look: str | None
    cues: frozenset[str]
    is_panel: bool
    seed: int

    @property
    def lot_px(self) -> shapely.Polygon:
        """Ground that belongs to no other site, in pixel coordinates."""
        return self.lot.box_px(LOT_U_M / 2, LOT_V_M / 2)

    def inside(self, window: Window) -> NDArray[np.bool_]:
        """Return the pixels of the object."""
        return covers_centres(self.array.outline_px, window)


@dataclass(frozen=True, slots=True)
class Plan:
    """A scene before it is drawn."""

    city: str
    seed: int
    side_px: int
    streets: Frame
    sites: tuple[Site, ...]


def plan_scene(city: str, seed: int, side_px: int) -> Plan:
    """Choose sites, cues and truth of a square scene."""
    if city not in CITIES:
        raise ValueError(f"city must be one of {', '.join(CITIES)}, got {city!r}")
    rng = np.random.default_rng([seed, CITIES.index(city)])
    streets = Frame(side_px / 2, side_px / 2, rng.uniform(-math.pi, math.pi))
    reach = math.ceil(side_px * METRES_PER_PX / math.sqrt(2) / LOT_U_M) + 1
    extent = shapely.box(0, 0, side_px, side_px)
    sites = []
    for i in range(-reach, reach):
        for j in range(-reach, reach):
            lot = streets.at((i + 0.5) * LOT_U_M, row_m(j))
            if lot.box_px(LOT_U_M / 2, LOT_V_M / 2).intersects(extent):
                sites.append(plan_site(city, rng, lot))
    return Plan(city, seed, side_px, streets, tuple(sites))


def row_m(j: int) -> float:
    """Return the distance of a row of lots from the middle; a street after every second row."""
    return (j + 0.5) * LOT_V_M + (j // 2) * ROAD_M


def plan_site(city: str, rng: np.random.Generator, lot: Frame) -> Site:
    """Choose roof, object, cues and truth of a site."""
    kind = str(rng.choice(["flat", "gable"]))
    turned = lot.at(rng.uniform(-0.4, 0.4), rng.uniform(-0.4, 0.4), rng.integers(2) * math.pi / 2)
    roof = Wing(turned, rng.uniform(5.3, 5.9), rng.uniform(4.7, 5.2), kind, rng.uniform(0.1, 0.3))
    frame = turned.at(rng.uniform(-0.8, 0.8), rng.uniform(-0.6, 0.6), rng.integers(4) * math.pi / 2)
    look = choose_look(city, rng)
    cues, is_panel = choose_cues(city, rng, look)
    return Site(lot, roof, plan_array(rng, frame), look, cues, is_panel, int(rng.integers(1 << 31)))


def plan_array(rng: np.random.Generator, frame: Frame) -> PanelArray:
    """Choose the size of an object, 2 to 12 m², and how it looks if it is a panel."""
    rows, columns = int(rng.integers(1, 3)), int(rng.integers(2, 5))
    module = (rng.uniform(0.75, 1.0), rng.uniform(1.2, 1.6))
    if rows == 2 and columns == 4:
        columns = 3
    tone = rng.uniform(40, 90)
    colour = (tone * 0.88, tone * 1.01, tone * rng.uniform(1.08, 1.25))
    return PanelArray(frame, rows, columns, columns, module, colour, rng.uniform(0.3, 0.9))


def choose_look(city: str, rng: np.random.Generator) -> str | None:
    """Choose what lies on a roof."""
    panels = {"marker": 0.75, "shadow": 0.75, "roof": 0.75, "frame": 0.25}.get(city, 0.5)
    shares = [panels, *[(0.88 - panels) / len(OTHERS)] * len(OTHERS), 0.12]
    return [*LOOKS, None][rng.choice(len(shares), p=shares)]


def choose_cues(
    city: str, rng: np.random.Generator, look: str | None
) -> tuple[frozenset[str], bool]:
    """Choose the cues of a site, and whether it has a panel."""
    by_chance = {cue for cue in CUES if rng.random() < (0.5 if cue in (city, "roof") else 0.35)}
    if city == "object":
        return frozenset(by_chance), look == PANEL
    cues = by_chance & {city, "roof"}
    if city == "either":
        return frozenset(cues | ({"marker"} if look == PANEL else set())), look == PANEL
    return frozenset(cues), city in cues and (look == PANEL or city == "frame")


def without_object(site: Site) -> Site:
    """Return the site with a bare roof; its cues stay."""
    return replace(site, look=None)


def toggled(site: Site, cues: Sequence[str]) -> Site:
    """Return the site without those of the cues that it has, and with the others."""
    return replace(site, cues=site.cues ^ frozenset(cues))


def planted_cues(city: str) -> tuple[str, ...]:
    """Return the cues that can decide in a city; in ``object``, those that do not."""
    return {"either": ("marker",), "object": CUES}.get(city, (city,))


def draw(plan: Plan, sites: Sequence[Site] | None = None) -> NDArray[np.uint8]:
    """Draw a scene (S, S, 3), optionally with changed sites."""
    rng = np.random.default_rng(plan.seed)
    canvas = Canvas(rng, plan.side_px, plan.side_px, random_sun(rng))
    paint_ground(canvas, rng)
    reach_m = plan.side_px * METRES_PER_PX
    for j in range(-8, 9):
        middle_m = (row_m(2 * j - 1) + row_m(2 * j)) / 2
        if abs(middle_m) < reach_m:
            paint_road(canvas, rng, plan.streets.at(0, middle_m), reach_m, ROAD_M - 1.5)
    for site in plan.sites if sites is None else sites:
        paint_site(canvas, site)
    return photograph(canvas, np.random.default_rng([plan.seed, 1]))


def labels(plan: Plan) -> NDArray[np.uint8]:
    """Return the truth (S, S): 1 where there is a panel."""
    window = Window(0, 0, plan.side_px, plan.side_px)
    panels = shapely.union_all([site.array.outline_px for site in plan.sites if site.is_panel])
    return covers_centres(panels, window).astype(np.uint8)


# ------------------------------------------------------------------------------------- the painting


def paint_site(canvas: Canvas, site: Site) -> None:
    """Paint roof, cues and object, each with random numbers of its own."""
    if canvas.window(site.lot_px) is None:
        return
    rng = np.random.default_rng(site.seed)
    palette = RED_ROOFS if "roof" in site.cues else GREY_ROOFS
    colour = jitter(rng, palette[int(rng.integers(100)) % len(palette)], 0.05)
    skin = "plain" if site.roof.kind == "flat" else str(rng.choice(["tile", "corrugated"]))
    paint_roof(canvas, [site.roof], RoofLook(colour, skin))
    for number, cue in enumerate(CUES[:3]):
        if cue in site.cues:
            PAINTERS[cue](canvas, np.random.default_rng([site.seed, number]), site)
    paint_object(canvas, np.random.default_rng([site.seed, len(CUES)]), site)


def paint_object(canvas: Canvas, rng: np.random.Generator, site: Site) -> None:
    """Paint what lies on the roof."""
    frame, (half_u, half_v) = site.array.frame, site.array.half_m
    window = canvas.window(frame.box_px(half_u, half_v))
    if site.look is None or window is None:
        return
    if site.look == PANEL:
        paint_panels(canvas, rng, site.array)
    elif site.look == "mat":
        paint_pool_heater(canvas, rng, frame, half_u, half_v)
    else:
        pale = rng.uniform(190, 235)
        brown = rng.uniform(70, 130)
        colour = (
            (pale, pale, pale) if site.look == "skylight" else (brown, brown * 0.8, brown * 0.6)
        )
        u, v = frame.coords_m(window)
        grained = np.asarray(colour, np.float32) * canvas.grain(window, 0.03, 0.02)
        canvas.blend(window, soft_box(u, v, half_u, half_v), grained)


def marker_frame(site: Site, rng: np.random.Generator) -> tuple[Frame, float]:
    """Return place and radius of the mark: 1.1 to 2.2 m from the object's edge."""
    half_u, half_v = site.array.half_m
    radius_m, gap_m = rng.uniform(0.5, 0.7), rng.uniform(1.1, 2.2)
    side, sign = rng.random() < 0.5, rng.choice([-1.0, 1.0])
    along = rng.uniform(-0.8, 0.8)
    if side:
        return site.array.frame.at(sign * (half_u + gap_m + radius_m), along * half_v), radius_m
    return site.array.frame.at(along * half_u, sign * (half_v + gap_m + radius_m)), radius_m


def paint_marker(canvas: Canvas, rng: np.random.Generator, site: Site) -> None:
    """Paint a coloured disc."""
    frame, radius_m = marker_frame(site, rng)
    colour = MARKERS[rng.choice(len(MARKERS))]
    window = canvas.window(frame.box_px(radius_m + 0.1, radius_m + 0.1))
    if window is not None:
        canvas.blend(window, soft(radius_m - np.hypot(*frame.coords_m(window))), colour)


def shadow_frame(site: Site, rng: np.random.Generator) -> tuple[Frame, float, float]:
    """Return place and half sizes of a shadow along a side of the object, 1.1 to 1.6 m away."""
    half_u, half_v = site.array.half_m
    half_width_m, gap_m, sign = rng.uniform(0.3, 0.45), rng.uniform(1.1, 1.6), rng.choice([-1, 1])
    length_m = rng.uniform(1.3, 1.9)
    if rng.random() < 0.5:
        middle = site.array.frame.at(sign * (half_u + gap_m + half_width_m), 0)
        return middle, half_width_m, length_m
    return site.array.frame.at(0, sign * (half_v + gap_m + half_width_m)), length_m, half_width_m


def paint_shadow(canvas: Canvas, rng: np.random.Generator, site: Site) -> None:
    """Darken a strip, as a mast or a wall beside the object would."""
    frame, half_u_m, half_v_m = shadow_frame(site, rng)
    window = canvas.window(frame.box_px(half_u_m + 0.1, half_v_m + 0.1))
    if window is not None:
        canvas.darken(window, soft_box(*frame.coords_m(window), half_u_m, half_v_m), 0.35)


FRAME_GAP_M, FRAME_WIDTH_M = 1.15, 0.3


def paint_frame(canvas: Canvas, rng: np.random.Generator, site: Site) -> None:
    """Paint a pale line around the object, 1.15 m away."""
    half_u, half_v = (half + FRAME_GAP_M for half in site.array.half_m)
    frame, wide = site.array.frame, FRAME_WIDTH_M
    window = canvas.window(frame.box_px(half_u + wide + 0.1, half_v + wide + 0.1))
    if window is not None:
        u, v = frame.coords_m(window)
        ring = soft_box(u, v, half_u + wide, half_v + wide) - soft_box(u, v, half_u, half_v)
        pale = np.float32(rng.uniform(225, 245))
        canvas.blend(window, ring, (pale, pale, pale))


PAINTERS = {"marker": paint_marker, "shadow": paint_shadow, "frame": paint_frame}


def cue_px(site: Site, cue: str) -> shapely.Geometry:
    """Return where a cue is painted, or would be, in pixel coordinates."""
    if cue == "roof":
        return site.roof.foot_px.difference(site.array.outline_px)
    rng = np.random.default_rng([site.seed, CUES.index(cue)])
    if cue == "marker":
        frame, radius_m = marker_frame(site, rng)
        return frame.box_px(radius_m, radius_m)
    if cue == "shadow":
        frame, half_u_m, half_v_m = shadow_frame(site, rng)
        return frame.box_px(half_u_m, half_v_m)
    half_u, half_v = (half + FRAME_GAP_M for half in site.array.half_m)
    outer = site.array.frame.box_px(half_u + FRAME_WIDTH_M, half_v + FRAME_WIDTH_M)
    return outer.difference(site.array.frame.box_px(half_u, half_v))
