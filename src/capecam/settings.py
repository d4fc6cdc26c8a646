"""All settings as one validated, frozen tree. ``configfile`` fills it.

The command line's options are made from this tree (``Option`` marks the fields that have one), and
so is docs/configuration.md; nothing about a setting is written down twice.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    model_validator,
)

from capecam.errors import SettingsError
from capecam.grid import Tiling

METHODS = (
    "gradcam", "gradcampp", "gradcampp_notebook", "hirescam", "layercam", "xgradcam",
    "guided_gradcam", "guided_gradcam_shared",
)  # fmt: skip
"""The heatmaps by name, which is also the stem of their files. The formulas are in
``attribution``, which imports torch; a test compares the two lists."""

TITLES = {
    "gradcam": "Grad-CAM",
    "gradcampp": "Grad-CAM++",
    "gradcampp_notebook": "Grad-CAM++ (notebook)",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "xgradcam": "XGrad-CAM",
    "guided_gradcam": "Guided Grad-CAM",
    "guided_gradcam_shared": "Guided Grad-CAM (shared)",
}
"""Methods as people write them."""

PIXEL_METHODS = ("guided_gradcam", "guided_gradcam_shared")
"""Those at full resolution; the others come in blocks."""

DEFAULT_METHODS = ("gradcam", "gradcampp", "guided_gradcam")

SCORES = ("mean", "predicted")

SCORE_TITLES = {
    "mean": "the class's mean logit over the tile",
    "predicted": "the class's logit over the pixels predicted as it",
}
"""What is explained, as people write it."""

WHERE = ("all", "detected")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
"""From the most exact to the fastest."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True)
class Option:
    """Marks a field that the command line offers: its flag and the value's name in the help."""

    flag: str
    metavar: str | None = None


def _among(name: str, known: Sequence[str], what: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, 1) or [", ".join(known)]
        raise ValueError(f"{what} {name!r}; did you mean {near[0]}?")


def _known_methods(methods: tuple[str, ...]) -> tuple[str, ...]:
    for method in methods:
        _among(method, METHODS, "unknown method")
    if not methods:
        raise ValueError("at least one method is needed")
    if len(set(methods)) < len(methods):
        raise ValueError(f"a method is named twice: {', '.join(methods)}")
    return methods


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class ClassSettings(_Section):
    """One class of the network, in the order of its output channels."""

    name: str = Field(min_length=1)
    color: str = Field(pattern=r"^#[0-9A-Fa-f]{6}$", description="#RRGGBB")

    @property
    def rgb(self) -> tuple[int, int, int]:
        """The colour as 0..255."""
        red, green, blue = bytes.fromhex(self.color[1:])
        return red, green, blue


CAPE_TOWN_CLASSES = (
    ClassSettings(name="background", color="#000000"),
    ClassSettings(name="solar panel", color="#00FF00"),
    ClassSettings(name="water heater", color="#FF0000"),
    ClassSettings(name="pool heater", color="#0000FF"),
)

Triple = tuple[float, float, float]


class ModelSettings(_Section):
    """The network that the checkpoint belongs to, and what it expects as input."""

    architecture: str | None = Field(
        None, description="segmentation_models_pytorch architecture: FPN, Unet, DeepLabV3Plus ..."
    )
    encoder: str | None = Field(None, description="its encoder: resnext50_32x4d ...")
    options: dict[str, Any] = Field(
        default_factory=dict, description="further arguments of the architecture"
    )
    classes: tuple[ClassSettings, ...] = Field(
        CAPE_TOWN_CLASSES, min_length=2, description="name and colour by output channel; 0 first"
    )
    activation: Literal["softmax", "sigmoid"] | None = Field(
        None,
        description="what makes probabilities of logits; sigmoid is for one channel: "
        "an implicit background and one class. Else by the number of channels",
    )
    input_max: float = Field(
        1.0, gt=0, description="what a pixel of 255 is to the network: 1, or 255 if not scaled"
    )
    mean: Triple | None = Field(
        None, description="subtracted from scaled pixels; else the checkpoint's own, else ImageNet"
    )
    std: Triple | None = Field(None, description="then divided by; else as for mean")
    gsd_m: float | None = Field(
        None, gt=0, description="metres on the ground that a pixel was in training"
    )
    target_layer: str | None = Field(
        None,
        description="where the CAMs look: layer4.2.conv3 or layer4[-1].conv3; "
        "else the last Conv2d that the encoder runs",
    )


