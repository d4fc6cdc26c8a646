"""Facts to one page of HTML: what the templates in ``templates/``, which say how it looks, get."""

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
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from capecam import __version__
from capecam.detections.evidence import EVIDENCE_WORDS
from capecam.detections.heatmap_stats import MEASURES
from capecam.settings import TITLES, ClassSettings
from capecam.store.file_names import DETECTIONS
from capecam.store.run_folder import stage_seconds
from capecam.views.report import captions
from capecam.views.report.data import ReportData
from capecam.views.report.density import levels
from capecam.views.report.histograms import Histogram, confidences, sizes
from capecam.views.report.thumbnails import Picture, smaller

STYLES = ("base.css", "parts.css", "media.css")
SCRIPTS = ("squares.js", "map.js", "gestures.js", "queue.js", "closer.js", "start.js")

FAILURES = 100
"""Rows of what failed; a city without a disk has thousands."""

RIVAL = 0.01
"""Probability below which the other class is not worth a word."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An object of the review queue."""

    row: Mapping[str, Any]
    """Of the detections file."""
    picture: Picture
    panel: str | None
    """A data URL of the panel, where one was made."""
    panel_problem: str | None
    """Why there is none, where one was asked for."""


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """What is said of one class."""

    settings: ClassSettings
    count: int
    area_m2: float
    """As in summary.csv."""
    sizes: Histogram
    confidences: Histogram
    evidence: dict[str, int]
    """Objects by word."""


def render(facts: ReportData, entries: Sequence[Entry]) -> str:
    """The page.

    Args:
        facts: of the run.
        entries: the review queue, as far as it is shown.
    """
    environment = _environment()
    classes = _classes(facts)
    return environment.get_template("page.html").render(
        facts=facts,
        record=facts.record,
        classes=classes,
        objects=sum(entry.count for entry in classes),
        area_m2=sum(entry.area_m2 for entry in classes),
        entries=entries,
        problem=_common_problem(entries),
        titles=TITLES,
        words=captions,
        evidence_words=EVIDENCE_WORDS,
        measures=MEASURES,
        failures_shown=FAILURES,
        work=_work(facts),
        map_data=_map(facts, entries),
        queue_data=[_numbers(entry, facts) for entry in entries],
        crs=pyproj.CRS.from_wkt(facts.run.grid.crs).name,
        settings_yaml=_yaml(facts.record.settings),
        name=captions.known_as(facts.run.out),
        audit=facts.record.audit,
        audit_picture=_audit_picture(facts),
        stale_scores=_stale(facts),
        version=__version__,
        made=datetime.now().astimezone().isoformat(timespec="seconds"),
        styles=[_file(environment, name) for name in STYLES],
        scripts=[_file(environment, name) for name in SCRIPTS],
    )


