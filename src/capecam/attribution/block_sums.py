"""Gradients of convolutions over upsampled maps, at the resolution before the upsampling.

A feature pyramid convolves ``nearest(nearest(coarse) + middle) + fine``. The gradient of each level
is that of the convolution's input, summed over blocks of pixels. Both are linear, so the sums can
be taken first: for a 3 x 3 convolution they are nine shifted block sums of the output's gradient,
and a matrix product with as many times fewer pixels as a block has. Gradients are computed from the
finest level on that something needs: on the way to a deep target layer that is the coarsest one.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class Noted(NamedTuple):
    """Origin of a tensor, as long as nobody changes it or what it was made of in place."""

    tensors: tuple[Tensor, ...]
    versions: tuple[int, ...]
    """Versions of these, and of the tensor."""

    @classmethod
    def of(cls, made: Tensor, *tensors: Tensor) -> Noted:
        """Note the present versions."""
        return cls(tensors, tuple(x._version for x in (*tensors, made)))

    def still(self, made: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors; none if one has changed."""
        return self.tensors if self == Noted.of(made, *self.tensors) else ()


class NotedSums(TorchFunctionMode):
    """Context in which ``levels_of`` knows sums of a map upsampled to the nearest and another."""

    def __torch_function__(
        self, func: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        if func is F.interpolate and len(args) == 1:
            if _is_nearest(args[0], result, **kwargs):
                result._upsampled = Noted.of(result, args[0])
        elif func in _ADDITIONS and len(args) == 2 and not kwargs:
            for one, other in (args, args[::-1]):
                for coarse in _noted(one, "_upsampled"):
                    if isinstance(other, Tensor) and one.shape == other.shape:
                        levels = levels_of(coarse) or (coarse,)
                        result._levels = Noted.of(result, *levels, other)
        return result


_ADDITIONS = (torch.add, Tensor.add, Tensor.__add__)


def _noted(x: object, name: str) -> tuple[Tensor, ...]:
    noted = getattr(x, name, None)
    return noted.still(x) if isinstance(noted, Noted) and isinstance(x, Tensor) else ()


def _is_nearest(
    x: Tensor, y: Tensor, mode: str = "nearest", scale_factor: Any = None, **_options: Any
) -> bool:
    """Return True if a map was upsampled to the nearest pixel, by one whole factor."""
    factor = y.shape[-1] // x.shape[-1]
    whole = x.ndim == 4 and tuple(y.shape[2:]) == tuple(n * factor for n in x.shape[2:])
    return mode == "nearest" and whole and scale_factor in (None, factor)


def levels_of(x: Tensor) -> tuple[Tensor, ...]:
    """Return the levels of a pyramid of which a tensor is the sum; none if it is not known as one.

    Each is (B, I, h, w), the coarsest one first, and is repeated up to the size of the next.
    """
    return _noted(x, "_levels")


def takes_block_sums(conv: nn.Conv2d) -> bool:
    """Return True for a 3 x 3 convolution that keeps the size."""
    geometry = conv.kernel_size, conv.stride, conv.padding, conv.dilation
    return geometry == ((3, 3), (1, 1), (1, 1), (1, 1)) and conv.groups == 1


class Convolution(Protocol):
    """Convolution that takes block sums."""

    def run(self, x: Tensor) -> Tensor:
        """Convolve (B, I, H, W)."""

    def to_input(self, gradient: Tensor, shape: torch.Size) -> Tensor:
        """Compute the gradient of the input from that of the output."""

    def weight(self, dtype: torch.dtype) -> Tensor:
        """Return the weight in a precision."""


def convolve_sum(conv: Convolution, x: Tensor, levels: tuple[Tensor, ...]) -> Tensor:
    """Convolve an input, so that its gradient goes to the levels of which it is the sum.

    Args:
        conv: 3 x 3, see :func:`takes_block_sums`.
        x: the sum.
        levels: see :func:`levels_of`.
    """
    y: Tensor = _ConvolveSum.apply(conv, x.detach(), *levels)
    return y


class _ConvolveSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, conv: Convolution, x: Tensor, *levels: Tensor) -> Tensor:
        """Run the convolution."""
        ctx.conv, ctx.levels = conv, [(level.shape, level.dtype) for level in levels]
        return conv.run(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        """Compute the gradients of the finest level that is needed, and of those before it."""
        (_, *nodes), levels = ctx.next_functions, ctx.levels
        finest = max((i for i, (node, _) in enumerate(nodes) if _is_needed(node)), default=0)
        shape, full = levels[finest][0], levels[-1][0]
        if shape == full:
            found = ctx.conv.to_input(gradient, full)
        else:
            weight = ctx.conv.weight(gradient.dtype)
            found = block_gradient(gradient, weight, full[-1] // shape[-1])
        gradients: list[Tensor | None] = [None] * len(levels)
        for i in range(finest, -1, -1):
            shape, dtype = levels[i]
            if found.shape != shape:
                sums = torch.ops.aten.upsample_nearest2d_backward
                found = sums(found, found.shape[2:], shape)
            gradients[i] = found.to(dtype)
        return None, None, *gradients


def _is_needed(node: Node | None) -> bool:
    """Return True if autograd is about to run a node; ``needs_input_grad`` says if it could."""
    if node is None or hasattr(node, "variable"):  # of a leaf autograd does not say it
        return node is not None
    return torch._C._will_engine_execute_node(node)


def block_gradient(gradient: Tensor, weight: Tensor, factor: int) -> Tensor:
    """Sum the gradient of a 3 x 3 convolution's input over blocks of pixels.

    Args:
        gradient: (B, O, h * factor, w * factor), of the output.
        weight: (O, I, 3, 3).
        factor: edge of a block.

    Returns:
        (B, I, h, w), in the gradient's precision.
    """
    # x[y] takes part in the outputs y + 1, y and y - 1, by the rows 0, 1 and 2 of the weight.
    sums = torch.stack(
        [
            block
            for rows in _shifted_sums(gradient, -2, factor)
            for block in _shifted_sums(rows, -1, factor)
        ],
        dim=1,
    )  # (B, 9, O, h, w)
    matrix = weight.permute(1, 2, 3, 0).flatten(1)  # (I, 9 * O)
    product = matrix @ sums.to(weight.dtype).flatten(3).flatten(1, 2)
    return product.view(*product.shape[:2], *sums.shape[-2:]).to(gradient.dtype)


def _shifted_sums(x: Tensor, axis: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sum blocks of the next values along an axis, of the values themselves, and of the last ones.

    Values beyond the ends are 0. 16 bits are summed as float32.
    """
    x = x if x.dtype == torch.float64 else x.float()
    blocks: Tensor = x.unflatten(axis, (-1, size))  # type: ignore[no-untyped-call]
    # Counted from the end, the values of a block are where the axis was.
    whole, first, last = blocks.sum(axis), blocks.select(axis, 0), blocks.select(axis, size - 1)
    nothing, count = torch.zeros_like(first.narrow(axis, 0, 1)), first.shape[axis]
    after = torch.cat([first.narrow(axis, 1, count - 1), nothing], axis)
    before = torch.cat([nothing, last.narrow(axis, 0, count - 1)], axis)
    return whole - first + after, whole, whole - last + before
