"""What a panel says, in words and numbers."""

from __future__ import annotations

import pandas as pd

from capecam.detections.neighbourhood import NEIGHBOURHOOD_M, RING_M
from capecam.settings import SCORE_TITLES, TITLES
from capecam.views.panels.tile_view import View

NO_RIVAL = 0.005
"""Mean probability that comes to 0.00."""


def title(panel: View) -> str:
    """What it is about."""
    x, y = panel.place
    return str(panel.subject.facts["class"]) if panel.subject else f"At {x:.10g}, {y:.10g}"


def caption_lines(panel: View) -> list[list[str]]:
    """Under the title: parts of lines, in which nothing breaks that belongs together."""
    lon, lat = panel.lonlat
    where = f"{abs(lat):.6f}° {'NS'[lat < 0]}, {abs(lon):.6f}° {'EW'[lon < 0]}"
    images = ", ".join(panel.images)
    if panel.subject is None:
        return [[where, images]]
    row = panel.subject.facts
    measured = [f"{row['area_m2']:.1f} m²", f"confidence {row['confidence']:.2f}"]
    return [
        [*measured, where, f"no. {row['review']} in the review queue", images],
        _evidence(panel),
    ]


def _evidence(panel: View) -> list[str]:
    """Where the word comes from."""
    row, method = (panel.subject.facts if panel.subject else {}), panel.decisive
    inside, ring, share, peak, away = (
        row[f"{method}_{column}"] for column in ("in", "ring", "share", "peak", "peak_m")
    )
    found = [
        f"{TITLES[method]} on the city's scale: {inside:.2f} inside",
        f"{ring:.2f} in the {RING_M:g} m around it",
    ]
    if pd.notna(away):
        found.append(f"highest {peak:.2f} {f'at {away:.1f} m' if away else 'inside'}")
    if pd.notna(share):
        found.append(f"{100 * share:.0f} % of the heat within {NEIGHBOURHOOD_M:g} m is inside")
    if pd.notna(row["rival"]) and row["rival_in"] >= NO_RIVAL:
        found.append(f"rival: {row['rival']} {row['rival_in']:.2f}")
    return found


def imagery(panel: View) -> str:
    """How large the tile is."""
    height, width = (
        n * size for n, size in zip(panel.valid.shape, panel.pixel_m[::-1], strict=True)
    )
    return f"imagery, {width:.3g} x {height:.3g} m"


def predicted(panel: View, class_id: int) -> str:
    """How much of a class the network sees in the tile."""
    pixels = int(panel.predicted_px()[class_id])
    if not pixels:
        return "not predicted in this tile"
    area = pixels * panel.pixel_m2
    return f"{area:{'.1f' if area >= 1 else '.2g'}} m² predicted in this tile"


def strength(panel: View, method: str, class_id: int) -> str:
    """What a stretched map does not show: how strong it is."""
    if not panel.heat[method][class_id - 1].any():
        return "empty: 0 everywhere"
    found = panel.strength(method, class_id)
    if found is None:
        return "the city has no scale: empty class"
    if found > 1:
        return f"max = {found:.3g} times the city's scale"
    return f"max = {found:{'.2f' if found >= 0.1 else '.1g'}} of the city's scale"


def footing(panel: View) -> str:
    """How to read it, and what it rests on."""
    about, window = panel.footing, panel.grid.window
    return (
        "Each map is stretched from its own lowest to its own highest value, which shows its "
        "shape; the number below it says how strong it is. The score that is explained: "
        f"{SCORE_TITLES[about.score]}. {about.network}, layer {about.target_layer}, "
        f"{about.precision} on {about.device}. Tile of {window.width} px at column {window.col}, "
        f"row {window.row}."
    )
