"""Settings of the network, and what it expects as input."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from capecam.settings.base import Section

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ClassSettings(Section):
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


class ModelSettings(Section):
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
