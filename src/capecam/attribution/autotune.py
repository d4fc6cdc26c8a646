"""What fits the device, where nobody says: how many tiles go together, in what precision."""

from __future__ import annotations

import torch
from torch import Tensor

from capecam.attribution.comparison import map_error
from capecam.attribution.engine import CPU_BATCH, Engine
from capecam.settings import PIXEL_METHODS

GPU_MOST = 256
"""Not measured yet; a bound, so that the first rows come soon."""

FASTEST_FIRST = ("fp16", "bf16", "tf32")
"""16 bits before 32, and of those of 16 bits the more exact one first. Not measured yet."""

GOOD_ENOUGH = 0.99

SHARE = 0.8
"""Of the free memory; the rest is for strips, fragments and other processes."""


def auto_batch_size(engine: Engine, size: int) -> int:
    """A batch size that fits the engine's device, for tiles of ``size`` px.

    On a GPU the memory of one tile is measured: what two take beyond one.
    """
    if engine.device.type != "cuda":
        return CPU_BATCH
    _peak_bytes(engine, size, 1)  # libraries take their workspaces at the first call
    one, two = (_peak_bytes(engine, size, engine.together(count)) for count in (1, 2))
    tile = max(two - one, 1)
    free, _ = torch.cuda.mem_get_info(engine.device)
    count = int((SHARE * free - (one - tile)) // tile)
    return max(1, min(count // 8 * 8 or count, GPU_MOST))


def auto_precision(engine: Engine, pixels: Tensor, valid: Tensor) -> str:
    """The fastest precision that is good enough for these tiles.

    Grad-CAM has to correlate with that of float32 above ``GOOD_ENOUGH`` for every class, and all
    values have to be finite (fp16 can overflow).

    Args:
        engine: whose model, methods, score and device count.
        pixels: (B, 3, S, S) uint8.
        valid: (B, S, S) bool.
    """
    methods = ["gradcam", *(name for name in engine.methods if name in PIXEL_METHODS)]

    def heat(precision: str) -> dict[str, Tensor]:
        candidate = Engine(
            engine.model, methods, score=engine.score, precision=precision, device=engine.device
        )
        return candidate(pixels, valid).heat

    exact = heat("fp32")
    for precision in FASTEST_FIRST:
        found = heat(precision)
        error = map_error({"gradcam": found["gradcam"]}, exact)
        finite = all(bool(maps.isfinite().all()) for maps in found.values())
        if finite and error.correlation.get("gradcam", 0) > GOOD_ENOUGH:
            return precision
    return "fp32"


def _peak_bytes(engine: Engine, size: int, count: int) -> int:
    """Peak memory of one call, beyond what is held anyway."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(engine.device)
    before = torch.cuda.memory_allocated(engine.device)
    pixels = torch.zeros(count, 3, size, size, dtype=torch.uint8)
    engine(pixels, torch.ones(count, size, size, dtype=torch.bool))
    torch.cuda.synchronize(engine.device)
    return torch.cuda.max_memory_allocated(engine.device) - before
