"""The command line. No logic: it reads options, calls, and prints what came of it."""

from __future__ import annotations

import errno
import json
import logging
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from capecam.cli_options import AsJson, Config, everywhere, quiet, with_settings
from capecam.errors import CapecamError, UsageError
from capecam.runtime import logs
from capecam.settings import Settings
from capecam.settings.loading import load

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


INTERRUPTED = 130

UNWRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT}
"""A folder is read-only, or the disk is full."""


def main() -> None:
    """Run a command; errors are one line and an exit code."""
    logs.configure(logging.INFO)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except CapecamError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        if error.errno in UNWRITABLE:
            where = "" if error.filename is None else f"{error.filename}: "
            _fail(f"{where}{error.strerror}; mend the disk, or its permissions", 1)
        if error.errno != errno.ENAMETOOLONG:
            raise
        _fail(f"{str(error.filename)[:80]}...: no file can have such a long name; shorten it", 2)
    except SystemExit as end:  # typer makes one of Ctrl-C, and says nothing
        if end.code == INTERRUPTED:
            _fail("interrupted; the same command goes on where it stopped", INTERRUPTED)
        raise


def _interrupt(*_: object) -> None:
    """A polite request to end is an interruption like Ctrl-C."""
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> None:
    print(f"capecam: {message}", file=sys.stderr)
    sys.exit(code)


@app.callback()
@everywhere
def _root() -> None:
    """Maps of rooftop solar from aerial orthophotos, and of why the network says so.

    Start with: capecam demo DIR, then the command that it prints.
    """


@app.command("run")
@everywhere
@with_settings
def run_command(
    settings: Settings,
) -> None:
    """Explain images: rasters, heatmaps and polygons of everything in SOURCES."""
    from capecam.run.plan import make_plan
    from capecam.run.progress import ProgressBar, summary
    from capecam.run.supervisor import Silent, run

    if settings.run.dry_run:
        print(make_plan(settings).to_text())
        return
    outcome = run(settings, progress=Silent() if quiet() else ProgressBar())
    if not quiet():
        print(summary(outcome))
    for name, reason in outcome.failures.items():
        print(f"capecam: {name} failed: {reason}", file=sys.stderr)
    if settings.audit.sample and outcome.found:
        from capecam.analysis.audit.audit import audit
        from capecam.views.report.report import write_report

        print(audit(outcome.out, settings.audit).to_text())
        write_report(outcome.out)  # now with the audit
    raise typer.Exit(outcome.exit_code)


@app.command("plan")
@everywhere
@with_settings
def plan_command(settings: Settings, as_json: AsJson = False) -> None:
    """Say what run would do: cells, tiles, memory, disk and time. Touches no GPU."""
    from capecam.run.plan import make_plan

    plan = make_plan(settings)
    print(json.dumps(plan.to_json(), indent=1) if as_json else plan.to_text())


@app.command("inspect")
@everywhere
def inspect_command(
    path: Annotated[str, typer.Argument(metavar="PATH", help="a checkpoint or a GeoTIFF")],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Show what a checkpoint or an image is, and whether it can be used."""
    from capecam.run.inspection import inspect_path

    found = inspect_path(path, load(config))
    print(json.dumps(found.to_json(), indent=1) if as_json else found.to_text())
    if found.refusal is not None:
        print(f"capecam: {found.refusal}", file=sys.stderr)
    raise typer.Exit(found.exit_code)


@app.command("finish")
@everywhere
def finish_command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the folder of a run")],
) -> None:
    """Make the city's layers and tables from the cells that are done (run does it by itself)."""
    from capecam.run.city_products import finish
    from capecam.run.progress import totals_table

    table = totals_table(finish(out))
    if not quiet():
        print(table)


@app.command("verify")
@everywhere
def verify_command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the folder of a run")],
    as_json: AsJson = False,
) -> None:
    """Compare every product with its recorded checksum, and rasters with the rules of COGs."""
    from capecam.store.verify import verify

    found = verify(out)
    print(json.dumps(found.to_json(), indent=1) if as_json else found.to_text())
    raise typer.Exit(found.exit_code)


