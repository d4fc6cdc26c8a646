"""Run an ONNX file with onnxruntime, which is installed by the extra ``onnx``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from capecam.settings import PIXEL_METHODS

TOLERANCE = 1e-4
"""Largest difference from autograd's maps that is close enough, relative to their range."""

MOST = 0.999
"""Share of the values of a guided map that have to be close, as for the identity of products on
other devices. Float32 programs decide differently between two pixels of a pooling window that are
nearly equal, and the gradient then takes another way: with onnxruntime 1.32 one window of 409,600
moved 267 of 307,200 values by 1e-5 to 4e-3 of the range (sample model, a drawn tile of 320 px)."""

FATAL = 4
"""Level of onnxruntime's log: it warns of every constant that it does not fold."""


class OnnxSession:
    """A graph that is ready to run on the CPU, with as many threads as PyTorch uses.

    Args:
        model: path of a file, or its content.
    """

    def __init__(self, model: Path | bytes) -> None:
        import onnxruntime  # noqa: PLC0415 an extra, and slow to import

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = FATAL
        self._session = onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model),
            options,
            providers=["CPUExecutionProvider"],
        )
        self._names = [output.name for output in self._session.get_outputs()]
        optional = self._session.get_overridable_initializers()
        self._takes_valid = "valid" in [entry.name for entry in optional]

    def __call__(self, pixels: Tensor, valid: Tensor | None = None) -> dict[str, Tensor]:
        """Run a batch.

        Args:
            pixels: (B, 3, S, S) of 0..255, of any type.
            valid: (B, S, S) bool; all True if None, or if the file does not take it.

        Returns:
            The results by name.
        """
        feed = {"pixels": pixels.float().numpy()}
        if valid is not None and self._takes_valid:
            feed["valid"] = valid.numpy()
        results = self._session.run(None, feed)
        return dict(zip(self._names, map(torch.from_numpy, results), strict=True))

    @property
    def metadata(self) -> Mapping[str, str]:
        """Facts that are stored in the file."""
        found: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
        return found


def largest_errors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, float]:
    """Return by name the largest difference of maps, relative to the range that they have to span.

    Args:
        found: (B, C, h, w) maps by name.
        expected: those that they are compared with. The range is that of a class in all tiles, as
            maps have one scale for a city.
    """
    return {name: _error(found[name], maps) for name, maps in expected.items()}


def decisive_errors(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> dict[str, float]:
    """Return by name the difference by which maps are judged: of guided maps that of ``MOST``.

    For arguments see :func:`largest_errors`.
    """
    return {
        name: _error(found[name], maps, MOST if name.startswith(PIXEL_METHODS) else 1.0)
        for name, maps in expected.items()
    }


def _error(found: Tensor, expected: Tensor, share: float = 1.0) -> float:
    """Return the difference within which a share of the values of every class is."""
    by_class = expected.double().transpose(0, 1).flatten(1)
    apart = (found.double().transpose(0, 1).flatten(1) - by_class).abs()
    count = math.ceil(share * apart.shape[1])
    reached = apart.kthvalue(count, dim=1).values
    span = by_class.amax(dim=1) - by_class.amin(dim=1)
    # A map that has to be constant may not differ at all.
    return float(torch.where(reached > 0, reached / span, 0.0).max())
