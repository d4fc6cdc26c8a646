"""Styles of the layers of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from capecam.grid import Grid
from capecam.io.heat_layer import OBJECT_SHARE_MAX
from capecam.settings import ClassSettings
from capecam.views.palette import (
    CHANGE_COLORS,
    DARK,
    DENSITY_COLOR,
    DONE_COLOR,
    EVIDENCE_COLORS,
    KEPT_COLORS,
    LIGHT,
    NO_VALUE,
    REASON_COLORS,
    SELECTED_COLOR,
    STATUS_COLORS,
)
from capecam.views.styles.columns import CELL, DETECTION, detection_form, named
from capecam.views.styles.qml import LayerStyle
from capecam.views.styles.raster_styles import (
    HEAT,
    JET,
    SHARES,
    paletted,
    photograph,
    ramped,
    shades,
)
from capecam.views.styles.vector_styles import (
    Label,
    Rule,
    area,
    graduated,
    halo,
    labelled,
    labelled_by_rule,
    marked,
    outlined,
    ruled,
)

CLOSE = 1_000
"""At 1:1,000 and larger scales an object is a few millimetres wide, with room for a label."""

FAR = 25_000
"""At 1:25,000 and smaller scales a roof is less than half a millimetre wide, and QGIS needs a
minute for all of them (664,000 outlines took 62 s on two busy cores)."""

COUNTED = 100_000
"""At 1:100,000 and larger a square kilometre is a centimetre wide, with room for a number."""

IMAGERY_SCALE, IMAGERY_PX = 2_500, 140_000_000
"""A screen of 1,920 x 1,080 shows 140 million pixels of 8 cm at this scale. Many images come
without overviews, so that all of these pixels are decoded. A city that has no more of them is shown
at every scale."""

CLASS_ALPHA = 200


SUMMARY = """"class" || ' ' || format_number("confidence", 2) || '\\n' || """
EVIDENCE_LABEL, REASON_LABEL = f'{SUMMARY}"evidence"', f'{SUMMARY}"reason"'
"""QGIS expressions: class and confidence, with the evidence or the reason below."""


def classes_style(classes: Sequence[ClassSettings]) -> LayerStyle:
    """Return the style of ``classes``: the palette, with a transparent background."""
    background, *rest = classes
    entries = {0: (f"{background.name} (not drawn)", LIGHT, 0)}  # legends ignore the alpha
    for value, entry in enumerate(rest, start=1):
        entries[value] = (entry.name, entry.color, CLASS_ALPHA)
    return paletted(entries)


def probability_style(band: int, color: str) -> LayerStyle:
    """Return the style of a band of ``probability``, in the colour of its class."""
    return ramped(band, shades(color))


def heat_styles(band: int, top: float = 1.0, *, by_root: bool = False) -> dict[str, LayerStyle]:
    """Return the styles of a band of a heatmap by name, the default first.

    Args:
        band: number of the band, from 1.
        top: 1, or the scale maximum of raw values.
        by_root: colours go by the root of the values; stored levels may be roots already.
    """
    ramps = {"inferno": HEAT, "jet": JET}
    return {
        name: ramped(band, ramp.by_root() if by_root else ramp, top) for name, ramp in ramps.items()
    }


def object_styles(band: int) -> dict[str, LayerStyle]:
    """Return the styles of a band of ``objects`` by name, with a legend in percent."""
    top = OBJECT_SHARE_MAX

    def label(value: float) -> str:
        return f"{100 * value:.2g} %{' and more' if value == top else ''}"

    ramps = {"inferno": SHARES, "jet": JET.by_root()}
    return {name: ramped(band, ramp, top, label) for name, ramp in ramps.items()}


def detections_style(classes: Sequence[ClassSettings], columns: Sequence[str]) -> LayerStyle:
    """Return outlines by class, with labels at large scales.

    Args:
        classes: all classes, the background first.
        columns: those of the table.
    """
    rules = [
        Rule(entry.name, f'"class_id" = {class_id}', outlined(entry.color))
        for class_id, entry in enumerate(classes[1:], start=1)
    ]
    label = Label(EVIDENCE_LABEL, from_scale=CLOSE)
    return ruled(rules, *detection_form(columns), labels=labelled(label))


def density_style(counts: NDArray[np.float64]) -> LayerStyle:
    """Return cells shaded by their number of pieces, for small scales."""
    shades = graduated('"detections"', counts, DENSITY_COLOR, "not done")
    number = Label('"detections"', "inside", 7.0, from_scale=COUNTED)
    return replace(ruled(shades, named(CELL), labels=labelled(number)), to_scale=FAR)


def queue_style(columns: Sequence[str]) -> LayerStyle:
    """Return the review queue by evidence: discs when zoomed out, outlines when zoomed in.

    The object of a printed page has a halo; its rule is the first, and not for legends.

    Args:
        columns: those of the table.
    """
    rules = [Rule("on this page", "coalesce(@atlas_featureid = $id, false)", halo(SELECTED_COLOR))]
    rules += [
        Rule(word, f"\"evidence\" = '{word}'", marked(color, 4.6, CLOSE))
        for word, color in EVIDENCE_COLORS.items()
    ]
    rules.append(
        Rule("not explained", "coalesce(\"evidence\", '') = ''", marked(NO_VALUE, 4.6, CLOSE))
    )
    number = Label('"review"', "centred", 6.5, DARK, None, to_scale=CLOSE)
    text = Label(f"'#' || \"review\" || ' ' || {EVIDENCE_LABEL}", from_scale=CLOSE)
    order = {"sortExpression": '"review"', "sortOrder": "0"}
    table = ET.Element("attributetableconfig", order)
    labels = labelled_by_rule([number, text])
    return ruled(rules, *detection_form(columns), table, labels=labels)


def rejected_style() -> LayerStyle:
    """Return rejected objects by reason; dashed, since they are not counted."""
    rules = [
        Rule(reason, f"\"reason\" = '{reason}'", outlined(color, dash=True))
        for reason, color in REASON_COLORS.items()
    ]
    label = Label(REASON_LABEL, from_scale=CLOSE)
    return ruled(rules, named(DETECTION), labels=labelled(label))


def cells_style() -> LayerStyle:
    """Return cells by status: outlined if done, filled otherwise."""
    rules = [
        Rule(status, f"\"status\" = '{status}'", area(color, 110))
        for status, color in STATUS_COLORS.items()
    ]
    rules.append(Rule("done", "\"status\" = 'done'", area(DONE_COLOR, 0)))
    failed = "\"cell\" || coalesce('\\n' || left(\"error\", 60), '')"
    label = Label(failed, "inside", 7.0, from_scale=30_000)
    return ruled(rules, named(CELL), labels=labelled(label))


def zones_style(
    classes: Sequence[ClassSettings], per_km2: Sequence[NDArray[np.float64]]
) -> LayerStyle:
    """Return zones shaded by objects per km², one class at a time; the first class is shown.

    Args:
        classes: foreground classes, class 1 first.
        per_km2: by class, the values of its rows; NaN where there is no valid imagery.
    """
    rules = []
    for class_id, (entry, values) in enumerate(zip(classes, per_km2, strict=True), start=1):
        shades = graduated('"per_km2"', values, entry.color, "no valid imagery")
        label, where = f"{entry.name} per km²", f'"class_id" = {class_id}'
        rules.append(Rule(label, where, shown=class_id == 1, nested=shades))
    return ruled(rules)


def estimates_style(
    classes: Sequence[ClassSettings], numbers: Sequence[NDArray[np.float64]]
) -> LayerStyle:
    """Return zones shaded by their estimated number of objects; the first class is shown.

    Args:
        classes: foreground classes, class 1 first.
        numbers: by class, the estimates of the zones.
    """
    rules = []
    for class_id, (entry, values) in enumerate(zip(classes, numbers, strict=True), start=1):
        shades = graduated('"count_est"', values, entry.color, "not known")
        label, where = f"{entry.name}, estimated", f'"class_id" = {class_id}'
        rules.append(Rule(label, where, shown=class_id == 1, nested=shades))
    return ruled(rules)


def changes_style() -> LayerStyle:
    """Return changes by status; kept objects are grey, with the outlines of the later run."""
    kept = '"status" = \'kept\' AND "run" = '
    labels = {"unseen": "unseen in the other year"}
    rules = [
        Rule(labels.get(status, status), f"\"status\" = '{status}'", area(color))
        for status, color in CHANGE_COLORS.items()
    ]
    rules.append(Rule("kept", f"{kept}'after'", area(KEPT_COLORS["after"])))
    rules.append(
        Rule("kept, as before", f"{kept}'before'", area(KEPT_COLORS["before"]), shown=False)
    )
    return ruled(rules)


def imagery_style(grid: Grid) -> LayerStyle:
    """Return the style of the imagery of a mosaic, whose mask is the fourth band."""
    return photograph(4, imagery_scale(grid))


def imagery_scale(grid: Grid) -> int | None:
    """Return the denominator of the smallest scale at which imagery is shown; None: any scale."""
    pixels = grid.window.width * grid.window.height
    return IMAGERY_SCALE if pixels > IMAGERY_PX else None
