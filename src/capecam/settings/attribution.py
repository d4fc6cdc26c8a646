"""Settings of the heatmaps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from capecam.settings.base import Option, Section, check_name
from capecam.settings.choices import DEFAULT_METHODS, METHODS, ObjectMethod, Score, Where


def _known_methods(methods: tuple[str, ...]) -> tuple[str, ...]:
    for method in methods:
        check_name(method, METHODS, "unknown method")
    if not methods:
        raise ValueError("at least one method is needed")
    if len(set(methods)) < len(methods):
        raise ValueError(f"a method is named twice: {', '.join(methods)}")
    return methods


def _how_many(value: object) -> object:
    """Validate with one message, where pydantic has one per type."""
    if value in ("all", "none"):
        return value
    if not str(value).isdecimal():
        raise ValueError("must be all, none or a number of detections")
    return int(str(value))


class ExplainSettings(Section):
    """Methods, score, extent and scale of the heatmaps."""

    methods: Annotated[
        tuple[str, ...], AfterValidator(_known_methods), Option("--methods", "LIST")
    ] = Field(
        DEFAULT_METHODS,
        description=f"heatmaps to make, comma-separated: {', '.join(METHODS)}",
    )
    score: Annotated[Score, Option("--score")] = Field(
        "mean",
        description="value that is explained: mean logit of the class over the valid pixels of a "
        "tile, or over the pixels predicted as the class",
    )
    where: Annotated[Where, Option("--where")] = Field(
        "all", description="explain every tile, or only tiles and classes with a detection"
    )
    heatmap_dtype: Annotated[Literal["uint8", "float32"], Option("--heatmap-dtype")] = Field(
        "uint8", description="store levels 0..254 of the calibrated scale, or raw values"
    )
    calibration: Annotated[Path | None, Option("--calibration", "RUN.json")] = Field(
        None, description="run.json of another run, to use its colour scale"
    )
    calibration_tiles: int = Field(
        256, ge=1, description="number of sampled tiles from which the colour scale is computed"
    )
    seed: int = Field(0, ge=0, description="random seed of that sample")


class ObjectSettings(Section):
    """The detections' own explanations (docs/method.md)."""

    explain: Annotated[
        int | Literal["all", "none"], BeforeValidator(_how_many), Option("--objects", "all|none|N")
    ] = Field(
        "all",
        description="detections that get an explanation of their own: all, none, or the first N "
        "of the review queue",
    )
    method: ObjectMethod = Field(
        "hirescam",
        description="map of an object; guided is the guided gradient of its score, which hardly "
        "changes if the network's head is random (docs/method.md)",
    )
    stride: int = Field(
        8,
        ge=2,
        description="hirescam uses the deepest feature map of the encoder of at most this stride",
    )
    layer: str | None = Field(
        None, description="layer of the network that hirescam uses instead, as model.target_layer"
    )
