"""Replacement of the backward of a network; its forward stays the same, bit for bit.

Explaining needs the gradient of the input, never of a weight, so the backward of

- a convolution needs its weight and the *shape* of its input, but no activation;
- a batch norm in eval mode is a factor per channel, which goes into the convolution's weight;
- a convolution over an upsampled map can be taken before the upsampling (``block_sums``);
- a strided convolution of few channels is computed by phases of its pixels (``phases``);
- a max pooling needs the places of the largest values, and the *shape* of its input;

and gradients travel channels-last, where a CPU's convolutions are faster. The forward must not be
touched for speed: with batch norms folded or channels-last it rounds differently, a few ReLUs in a
million open or close, and range-scaled maps move by up to 5e-3 (FPN resnext50_32x4d at 320 px).
With the unchanged forward they agree with plain autograd to 1e-6 (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from capecam.attribution.block_sums import convolve_sum, levels_of, takes_block_sums
from capecam.attribution.converted_weight import ConvertedWeight
from capecam.attribution.methods import ReluSwitch, SwitchedReLU
from capecam.attribution.phases import PhasedGradient, takes_phases
from capecam.model.introspection import normed_convolutions

Forward = Callable[[Tensor], Tensor]


def replace_backward(
    network: nn.Module, switch: ReluSwitch, memory_format: torch.memory_format
) -> None:
    """Replace the backward of a network's convolutions, batch norms, ReLUs and max poolings.

    Args:
        network: in eval mode, parameters frozen, target layer already hooked.
        switch: selects how the ReLUs pass gradient.
        memory_format: of the gradients.
    """
    norms = normed_convolutions(network)
    relu = partial(SwitchedReLU.apply, switch, memory_format)
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            _replace(module, partial(relu, module.inplace))
        elif type(module) is nn.MaxPool2d and not module.return_indices:
            _replace(module, partial(_MaxPool.apply, module, memory_format))
        elif type(module) is nn.Conv2d and not isinstance(module.padding, str):
            norm = norms.get(module)
            lean = _Convolution(module, None if norm is None else _scale(norm), memory_format)
            _replace(module, lean)
            if norm is not None:
                _replace(norm, partial(_Scaled.apply, norm.forward))


def _replace(module: nn.Module, forward: Forward) -> None:
    module.forward = forward


def _scale(norm: nn.BatchNorm2d) -> Tensor:
    """Return the (K,) float64 factors by which a batch norm multiplies its input."""
    if norm.running_var is None:
        raise ValueError("a batch norm without running statistics has no fixed factor")
    factor = 1 / (norm.running_var.double() + norm.eps).sqrt()
    return factor if norm.weight is None else factor * norm.weight.double()


class _Convolution:
    """Forward of a convolution, and its gradient by the input."""

    def __init__(
        self, conv: nn.Conv2d, scale: Tensor | None, memory_format: torch.memory_format
    ) -> None:
        self.run: Forward = conv.forward
        weight = conv.weight if scale is None else conv.weight.double() * scale[:, None, None, None]
        exact = weight.detach().to(conv.weight.dtype, memory_format=memory_format)
        self.weight = ConvertedWeight(exact)
        self._geometry = (conv.stride, conv.padding, conv.dilation, False, [0, 0], conv.groups)
        self._memory_format = memory_format
        self._takes_sums = takes_block_sums(conv)
        self._phased: PhasedGradient | None = None
        if takes_phases(conv) and memory_format == torch.channels_last:  # of gradients on a CPU
            stride, padding = int(conv.stride[0]), int(conv.padding[0])
            self._phased = PhasedGradient(exact, stride, padding, memory_format)

    def __call__(self, x: Tensor) -> Tensor:
        """Run ``nn.Conv2d``."""
        levels = levels_of(x) if self._takes_sums and torch.is_grad_enabled() else ()
        if levels:
            return convolve_sum(self, x, levels)
        y: Tensor = _Convolve.apply(self, x)
        return y

    def to_input(self, gradient: Tensor, shape: torch.Size) -> Tensor:
        """Compute the gradient of the input, in the precision of the output's."""
        if self._phased is not None:
            return self._phased(gradient, shape)
        like = _like(gradient, shape, self._memory_format)
        result: Tensor = torch.ops.aten.convolution_backward(
            gradient,
            like,
            self.weight(gradient.dtype),
            None,
            *self._geometry,
            [True, False, False],
        )[0]
        return result


