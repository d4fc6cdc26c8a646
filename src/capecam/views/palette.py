"""Colours of whatever is drawn, defined once for report, panels, QGIS and viewer.

Colours of classes are settings (``model.classes``) and are drawn as they are; what would be too
pale on a page gets an edge (:func:`edge`). The words of evidence, and the states of other layers,
can be told apart with any kind of colour blindness (simulated in ``tests/views/test_palette.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from capecam.settings import ClassSettings

MARK_CONTRAST = 3.0
"""Minimum contrast of a mark against its background (WCAG 2.2, 1.4.11)."""

TEXT_CONTRAST = 4.5
"""Minimum contrast of text (WCAG 2.2, 1.4.3)."""

WHITE, BLACK = "#FFFFFF", "#000000"

LIGHT, DARK = WHITE, "#1A1A1A"
"""Casings of lines and letters."""

FAINT = "#5F5F5F"
"""Secondary text on white."""

EVIDENCE_COLORS: Mapping[str, str] = {
    "context": "#D98365", "both": "#C04EED", "either": "#E4DC8B", "unproven": "#7F8287",
    "itself": "#72C7E2",
}  # fmt: skip
"""By word, in the order of urgency.

Found by a search for the largest CIEDE2000 between any two, with normal vision, protanopia,
deuteranopia and tritanopia (at least 15.6; 9.7 from the default classes), among colours on which
dark text is legible.
"""

STATUS_COLORS = {"failed": "#D6604D", "running": "#FFB000", "pending": "#DDDDDD"}

DONE_COLOR = "#4D9221"

CHANGE_COLORS = {"new": "#2166AC", "gone": "#D6604D", "unseen": "#FFE08A"}

KEPT_COLORS = {"after": "#B0B0B0", "before": "#DDDDDD"}
"""Objects that both runs have, by run."""

REASON_COLORS = {"small": "#9E9E9E", "unsure": "#E6C229", "off building": "#8D6E63"}

VERDICT_COLORS = {"right": "#4DAC26", "wrong": "#D01C8B"}
"""PiYG of ColorBrewer 2.0."""

OPEN_COLOR, MISSED_COLOR = "#FFD92F", "#00C2C7"
"""What waits for a verdict, and what was drawn without a class."""

DENSITY_COLOR = "#08519C"

SELECTED_COLOR, SELECTED_ALPHA = "#00FFFF", 120
"""What is selected in QGIS, which draws all of an object in this colour. Translucent, so that the
roof shows through, and at least 9 by CIEDE2000, with any kind of colour blindness, from the default
classes, the words, the verdicts and the colours of heatmaps; yellow, that of QGIS, is 3.5 away."""

NO_VALUE, OUTLINE = "#C8C8C8", "#505050"
"""Areas without a value, and thin outlines of areas."""

NODATA, HATCH = "#ECECEC", "#BDBDBD"
"""Where a picture has no imagery, and the lines across it."""

TRACK, FILLED = "#E3E3E3", "#3D3D3D"
"""Bars beside the numbers of a panel."""


@dataclass(frozen=True, slots=True)
class PageColors:
    """Colours of a web page; names are those of its CSS variables."""

    paper: str
    """Background."""
    ink: str
    soft: str
    """Secondary text."""
    rule: str
    """Lines that only separate."""
    wash: str
    """Background of figures."""
    accent: str
    focus: str
    land: str
    """Map under imagery, and where there is none."""
    frame: str
    """Borders that mean something: images on the map, controls."""
    bad: str
    """Colour of failures."""
    shades: tuple[str, ...]
    """Amounts, from few to many."""
    edge: str
    """Edge of a shade, which may be as pale as what is under it."""
    picture: float
    """Opacity of the picture of the city, low enough for ``edge`` to stand out from any pixel."""


LIGHT_PAGE = PageColors(
    paper="#FBFAF7", ink="#1D1A16", soft="#5F584D", rule="#DDD7CB", wash="#F2EFE8",
    accent="#8F4408", focus="#0B62C4", land="#E9E5DC", frame="#7D7567", bad="#A3161F",
    shades=("#F6DFAE", "#F3BF6C", "#E6953A", "#C86A18", "#984310", "#5F2608"),
    edge="#3F1A05", picture=0.5,
)  # fmt: skip

DARK_PAGE = PageColors(
    paper="#14161A", ink="#ECE8E0", soft="#ACA598", rule="#34373D", wash="#1D2025",
    accent="#F0A45A", focus="#86BCFF", land="#22262B", frame="#858A93", bad="#FF8B84",
    shades=("#4A3312", "#74480F", "#A56413", "#D68A28", "#F3B65C", "#FFE5B0"),
    edge="#FFEBC4", picture=0.4,
)  # fmt: skip

PRINTED_PAGE = PageColors(
    paper=WHITE, ink=BLACK, soft="#444444", rule="#CCCCCC", wash="#F5F5F3", accent=BLACK,
    focus=LIGHT_PAGE.focus, land="#EBE8E1", frame="#757575", bad=LIGHT_PAGE.bad,
    shades=LIGHT_PAGE.shades, edge=LIGHT_PAGE.edge, picture=0.5,
)  # fmt: skip

STEP = 0.05
"""Step in which an edge is made darker or lighter."""


def rgb(color: str) -> tuple[int, int, int]:
    """Return red, green and blue of #RRGGBB, 0..255."""
    red, green, blue = bytes.fromhex(color[1:])
    return red, green, blue


def mixed(color: str, other: str, share: float) -> str:
    """Return a colour with a share of another in it, 0..1, as a browser blends them."""
    parts = zip(rgb(color), rgb(other), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * share):02X}" for a, b in parts)


def luminance(color: str) -> float:
    """Return the relative luminance, 0..1 (WCAG 2.2)."""
    parts = (value / 255 for value in rgb(color))
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(color: str, other: str) -> float:
    """Return the contrast of two colours, 1..21 (WCAG 2.2)."""
    low, high = sorted((luminance(color), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def edge(color: str, ground: str) -> str:
    """Return the colour of the edge around a mark: the mark's own if that stands out from the
    ground, else as much darker or lighter as it needs."""
    away = max((BLACK, WHITE), key=lambda end: contrast(end, ground))
    share, result = 0.0, color
    while contrast(result, ground) < MARK_CONTRAST:
        share += STEP
        result = mixed(color, away, min(share, 1.0))
    return result


def page_variables(page: PageColors, classes: tuple[ClassSettings, ...]) -> dict[str, str]:
    """Return colours as CSS variables by name.

    They are those of the page, ``--s0`` and so on for its shades, and of every class (``--class-1``
    is the first after the background) and word a colour and the edge that it needs on this page,
    the map included.
    """
    marks = {f"class-{k}": entry.color for k, entry in enumerate(classes[1:], start=1)}
    marks |= EVIDENCE_COLORS
    names = ("paper", "ink", "soft", "rule", "wash", "accent", "focus", "land", "frame", "bad")
    return {
        **{name: getattr(page, name) for name in names},
        **{f"s{n}": shade for n, shade in enumerate(page.shades)},
        "shade-edge": page.edge,
        "picture": f"{page.picture:g}",
        **marks,
        **{f"{name}-edge": edge(color, page.land) for name, color in marks.items()},
    }
