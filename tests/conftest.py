"""For all tests."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch
from support.chromium import browser  # noqa: F401 a fixture
from support.cities import blobs, write_tif
from support.commands import typed

# The networks of most tests are so small that a second thread costs more than it brings, and many
# times more on a machine that is busy otherwise; the same holds for processes that tests start.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_finish() -> None:
    """Leave libraries and tests out of garbage collections, each of which takes .6 s with torch."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def city(tmp_path_factory) -> Path:
    """Nine images, a network, and the output of an undisturbed run."""
    from support.networks import smp_network  # noqa: PLC0415 slow (timm); most modules need none

    folder, size = tmp_path_factory.mktemp("city"), 120
    whole = blobs(3 * size, 3 * size, seed=4)
    for n in range(9):
        r, c = n // 3 * size, n % 3 * size
        write_tif(folder / "images" / f"{n}.tif", whole[:, r : r + size, c : c + size], c, r)
    torch.manual_seed(0)
    torch.save(smp_network("FPN", "resnet18").state_dict(), folder / "model.pt")
    (folder / "city.yaml").write_text(
        "sources: [images]\ncheckpoint: model.pt\nmodel: {architecture: FPN, encoder: resnet18}\n"
        "explain: {calibration_tiles: 4, methods: [gradcam]}\n"
        "tiling: {size: 64, overlap: 24, stride: 8}\n"
        "detections: {min_area_m2: 0}\n"
        "compute: {workers: 2, engine: autograd}\n"  # a graph takes longer than all cells
        "objects: {explain: 4}\n"  # a network of random weights finds hundreds
    )
    typed("run", "--config", folder / "city.yaml", "--out", folder / "out", "--in-process")
    return folder
