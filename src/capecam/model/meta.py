"""Networks without numbers, built in a fraction of the time and memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from capecam.model.architecture import build_network
from capecam.settings import ModelSettings

ALLOCATING = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn}
"""Functions from which layers take their parameters. ``torch.linspace`` is not one of them: some
networks compute rates of dropout with it, which the meta device cannot tell."""


class OnMeta(TorchFunctionMode):
    """Context in which layers get their parameters on the meta device."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in ALLOCATING and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return func(*args, **kwargs)


def meta_network(settings: ModelSettings, channels: int) -> nn.Module:
    """Build a network on the meta device; raises as :func:`build_network`."""
    with OnMeta():
        network = build_network(settings, None, channels)
    return network.to("meta").eval()