@app.command("evaluate")
@everywhere
def evaluate_command(
    found: Annotated[Path, typer.Argument(metavar="OUT|VECTOR", help="a run, or polygons")],
    *,
    truth: Annotated[Path, typer.Option("--truth", metavar="FILE", help="annotated polygons")],
    area: Annotated[
        Path | None, typer.Option("--area", metavar="FILE", help="what was labelled; else all")
    ] = None,
    iou: Annotated[
        float, typer.Option("--iou", metavar="X", help="from which overlap two objects are one")
    ] = 0.5,
    steps: Annotated[
        bool, typer.Option("--steps", help="also after tracing, joining and each rule")
    ] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Score detections against annotations: precision, recall and F1 by class, object by object."""
    from capecam.analysis.evaluation import EvaluationRequest, evaluate
    from capecam.analysis.scoring import Rules

    answer = evaluate(EvaluationRequest(found, truth, area, steps, Rules(iou), load(config)))
    print(json.dumps(answer.to_json(), indent=1) if as_json else answer.to_text())


@app.command("summarize")
@everywhere
def summarize_command(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="the folder of a run; of two, the earlier")
    ],
    later: Annotated[
        Path | None, typer.Argument(metavar="[OUT2]", help="the folder of the later run")
    ] = None,
    *,
    zones: Annotated[
        Path, typer.Option("--zones", metavar="FILE", help="polygons (docs/inputs.md)")
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="COLUMN", help="names of zones; else the first with text"),
    ] = None,
    footprints: Annotated[
        Path | None, typer.Option("--footprints", metavar="FILE", help="buildings: also per these")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count detections and m² per zone and class; with two runs, also what has changed."""
    from capecam.analysis.zonal_summary import summarize
    from capecam.analysis.zones import ZoneRules

    found = summarize(out, later, ZoneRules(zones, name, footprints))
    print(json.dumps(found.to_json(), indent=1) if as_json else found.to_text())


@app.command("audit")
@everywhere
def audit_command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the folder of a run")],
    sample: Annotated[
        int, typer.Option("--sample", metavar="N", min=1, help="detections to look at")
    ] = 30,
    seed: Annotated[int, typer.Option("--seed", metavar="S", min=0, help="of the sample")] = 0,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="else as in the run")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Test whether the explanations of a run are faithful: deletion, randomisation, shifts."""
    from capecam.analysis.audit.audit import audit
    from capecam.run.progress import Counter
    from capecam.settings import AuditSettings

    counter = (lambda _done, _of: None) if quiet() else Counter("detection")
    found = audit(out, AuditSettings(sample=sample, seed=seed), device=device, progress=counter)
    print(json.dumps(found.to_json(), indent=1) if as_json else found.to_text())


@app.command("report")
@everywhere
def report_command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the folder of a run")],
    queue: Annotated[
        int,
        typer.Option(
            "--queue", metavar="N", min=0, max=1_000_000, help="objects to review, with pictures"
        ),
    ] = 48,
    panels: Annotated[
        int,
        typer.Option(
            "--panels", metavar="N", min=0, max=1_000_000, help="for how many of these a panel"
        ),
    ] = 12,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="else as in the run")
    ] = None,
) -> None:
    """Write OUT/report.html: a run as one page, with a map, charts and the review queue.

    Panels are computed anew with the run's own network; --panels 0 leaves them out.
    """
    from capecam.run.progress import Counter
    from capecam.views.report.with_panels import write_report_with_panels

    counter = (lambda _done, _of: None) if quiet() else Counter("panel")
    path = write_report_with_panels(
        out, queue=queue, panels=panels, device=device, on_progress=counter
    )
    if not quiet():
        print(path)


@app.command("panel")
@everywhere
def panel_command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the folder of a run")],
    *,
    detection: Annotated[
        list[str] | None,
        typer.Option(
            "--detection", metavar="ID", help="detections by their id; several with commas"
        ),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", metavar="X,Y", help="a place, in the CRS of the imagery"),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top", metavar="N", min=1, help="the first N detections of the review queue"
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="PATH", help="a folder, or a file; else OUT/panels"),
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--format", metavar="png|pdf", help="else png")
    ] = None,
    all_classes: Annotated[
        bool,
        typer.Option("--all-classes", help="a row for each class, also if it is not predicted"),
    ] = False,
    ramp: Annotated[
        str,
        typer.Option("--ramp", metavar="inferno|jet", help="colours; jet as in the first figures"),
    ] = "inferno",
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="else as in the run")
    ] = None,
) -> None:
    """Draw the tile of a detection or a place: imagery, prediction and each heatmap, per class.

    Give one of --detection, --at and --top. Maps are computed anew from the imagery with the run's
    own network and settings, so both have to be where the run found them.
    """
    from capecam.views.panels.delivery import Delivery, PanelRequest, deliver
    from capecam.views.panels.tile_view import PanelStyle

    wanted = PanelRequest.parse(detection or [], at or [], top)
    delivery, style = Delivery.parse(out, to, kind), PanelStyle(ramp, all_classes)
    say = (lambda _: None) if quiet() else print
    done = deliver(out, wanted, delivery, style, device=device, say=say)
    for name, reason in done.failures.items():
        print(f"capecam: {name} failed: {reason}", file=sys.stderr)
    raise typer.Exit(done.exit_code)


@app.command("export")
@everywhere
def export_command(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="the folder of a run")],
    kind: Annotated[str, typer.Option("--format", metavar="fgb|geojson|csv|parquet|gpkg")],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="else OUT/detections.FORMAT")
    ] = None,
) -> None:
    """Write the detections in another format; GeoJSON is in longitude and latitude."""
    from capecam.detections.export import export

    path = export(out, kind, to)
    if not quiet():
        print(path)


@app.command("demo")
@everywhere
def demo_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a new folder")],
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="of the city")] = 1,
    size: Annotated[int, typer.Option("--size", metavar="PX", help="of each image, about")] = 2500,
) -> None:
    """Draw a sample city: four images, the truth, a trained network and its settings."""
    from capecam.demo.writing import write_demo

    write_demo(folder, seed, size)
    if not quiet():
        print(f"a sample city is in {folder}; now type:\n  capecam run --config {folder}/demo.yaml")


@app.command("bench")
@everywhere
def bench_command(
    *,
    config: Config = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", metavar="FILE", help="else FPN resnext50_32x4d, untrained"),
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="as for run")] = "auto",
    batch: Annotated[
        str, typer.Option("--batch", metavar="LIST", help="how many tiles go together")
    ] = "1,8,32",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="of which medians are taken")] = 3,
    peers: Annotated[
        bool, typer.Option("--peers/--no-peers", help="measure other libraries, too")
    ] = True,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE", help="else benchmarks/results/engine-DEVICE.csv"),
    ] = None,
) -> None:
    """Measure the engine here, beside the notebook's way and the peer libraries."""
    from capecam.analysis.benchmark.run import Extent, bench_settings
    from capecam.analysis.benchmark.table import benchmark_table, write_csv

    settings = load(config, {"checkpoint": checkpoint, "compute.device": device})
    say = (lambda _: None) if quiet() else (lambda line: print(line, file=sys.stderr, flush=True))
    extent = Extent(_numbers(batch), rounds, with_peers=peers)
    rows, machine = bench_settings(settings, extent, say)
    path = csv or Path("benchmarks/results") / f"engine-{machine.device}.csv"
    write_csv(path, rows, machine)
    if not quiet():
        print(f"{benchmark_table(rows, machine)}\nwritten to {path}")


def _numbers(text: str) -> tuple[int, ...]:
    """1,8,32 as numbers from 1 on."""
    parts = text.split(",")
    if not all(part.strip().isdigit() and int(part) for part in parts):
        raise UsageError(f"--batch takes numbers from 1 on, such as 1,8,32; got {text!r}")
    return tuple(int(part) for part in parts)