def _bands(value: object) -> object:
    """auto, gray, palette, or three band numbers; on the command line with commas."""
    if value in ("auto", "gray", "palette"):
        return value
    parts = value.split(",") if isinstance(value, str) else value
    try:
        red, green, blue = map(int, parts)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise ValueError("must be auto, gray, palette or three band numbers, R,G,B") from None
    if min(red, green, blue) < 1:
        raise ValueError("must be band numbers from 1 on, R,G,B")
    return red, green, blue


@dataclass(frozen=True, slots=True)
class Scale:
    """Which values become 0 and 255; those beyond are clipped."""

    low: float
    high: float
    percent: bool = False
    """They are percentiles of the whole mosaic, 0..100."""

    def __post_init__(self) -> None:
        top = 100.0 if self.percent else float("inf")
        if not self.low < self.high <= top or (self.percent and self.low < 0):
            raise ValueError("must be LOW,HIGH with LOW below HIGH, or percentiles such as 2%,98%")
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            raise ValueError("must be two finite numbers, LOW,HIGH")

    def __str__(self) -> str:
        mark = "%" if self.percent else ""
        return f"{self.low:g}{mark},{self.high:g}{mark}"


def _scale(value: object) -> object:
    """0,4095 or 2%,98%."""
    if value is None or isinstance(value, Scale):
        return value
    parts = value.split(",") if isinstance(value, str) else value
    try:
        low, high = map(str, parts)  # type: ignore[call-overload]
        marks = [text.strip().endswith("%") for text in (low, high)]
        bottom, top = (float(text.strip().removesuffix("%")) for text in (low, high))
    except (TypeError, ValueError):
        raise ValueError("must be LOW,HIGH, or percentiles such as 2%,98%") from None
    if marks[0] != marks[1]:
        raise ValueError("must be two values or two percentiles, not one of each")
    return Scale(bottom, top, percent=marks[0])


class ImagerySettings(_Section):
    """How an image file becomes red, green and blue pixels of 0..255 (docs/inputs.md)."""

    bands: Annotated[
        Literal["auto", "gray", "palette"] | tuple[int, int, int],
        BeforeValidator(_bands),
        Option("--bands", "R,G,B|gray|palette"),
    ] = Field(
        "auto",
        description="numbers of the red, green and blue band, from 1; auto goes by the file's "
        "colour interpretation; gray is band 1 as all three, palette the colours of band 1's table",
    )
    scale: Annotated[
        Scale | None,
        BeforeValidator(_scale),
        PlainSerializer(lambda scale: None if scale is None else str(scale)),
        Option("--scale", "LOW,HIGH|P%,P%"),
    ] = Field(
        None,
        description="for images that are not uint8: values that become 0 and 255, or percentiles "
        "of the whole mosaic such as 2%,98%",
    )
    crs: Annotated[str | None, Option("--crs", "CRS")] = Field(
        None, description="of images that say none: EPSG:..., ESRI:..., WKT or PROJ"
    )
    collar: Annotated[Literal["none", "auto"], Option("--collar")] = Field(
        "none",
        description="auto: a black or white border that the file does not mark as nodata is none "
        "the less no imagery",
    )
    allow_vrt: Annotated[bool, Option("--allow-vrt")] = Field(
        False,
        description="read VRTs too, whose own sources must be GeoTIFFs in the folders given",
    )
    checksums: Annotated[Path | None, Option("--checksums", "FILE")] = Field(
        None,
        description="lines of checksum and file name, as sha256sum or md5sum writes them: images "
        "that differ fail",
    )


class TilingSettings(_Section):
    """The lattice of windows."""

    size: Annotated[int, Option("--tile", "PX")] = Field(
        320, ge=1, description="edge of a tile in pixels"
    )
    overlap: Annotated[int, Option("--overlap", "PX")] = Field(
        70, ge=0, description="how far neighbouring tiles overlap"
    )
    stride: int = Field(10, ge=1, description="edge of a heatmap block in pixels")
    anchor: tuple[float, float] | None = Field(
        None,
        description="point of the lattice in CRS units; else the mosaic's top-left corner",
    )
    cell_size: Annotated[int, Option("--cell-size", "PX")] = Field(
        12_500, ge=1, description="larger images are worked on in parts of this size"
    )

    @property
    def tiling(self) -> Tiling:
        """The lattice itself."""
        return Tiling(self.size, self.overlap, self.stride)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        step = self.tiling.step
        if self.cell_size < step:
            raise SettingsError(
                f"cell_size must be at least one step of {step} px, got {self.cell_size}"
            )
        return self


