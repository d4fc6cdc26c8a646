"""Rendering the report: the values that the templates in ``templates/`` show."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pyproj
import shapely
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from capecam import __version__
from capecam.detections.heatmap_stats import MEASURES
from capecam.detections.object_columns import EVIDENCE_WORDS
from capecam.grid import Window
from capecam.settings import TITLES, ClassSettings
from capecam.store.run_folder import stage_seconds
from capecam.views.palette import DARK_PAGE, LIGHT_PAGE, PRINTED_PAGE, page_variables
from capecam.views.report import captions
from capecam.views.report.data import ReportData
from capecam.views.report.density import levels
from capecam.views.report.estimate_maps import zone_maps
from capecam.views.report.histograms import Histogram, confidences, sizes
from capecam.views.report.picture import CityPicture
from capecam.views.report.svg_paths import svg_path
from capecam.views.report.thumbnails import Thumbnail, to_webp

STYLES = ("base.css", "parts.css", "media.css")
SCRIPTS = (
    *("class_filter.js", "squares.js", "map.js", "gestures.js", "queue.js", "closer.js"),
    *("tables.js", "start.js"),
)

FAILURES = 100
"""Number of failures that are listed; a run without its disk has thousands."""

ESTIMATES = 300
"""Rows of estimates by zone that are listed; files have all."""

IMAGES = 10
"""Images that are named in a remark; a city may have it on each of 2,800."""

OUTLINE_M = 0.1
"""Maximum distance of a simplified outline on the map from the true one; more for large objects."""

MIN_RIVAL = 0.01
"""Probability from which the rival class is named."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Object of the review queue."""

    row: Mapping[str, Any]
    """Its row of the detections file."""
    shape: shapely.Geometry
    """In the CRS of the imagery."""
    thumbnail: Thumbnail
    panel: str | None
    """Data URL of its panel, if there is one."""
    panel_problem: str | None
    """Reason why a panel that was requested is missing."""


@dataclass(frozen=True, slots=True)
class ClassStatistics:
    """Statistics of one class."""

    settings: ClassSettings
    count: int
    area_m2: float
    """Total area, as in summary.csv."""
    sizes: Histogram
    confidences: Histogram
    evidence: dict[str, int]
    """Number of objects by evidence word."""


def render(data: ReportData, entries: Sequence[Entry], picture: CityPicture | None = None) -> str:
    """Return the HTML of the page.

    Args:
        data: data of the run.
        entries: the objects of the review queue that are shown.
        picture: picture of the city, if there is one.
    """
    environment = _environment()
    classes = _classes(data)
    return environment.get_template("page.html").render(
        data=data,
        record=data.record,
        about=data.run.about,
        classes=classes,
        class_ids={entry.settings.name: k for k, entry in enumerate(classes, start=1)},
        objects=sum(entry.count for entry in classes),
        area_m2=sum(entry.area_m2 for entry in classes),
        entries=entries,
        problem=_common_problem(entries),
        titles=TITLES,
        captions=captions,
        evidence_words=EVIDENCE_WORDS,
        measures=MEASURES,
        failures_shown=FAILURES,
        images_shown=IMAGES,
        work=_work(data),
        map_data=_map(data, entries),
        picture=picture,
        picture_box=picture and _metres(data, picture.window),
        queue_data=[_details(entry, data) for entry in entries],
        crs=pyproj.CRS.from_wkt(data.run.grid.crs).name,
        settings_yaml=_yaml(data.record.settings),
        name=captions.short_path(data.run.out),
        audit=data.audit,
        audit_picture=_audit_picture(data),
        estimates=data.estimates,
        estimates_shown=ESTIMATES,
        zone_maps=zone_maps(data.run.out, data.estimates, data.run.settings.model.classes[1:]),
        stale_scores=_has_stale_scores(data),
        version=__version__,
        written=datetime.now().astimezone().isoformat(timespec="seconds"),
        styles=[_theme(data), *(_file(environment, name) for name in STYLES)],
        scripts=[_file(environment, name) for name in SCRIPTS],
    )


