"""The command line: it reads options, calls the packages and prints their results."""

from __future__ import annotations

import errno
import json
import logging
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol

import typer

from capecam.cli_options import (
    AsJson,
    Config,
    Device,
    OptionalFile,
    Out,
    ResultFolder,
    Reviews,
    quiet,
    reviews_path,
    with_common_options,
    with_settings,
)
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
"""Exit code of an interrupted run."""

UNWRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT}
"""Errors of a folder that is read-only, or of a full disk."""


def main() -> None:
    """Run a command; print an error as one line and exit with its code."""
    logs.configure(logging.INFO)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except CapecamError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        if error.errno in UNWRITABLE:
            where = "" if error.filename is None else f"{error.filename}: "
            _fail(f"{where}{error.strerror}; make space on the disk, or correct its permissions", 1)
        if error.errno != errno.ENAMETOOLONG:
            raise
        _fail(f"{str(error.filename)[:80]}...: no file can have such a long name; shorten it", 2)
    except SystemExit as end:  # of typer, after Ctrl-C
        if end.code == INTERRUPTED:
            _fail("interrupted; the same command continues where it stopped", INTERRUPTED)
        raise


def _interrupt(*_: object) -> None:
    """Treat SIGTERM like Ctrl-C."""
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> None:
    print(f"capecam: {message}", file=sys.stderr)
    sys.exit(code)


class _Result(Protocol):
    def to_json(self) -> Mapping[str, object]: ...
    def to_text(self) -> str: ...


def _show(result: _Result, *, as_json: bool) -> None:
    print(json.dumps(result.to_json(), indent=1) if as_json else result.to_text())


@app.callback()
@with_common_options
def _root() -> None:
    """Map rooftop solar in aerial orthophotos, with heatmaps that explain the network's decisions.

    To begin, type: capecam demo DIR, and then the command that it prints.
    """


@app.command("run")
@with_common_options
@with_settings
def run_command(settings: Settings) -> None:
    """Write rasters, heatmaps and polygons for the images in SOURCES.

    A run that was interrupted continues when the same command is given again; images that have not
    changed are not processed again.
    """
    from capecam.run.plan import make_plan
    from capecam.run.progress import Progress, ProgressBar, summary
    from capecam.run.supervisor import run

    if settings.run.dry_run:
        print(make_plan(settings).to_text())
        return
    outcome = run(settings, progress=Progress() if quiet() else ProgressBar())
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
@with_common_options
@with_settings
def plan_command(settings: Settings, as_json: AsJson = False) -> None:
    """Show the cells, time, memory and disk space that run needs.

    The plan is made from the headers of the images, without a GPU.
    """
    from capecam.run.plan import make_plan

    plan = make_plan(settings)
    _show(plan, as_json=as_json)


