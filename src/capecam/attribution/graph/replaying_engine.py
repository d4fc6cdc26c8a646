"""Engine that lets something faster repeat its passes."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from capecam.attribution.engine import Engine
from capecam.attribution.maps import Explanation
from capecam.model.model import Model
from capecam.settings import DEFAULT_METHODS

Replay = Callable[[Tensor, Tensor], Explanation]
"""Takes pixels and their validity, and returns what :meth:`Engine.explain` would."""


class ReplayingEngine(Engine):
    """Engine that prepares a replay for each kind of batch, after some batches by autograd.

    A kind for which no replay is good enough is left to autograd. For arguments and errors see
    :class:`Engine`.
    """

    patience: int
    """Number of batches of a kind before a replay is prepared, which takes as long as some."""
    max_kinds: int
    """Maximum number of kinds; batches of others are left to autograd."""

    def __init__(
        self, model: Model, methods: Sequence[str] = DEFAULT_METHODS, **options: Any
    ) -> None:
        super().__init__(model, methods, **options)
        self.replays: dict[Hashable, Replay | None] = {}
        """Replays by kind of batch; None where there is none."""
        self._seen: Counter[Hashable] = Counter()

    def at(self, precision: str, methods: Sequence[str] | None = None) -> Self:
        """Return an engine that shares this one's network, and replays if it computes the same."""
        engine = super().at(precision, methods)
        if (engine.precision, engine.methods) != (self.precision, self.methods):
            engine.replays, engine._seen = {}, Counter()
        return engine

    def explain(
        self, pixels: Tensor, valid: Tensor, classes: tuple[int, ...] | None = None
    ) -> Explanation:
        """Compute the heatmaps of a batch that fits the device."""
        pixels, valid = (x.to(self.device, non_blocking=True) for x in (pixels, valid))
        kind = self.kind(pixels, classes)
        try:
            if kind not in self.replays:
                explanation = super().explain(pixels, valid, classes)
                if not self._is_due(kind):
                    return explanation
                self.replays[kind] = self.prepare(explanation, pixels, valid, classes)
            replay = self.replays[kind] or self.by_autograd(classes)
            return replay(pixels, valid)
        except torch.OutOfMemoryError:
            self.replays.clear()  # they may hold memory
            raise

    @abstractmethod
    def kind(self, pixels: Tensor, classes: tuple[int, ...] | None) -> Hashable:
        """Return what a replay is fixed to."""

    @abstractmethod
    def prepare(
        self, expected: Explanation, pixels: Tensor, valid: Tensor, classes: tuple[int, ...] | None
    ) -> Replay | None:
        """Return a replay that repeats an explanation; None, with a warning, if there is none."""

    def by_autograd(
        self, classes: tuple[int, ...] | None
    ) -> Callable[[Tensor, Tensor], Explanation]:
        """Return a function that explains as autograd does."""

        def explain(pixels: Tensor, valid: Tensor) -> Explanation:
            return super(ReplayingEngine, self).explain(pixels, valid, classes)

        return explain

    def _is_due(self, kind: Hashable) -> bool:
        """Return True if it is time to prepare a replay."""
        self._seen[kind] += 1
        return self._seen[kind] > self.patience and len(self.replays) < self.max_kinds
