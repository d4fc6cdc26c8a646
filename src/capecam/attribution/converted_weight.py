"""A weight in the precision of the gradients that it multiplies."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes


class ConvertedWeight:
    """A weight that is converted when a batch of another precision comes; one copy is kept.

    Args:
        exact: the weight in the network's precision.
    """

    def __init__(self, exact: Tensor) -> None:
        self._exact = self._kept = exact

    def __call__(self, dtype: torch.dtype) -> Tensor:
        """Return the weight in a precision, with its values even while a graph is captured."""
        if self._kept.dtype != dtype:
            with _disable_current_modes():
                self._kept = self._exact.to(dtype)
        return self._kept
