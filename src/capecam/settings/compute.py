"""Settings of the machine, and of one run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from capecam.settings.base import Option, Section
from capecam.settings.choices import Backend, Precision


def _count_or_auto(value: object) -> int | str:
    """Validate with one message, where pydantic has one per type."""
    if value == "auto":
        return "auto"
    if not str(value).isdecimal() or int(str(value)) < 1:
        raise ValueError("must be auto or a number of at least 1")
    return int(str(value))


class ComputeSettings(Section):
    """Use of the machine; only precision, engine and layout change results beyond rounding."""

    device: Annotated[str, Option("--device")] = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:1"
    )
    precision: Annotated[Literal["auto", Precision], Option("--precision")] = Field(
        "auto",
        description="precision of the network; auto is the fastest whose Grad-CAM correlates with "
        "fp32 above 0.99 for every class, and fp32 on a CPU",
    )
    engine: Annotated[Backend, Option("--engine")] = Field(
        "graph",
        description="graph replays the network's passes without autograd, where that gives the "
        "same maps bit for bit; autograd never does; onnx uses onnxruntime on a CPU, within 1e-4 "
        "of each map's range (docs/onnx.md)",
    )
    channels_last: bool = Field(
        False,
        description="run the network channels-last on a CPU: faster, but it rounds otherwise, so "
        "that single ReLUs open or close (docs/performance.md)",
    )
    batch_size: Annotated[
        int | Literal["auto"], BeforeValidator(_count_or_auto), Option("--batch-size", "N|auto")
    ] = Field(
        "auto",
        description="tiles in a batch; auto is as many as fit into the memory of the device",
    )
    workers: int | None = Field(
        None,
        ge=1,
        description="number of worker processes; default is one per GPU, or one on a CPU",
    )
    gpus_per_worker: float = Field(
        1.0,
        gt=0,
        le=1,
        description="on a cluster: part of a GPU per worker, so that several can share one",
    )
    cluster: Annotated[str | None, Option("--cluster", "local-ray|ADDRESS")] = Field(
        None, description="use Ray on this machine, or on a cluster (host:6379, auto)"
    )
    readers: Annotated[int, Option("--readers", "N")] = Field(
        3, ge=0, description="number of threads that read imagery ahead; 0 reads in the main thread"
    )


class RunSettings(Section):
    """Options of one run, which do not change results."""

    shard: Annotated[
        tuple[int, int] | None,
        BeforeValidator(lambda value: value if value is None else _share(value)),
        Option("--shard", "I/N"),
    ] = Field(
        None,
        description="process the I-th of N parts of the cells (1/4 to 4/4) while other runs "
        "process the other parts into the same folder; then use capecam finish",
    )
    in_process: Annotated[bool, Option("--in-process")] = Field(
        False, description="compute in this process, for debugging"
    )
    recalibrate: Annotated[bool, Option("--recalibrate")] = Field(
        False, description="compute the colour scale again"
    )
    retry_failed: Annotated[bool, Option("--retry-failed")] = Field(
        False, description="try failed cells again, even if nothing has changed"
    )
    max_failures: Annotated[int | None, Option("--max-failures", "N")] = Field(
        None, ge=0, description="stop when more than N cells have failed"
    )
    prune: Annotated[bool, Option("--prune")] = Field(
        False, description="remove the cells of images that are no longer among the sources"
    )
    dry_run: Annotated[bool, Option("--dry-run")] = Field(
        False, description="only show what would be done, and why"
    )


def _share(value: object) -> object:
    """Return the two numbers of I/N."""
    parts = value.split("/") if isinstance(value, str) else value
    try:
        index, count = map(int, parts)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise ValueError("must be two numbers, I/N, such as 1/4") from None
    if not 1 <= index <= count:
        raise ValueError("must be I/N with I from 1 to N")
    return index, count
