"""Painting of roofs of the sample city, and of the objects on them.

Colours were chosen by eye to resemble summer orthophotos of Cape Town; no pixel is copied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import shapely

from capecam.demo.canvas import (
    METRES_PER_PX,
    Canvas,
    Colour,
    Floats,
    Frame,
    soft,
    soft_box,
    soft_lines,
)
from capecam.grid import Window

HALF_TURN = math.pi


@dataclass(frozen=True, slots=True)
class Wing:
    """One rectangle of a roof; its ridge runs along u."""

    frame: Frame
    half_u_m: float
    half_v_m: float
    kind: str
    pitch: float
    eave_m: float = 2.8

    def __post_init__(self) -> None:
        if self.kind not in ("hip", "gable", "flat"):
            raise ValueError(f"wing kind must be hip, gable or flat, got {self.kind!r}")
        if self.half_u_m < self.half_v_m:
            raise ValueError(f"a wing is longer than wide, got {self.half_u_m} < {self.half_v_m}")

    @property
    def foot_px(self) -> shapely.Polygon:
        """The outline of the eaves in pixel coordinates."""
        return self.frame.box_px(self.half_u_m, self.half_v_m)

    @property
    def ridge_m(self) -> float:
        """Height of the ridge over the ground."""
        return self.eave_m + (0.3 if self.kind == "flat" else self.pitch * self.half_v_m)

    def heights_m(self, u_m: Floats, v_m: Floats) -> tuple[Floats, Floats]:
        """(height over the eaves, number of the face: 0 north 1 south 2 west 3 east), (h, w)."""
        across = self.half_v_m - np.abs(v_m)
        face = np.where(v_m < 0, np.float32(0), np.float32(1))
        if self.kind == "flat":
            return np.full_like(u_m, 0.3), np.zeros_like(u_m)
        if self.kind == "gable":
            return self.pitch * across, face
        along = self.half_u_m - np.abs(u_m)
        face = np.where(along < across, np.where(u_m < 0, np.float32(2), np.float32(3)), face)
        return self.pitch * np.minimum(along, across), face

    def downslope_turn_rad(self, face: int) -> float:
        """The heading of the face's fall line, relative to the wing's u axis."""
        return (-math.pi / 2, math.pi / 2, math.pi, 0.0)[face]

    def faces(self) -> list[tuple[Frame, shapely.Polygon]]:
        """Each face as (frame with v falling down the slope, outline in pixel coordinates)."""
        hu, hv = self.half_u_m, self.half_v_m
        if self.kind == "flat":
            return [(self.frame, self.foot_px.buffer(-0.5 / METRES_PER_PX))]
        end = hu - hv if self.kind == "hip" else hu
        turned = self.frame.at(0, 0, HALF_TURN)
        long_face = [(-end, 0.0), (end, 0.0), (hu, hv), (-hu, hv)]
        faces = [(frame, frame.polygon_px(long_face)) for frame in (self.frame, turned)]
        if self.kind == "hip":
            short_face = [(0.0, hu - hv), (hv, hu), (-hv, hu)]
            for turn in (-HALF_TURN / 2, HALF_TURN / 2):
                frame = self.frame.at(0, 0, turn)
                faces.append((frame, frame.polygon_px(short_face)))
        return faces


@dataclass(frozen=True, slots=True)
class RoofLook:
    """Colour and skin of a roof."""

    colour: Colour
    skin: str
    weathering: float = 0.04

    def __post_init__(self) -> None:
        if self.skin not in ("tile", "corrugated", "plain"):
            raise ValueError(f"skin must be tile, corrugated or plain, got {self.skin!r}")

    def texture(self, along_m: Floats, up_m: Floats) -> Floats:
        """(h, w) brightness factors: tile courses, or ribs that run up the slope."""
        if self.skin == "tile":
            courses = 0.030 * np.sin(up_m * np.float32(2 * math.pi / 0.34))
            tiles: Floats = 1 + courses + 0.015 * np.sin(along_m * np.float32(2 * math.pi / 0.33))
            return tiles
        if self.skin == "corrugated":
            ribs = soft_lines(along_m, 0.76, 0.12)
            sheets = 0.02 * np.sign(np.sin(along_m * np.float32(2.1)) + 0.4)
            ribbed: Floats = 1 - 0.10 * ribs + sheets
            return ribbed
        return np.ones_like(along_m)


def cast_roof(canvas: Canvas, wing: Wing) -> None:
    """The shadow of a wing on the ground: hull of the foot, the moved eaves and the moved ridge."""
    eave = np.array(canvas.sun.shadow_px(wing.eave_m))
    top = np.array(canvas.sun.shadow_px(wing.ridge_m))
    end = wing.half_u_m - (wing.half_v_m if wing.kind == "hip" else 0.0)
    ridge = shapely.get_coordinates(wing.frame.polygon_px([(-end, 0.0), (end, 0.0), (end, 0.05)]))
    foot = shapely.get_coordinates(wing.foot_px)
    canvas.cast(shapely.convex_hull(shapely.MultiPoint([*foot, *(foot + eave), *(ridge + top)])))


class Surface(NamedTuple):
    """The roof of a building as seen from above, each (h, w)."""

    alpha: Floats
    """Coverage."""
    face: Floats
    """Tells the faces of all wings apart; -1 where there is none."""
    light: Floats
    """Brightness by how the face lies to the sun."""
    along: Floats
    up: Floats
    """Metres across and along the fall of the face."""


def see_roof(canvas: Canvas, wings: list[Wing], window: Window) -> Surface:
    """The higher wing shows where wings meet, which gives hips and valleys."""
    best = np.full(window.shape, -9.0, np.float32)
    face_of = np.full(window.shape, -1.0, np.float32)
    light, along, up, alpha = (np.zeros(window.shape, np.float32) for _ in range(4))
    for number, wing in enumerate(wings):
        u, v = wing.frame.coords_m(window)
        cover = soft_box(u, v, wing.half_u_m, wing.half_v_m)
        height, face = wing.heights_m(u, v)
        seen = (cover > 0) & (wing.eave_m + height > best)
        best = np.where(seen, wing.eave_m + height, best)
        face_of = np.where(seen, number * 4 + face, face_of)
        alpha = np.maximum(alpha, cover)
        light = np.where(seen, face_lights(canvas, wing)[face.astype(np.intp)], light)
        falls_along_u = face >= 2
        along = np.where(seen, np.where(falls_along_u, v, u), along)
        up = np.where(seen, np.where(falls_along_u, u, v), up)
    return Surface(alpha, face_of, light, along, up)


def face_lights(canvas: Canvas, wing: Wing) -> Floats:
    """(4,) brightness of its faces."""
    pitch = 0.0 if wing.kind == "flat" else wing.pitch
    turns = (wing.frame.angle_rad + wing.downslope_turn_rad(face) for face in range(4))
    return np.array([canvas.sun.light(turn, pitch) for turn in turns], np.float32)


def paint_roof(canvas: Canvas, wings: list[Wing], look: RoofLook) -> None:
    """Paint a building: its skin, lighter caps where faces meet, and the rims of flat roofs."""
    window = canvas.window(shapely.union_all([wing.foot_px for wing in wings]))
    if window is None:
        return
    roof = see_roof(canvas, wings, window)
    texture = look.texture(roof.along, roof.up)
    rgb = np.asarray(look.colour, np.float32) * (roof.light * texture)[:, :, None]
    rgb *= canvas.grain(window, 0.02, look.weathering)
    rgb *= 1 + 0.05 * canvas.coarse[canvas.place(window)][:, :, None]
    canvas.blend(window, roof.alpha, rgb)
    edge = np.zeros(window.shape, np.float32)
    edge[:, 1:] = roof.face[:, 1:] != roof.face[:, :-1]
    edge[1:] = np.maximum(edge[1:], roof.face[1:] != roof.face[:-1])
    cap = np.asarray(look.colour, np.float32) * 1.16
    canvas.blend(window, edge * roof.alpha * np.float32(0.45), np.minimum(cap, 250))
    for wing in wings:
        if wing.kind == "flat":
            paint_parapet(canvas, wing, look)


def paint_parapet(canvas: Canvas, wing: Wing, look: RoofLook) -> None:
    """A light rim around a flat roof, and its shadow on the roof inside."""
    window = canvas.window(wing.foot_px)
    if window is None:
        return
    u, v = wing.frame.coords_m(window)
    inner_u, inner_v = wing.half_u_m - 0.25, wing.half_v_m - 0.25
    inner = soft_box(u, v, inner_u, inner_v)
    outer = soft_box(u, v, wing.half_u_m, wing.half_v_m)
    col_px, row_px = canvas.sun.shadow_px(0.45)
    moved = Frame(wing.frame.col_px + col_px, wing.frame.row_px + row_px, wing.frame.angle_rad)
    lit = soft_box(*moved.coords_m(window), inner_u, inner_v)
    canvas.darken(window, inner * (1 - lit), 0.55)
    rim = np.minimum(np.asarray(look.colour, np.float32) * 1.15 + 12, 235)
    canvas.blend(window, (outer - inner) * np.float32(0.8), rim)


@dataclass(frozen=True, slots=True)
class PanelArray:
    """A solar array: full rows of modules, the last row perhaps shorter."""

    frame: Frame
    rows: int
    columns: int
    last_row: int
    module_m: tuple[float, float]
    colour: Colour
    line: float

    def __post_init__(self) -> None:
        if not 1 <= self.last_row <= self.columns:
            raise ValueError(f"last row must hold 1..{self.columns} modules, got {self.last_row}")

    @property
    def half_m(self) -> tuple[float, float]:
        """Half the (u, v) size of the whole array."""
        return self.columns * self.module_m[0] / 2, self.rows * self.module_m[1] / 2

    @property
    def outline_px(self) -> shapely.Polygon:
        """The truth polygon in pixel coordinates."""
        half_u, half_v = self.half_m
        step_u, step_v = -half_u + self.last_row * self.module_m[0], half_v - self.module_m[1]
        points = [(-half_u, -half_v), (half_u, -half_v)]
        if self.last_row < self.columns:
            points += [(half_u, step_v), (step_u, step_v), (step_u, half_v), (-half_u, half_v)]
        else:
            points += [(half_u, half_v), (-half_u, half_v)]
        return self.frame.polygon_px(points)


def paint_panels(canvas: Canvas, rng: np.random.Generator, array: PanelArray) -> None:
    """Dark glass with light frame lines; a thin shadow falls from its lower edge."""
    half_u, half_v = array.half_m
    window = canvas.window(array.frame.box_px(half_u + 0.3, half_v + 0.3))
    if window is None:
        return
    col_px, row_px = canvas.sun.shadow_px(0.12)
    outline = array.outline_px
    canvas.cast(shapely.transform(outline, lambda xy: xy + np.array([col_px, row_px])), 0.6)
    u, v = array.frame.coords_m(window)
    du, dv = u + half_u, v + half_v
    alpha = soft_box(u, v, half_u, half_v)
    gone_u = du - array.last_row * array.module_m[0]
    gone_v = dv - (array.rows - 1) * array.module_m[1]
    if array.last_row < array.columns:
        alpha = alpha * (1 - soft(np.minimum(gone_u, gone_v)))
    tone = rng.normal(1.0, 0.025, (array.rows + 2, array.columns + 2)).astype(np.float32)
    row = np.clip(dv // array.module_m[1] + 1, 0, array.rows + 1).astype(np.intp)
    column = np.clip(du // array.module_m[0] + 1, 0, array.columns + 1).astype(np.intp)
    glare = 1 + np.float32(rng.normal(0, 0.03)) * u + np.float32(rng.normal(0, 0.03)) * v
    rgb = (
        np.asarray(array.colour, np.float32)
        * (tone[row, column] * np.clip(glare, 0.8, 1.3))[:, :, None]
    )
    rgb = rgb * canvas.grain(window, 0.025, 0.015)
    lines = np.maximum(
        soft_lines(du, array.module_m[0], 0.06), soft_lines(dv, array.module_m[1], 0.06)
    )
    # A half-cut module has a faint bright gap across its middle.
    middle = 0.3 * soft_lines(dv + array.module_m[1] / 2, array.module_m[1], 0.04)
    lines = np.maximum(lines, middle) * np.float32(array.line)
    rgb = rgb + lines[:, :, None] * (np.array([176, 184, 188], np.float32) - rgb)
    canvas.blend(window, alpha, rgb)


def paint_water_heater(
    canvas: Canvas, rng: np.random.Generator, frame: Frame, half_u_m: float, half_v_m: float
) -> None:
    """A dark glassy collector below a round bright tank; v falls down the slope."""
    window = canvas.window(frame.box_px(half_u_m + 0.8, half_v_m + 0.8))
    if window is None:
        return
    canvas.cast_box(frame.at(0, -half_v_m + 0.25), half_u_m * 0.95, 0.22, rng.uniform(0.3, 0.8))
    u, v = frame.coords_m(window)
    tank_m = min(0.55, half_v_m * 0.65)
    dark = rng.uniform(38, 84)
    glass = np.array([dark * 0.93, dark * 1.02, dark * rng.uniform(1.0, 1.12)], np.float32)
    below = v - (-half_v_m + tank_m)
    tubes = rng.random() < 0.2
    sheen = 1 + np.float32(rng.normal(0, 0.12)) * u + np.float32(rng.normal(0, 0.10)) * v
    rgb = glass * (np.clip(sheen, 0.7, 1.4)[:, :, None]) * canvas.grain(window, 0.03)
    if tubes:
        stripes = soft_lines(u, 0.16, 0.06) * np.float32(0.4)
        rgb = rgb + stripes[:, :, None] * (np.array([150, 152, 152], np.float32) - rgb)
    rim = 1 - soft_box(u, v, half_u_m - 0.06, half_v_m - 0.06)
    line = max(rim.max() * rng.uniform(0.15, 0.75), 0.1)
    rgb = rgb + (rim * np.float32(line))[:, :, None] * (np.array([175, 178, 178], np.float32) - rgb)
    canvas.blend(window, soft_box(u, v, half_u_m, half_v_m), rgb)
    canvas.darken(window, soft_box(u, below - 0.1, half_u_m, 0.1), 0.6)
    # The tank is a cylinder: brightest where its side faces the sun, dark along its lower edge.
    across = np.clip((v + half_v_m - tank_m / 2) / (tank_m / 2), -1, 1)
    facing = frame.angle_rad + math.pi / 2
    tilt = math.cos(facing) * canvas.sun.towards_col + math.sin(facing) * canvas.sun.towards_row
    lit = np.clip(np.sqrt(1 - across * across) * 0.8 + 0.45 * tilt * across, 0.15, 1.1)
    bright = rng.choice([232.0, 215.0, 185.0, 140.0], p=[0.4, 0.3, 0.2, 0.1])
    steel = np.array([bright * 0.97, bright, bright], np.float32) * lit[:, :, None]
    body = soft_box(u, v + half_v_m - tank_m / 2, half_u_m * rng.uniform(0.8, 1.0), tank_m / 2)
    canvas.blend(window, body, steel)


def paint_pool_heater(
    canvas: Canvas, rng: np.random.Generator, frame: Frame, half_u_m: float, half_v_m: float
) -> None:
    """Mats of fine black tubes that run up the slope, light gaps between the mats."""
    window = canvas.window(frame.box_px(half_u_m + 0.3, half_v_m + 0.3))
    if window is None:
        return
    u, v = frame.coords_m(window)
    dark = rng.uniform(42, 112)
    warm = rng.uniform(-0.03, 0.05)
    mat = np.array([dark * (1 + warm), dark * 1.02, dark * (1.0 - warm)], np.float32)
    rgb = mat * canvas.grain(window, 0.05, 0.04)
    pitch_m = rng.uniform(0.22, 0.36)
    tubes = soft_lines(u + half_u_m, pitch_m, 0.09) * np.float32(rng.uniform(0.15, 0.5))
    sections = max(1, round(2 * half_u_m / rng.uniform(0.9, 1.35)))
    gaps = soft_lines(u + half_u_m, 2 * half_u_m / sections, rng.uniform(0.08, 0.2))
    gaps = gaps * (np.abs(u) < half_u_m - 0.2)
    light = np.maximum(tubes, gaps * np.float32(rng.uniform(0.35, 0.75)))
    roof = np.array([152, 154, 150], np.float32) * np.float32(rng.uniform(0.75, 1.15))
    rgb = rgb + light[:, :, None] * (roof - rgb)
    header = soft(np.abs(v) - (half_v_m - 0.12)) * np.float32(rng.uniform(0.0, 0.6))
    rgb = rgb + header[:, :, None] * (mat * 0.55 - rgb)
    wear = 0.9 + 0.1 * canvas.mid[canvas.place(window)].clip(-1, 1)
    canvas.blend(window, soft_box(u, v, half_u_m, half_v_m) * wear, rgb)
