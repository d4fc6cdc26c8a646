"""Bilinear upsampling with a backward that adds in a fixed order, for a GPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class DeterministicUpsampling(TorchFunctionMode):
    """Inside, the backward of bilinear upsampling is two matrix products.

    CUDA's own adds with atomics, in another order each time, and identity (DESIGN section 4) is
    lost; PyTorch's deterministic one sorts every index first.
    """

    def __torch_function__(
        self, func: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        run = partial(func, **(kwargs or {}))
        if func is F.interpolate and _is_bilinear(**kwargs):
            return _Upsample.apply(run, kwargs["align_corners"], *args)
        return run(*args)


def _is_bilinear(
    mode: str, scale_factor: Any = None, antialias: bool = False, **_options: Any
) -> bool:
    """By a whole factor or to a size: then the weights follow from the two sizes."""
    factors = scale_factor if isinstance(scale_factor, (tuple, list)) else (scale_factor,)
    whole = all(factor is None or float(factor).is_integer() for factor in factors)
    return mode == "bilinear" and whole and not antialias


class _Upsample(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, run: Callable[[Tensor], Tensor], align_corners: bool | None, x: Tensor
    ) -> Tensor:
        """As ``F.interpolate``."""
        y = run(x)
        ctx.weights = [
            _interpolation(x, x.shape[axis], y.shape[axis], align_corners) for axis in (-2, -1)
        ]
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """The adjoint: rows, then columns."""
        rows, cols = (weights.to(gradient.dtype) for weights in ctx.weights)
        return None, None, rows @ gradient @ cols.mT


def _interpolation(like: Tensor, n: int, size: int, align_corners: bool | None) -> Tensor:
    """(n, size); what each of n samples adds to each of ``size``."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    unit = torch.eye(n, dtype=dtype, device=like.device)
    with torch.autocast(like.device.type, enabled=False):
        return F.interpolate(unit[None], size, mode="linear", align_corners=align_corners)[0]
