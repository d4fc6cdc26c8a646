"""Commands that show a map, and why it is so."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from capecam.cli_options import (
    PLACE,
    AsJson,
    Commands,
    Device,
    Out,
    ProgressKind,
    Top,
    quiet,
    with_common_options,
)
from capecam.commands.results import show
from capecam.errors import UsageError

app = Commands()


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
    progress: ProgressKind = "auto",
) -> None:
    """Write OUT/report.html: map, charts and the objects to review.

    Panels are computed again with the network of the run; --panels 0 leaves them out.
    """
    from capecam.runtime.progress import progress_of

    with progress_of(progress, quiet=quiet()) as shown:
        shown.at("start")
        from capecam.views.report.with_panels import write_report_with_panels

        path = write_report_with_panels(
            out, queue=queue, panels=panels, device=device, on_progress=partial(shown.at, "panels")
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
        typer.Option("--at", metavar="LON,LAT", help=f"place: {PLACE}; may be repeated"),
    ] = None,
    top: Top = None,
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
    """Draw the heatmaps at detections or places.

    A panel shows a tile: imagery, prediction and heatmaps by class. Give one of --detection, --at
    and --top. The maps are computed again from the imagery, with the
    network and settings of the run, so imagery and checkpoint must still be where they were.
    """
    from capecam.views.panels.selection import PanelSelection

    selection = PanelSelection.parse(detection or [], at or [], top)
    from capecam.views.panels.panel_data import PanelStyle
    from capecam.views.panels.writing import PanelDestination, write_panels

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
    top: Top = None,
    at: Annotated[
        str | None,
        typer.Option(
            "--at", metavar="LON,LAT", help=f"the detection at a place, or the place: {PLACE}"
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
    """Explain detections or places: what the decision rests on.

    Prints how much of the decision is left when parts of the tile are blurred, and writes the map
    of each object as a GeoTIFF. The imagery and the checkpoint must still be where they were.
    """
    from capecam.analysis.explain_selection import FOLDER, Selection
    from capecam.mosaic.place import parse_place

    ids = tuple(part for text in detections or () for part in text.split(",") if part)
    place = None if at is None else parse_place(at)
    selection = Selection(ids, top, place, geometry, class_name)
    from capecam.analysis.explain import explain_and_write

    result = explain_and_write(out, selection, to or out / FOLDER, device=device)
    for name, reason in result.failures.items():
        print(f"capecam: {name} failed: {reason}", file=sys.stderr)
    show(result, as_json=as_json)
    raise typer.Exit(3 if result.failures else 0)


@app.command("export")
@with_common_options
def export_command(
    out: Out,
    *,
    kind: Annotated[
        str | None,
        typer.Option(
            "--format", metavar="fgb|geojson|csv|parquet|gpkg|pmtiles", help="file format"
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", metavar="FILE", help="file to write  [default: OUT/detections.FORMAT]"
        ),
    ] = None,
    outline: Annotated[
        str | None,
        typer.Option(
            "--outline",
            metavar="regular|pixel",
            help="edges with right angles, or the pixels' stairs, which the run's own files have  "
            "[default: regular]",
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
    """Write the detections in another format, or labels to train on.

    GeoJSON is in longitude and latitude, PMTiles are in Web Mercator, the other formats in the CRS
    of the imagery. Outlines are regular: few vertices and right angles, with the area of the
    pixels, and without overlaps. With --labels, only places that people have looked at are written,
    as tiles of imagery with masks, COCO and GeoPackage; --format and --labels exclude each other.
    """
    if labels is not None and kind is None and to is None and outline is None:
        from capecam.analysis.review.labels import export_labels

        made = export_labels(out, labels, reviews)
        if not quiet():
            print(made.to_text())
        return
    if kind is None or labels is not None:
        raise UsageError(
            "export: exactly one of --format and --labels must be given, --to and --outline only "
            "with --format"
        )
    if reviews is not None:
        raise UsageError("--reviews needs --labels; leave it out")
    from capecam.detections.export import export

    path = export(out, kind, to, outline)
    if not quiet():
        print(path)
