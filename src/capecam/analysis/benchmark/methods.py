"""Methods that are compared: each maps a batch of tiles to heatmaps."""

from __future__ import annotations

import copy
from functools import cache
from typing import Protocol

import torch
from torch import Tensor, nn

from capecam.attribution.graph.graph_engine import GraphEngine
from capecam.model.model import Model
from capecam.settings import METHODS

Heat = dict[str, Tensor]
"""By method (B, C, h, w), C foreground classes, at any resolution and scale; and under ``DECISION``
what the network decides by, if the way tells it."""

DECISION = "decision"
"""(B, 1 + C, S, S), logits or probabilities."""


class ExplanationMethod(Protocol):
    """Method of explaining a batch of tiles."""

    name: str
    methods: tuple[str, ...]
    """Names of the heatmaps that it computes."""
    forwards: bool
    """True if it can run the forward pass alone."""

    def __call__(self, pixels: Tensor, methods: tuple[str, ...]) -> Heat:
        """(B, 3, S, S) uint8 on the device to the maps of ``methods``."""


class Capecam:
    """capecam's engine, one for each list of methods; it captures its graphs at once."""

    methods: tuple[str, ...] = METHODS
    forwards = True

    def __init__(self, model: Model, device: torch.device, precision: str = "fp32") -> None:
        self.name = f"capecam {precision}"

        @cache
        def engine(methods: tuple[str, ...]) -> GraphEngine:
            made = GraphEngine(model, methods, precision=precision, device=device)
            made.patience = 0
            return made

        self._engine = engine

    def __call__(self, pixels: Tensor, methods: tuple[str, ...]) -> Heat:
        """Explain tiles without nodata; without methods, run the forward pass alone."""
        if not methods:
            return {DECISION: self._engine(("gradcam",)).logits(pixels)}
        maps = self._engine(methods)(pixels, torch.ones_like(pixels[:, 0], dtype=torch.bool))
        return {DECISION: maps.probability, **maps.heat}


class Scores(nn.Module):
    """Pixels 0..255 -> the mean logit of every class: a classifier, as the peers want one.

    Parameters require gradients, as those of a network that somebody has just loaded do.
    """

    def __init__(self, model: Model, device: torch.device) -> None:
        super().__init__()
        self.network = copy.deepcopy(model.network).requires_grad_(True)
        for module in self.network.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False  # module backward hooks fail on in-place ReLUs
        self.normalised = model.normalisation.on(device)
        self.eval().to(device)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) float -> (B, 1 + C)."""
        logits: Tensor = self.network(self.normalised(pixels))
        return logits.mean(dim=(2, 3))
