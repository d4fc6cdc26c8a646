"""Settings of the network and its input."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from capecam.settings.base import Option, Section

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class ClassSettings(Section):
    """One class of the network."""

    name: str = Field(min_length=1)
    color: str = Field(pattern=r"^#[0-9A-Fa-f]{6}$", description="#RRGGBB")

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green and blue, 0..255."""
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
    """Architecture of the network of the checkpoint, and its input."""

    architecture: str | None = Field(
        None, description="segmentation_models_pytorch architecture: FPN, Unet, DeepLabV3Plus ..."
    )
    encoder: str | None = Field(
        None, description="encoder of the architecture: resnext50_32x4d ..."
    )
    options: dict[str, object] = Field(
        default_factory=dict, description="other arguments of the architecture"
    )
    weights: Annotated[str | None, Option("--weights", "NAME")] = Field(
        None,
        description="network of the checkpoint, where it holds several: the beginning of its keys, "
        "such as ema_model",
    )
    classes: tuple[ClassSettings, ...] = Field(
        CAPE_TOWN_CLASSES,
        min_length=2,
        description="name and colour of each output channel, 0 first",
    )
    activation: Literal["softmax", "sigmoid"] | None = Field(
        None,
        description="conversion of logits to probabilities; sigmoid is for one channel, with an "
        "implicit background and one class; default depends on the number of channels",
    )
    input_max: float = Field(
        1.0,
        gt=0,
        description="input of the network for a pixel of 255: 1, or 255 if it is not scaled",
    )
    mean: Triple | None = Field(
        None,
        description="subtracted from the input; default is from the checkpoint, or of ImageNet",
    )
    std: Triple | None = Field(
        None, description="divisor of the input after that; default as for mean"
    )
    gsd_m: float | None = Field(
        None, gt=0, description="size of a pixel on the ground in training, in metres"
    )
    target_layer: str | None = Field(
        None,
        description="layer whose activations the CAMs use: layer4.2.conv3 or layer4[-1].conv3; "
        "default is the layer whose output is the encoder's last feature map",
    )
