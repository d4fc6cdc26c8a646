"""The Triton kernels compile for Hopper, on a machine without a GPU, and spill no registers."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton", reason="the kernels are written in Triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.runtime import driver  # noqa: E402

from capecam.attribution.graph import kernel_operations as ops  # noqa: E402
from capecam.attribution.graph import triton_kernels as kernels  # noqa: E402

pytestmark = pytest.mark.thorough

HOPPER = GPUTarget("cuda", 90, 32)

POINTERS = ("x", "weight", "out", "other", "mask", "gradient")
"""Arguments that are tensors of the network's type; ``scale`` and ``shift`` are of float32."""

ALIGNED = (*POINTERS, "scale", "shift", "K", "N", "weight_k", "weight_n")
"""Arguments that 16 divides in ResNeXt; others are not looked at (``triton_kernels.SIZES``)."""

TYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


@dataclass(frozen=True, slots=True)
class Use:
    """What a program of a kernel uses, and how many of Hopper's matrix products it has."""

    registers: int
    spilled: int
    """Bytes of stack."""
    shared: int
    """Bytes."""
    products: int


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder for what Triton compiles."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for tool in ("ptxas", "cuobjdump"):
        try:
            getattr(triton.knobs.nvidia, tool)
        except RuntimeError:
            pytest.skip(f"there is no {tool}, which comes with Triton for Linux")
    return tmp_path


def compiled(
    kernel: Any, precision: str, constants: dict[str, object], config: Any, folder: Path
) -> Use:
    """Compile a kernel; all that is neither tensor nor constant is an int32."""
    element = {"tf32": "fp32"}.get(precision, precision)
    types = dict.fromkeys(POINTERS, f"*{element}") | {"scale": "*fp32", "shift": "*fp32"}
    names, constants = kernel.arg_names, constants | config.kwargs
    source = ASTSource(
        kernel,
        {name: "constexpr" if name in constants else types.get(name, "i32") for name in names},
        constants,
        {
            (i,): [["tt.divisibility", 16]]
            for i, name in enumerate(names)
            if name in ALIGNED and name not in constants
        },
    )
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    binary = triton.compile(source, target=HOPPER, options=options)
    (folder / "kernel.cubin").write_bytes(binary.asm["cubin"])
    tool = triton.knobs.nvidia.cuobjdump.path
    command = [tool, "--dump-resource-usage", folder / "kernel.cubin"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, local = (
        int(re.search(rf"{name}:(\d+)", text)[1]) for name in ("REG", "STACK", "LOCAL")
    )
    products = binary.asm["ptx"].count("wgmma.mma_async")
    return Use(registers, stack + local, binary.metadata.shared, products)


def convolutions(size: int, precision: str) -> Iterator[tuple[dict[str, object], Any]]:
    """Yield constants and blocks of convolutions and of their gradients, with all that follows."""
    shared = {"TAPS": size**2, "STRIDE": size // 2 + 1, "RELU": True}
    shared["PRECISION"] = "tf32" if precision == "tf32" else "ieee"
    if size == 1:
        blocks, tried = [{"BLOCK_K": ops.BLOCK_K[TYPES[precision]]}], kernels.DENSE_TRIED
    else:
        widths = (ops.PRODUCT_WIDTH, ops.CHUNK_LIMIT)
        blocks, tried = [{"BLOCK_K": n, "BLOCK_N": n} for n in widths], kernels.GROUPED_TRIED
    forward = {"TRANSPOSED": False, "mask": None, "weight_k" if size == 1 else "weight_n": 1}
    backward = {"TRANSPOSED": True, "scale": None, "shift": None, "weight_n": 1}
    for direction in (forward, backward):
        for block in blocks:
            for config in tried:
                yield shared | direction | block, config


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("precision", TYPES)
def test_convolutions(precision: str, size: int, cache: Path) -> None:
    for constants, config in convolutions(size, precision):
        use = compiled(kernels.convolve, precision, constants, config, cache)
        print(precision, size, constants.get("BLOCK_N"), config, use)
        assert use.spilled <= (8 if precision == "fp32" else 0)
        assert (use.products == 0) == (precision == "fp32")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_masks(precision: str, cache: Path) -> None:
    constants = {"RELU": True, "BLOCK": ops.TAIL_BLOCK}
    use = compiled(kernels.mask_gradient, precision, constants, triton.Config({}), cache)
    print(precision, use)
    assert use.spilled == 0


class NoDriver:
    """Driver of a GPU that does not exist: enough to compile what would be launched."""

    def get_current_target(self) -> GPUTarget:
        return HOPPER

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _device: int) -> int:
        return 0


class Compiling:
    """Kernel that is compiled for its arguments instead of being launched."""

    def __init__(self, kernel: Any, config: Any) -> None:
        self.kernel, self.config = kernel, config
        self.hashes: list[str] = []

    def __getitem__(self, grid: object) -> Any:
        options = {"num_warps": self.config.num_warps, "num_stages": self.config.num_stages}

        def run(*args: object, **constants: object) -> None:
            constants = constants | self.config.kwargs | options
            self.hashes.append(self.kernel.warmup(*args, grid=(1,), **constants).hash)

        return run


def test_operations_compile_once_for_all_sizes(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arguments are those of the operations, up to the launch."""
    stubs = {
        "grouped": Compiling(kernels.convolve, kernels.GROUPED_TRIED[0]),
        "dense": Compiling(kernels.convolve, kernels.DENSE_TRIED[0]),
        "mask_gradient": Compiling(kernels.mask_gradient, triton.Config({})),
    }
    for name, stub in stubs.items():
        monkeypatch.setattr(kernels, name, stub)
    monkeypatch.setattr(driver, "_active", NoDriver())
    call, factor = torch.ops.capecam, torch.ones(128)
    for size in (1, 10, 32):
        x = torch.ones(2, 128, size, size).contiguous(memory_format=torch.channels_last)
        for groups, weight in ((32, torch.ones(128, 4, 3, 3)), (1, torch.ones(128, 128, 1, 1))):
            there, back = (
                ops.packed_weight(weight, groups, to_input) for to_input in (False, True)
            )
            shape = [size, size]
            call.convolve(x, there, shape, 1, False, factor, factor, x, None, True, True)
            call.convolve(x, back, shape, 1, True, None, None, x, x, True, True)
        call.mask_gradient(x, x, x, True)
    assert [len(stub.hashes) for stub in stubs.values()] == [6, 6, 3]
    assert [len(set(stub.hashes)) for stub in stubs.values()] == [2, 2, 1]
