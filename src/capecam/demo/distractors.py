"""Background things that look a little like solar collectors, so the network must tell them apart.

Skylights, chimneys, air conditioners and dark patches lie on roofs; sails, pergolas, trampolines,
tanks and sheds stand in gardens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from capecam.demo.canvas import Canvas, Colour, Floats, Frame, soft, soft_box, soft_lines
from capecam.grid import Window


@dataclass(frozen=True, slots=True)
class Spot:
    """Location at which an object is painted."""

    canvas: Canvas
    rng: np.random.Generator
    frame: Frame
    window: Window
    u: Floats
    v: Floats
    """Metres from the frame's origin, (h, w) of the window."""
    half_u_m: float = 0.0
    half_v_m: float = 0.0
    """Half the size of a thing that is a rectangle; those on roofs have their own."""

    def paint(self, alpha: Floats, colour: Colour | Floats) -> None:
        """Lay a colour over it as far as ``alpha`` covers."""
        self.canvas.blend(self.window, alpha, colour)

    def cast(self, half_u_m: float, half_v_m: float, height_m: float) -> None:
        """The shadow of a box."""
        self.canvas.cast_box(self.frame, half_u_m, half_v_m, height_m)

    def grain(self, fine: float, mid: float) -> Floats:
        """Brightness factors around 1."""
        return self.canvas.grain(self.window, fine, mid)

    def box(self, half_u_m: float, half_v_m: float) -> Floats:
        """Coverage of a rectangle around the origin."""
        return soft_box(self.u, self.v, half_u_m, half_v_m)

    def disc(self, radius_m: float) -> Floats:
        """Coverage of a disc around the origin."""
        return soft(radius_m - np.hypot(self.u, self.v))

    def any_of(self, colours: tuple[Colour, ...]) -> Colour:
        """One of the colours."""
        return colours[self.rng.choice(len(colours))]


def _skylight(spot: Spot) -> None:
    half_u, half_v = spot.rng.uniform(0.3, 0.6), spot.rng.uniform(0.35, 0.75)
    glass = spot.any_of(((190, 200, 202), (96, 108, 116), (58, 66, 72)))
    spot.paint(spot.box(half_u + 0.1, half_v + 0.1), (186, 188, 186))
    spot.paint(spot.box(half_u, half_v), glass)


def _chimney(spot: Spot) -> None:
    spot.cast(0.35, 0.35, 1.2)
    brick = spot.any_of(((150, 104, 88), (196, 192, 184), (120, 112, 106)))
    spot.paint(spot.box(0.38, 0.38), brick)
    spot.paint(spot.box(0.16, 0.16), (40, 38, 38))


def _aircon(spot: Spot) -> None:
    spot.cast(0.45, 0.35, 0.6)
    spot.paint(spot.box(0.48, 0.36), (205, 207, 204))
    spot.paint(soft(0.26 - np.hypot(spot.u - 0.1, spot.v)), (92, 96, 98))


def _patch(spot: Spot) -> None:
    tone = spot.rng.uniform(62, 130)
    shape = spot.box(spot.rng.uniform(0.4, 1.5), spot.rng.uniform(0.3, 1.4))
    rgb = np.array([tone * 1.04, tone, tone * 0.97], np.float32) * spot.grain(0.03, 0.05)
    spot.paint(shape * np.float32(spot.rng.uniform(0.4, 0.9)), rgb)


def _vent(spot: Spot) -> None:
    spot.cast(0.15, 0.15, 0.5)
    spot.paint(spot.disc(0.2), (196, 196, 192))


def _lights(spot: Spot) -> None:
    spot.paint(spot.box(0.35, 1.5) * np.float32(0.7), (206, 214, 210))


SAIL_COLOURS: tuple[Colour, ...] = ((118, 128, 132), (196, 186, 160), (72, 80, 84), (150, 158, 150))


def _sail(spot: Spot) -> None:
    half_u, half_v = spot.half_u_m, spot.half_v_m
    corners = spot.rng.uniform(0.75, 1.2, (4, 2)) * [(-1, -1), (1, -1), (1, 1), (-1, 1)]
    count = spot.rng.choice([3, 4])
    shape = spot.frame.polygon_px([(a * half_u, b * half_v) for a, b in corners[:count]])
    spot.cast(half_u * 0.8, half_v * 0.7, 2.0)
    spot.canvas.fill(shape, spot.any_of(SAIL_COLOURS), 0.015, 0.02)


