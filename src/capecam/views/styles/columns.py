"""Columns of a run's layers in QGIS: names with units, forms, and the tip over an object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as ET

from capecam.detections.column_descriptions import DESCRIPTIONS, HEATMAPS
from capecam.detections.object_columns import MEANINGS, OBJECT_COLUMNS
from capecam.detections.signals import SIGNALS
from capecam.store.file_names import PANELS
from capecam.views.palette import WHITE

DETECTION = {name: column.title for name, column in DESCRIPTIONS.items()}
"""Names by column of a detection (docs/outputs.md)."""

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

LARGEST = 10**6
"""Ends of the range of the widgets of numbers, which are as wide as these."""

TEXTS = tuple(name for name, column in DESCRIPTIONS.items() if column.decimals is None)
"""Columns that are shown as they are; all others are numbers with decimals."""

TABS = {
    "Object": (
        "id", "class", "area_m2", "confidence", "p_right", "review", "evidence", "rival",
        "rival_in", "images", "lon", "lat",
    ),
    "Its explanation": ("evidence", *OBJECT_COLUMNS),
    "Signals": SIGNALS,
    "Heatmaps of tiles": tuple(HEATMAPS),
}  # fmt: skip
"""Columns by tab of the form of a detection."""


def quoted(text: str) -> str:
    """Return a text as a literal of a QGIS expression."""
    return "'" + text.replace("'", "''") + "'"


def shown(column: str, decimals: int = 2) -> str:
    """Return the part of a tip that shows a number, or a dash where there is none."""
    rounded = f"round(attribute($currentfeature, '{column}'), {decimals}) + 0"  # no -0.00
    value = f"format_number({rounded}, {decimals})"
    return f"[% coalesce({value}, '–') %]"


MEANING = ", ".join(f"{quoted(word)}, {quoted(text)}" for word, text in MEANINGS.items())

EVIDENCE_SENTENCE = f"coalesce(\"evidence\" || '. ' || map_get(map({MEANING}), \"evidence\"), '–')"
"""QGIS expression of the evidence, as a word and a sentence."""

PANEL = f"file_path(layer_property(@layer, 'path')) || '/{PANELS}/' || \"id\" || '.png'"
"""Panel of a detection, beside the file that the layer comes from."""

PICTURE = (
    f'[% CASE WHEN file_exists({PANEL}) THEN \'<img width="480" src="file:///\' || '
    f"regexp_replace({PANEL}, '^/', '') || '\">' ELSE '' END %]"
)

TIP = f"""<table bgcolor="{WHITE}" cellpadding="4"><tr><td>
<b>[% "class" %]</b> {shown("area_m2", 1)} m²<br>
Evidence: [% {EVIDENCE_SENTENCE} %]
<table cellspacing="0" cellpadding="2">{{numbers}}</table>
[% "id" %], number [% "review" %] of the review queue</td></tr></table>{PICTURE}"""
"""What is shown over a detection: its numbers, and its panel if there is one."""

IN_TIP = (
    "confidence", "p_right", "rival", "rival_in", "own_share", "own_drop", "random_drop", "alone",
    "without",
)  # fmt: skip
"""Columns whose values are in it."""


def named(names: Mapping[str, str]) -> ET.Element:
    """Return names of columns; those that a layer does not have are ignored."""
    element = ET.Element("aliases")
    for column, name in names.items():
        ET.SubElement(element, "alias", field=column, name=name)
    return element


def detection_form(columns: Sequence[str]) -> tuple[ET.Element, ...]:
    """Return names, tabs and formats of the columns of detections, and the tip over one.

    Numbers have two decimals, and can therefore not be edited in the form, which would round them.

    Args:
        columns: those of the table.
    """
    formats, editable = ET.Element("fieldConfiguration"), ET.Element("editable")
    layout, form = ET.Element("editorlayout"), ET.Element("attributeEditorForm")
    layout.text = "tablayout"
    for title, names in TABS.items():
        present = [column for column in names if column in columns]
        if present:
            tab = ET.SubElement(form, "attributeEditorContainer", {
                "name": title, "groupBox": "0", "columnCount": "1", "showLabel": "1",
            })  # fmt: skip
        for column in present:
            ET.SubElement(tab, "attributeEditorField", name=column, showLabel="1")
            if column not in TEXTS:
                number = _number(DECIMALS.get(column, 2))
                ET.SubElement(formats, "field", name=column).append(number)
                ET.SubElement(editable, "field", name=column, editable="0")
    tip = ET.Element("mapTip")
    tip.text = TIP.format(numbers="".join(map(_row, filter(columns.__contains__, IN_TIP))))
    return named(DETECTION), formats, editable, layout, form, tip


def _row(column: str) -> str:
    value = f'[% "{column}" %]' if column in TEXTS else shown(column)
    return f"<tr><td align='right'>{value}</td><td>{DETECTION[column]}</td></tr>"


def _number(decimals: int) -> ET.Element:
    """Return the widget of a number with a fixed number of decimals."""
    widget = ET.Element("editWidget", type="Range")
    config = ET.SubElement(ET.SubElement(widget, "config"), "Option", type="Map")
    for name, kind, value in (
        ("AllowNull", "bool", "true"), ("Min", "double", f"{-LARGEST}"),
        ("Max", "double", f"{LARGEST}"), ("Step", "double", "1"),
        ("Precision", "int", f"{decimals}"), ("Style", "QString", "SpinBox"),
    ):  # fmt: skip
        ET.SubElement(config, "Option", type=kind, name=name, value=value)
    return widget
