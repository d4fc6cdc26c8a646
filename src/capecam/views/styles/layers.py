"""How each layer of ours looks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from capecam.settings import ClassSettings
from capecam.views.styles.color_ramps import HEAT, JET, shades
from capecam.views.styles.labels import Label, labelled, labelled_by_rule
from capecam.views.styles.qml import LayerStyle
from capecam.views.styles.rasters import paletted, photograph, ramped
from capecam.views.styles.renderers import Rule, graduated, ruled
from capecam.views.styles.symbols import DARK, LIGHT, area, marked, outlined

CLOSE = 1_000
"""1:1,000 and closer: an object is a few millimetres wide, so a word beside it has room."""

FAR = 25_000
"""1:25,000 and further out: a roof is under half a millimetre wide, and a screen holds so many that
QGIS draws them for most of a minute (664,000 outlines took it 62 s on two busy cores)."""

COUNTED = 100_000
"""1:100,000 and closer: a square kilometre is a centimetre, in which a number has room."""

DENSITY_COLOR = "#08519C"

IMAGERY_SCALE = 2_500
"""A screen of 1,920 x 1,080 shows 140 million pixels of 8 cm at this scale. Cities deliver images
without overviews, so that all of them are decoded."""

EVIDENCE_COLORS = {
    "context": "#FF9F1C", "saturated": "#B86BFF", "weak": "#C9CCD1", "focused": "#00C2C7",
}  # fmt: skip
"""None of them a colour of the classes; in the order in which people ought to look."""

STATUS_COLORS = {"failed": "#D6604D", "running": "#FFB000", "pending": "#DDDDDD"}

CHANGE_COLORS = {"new": "#2166AC", "gone": "#D6604D", "unseen": "#FFE08A"}
"""Colours that people who do not tell red from green can tell."""

REASON_COLORS = {"small": "#9E9E9E", "unsure": "#E6C229", "off building": "#8D6E63"}

CLASS_ALPHA = 200

FOUND = """"class" || ' ' || format_number("confidence", 2) || '\\n' || """
SAYING, WHY_NOT = f'{FOUND}"evidence"', f'{FOUND}"reason"'
"""QGIS expressions: class and confidence, and below them a word."""

TIP = """<b>[% "class" %]</b> [% "id" %]<br>[% format_number("area_m2", 1) %] m², confidence
[% format_number("confidence", 2) %]<br>rival [% "rival" %] [% format_number("rival_in", 2) %]<br>
evidence: [% "evidence" %]; [% "review" %] in the queue"""
"""What a detection says when the pointer rests on it."""


def classes_style(classes: Sequence[ClassSettings]) -> LayerStyle:
    """``classes``: the palette, with nothing where nothing was found."""
    background, *rest = classes
    entries = {0: (f"{background.name} (not drawn)", LIGHT, 0)}  # legends ignore the alpha
    for value, entry in enumerate(rest, start=1):
        entries[value] = (entry.name, entry.color, CLASS_ALPHA)
    return paletted(entries)


def probability_style(band: int, color: str) -> LayerStyle:
    """A band of ``probability`` in the colour of its class."""
    return ramped(band, shades(color))


def heat_style(band: int, top: float = 1.0) -> LayerStyle:
    """A band of a heatmap; ``top`` is the end of the scale, 1 but for raw values."""
    return ramped(band, HEAT, top)


def jet_style(band: int, top: float = 1.0) -> LayerStyle:
    """The same in the colours of the first figures of this kind."""
    return ramped(band, JET, top)


def detections_style(classes: Sequence[ClassSettings]) -> LayerStyle:
    """Outlines by class; close up with what was found and how surely."""
    rules = [
        Rule(entry.name, f'"class_id" = {class_id}', outlined(entry.color))
        for class_id, entry in enumerate(classes[1:], start=1)
    ]
    return ruled(rules, _tip(), labels=labelled(Label(SAYING, from_scale=CLOSE)))


def density_style(found: NDArray[np.float64]) -> LayerStyle:
    """Cells by how much was found in each, from afar."""
    shades = graduated('"detections"', found, DENSITY_COLOR, "not done")
    number = Label('"detections"', "inside", 7.0, from_scale=COUNTED)
    return replace(ruled(shades, labels=labelled(number)), to_scale=FAR)


def queue_style() -> LayerStyle:
    """By the word of the evidence: numbered discs from afar, outlines close up."""
    rules = [
        Rule(word, f"\"evidence\" = '{word}'", marked(color, 4.6, CLOSE))
        for word, color in EVIDENCE_COLORS.items()
    ]
    number = Label('"review"', "centred", 6.5, DARK, None, to_scale=CLOSE)
    saying = Label(f"'#' || \"review\" || ' ' || {SAYING}", from_scale=CLOSE)
    order = {"sortExpression": '"review"', "sortOrder": "0"}
    table = ET.Element("attributetableconfig", order)
    return ruled(rules, _tip(), table, labels=labelled_by_rule([number, saying]))


def _tip() -> ET.Element:
    element = ET.Element("mapTip")
    element.text = TIP
    return element


def rejected_style() -> LayerStyle:
    """By the reason; dashed, since they are not in the count."""
    rules = [
        Rule(reason, f"\"reason\" = '{reason}'", outlined(color, dash=True))
        for reason, color in REASON_COLORS.items()
    ]
    return ruled(rules, labels=labelled(Label(WHY_NOT, from_scale=CLOSE)))


def cells_style() -> LayerStyle:
    """By status: what is done is an outline, what is not is filled."""
    rules = [
        Rule(status, f"\"status\" = '{status}'", area(color, 110))
        for status, color in STATUS_COLORS.items()
    ]
    rules.append(Rule("done", "\"status\" = 'done'", area("#4D9221", 0)))
    failed = "\"cell\" || coalesce('\\n' || left(\"error\", 60), '')"
    return ruled(rules, labels=labelled(Label(failed, "inside", 7.0, from_scale=30_000)))


def zones_style(
    classes: Sequence[ClassSettings], per_km2: Sequence[NDArray[np.float64]]
) -> LayerStyle:
    """Objects per km², a class at a time; the first one shows.

    Args:
        classes: the foreground, class 1 first.
        per_km2: by class, the values in its rows; NaN where no imagery is valid.
    """
    rules = []
    for class_id, (entry, values) in enumerate(zip(classes, per_km2, strict=True), start=1):
        shades = graduated('"per_km2"', values, entry.color, "no valid imagery")
        label, where = f"{entry.name} per km²", f'"class_id" = {class_id}'
        rules.append(Rule(label, where, shown=class_id == 1, inside=shades))
    return ruled(rules)


def changes_style() -> LayerStyle:
    """By what became of an object; what was kept is grey, and drawn as the later run has it."""
    kept = '"status" = \'kept\' AND "run" = '
    labels = {"unseen": "unseen in the other year"}
    rules = [
        Rule(labels.get(status, status), f"\"status\" = '{status}'", area(color))
        for status, color in CHANGE_COLORS.items()
    ]
    rules.append(Rule("kept", f"{kept}'after'", area("#B0B0B0")))
    rules.append(Rule("kept, as before", f"{kept}'before'", area("#DDDDDD"), shown=False))
    return ruled(rules)


def imagery_style() -> LayerStyle:
    """As it is; its mask comes as a fourth band."""
    return photograph(4, IMAGERY_SCALE)