def _bounds(value: object) -> object:
    """Left, bottom, right, top; on the command line with commas."""
    parts = value.split(",") if isinstance(value, str) else value
    try:
        left, bottom, right, top = map(float, parts)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise ValueError("must be four numbers, X0,Y0,X1,Y1") from None
    if not (left < right and bottom < top):
        raise ValueError("must be the lower left and the upper right corner, X0,Y0,X1,Y1")
    return left, bottom, right, top


class MosaicSettings(_Section):
    """How images become one grid, and which part of it is worked on."""

    align: Annotated[Literal["snap", "warp", "error"], Option("--align")] = Field(
        "snap",
        description="snap: images of the mosaic's grid that lie a part of a pixel off go to the "
        "nearest pixel, others fail; warp: those are reprojected; error: both fail",
    )
    gsd: Annotated[Literal["native", "model"], Option("--gsd")] = Field(
        "native",
        description="ground sampling: that of the images, or that of the model (model.gsd_m), to "
        "which images are resampled",
    )
    aoi: Annotated[Path | None, Option("--aoi", "FILE")] = Field(
        None,
        description="area of interest, any vector format: tiles that do not touch it are not run",
    )
    bbox: Annotated[
        tuple[float, float, float, float] | None,
        BeforeValidator(lambda value: value if value is None else _bounds(value)),
        Option("--bbox", "X0,Y0,X1,Y1"),
    ] = Field(None, description="the same as a rectangle, in the CRS of the mosaic")
    footprints: Annotated[Path | None, Option("--footprints", "FILE")] = Field(
        None,
        description="building footprints, any vector format: tiles without one are not run, and "
        "objects off them are dropped (detections.footprint_share)",
    )


class ExplainSettings(_Section):
    """Which heatmaps, of which score, where, and on which scale."""

    methods: Annotated[
        tuple[str, ...], AfterValidator(_known_methods), Option("--methods", "LIST")
    ] = Field(
        DEFAULT_METHODS,
        description=f"heatmaps to make, comma-separated: {', '.join(METHODS)}",
    )
    score: Annotated[Literal["mean", "predicted"], Option("--score")] = Field(
        "mean",
        description="what is explained: the class's mean logit over the tile's valid pixels, "
        "or over those predicted as the class",
    )
    where: Annotated[Literal["all", "detected"], Option("--where")] = Field(
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


def _count_or_auto(value: object) -> int | str:
    """One message, where pydantic has one for each type."""
    if value == "auto":
        return "auto"
    if not str(value).isdecimal() or int(str(value)) < 1:
        raise ValueError("must be auto or a number from 1 on")
    return int(str(value))


class ComputeSettings(_Section):
    """The machine. Nothing here but the precision changes results beyond rounding."""

    device: Annotated[str, Option("--device")] = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:1"
    )
    precision: Annotated[Literal["auto", "fp32", "tf32", "bf16", "fp16"], Option("--precision")] = (
        Field(
            "auto",
            description="of the network; auto is the fastest whose Grad-CAM correlates with fp32 "
            "above 0.99 for every class, fp32 on a CPU",
        )
    )
    batch_size: Annotated[
        int | Literal["auto"], BeforeValidator(_count_or_auto), Option("--batch-size", "N|auto")
    ] = Field(
        "auto",
        description="tiles that go through the network together; auto is what the device holds",
    )
    workers: int | None = Field(
        None, ge=1, description="processes that make cells: else one a GPU, or one on a CPU"
    )
    gpus_per_worker: float = Field(
        1.0, gt=0, le=1, description="on a cluster: of a GPU, so that several share one"
    )
    cluster: Annotated[str | None, Option("--cluster", "local-ray|ADDRESS")] = Field(
        None, description="make cells on Ray: of this machine, or of a cluster (host:6379, auto)"
    )
    readers: Annotated[int, Option("--readers", "N")] = Field(
        3, ge=0, description="threads that read imagery ahead; 0 reads in the main thread"
    )