@cache
def _environment() -> Environment:
    """Return the templates, which are compiled once: half a second."""
    environment = Environment(
        loader=PackageLoader("capecam.views.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )
    environment.filters |= {
        "three_digits": captions.three_digits,
        "data_url": data_url,
        "duration": captions.duration,
        "date_and_time": captions.date_and_time,
        "rival": _rival,
        "own_summary": captions.own_summary,
        "share": captions.share,
        "decimal": captions.decimal,
        "interval": captions.interval,
        "whole": "{:,.0f}".format,
    }
    environment.tests["unknown_interval"] = captions.has_unknown_interval
    return environment


def data_url(content: bytes, kind: str) -> str:
    """Return a picture as a data URL."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _file(environment: Environment, name: str) -> Markup:
    """Return a file beside the templates, unchanged."""
    loader = environment.loader
    if loader is None:
        raise ValueError("an environment without a loader has no files")
    return Markup(loader.get_source(environment, name)[0])


def _theme(data: ReportData) -> Markup:
    """Return the palette as CSS: of light pages, of dark ones, and of paper."""
    media = {"": LIGHT_PAGE, "(prefers-color-scheme: dark)": DARK_PAGE, "print": PRINTED_PAGE}
    blocks = []
    for condition, page in media.items():
        variables = page_variables(page, data.run.settings.model.classes)
        rule = ":root {" + "".join(f"--{name}:{value};" for name, value in variables.items()) + "}"
        blocks.append(f"@media {condition} {{{rule}}}" if condition else rule)
    return Markup("\n".join(blocks))


def _classes(data: ReportData) -> list[ClassStatistics]:
    table, statistics = data.table, []
    areas = table["area_m2"].to_numpy(float)
    low, high = (areas.min(), areas.max()) if len(areas) else (1.0, 10.0)
    for class_id, settings in enumerate(data.run.settings.model.classes[1:], start=1):
        own = table[table["class_id"] == class_id]
        words = own["evidence"].value_counts() if "evidence" in own else {}
        count, area_m2 = data.by_class[settings.name]
        statistics.append(
            ClassStatistics(
                settings,
                count,
                area_m2,
                sizes(own["area_m2"].to_numpy(float), low, high),
                confidences(own["confidence"].to_numpy(float)),
                {word: int(words.get(word, 0)) for word in EVIDENCE_WORDS},
            )
        )
    return statistics


def _work(data: ReportData) -> dict[str, float]:
    """Return the seconds by stage, summed over all finished cells."""
    total: dict[str, float] = {}
    for cell in data.run.cells.values():
        for stage, seconds in stage_seconds(cell.stages).items():
            total[stage] = total.get(stage, 0.0) + seconds
    return total


def _map(data: ReportData, entries: Iterable[Entry]) -> dict[str, Any]:
    """Return the data of the map, in metres right of and below the city's corner."""
    window, pixel, table = data.run.grid.window, data.pixel_m, data.table
    width, height = window.width * pixel[0], window.height * pixel[1]
    corner = np.array([window.col, window.row]) * pixel
    shown = pd.DataFrame([entry.row for entry in entries], columns=["lon", "lat"])
    by_square = levels(
        data.points_m(table),
        table["class_id"].to_numpy(np.int64),
        table["area_m2"].to_numpy(float),
        (width, height),
        len(data.run.names) - 1,
    )
    cells = []
    for location in data.cells:
        box = _metres(data, location.core)
        cells.append([location.name, *box, *([location.reason] if location.reason else [])])
    left, _, _, top = data.run.grid.bounds
    return {
        "width": round(float(width), 1),
        "height": round(float(height), 1),
        "corner": corner.round(2).tolist(),
        "levels": [level.to_json() for level in by_square],
        "cells": cells,
        "queue": (data.points_m(shown) - corner).round(1).tolist(),
        "outlines": [_outline(data, entry.shape, corner) for entry in entries],
        "classes": list(data.run.names[1:]),
        "place": [left, top, *(np.array(data.run.grid.pixel) / pixel).tolist()],
    }


def _metres(data: ReportData, window: Window) -> list[float]:
    """Return a window of pixels as x, y, width and height in metres from the city's corner."""
    city, pixel = data.run.grid.window, data.pixel_m
    corner = np.array([window.col - city.col, window.row - city.row])
    box = np.concatenate([corner * pixel, np.array([window.width, window.height]) * pixel])
    rounded: list[float] = box.round(1).tolist()
    return rounded


def _outline(
    data: ReportData, shape: shapely.Geometry, corner_m: NDArray[np.float64]
) -> tuple[float, str]:
    """Return the larger side of an object in metres, and its outline as a path."""
    grid, pixel = data.run.grid, data.pixel_m
    metres = shapely.transform(shape, lambda xy: grid.to_pixels(xy) * pixel - corner_m)
    left, top, right, bottom = metres.bounds
    simple = shapely.simplify(metres, max(OUTLINE_M, (right - left + bottom - top) / 200))
    return round(max(right - left, bottom - top), 1), svg_path(simple)


def _details(entry: Entry, data: ReportData) -> dict[str, Any]:
    """Return the numbers that the enlarged view of an object shows beside its pictures."""
    row = entry.row
    methods = [m for m in data.run.settings.explain.methods if f"{m}_in" in row]
    own = list(captions.own_explanation(row))
    return {
        "id": row["id"],
        "class": row["class"],
        "review": int(row["review"]),
        "area": f"{row['area_m2']:,.1f} m²",
        "confidence": f"{row['confidence']:.2f}",
        "evidence": row["evidence"],
        "rival": _rival(row),
        "latlon": f"{row['lat']:.6f}, {row['lon']:.6f}",
        "images": row["images"].split(","),
        "methods": [
            [TITLES[m], *(_shown(row[f"{m}_{measure}"]) for measure in MEASURES)]
            for m in methods
            if not own
        ],
        "own": own,
        "heatTitle": entry.thumbnail.heat_title,
        "problems": [
            f"No {what}: {why}"
            for what, why in (("picture", entry.thumbnail.problem), ("panel", entry.panel_problem))
            if why
        ],
        "across": [round(width) for width in (entry.thumbnail.imagery_m, entry.thumbnail.heat_m)],
        "panel": entry.panel,
    }


def _rival(row: Mapping[str, Any]) -> str | None:
    """Return the rival class and its probability, if that is worth mentioning."""
    if pd.isna(row["rival"]) or not row["rival_in"] >= MIN_RIVAL:
        return None
    return f"{row['rival']} {row['rival_in']:.2f}"


def _common_problem(entries: Sequence[Entry]) -> str | None:
    """Return the reason why no object has a picture, if it is the same for all."""
    problems = {entry.thumbnail.problem for entry in entries}
    return problems.pop() if len(problems) == 1 else None


def _shown(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.2f}"


def _yaml(settings: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
    return text


def _audit_picture(data: ReportData) -> str | None:
    path = data.run.out / "audit.png"
    if data.audit is None or not path.exists():
        return None
    return data_url(to_webp(path), "webp")


def _has_stale_scores(data: ReportData) -> bool:
    """Return whether the scores are of other detections than those of now."""
    scored = (data.scores or {}).get("detections")
    return scored is not None and scored != data.run.detections_version
