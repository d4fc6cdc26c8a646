"""Choose precision and batch size by trying them on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from capecam.attribution.comparison import map_error
from capecam.attribution.engine import CPU_BATCH, Engine
from capecam.settings import PIXEL_METHODS

GPU_BATCH = 256
"""Maximum batch size on a GPU, so that the first rows come soon. Not measured yet."""

FASTEST_FIRST = ("fp16", "bf16", "tf32")
"""16 bits before 32, and of those of 16 bits the more exact one first. Not measured yet."""

MIN_CORRELATION = 0.99

MEMORY_SHARE = 0.8
"""Share of the free memory to use, by all workers together; the rest is for strips, fragments and
other processes."""


def auto_batch_size(engine: Engine, size: int, workers: int = 1) -> int:
    """Return a batch size that fits the engine's device.

    On a GPU the memory of one tile is measured, as the difference between two and one.

    Args:
        engine: to run the batches.
        size: edge of a tile in pixels.
        workers: number of processes that share the device, each with such batches.
    """
    if engine.device.type != "cuda":
        return CPU_BATCH
    _peak_bytes(engine, size, 1)  # libraries allocate their workspaces at the first call
    one, two = (_peak_bytes(engine, size, engine.tiles_per_call(count)) for count in (1, 2))
    tile = max(two - one, 1)
    free, _ = torch.cuda.mem_get_info(engine.device)
    count = int((MEMORY_SHARE * free / workers - (one - tile)) // tile)
    return max(1, min(count // 8 * 8 or count, GPU_BATCH))


def auto_precision(engine: Engine, pixels: Tensor, valid: Tensor) -> str:
    """Return the fastest precision that is accurate enough for these tiles.

    For every class Grad-CAM has to correlate with that of float32 above ``MIN_CORRELATION``, and
    all values have to be finite (fp16 can overflow).

    Args:
        engine: its network is tried at each precision.
        pixels: (B, 3, S, S) uint8.
        valid: (B, S, S) bool.
    """
    methods = ["gradcam", *(name for name in engine.methods if name in PIXEL_METHODS)]
    exact = engine.at("fp32", methods)(pixels, valid).heat
    for precision in FASTEST_FIRST:
        heat = engine.at(precision, methods)(pixels, valid).heat
        error = map_error({"gradcam": heat["gradcam"]}, exact)
        finite = all(bool(maps.isfinite().all()) for maps in heat.values())
        if finite and error.correlation.get("gradcam", 0) > MIN_CORRELATION:
            return precision
    return "fp32"


def _peak_bytes(engine: Engine, size: int, count: int) -> int:
    """Measure the peak memory of one call, beyond the memory allocated before."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(engine.device)
    allocated = torch.cuda.memory_allocated(engine.device)
    pixels = torch.zeros(count, 3, size, size, dtype=torch.uint8)
    engine(pixels, torch.ones(count, size, size, dtype=torch.bool))
    torch.cuda.synchronize(engine.device)
    return torch.cuda.max_memory_allocated(engine.device) - allocated
