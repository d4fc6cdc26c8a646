"""The JSON files of a run as types: ``run.json``, ``cell.json`` and ``failed.json``.

A file is validated once, when it is read: it may be damaged, or not ours. Fields that have a
default here may be missing in a file that another version has written.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from capecam.grid import Grid, Window
from capecam.runtime.files import file_digest, write_json
from capecam.settings.capture_date import DateText
from capecam.settings.choices import Precision
from capecam.settings.imagery import OptionalRange
from capecam.settings.model import Triple
from capecam.store.about import About

MAX_BYTES = 256 << 20
"""The run of a city with 2,800 images writes 3 MB."""

FileName = Annotated[str, Field(pattern=r"^[^/\\]+$")]
CataloguePath = Annotated[str, Field(pattern=r"^(cells/)?[^/\\]+$")]
Positive = Annotated[float, Field(gt=0)]
ScaleMax = dict[str, tuple[Positive | None, ...]]
"""By method and foreground class, the raw value that becomes the top of the city's scale; None
where the class has no positive value."""
JsonTree = dict[str, JsonValue]

R = TypeVar("R", bound="Record")


class Record(BaseModel):
    """Part of a JSON file. Keys that are not declared are kept as they are."""

    model_config = ConfigDict(
        frozen=True,
        extra="allow",
        allow_inf_nan=False,
        validate_by_alias=True,
        validate_by_name=True,
        serialize_by_alias=True,
    )

    def to_json(self) -> JsonTree:
        """Return the keys that were read or given, in the order of declaration."""
        return self.model_dump(exclude_unset=True)  # mode "json" changes names that are not UTF-8

    def write(self, path: Path) -> None:
        """Write the JSON file, whole or not at all."""
        write_json(path, self.to_json())


class FileFacts(Record):
    """A product, as it was written."""

    bytes: int
    sha256: str
    content: str = ""
    """sha256 of the first file with this content, where only statements have changed since."""

    @property
    def version(self) -> str:
        """Checksum that stays when only statements about the origin change."""
        return self.content or self.sha256

    @classmethod
    def of(cls, path: Path) -> FileFacts:
        """Read a file and return its size and checksum."""
        return cls(bytes=path.stat().st_size, sha256=file_digest(path))

    def are_of(self, path: Path) -> bool:
        """Return whether a file is as it was written."""
        return path.stat().st_size == self.bytes and file_digest(path) == self.sha256


class ObjectRasterRecord(FileFacts):
    """The raster of objects' explanations in the folder of a cell."""

    key: str
    """Digest of everything that it shows."""


class ImageFacts(Record):
    """An image, as it was read; all None if it is not there any more."""

    bytes: int | None
    """None of a virtual file, too."""
    mtime_ns: int | None
    sha256: str | None


class CellInputs(Record):
    """Inputs that a cell's pixels depend on, except for the contents of images."""

    format: int = 0
    core: Window
    taken: tuple[Window, ...] = ()
    windows: str | None = None
    """Hash of the selected windows; None: all of them."""
    grid: dict[str, tuple[float, float]] = {}
    """``anchor`` and ``pixel``."""
    checkpoint: str = ""
    """sha256."""
    precision: str = ""
    engine: str = ""
    """Written only where it gives other pixels than autograd."""
    layout: str = ""
    """Memory layout of the network, written only where it is not PyTorch's own."""
    model: JsonTree = {}
    align: str = ""
    tiling: dict[str, int] = {}
    explain: JsonTree = {}
    calibration: ScaleMax = {}
    floor: ScaleMax = {}
    """Written only where a heatmap is at full resolution."""
    collar: str = "none"
    """Written only where it is another."""
    reading: dict[str, JsonTree] = {}
    """Ways of reading images that differ from the default, by image."""

    @property
    def run(self) -> str:
        """Digest of what all cells of a run have in common: network, tiles, methods, scale.

        It is none of a time, host or path, and stays when images are added.
        """
        own = {"core", "taken", "windows", "reading"}
        tree = {key: value for key, value in self.to_json().items() if key not in own}
        text = json.dumps(tree, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:RUN_DIGITS]


RUN_DIGITS = 16
"""Length of the digest that names a run in its products."""