@app.command("inspect")
@with_common_options
def inspect_command(
    path: Annotated[str, typer.Argument(metavar="PATH", help="checkpoint or GeoTIFF")],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Describe a checkpoint or an image; say whether it can be used."""
    from capecam.run.inspection import inspect_path

    found = inspect_path(path, load(config))
    _show(found, as_json=as_json)
    if found.refusal is not None:
        print(f"capecam: {found.refusal}", file=sys.stderr)
    raise typer.Exit(found.exit_code)


@app.command("finish")
@with_common_options
def finish_command(
    out: Out,
) -> None:
    """Write the layers and tables of the city from finished cells.

    The command run does so at its end; runs of shards (--shard) leave it to this command.
    """
    from capecam.run.city_products import finish
    from capecam.run.progress import totals_table
    from capecam.run.unusual_images import pixel_warnings

    record = finish(out)
    if not quiet():
        print("\n".join([totals_table(record.totals), *pixel_warnings(record)]))


@app.command("verify")
@with_common_options
def verify_command(
    out: Out,
    as_json: AsJson = False,
) -> None:
    """Check the files of a run: checksums, and the rules of COGs.

    A COG is a Cloud Optimized GeoTIFF.
    """
    from capecam.store.verify import verify

    found = verify(out)
    _show(found, as_json=as_json)
    raise typer.Exit(found.exit_code)


@app.command("evaluate", cls=OptionalFile)
@with_common_options
def evaluate_command(
    found: Annotated[
        Path,
        typer.Argument(metavar="OUT|VECTOR", help="folder of a run, or vector file of polygons"),
    ],
    *,
    truth: Annotated[
        Path | None,
        typer.Option("--truth", metavar="FILE", help="vector file of annotated polygons"),
    ] = None,
    reviews: Reviews = None,
    area: Annotated[
        Path | None,
        typer.Option(
            "--area",
            metavar="FILE",
            help="polygons of the annotated area  [default: everywhere]",
        ),
    ] = None,
    iou: Annotated[float, typer.Option("--iou", metavar="X", help="minimum IoU of a match")] = 0.5,
    steps: Annotated[
        bool,
        typer.Option(
            "--steps", help="also score the objects after tracing, joining and each filter"
        ),
    ] = False,
    misses: Annotated[
        bool,
        typer.Option(
            "--misses", help="also score the places where an object is most likely missed"
        ),
    ] = False,
    config: Config = None,
    to: ResultFolder = None,
    as_json: AsJson = False,
) -> None:
    """Compare detections with annotations: precision, recall, F1.

    Scores are by class. Objects are matched one to one by intersection over union (IoU). With
    --reviews, count what the verdicts of people say; --truth and --reviews exclude each other.
    """
    if reviews is not None and truth is None:
        from capecam.analysis.review.review_scores import evaluate_reviews

        if area is not None or steps or misses:
            raise UsageError("--area, --steps and --misses need --truth; leave them out")
        _show(evaluate_reviews(found, reviews_path(found, reviews), to), as_json=as_json)
        return
    if truth is None or reviews is not None:
        raise UsageError("evaluate: exactly one of --truth and --reviews must be given")
    from capecam.analysis.evaluation import EvaluationRequest, evaluate
    from capecam.analysis.scoring import Rules

    request = EvaluationRequest(found, truth, area, steps, misses, Rules(iou), load(config), to)
    answer = evaluate(request)
    _show(answer, as_json=as_json)


@app.command("review")
@with_common_options
def review_command(
    out: Out,
    *,
    top: Annotated[
        int,
        typer.Option("--top", metavar="N", min=0, help="the first N of the queue"),
    ] = 100,
    misses: Annotated[
        bool,
        typer.Option("--misses", help="places where an object is most likely missed instead"),
    ] = False,
    reviews: Annotated[
        Path | None,
        typer.Option("--reviews", metavar="FILE", help="review file  [default: OUT/review.gpkg]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add detections to look at to OUT/review.gpkg, which is made if need be.

    Its layers are filled in with QGIS or any other tool. What is in the file stays as it is;
    detections that are in it are not added again.
    """
    from capecam.analysis.review.queue import add_misses, add_queue

    added = (add_misses if misses else add_queue)(out, top, reviews)
    _show(added, as_json=as_json)


@app.command("calibrate", cls=OptionalFile)
@with_common_options
def calibrate_command(
    out: Out,
    *,
    truth: Annotated[
        Path | None,
        typer.Option("--truth", metavar="FILE", help="vector file of annotated polygons"),
    ] = None,
    reviews: Reviews = None,
    area: Annotated[
        Path | None,
        typer.Option(
            "--area", metavar="FILE", help="polygons of the annotated area  [default: everywhere]"
        ),
    ] = None,
    iou: Annotated[float, typer.Option("--iou", metavar="X", help="minimum IoU of a match")] = 0.5,
    config: Config = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FILE", help="file to write  [default: OUT/p_right.json]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fit the probability that a detection is right, to annotations or to reviews.

    Scores are of blocks of ground that the fit has not seen. run --calibrate-with applies the file
    that is written; it holds for the network and the kind of place that it was made with.
    """
    from capecam.analysis.review.calibration import CalibrationRequest, calibrate
    from capecam.analysis.scoring import Rules

    if (truth is None) == (reviews is None):
        raise UsageError("calibrate: exactly one of --truth and --reviews must be given")
    if truth is None and area is not None:
        raise UsageError("--area needs --truth; leave it out")
    verdicts = None if reviews is None else reviews_path(out, reviews)
    request = CalibrationRequest(out, truth, area, verdicts, Rules(iou), load(config), to)
    found = calibrate(request)
    _show(found, as_json=as_json)


@app.command("summarize")
@with_common_options
def summarize_command(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="folder of a run (the earlier one of two)")
    ],
    later: Annotated[
        Path | None, typer.Argument(metavar="OUT2", help="folder of the later run")
    ] = None,
    *,
    zones: Annotated[
        Path,
        typer.Option(
            "--zones", metavar="FILE", help="vector file of zones, or FILE|layername=NAME"
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(
            "--name",
            metavar="COLUMN",
            help="column with the names of zones  [default: the first column of text]",
        ),
    ] = None,
    footprints: Annotated[
        Path | None,
        typer.Option(
            "--footprints", metavar="FILE", help="vector file of buildings, to count them too"
        ),
    ] = None,
    to: ResultFolder = None,
    as_json: AsJson = False,
) -> None:
    """Count detections and m² by zone, and changes between two runs."""
    from capecam.analysis.zonal_summary import summarize
    from capecam.analysis.zones import ZoneRules

    found = summarize(out, later, ZoneRules(zones, name, footprints), to=to)
    _show(found, as_json=as_json)


@app.command("sample")
@with_common_options
def sample_command(
    out: Out,
    *,
    looks: Annotated[
        int | None,
        typer.Option(
            "--looks",
            metavar="N",
            help="number of blocks: one look is one block  [default: 300]",
        ),
    ] = None,
    more: Annotated[
        int | None,
        typer.Option("--more", metavar="N", help="add N looks to the sample that there is"),
    ] = None,
    zones: Annotated[
        Path | None,
        typer.Option(
            "--zones", metavar="FILE", help="vector file of the zones that totals are wanted for"
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="COLUMN", help="column with the names of zones"),
    ] = None,
    block: Annotated[
        float | None,
        typer.Option("--block", metavar="M", help="edge of a block in metres  [default: 64]"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="S", min=0, help="random seed of the sample  [default: 0]"),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--reviews", metavar="FILE", help="review file  [default: OUT/review.gpkg]"),
    ] = None,
    atlas: Annotated[
        Path | None,
        typer.Option(
            "--atlas", metavar="FILE.html", help="also write the blocks as pages to print"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw a random sample of blocks, to be checked completely: it can prove totals.

    Blocks where the map is most likely wrong are drawn more often, with known probabilities. They
    are added to the review file, with the detections in them. capecam estimate needs it.
    """
    from capecam.analysis.review.sampling import SampleRequest, add_looks, draw_sample
    from capecam.analysis.zones import ZoneRules

    rules = None if zones is None else ZoneRules(zones, name)
    wanted = {"looks": looks, "block_m": block, "zones": rules, "seed": seed}
    given: dict[str, Any] = {key: value for key, value in wanted.items() if value is not None}
    if more is None:
        drawn = draw_sample(out, SampleRequest(**given), file)
    elif given:
        raise UsageError("--more adds to the sample that there is; leave out how that was drawn")
    else:
        drawn = add_looks(out, more, file)
    if atlas is not None:
        from capecam.analysis.review.atlas import write_atlas

        write_atlas(out, atlas, file)
    _show(drawn, as_json=as_json)


@app.command("estimate")
@with_common_options
def estimate_command(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="folder of a run (the earlier one of two)")
    ],
    later: Annotated[
        Path | None, typer.Argument(metavar="OUT2", help="folder of the later run")
    ] = None,
    *,
    sample: Annotated[
        Path | None,
        typer.Option(
            "--sample", metavar="FILE", help="its review file  [default: OUT/review.gpkg]"
        ),
    ] = None,
    sample2: Annotated[
        Path | None,
        typer.Option(
            "--sample2",
            metavar="FILE",
            help="review file of the later run  [default: OUT2/review.gpkg]",
        ),
    ] = None,
    zones: Annotated[
        Path | None,
        typer.Option("--zones", metavar="FILE", help="vector file of zones  [default: the whole]"),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="COLUMN", help="column with the names of zones"),
    ] = None,
    borrow: Annotated[
        bool,
        typer.Option(
            "--borrow", help="zones borrow strength from the whole: narrower, but may be biased"
        ),
    ] = False,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial", help="take the blocks that are checked for a random part of the sample"
        ),
    ] = False,
    to: ResultFolder = None,
    as_json: AsJson = False,
) -> None:
    """Estimate counts and m² with 95 % intervals from a checked sample.

    What the map says is corrected by what people found in the blocks of capecam sample. With a
    second run, the change is estimated, too, and whether it can be told from chance.
    """
    from capecam.analysis.review.estimates import EstimateRequest, estimate
    from capecam.analysis.zones import ZoneRules

    rules = None if zones is None else ZoneRules(zones, name)
    request = EstimateRequest(sample, sample2, rules, borrow, partial)
    _show(estimate(out, later, request, to=to), as_json=as_json)


