"""Settings of the machine, and of how a run goes about it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from capecam.settings.base import Option, Section
from capecam.settings.choices import Precision


def _count_or_auto(value: object) -> int | str:
    """One message, where pydantic has one for each type."""
    if value == "auto":
        return "auto"
    if not str(value).isdecimal() or int(str(value)) < 1:
        raise ValueError("must be auto or a number from 1 on")
    return int(str(value))


class ComputeSettings(Section):
    """The machine. Nothing here but the precision changes results beyond rounding."""

    device: Annotated[str, Option("--device")] = Field(
        "auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:1"
    )
    precision: Annotated[Literal["auto", Precision], Option("--precision")] = Field(
        "auto",
        description="of the network; auto is the fastest whose Grad-CAM correlates with fp32 "
        "above 0.99 for every class, fp32 on a CPU",
    )
    batch_size: Annotated[
        int | Literal["auto"], BeforeValidator(_count_or_auto), Option("--batch-size", "N|auto")
    ] = Field(
        "auto",
        description="tiles that go through the network together; auto is what the device holds",
    )
    workers: int | None = Field(
        None, ge=1, description="processes that make cells: else one a GPU, or one on a CPU"
    )
    gpus_per_worker: float = Field(
        1.0, gt=0, le=1, description="on a cluster: of a GPU, so that several share one"
    )
    cluster: Annotated[str | None, Option("--cluster", "local-ray|ADDRESS")] = Field(
        None, description="make cells on Ray: of this machine, or of a cluster (host:6379, auto)"
    )
    readers: Annotated[int, Option("--readers", "N")] = Field(
        3, ge=0, description="threads that read imagery ahead; 0 reads in the main thread"
    )


class RunSettings(Section):
    """How this run goes about it; nothing here changes results."""

    shard: Annotated[
        tuple[int, int] | None,
        BeforeValidator(lambda value: value if value is None else _share(value)),
        Option("--shard", "I/N"),
    ] = Field(
        None,
        description="do the I-th of N shares of the cells, 1/4 to 4/4, beside other runs on the "
        "same output; then capecam finish",
    )
    in_process: Annotated[bool, Option("--in-process")] = Field(
        False, description="no worker processes: for debugging"
    )
    recalibrate: Annotated[bool, Option("--recalibrate")] = Field(
        False, description="sample the colour scale anew"
    )
    retry_failed: Annotated[bool, Option("--retry-failed")] = Field(
        False, description="try cells again that failed before, although nothing changed"
    )
    max_failures: Annotated[int | None, Option("--max-failures", "N")] = Field(
        None, ge=0, description="stop when more cells than these have failed"
    )
    prune: Annotated[bool, Option("--prune")] = Field(
        False, description="remove the cells of images that are no longer among the sources"
    )
    dry_run: Annotated[bool, Option("--dry-run")] = Field(
        False, description="only say what would be done and why"
    )


def _share(value: object) -> object:
    """(I, N) of I/N."""
    parts = value.split("/") if isinstance(value, str) else value
    try:
        index, count = map(int, parts)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise ValueError("must be two numbers, I/N, such as 1/4") from None
    if not 1 <= index <= count:
        raise ValueError("must be I/N with I from 1 to N")
    return index, count