WORKER_ENDED = "its worker ended"
"""Beginning of the reason of work that has ended worker processes: its images may crash others."""


class FailureRecord(Record):
    """``failed.json``: why a cell has no products."""

    cell: str = ""
    image: str = ""
    status: Literal["failed"]
    error: str
    inputs: CellInputs = Field(alias="basis")
    images: dict[str, ImageFacts] = {}


class CellRecord(Record):
    """``cell.json``: inputs and products of a finished cell."""

    cell: str = ""
    image: str = ""
    status: Literal["done"]
    tiles: int
    """Windows that were run."""
    valid_px: int = 0
    """Pixels of the core with imagery."""
    border_share: float = 0.0
    """Share of them in a nearly black or white border that is not marked as nodata."""
    blank: bool = False
    """None of them, nor of the tiles' other pixels, is of the cell's own image."""
    detections: int
    """Unfiltered pieces."""
    singular: int = 0
    batch_size: int = 0
    unreadable: dict[str, str] = {}
    """Neighbouring images that could be read only in part, and why."""
    stages: dict[str, float] = {}
    """Seconds by stage."""
    seconds: float
    """Wall seconds from its start to its end; cells overlap."""
    inputs: CellInputs = Field(alias="basis")
    images: dict[str, ImageFacts]
    """Images that the cell's tiles read, by name."""
    files: dict[FileName, FileFacts]
    about: About | None = None
    """Statement in its files; None for cells of versions that wrote none."""


class CalibrationRecord(Record):
    """Colour scale of a city's heatmaps."""

    scale_max: ScaleMax = Field(alias="tops")
    key: dict[str, str] = Field(alias="basis")
    """Properties that a run needs in order to use these numbers: checkpoint, layer, score."""
    tiles: int
    """Number of tiles in the sample."""
    floor: ScaleMax = {}
    """Raw value up to which levels are 0, by method whose levels are square roots (maps at full
    resolution). Version 0.1 had linear levels alone."""

    def is_by_root(self, method: str) -> bool:
        """Return whether the levels of a heatmap are square roots."""
        return method in self.floor


class CalibrationSource(Record):
    """The part of another run's ``run.json`` that ``explain.calibration`` uses."""

    calibration: CalibrationRecord


class CheckpointRecord(Record):
    """The network of a run."""

    sha256: str
    architecture: str
    target_layer: str = ""
    ignored: tuple[str, ...] = ()
    """Keys of the checkpoint that the network has no use for."""
    mean: Triple | None = None
    """Subtracted from the input of the network, which is 0 to ``model.input_max``; None in records
    of versions that did not write it."""
    std: Triple | None = None
    """Divisor of the input after that."""
    parameters: int = 0
    """Number of the network's parameters; 0 if it is not known."""
    channels: int = 0
    """Number of its output channels: 1 for a sigmoid, else that of the classes; 0 if not known."""


class GridRecord(Record):
    """The mosaic's grid, without its anchor."""

    crs: str
    pixel: tuple[Positive, Positive]
    window: Window

    @classmethod
    def of(cls, grid: Grid) -> GridRecord:
        """Return the record of a grid."""
        return cls(crs=grid.crs, pixel=grid.pixel, window=grid.window)


class TotalsRecord(Record):
    """Sums over a city; zero until its products are written."""

    cells: int = 0
    tiles: int = 0
    by_class: dict[str, tuple[int, float]] = {}
    """Number of detections and their area in m²."""
    expected: dict[str, float] = {}
    """Sum of ``p_right`` by class; empty, and not in the file, without a calibration."""


class UnusualRecord(Record):
    """A remark on images, as ``plan --json`` has it."""

    what: str
    images: tuple[str, ...]
    does: str
    """Action of the run, and remedies."""
    warning: bool
    seen_in: Literal["headers", "pixels"] = "headers"


class AppliedCalibration(Record):
    """The calibration of the detections' ``p_right``."""

    sha256: str
    """Of the file."""
    run: str
    """Name of the run that it was fitted to."""
    checkpoint: str
    """sha256 of that run's network."""
    signals: tuple[str, ...]
    objects: int
    """Number of labelled detections."""


