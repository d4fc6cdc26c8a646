"""Settings of what is made of the rasters: objects, evidence, what people look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from capecam.settings.base import Option, Section


def _by_class(value: object) -> object:
    """A number, or numbers by class; on the command line as NAME=NUMBER,NAME=NUMBER."""
    if isinstance(value, str) and "=" in value:
        value = dict(part.rsplit("=", 1) for part in value.split(",") if "=" in part)
    try:
        if isinstance(value, Mapping):
            return {str(name).strip(): _positive(number) for name, number in value.items()}
        return _positive(value)
    except (TypeError, ValueError):
        raise ValueError("must be a number from 0 on, or such numbers by class name") from None


def _positive(value: Any) -> float:
    number = float(value)
    if not number >= 0:
        raise ValueError
    return number


ByClass = Annotated[float | dict[str, float], BeforeValidator(_by_class)]
"""One number for all classes, or numbers by class name."""


class DetectionSettings(Section):
    """From class pixels to objects."""

    join_distance_px: Annotated[float, Option("--join-distance", "PX")] = Field(
        2.0, ge=0, description="pieces of a class with at most this gap are one object"
    )
    min_area_m2: Annotated[ByClass, Option("--min-area", "M2")] = Field(
        1.7,
        description="objects of this area or less are dropped; by class: {water heater: 1}, "
        "where classes that are not named keep 1.7",
    )
    min_confidence: Annotated[ByClass, Option("--min-confidence", "P")] = Field(
        0.0, description="objects of a lower mean probability are dropped; also by class"
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
        description="outlines lose corners whose triangle with their neighbours is smaller than "
        "this squared (Visvalingam-Whyatt); borders that objects share stay shared",
    )
    keep_rejected: Annotated[bool, Option("--keep-rejected")] = Field(
        False, description="keep what is dropped in a layer of its own, with the reason"
    )

    def by_class(self, key: str, names: Sequence[str]) -> list[float]:
        """A setting of this section for each of these classes."""
        value = getattr(self, key)
        if not isinstance(value, dict):
            return [value] * len(names)
        default = type(self).model_fields[key].default
        return [value.get(name, default) for name in names]


class EvidenceSettings(Section):
    """How the heatmaps at an object become one word (docs/method.md)."""

    method: str | None = Field(
        None, description="heatmap that decides; else the first of explain.methods"
    )
    high: float = Field(
        0.25, ge=0, le=1, description="mean inside from which an object is focused, 0..1"
    )
    certain: float = Field(
        0.9, ge=0, le=1, description="confidence from which an object low inside is saturated"
    )
    outweighs: float = Field(
        1.5, gt=0, description="surroundings this many times as strong as the inside are context"
    )


class QgisSettings(Section):
    """The project that opens in QGIS (docs/qgis.md)."""

    imagery: Annotated[bool, Option("--imagery")] = Field(
        False,
        description="put the images under everything else in OUT/capecam.qgz; it then depends on "
        "where they lie, seen from OUT",
    )


class AuditSettings(Section):
    """Whether the explanations can be believed (docs/method.md)."""

    sample: Annotated[int, Option("--audit", "N")] = Field(
        0, ge=0, description="after the run, audit the explanations of so many detections"
    )
    seed: int = Field(0, ge=0, description="of that sample, and of what is randomised")


class TruthSettings(Section):
    """How annotations name their classes."""

    class_column: str = Field("class", description="column with the name of the class")
    flags: dict[str, str] = Field(
        {"PV_normal": "solar panel", "PV_heater": "water heater", "PV_pool": "pool heater"},
        description="without that column: columns that are 1 for one class, and its name",
    )
