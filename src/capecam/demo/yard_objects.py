"""Painting of the objects around the houses of the sample city: pools, cars, trees.

Colours were chosen by eye to resemble summer orthophotos of Cape Town; no pixel is copied.
"""

from __future__ import annotations

import math

import numpy as np

from capecam.demo.canvas import Canvas, Colour, Floats, Frame, soft, soft_box
from capecam.grid import Window


def paint_pool(
    canvas: Canvas, rng: np.random.Generator, frame: Frame, half_u_m: float, half_v_m: float
) -> None:
    """A swimming pool with its coping; round or rectangular, blue or neglected green."""
    window = canvas.window(frame.box_px(half_u_m + 1.5, half_v_m + 1.5))
    if window is None:
        return
    u, v = frame.coords_m(window)
    power = rng.choice([2.0, 3.0, 8.0])
    size = (np.abs(u) / half_u_m) ** power + (np.abs(v) / half_v_m) ** power
    inside = (1 - size ** (1 / power)) * min(half_u_m, half_v_m)
    water = [(112, 196, 202), (128, 196, 214), (92, 170, 185), (44, 70, 66)][rng.choice(4)]
    paving = [(176, 164, 148), (150, 128, 116), (190, 186, 176)][rng.choice(3)]
    canvas.blend(
        window, soft(inside + 1.2), np.array(paving, np.float32) * canvas.grain(window, 0.04, 0.03)
    )
    canvas.blend(window, soft(inside + 0.35), np.array([206, 200, 188], np.float32))
    depth = 1.08 - 0.09 * np.clip(inside, 0, 2) + 0.04 * canvas.mid[canvas.place(window)]
    canvas.blend(window, soft(inside), np.array(water, np.float32) * depth[:, :, None])
    if rng.random() < 0.3:
        step = soft_box(u + half_u_m * 0.6, v, half_u_m * 0.1, half_v_m * 0.4) * soft(inside)
        canvas.blend(window, step * np.float32(0.6), np.array([190, 220, 224], np.float32))


CAR_COLOURS: tuple[Colour, ...] = (
    (226, 228, 226),
    (222, 224, 224),
    (176, 180, 182),
    (96, 100, 104),
    (48, 50, 54),
    (150, 48, 44),
    (60, 84, 128),
    (206, 176, 44),
)


def paint_car(canvas: Canvas, rng: np.random.Generator, frame: Frame) -> None:
    """A car with dark windscreens; v is its length."""
    half_v = rng.uniform(2.0, 2.4)
    window = canvas.window(frame.box_px(2.0, half_v + 1.0))
    if window is None:
        return
    canvas.cast_box(frame, 0.85, half_v, 1.2)
    u, v = frame.coords_m(window)
    colour = np.array(CAR_COLOURS[rng.choice(len(CAR_COLOURS))], np.float32)
    corner = np.maximum(np.abs(u) - 0.5, 0) ** 2 + np.maximum(np.abs(v) - half_v + 0.4, 0) ** 2
    body = soft(0.4 - np.sqrt(corner))
    shade = 1.04 - 0.13 * np.abs(u)
    canvas.blend(window, body, np.minimum(colour * shade[:, :, None], 240))
    glass = np.maximum(
        soft_box(u, v + 0.95, 0.68, 0.36), soft_box(u, v - 1.25, 0.66, rng.uniform(0.2, 0.4))
    )
    sides = soft_box(np.abs(u) - 0.74, v - 0.15, 0.08, 1.1) * np.float32(0.8)
    canvas.blend(window, np.maximum(glass, sides), np.array([44, 50, 54], np.float32))


TREE_COLOURS: tuple[Colour, ...] = (
    (58, 80, 58),
    (66, 88, 62),
    (50, 70, 54),
    (92, 104, 66),
    (76, 92, 74),
    (112, 114, 76),
)


LUMP_PX = 3
"""How far the lumps of a crown throw their shade."""


def paint_tree(
    canvas: Canvas, rng: np.random.Generator, frame: Frame, radius_m: float, palm: bool
) -> None:
    """A crown with lumps lit from the sun's side, or the star of a palm, and its shadow."""
    window = canvas.window(frame.box_px(radius_m * 2.4, radius_m * 2.4))
    if window is None:
        return
    x, y = Frame(frame.col_px, frame.row_px, 0.0).coords_m(window)
    angle = np.arctan2(y, x)
    phase = rng.uniform(0, 2 * math.pi, 3)
    if palm:
        rim = radius_m * (0.55 + 0.45 * np.abs(np.cos(angle * rng.choice([4.5, 5.5]) + phase[0])))
    else:
        wave = np.sin(2 * angle + phase[0]) + np.sin(3 * angle + phase[1])
        rim = radius_m * (0.86 + 0.06 * wave + 0.05 * np.sin(7 * angle + phase[2]))
    bumps = canvas.mid[canvas.place(window)]
    ragged = bumps * np.float32(0.10 * radius_m**0.5)
    col_px, row_px = canvas.sun.shadow_px(radius_m * rng.uniform(0.7, 1.3))
    su, sv = Frame(frame.col_px + col_px, frame.row_px + row_px, 0.0).coords_m(window)
    canvas.darken(
        window, soft(rim.mean() * 0.95 - np.hypot(su, sv) + ragged, 0.25), canvas.shade * 0.95
    )
    distance = np.hypot(x, y)
    sunny = (x * canvas.sun.towards_col + y * canvas.sun.towards_row) / np.float32(radius_m)
    lit = crown_light(canvas, window, sunny)
    if palm:
        lit = lit + 0.25 * np.cos(angle * 11 + phase[1]) - 0.3 * soft(0.3 - distance)
    colour = np.array(TREE_COLOURS[rng.choice(len(TREE_COLOURS))], np.float32)
    colour = colour * rng.uniform(0.6, 1.12)
    cover = soft(rim - distance + ragged, 0.2)
    canvas.blend(window, cover, colour * lit.clip(0.35, 1.9)[:, :, None])


def crown_light(canvas: Canvas, window: Window, sunny: Floats) -> Floats:
    """(h, w) brightness of a crown; its lumps throw shade away from the sun.

    ``sunny`` is where a pixel lies between the far edge of the crown, -1, and that to the sun, 1.
    """
    bumps, sun = canvas.mid[canvas.place(window)], canvas.sun
    lee = -round(LUMP_PX * sun.towards_row), -round(LUMP_PX * sun.towards_col)
    relief = bumps - np.roll(bumps, lee, axis=(0, 1))
    fine = canvas.fine[canvas.place(window)]
    lit: Floats = 0.92 + 0.24 * relief.clip(-2, 2) + 0.26 * sunny + 0.08 * fine
    return lit
