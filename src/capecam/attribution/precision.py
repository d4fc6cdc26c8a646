"""In what precision a network runs; formulas run in float32 at least, whatever it is."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Precisions of 16 bits: those of convolutions and what follows them; weights are kept as they
are, and batch norms add and multiply in float32."""


def half_precision(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """For a forward: PyTorch's mixed precision, if ``precision`` has 16 bits."""
    dtype = HALF.get(precision)
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def repeatable(precision: str) -> AbstractContextManager[object]:
    """For forward and backward: a GPU gives the same bits each time, and TF32 only if asked.

    PyTorch's defaults have TF32 on for convolutions, and algorithms that add in any order.
    """
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=precision == "tf32"
    )


def score_factor(precision: str, pixels: int) -> float:
    """What scores are multiplied by before the backward: a power of two, divided out exactly.

    In fp16, 8.5 % of the guided gradients of a mean score are below the smallest number (DESIGN
    section 3). With the factor the gradient of a logit is about 1.

    Args:
        precision: of the network.
        pixels: of a tile.
    """
    return float(1 << (pixels.bit_length() - 1)) if precision == "fp16" else 1.0
