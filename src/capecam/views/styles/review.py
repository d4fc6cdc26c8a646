"""Styles and forms of the review file: what people fill in with QGIS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from xml.etree import ElementTree as ET

from capecam.settings import ClassSettings
from capecam.views.palette import MISSED_COLOR, OPEN_COLOR, VERDICT_COLORS
from capecam.views.styles.columns import VERDICT, named, quoted
from capecam.views.styles.layers import CLOSE
from capecam.views.styles.qml import LayerStyle
from capecam.views.styles.vector_styles import Label, Rule, labelled, marked, outlined, ruled

NULL = "{2839923C-8B7D-419E-B84B-CA2FE9B80EC7}"
"""Text that stands for NULL in a list of values (QgsValueMapFieldFormatter::NULL_VALUE)."""

NOW = "format_date(now(), 'yyyy-MM-ddTHH:mm:ss')"

VERDICTS = {"not yet looked at": NULL, "right": "right", "wrong": "wrong", "unsure": "unsure"}

MISSES = {"not yet looked at, or drawn": NULL, "missed": "missed", "nothing": "nothing"}


def verdicts_style(classes: Sequence[ClassSettings]) -> LayerStyle:
    """Return verdicts by what they say, and the form that asks for them."""
    rules = [
        Rule(word, f"\"verdict\" = '{word}'", outlined(color))
        for word, color in VERDICT_COLORS.items()
    ]
    rules.append(
        Rule(
            "not yet looked at, or unsure",
            "coalesce(\"verdict\", '') in ('', 'unsure')",
            marked(OPEN_COLOR, 4.6, CLOSE),
        )
    )
    text = "\"class\" || coalesce(' > ' || \"true_class\", '')"
    style = ruled(rules, labels=labelled(Label(text, from_scale=CLOSE)))
    another = {"no object, or none of these": NULL, **_names(classes)}
    return _with_form(
        style,
        {
            "class": _choice(_names(classes)),
            "verdict": _choice(VERDICTS),
            "true_class": _choice(another),
        },
        fixed=("id", "block", "model", "run"),
    )


def missed_style(classes: Sequence[ClassSettings]) -> LayerStyle:
    """Return what people drew that the map has not, and the form that asks for its class."""
    is_open = "coalesce(\"id\", '') <> '' and coalesce(\"verdict\", '') = ''"
    is_nothing = "coalesce(\"verdict\", '') = 'nothing'"
    objects = [
        Rule(entry.name, f'"class" = {quoted(entry.name)}', outlined(entry.color, dash=True))
        for entry in classes[1:]
    ]
    objects.append(Rule("class is missing", "coalesce(\"class\", '') = ''", outlined(MISSED_COLOR)))
    rules = [
        Rule("not yet looked at", is_open, marked(OPEN_COLOR, 4.6, CLOSE)),
        Rule("nothing", is_nothing, outlined(VERDICT_COLORS["wrong"])),
        Rule("missed", f"not ({is_open}) and not {is_nothing}", nested=tuple(objects)),
    ]
    style = ruled(rules, labels=labelled(Label('"class"', from_scale=CLOSE)))
    widgets = {"class": _choice(_names(classes)), "verdict": _choice(MISSES)}
    return _with_form(style, widgets, fixed=("id", "probability", "model", "run"))


def sample_style() -> LayerStyle:
    """Return the blocks of a sample, and the box to tick when one is done."""
    rules = [
        Rule("to be checked", 'not coalesce("checked", false)', outlined(OPEN_COLOR, alpha=0)),
        Rule("checked", '"checked"', outlined(VERDICT_COLORS["right"], alpha=0)),
    ]
    style = ruled(rules, labels=labelled(Label('"block"', "inside", to_scale=0)))
    fixed = ("block", "stratum", "zone", "probability", "weight", "draw")
    return _with_form(style, {"checked": ET.Element("editWidget", type="CheckBox")}, fixed=fixed)


def _names(classes: Sequence[ClassSettings]) -> dict[str, str]:
    return {entry.name: entry.name for entry in classes[1:]}


def _with_form(
    style: LayerStyle, widgets: Mapping[str, ET.Element], fixed: Sequence[str] = ()
) -> LayerStyle:
    """Return a style with widgets by column; who looks, and when, is filled in by QGIS.

    Args:
        style: how the layer is drawn.
        widgets: ``editWidget`` by column.
        fixed: columns that cannot be changed in the form.
    """
    fields = ET.Element("fieldConfiguration")
    hidden = {"fid": ET.Element("editWidget", type="Hidden")}
    for name, widget in (hidden | dict(widgets)).items():
        ET.SubElement(fields, "field", name=name).append(widget)
    defaults, editable = ET.Element("defaults"), ET.Element("editable")
    for name, expression in {"reviewer": "@user_full_name", "checked_at": NOW}.items():
        ET.SubElement(defaults, "default", field=name, expression=expression, applyOnUpdate="1")
    for name in fixed:
        ET.SubElement(editable, "field", name=name, editable="0")
    elements = (*style.elements, named(VERDICT), fields, defaults, editable)
    return replace(style, elements=elements)


def _choice(values: Mapping[str, str]) -> ET.Element:
    """Return a list to choose from: stored values by what is shown."""
    widget = ET.Element("editWidget", type="ValueMap")
    config = ET.SubElement(ET.SubElement(widget, "config"), "Option", type="Map")
    entries = ET.SubElement(config, "Option", type="List", name="map")
    for shown, value in values.items():
        entry = ET.SubElement(entries, "Option", type="Map")
        ET.SubElement(entry, "Option", type="QString", name=shown, value=value)
    return widget
