"""Images that crash or hang a process fail alone.

For lack of a decoder that crashes, a ``sitecustomize`` kills the process that opens or reads such
an image.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from support.cities import blobs, write_tif
from support.commands import capecam
from support.networks import smp_network

DEADLY = """
import os, signal, sys, time
import rasterio, rasterio.io
real = rasterio.open, rasterio.io.DatasetReader.read
def harm(path):
    name = os.path.basename(path)
    if "crash" in name: os.kill(os.getpid(), signal.SIGSEGV)
    if "hang" in name: time.sleep(1000)
def opened(path, *args, **options):
    if "header" in os.path.basename(path): harm(path)
    return real[0](path, *args, **options)
def read(self, *args, **options):
    if "pixels" in os.path.basename(self.name): harm(self.name)
    return real[1](self, *args, **options)
rasterio.open, rasterio.io.DatasetReader.read = opened, read
if os.environ.get("CAPECAM_TEST_PATIENCE"):
    import capecam.imagery.header_reader as headers
    headers.HEADER_S = float(os.environ["CAPECAM_TEST_PATIENCE"])
"""


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("network")
    torch.manual_seed(0)
    torch.save(smp_network("FPN", "resnet18").state_dict(), folder / "model.pt")
    (folder / "city.yaml").write_text(
        "checkpoint: model.pt\nmodel: {architecture: FPN, encoder: resnet18}\n"
        "explain: {calibration_tiles: 8, methods: [gradcam]}\n"
        "tiling: {size: 64, overlap: 24, stride: 8}\ncompute: {device: cpu}\n"
    )
    return folder / "city.yaml"


def run(tmp_path: Path, config: Path, code: int, **environment: str) -> dict[str, str]:
    (tmp_path / "sitecustomize.py").write_text(DEADLY)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    out = tmp_path / "out"
    capecam(
        "run", tmp_path / "in", "--config", config, "--out", out, code=code, PYTHONPATH=path,
        **environment,
    )  # fmt: skip
    failures: dict[str, str] = json.loads((out / "run.json").read_text())["failures"]
    return failures


@pytest.mark.thorough
def test_images_that_crash_or_hang_fail_alone(tmp_path: Path, network: Path) -> None:
    names = ("a", "b_header_crash", "c_header_hang", "d_pixels_crash", "e_header_crash", "f")
    for n, name in enumerate(names):
        write_tif(tmp_path / "in" / f"{name}.tif", blobs(64, 64), 200 * n)
    failures = run(tmp_path, network, 3, CAPECAM_TEST_PATIENCE="10")
    assert set(failures) == set(names) - {"a", "f"}
    assert "the decoder crashed (killed by SIGSEGV); deliver it again" in failures["b_header_crash"]
    assert "the decoder crashed (killed by SIGSEGV); deliver it again" in failures["e_header_crash"]
    assert "gives no answer within 10 s" in failures["c_header_hang"]
    assert "its worker ended: killed by SIGSEGV" in failures["d_pixels_crash"]
