"""Kernels for a GPU in Triton: a convolution with everything that follows it, and a ReLU's mask.

A convolution of a network, or its gradient by the input, is bound by memory or close to it, and so
is all that follows: batch norm, residual, ReLU, or the ReLU's mask of a gradient. Here these are
done on the sums before they are written, so that each tensor is read or written once.

Sums run in float32, over taps and then over channels in steps of one size, so the list of block
sizes that are tried (``GROUPED_TRIED``, ``DENSE_TRIED``) does not change their order.

The environment variable ``TRITON_INTERPRET=1``, set before Triton is imported, runs the kernels on
the CPU, in numpy.
"""

from __future__ import annotations

import triton
import triton.language as tl

SIZES = ["images", "height", "width", "source_height", "source_width", "chunks"]
"""Arguments whose values compile to no kernel of their own: of FPN resnext50 there are 50 shapes of
convolutions, but 22 kernels."""


@triton.jit
def place(image, pixel, channel, pixels, channels):
    """Return the offsets of elements of a channels-last tensor, (images, pixels, channels).

    In 64 bits: 256 tiles of 320 px with 256 channels at a quarter of their size have 4e8 elements,
    and at their full size more than 2^31.
    """
    return image.to(tl.int64) * (pixels * channels) + pixel * channels + channel


@triton.jit
def source(position, tap, size, STRIDE: tl.constexpr, TRANSPOSED: tl.constexpr):
    """Return what row (or column) of the source a tap reads for one of the output, and if it is.

    Args:
        position: of the output.
        tap: its distance from the middle of the kernel, -1, 0 or 1.
        size: number of rows (columns) of the source.
        STRIDE: of the convolution.
        TRANSPOSED: the output is the gradient of the convolution's input.
    """
    if TRANSPOSED:
        apart = position - tap
        found = apart // STRIDE
        valid = (apart >= 0) & (apart % STRIDE == 0) & (found < size)
    else:
        found = position * STRIDE + tap
        valid = (found >= 0) & (found < size)
    return found, valid


