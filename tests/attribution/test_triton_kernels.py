"""The cases of the Triton kernels, in the interpreter; on a GPU, the kernels themselves."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import capecam.attribution.graph as package
from capecam.attribution.graph.capture import capture
from capecam.attribution.graph.kernel_substitution import use_kernels
from capecam.errors import SettingsError

CASES = Path(__file__).with_name("kernel_cases.py")


def run_cases(*options: str, interpret: bool) -> None:
    """Run the cases in a process of their own, in which Triton is imported anew."""
    environment = os.environ | {"TRITON_INTERPRET": str(int(interpret))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES), *options]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    assert re.search(r"\d+ passed|\[100%\]", result.stdout)


@pytest.mark.thorough
def test_cases_in_the_interpreter() -> None:
    pytest.importorskip("triton", reason="the kernels are written in Triton")
    run_cases("-m", "thorough or not thorough", interpret=True)


@pytest.mark.gpu
@pytest.mark.timeout(900)  # the kernels are compiled for each epilogue
def test_cases_on_a_gpu() -> None:
    run_cases("-m", "thorough or not thorough", interpret=False)


def test_without_triton_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    for name in ("kernel_operations", "triton_kernels"):
        monkeypatch.delitem(sys.modules, f"{package.__name__}.{name}", raising=False)
        monkeypatch.delattr(package, name, raising=False)
    graph = capture(torch.relu, torch.ones(1))
    with pytest.raises(SettingsError, match="pip install triton"):
        use_kernels(graph, torch.ones(1))
