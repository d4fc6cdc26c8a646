"""The whole tree, and its leaves as the command line and the documentation need them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, Field, model_validator

from capecam.errors import SettingsError, UsageError
from capecam.settings.attribution import ExplainSettings
from capecam.settings.base import Option, Section, among
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
    tiling: TilingSettings = Field(default_factory=TilingSettings)
    explain: ExplainSettings = ExplainSettings()
    compute: ComputeSettings = ComputeSettings()
    detections: DetectionSettings = DetectionSettings()
    evidence: EvidenceSettings = EvidenceSettings()
    qgis: QgisSettings = QgisSettings()
    audit: AuditSettings = AuditSettings()
    truth: TruthSettings = TruthSettings()
    run: RunSettings = RunSettings()

    @property
    def target_gsd_m(self) -> float | None:
        """Edge of a pixel on the ground to which images are resampled; None: as they are.

        Raises:
            SettingsError: it is to be the model's, and nobody has said what that is.
        """
        if self.mosaic.gsd == "native":
            return None
        if self.model.gsd_m is None:
            raise SettingsError(
                "--gsd model (mosaic.gsd) needs model.gsd_m in a --config: the metres on the "
                "ground that a pixel was in training"
                "; set it, or leave out --gsd"
            )
        return self.model.gsd_m

    @property
    def decisive_method(self) -> str:
        """The heatmap that decides about evidence."""
        return self.evidence.method or self.explain.methods[0]

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        """Sections speak of each other's names."""
        classes = [entry.name for entry in self.model.classes[1:]]
        for key in ("min_area_m2", "min_confidence"):
            value = getattr(self.detections, key)
            for name in value if isinstance(value, dict) else ():
                among(name, classes, f"detections.{key}: unknown class")
        if self.evidence.method is not None:
            among(self.evidence.method, self.explain.methods, "evidence.method: not made here:")
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

    @property
    def is_path(self) -> bool:
        """Whether its value is the path of one file or folder."""
        return Path in (self.annotation, *get_args(self.annotation))


def leaves(section: type[BaseModel] = Settings, prefix: str = "") -> Iterator[Setting]:
    """All settings, depth first, in the order in which they are written above."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from leaves(kind, f"{prefix}{name}.")
        else:
            option = next((m for m in field.metadata if isinstance(m, Option)), None)
            default = field.get_default(call_default_factory=True)
            yield Setting(f"{prefix}{name}", kind, default, field.description or "", option)


def required(value: Path | None, key: str, option: str) -> Path:
    """A setting that has no default."""
    if value is None:
        raise UsageError(f"{key} is not set; give {option} or set it in the configuration")
    return value
