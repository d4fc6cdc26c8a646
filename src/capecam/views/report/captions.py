"""Texts of the report: numbers in words, and the meaning of results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd

from capecam.settings import SCORE_TITLES, TITLES, ByClass, Settings
from capecam.store.records import RunRecord
from capecam.views.report.data import ReportData
from capecam.views.report.object_maps import is_explained

EVIDENCE = {
    "itself": "found from its own pixels: it stays with all else blurred, and goes when it is",
    "context": "found from its surroundings: it stays when its own pixels are blurred",
    "both": "needs its own pixels and its surroundings",
    "either": "its own pixels are enough, and so are its surroundings",
    "unproven": "blurring where its map is strongest does no more than blurring at random",
}
"""Meaning of the evidence words (docs/method.md)."""

STAGES = {
    "prepare": "prepare",
    "calibrate": "set the colour scale",
    "cells": "process the cells",
    "finish": "city layers and tables",
    "objects": "explain the detections",
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
    "joined": "objects, after joining neighbouring regions",
    "small": "dropped: too small",
    "unsure": "dropped: confidence too low",
    "off building": "dropped: not on a building",
    "kept": "kept",
}

BASELINES = {"distance": "distance to the object", "random": "random order"}
"""Orders of the audit that know nothing of the network."""

MORE_DIGITS = 2
"""Maximum number of decimals that are added to tell the ends of an interval apart."""

MIN_STABLE = 0.8
"""Correlation with the map of a shifted tile above which the two look the same."""


def expected(record: RunRecord) -> str:
    """Return a sentence on the number of right detections to be expected; with a calibration."""
    totals, calibration = record.totals, record.p_right
    count = sum(count for count, _ in totals.by_class.values())
    parts = [f"{number:,.1f} of {name}" for name, number in totals.expected.items()]
    text = (
        f"Of {count:,} detections, {sum(totals.expected.values()):,.0f} are expected to be right "
        f"(sum of p_right: {', '.join(parts)})"
    )
    if calibration is None:
        return f"{text}."
    return (
        f"{text}, by a calibration on {calibration.objects:,} checked detections of the run "
        f"{calibration.run}. Objects that the map misses are not in it."
    )


def share(value: float) -> str:
    """Return 0.123 as 12 %."""
    if 0 < value < 0.01:
        return "< 1\N{NO-BREAK SPACE}%"
    return f"{100 * value:.0f}\N{NO-BREAK SPACE}%"


def decimal(value: float | None) -> str:
    """Return a number with two decimals, or a dash."""
    return "–" if value is None or pd.isna(value) else f"{value:.2f}"


def interval(low: float | None, high: float | None, digits: int = 2) -> str:
    """Return the ends of an interval, "" if it is not known.

    Resamples that are all the same have no spread, which is no certainty. Ends that differ only
    beyond ``digits`` decimals have more of them.
    """
    if low is None or high is None or pd.isna(low) or pd.isna(high) or not low < high:
        return ""
    for decimals in range(digits, digits + MORE_DIGITS + 1):
        ends = [f"{value:,.{decimals}f}" for value in (low, high)]
        if ends[0] != ends[1]:
            return " to ".join(ends)
    return ""


def has_unknown_interval(entry: Mapping[str, Any]) -> bool:
    """Return whether a score of a class has no interval."""
    return any(
        entry[key] is not None and not interval(*(ends or (None, None)))
        for key, ends in entry["intervals_95"].items()
    )


def three_digits(value: float) -> str:
    """Return a number with three digits, or all digits before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Return a duration in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def date_and_time(text: str) -> str:
    """Return an ISO time as date and time of day."""
    when = datetime.fromisoformat(text)
    return f"{when.day} {when:%B %Y, %H:%M}"


