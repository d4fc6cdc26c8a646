"""Colours can be told apart with any kind of colour blindness, stand out, and are in one place."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import capecam.views
from capecam.detections.object_columns import EVIDENCE_WORDS
from capecam.settings.model import CAPE_TOWN_CLASSES
from capecam.views.palette import (
    BLACK,
    CHANGE_COLORS,
    DARK,
    DARK_PAGE,
    EVIDENCE_COLORS,
    LIGHT_PAGE,
    MARK_CONTRAST,
    MISSED_COLOR,
    OPEN_COLOR,
    PRINTED_PAGE,
    SELECTED_COLOR,
    STATUS_COLORS,
    TEXT_CONTRAST,
    VERDICT_COLORS,
    WHITE,
    PageColors,
    contrast,
    edge,
    mixed,
    page_variables,
    rgb,
)
from capecam.views.styles.raster_styles import HEAT

PAGES = {"light": LIGHT_PAGE, "dark": DARK_PAGE, "print": PRINTED_PAGE}

VISION = {
    "normal": np.eye(3),
    "protanopia": np.array([
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ]),
    "deuteranopia": np.array([
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ]),
    "tritanopia": np.array([
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ]),
}  # fmt: skip
"""Linear RGB as it is seen (Machado, Oliveira and Fernandes 2009, table 1, severity 1.0)."""

XYZ = np.array([
    [0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
    [0.0193339, 0.1191920, 0.9503041],
])  # fmt: skip
"""From linear sRGB (IEC 61966-2-1)."""

APART, FROM_CLASSES = 15.0, 9.0
"""Minimum CIEDE2000 between two words, and between a word and a class, which are never in one
legend; 1 is just noticeable side by side."""


def seen(color: str, vision: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a colour in CIELAB, as somebody sees it."""
    v = np.array(rgb(color)) / 255
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    t = XYZ @ np.clip(vision @ linear, 0, 1) / (0.95047, 1, 1.08883)
    f = np.where(t > 216 / 24389, np.cbrt(t), (24389 / 27 * t + 16) / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def ciede2000(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the difference of two colours in CIELAB (Sharma, Wu and Dalal 2005)."""
    chroma = (np.hypot(*one[1:]) + np.hypot(*other[1:])) / 2
    g = 0.5 * (1 - np.sqrt(chroma**7 / (chroma**7 + 25**7)))
    (l1, a1, b1), (l2, a2, b2) = one * (1, 1 + g, 1), other * (1, 1 + g, 1)
    c1, c2 = np.hypot(a1, b1), np.hypot(a2, b2)
    h1, h2 = (np.degrees(np.arctan2(b, a)) % 360 for a, b in ((a1, b1), (a2, b2)))
    turn = (h2 - h1 + 180) % 360 - 180 if c1 * c2 else 0.0
    hue = np.radians(h1 + turn / 2 if c1 * c2 else h1 + h2)
    light, c = (l1 + l2) / 2, (c1 + c2) / 2
    t = (
        1 - 0.17 * np.cos(hue - np.radians(30)) + 0.24 * np.cos(2 * hue)
        + 0.32 * np.cos(3 * hue + np.radians(6)) - 0.2 * np.cos(4 * hue - np.radians(63))
    )  # fmt: skip
    d_light = (l2 - l1) / (1 + 0.015 * (light - 50) ** 2 / np.sqrt(20 + (light - 50) ** 2))
    d_chroma = (c2 - c1) / (1 + 0.045 * c)
    d_hue = 2 * np.sqrt(c1 * c2) * np.sin(np.radians(turn / 2)) / (1 + 0.015 * c * t)
    angle = np.radians(60 * np.exp(-((((np.degrees(hue) % 360) - 275) / 25) ** 2)))
    both = -2 * np.sqrt(c**7 / (c**7 + 25**7)) * np.sin(angle) * d_chroma * d_hue
    return float(np.sqrt(d_light**2 + d_chroma**2 + d_hue**2 + both))


def test_the_differences_are_those_of_the_paper() -> None:
    """Pairs 1, 7 and 17 of Sharma's test data."""
    for one, other, expected in (
        ((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
        ((50, 0, 0), (50, -1, 2), 2.3669),
        ((50, 2.5, 0), (73, 25, -18), 27.1492),
    ):
        found = ciede2000(np.array(one, float), np.array(other, float))
        assert found == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("vision", VISION)
def test_what_is_selected_looks_like_nothing_else(vision: str) -> None:
    others = [
        *EVIDENCE_COLORS.values(), *VERDICT_COLORS.values(), OPEN_COLOR, MISSED_COLOR,
        *(entry.color for entry in CAPE_TOWN_CLASSES[1:]),
        *(color for _, color, alpha in HEAT.stops if alpha),
    ]  # fmt: skip
    own = seen(SELECTED_COLOR, VISION[vision])
    assert min(ciede2000(own, seen(color, VISION[vision])) for color in others) > FROM_CLASSES


@pytest.mark.parametrize("vision", VISION)
def test_words_can_be_told_apart_and_from_classes(vision: str) -> None:
    assert set(EVIDENCE_COLORS) == set(EVIDENCE_WORDS)
    look = {color: seen(color, VISION[vision]) for color in EVIDENCE_COLORS.values()}
    for one, other in combinations(look, 2):
        assert ciede2000(look[one], look[other]) >= APART, (one, other)
    for entry in CAPE_TOWN_CLASSES[1:]:
        for color, lab in look.items():
            assert ciede2000(seen(entry.color, VISION[vision]), lab) >= FROM_CLASSES, (
                entry.name,
                color,
            )


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("colors", [VERDICT_COLORS, CHANGE_COLORS, STATUS_COLORS])
def test_states_can_be_told_apart(vision: str, colors: dict[str, str]) -> None:
    for one, other in combinations(colors.values(), 2):
        difference = ciede2000(*(seen(color, VISION[vision]) for color in (one, other)))
        assert difference >= APART, (one, other)


def test_default_classes_can_be_told_apart() -> None:
    for vision in VISION.values():
        for one, other in combinations(CAPE_TOWN_CLASSES[1:], 2):
            assert ciede2000(seen(one.color, vision), seen(other.color, vision)) >= APART


def test_numbers_are_legible_on_every_word() -> None:
    for color in EVIDENCE_COLORS.values():
        assert contrast(DARK, color) >= TEXT_CONTRAST


@pytest.mark.parametrize("page", PAGES.values(), ids=list(PAGES))
def test_marks_stand_out_from_the_page(page: PageColors) -> None:
    """Of classes of any colour, of words, and of the palest amount on any imagery."""
    for color in (*EVIDENCE_COLORS.values(), "#00FF00", "#0000FF", "#FFFF00", WHITE, BLACK,
                  page.paper, page.land):  # fmt: skip
        for ground in (page.paper, page.land):
            assert contrast(edge(color, page.land), ground) >= MARK_CONTRAST, color
    for pixel in (WHITE, BLACK):
        assert contrast(page.edge, mixed(page.land, pixel, page.picture)) >= MARK_CONTRAST
    assert contrast(page.edge, page.land) >= MARK_CONTRAST
    for line in (page.frame, page.bad, page.ink):
        assert min(contrast(line, page.paper), contrast(line, page.land)) >= MARK_CONTRAST
    for text in (page.ink, page.soft, page.accent, page.bad):
        assert contrast(text, page.paper) >= TEXT_CONTRAST


@pytest.mark.parametrize("page", PAGES.values(), ids=list(PAGES))
def test_more_is_always_farther_from_the_land(page: PageColors) -> None:
    """Shades go one way in lightness, so that no colour vision is needed to order them."""
    steps = [contrast(shade, page.land) for shade in page.shades]
    assert steps == sorted(steps)
    light = [seen(shade, VISION["normal"])[0] for shade in page.shades]
    assert np.abs(np.diff(light)).min() > 6


def test_classes_have_the_colours_of_the_configuration() -> None:
    for page in PAGES.values():
        variables = page_variables(page, CAPE_TOWN_CLASSES)
        for number, entry in enumerate(CAPE_TOWN_CLASSES[1:], start=1):
            assert variables[f"class-{number}"] == entry.color
        assert variables["context"] == EVIDENCE_COLORS["context"]
    light, dark = (page_variables(PAGES[name], CAPE_TOWN_CLASSES) for name in ("light", "dark"))
    assert light["class-1-edge"] != light["class-1"], "green is too pale on white"
    assert dark["class-1-edge"] == dark["class-1"]


def test_edges_keep_what_stands_out_and_change_the_rest() -> None:
    assert edge("#777777", WHITE) == "#777777"
    assert contrast(edge("#FFFF00", WHITE), WHITE) == pytest.approx(3.2, abs=0.25)
    assert edge(WHITE, WHITE) != WHITE
    assert mixed(BLACK, WHITE, 0.5) == "#808080"
    assert contrast(BLACK, WHITE) == pytest.approx(21)


def test_no_other_module_has_a_colour_of_its_own() -> None:
    folder = Path(capecam.views.__file__).parent
    files = [path for kind in ("py", "html", "css", "js") for path in folder.rglob(f"*.{kind}")]
    assert len(files) > 40
    for path in files:
        if path.name != "palette.py":
            found = re.findall(r"#[0-9a-fA-F]{6}\b|#[0-9a-fA-F]{3}\b", path.read_text("utf-8"))
            assert not found, f"{path}: {found}"
