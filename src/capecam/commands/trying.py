"""Commands to try capecam, and to measure it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from capecam.cli_options import (
    Commands,
    Config,
    quiet,
    with_common_options,
)
from capecam.errors import UsageError
from capecam.settings.loading import load

app = Commands()


@app.command("demo")
@with_common_options
def demo_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="folder to make")],
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="random seed of the city")] = 1,
    size: Annotated[
        int, typer.Option("--size", metavar="PX", help="approximate size of an image")
    ] = 2500,
) -> None:
    """Draw a sample city with a trained network and a configuration.

    The folder gets four images, annotations (truth.gpkg), the network and demo.yaml.
    """
    from capecam.demo.writing import write_demo

    write_demo(folder, seed, size)
    if not quiet():
        print(f"a sample city is in {folder}; now type:\n  capecam run --config {folder}/demo.yaml")


@app.command("init")
@with_common_options
def init_command(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="checkpoint: .ckpt, .pt, .safetensors, folder")
    ],
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGES", help="images, folders, globs, or @list.txt")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="configuration to write")
    ] = Path("capecam.yaml"),
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights", metavar="NAME", help="network of a checkpoint that holds several"
        ),
    ] = None,
) -> None:
    """Guess a configuration from a checkpoint and images.

    Writes a YAML file, with comments, for run --config, and beside it a picture of one tile in each
    plausible range of the input. What is there already is not overwritten.
    """
    from capecam.run.guessed_configuration import write_configuration

    summary = write_configuration(model, images, out, weights)
    if not quiet():
        print(summary)


@app.command("bench")
@with_common_options
def bench_command(
    *,
    config: Config = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            metavar="FILE",
            help="network  [default: FPN with resnext50_32x4d, untrained]",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:1")
    ] = "auto",
    batch: Annotated[str, typer.Option("--batch", metavar="LIST", help="batch sizes")] = "1,8,32",
    rounds: Annotated[
        int,
        typer.Option("--rounds", metavar="N", min=1, help="repetitions, for a median"),
    ] = 3,
    peers: Annotated[
        bool, typer.Option("--peers/--no-peers", help="also measure other libraries")
    ] = True,
    csv: Annotated[
        Path | None,
        typer.Option(
            "--csv",
            metavar="FILE",
            help="table to write  [default: benchmarks/results/engine-DEVICE.csv]",
        ),
    ] = None,
) -> None:
    """Measure the speed of heatmaps here and in other libraries."""
    from capecam.analysis.benchmark.run import Extent, bench_settings
    from capecam.analysis.benchmark.table import benchmark_table, write_csv
    from capecam.runtime.heap import keep_heap

    keep_heap()  # as workers do; every library has it
    settings = load(config, {"checkpoint": checkpoint, "compute.device": device})
    say = (lambda _: None) if quiet() else (lambda line: print(line, file=sys.stderr, flush=True))
    extent = Extent(_numbers(batch), rounds, with_peers=peers)
    rows, machine = bench_settings(settings, extent, say)
    path = csv or Path("benchmarks/results") / f"engine-{machine.device}.csv"
    write_csv(path, rows, machine)
    if not quiet():
        print(f"{benchmark_table(rows, machine)}\nwritten to {path}")


def _numbers(text: str) -> tuple[int, ...]:
    """Return the numbers of a list such as 1,8,32."""
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) for part in parts):
        raise UsageError(f"--batch takes numbers of at least 1, such as 1,8,32; got {text!r}")
    return tuple(int(part) for part in parts)