def settings_in_words(data: ReportData) -> Iterator[tuple[str, str]]:
    """Describe the settings of the run: subjects and texts."""
    settings, record = data.run.settings, data.record
    size_m, explain = float(data.pixel_m.mean()), settings.explain
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
    parts = [f"regions of a class up to {rules.join_distance_px:g} px apart are joined"]
    if rules.min_area_m2:
        parts.append(f"those of {_by_class(rules.min_area_m2, 'm²')} or less are dropped")
    if rules.min_confidence:
        parts.append(f"those with a confidence below {_by_class(rules.min_confidence)} are dropped")
    if settings.mosaic.footprints:
        parts.append(f"those less than {share(rules.footprint_share)} on buildings are dropped")
    return "; ".join(parts)


def _by_class(value: ByClass, unit: str = "") -> str:
    if isinstance(value, dict):
        return ", ".join(f"{number:g} {unit} ({name})" for name, number in value.items())
    return f"{value:g} {unit}".strip()


def suggested_commands(data: ReportData) -> Iterator[tuple[str, str]]:
    """Suggest commands that add to the report: their results, and the command."""
    out = data.run.out
    if data.scores is None:
        yield (
            "precision, recall and F1 against annotations",
            f"capecam evaluate {out} --truth annotations.gpkg --steps",
        )
    if data.audit is None:
        yield "which maps can be believed about objects", f"capecam audit {out}"


def own_explanation(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Describe an object's own explanation: subjects and texts; nothing if it has none."""
    if not is_explained(row):
        return
    peak_m = row["own_peak_m"]
    where = (
        f"{share(row['own_share'])} of it on the object, {share(row['own_near'])} on or near it; "
        f"highest {f'{peak_m:.1f} m away' if peak_m else 'on it'}; {share(row['leak'])} on others "
        "of its class"
    )
    yield "Explanation", where if pd.notna(row["own_share"]) else "0 everywhere"
    yield (
        "Blurred",
        f"its probability falls {_by(row['own_drop'])} where the map is highest, "
        f"{_by(row['distance_drop'])} nearest to the object, {_by(row['random_drop'])} at random",
    )
    yield "Alone", f"it keeps {_kept(row['alone'])} of its probability without its surroundings"
    yield "Without", f"its surroundings keep {_kept(row['without'])} without it"


def own_summary(row: Mapping[str, Any]) -> str:
    """Return the most important numbers of an object's own explanation, "" if it has none."""
    if not is_explained(row):
        return ""
    return f"alone {_kept(row['alone'])}, without {_kept(row['without'])}"


def _by(drop: float) -> str:
    return f"by {share(drop)}" if drop > 0 else "not at all"


def _kept(value: float) -> str:
    """Return a share of a probability, which may also rise."""
    return share(min(value, 1)) if value <= 1.005 else f"over {share(1)}"


def best_f1(curve: Sequence[Mapping[str, Any]]) -> str:
    """Return the confidence with the highest F1 of a curve, in words."""
    defined = [point for point in curve if point["f1"] is not None]
    if not defined:
        return ""
    top = max(defined, key=lambda point: float(point["f1"]))
    return f"; F1 is highest, {top['f1']:.2f}, at a minimum confidence of {top['confidence']:g}"


def randomisation(method: Mapping[str, Any], bound: float) -> str:
    """Describe the result of the model randomization test for a method.

    Args:
        method: entry of the audit.
        bound: rank correlation from which on two maps are the same.
    """
    means = {stage: estimate["mean"] for stage, estimate in method["randomised"].items()}
    if None in means.values():
        return "Not defined everywhere."
    changed = [stage for stage, mean in means.items() if abs(mean) < bound]
    if not changed:
        return "Hardly changes without the learnt weights: it shows the image, not the network."
    if changed[0] == next(iter(means)):
        return "Changes as soon as the last layers are randomized: it shows what was learnt."
    return f"Hardly changes until {changed[0]} is randomized, too: the layers above count little."


def stability(method: Mapping[str, Any]) -> str:
    """Describe the result of the shift test for a method."""
    mean = method["shift_correlation"]["mean"]
    if mean is None:
        return "Not defined here."
    if mean >= MIN_STABLE:
        return "Stays the same when the tile is shifted."
    return "Depends on the position of the tile."


def short_path(path: Path) -> str:
    """Return the last two parts of a folder's path."""
    parts = path.resolve().parts
    return "/".join(parts[-2:]) if len(parts) > 2 else str(path)
