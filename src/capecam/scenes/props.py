"""Background things that look a little like solar collectors, so the network must tell them apart.

Skylights, chimneys, air conditioners and dark patches lie on roofs; sails, pergolas, trampolines,
tanks and sheds stand in gardens.
"""

from __future__ import annotations

import math

import numpy as np

from capecam.scenes.canvas import Canvas, Colour, Frame, soft, soft_box, soft_lines

ROOF_PROPS = ("skylight", "chimney", "aircon", "patch", "vent", "lights")
YARD_PROPS = ("sail", "pergola", "trampoline", "tank", "shed", "tarp", "beds")


def paint_roof_prop(canvas: Canvas, rng: np.random.Generator, frame: Frame, kind: str) -> None:
    """Paint one of ROOF_PROPS at the frame; all are under 1.6 m long."""
    window = canvas.window(frame.box_px(2.2, 2.2))
    if window is None:
        return
    u, v = frame.coords_m(window)
    if kind == "skylight":
        half_u, half_v = rng.uniform(0.3, 0.6), rng.uniform(0.35, 0.75)
        glass = [(190, 200, 202), (96, 108, 116), (58, 66, 72)][rng.choice(3)]
        canvas.blend(window, soft_box(u, v, half_u + 0.1, half_v + 0.1), (186, 188, 186))
        canvas.blend(window, soft_box(u, v, half_u, half_v), glass)
    elif kind == "chimney":
        canvas.cast_box(frame, 0.35, 0.35, 1.2)
        brick = [(150, 104, 88), (196, 192, 184), (120, 112, 106)][rng.choice(3)]
        canvas.blend(window, soft_box(u, v, 0.38, 0.38), brick)
        canvas.blend(window, soft_box(u, v, 0.16, 0.16), (40, 38, 38))
    elif kind == "aircon":
        canvas.cast_box(frame, 0.45, 0.35, 0.6)
        canvas.blend(window, soft_box(u, v, 0.48, 0.36), (205, 207, 204))
        canvas.blend(window, soft(0.26 - np.hypot(u - 0.1, v)), (92, 96, 98))
    elif kind == "patch":
        tone = rng.uniform(62, 130)
        shape = soft_box(u, v, rng.uniform(0.4, 1.5), rng.uniform(0.3, 1.4))
        rgb = np.array([tone * 1.04, tone, tone * 0.97], np.float32) * canvas.grain(
            window, 0.03, 0.05
        )
        canvas.blend(window, shape * np.float32(rng.uniform(0.4, 0.9)), rgb)
    elif kind == "vent":
        canvas.cast_box(frame, 0.15, 0.15, 0.5)
        canvas.blend(window, soft(0.2 - np.hypot(u, v)), (196, 196, 192))
    else:
        sheet = soft_box(u, v, 0.35, 1.5) * np.float32(0.7)
        canvas.blend(window, sheet, (206, 214, 210))


SAIL_COLOURS: tuple[Colour, ...] = ((118, 128, 132), (196, 186, 160), (72, 80, 84), (150, 158, 150))


def paint_yard_prop(canvas: Canvas, rng: np.random.Generator, frame: Frame, kind: str) -> None:
    """Paint one of YARD_PROPS at the frame; all fit in 3 x 3 m around it."""
    half_u, half_v = rng.uniform(1.2, 2.6), rng.uniform(1.0, 2.0)
    window = canvas.window(frame.box_px(3.6, 3.6))
    if window is None:
        return
    u, v = frame.coords_m(window)
    if kind == "sail":
        corners = rng.uniform(0.75, 1.2, (4, 2)) * [(-1, -1), (1, -1), (1, 1), (-1, 1)]
        count = rng.choice([3, 4])
        shape = frame.polygon_px([(a * half_u, b * half_v) for a, b in corners[:count]])
        canvas.cast_box(frame, half_u * 0.8, half_v * 0.7, 2.0)
        canvas.fill(shape, SAIL_COLOURS[rng.choice(len(SAIL_COLOURS))], 0.015, 0.02)
    elif kind == "pergola":
        canvas.cast_box(frame, half_u, half_v, 2.2)
        tone = rng.choice([70.0, 110.0, 200.0])
        slats = soft_lines(u, rng.uniform(0.25, 0.5), 0.14) * soft_box(u, v, half_u, half_v)
        beams = soft_lines(v + half_v, 2 * half_v, 0.18) * soft_box(u, v, half_u, half_v + 0.1)
        wood = (tone * 1.03, tone * 0.97, tone * 0.9)
        canvas.darken(window, soft_box(u, v, half_u, half_v), 0.7)
        canvas.blend(window, np.maximum(slats, beams), wood)
    elif kind == "trampoline":
        radius = rng.uniform(1.2, 1.9)
        distance = np.hypot(u, v)
        canvas.cast_box(frame, radius * 0.7, radius * 0.7, 0.8)
        ring = [(70, 100, 150), (90, 140, 100), (120, 120, 120)][rng.choice(3)]
        canvas.blend(window, soft(radius - distance), ring)
        canvas.blend(window, soft(radius - 0.3 - distance), (44, 46, 48))
    elif kind == "tank":
        radius = rng.uniform(0.7, 1.2)
        canvas.cast_box(frame, radius * 0.7, radius * 0.7, 2.0)
        tone = np.array([(70, 104, 84), (60, 62, 62), (184, 176, 150)][rng.choice(3)], np.float32)
        rings = 1 + 0.12 * np.cos(np.hypot(u, v) * np.float32(2 * math.pi / 0.4))
        canvas.blend(window, soft(radius - np.hypot(u, v)), tone * rings[:, :, None])
    elif kind == "shed":
        canvas.cast_box(frame, half_u * 0.7, half_v * 0.8, 2.0)
        tone = np.array(
            [(196, 198, 194), (128, 132, 130), (120, 96, 80)][rng.choice(3)], np.float32
        )
        ribs = 1 - 0.1 * soft_lines(u, 0.6, 0.12)
        shape = soft_box(u, v, half_u * 0.7, half_v * 0.8)
        canvas.blend(window, shape, tone * ribs[:, :, None] * canvas.grain(window, 0.02, 0.03))
    elif kind == "tarp":
        tone = rng.uniform(36, 90)
        rgb = np.array([tone * 0.9, tone, tone * 1.02], np.float32) * canvas.grain(
            window, 0.03, 0.06
        )
        rim = soft_box(u, v, half_u * 0.6 + 0.1, half_v * 0.5 + 0.1)
        canvas.blend(window, rim * np.float32(rng.uniform(0, 0.6)), (166, 162, 152))
        canvas.blend(window, soft_box(u, v, half_u * 0.6, half_v * 0.5), rgb)
    else:
        rows = soft_lines(v, 0.6, 0.3) * soft_box(u, v, half_u, half_v)
        canvas.blend(window, soft_box(u, v, half_u + 0.2, half_v + 0.2), (120, 104, 88))
        canvas.blend(
            window, rows, np.array([74, 92, 60], np.float32) * canvas.grain(window, 0.1, 0.2)
        )
