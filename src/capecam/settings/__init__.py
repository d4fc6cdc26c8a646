"""All settings as one validated, frozen tree, which ``settings.loading`` fills.

The options of the command line and docs/configuration.md are made from this tree; ``Option`` marks
the fields that have an option.
"""

from capecam.settings.about import AboutSettings
from capecam.settings.attribution import ExplainSettings, ObjectSettings
from capecam.settings.base import Option
from capecam.settings.choices import (
    DEFAULT_METHODS,
    METHODS,
    OBJECT_METHODS,
    OBJECT_TITLES,
    PIXEL_METHODS,
    PRECISIONS,
    SCORE_TITLES,
    SCORES,
    TITLES,
    VSI,
    WHERE,
)
from capecam.settings.compute import ComputeSettings, RunSettings
from capecam.settings.detections import (
    AuditSettings,
    ByClass,
    DetectionSettings,
    EvidenceSettings,
    QgisSettings,
    TruthSettings,
)
from capecam.settings.imagery import ImagerySettings, ValueRange
from capecam.settings.model import (
    CAPE_TOWN_CLASSES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    ClassSettings,
    ModelSettings,
    Triple,
)
from capecam.settings.mosaic import MosaicSettings, TilingSettings
from capecam.settings.tree import Setting, Settings, leaves

__all__ = [
    "CAPE_TOWN_CLASSES",
    "DEFAULT_METHODS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "METHODS",
    "OBJECT_METHODS",
    "OBJECT_TITLES",
    "PIXEL_METHODS",
    "PRECISIONS",
    "SCORES",
    "SCORE_TITLES",
    "TITLES",
    "VSI",
    "WHERE",
    "AboutSettings",
    "AuditSettings",
    "ByClass",
    "ClassSettings",
    "ComputeSettings",
    "DetectionSettings",
    "EvidenceSettings",
    "ExplainSettings",
    "ImagerySettings",
    "ModelSettings",
    "MosaicSettings",
    "ObjectSettings",
    "Option",
    "QgisSettings",
    "RunSettings",
    "Setting",
    "Settings",
    "TilingSettings",
    "Triple",
    "TruthSettings",
    "ValueRange",
    "leaves",
]
