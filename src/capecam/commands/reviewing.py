"""Commands for what people say about a map: reviews, calibration, samples, totals."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from capecam.cli_options import (
    Area,
    AsJson,
    Commands,
    Config,
    Earlier,
    Iou,
    Later,
    OptionalFile,
    Out,
    ResultFolder,
    ReviewFile,
    Reviews,
    Truth,
    ZoneName,
    reviews_path,
    with_common_options,
)
from capecam.commands.results import show
from capecam.errors import UsageError
from capecam.settings.loading import load

app = Commands()


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
    add: Annotated[
        Path | None,
        typer.Option(
            "--add",
            metavar="FILE.geojson",
            help="verdicts downloaded from a page without a server instead",
        ),
    ] = None,
    reviews: ReviewFile = None,
    as_json: AsJson = False,
) -> None:
    """Add detections, places or verdicts to OUT/review.gpkg.

    The file is made if need be. Its layers are filled in with QGIS or any other tool. What is in it
    stays as it is, and is not added again.
    """
    if add is not None and misses:
        raise UsageError("--add and --misses add different rows; give one at a time")
    from capecam.analysis.review.downloads import add_download
    from capecam.analysis.review.queue import add_misses, add_queue

    if add is None:
        added = (add_misses if misses else add_queue)(out, top, reviews)
    else:
        added = add_download(out, add, reviews)
    show(added, as_json=as_json)


@app.command("calibrate", cls=OptionalFile)
@with_common_options
def calibrate_command(
    out: Out,
    *,
    truth: Truth = None,
    reviews: Reviews = None,
    area: Area = None,
    iou: Iou = 0.5,
    config: Config = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FILE", help="file to write  [default: OUT/p_right.json]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fit how likely detections are right, to truth or reviews.

    Scores are of blocks of ground that the fit has not seen. run --calibrate-with applies the file
    that is written; it holds for the network and the kind of place that it was made with.
    """
    if (truth is None) == (reviews is None):
        raise UsageError("calibrate: exactly one of --truth and --reviews must be given")
    if truth is None and area is not None:
        raise UsageError("--area needs --truth; leave it out")
    from capecam.analysis.review.calibration import CalibrationRequest, calibrate
    from capecam.analysis.scoring import Rules

    verdicts = None if reviews is None else reviews_path(out, reviews)
    request = CalibrationRequest(out, truth, area, verdicts, Rules(iou), load(config), to)
    found = calibrate(request)
    show(found, as_json=as_json)


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
    name: ZoneName = None,
    block: Annotated[
        float | None,
        typer.Option("--block", metavar="M", help="edge of a block in metres  [default: 64]"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", metavar="S", min=0, help="random seed of the sample  [default: 0]"),
    ] = None,
    file: ReviewFile = None,
    atlas: Annotated[
        Path | None,
        typer.Option(
            "--atlas", metavar="FILE.html", help="also write the blocks as pages to print"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw random blocks, to be checked completely, for totals.

    Blocks where the map is most likely wrong are drawn more often, with known probabilities. They
    are added to the review file, with the detections in them. capecam estimate needs it.
    """
    if more is not None and (looks, block, zones, seed) != (None, None, None, None):
        raise UsageError("--more adds to the sample that there is; leave out how that was drawn")
    from capecam.analysis.review.sampling import SampleRequest, add_looks, draw_sample
    from capecam.analysis.zones import ZoneRules

    rules = None if zones is None else ZoneRules(zones, name)
    wanted = {"looks": looks, "block_m": block, "zones": rules, "seed": seed}
    given: dict[str, Any] = {key: value for key, value in wanted.items() if value is not None}
    if more is None:
        drawn = draw_sample(out, SampleRequest(**given), file)
    else:
        drawn = add_looks(out, more, file)
    if atlas is not None:
        from capecam.analysis.review.atlas import write_atlas

        write_atlas(out, atlas, file)
    show(drawn, as_json=as_json)


@app.command("estimate")
@with_common_options
def estimate_command(
    out: Earlier,
    later: Later = None,
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
    name: ZoneName = None,
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
    """Estimate counts and m² with 95 % intervals from a sample.

    What the map says is corrected by what people found in the blocks of capecam sample. With a
    second run, the change is estimated, too, and whether it can be told from chance.
    """
    from capecam.analysis.review.estimates import EstimateRequest, estimate
    from capecam.analysis.zones import ZoneRules

    rules = None if zones is None else ZoneRules(zones, name)
    request = EstimateRequest(sample, sample2, rules, borrow, partial)
    show(estimate(out, later, request, to=to), as_json=as_json)
