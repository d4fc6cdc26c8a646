"""Engine that explains tiles with onnxruntime, where its maps are close enough."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from torch import Tensor

from capecam.attribution.engine import Engine
from capecam.attribution.graph.onnx_session import (
    TOLERANCE,
    OnnxSession,
    decisive_errors,
    require_onnx,
)
from capecam.attribution.maps import Explanation
from capecam.errors import SettingsError
from capecam.model.model import Model
from capecam.settings import DEFAULT_METHODS

log = logging.getLogger(__name__)

PATIENCE = 16
"""Number of batches of one kind that autograd explains before a session is made, which takes as
long as about so many of them (FPN resnext50_32x4d, batches of 4 tiles of 320 px)."""

MAX_SESSIONS = 8
"""Maximum number of sessions, each of which holds the weights; autograd takes other batches."""


class Kind(NamedTuple):
    """What a session is fixed to."""

    size: int
    """Edge of the tiles."""
    classes: tuple[int, ...] | None


class OnnxEngine(Engine):
    """Engine that exports each kind of batch to onnxruntime, and uses that if it is exact enough.

    Its maps have to be those of autograd within ``TOLERANCE`` for tiles of the run (guided ones in
    nearly all pixels); otherwise a warning says how far they are off, and autograd goes on. For
    arguments and other errors see :class:`Engine`.

    Raises:
        SettingsError: a package is missing, or device or precision are others than cpu and fp32.
    """

    def __init__(
        self, model: Model, methods: Sequence[str] = DEFAULT_METHODS, **options: Any
    ) -> None:
        require_onnx()
        from capecam.attribution.graph.onnx_export import in_float32  # noqa: PLC0415 an extra

        super().__init__(in_float32(model), methods, **options)
        if self.device.type != "cpu" or self.precision != "fp32":
            raise SettingsError(
                f"the engine onnx runs on the CPU in fp32, not on {self.device.type} in "
                f"{self.precision}; choose --device cpu and --precision fp32"
            )
        self.patience, self.tolerance = PATIENCE, TOLERANCE
        self._sessions: dict[Kind, OnnxSession | None] = {}
        self._seen: Counter[Kind] = Counter()

    def at(self, precision: str, methods: Sequence[str] | None = None) -> Self:
        """Return an engine that shares this one's network, but no sessions."""
        engine = super().at(precision, methods)
        engine._sessions, engine._seen = {}, Counter()
        return engine

    def explain(
        self, pixels: Tensor, valid: Tensor, classes: tuple[int, ...] | None = None
    ) -> Explanation:
        """Compute the heatmaps of a batch."""
        kind = Kind(pixels.shape[-1], classes)
        if session := self._sessions.get(kind):
            return self._explanation(session(pixels, valid))
        explanation = super().explain(pixels, valid, classes)
        if self._is_due(kind):
            self._sessions[kind] = self._made(explanation, pixels, valid, classes)
        return explanation

    def _explanation(self, results: dict[str, Tensor]) -> Explanation:
        heat = {name: results[name] for name in self.methods}
        return Explanation(results["logits"], heat, results["singular"])

    def _is_due(self, kind: Kind) -> bool:
        """Return True if it is time to make a session."""
        self._seen[kind] += 1
        enough = self._seen[kind] > self.patience
        return enough and kind not in self._sessions and len(self._sessions) < MAX_SESSIONS

    def _made(
        self, expected: Explanation, pixels: Tensor, valid: Tensor, classes: tuple[int, ...] | None
    ) -> OnnxSession | None:
        """Return a session that repeats an explanation closely; None if there is none."""
        from capecam.attribution.graph.onnx_export import export  # noqa: PLC0415 an extra

        def compute(pixels: Tensor, valid: Tensor) -> dict[str, Tensor]:
            found = super(OnnxEngine, self).explain(pixels, valid, classes)
            return {"logits": found.logits, **found.heat, "singular": found.singular}

        try:
            session = OnnxSession(export(compute, pixels[-1]))
        except (RuntimeError, SettingsError) as error:
            log.warning("autograd explains the tiles: no ONNX graph of the network: %s", error)
            return None
        found = self._explanation(session(pixels, valid))
        errors = decisive_errors(found.heat, expected.heat)
        name = max(errors, key=errors.__getitem__)
        if not errors[name] <= self.tolerance:
            log.warning(
                "onnxruntime's %s is %.1e of its range off; autograd explains the tiles",
                name,
                errors[name],
            )
            return None
        return session
