"""The device that the network runs on, and its precision there.

Formulas run in float32 at least, whatever the precision of the network is.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from capecam.errors import SettingsError

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Precisions of 16 bits, for convolutions and what follows them; weights are kept as they are, and
batch norms add and multiply in float32."""


def pick_device(name: str) -> torch.device:
    """Return the device of a name; ``auto`` is the first GPU, or the CPU without one.

    Raises:
        SettingsError: the name is not of a device, or of a GPU that does not exist.
    """
    count = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SettingsError(f"device must be auto, cpu, cuda or cuda:1, got {name!r}") from None
    if device.type == "cuda" and (device.index or 0) >= count:
        raise SettingsError(f"device {name} is not there: {count} CUDA device(s) found; use cpu")
    return device


def half_precision(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return a context for the forward: mixed precision if ``precision`` has 16 bits."""
    dtype = HALF.get(precision)
    return torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def repeatable(precision: str) -> AbstractContextManager[object]:
    """Return a context in which a GPU repeats its results bit for bit.

    PyTorch's defaults are TF32 for convolutions, and algorithms that add in any order.
    """
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=precision == "tf32"
    )


def score_factor(precision: str, pixels: int) -> float:
    """Return the factor of scores in the backward: a power of two, divided out exactly.

    In fp16, 8.5 % of the guided gradients of a mean score would be below the smallest number.
    With the factor the gradient of a logit is about 1.

    Args:
        precision: of the network.
        pixels: number of pixels of a tile.
    """
    return float(1 << (pixels.bit_length() - 1)) if precision == "fp16" else 1.0