@app.command("audit")
@with_common_options
def audit_command(
    out: Out,
    sample: Annotated[
        int, typer.Option("--sample", metavar="N", min=1, help="number of detections to test")
    ] = 30,
    seed: Annotated[
        int, typer.Option("--seed", metavar="S", min=0, help="random seed of the sample")
    ] = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Test which maps of a run can be believed about objects.

    A sample of detections is tested: their probability as parts of the tile go or come, randomised
    weights and shifted tiles.
    """
    from capecam.analysis.audit.audit import audit
    from capecam.run.progress import Counter
    from capecam.settings import AuditSettings

    counter = (lambda _done, _of: None) if quiet() else Counter("detection")
    found = audit(out, AuditSettings(sample=sample, seed=seed), device=device, progress=counter)
    _show(found, as_json=as_json)


@app.command("report")
@with_common_options
def report_command(
    out: Out,
    queue: Annotated[
        int,
        typer.Option(
            "--queue",
            metavar="N",
            min=0,
            max=1_000_000,
            help="number of objects to review, with pictures",
        ),
    ] = 48,
    panels: Annotated[
        int,
        typer.Option(
            "--panels", metavar="N", min=0, max=1_000_000, help="number of these that get a panel"
        ),
    ] = 12,
    device: Device = None,
) -> None:
    """Write OUT/report.html: map, charts and the objects to review.

    Panels are computed again with the network of the run; --panels 0 leaves them out.
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
@with_common_options
def panel_command(
    out: Out,
    *,
    detection: Annotated[
        list[str] | None,
        typer.Option(
            "--detection", metavar="ID", help="id of a detection, or several separated by commas"
        ),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", metavar="X,Y", help="location in the CRS of the imagery"),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top", metavar="N", min=1, help="the first N detections of the review queue"
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="PATH", help="folder or file to write  [default: OUT/panels]"),
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--format", metavar="png|pdf", help="file format  [default: png]")
    ] = None,
    all_classes: Annotated[
        bool,
        typer.Option(
            "--all-classes", help="draw a row for each class, even if it is not predicted"
        ),
    ] = False,
    ramp: Annotated[
        str,
        typer.Option(
            "--ramp", metavar="inferno|jet", help="colours of heatmaps; jet as in the first figures"
        ),
    ] = "inferno",
    device: Device = None,
) -> None:
    """Draw the heatmaps at detections or locations.

    A panel shows a tile: imagery, prediction and heatmaps by class. Give one of --detection, --at
    and --top. The maps are computed again from the imagery, with the
    network and settings of the run, so imagery and checkpoint must still be where they were.
    """
    from capecam.views.panels.panel_data import PanelStyle
    from capecam.views.panels.writing import PanelDestination, PanelSelection, write_panels

    selection = PanelSelection.parse(detection or [], at or [], top)
    destination = PanelDestination.parse(out, to, kind)
    style = PanelStyle(ramp, all_classes)
    on_written = (lambda _: None) if quiet() else print
    written = write_panels(out, selection, destination, style, device=device, on_written=on_written)
    for name, reason in written.failures.items():
        print(f"capecam: {name} failed: {reason}", file=sys.stderr)
    raise typer.Exit(written.exit_code)


