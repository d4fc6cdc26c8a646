"""Columns of detections in words: the one table for files, QGIS and docs/outputs.md."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from capecam.settings import METHODS, TITLES


@dataclass(frozen=True, slots=True)
class Column:
    """Description of a column."""

    title: str
    """Name for people, with the unit."""
    unit: str
    """Unit or range; empty for texts and numbers of things."""
    meaning: str
    decimals: int | None = None
    """Decimals in text files; None for what is no measured number."""
    section: str = ""
    """Section of docs/method.md that has more."""

    @property
    def metadata(self) -> dict[str, str]:
        """Return the description as metadata of a field."""
        unit = {"unit": self.unit} if self.unit else {}
        return {"title": self.title, "description": self.meaning, **unit}


SHARE = "0..1"

HEATMAP_COLUMNS = {
    "in": Column(
        "mean inside (0 to 1)", f"{SHARE} of the city's scale",
        "mean of the heatmap of the object's class inside the object; of guided maps, too, of raw "
        "values (raw / top), not of their roots", 4),
    "ring": Column("mean within 2 m (0 to 1)", SHARE, "mean in a ring of 2 m around the object", 4),
    "share": Column(
        "share inside", SHARE, "energy (sum of the heatmap) inside, divided by the energy inside "
        "and within 12.8 m; empty if both are 0", 4),
    "peak": Column("highest value (0 to 1)", SHARE, "maximum inside or within 12.8 m", 4),
    "peak_m": Column(
        "distance of the peak (m)", "m", "distance from the object to the nearest pixel with that "
        "maximum, 0 if it is inside; empty where the heatmap is 0", 2),
}  # fmt: skip
"""Columns of a heatmap, by the end of their names."""

LOST = "part of its probability that is lost when"
AS_MANY = f"{LOST} as many blocks"

BEFORE_HEATMAPS = {
    "id": Column(
        "Id", "", "<class_id>_<col>_<row> of the object's first pixel in row-major order, counted "
        "from the anchor of the pixel grid"),
    "class_id": Column("Number of the class", "", "index of the class"),
    "class": Column("Class", "", "name of the class"),
    "area_m2": Column(
        "Area (m²)", "m²", "number of pixels times the area of a pixel (geodesic for a CRS in "
        "degrees), before simplification", 2),
    "confidence": Column(
        "Confidence (0 to 1)", SHARE, "mean probability of the object's class over its pixels", 4),
    "lon": Column("Longitude (°)", "degrees, WGS 84", "longitude of a point inside the object", 7),
    "lat": Column("Latitude (°)", "degrees, WGS 84", "latitude of a point inside the object", 7),
    "images": Column(
        "Images", "", "names of the images that the object is on, separated by commas"),
}  # fmt: skip

AFTER_HEATMAPS = {
    "rival": Column(
        "Rival class", "", "the most probable other foreground class inside the object"),
    "rival_in": Column(
        "Probability of the rival inside (0 to 1)", SHARE,
        "mean probability of the rival inside", 4),
    "soft_edge": Column(
        "Probability beside it (share of that inside)", "0..",
        "mean probability of the class within 3 pixels outside of the object, divided by that "
        "inside", 4, "signals"),
    "margin": Column(
        "Margin over the next class (-1 to 1)", "-1..1", "mean over the object of the probability "
        "of its class minus that of the most probable other one, background included", 4),
    "border_entropy": Column(
        "Entropy at the border (bit)", "bit",
        "mean entropy of the class probabilities over the object's border pixels", 4),
    "near_probability": Column(
        "Probability near it (0 to 1)", SHARE,
        "mean probability of the class 3 to 12 pixels outside", 4),
    "compactness": Column(
        "Compactness (0 to 1)", SHARE, "4 pi area / perimeter²: 1 for a disc, 0.79 for a square",
        4),
    "rectangularity": Column(
        "Rectangularity (0 to 1)", SHARE, "area divided by that of the smallest rectangle, in any "
        "direction, around the object", 4),
    "own_share": Column(
        "Its map: share on the object", SHARE, "energy of the object's own map inside it", 4,
        "objects"),
    "own_near": Column(
        "Its map: share on it or within 2 m", SHARE,
        "energy of its own map inside or within 2 m", 4),
    "own_peak_m": Column(
        "Its map: distance of the peak (m)", "m", "distance from the object to the highest value "
        "of its own map, 0 if it is inside", 2),
    "leak": Column(
        "Its map: share on others of its class", SHARE,
        "energy of its own map on other detections of the class in the tile", 4),
    "own_drop": Column(
        "Blurred where its map is highest: share lost", "to 1",
        f"{LOST} 3 % of the tile's blocks, or as many as the object has, are blurred where its map "
        "is highest", 4),
    "random_drop": Column(
        "Blurred at random: share lost", "to 1", f"{AS_MANY} at random are blurred", 4),
    "distance_drop": Column(
        "Blurred where it is nearest: share lost", "to 1",
        f"{AS_MANY} nearest to it are blurred", 4),
    "alone": Column(
        "The object alone: share left", "0..",
        "part of its probability that is left with everything but the object blurred", 4),
    "without": Column(
        "Without the object: share left", "0..",
        "part of its probability that is left with the object blurred", 4),
    "evidence": Column(
        "Evidence", "", "itself, context, both, either or unproven, empty for a detection without "
        "an explanation of its own", None, "words"),
    "p_right": Column(
        "Probability of being right (0 to 1)", SHARE, "with --calibrate-with only: the calibrated "
        "probability that the detection is right", 4, "right-or-wrong"),
    "review": Column(
        "Rank in the review queue", "", "rank in the review queue, from 1: ascending by p_right "
        "where there is one, else by confidence"),
}  # fmt: skip

HEATMAPS = {
    f"{method}_{end}": Column(
        f"{TITLES[method]}: {each.title}", each.unit, f"{TITLES[method]}: {each.meaning}",
        each.decimals,
    )
    for method in METHODS
    for end, each in HEATMAP_COLUMNS.items()
}  # fmt: skip

REASON = {"reason": Column("Reason for dropping it", "", "the first rule that rejects the object")}

DESCRIPTIONS = BEFORE_HEATMAPS | HEATMAPS | AFTER_HEATMAPS | REASON
"""Descriptions of all columns of detections and of rejected objects."""

DECIMALS = {
    name: column.decimals for name, column in DESCRIPTIONS.items() if column.decimals is not None
}
"""Decimals in text files of the numbers that are measured."""


def field_metadata(columns: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return the metadata of the fields of a table, of those that are described."""
    return {name: DESCRIPTIONS[name].metadata for name in columns if name in DESCRIPTIONS}
