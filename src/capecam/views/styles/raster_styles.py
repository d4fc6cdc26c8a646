"""Styles of rasters: colour ramps, palettes, photographs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from capecam.views.styles.qml import LayerStyle, options, rgba

STOPS = 17
"""Number of stops; interpolated linearly, they match inferno to within 2 levels of 255."""


@dataclass(frozen=True, slots=True)
class ColorRamp:
    """Colours by value in 0..1, interpolated linearly."""

    stops: tuple[tuple[float, str, int], ...]
    """(value, #RRGGBB, alpha 0..255), by rising value from 0 to 1."""

    def __post_init__(self) -> None:
        values = [value for value, _, _ in self.stops]
        if values != sorted(values) or (values[0], values[-1]) != (0, 1):
            raise ValueError(f"stops must rise from 0 to 1, got {values}")

    @classmethod
    def of_colormap(
        cls, name: str, alpha: Callable[[float], float], start: float = 0.0
    ) -> ColorRamp:
        """Return a colormap of matplotlib from ``start`` to 1, with an alpha of 0..1 by value."""
        colors = mpl.colormaps[name](np.linspace(start, 1, STOPS), bytes=True)
        return cls(
            tuple(
                (value, f"#{red:02X}{green:02X}{blue:02X}", round(255 * alpha(value)))
                for value, (red, green, blue, _) in zip(
                    np.linspace(0, 1, STOPS).tolist(), colors.tolist(), strict=True
                )
            )
        )

    def by_root(self) -> ColorRamp:
        """Return the same colours by the square root of the value."""
        return ColorRamp(tuple((value**2, color, alpha) for value, color, alpha in self.stops))

    def at(self, values: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Return red, green, blue and alpha (..., 4) of values (...) in 0..1."""
        known = [value for value, _, _ in self.stops]
        colors = np.array([[*bytes.fromhex(color[1:]), alpha] for _, color, alpha in self.stops])
        channels = [np.interp(values, known, channel) for channel in colors.T]
        return np.asarray(np.rint(np.stack(channels, axis=-1)), np.uint8)


HEAT = ColorRamp.of_colormap("inferno", lambda value: 0.8 * min(1.0, 2.5 * value), start=0.15)
"""Perceptually uniform (van der Walt and Smith 2015), without its darkest end, which would be
invisible on a dark roof."""

JET = ColorRamp.of_colormap("jet", lambda value: 0.6 if value else 0.0)
"""The colours of the first published figures, half transparent over the photograph."""

SHARES = ColorRamp.of_colormap(
    "inferno", lambda root: 0.8 * min(1.0, max(0.0, (root - 0.1) / 0.3)), start=0.15
).by_root()
"""Colours of the shares of an object's explanation. The blocks of a large object have a hundredth
each, which are visible by the square root only. Transparent up to .1 % (the square of .1, of 10 %),
the share of each of a tile's 1,024 blocks if none had more than another."""


def shades(color: str) -> ColorRamp:
    """Return the ramp from transparent to a colour."""
    return ColorRamp(((0.0, color, 0), (0.1, color, 0), (1.0, color, 230)))


def ramped(
    band: int, ramp: ColorRamp, top: float = 1.0, label: Callable[[float], str] = "{:.2g}".format
) -> LayerStyle:
    """Return the style of one band in the colours of a ramp.

    Args:
        band: number of the band, from 1.
        ramp: colours.
        top: value of the last colour; the first is at 0.
        label: returns the text of a value in the legend.
    """
    renderer = _renderer("singlebandpseudocolor", band=str(band))
    renderer.set("classificationMin", "0")
    renderer.set("classificationMax", f"{top!r}")
    shader = ET.SubElement(ET.SubElement(renderer, "rastershader"), "colorrampshader", {
        "colorRampType": "INTERPOLATED", "classificationMode": "1", "clip": "0",
        "minimumValue": "0", "maximumValue": f"{top!r}", "labelPrecision": "2",
    })  # fmt: skip
    shader.append(_gradient(ramp))
    for share, color, alpha in ramp.stops:
        value = share * top
        ET.SubElement(
            shader, "item", value=repr(value), label=label(value), color=color, alpha=str(alpha)
        )
    shader.append(_legend(label(0.0), label(top)))
    return _style(renderer)


def _gradient(ramp: ColorRamp) -> ET.Element:
    """Return the ramp for the legend, and for users who edit it."""
    (_, first, first_alpha), *between, (_, last, last_alpha) = ramp.stops
    element = ET.Element("colorramp", name="[source]", type="gradient")
    stops = (f"{value:.4g};{rgba(color, alpha)}" for value, color, alpha in between)
    element.append(options({
        "color1": rgba(first, first_alpha), "color2": rgba(last, last_alpha), "discrete": "0",
        "rampType": "gradient", "stops": ":".join(stops),
    }))  # fmt: skip
    return element


def _legend(lowest: str, highest: str) -> ET.Element:
    """Return a continuous legend with two ends instead of a list of colours."""
    element = ET.Element("rampLegendSettings", {
        "useContinuousLegend": "1", "orientation": "2", "direction": "0", "prefix": "",
        "suffix": "", "minimumLabel": lowest, "maximumLabel": highest,
    })  # fmt: skip
    ET.SubElement(element, "numericFormat", id="basic")
    return element


def paletted(entries: Mapping[int, tuple[str, str, int]]) -> LayerStyle:
    """Return a style with one colour per value.

    Args:
        entries: label, #RRGGBB and alpha by value.
    """
    renderer = _renderer("paletted", band="1")
    palette = ET.SubElement(renderer, "colorPalette")
    for value, (label, color, alpha) in entries.items():
        ET.SubElement(
            palette, "paletteEntry", value=str(value), label=label, color=color, alpha=str(alpha)
        )
    return _style(renderer)


def photograph(alpha_band: int, from_scale: int | None) -> LayerStyle:
    """Return a style that shows bands 1 to 3 as red, green and blue."""
    renderer = _renderer("multibandcolor", redBand="1", greenBand="2", blueBand="3")
    renderer.set("alphaBand", str(alpha_band))
    return _style(renderer, from_scale, zoomed_in="bilinear", zoomed_out="bilinear")


def _renderer(kind: str, **attributes: str) -> ET.Element:
    element = ET.Element(
        "rasterrenderer",
        {"type": kind, "opacity": "1", "alphaBand": "-1", "nodataColor": "", **attributes},
    )
    ET.SubElement(ET.SubElement(element, "minMaxOrigin"), "limits").text = "None"
    return element


def _style(
    renderer: ET.Element,
    from_scale: int | None = None,
    zoomed_in: str = "nearestNeighbour",
    zoomed_out: str = "nearestNeighbour",
) -> LayerStyle:
    pipe = ET.Element("pipe")
    ET.SubElement(ET.SubElement(pipe, "provider"), "resampling", {
        "enabled": "false", "maxOversampling": "2",
        "zoomedInResamplingMethod": zoomed_in, "zoomedOutResamplingMethod": zoomed_out,
    })  # fmt: skip
    pipe.append(renderer)
    return LayerStyle((pipe,), from_scale=from_scale)
