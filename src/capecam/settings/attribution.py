"""Settings of the heatmaps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from capecam.settings.base import Option, Section, among
from capecam.settings.choices import DEFAULT_METHODS, METHODS, Score, Where


def _known_methods(methods: tuple[str, ...]) -> tuple[str, ...]:
    for method in methods:
        among(method, METHODS, "unknown method")
    if not methods:
        raise ValueError("at least one method is needed")
    if len(set(methods)) < len(methods):
        raise ValueError(f"a method is named twice: {', '.join(methods)}")
    return methods


class ExplainSettings(Section):
    """Which heatmaps, of which score, where, and on which scale."""

    methods: Annotated[
        tuple[str, ...], AfterValidator(_known_methods), Option("--methods", "LIST")
    ] = Field(
        DEFAULT_METHODS,
        description=f"heatmaps to make, comma-separated: {', '.join(METHODS)}",
    )
    score: Annotated[Score, Option("--score")] = Field(
        "mean",
        description="what is explained: the class's mean logit over the tile's valid pixels, "
        "or over those predicted as the class",
    )
    where: Annotated[Where, Option("--where")] = Field(
        "all", description="explain every tile, or only tiles and classes with a detection"
    )
    heatmap_dtype: Annotated[Literal["uint8", "float32"], Option("--heatmap-dtype")] = Field(
        "uint8", description="0..254 on the calibrated scale, or raw values"
    )
    calibration: Annotated[Path | None, Option("--calibration", "RUN.json")] = Field(
        None, description="take the colour scale from another run's run.json"
    )
    calibration_tiles: int = Field(
        256, ge=1, description="how many sampled tiles set the colour scale"
    )
    seed: int = Field(0, ge=0, description="of that sample")
