"""Styles of rasters."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree as ET

from capecam.views.styles.color_ramps import ColorRamp
from capecam.views.styles.qml import LayerStyle, options, rgba


def ramped(band: int, ramp: ColorRamp, top: float = 1.0) -> LayerStyle:
    """One band in the colours of a ramp.

    Args:
        band: from 1.
        ramp: its colours.
        top: value of the last of them; the first is 0.
    """
    renderer = _renderer("singlebandpseudocolor", band=str(band))
    renderer.set("classificationMin", "0")
    renderer.set("classificationMax", f"{top!r}")
    shader = ET.SubElement(ET.SubElement(renderer, "rastershader"), "colorrampshader", {
        "colorRampType": "INTERPOLATED", "classificationMode": "1", "clip": "0",
        "minimumValue": "0", "maximumValue": f"{top!r}", "labelPrecision": "2",
    })  # fmt: skip
    shader.append(_gradient(ramp))
    for place, color, alpha in ramp.stops:
        value = place * top
        ET.SubElement(
            shader, "item", value=repr(value), label=f"{value:.2g}", color=color, alpha=str(alpha)
        )
    shader.append(_legend())
    return _style(renderer)


def _gradient(ramp: ColorRamp) -> ET.Element:
    """The ramp for the legend and for people who change it."""
    (_, first, first_alpha), *between, (_, last, last_alpha) = ramp.stops
    element = ET.Element("colorramp", name="[source]", type="gradient")
    stops = (f"{place:.4g};{rgba(color, alpha)}" for place, color, alpha in between)
    element.append(options({
        "color1": rgba(first, first_alpha), "color2": rgba(last, last_alpha), "discrete": "0",
        "rampType": "gradient", "stops": ":".join(stops),
    }))  # fmt: skip
    return element


def _legend() -> ET.Element:
    """A bar with its two ends, not a list of colours."""
    element = ET.Element("rampLegendSettings", {
        "useContinuousLegend": "1", "orientation": "2", "direction": "0", "prefix": "",
        "suffix": "", "minimumLabel": "", "maximumLabel": "",
    })  # fmt: skip
    ET.SubElement(element, "numericFormat", id="basic")
    return element


def paletted(entries: Mapping[int, tuple[str, str, int]]) -> LayerStyle:
    """A colour a value.

    Args:
        entries: value -> label, #RRGGBB, alpha.
    """
    renderer = _renderer("paletted", band="1")
    palette = ET.SubElement(renderer, "colorPalette")
    for value, (label, color, alpha) in entries.items():
        ET.SubElement(
            palette, "paletteEntry", value=str(value), label=label, color=color, alpha=str(alpha)
        )
    return _style(renderer)


def photograph(alpha_band: int, from_scale: int) -> LayerStyle:
    """Bands 1 to 3 as they are."""
    renderer = _renderer("multibandcolor", redBand="1", greenBand="2", blueBand="3")
    renderer.set("alphaBand", str(alpha_band))
    return _style(renderer, from_scale, zoomed_in="bilinear", zoomed_out="bilinear")


def _renderer(kind: str, **facts: str) -> ET.Element:
    element = ET.Element(
        "rasterrenderer",
        {"type": kind, "opacity": "1", "alphaBand": "-1", "nodataColor": "", **facts},
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
