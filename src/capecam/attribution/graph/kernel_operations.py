"""Operations of PyTorch that the kernels compute, so that they can be nodes of a graph.

They run on a GPU, on fake tensors of any device, and in Triton's interpreter.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from capecam.attribution.graph import triton_kernels as kernels

PRODUCT_WIDTH = 16
"""Minimum number of channels of a matrix product. Narrower groups of a convolution are put together
with zeros between them: 16 channels of bf16 at 3 x 3 are 72 FLOP a byte, and an H200 has 183 of
them for each byte that it copies, so the zeros cost no time if memory is the limit."""

CHUNK_LIMIT = 32
"""Maximum number of channels of a group: of more, matrix products are the limit, and cuDNN's are
good."""

BLOCK_K = {torch.float32: 32, torch.bfloat16: 64, torch.float16: 64}
"""Channels of one product, 128 bytes: the widest row that Hopper's shared memory swizzles."""

TAIL_BLOCK = 1024
"""Elements of a program of the pointwise kernel: 16 bytes a thread of bf16 in 4 warps."""


LAYOUT = torch.channels_last
"""Memory format of the images of convolutions."""

TYPES = tuple(BLOCK_K)
"""Types of tensors that the kernels know."""


def has_kernel(shape: torch.Size, groups: int) -> bool:
    """Return True for the shape of a weight that there is a kernel for.

    These are dense 1 x 1 convolutions, and 3 x 3 ones in groups that fit matrix products. A dense
    convolution of 3 x 3 is limited by arithmetic, and cuDNN is good at it.
    """
    outputs, width, *size = shape
    if size == [1, 1]:
        return groups == 1
    power = width & (width - 1) == 0 and width <= CHUNK_LIMIT
    even = outputs == groups * width and outputs % max(width, PRODUCT_WIDTH) == 0
    return size == [3, 3] and groups > 1 and power and even


