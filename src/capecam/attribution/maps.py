"""What an engine makes of a batch of tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from capecam.errors import NotFiniteError


@dataclass(frozen=True, slots=True)
class Signals:
    """What one forward and its backward passes leave to the formulas. C: foreground classes."""

    logits: Tensor
    """(B, 1 + C, H, W)."""
    activations: Tensor
    """(B, K, h, w), A at the target layer."""
    gradients: Tensor
    """(B, C, K, h, w), dS_c/dA."""
    guided: Tensor | None
    """(B, C, 3, H, W), guided gradient of S_c with respect to the unnormalised pixels."""
    shared: Tensor | None
    """(B, 1, 3, H, W), the same of the sum of all foreground classes' scores."""


@dataclass(frozen=True, slots=True)
class Maps:
    """Everything about a batch of tiles, raw. C: foreground classes, in the order of the model."""

    probability: Tensor
    """(B, 1 + C, H, W), softmax; channel 0 is the background."""
    heat: dict[str, Tensor]
    """By method: CAMs (B, C, h, w) at the target layer's resolution, those of ``PIXEL_METHODS``
    (B, C, H, W); not negative, never scaled per tile."""
    explained: Tensor
    """(B, C) bool; False where ``where='detected'`` left tile and class out (the map is 0)."""
    singular: Tensor
    """() int64; Grad-CAM++ entries left out because their denominator vanishes."""
    broken: Tensor
    """() int64; values of heatmaps that are not finite, in fp16 by overflow."""


def check_finite(broken: Tensor, precision: str) -> None:
    """Wait for a count of ``Maps.broken``, and raise if it is not 0.

    Raises:
        NotFiniteError: heatmaps have values that no raster can hold.
    """
    if count := int(broken):
        remedy = (
            "use --precision bf16 or fp32"
            if precision == "fp16"
            else "check the checkpoint and how its input is scaled (model.input_max)"
        )
        raise NotFiniteError(f"{count} values of heatmaps are not finite in {precision}; {remedy}")


def join_maps(parts: Sequence[Maps]) -> Maps:
    """Batches of maps as one."""
    if len(parts) == 1:
        return parts[0]
    return Maps(
        torch.cat([part.probability for part in parts]),
        {name: torch.cat([part.heat[name] for part in parts]) for name in parts[0].heat},
        torch.cat([part.explained for part in parts]),
        torch.stack([part.singular for part in parts]).sum(),
        torch.stack([part.broken for part in parts]).sum(),
    )
