"""Texts of a panel: its title, captions and footer."""

from __future__ import annotations

import pandas as pd

from capecam.detections.neighbourhood import NEIGHBOURHOOD_M, RING_M
from capecam.settings import SCORE_TITLES, TITLES
from capecam.views.panels.detection_lookup import Detection
from capecam.views.panels.panel_data import PanelData

MIN_RIVAL = 0.005
"""Mean probability below which a rival class is not mentioned: it would be printed as 0.00."""


def title(panel: PanelData) -> str:
    """Return the class of the detection, or the coordinates of the place."""
    x, y = panel.point
    return str(panel.detection.row["class"]) if panel.detection else f"At {x:.10g}, {y:.10g}"


def caption_lines(panel: PanelData) -> list[list[str]]:
    """Return the lines under the title, as parts between which a line may break."""
    lon, lat = panel.lonlat
    position = f"{abs(lat):.6f}° {'NS'[lat < 0]}, {abs(lon):.6f}° {'EW'[lon < 0]}"
    images = ", ".join(panel.images)
    if panel.detection is None:
        return [[position, images]]
    row = panel.detection.row
    measures = [f"{row['area_m2']:.1f} m²", f"confidence {row['confidence']:.2f}"]
    return [
        [*measures, position, f"no. {row['review']} in the review queue", images],
        _evidence(panel.detection, panel.evidence_method),
    ]


def _evidence(detection: Detection, method: str) -> list[str]:
    """Return the measures that the evidence word is based on."""
    row = detection.row
    inside, ring, share, peak, distance = (
        row[f"{method}_{column}"] for column in ("in", "ring", "share", "peak", "peak_m")
    )
    parts = [
        f"{TITLES[method]} on the city's scale: {inside:.2f} inside",
        f"{ring:.2f} in the {RING_M:g} m around it",
    ]
    if pd.notna(distance):
        parts.append(f"highest {peak:.2f} {f'at {distance:.1f} m' if distance else 'inside'}")
    if pd.notna(share):
        parts.append(f"{100 * share:.0f} % of the heat within {NEIGHBOURHOOD_M:g} m is inside")
    if pd.notna(row["rival"]) and row["rival_in"] >= MIN_RIVAL:
        parts.append(f"rival: {row['rival']} {row['rival_in']:.2f}")
    return parts


def imagery(panel: PanelData) -> str:
    """Return the size of the tile."""
    height, width = (
        n * size for n, size in zip(panel.valid.shape, panel.pixel_m[::-1], strict=True)
    )
    return f"imagery, {width:.3g} x {height:.3g} m"


def predicted(panel: PanelData, class_id: int) -> str:
    """Return the predicted area of a class in the tile."""
    pixels = int(panel.predicted_px()[class_id])
    if not pixels:
        return "not predicted in this tile"
    area = pixels * panel.pixel_m2
    return f"{area:{'.1f' if area >= 1 else '.2g'}} m² predicted in this tile"


def strength(panel: PanelData, method: str, class_id: int) -> str:
    """Return the strength of a map, which the stretched map does not show."""
    if not panel.heat[method][class_id - 1].any():
        return "empty: 0 everywhere"
    relative = panel.strength(method, class_id)
    if relative is None:
        return "the city has no scale: empty class"
    if relative > 1:
        return f"max = {relative:.3g} times the city's scale"
    return f"max = {relative:{'.2f' if relative >= 0.1 else '.1g'}} of the city's scale"


def footer(panel: PanelData) -> str:
    """Return how to read the maps, and how they were computed."""
    about, window = panel.provenance, panel.grid.window
    return (
        "Each map is stretched from its own minimum to its own maximum, which shows its shape; the "
        f"number below it gives its strength. Score explained: {SCORE_TITLES[about.score]}. "
        f"{about.network}, layer {about.target_layer}, {about.precision} on {about.device}. "
        f"Tile of {window.width} px at column {window.col}, row {window.row}."
    )