def _pergola(spot: Spot) -> None:
    half_u, half_v = spot.half_u_m, spot.half_v_m
    spot.cast(half_u, half_v, 2.2)
    tone = spot.rng.choice([70.0, 110.0, 200.0])
    slats = soft_lines(spot.u, spot.rng.uniform(0.25, 0.5), 0.14) * spot.box(half_u, half_v)
    beams = soft_lines(spot.v + half_v, 2 * half_v, 0.18) * spot.box(half_u, half_v + 0.1)
    wood = (tone * 1.03, tone * 0.97, tone * 0.9)
    spot.canvas.darken(spot.window, spot.box(half_u, half_v), 0.7)
    spot.paint(np.maximum(slats, beams), wood)


def _trampoline(spot: Spot) -> None:
    radius = spot.rng.uniform(1.2, 1.9)
    spot.cast(radius * 0.7, radius * 0.7, 0.8)
    spot.paint(spot.disc(radius), spot.any_of(((70, 100, 150), (90, 140, 100), (120, 120, 120))))
    spot.paint(spot.disc(radius - 0.3), (44, 46, 48))


def _tank(spot: Spot) -> None:
    radius = spot.rng.uniform(0.7, 1.2)
    spot.cast(radius * 0.7, radius * 0.7, 2.0)
    tone = np.array(spot.any_of(((70, 104, 84), (60, 62, 62), (184, 176, 150))), np.float32)
    rings = 1 + 0.12 * np.cos(np.hypot(spot.u, spot.v) * np.float32(2 * math.pi / 0.4))
    spot.paint(spot.disc(radius), tone * rings[:, :, None])


def _shed(spot: Spot) -> None:
    half_u, half_v = spot.half_u_m * 0.7, spot.half_v_m * 0.8
    spot.cast(half_u, half_v, 2.0)
    tone = np.array(spot.any_of(((196, 198, 194), (128, 132, 130), (120, 96, 80))), np.float32)
    ribs = 1 - 0.1 * soft_lines(spot.u, 0.6, 0.12)
    spot.paint(spot.box(half_u, half_v), tone * ribs[:, :, None] * spot.grain(0.02, 0.03))


def _tarp(spot: Spot) -> None:
    half_u, half_v = spot.half_u_m * 0.6, spot.half_v_m * 0.5
    tone = spot.rng.uniform(36, 90)
    rgb = np.array([tone * 0.9, tone, tone * 1.02], np.float32) * spot.grain(0.03, 0.06)
    rim = spot.box(half_u + 0.1, half_v + 0.1)
    spot.paint(rim * np.float32(spot.rng.uniform(0, 0.6)), (166, 162, 152))
    spot.paint(spot.box(half_u, half_v), rgb)


def _beds(spot: Spot) -> None:
    half_u, half_v = spot.half_u_m, spot.half_v_m
    rows = soft_lines(spot.v, 0.6, 0.3) * spot.box(half_u, half_v)
    spot.paint(spot.box(half_u + 0.2, half_v + 0.2), (120, 104, 88))
    spot.paint(rows, np.array([74, 92, 60], np.float32) * spot.grain(0.1, 0.2))


ROOF_PROPS: dict[str, Callable[[Spot], None]] = {
    "skylight": _skylight,
    "chimney": _chimney,
    "aircon": _aircon,
    "patch": _patch,
    "vent": _vent,
    "lights": _lights,
}
"""All are under 1.6 m long."""

YARD_PROPS: dict[str, Callable[[Spot], None]] = {
    "sail": _sail,
    "pergola": _pergola,
    "trampoline": _trampoline,
    "tank": _tank,
    "shed": _shed,
    "tarp": _tarp,
    "beds": _beds,
}
"""All fit in 3 x 3 m around the frame."""


def paint_roof_prop(canvas: Canvas, rng: np.random.Generator, frame: Frame, kind: str) -> None:
    """Paint one of ROOF_PROPS at the frame."""
    window = canvas.window(frame.box_px(2.2, 2.2))
    if window is not None:
        ROOF_PROPS[kind](Spot(canvas, rng, frame, window, *frame.coords_m(window)))


def paint_yard_prop(canvas: Canvas, rng: np.random.Generator, frame: Frame, kind: str) -> None:
    """Paint one of YARD_PROPS at the frame."""
    half_u_m, half_v_m = rng.uniform(1.2, 2.6), rng.uniform(1.0, 2.0)
    window = canvas.window(frame.box_px(3.6, 3.6))
    if window is not None:
        u, v = frame.coords_m(window)
        YARD_PROPS[kind](Spot(canvas, rng, frame, window, u, v, half_u_m, half_v_m))
