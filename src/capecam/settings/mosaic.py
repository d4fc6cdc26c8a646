"""Settings of the mosaic, its grid of tiles, and the part of it that is processed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from capecam.errors import SettingsError
from capecam.settings.base import Option, Section
from capecam.tile_size import TileSize

if TYPE_CHECKING:
    from capecam.grid import Tiling


class TilingSettings(Section):
    """The grid of tiles."""

    size: Annotated[int, Option("--tile", "PX")] = Field(
        320, ge=1, description="edge of a tile in pixels"
    )
    overlap: Annotated[int, Option("--overlap", "PX")] = Field(
        70, ge=0, description="overlap of neighbouring tiles in pixels"
    )
    stride: int = Field(10, ge=1, description="edge of a heatmap block in pixels")
    anchor: tuple[float, float] | None = Field(
        None,
        description="point from which tiles are counted, in CRS units; default is the top-left "
        "corner of the mosaic",
    )
    cell_size: Annotated[int, Option("--cell-size", "PX")] = Field(
        12_500, ge=1, description="larger images are processed in parts of this size"
    )

    @property
    def tiling(self) -> Tiling:
        """The grid of tiles."""
        from capecam.grid import Tiling  # noqa: PLC0415 numpy would take 0.2 s of every --help

        return Tiling(self.size, self.overlap, self.stride)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        step = TileSize(self.size, self.overlap, self.stride).step
        if self.cell_size < step:
            raise SettingsError(
                f"cell_size must be at least one step of {step} px, got {self.cell_size}"
            )
        return self


def _bounds(value: object) -> object:
    """Parse left, bottom, right, top."""
    parts = value.split(",") if isinstance(value, str) else value
    try:
        left, bottom, right, top = map(float, parts)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise ValueError("must be four numbers, X0,Y0,X1,Y1") from None
    if not (left < right and bottom < top):
        raise ValueError("must be the lower left and the upper right corner, X0,Y0,X1,Y1")
    return left, bottom, right, top


class MosaicSettings(Section):
    """Grid of the mosaic, and the part of it that is processed."""

    align: Annotated[Literal["snap", "warp", "error"], Option("--align")] = Field(
        "snap",
        description="snap: images that are off the grid of the mosaic by a part of a pixel are "
        "shifted to the nearest pixel, others fail; warp: the others are reprojected; error: both "
        "fail",
    )
    gsd: Annotated[Literal["native", "model"], Option("--gsd")] = Field(
        "native",
        description="pixel size on the ground: of the images, or of the model (model.gsd_m), to "
        "which images are resampled",
    )
    aoi: Annotated[Path | None, Option("--aoi", "FILE")] = Field(
        None,
        description="vector file of the area of interest (FILE|layername=NAME for one of its "
        "layers): tiles that do not touch it are skipped",
    )
    bbox: Annotated[
        tuple[float, float, float, float] | None,
        BeforeValidator(lambda value: value if value is None else _bounds(value)),
        Option("--bbox", "X0,Y0,X1,Y1"),
    ] = Field(
        None, description="area of interest as a rectangle, in the CRS of the mosaic or in degrees"
    )
    footprints: Annotated[Path | None, Option("--footprints", "FILE")] = Field(
        None,
        description="vector file of building footprints: tiles without a building are skipped, and "
        "objects off buildings are dropped (detections.footprint_share)",
    )