def packed_weight(weight: Tensor, groups: int, transposed: bool) -> Tensor:
    """Return a convolution's weight as matrices for each tap and each chunk of channels.

    Args:
        weight: (C_out, C_in / groups, k, k) for which :func:`has_kernel`.
        groups: of the convolution.
        transposed: the matrices map gradients of the output to those of the input.

    Returns:
        (k², chunks, K, N), K channels that are read and N that are written; a view if k is 1.
    """
    if groups == 1:
        matrix = weight[:, :, 0, 0]
        return (matrix if transposed else matrix.mT)[None, None]
    return _block_diagonal(weight, max(1, PRODUCT_WIDTH // weight.shape[1]), transposed)


def _block_diagonal(weight: Tensor, count: int, transposed: bool) -> Tensor:
    """Put ``count`` groups each into one matrix for each tap."""
    width = weight.shape[1]
    groups = weight.reshape(-1, count, width, width, 9)  # (chunks, count, out, in, taps)
    order = (3, 0, 1, 2) if transposed else (3, 0, 2, 1)  # (taps, chunks, read, written)
    blocks = weight.new_zeros(9, len(groups), count, width, count, width)
    for i in range(count):
        blocks[:, :, i, :, i] = groups[:, i].permute(order)
    return blocks.reshape(9, len(groups), count * width, count * width)


@torch.library.custom_op(
    "capecam::convolve",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, int[] size, int stride, bool transposed, Tensor? scale, "
    "Tensor? shift, Tensor? other, Tensor? mask, bool relu, bool tf32)"
    " -> Tensor",
)
def convolve(
    x: Tensor,
    weight: Tensor,
    size: list[int],
    stride: int,
    transposed: bool,
    scale: Tensor | None,
    shift: Tensor | None,
    other: Tensor | None,
    mask: Tensor | None,
    relu: bool,
    tf32: bool,
) -> Tensor:
    """Compute ``relu(mask(scale * conv(x) + shift + other))``, channels-last.

    Operands in other layouts are copied first.

    Args:
        x: (B, K, H, W) in float32, bfloat16 or float16; the gradient of the output if transposed.
        weight: of :func:`packed_weight`, in x's type.
        size: height and width of the result.
        stride: of the convolution.
        transposed: compute the gradient of the convolution's input.
        scale: (N,) float32, or none; ``shift`` alike.
        other: as the result, or none.
        mask: as the result, or none: the result is 0 where this is not positive.
        relu: the last step.
        tf32: round factors of float32 to TF32.
    """
    out = _result(x, weight, size)
    x = x.contiguous(memory_format=LAYOUT)
    if kernels.INTERPRETED and x.dtype == torch.bfloat16:
        x, weight = x.float(), weight.float()  # Triton 3.8's interpreter multiplies their bits
    other, mask = (None if y is None else y.contiguous(memory_format=LAYOUT) for y in (other, mask))
    taps, chunks, K, N = weight.shape
    pixels, grouped = len(x) * size[0] * size[1], taps > 1
    blocks = kernels.BLOCKS.copy() if kernels.INTERPRETED else {}
    if grouped:
        blocks["BLOCK_N"] = N

    def programs(block: dict[str, int]) -> tuple[int]:
        columns = chunks * triton.cdiv(N, block["BLOCK_N"])
        return (columns * triton.cdiv(pixels, block["BLOCK_P"]),)

    with torch.cuda.device(x.get_device()):
        (kernels.grouped if grouped else kernels.dense)[programs](
            *(x, weight, out, scale, shift, other, mask),
            *(len(x), *size, *x.shape[2:], chunks, K, N, *weight.stride()[2:]),
            TAPS=taps,
            STRIDE=stride,
            TRANSPOSED=transposed,
            RELU=relu,
            PRECISION="tf32" if tf32 else "ieee",
            BLOCK_K=min(BLOCK_K[x.dtype], max(PRODUCT_WIDTH, triton.next_power_of_2(K))),
            **blocks,
        )
    return out


@convolve.register_fake
def _(x: Tensor, weight: Tensor, size: list[int], *others: Tensor | bool | int | None) -> Tensor:
    out = _result(x, weight, size)
    for operand in others[4:6]:
        if isinstance(operand, Tensor) and operand.shape != out.shape:
            raise ValueError(f"an operand is {tuple(operand.shape)}, the result {tuple(out.shape)}")
    return out


@register_flop_formula(torch.ops.capecam.convolve, get_raw=True)
def _(_x: Tensor, weight: Tensor, *_others: object, out_val: Tensor) -> int:
    """Count multiplications and additions, those with the zeros between groups, too."""
    taps, _, read, _ = weight.shape
    return 2 * out_val.numel() * taps * read


@torch.library.custom_op(
    "capecam::mask_gradient",
    mutates_args=(),
    schema="(Tensor gradient, Tensor? other, Tensor mask, bool relu) -> Tensor",
)
def mask_gradient(gradient: Tensor, other: Tensor | None, mask: Tensor, relu: bool) -> Tensor:
    """Compute ``relu(mask(gradient + other))``, in the layout of the gradient.

    Args:
        gradient: of a ReLU's output.
        other: to be added, or none.
        mask: the ReLU's output: the result is 0 where this is not positive.
        relu: for the guided gradient.
    """
    gradient, layout = _dense(gradient), _layout(gradient)
    mask = mask.contiguous(memory_format=layout)
    other = None if other is None else other.contiguous(memory_format=layout)
    out = torch.empty_like(gradient)
    with torch.cuda.device(gradient.get_device()):
        kernels.mask_gradient[(triton.cdiv(gradient.numel(), TAIL_BLOCK),)](
            *(gradient, other, mask, out, gradient.numel()), RELU=relu, BLOCK=TAIL_BLOCK
        )
    return out


@mask_gradient.register_fake
def _(gradient: Tensor, *_others: Tensor | bool | None) -> Tensor:
    return torch.empty_like(_dense(gradient))


def _result(x: Tensor, weight: Tensor, size: list[int]) -> Tensor:
    channels = weight.shape[1] * weight.shape[3]
    return torch.empty(
        (len(x), channels, *size), dtype=x.dtype, device=x.device, memory_format=LAYOUT
    )


def _dense(x: Tensor) -> Tensor:
    """Return a tensor that is contiguous or channels-last, a copy if it was not."""
    return x.contiguous(memory_format=_layout(x))


def _layout(x: Tensor) -> torch.memory_format:
    """Return the memory format of a tensor."""
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format
