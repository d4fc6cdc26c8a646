"""The whole tree of settings, and a list of its leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self, get_args

from pydantic import BaseModel, Field, model_validator

from capecam.errors import SettingsError, UsageError
from capecam.settings.about import AboutSettings
from capecam.settings.attribution import ExplainSettings, ObjectSettings
from capecam.settings.base import Option, Section, check_name
from capecam.settings.compute import ComputeSettings, RunSettings
from capecam.settings.detections import (
    AuditSettings,
    DetectionSettings,
    EvidenceSettings,
    QgisSettings,
    TruthSettings,
)
from capecam.settings.imagery import ImagerySettings
from capecam.settings.model import ModelSettings
from capecam.settings.mosaic import MosaicSettings, TilingSettings


class Settings(Section):
    """All settings of a run."""

    sources: tuple[str, ...] = Field(
        (),
        description="images, folders of images, globs, or @list.txt with one of these per line "
        "(arguments of the command)",
    )
    checkpoint: Annotated[Path | None, Option("--checkpoint", "FILE")] = Field(
        None, description="trained network: .ckpt, .pt, .safetensors or a saved folder"
    )
    out: Annotated[Path | None, Option("--out", "DIR")] = Field(
        None, description="folder for all results"
    )
    model: ModelSettings = ModelSettings()
    imagery: ImagerySettings = ImagerySettings()
    mosaic: MosaicSettings = MosaicSettings()
    tiling: TilingSettings = Field(default_factory=TilingSettings)
    explain: ExplainSettings = ExplainSettings()
    compute: ComputeSettings = ComputeSettings()
    detections: DetectionSettings = DetectionSettings()
    objects: ObjectSettings = ObjectSettings()
    evidence: EvidenceSettings = EvidenceSettings()
    qgis: QgisSettings = QgisSettings()
    about: AboutSettings = AboutSettings()
    audit: AuditSettings = AuditSettings()
    truth: TruthSettings = TruthSettings()
    run: RunSettings = RunSettings()

    @property
    def target_gsd_m(self) -> float | None:
        """Size of a pixel on the ground to which images are resampled; None: as they are.

        Raises:
            SettingsError: the size of the model is wanted and not set.
        """
        if self.mosaic.gsd == "native":
            return None
        if self.model.gsd_m is None:
            raise SettingsError(
                "--gsd model (mosaic.gsd) needs model.gsd_m in a --config, the size of a pixel on "
                "the ground in training; set it, or leave out --gsd"
            )
        return self.model.gsd_m

    @property
    def decisive_method(self) -> str:
        """Method of the heatmap whose numbers the report and panels quote."""
        return self.evidence.method or self.explain.methods[0]

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        """Check names of one section that another section uses."""
        classes = [entry.name for entry in self.model.classes[1:]]
        for key in ("min_area_m2", "min_confidence"):
            value = getattr(self.detections, key)
            for name in value if isinstance(value, dict) else ():
                check_name(name, classes, f"detections.{key}: unknown class")
        if self.evidence.method is not None:
            check_name(
                self.evidence.method,
                self.explain.methods,
                "evidence.method: not in explain.methods:",
            )
        return self


@dataclass(frozen=True, slots=True)
class Setting:
    """One leaf of the tree."""

    key: str
    """Dotted YAML key: ``tiling.overlap``."""
    annotation: object
    default: object
    help: str
    option: Option | None

    @property
    def is_path(self) -> bool:
        """True if the value is the path of one file or folder."""
        return Path in (self.annotation, *get_args(self.annotation))


def leaves(section: type[BaseModel] = Settings, prefix: str = "") -> Iterator[Setting]:
    """Yield all settings, depth first, in the order of their declaration."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from leaves(kind, f"{prefix}{name}.")
        else:
            option = next((m for m in field.metadata if isinstance(m, Option)), None)
            default = field.get_default(call_default_factory=True)
            yield Setting(f"{prefix}{name}", kind, default, field.description or "", option)


def required(value: Path | None, key: str, option: str) -> Path:
    """Return the value of a setting that has no default.

    Raises:
        UsageError: it is not set.
    """
    if value is None:
        raise UsageError(f"{key} is not set; give {option} or set it in the configuration")
    return value