class RunRecord(Record):
    """``run.json``: what a run has decided, and how it ended."""

    capecam: str = ""
    """Version."""
    settings: JsonTree
    """As they were, with paths relative to where the run was started."""
    started_in: str | None = None
    """That folder, relative to the run's own; both without symbolic links."""
    versions: dict[str, str] = {}
    device: str
    precision: Precision
    batch_size: int = Field(ge=1)
    checkpoint: CheckpointRecord
    anchor: tuple[float, float]
    grid: GridRecord
    scale: OptionalRange = None
    """Values that become 0 and 255; None where no image needs it."""
    calibration: CalibrationRecord
    empty: dict[str, tuple[str, ...]] = {}
    """Classes whose heatmaps have no positive value, by method."""
    cells: tuple[FileName, ...]
    shifted: dict[str, tuple[float, float]] = {}
    """Columns and rows to the nearest whole pixel of the grid, by image."""
    warped: tuple[str, ...] = ()
    captured: dict[str, DateText] = {}
    """When images were taken, by image; those of which it is not known are missing."""
    unusual: tuple[UnusualRecord, ...] = ()
    failures: dict[str, str]
    """Reasons by image or cell."""
    stopped: str | None = None
    """Why the run ended before all cells were tried."""
    started: str | None = None
    """ISO time at which that run began."""
    checked: str | None = None
    """ISO time at which the last run began, if it had nothing to process."""
    tiles: int
    """Number of tiles that the last run with anything to process has computed."""
    seconds: float = 0.0
    stages: dict[str, float]
    """Wall seconds, one after the other."""
    work: dict[str, float] = {}
    """Seconds inside the cells by stage; some of them at the same time."""
    engine_waited: float | None = None
    """Share of the cells' wall time in which the engine was idle."""
    totals: TotalsRecord = TotalsRecord()
    detections: dict[str, dict[str, int]] = {}
    """Number of objects by filtering step and class, left or removed."""
    products: dict[FileName, FileFacts] = {}
    """Files of the city."""
    objects: dict[FileName, ObjectRasterRecord] = {}
    """Rasters of objects' explanations, by cell."""
    written: dict[FileName, FileFacts] = {}
    """Files of the city as they were last written, also those that people may edit."""
    stac: dict[CataloguePath, FileFacts] = {}
    """Files of the STAC catalogue, by their path in it."""
    audit: dict[str, object] | None = None
    """Result of ``capecam audit`` of the same detections."""
    p_right: AppliedCalibration | None = None
    """How detections got their ``p_right``; None: they have none."""

    def to_json(self) -> JsonTree:
        """Return the keys that were read or given, but no empty ``audit`` and ``p_right``."""
        known = {"audit": self.audit, "p_right": self.p_right}
        return {k: v for k, v in super().to_json().items() if known.get(k, v) is not None}

    def with_products_of(self, other: RunRecord) -> RunRecord:
        """Return the record with the city products of another."""
        names = (
            "totals", "detections", "products", "objects", "written", "stac", "audit", "unusual",
            "p_right",
        )  # fmt: skip
        return self.model_copy(update={name: getattr(other, name) for name in names})

    def with_times_of(self, previous: RunRecord) -> RunRecord:
        """Return the record of a run that had nothing to process, with the times of another."""
        names = ("tiles", "seconds", "stages", "work", "engine_waited", "started")
        times = {name: getattr(previous, name) for name in names}
        return self.model_copy(update={**times, "checked": self.started})

    @property
    def last_written(self) -> dict[FileName, FileFacts]:
        """Files of the city as they were last written; records of 0.1.0 have the products alone."""
        return self.written or self.products

    @property
    def pixel_grid(self) -> Grid:
        """The mosaic's grid."""
        return Grid(self.grid.crs, self.anchor, self.grid.pixel, self.grid.window)


def read_record(path: Path, record: type[R]) -> R:
    """Read and validate a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, or not such a record; the message names the key.
    """
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise ValueError("no file, or far too large")
    try:
        return record.model_validate(json.loads(path.read_text("utf-8")))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part)[:40] for part in first["loc"])
        raise ValueError(f"{where}: {first['msg'][:100]}".lstrip(": ")) from error