class _Convolve(torch.autograd.Function):
    """Convolution whose backward includes that of the batch norm after it."""

    @staticmethod
    def forward(ctx: Any, conv: _Convolution, x: Tensor) -> Tensor:
        """Run ``nn.Conv2d``."""
        ctx.conv, ctx.shape, ctx.dtype = conv, x.shape, x.dtype
        return conv.run(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Compute the gradient of the input from that of the batch norm's output, if it has one."""
        return None, ctx.conv.to_input(gradient, ctx.shape).to(ctx.dtype)


def _like(gradient: Tensor, shape: torch.Size, memory_format: torch.memory_format) -> Tensor:
    """Return a tensor of which only the shape and the memory format are used."""
    dtype, device = gradient.dtype, gradient.device
    return torch.empty(shape, dtype=dtype, device=device, memory_format=memory_format)


class _Scaled(torch.autograd.Function):
    """Batch norm whose factor is in the backward of the convolution before it."""

    @staticmethod
    def forward(_ctx: Any, run: Forward, x: Tensor) -> Tensor:
        """Run ``nn.BatchNorm2d``."""
        return run(x)

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Any:
        """Pass the gradient unchanged."""
        return None, gradient


class _MaxPool(torch.autograd.Function):
    """Max pooling whose gradients have one memory format: with two a CPU is 8 times slower."""

    @staticmethod
    def forward(
        ctx: Any, pool: nn.MaxPool2d, memory_format: torch.memory_format, x: Tensor
    ) -> Tensor:
        """Run ``nn.MaxPool2d``."""
        ctx.geometry = [
            [n, n] if isinstance(n, int) else list(n)
            for n in (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
        ]
        pooled: tuple[Tensor, Tensor] = torch.ops.aten.max_pool2d_with_indices(
            x, *ctx.geometry, pool.ceil_mode
        )
        y, ctx.places = pooled
        ctx.ceil_mode, ctx.shape, ctx.memory_format = pool.ceil_mode, x.shape, memory_format
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Give the gradient to the largest values."""
        ctx.places = ctx.places.contiguous(memory_format=ctx.memory_format)
        like = _like(gradient, ctx.shape, ctx.memory_format)
        result: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(
            gradient, like, *ctx.geometry, ctx.ceil_mode, ctx.places
        )
        return None, None, result


class DeterministicUpsampling(TorchFunctionMode):
    """Context in which the backward of bilinear upsampling is two matrix products.

    CUDA's own adds with atomics, in another order each time, so that results would not repeat;
    PyTorch's deterministic one sorts every index first.
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
    """Return True for a whole factor or a size: the two sizes then determine the weights."""
    factors = scale_factor if isinstance(scale_factor, (tuple, list)) else (scale_factor,)
    whole = all(factor is None or float(factor).is_integer() for factor in factors)
    return mode == "bilinear" and whole and not antialias


class _Upsample(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, run: Callable[[Tensor], Tensor], align_corners: bool | None, x: Tensor
    ) -> Tensor:
        """Run ``F.interpolate``."""
        y = run(x)
        ctx.weights = [
            _interpolation(x, x.shape[axis], y.shape[axis], align_corners) for axis in (-2, -1)
        ]
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Apply the adjoint: rows, then columns."""
        rows, cols = (weights.to(gradient.dtype) for weights in ctx.weights)
        return None, None, rows @ gradient @ cols.mT


def _interpolation(like: Tensor, n: int, size: int, align_corners: bool | None) -> Tensor:
    """Return (n, size) weights: the share of each of n samples in each of ``size``."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    unit = torch.eye(n, dtype=dtype, device=like.device)
    with torch.autocast(like.device.type, enabled=False):
        return F.interpolate(unit[None], size, mode="linear", align_corners=align_corners)[0]