@triton.jit(do_not_specialize=SIZES)
def convolve(
    x,
    weight,
    out,
    scale,
    shift,
    other,
    mask,
    images,
    height,
    width,
    source_height,
    source_width,
    chunks,
    K,
    N,
    weight_k,
    weight_n,
    TAPS: tl.constexpr,
    STRIDE: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    RELU: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Write ``relu(mask(scale * conv(x) + shift + other))``; all but ``conv`` are optional.

    The channels are ``chunks`` blocks that know nothing of each other: one for a dense convolution,
    some groups each for a grouped one. A program computes BLOCK_P pixels of BLOCK_N channels of one
    chunk, as a matrix product for each tap. Programs that read the same pixels follow each other,
    so that all but the first find them in the L2 cache.

    All images are channels-last: with contiguous ones, threads read single values, and the 1 x 1
    kernels spilled 300 to 1,250 bytes of registers each (Triton 3.8, compiled for Hopper).

    Args:
        x: (images, chunks * K, source_height, source_width).
        weight: (TAPS, chunks, K, N), contiguous but for the strides of its last two dimensions.
        out: (images, chunks * N, height, width).
        scale: (chunks * N,) float32, or None; ``shift`` alike.
        other: as ``out``; or None.
        mask: as ``out``; the result is 0 where this is not positive. Or None.
        images: their number.
        height: of the output.
        width: of the output.
        source_height: of x.
        source_width: of x.
        chunks: their number.
        K: channels that a chunk reads.
        N: channels that a chunk writes.
        weight_k: stride.
        weight_n: stride.
        TAPS: 1 for a kernel of 1 x 1, 9 for 3 x 3 with padding 1.
        STRIDE: of the convolution.
        TRANSPOSED: x is the gradient of the output, ``out`` that of the input.
        RELU: the last step.
        PRECISION: of products of float32, ``ieee`` or ``tf32``.
        BLOCK_K: channels of one product, at least 16.
        BLOCK_N: at least 16.
        BLOCK_P: at least 16.
    """
    column_blocks = tl.cdiv(N, BLOCK_N)
    column = tl.program_id(0) % (chunks * column_blocks)
    chunk = column // column_blocks
    n = (column % column_blocks) * BLOCK_N + tl.arange(0, BLOCK_N)
    p = (tl.program_id(0) // (chunks * column_blocks)) * BLOCK_P + tl.arange(0, BLOCK_P)
    pixels = height * width
    exists = p < images * pixels
    image = p // pixels
    pixel = p % pixels

    sums = tl.zeros((BLOCK_P, BLOCK_N), dtype=tl.float32)
    steps = tl.cdiv(K, BLOCK_K)
    for step in range(TAPS * steps):
        k = (step % steps) * BLOCK_K + tl.arange(0, BLOCK_K)
        tap = 0
        read = pixel
        valid = exists
        if TAPS > 1 or STRIDE > 1:
            row_tap = 0
            column_tap = 0
            if TAPS > 1:
                tap = step // steps
                row_tap = tap // 3 - 1
                column_tap = tap % 3 - 1
            row, row_valid = source(pixel // width, row_tap, source_height, STRIDE, TRANSPOSED)
            col, col_valid = source(pixel % width, column_tap, source_width, STRIDE, TRANSPOSED)
            read = row * source_width + col
            valid = exists & row_valid & col_valid
        x_at = place(
            image[:, None],
            read[:, None],
            (chunk * K + k)[None, :],
            source_height * source_width,
            chunks * K,
        )
        values = tl.load(x + x_at, mask=valid[:, None] & (k < K)[None, :], other=0.0)
        weight_at = (tap * chunks + chunk) * K * N + k[:, None] * weight_k + n[None, :] * weight_n
        factors = tl.load(weight + weight_at, mask=(k < K)[:, None] & (n < N)[None, :], other=0.0)
        sums = tl.dot(values, factors, sums, input_precision=PRECISION)

    channel = chunk * N + n
    keep = exists[:, None] & (n < N)[None, :]
    channels = chunks * N
    if scale is not None:
        sums = sums * tl.load(scale + channel, mask=n < N, other=0.0)[None, :]
    if shift is not None:
        sums = sums + tl.load(shift + channel, mask=n < N, other=0.0)[None, :]
    at = place(image[:, None], pixel[:, None], channel[None, :], pixels, channels)
    if other is not None:
        sums = sums + tl.load(other + at, mask=keep, other=0.0).to(tl.float32)
    if mask is not None:
        sums = passed(sums, tl.load(mask + at, mask=keep, other=0.0))
    if RELU:
        sums = passed(sums, sums)
    tl.store(out + at, sums.to(out.dtype.element_ty), mask=keep)


@triton.jit
def mask_gradient(
    gradient,
    other,
    mask,
    out,
    size,
    RELU: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Write ``relu(mask(gradient + other))`` for tensors of one layout.

    Args:
        gradient: size elements.
        other: alike; or None.
        mask: alike; the result is 0 where this is not positive.
        out: alike.
        size: number of elements.
        RELU: the last step, for the guided gradient.
        BLOCK: elements of a program.
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    keep = at < size
    values = tl.load(gradient + at, mask=keep, other=0.0).to(tl.float32)
    if other is not None:
        values = values + tl.load(other + at, mask=keep, other=0.0).to(tl.float32)
    values = passed(values, tl.load(mask + at, mask=keep, other=0.0))
    if RELU:
        values = passed(values, values)
    tl.store(out + at, values.to(out.dtype.element_ty), mask=keep)


@triton.jit
def passed(values, mask):
    """Return the values, but 0 where the mask is not positive; NaN passes, as in PyTorch."""
    return tl.where(mask.to(tl.float32) <= 0, 0.0, values)


_WIDE = {"num_warps": 8, "num_stages": 3}
_NARROW = {"num_warps": 4, "num_stages": 3}

GROUPED_TRIED = [
    triton.Config({"BLOCK_P": 128}, **_NARROW),
    triton.Config({"BLOCK_P": 128}, **_WIDE),
    triton.Config({"BLOCK_P": 256}, **_WIDE),
]
"""Blocks tried on a GPU for each shape of a grouped convolution; BLOCK_N is the chunk. Of an image
80 wide, 128 pixels at 3 x 3 read 2.3 times as many, 256 1.6 times, all but once from the L2
cache. The lists are short, as each block is compiled for each epilogue; which is the fastest is not
measured yet."""

DENSE_TRIED = [
    triton.Config({"BLOCK_P": 128, "BLOCK_N": 128}, **_WIDE),
    triton.Config({"BLOCK_P": 128, "BLOCK_N": 64}, **_NARROW),
    triton.Config({"BLOCK_P": 256, "BLOCK_N": 64}, **_WIDE),
]
"""The same for 1 x 1. Of 128 x 128 sums, 4 warps spill registers (Triton 3.8, for Hopper), 8 do
not."""

INTERPRETED = not isinstance(convolve, triton.JITFunction)
"""True if the kernels run in Triton's interpreter."""

BLOCKS = {"BLOCK_P": 128, "BLOCK_N": 128}
"""Blocks in the interpreter, which does not try."""

_SHAPE = ["height", "width", "chunks", "K", "N", "TAPS", "STRIDE", "TRANSPOSED"]
"""Arguments for whose values blocks are tried anew: not for the last batch, which is smaller."""

if INTERPRETED:
    grouped, dense = convolve, convolve
else:
    grouped = triton.autotune(GROUPED_TRIED, key=_SHAPE)(convolve)
    dense = triton.autotune(DENSE_TRIED, key=_SHAPE)(convolve)
