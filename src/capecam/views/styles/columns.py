"""Columns of a run's layers in QGIS: names with units, forms, and the tip over an object."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree as ET

from capecam.detections.object_columns import MEANINGS
from capecam.settings import METHODS, TITLES
from capecam.store.file_names import PANELS

OBJECT = {
    "id": "Id",
    "class": "Class",
    "class_id": "Number of the class",
    "area_m2": "Area (m²)",
    "confidence": "Confidence (0 to 1)",
    "p_right": "Probability of being right (0 to 1)",
    "review": "Rank in the review queue",
    "evidence": "Evidence",
    "reason": "Reason for dropping it",
    "rival": "Rival class",
    "rival_in": "Probability of the rival inside (0 to 1)",
    "images": "Images",
    "lon": "Longitude (°)",
    "lat": "Latitude (°)",
}
"""Names by column of a detection (docs/outputs.md)."""

OWN = {
    "own_share": "On the object (share of its map)",
    "own_near": "On it or within 2 m (share of its map)",
    "own_peak_m": "Distance of the peak (m)",
    "leak": "On others of its class (share of its map)",
    "own_drop": "Lost by blurring where its map is highest (share)",
    "distance_drop": "Lost by blurring what is nearest (share)",
    "random_drop": "Lost by blurring at random (share)",
    "alone": "Left with the object alone (share)",
    "without": "Left without the object (share)",
}
"""Names of the numbers of its own explanation."""

SIGNALS = {
    "soft_edge": "Probability beside it (share of that inside)",
    "margin": "Margin over the next class (-1 to 1)",
    "border_entropy": "Entropy at the border (bit)",
    "near_probability": "Probability near it (0 to 1)",
    "compactness": "Compactness (0 to 1)",
    "rectangularity": "Rectangularity (0 to 1)",
}

HEATMAP = {
    "in": "mean inside (0 to 1)",
    "ring": "mean within 2 m (0 to 1)",
    "share": "share inside",
    "peak": "highest value (0 to 1)",
    "peak_m": "distance of the peak (m)",
}
"""Names of the numbers of a heatmap, by the end of the column's name."""

HEATMAPS = {
    f"{method}_{end}": f"{TITLES[method]}: {name}"
    for method in METHODS
    for end, name in HEATMAP.items()
}

CELL = {
    "cell": "Image",
    "status": "State",
    "tiles": "Tiles",
    "detections": "Regions found",
    "seconds": "Time (s)",
    "error": "Reason of the failure",
}
"""Names by column of the ledger of cells."""

VERDICT = {
    "id": "Id",
    "class": "Class",
    "verdict": "Verdict",
    "true_class": "True class, if it is another",
    "true_m2": "True area (m²)",
    "block": "Block of the sample",
    "note": "Note",
    "reviewer": "Reviewer",
    "checked_at": "Looked at",
    "model": "Network",
    "run": "Run",
    "probability": "Probability (0 to 1)",
    "m2": "Area (m²)",
    "stratum": "Stratum",
    "zone": "Zone",
    "draw": "Drawing",
    "weight": "Weight",
    "checked": "Everything in it is looked at",
}
"""Names by column of the review file (docs/review.md)."""

DECIMALS = {"lon": 6, "lat": 6, "area_m2": 1, "own_peak_m": 1}
"""Decimals of numbers; all others have 2."""

TEXTS = ("id", "class", "class_id", "review", "evidence", "reason", "rival", "images")

TABS = {
    "Object": tuple(OBJECT),
    "Its explanation": ("evidence", *OWN),
    "Signals": tuple(SIGNALS),
    "Heatmaps of tiles": tuple(HEATMAPS),
}
"""Columns by tab of the form of a detection."""


def quoted(text: str) -> str:
    """Return a text as a literal of a QGIS expression."""
    return "'" + text.replace("'", "''") + "'"


def shown(column: str, decimals: int = 2) -> str:
    """Return the part of a tip that shows a number, or a dash where there is none."""
    value = f"format_number(attribute($currentfeature, '{column}'), {decimals})"
    return f"[% coalesce({value}, '–') %]"


def _row(text: str, *columns: str) -> str:
    cells = "".join(f"<td align='right'>{shown(column)}</td>" for column in columns)
    return f"<tr><td>{text}</td>{cells}</tr>"


MEANING = ", ".join(f"{quoted(word)}, {quoted(text)}" for word, text in MEANINGS.items())

EVIDENCE_SENTENCE = f"coalesce(\"evidence\" || '. ' || map_get(map({MEANING}), \"evidence\"), '–')"
"""QGIS expression of the evidence, as a word and a sentence."""

PANEL = f"file_path(layer_property(@layer, 'path')) || '/{PANELS}/' || \"id\" || '.png'"
"""Panel of a detection, beside the file that the layer comes from."""

PICTURE = (
    f'[% CASE WHEN file_exists({PANEL}) THEN \'<img width="480" src="file:///\' || '
    f"ltrim({PANEL}, '/') || '\">' ELSE '' END %]"
)

TIP = f"""<b>[% "class" %]</b> {shown("area_m2", 1)} m²<br>
Evidence: [% {EVIDENCE_SENTENCE} %]
<table cellspacing="0" cellpadding="1">
{_row("Confidence", "confidence")}
{_row("Probability of being right", "p_right")}
{_row("Share of its map on the object", "own_share")}
{_row("Lost by blurring where its map is highest", "own_drop")}
{_row("Lost by blurring at random", "random_drop")}
{_row("Left with the object alone", "alone")}
{_row("Left without the object", "without")}
<tr><td>Rival: [% coalesce("rival", '–') %]</td><td align='right'>{shown("rival_in")}</td></tr>
</table>
[% "id" %], number [% "review" %] of the review queue<br>{PICTURE}"""
"""What is shown over a detection: its numbers, and its panel if there is one."""


def named(names: Mapping[str, str]) -> ET.Element:
    """Return names of columns; those that a layer does not have are ignored."""
    element = ET.Element("aliases")
    for column, name in names.items():
        ET.SubElement(element, "alias", field=column, name=name)
    return element


def detection_form() -> tuple[ET.Element, ...]:
    """Return names, tabs and formats of the columns of detections, and the tip over one.

    Numbers have two decimals, and can therefore not be edited in the form, which would round them.
    """
    names = OBJECT | OWN | SIGNALS | HEATMAPS
    formats, editable = ET.Element("fieldConfiguration"), ET.Element("editable")
    for column in names:
        if column not in TEXTS:
            ET.SubElement(formats, "field", name=column).append(_number(DECIMALS.get(column, 2)))
            ET.SubElement(editable, "field", name=column, editable="0")
    layout, form = ET.Element("editorlayout"), ET.Element("attributeEditorForm")
    layout.text = "tablayout"
    for title, columns in TABS.items():
        tab = ET.SubElement(form, "attributeEditorContainer", {
            "name": title, "groupBox": "0", "columnCount": "1", "showLabel": "1",
        })  # fmt: skip
        for column in columns:
            ET.SubElement(tab, "attributeEditorField", name=column, showLabel="1")
    tip = ET.Element("mapTip")
    tip.text = TIP
    return named(names), formats, editable, layout, form, tip


def _number(decimals: int) -> ET.Element:
    """Return the widget of a number with a fixed number of decimals."""
    widget = ET.Element("editWidget", type="Range")
    config = ET.SubElement(ET.SubElement(widget, "config"), "Option", type="Map")
    ET.SubElement(config, "Option", type="int", name="Precision", value=str(decimals))
    return widget
