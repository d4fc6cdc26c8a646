"""Time, arithmetic and memory of a call, on the device that it runs on."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_MEMORY, _CPU = Path("/proc/meminfo"), Path("/proc/cpuinfo")


def machine(device: torch.device) -> str:
    """What a number was measured on, in words: the GPU, or the CPU with what PyTorch uses of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    text = _CPU.read_text() if _CPU.exists() else ""
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    name = model[1].strip() if model else platform.machine()
    return f"{os.cpu_count()} cores, {name}, {torch.backends.cpu.get_cpu_capability()}"


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Wall time until the device is done."""
    synchronize(device)
    started = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - started


def gflop(call: Callable[[], object]) -> float:
    """Of the matrix products and convolutions that a call runs, in 1e9."""
    with _Counter() as counter:  # type: ignore[no-untyped-call]
        call()
    flop: int = counter.flop
    return flop / 1e9


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """PyTorch's own FlopCounterMode also follows modules, with hooks that collide with captum's."""

    flop: int = 0

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        result = func(*args, **(kwargs or {}))
        operation = func.overloadpacket
        if operation is torch.ops.aten.convolution_backward:
            self.flop += _convolution_backward_flop(*args)
        elif operation in flop_registry:
            self.flop += flop_registry[operation](*args, **(kwargs or {}), out_val=result)
        return result


def _convolution_backward_flop(gradient: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> int:
    """PyTorch's own count forgets the groups in the gradient of the weight."""
    transposed, wanted = rest[4], rest[-1]  # wanted: of the input, of the weight, of the bias
    once = 2 * (x if transposed else gradient).numel() * weight[0].numel()
    return once * (bool(wanted[0]) + bool(wanted[1]))


def peak_mb(call: Callable[[], object], device: torch.device) -> float | None:
    """Peak memory of the device during a call, beyond what was held before; None: unknown."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    try:
        _trim()
        before = _kb(_STATUS, "VmRSS")
        _CLEAR.write_text("5")  # the peak of the resident set starts again from here
        call()
        return (_kb(_STATUS, "VmHWM") - before) * 1024 / 1e6
    except (OSError, AttributeError):  # not Linux with glibc
        return None


def peak_resident_mb() -> int:
    """Of this process so far; ``ru_maxrss`` would begin with that of the one that started it."""
    return round(_kb(_STATUS, "VmHWM") * 1024 / 1e6)


def free_mb() -> float | None:
    """What a CPU has left for a call, other processes counted; None: unknown."""
    try:
        return _kb(_MEMORY, "MemAvailable") * 1024 / 1e6
    except OSError:  # not Linux
        return None


def _trim() -> None:
    """Give free memory back, or a call would be served from what an earlier one left."""
    ctypes.CDLL(None).malloc_trim(0)


def _kb(path: Path, key: str) -> int:
    (line,) = (line for line in path.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1])


def matrix_gflops(device: torch.device, size: int = 2048) -> float:
    """The device's float32 matrix rate, measured: what a perfect kernel could reach."""
    a, b = torch.randn(2, size, size, device=device)
    repeats = 10 if device.type == "cpu" else 100

    def products() -> None:
        for _ in range(repeats):
            torch.matmul(a, b)

    products()
    best = min(seconds(products, device) for _ in range(3))
    return repeats * 2 * size**3 / best / 1e9


def synchronize(device: torch.device) -> None:
    """Wait until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