@cache
def _environment() -> Environment:
    """Templates are compiled once: half a second."""
    environment = Environment(
        loader=PackageLoader("capecam.views.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )
    environment.filters |= {
        "amount": captions.amount,
        "data_url": data_url,
        "duration": captions.duration,
        "moment": captions.moment,
        "rival": _rival,
        "share": captions.share,
        "whole": "{:,.0f}".format,
    }
    return environment


def data_url(content: bytes, kind: str) -> str:
    """Bytes as the address of a picture inside the page."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _file(environment: Environment, name: str) -> Markup:
    """A file beside the templates, as it stands."""
    loader = environment.loader
    if loader is None:
        raise ValueError("an environment without a loader has no files")
    return Markup(loader.get_source(environment, name)[0])


def _classes(facts: ReportData) -> list[ClassFigures]:
    table, found = facts.table, []
    areas = table["area_m2"].to_numpy(float)
    low, high = (areas.min(), areas.max()) if len(areas) else (1.0, 10.0)
    for class_id, settings in enumerate(facts.run.settings.model.classes[1:], start=1):
        own = table[table["class_id"] == class_id]
        said = own["evidence"].value_counts() if "evidence" in own else {}
        count, area_m2 = facts.by_class[settings.name]
        found.append(
            ClassFigures(
                settings,
                count,
                area_m2,
                sizes(own["area_m2"].to_numpy(float), low, high),
                confidences(own["confidence"].to_numpy(float)),
                {word: int(said.get(word, 0)) for word in EVIDENCE_WORDS},
            )
        )
    return found


def _work(facts: ReportData) -> dict[str, float]:
    """Seconds by stage, inside all finished cells."""
    total: dict[str, float] = {}
    for cell in facts.run.cells.values():
        for stage, seconds in stage_seconds(cell.stages).items():
            total[stage] = total.get(stage, 0.0) + seconds
    return total


def _map(facts: ReportData, entries: Iterable[Entry]) -> dict[str, Any]:
    """What the map is drawn from; metres right of and below the city's corner."""
    window, pixel, table = facts.run.grid.window, facts.pixel_m, facts.table
    width, height = window.width * pixel[0], window.height * pixel[1]
    corner = np.array([window.col, window.row]) * pixel
    shown = pd.DataFrame([entry.row for entry in entries], columns=["lon", "lat"])
    found = levels(
        facts.points_m(table),
        table["class_id"].to_numpy(np.int64),
        table["area_m2"].to_numpy(float),
        (width, height),
        len(facts.run.names) - 1,
    )
    cells = []
    for place in facts.places:
        core = place.core
        x, y = np.array([core.col, core.row]) * pixel - corner
        size = np.array([core.width, core.height]) * pixel
        box = [round(float(value), 1) for value in (x, y, *size)]
        cells.append([place.name, *box, *([place.reason] if place.reason else [])])
    return {
        "width": round(float(width), 1),
        "height": round(float(height), 1),
        "corner": corner.round(2).tolist(),
        "levels": [level.to_json() for level in found],
        "cells": cells,
        "queue": (facts.points_m(shown) - corner).round(1).tolist(),
    }


def _numbers(entry: Entry, facts: ReportData) -> dict[str, Any]:
    """What the closer look at an object shows beside its pictures."""
    row = entry.row
    methods = [m for m in facts.run.settings.explain.methods if f"{m}_in" in row]
    return {
        "id": row["id"],
        "class": row["class"],
        "classId": int(row["class_id"]),
        "review": int(row["review"]),
        "area": f"{row['area_m2']:,.1f} m²",
        "confidence": f"{row['confidence']:.2f}",
        "evidence": row["evidence"],
        "rival": _rival(row),
        "place": f"{row['lat']:.6f}, {row['lon']:.6f}",
        "images": row["images"].split(","),
        "methods": [
            [TITLES[m], *(_shown(row[f"{m}_{measure}"]) for measure in MEASURES)] for m in methods
        ],
        "problems": [
            f"No {what}: {why}"
            for what, why in (("picture", entry.picture.problem), ("panel", entry.panel_problem))
            if why
        ],
        "across": [round(width) for width in (entry.picture.imagery_m, entry.picture.heat_m)],
        "panel": entry.panel,
    }


def _rival(row: Mapping[str, Any]) -> str | None:
    """The other class, where it is worth a word."""
    if pd.isna(row["rival"]) or not row["rival_in"] >= RIVAL:
        return None
    return f"{row['rival']} {row['rival_in']:.2f}"


def _common_problem(entries: Sequence[Entry]) -> str | None:
    """Why there is no picture at all, so that it need not be said for each."""
    problems = {entry.picture.problem for entry in entries}
    return problems.pop() if len(problems) == 1 else None


def _shown(value: float) -> str:
    return "–" if pd.isna(value) else f"{value:.2f}"


def _yaml(settings: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
    return text


def _audit_picture(facts: ReportData) -> str | None:
    path = facts.run.out / "audit.png"
    if facts.record.audit is None or not path.exists():
        return None
    return data_url(smaller(path), "webp")


def _stale(facts: ReportData) -> bool:
    """Whether other objects were scored than there are now."""
    scored = (facts.scores or {}).get("detections")
    now = facts.record.products[DETECTIONS].sha256
    return scored is not None and scored != now