@app.command("explain")
@with_common_options
def explain_command(
    out: Out,
    *,
    detections: Annotated[
        list[str] | None,
        typer.Option("--detections", metavar="IDS", help="ids of detections, separated by commas"),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top", metavar="N", min=1, help="the first N detections of the review queue"
        ),
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            "--at", metavar="LON,LAT", help="the detection at a place in degrees, or the place"
        ),
    ] = None,
    geometry: Annotated[
        Path | None,
        typer.Option("--geometry", metavar="FILE", help="polygons, whatever lies there"),
    ] = None,
    class_name: Annotated[
        str | None,
        typer.Option(
            "--class", metavar="NAME", help="class to ask about  [default: the most probable]"
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FOLDER", help="folder to write  [default: OUT/explained]"),
    ] = None,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Explain detections, a place or polygons: what does the network's decision rest on?

    Prints how much of the decision is left when parts of the tile are blurred, and writes the map
    of each object as a GeoTIFF. The imagery and the checkpoint must still be where they were.
    """
    from capecam.analysis.explain import FOLDER, Selection, explain_and_write

    ids = tuple(part for text in detections or () for part in text.split(",") if part)
    place = None if at is None else Selection.parse_place(at)
    selection = Selection(ids, top, place, geometry, class_name)
    result = explain_and_write(out, selection, to or out / FOLDER, device=device)
    for name, reason in result.failures.items():
        print(f"capecam: {name} failed: {reason}", file=sys.stderr)
    _show(result, as_json=as_json)
    raise typer.Exit(3 if result.failures else 0)


@app.command("export")
@with_common_options
def export_command(
    out: Out,
    kind: Annotated[
        str | None,
        typer.Option("--format", metavar="fgb|geojson|csv|parquet|gpkg", help="file format"),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", metavar="FILE", help="file to write  [default: OUT/detections.FORMAT]"
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels", metavar="FOLDER", help="folder to make, with annotations for training"
        ),
    ] = None,
    reviews: Annotated[
        Path | None,
        typer.Option(
            "--reviews",
            metavar="FILE",
            help="review file of --labels  [default: OUT/review.gpkg]",
        ),
    ] = None,
) -> None:
    """Write the detections in another format, or what people say as annotations.

    GeoJSON is in longitude and latitude, the other formats in the CRS of the imagery. With
    --labels, only places that people have looked at are written, as tiles of imagery with masks,
    COCO and GeoPackage; --format and --labels exclude each other.
    """
    if labels is not None and kind is None and to is None:
        from capecam.analysis.review.labels import export_labels

        made = export_labels(out, labels, reviews)
        if not quiet():
            print(made.to_text())
        return
    if kind is None or labels is not None:
        raise UsageError(
            "export: exactly one of --format and --labels must be given, --to only with --format"
        )
    if reviews is not None:
        raise UsageError("--reviews needs --labels; leave it out")
    from capecam.detections.export import export

    path = export(out, kind, to)
    if not quiet():
        print(path)


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