class RunSettings(_Section):
    """How this run goes about it; nothing here changes results."""

    shard: Annotated[
        tuple[int, int] | None,
        BeforeValidator(lambda value: value if value is None else _share(value)),
        Option("--shard", "I/N"),
    ] = Field(
        None,
        description="do the I-th of N shares of the cells, 1/4 to 4/4, beside other runs on the "
        "same output; then capecam finish",
    )
    in_process: Annotated[bool, Option("--in-process")] = Field(
        False, description="no worker processes: for debugging"
    )
    recalibrate: Annotated[bool, Option("--recalibrate")] = Field(
        False, description="sample the colour scale anew"
    )
    retry_failed: Annotated[bool, Option("--retry-failed")] = Field(
        False, description="try cells again that failed before, although nothing changed"
    )
    max_failures: Annotated[int | None, Option("--max-failures", "N")] = Field(
        None, ge=0, description="stop when more cells than these have failed"
    )
    prune: Annotated[bool, Option("--prune")] = Field(
        False, description="remove the cells of images that are no longer among the sources"
    )
    dry_run: Annotated[bool, Option("--dry-run")] = Field(
        False, description="only say what would be done and why"
    )


def _share(value: object) -> object:
    """(I, N) of I/N."""
    parts = value.split("/") if isinstance(value, str) else value
    try:
        index, count = map(int, parts)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise ValueError("must be two numbers, I/N, such as 1/4") from None
    if not 1 <= index <= count:
        raise ValueError("must be I/N with I from 1 to N")
    return index, count


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


class DetectionSettings(_Section):
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


class EvidenceSettings(_Section):
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


class QgisSettings(_Section):
    """The project that opens in QGIS (docs/qgis.md)."""

    imagery: Annotated[bool, Option("--imagery")] = Field(
        False,
        description="put the images under everything else in OUT/capecam.qgz; it then depends on "
        "where they lie, seen from OUT",
    )


class AuditSettings(_Section):
    """Whether the explanations can be believed (docs/method.md)."""

    sample: Annotated[int, Option("--audit", "N")] = Field(
        0, ge=0, description="after the run, audit the explanations of so many detections"
    )
    seed: int = Field(0, ge=0, description="of that sample, and of what is randomised")


class TruthSettings(_Section):
    """How annotations name their classes."""

    class_column: str = Field("class", description="column with the name of the class")
    flags: dict[str, str] = Field(
        {"PV_normal": "solar panel", "PV_heater": "water heater", "PV_pool": "pool heater"},
        description="without that column: columns that are 1 for one class, and its name",
    )


class Settings(_Section):
    """Everything a run needs to know."""

    sources: tuple[str, ...] = Field(
        (),
        description="images, folders of images, globs, or @list.txt with one of these a line "
        "(the command's arguments)",
    )
    checkpoint: Annotated[Path | None, Option("--checkpoint", "FILE")] = Field(
        None, description="the trained network: .ckpt, .pt, .safetensors or a saved folder"
    )
    out: Annotated[Path | None, Option("--out", "DIR")] = Field(
        None, description="folder for everything that is made"
    )
    model: ModelSettings = ModelSettings()
    imagery: ImagerySettings = ImagerySettings()
    mosaic: MosaicSettings = MosaicSettings()
    tiling: TilingSettings = TilingSettings()
    explain: ExplainSettings = ExplainSettings()
    compute: ComputeSettings = ComputeSettings()
    detections: DetectionSettings = DetectionSettings()
    evidence: EvidenceSettings = EvidenceSettings()
    qgis: QgisSettings = QgisSettings()
    audit: AuditSettings = AuditSettings()
    truth: TruthSettings = TruthSettings()
    run: RunSettings = RunSettings()

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        """Sections speak of each other's names."""
        classes = [entry.name for entry in self.model.classes[1:]]
        for key in ("min_area_m2", "min_confidence"):
            value = getattr(self.detections, key)
            for name in value if isinstance(value, dict) else ():
                _among(name, classes, f"detections.{key}: unknown class")
        if self.evidence.method is not None:
            _among(self.evidence.method, self.explain.methods, "evidence.method: not made here:")
        return self


@dataclass(frozen=True, slots=True)
class Setting:
    """One leaf of the tree, as the command line and the documentation need it."""

    key: str
    """Dotted YAML key: ``tiling.overlap``."""
    annotation: Any
    default: Any
    help: str
    option: Option | None


def leaves(section: type[BaseModel] = Settings, prefix: str = "") -> Iterator[Setting]:
    """All settings, depth first, in the order in which they are written above."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, _Section):
            yield from leaves(kind, f"{prefix}{name}.")
        else:
            option = next((m for m in field.metadata if isinstance(m, Option)), None)
            default = field.get_default(call_default_factory=True)
            yield Setting(f"{prefix}{name}", kind, default, field.description or "", option)
