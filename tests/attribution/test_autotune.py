"""The batch size on a GPU, whose memory is a pretence here."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from capecam.attribution import autotune
from capecam.attribution.autotune import GPU_BATCH, auto_batch_size

LIBRARIES, TILE, FREE = 300_000_000, 90_000_000, 24_000_000_000


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_that_share_a_gpu_fit_into_its_memory(monkeypatch, workers: int) -> None:
    monkeypatch.setattr(autotune, "_peak_bytes", lambda _, __, count: LIBRARIES + count * TILE)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (FREE, FREE))
    engine = SimpleNamespace(device=torch.device("cuda"), tiles_per_call=lambda count: count)
    batch = auto_batch_size(engine, 320, workers)
    used = workers * (LIBRARIES + batch * TILE)
    assert used <= 0.8 * FREE < used + workers * 8 * TILE
    assert batch % 8 == 0
    assert batch <= GPU_BATCH
