"""Engine that explains tiles with onnxruntime, where its maps are close enough."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from capecam.attribution.graph.onnx_session import (
    TOLERANCE,
    OnnxSession,
    decisive_errors,
)
from capecam.attribution.graph.replaying_engine import Replay, ReplayingEngine
from capecam.attribution.maps import Explanation
from capecam.errors import SettingsError
from capecam.model.model import Model
from capecam.runtime.extras import require_onnx
from capecam.settings import DEFAULT_METHODS

log = logging.getLogger(__name__)

PATIENCE = 0
"""All batches are explained alike, though making a session takes as long as some 16 of them (FPN
resnext50_32x4d, 4 tiles of 320 px): rounding must not depend on where a run was interrupted."""

MAX_SESSIONS = 8
"""Each session holds the weights."""


class Kind(NamedTuple):
    """Properties of a batch that a session is fixed to."""

    size: int
    """Edge of the tiles."""
    classes: tuple[int, ...] | None


class OnnxEngine(ReplayingEngine):
    """Engine that exports each kind of batch to onnxruntime, and uses that if it is exact enough.

    Its maps have to be those of autograd within ``TOLERANCE`` for tiles of the run (guided ones in
    nearly all pixels); otherwise a warning says how far they are off, and autograd goes on. For
    arguments and other errors see :class:`Engine`.

    Raises:
        SettingsError: a package is missing, or device or precision are others than cpu and fp32.
    """

    patience, max_kinds = PATIENCE, MAX_SESSIONS

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
        self.tolerance = TOLERANCE

    def kind(self, pixels: Tensor, classes: tuple[int, ...] | None) -> Kind:
        """Return what a session is fixed to."""
        return Kind(pixels.shape[-1], classes)

    def _explanation(self, results: dict[str, Tensor]) -> Explanation:
        heat = {name: results[name] for name in self.methods}
        return Explanation(results["logits"], heat, results["singular"])

    def prepare(
        self, expected: Explanation, pixels: Tensor, valid: Tensor, classes: tuple[int, ...] | None
    ) -> Replay | None:
        """Return a session that repeats an explanation closely; None if there is none."""
        from capecam.attribution.graph.onnx_export import export  # noqa: PLC0415 an extra

        by_autograd = self.by_autograd(classes)

        def compute(pixels: Tensor, valid: Tensor) -> dict[str, Tensor]:
            found = by_autograd(pixels, valid)
            return {"logits": found.logits, **found.heat, "singular": found.singular}

        def replay(pixels: Tensor, valid: Tensor) -> Explanation:
            return self._explanation(session(pixels, valid))

        try:
            session = OnnxSession(export(compute, pixels[-1]))
        except (RuntimeError, SettingsError) as error:
            log.warning("autograd explains the tiles: no ONNX graph of the network: %s", error)
            return None
        errors = decisive_errors(replay(pixels, valid).heat, expected.heat)
        name = max(errors, key=errors.__getitem__)
        if not errors[name] <= self.tolerance:
            log.warning(
                "onnxruntime's %s is %.1e of its range off; autograd explains the tiles",
                name,
                errors[name],
            )
            return None
        return replay
