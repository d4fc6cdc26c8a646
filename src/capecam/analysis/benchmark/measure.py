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
    """Return the name of the GPU, or of the CPU with the instruction set that PyTorch uses."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    text = _CPU.read_text() if _CPU.exists() else ""
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    name = model[1].strip() if model else platform.machine()
    return f"{os.cpu_count()} cores, {name}, {torch.backends.cpu.get_cpu_capability()}"


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """Return the wall time of a call, until the device is done."""
    synchronize(device)
    started = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - started


def gflop(call: Callable[[], object]) -> float:
    """Return the GFLOP of the matrix products and convolutions of a call."""
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
    """Count a backward convolution; PyTorch's own count ignores groups in the weight's gradient."""
    transposed, wanted = rest[4], rest[-1]  # wanted: of the input, of the weight, of the bias
    once = 2 * (x if transposed else gradient).numel() * weight[0].numel()
    return once * (bool(wanted[0]) + bool(wanted[1]))


def peak_mb(call: Callable[[], object], device: torch.device) -> float | None:
    """Return the peak memory of the device during a call, beyond that before; None: unknown."""
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
    """Return the peak resident memory of this process; ``ru_maxrss`` includes the parent's."""
    return round(_kb(_STATUS, "VmHWM") * 1024 / 1e6)


def free_mb() -> float | None:
    """Return the memory that a CPU has available; None: unknown."""
    try:
        return _kb(_MEMORY, "MemAvailable") * 1024 / 1e6
    except OSError:  # not Linux
        return None


def _trim() -> None:
    """Return free memory to the system, so that a call does not reuse that of an earlier one."""
    ctypes.CDLL(None).malloc_trim(0)


def _kb(path: Path, key: str) -> int:
    (line,) = (line for line in path.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1])


def matrix_gflops(device: torch.device, size: int = 2048) -> float:
    """Measure the device's float32 matrix rate, the upper bound of any kernel."""
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
