"""The device that the network runs on."""

from __future__ import annotations

import torch

from capecam.errors import SettingsError


def pick_device(name: str) -> torch.device:
    """``auto`` is the first GPU, if there is one.

    Raises:
        SettingsError: it is no device, or a GPU that is not there.
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
