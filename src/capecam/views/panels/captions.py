"""Texts of a panel: its title, captions, numbers and footer."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from capecam.detections.neighbourhood import NEIGHBOURHOOD_M, RING_M
from capecam.detections.object_columns import MEANINGS
from capecam.pipeline.object_explainer import MARGIN_M, NEAR_M
from capecam.settings import OBJECT_TITLES, SCORE_TITLES, TITLES
from capecam.views.panels.detection_lookup import Detection
from capecam.views.panels.object_map import ObjectMap
from capecam.views.panels.panel_data import NEGLIGIBLE, PanelData

MIN_RIVAL = 0.005
"""Mean probability below which a rival class is not mentioned: it would be printed as 0.00."""

IMAGERY, PREDICTION, OWN_MAP, TILE = "Imagery", "Prediction", "Object's own map", "Tile of the run"

EMPTY = "empty"
"""Note on a map that is 0 everywhere."""

MEASURES = {
    "Share of the map's energy": {
        "own_share": "on the object",
        "own_near": f"on it or within {NEAR_M:g} m",
        "leak": "on others of its class",
    },
    "Probability lost by blurring": {
        "own_drop": "the map's top blocks",
        "distance_drop": "those nearest the object",
        "random_drop": "as many at random",
    },
    "Probability left, keeping only": {
        "alone": f"the object and {MARGIN_M:g} m around",
        "without": "its surroundings",
    },
}
"""Numbers of an own map, all of them shares, by heading and column (docs/outputs.md)."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A number of an object's own map."""

    value: float
    """As in ``detections.parquet``; NaN if it was not computed."""
    text: str

    @property
    def number(self) -> str:
        """Return the value with two decimals, or a dash."""
        return f"{round(self.value, 2) + 0.0:.2f}" if pd.notna(self.value) else "–"


def own_measures(own: ObjectMap) -> dict[str, list[Measure]]:
    """Return the numbers of an own map under their headings."""
    return {
        heading: [Measure(own.numbers[column], text) for column, text in texts.items()]
        for heading, texts in MEASURES.items()
    }


def verdict(own: ObjectMap) -> str:
    """Return the meaning of an object's evidence, and the distance of its map's highest value."""
    metres = own.numbers["own_peak_m"]
    where = f"{metres:.1f} m from the object" if metres else "on the object"
    peak = f" The map is highest {where}." if pd.notna(metres) else ""
    return f"{MEANINGS.get(own.word, '')}{peak}".strip()


def own_name(own: ObjectMap) -> str:
    """Return the name of an own map."""
    return f"{OWN_MAP}: {OBJECT_TITLES[own.method]}"


def own_scale(own: ObjectMap) -> tuple[str, str, str]:
    """Return the lowest and the highest value of an own map, and their unit."""
    high = 1 if own.extent[1] else 0
    return "0", f"{high}", "x its maximum"


def word(panel: PanelData) -> str:
    """Return the evidence of the object; empty for a place, and where none was computed."""
    if panel.own:
        return panel.own.word
    found = panel.detection.row["evidence"] if panel.detection else None
    return str(found) if pd.notna(found) else ""


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


def ground(shape: tuple[int, int], pixel_m: tuple[float, float]) -> str:
    """Return the width and height of (height, width) pixels."""
    return f"{shape[1] * pixel_m[0]:.3g} x {shape[0] * pixel_m[1]:.3g} m"


def tile(panel: PanelData) -> str:
    """Return the size and the position of the tile, and how much it holds of an object it cuts."""
    window = panel.grid.window
    place = f"{ground(window.shape, panel.pixel_m)}, column {window.col}, row {window.row}"
    if panel.share_in_tile == 1:
        return place
    return f"{place}; it cuts the object and holds {_percent(panel.share_in_tile)} of it"


def _percent(share: float) -> str:
    """Return a share below 1, never rounded to all or nothing."""
    return f"{min(max(100 * share, 1), 99):.0f} %"


def predicted(panel: PanelData, class_id: int) -> str:
    """Return the predicted area of a class in the tile."""
    pixels = int(panel.predicted_px()[class_id])
    if not pixels:
        return "not predicted in this tile"
    area = pixels * panel.pixel_m2
    return f"{area:{'.1f' if area >= 1 else '.2g'}} m² predicted in this tile"


def note(panel: PanelData, method: str, class_id: int) -> str:
    """Return a word on a map that shows nothing, or next to nothing."""
    if panel.extent(method, class_id)[1] == 0:
        return EMPTY
    return "negligible" if panel.is_negligible(method, class_id) else ""


def scale(panel: PanelData, method: str, class_id: int) -> tuple[str, str, str]:
    """Return the lowest and the highest value of a map, and their unit.

    Without a city's scale for the class, the unit is the map's own maximum.
    """
    low, high = panel.extent(method, class_id)
    top = panel.city_top(method, class_id)
    unit = "x the city's scale" if top else "x its maximum"
    one = top or high or 1.0
    return _short(low / one), _short(high / one), unit


def _short(number: float) -> str:
    if number == 0 or number >= 9.5:
        return f"{number:.0f}"
    return f"{number:.2f}" if number >= 0.1 else f"{number:.2g}"


def footer(panel: PanelData) -> str:
    """Return how to read the maps, and how they were computed."""
    about = panel.provenance
    return (
        "Each map is stretched from its lowest to its highest value, which shows its shape; the "
        "numbers of its bar give its strength, where 1 is the top of the city's scale. Below "
        f"{NEGLIGIBLE:g} it is negligible, and faint. Guided maps are coloured by the square root. "
        f"Score explained by the tile's maps: {SCORE_TITLES[about.score]}. {about.network}, layer "
        f"{about.target_layer}, {about.precision} on {about.device}."
    )
