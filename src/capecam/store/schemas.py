"""What the JSON files of a run must look like to be believed: they may be damaged, or not ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

MOST_BYTES = 256 << 20
"""A year of a city has 3 MB."""

FileName = Annotated[str, Field(pattern=r"^[^/\\]+$")]


class _Shape(BaseModel):
    """Other keys are as they are."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


class _Image(_Shape):
    bytes: int | None
    mtime_ns: int | None
    sha256: str | None


class _File(_Shape):
    bytes: int
    sha256: str


class Failure(_Shape):
    """``failed.json``."""

    status: Literal["failed"]
    error: str
    basis: dict[str, Any] = {}
    images: dict[str, _Image] = {}


class Done(_Shape):
    """``cell.json``."""

    status: Literal["done"]
    tiles: int
    detections: int
    seconds: float
    basis: dict[str, Any]
    images: dict[str, _Image]
    files: dict[FileName, _File]


class Scale(_Shape):
    """The calibration in ``run.json``."""

    tops: dict[str, list[Annotated[float, Field(gt=0)] | None]]
    basis: dict[str, str]
    tiles: int


class Calibrated(_Shape):
    """What another run takes from ``run.json``."""

    calibration: Scale


class _Checkpoint(_Shape):
    sha256: str
    architecture: str


class _Window(BaseModel):
    model_config = ConfigDict(extra="forbid")
    row: int
    col: int
    height: int = Field(ge=1)
    width: int = Field(ge=1)


class _Grid(_Shape):
    crs: str
    pixel: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
    window: _Window


class Run(_Shape):
    """``run.json``."""

    settings: dict[str, Any]
    device: str
    precision: Literal["fp32", "tf32", "bf16", "fp16"]
    batch_size: int = Field(ge=1)
    checkpoint: _Checkpoint
    anchor: tuple[float, float]
    grid: _Grid
    calibration: Scale
    cells: list[FileName]
    failures: dict[str, str]
    tiles: int
    stages: dict[str, float]


def read_record(path: Path, shape: type[BaseModel]) -> dict[str, Any]:
    """A JSON file of that shape, as it is written there.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no JSON, or not of the shape; the message says where.
    """
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        raise ValueError("no file, or far too large")
    try:
        tree: dict[str, Any] = json.loads(path.read_text("utf-8"))
        shape.model_validate(tree)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part)[:40] for part in first["loc"])
        raise ValueError(f"{where}: {first['msg'][:100]}".lstrip(": ")) from error
    return tree
