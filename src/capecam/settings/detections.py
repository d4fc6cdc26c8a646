"""Settings of detections, evidence, the QGIS project, the audit and annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field

from capecam.settings.base import Option, Section


def _by_class(value: object) -> object:
    """Parse a number, or numbers by class: NAME=NUMBER,NAME=NUMBER on the command line."""
    if isinstance(value, str) and "=" in value:
        value = dict(part.rsplit("=", 1) for part in value.split(",") if "=" in part)
    try:
        if isinstance(value, Mapping):
            return {str(name).strip(): _positive(number) for name, number in value.items()}
        return _positive(value)
    except (TypeError, ValueError):
        raise ValueError("must be a number of at least 0, or such numbers by class name") from None


def _positive(value: object) -> float:
    number = float(value)  # type: ignore[arg-type]
    if not number >= 0:
        raise ValueError
    return number


ByClass = Annotated[float | dict[str, float], BeforeValidator(_by_class)]
"""One number for all classes, or numbers by class name."""


class DetectionSettings(Section):
    """Conversion of class pixels to objects."""

    join_distance_px: Annotated[float, Option("--join-distance", "PX")] = Field(
        2.0, ge=0, description="pieces of a class with at most this gap are joined to one object"
    )
    min_area_m2: Annotated[ByClass, Option("--min-area", "M2")] = Field(
        1.7,
        description="objects of this area or less are dropped; or by class: {water heater: 1}, "
        "with 1.7 for the other classes",
    )
    min_confidence: Annotated[ByClass, Option("--min-confidence", "P")] = Field(
        0.0, description="objects with a lower mean probability are dropped; or by class"
    )
    footprint_share: float = Field(
        0.8,
        ge=0,
        le=1,
        description="with mosaic.footprints: objects with a smaller share of their area on "
        "buildings are dropped",
    )
    simplify_m: float = Field(
        0.0,
        ge=0,
        description="outlines are simplified: corners are removed whose triangle with their "
        "neighbours is smaller than this squared (Visvalingam-Whyatt); shared borders stay shared",
    )
    keep_rejected: Annotated[bool, Option("--keep-rejected")] = Field(
        False, description="keep dropped objects in a separate layer, with the reason"
    )

    calibrate_with: Annotated[Path | None, Option("--calibrate-with", "FILE")] = Field(
        None,
        description="file of capecam calibrate, which gives detections the probability of being "
        "right (p_right) and orders the review queue by it",
    )

    def by_class(self, key: str, names: Sequence[str]) -> list[float]:
        """Return the values of a setting for these classes."""
        value = getattr(self, key)
        if not isinstance(value, dict):
            return [value] * len(names)
        default = type(self).model_fields[key].default
        return [value.get(name, default) for name in names]


class EvidenceSettings(Section):
    """Numbers of the heatmaps at an object (docs/method.md)."""

    method: str | None = Field(
        None,
        description="heatmap that the report and panels quote; default is the first of "
        "explain.methods",
    )


class QgisSettings(Section):
    """The QGIS project (docs/qgis.md)."""

    imagery: Annotated[bool, Option("--imagery")] = Field(
        False,
        description="add the images to OUT/capecam.qgz as the lowest layer; the project then "
        "depends on their paths relative to OUT",
    )


class AuditSettings(Section):
    """Test of the heatmaps (docs/method.md)."""

    sample: Annotated[int, Option("--audit", "N")] = Field(
        0, ge=0, description="after the run, audit the heatmaps of N detections"
    )
    seed: int = Field(
        0, ge=0, description="random seed of that sample and of the randomised weights"
    )


class TruthSettings(Section):
    """Columns of annotations."""

    class_column: str = Field("class", description="column with the name of the class")
    flags: dict[str, str] = Field(
        {"PV_normal": "solar panel", "PV_heater": "water heater", "PV_pool": "pool heater"},
        description="without that column: columns that are 1 for a class, and its name",
    )
