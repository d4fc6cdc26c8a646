"""A leaner backward behind a forward that stays as it is, bit for bit.

Explaining needs the gradient of the input, never of a weight, so the backward of

- a convolution needs its weight and the *shape* of its input, but no activation;
- a batch norm in eval mode is a factor per channel, which goes into the convolution's weight;

and gradients travel channels-last, where a CPU's convolutions are faster. The forward must not be
touched for speed: with batch norms folded or channels-last it rounds differently, a few ReLUs in a
million open or close, and range-scaled maps move by up to 5e-3 (FPN resnext50_32x4d at 320 px).
With the forward's own bits they agree with plain autograd to 1e-6 (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from capecam.attribution.methods import ReluSwitch, SwitchedReLU
from capecam.model.introspection import normed_convolutions

Forward = Callable[[Tensor], Tensor]


def replace_backward(
    network: nn.Module, switch: ReluSwitch, memory_format: torch.memory_format
) -> None:
    """Replace the backward of a network's convolutions, batch norms and ReLUs, in place.

    Args:
        network: in eval mode, parameters frozen, target layer hooked already.
        switch: says how the ReLUs pass gradient from now on.
        memory_format: of the gradients.
    """
    norms = normed_convolutions(network)
    relu = partial(SwitchedReLU.apply, switch, memory_format)
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            _replace(module, partial(relu, module.inplace))
        elif type(module) is nn.Conv2d and _is_plain(module):
            norm = norms.get(module)
            lean = _Convolution(module, None if norm is None else _scale(norm), memory_format)
            _replace(module, partial(_Convolve.apply, lean))
            if norm is not None:
                _replace(norm, partial(_Scaled.apply, norm.forward))


def _replace(module: nn.Module, forward: Forward) -> None:
    module.forward = forward


def _is_plain(conv: nn.Conv2d) -> bool:
    """Padding given in pixels, not as "same"."""
    return not isinstance(conv.padding, str)


def _scale(norm: nn.BatchNorm2d) -> Tensor:
    """(K,) float64; what a batch norm multiplies its input by."""
    if norm.running_var is None:
        raise ValueError("a batch norm without running statistics has no fixed factor")
    factor = 1 / (norm.running_var.double() + norm.eps).sqrt()
    return factor if norm.weight is None else factor * norm.weight.double()


class _Convolution:
    """A convolution as its backward needs it."""

    def __init__(
        self, conv: nn.Conv2d, scale: Tensor | None, memory_format: torch.memory_format
    ) -> None:
        self.run: Forward = conv.forward
        weight = conv.weight if scale is None else conv.weight.double() * scale[:, None, None, None]
        weight = weight.detach().to(conv.weight.dtype, memory_format=memory_format)
        self._weights = {weight.dtype: weight}
        self._geometry = (conv.stride, conv.padding, conv.dilation, False, [0, 0], conv.groups)
        self._memory_format = memory_format

    def to_input(self, gradient: Tensor, shape: torch.Size) -> Tensor:
        """From the gradient of the output to that of the input, in the output's precision."""
        # Its values are not looked at, only its shape and its memory format.
        like = torch.empty(
            shape, dtype=gradient.dtype, device=gradient.device, memory_format=self._memory_format
        )
        result: Tensor = torch.ops.aten.convolution_backward(
            gradient,
            like,
            self._weight(gradient.dtype),
            None,
            *self._geometry,
            [True, False, False],
        )[0]
        return result

    def _weight(self, dtype: torch.dtype) -> Tensor:
        """Converted once."""
        if dtype not in self._weights:
            weight = next(iter(self._weights.values()))
            self._weights[dtype] = weight.to(dtype)
        return self._weights[dtype]


class _Convolve(torch.autograd.Function):
    """A convolution, with the batch norm behind it in its backward."""

    @staticmethod
    def forward(ctx: Any, conv: _Convolution, x: Tensor) -> Tensor:
        """As ``nn.Conv2d``."""
        ctx.conv, ctx.shape, ctx.dtype = conv, x.shape, x.dtype
        return conv.run(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Of the input, from that of the output *of the batch norm*, if there is one."""
        return None, ctx.conv.to_input(gradient, ctx.shape).to(ctx.dtype)


class _Scaled(torch.autograd.Function):
    """A batch norm whose factor is in the convolution before it."""

    @staticmethod
    def forward(_ctx: Any, run: Forward, x: Tensor) -> Tensor:
        """As ``nn.BatchNorm2d``."""
        return run(x)

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Any:
        """Nothing is left to do."""
        return None, gradient
