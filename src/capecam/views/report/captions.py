"""What numbers mean, in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from capecam.settings import SCORE_TITLES, TITLES, ByClass, Settings
from capecam.views.report.data import ReportData

EVIDENCE = {
    "focused": "the heatmap is strong inside the object: the network looked at it",
    "saturated": "certain, yet weak inside: the score no longer moves there",
    "context": "the surroundings outweigh the object: a shadow, a skylight, an edge beside it",
    "weak": "neither certain nor explained",
}
"""By word (docs/method.md)."""

STAGES = {
    "prepare": "prepare",
    "calibrate": "set the colour scale",
    "cells": "make the cells",
    "finish": "city layers and tables",
}

WORK = {
    "read": "wait for pixels",
    "engine": "network and gradients",
    "stitch": "stitch tiles",
    "write": "write rasters",
    "trace": "trace polygons",
    "finish": "finish rasters",
}

STEPS = {
    "traced": "regions of one class",
    "joined": "objects, after joining what lies close together",
    "small": "dropped: too small",
    "unsure": "dropped: too unsure",
    "off building": "dropped: not on a building",
    "kept": "kept",
}

FAITHFUL = 0.5
"""Rank correlation with the map of a network without its weights, from which that map is much the
same: it shows the image, not what was learnt."""

STABLE = 0.8
"""Correlation with the map of a shifted tile, from which the two are the same to the eye."""


def share(value: float) -> str:
    """0.123 as 12 %."""
    if 0 < value < 0.01:
        return "< 1\N{NO-BREAK SPACE}%"
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%"


def amount(value: float) -> str:
    """Three figures, or all of those before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """As people say it."""
    if seconds < 90:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def moment(text: str) -> str:
    """An ISO time as people write it."""
    when = datetime.fromisoformat(text)
    return f"{when.day} {when:%B %Y, %H:%M}"


def asked(facts: ReportData) -> Iterator[tuple[str, str]]:
    """What the settings mean, by subject."""
    settings, record = facts.run.settings, facts.record
    size_m, explain = float(facts.pixel_m.mean()), settings.explain
    tiling = settings.tiling
    sources = record.settings["sources"]  # as typed, wherever they are now
    if isinstance(sources, list) and sources:
        yield "Imagery", ", ".join(map(str, sources))
    if limits := _limits(settings):
        yield "Limited to", limits
    network = record.checkpoint.architecture
    checkpoint = settings.checkpoint
    yield "Network", f"{network}, {checkpoint.name if checkpoint else 'given in memory'}"
    yield (
        "Tiles",
        f"{tiling.size} px ({tiling.size * size_m:.3g} m) every {tiling.tiling.step} px, "
        "overlaps blended",
    )
    methods = ", ".join(TITLES[method] for method in explain.methods)
    where = "every tile" if explain.where == "all" else "tiles with a detection of the class"
    yield "Heatmaps", f"{methods} of {SCORE_TITLES[explain.score]}; for {where}"
    yield "Objects", _objects(settings)
    yield "Ran on", f"{record.device}, {record.precision}"


def _limits(settings: Settings) -> str:
    mosaic, parts = settings.mosaic, []
    if mosaic.bbox:
        parts.append("the box " + ", ".join(f"{value:g}" for value in mosaic.bbox))
    if mosaic.aoi:
        parts.append(f"the area of {mosaic.aoi.name}")
    if mosaic.footprints:
        parts.append(f"tiles with buildings of {mosaic.footprints.name}")
    return ", ".join(parts)


def _objects(settings: Settings) -> str:
    rules = settings.detections
    said = [f"pieces of a class up to {rules.join_distance_px:g} px apart are one"]
    if rules.min_area_m2:
        said.append(f"those of {_by_class(rules.min_area_m2, 'm²')} or less are dropped")
    if rules.min_confidence:
        said.append(f"those with a confidence below {_by_class(rules.min_confidence)} are dropped")
    if settings.mosaic.footprints:
        said.append(f"those less than {share(rules.footprint_share)} on buildings are dropped")
    return "; ".join(said)


def _by_class(value: ByClass, unit: str = "") -> str:
    if isinstance(value, dict):
        return ", ".join(f"{number:g} {unit} ({name})" for name, number in value.items())
    return f"{value:g} {unit}".strip()


def commands(facts: ReportData) -> Iterator[tuple[str, str]]:
    """What would add to this report: the gain, and what to type."""
    out = facts.run.out
    if facts.scores is None:
        yield (
            "precision, recall and F1 against annotations",
            f"capecam evaluate {out} --truth annotations.gpkg --steps",
        )
    if facts.record.audit is None:
        yield "whether the heatmaps are faithful", f"capecam audit {out}"


def best(curve: Sequence[Mapping[str, Any]]) -> str:
    """Where a curve over confidence has its highest F1."""
    known = [point for point in curve if point["f1"] is not None]
    if not known:
        return ""
    top = max(known, key=lambda point: float(point["f1"]))
    return f"; F1 is highest, {top['f1']:.2f}, from a confidence of {top['confidence']:g} on"


def deletion(method: Mapping[str, Any]) -> str:
    """What the first test of an audit says of a method."""
    lead = method["score"]["below_random"]
    area, found = lead["area"], lead["share"]
    if area["low"] is None:
        return "Too few detections to tell."
    where = f"in {share(found)} of the detections"
    if area["low"] > 0:
        return f"What it ranks highest matters: without it the score falls faster, {where}."
    if area["high"] < 0:
        return f"Worse than chance: without its top the score falls slower (faster {where})."
    return f"Its ranking cannot be told from chance (the score falls faster {where})."


def randomisation(method: Mapping[str, Any]) -> str:
    """What the second test says."""
    means = {stage: found["mean"] for stage, found in method["randomised"].items()}
    if None in means.values():
        return "Not defined everywhere."
    changed = [stage for stage, mean in means.items() if abs(mean) < FAITHFUL]
    if not changed:
        return "Much the same without the learnt weights: it shows the image, not the network."
    if changed[0] == next(iter(means)):
        return "Changes as soon as the last layers lose their weights: it shows what was learnt."
    return (
        f"Hardly changes until {changed[0]} loses its weights, too: what lies above counts little."
    )


def stability(method: Mapping[str, Any]) -> str:
    """What the third test says."""
    mean = method["shift_correlation"]["mean"]
    if mean is None:
        return "Not defined here."
    if mean >= STABLE:
        return "Stays the same when the tile is shifted."
    return "Depends on where the tile happens to lie."


def known_as(path: Path) -> str:
    """A folder, by a name that people know it by."""
    parts = path.resolve().parts
    return "/".join(parts[-2:]) if len(parts) > 2 else str(path)
