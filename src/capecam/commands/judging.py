"""Commands that judge a map: scores, zones, the audit of its explanations."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from capecam.cli_options import (
    Area,
    AsJson,
    Commands,
    Config,
    Device,
    Earlier,
    Iou,
    Later,
    OptionalFile,
    Out,
    ProgressKind,
    ResultFolder,
    Reviews,
    Truth,
    ZoneName,
    quiet,
    reviews_path,
    with_common_options,
)
from capecam.commands.results import show
from capecam.errors import UsageError
from capecam.settings.loading import load

app = Commands()


@app.command("evaluate", cls=OptionalFile)
@with_common_options
def evaluate_command(
    found: Annotated[
        Path,
        typer.Argument(metavar="OUT|VECTOR", help="folder of a run, or vector file of polygons"),
    ],
    *,
    truth: Truth = None,
    reviews: Reviews = None,
    area: Area = None,
    iou: Iou = 0.5,
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
        if area is not None or steps or misses:
            raise UsageError("--area, --steps and --misses need --truth; leave them out")
        from capecam.analysis.review.review_scores import evaluate_reviews

        show(evaluate_reviews(found, reviews_path(found, reviews), to), as_json=as_json)
        return
    if truth is None or reviews is not None:
        raise UsageError("evaluate: exactly one of --truth and --reviews must be given")
    from capecam.analysis.evaluation import EvaluationRequest, evaluate
    from capecam.analysis.scoring import Rules

    request = EvaluationRequest(found, truth, area, steps, misses, Rules(iou), load(config), to)
    answer = evaluate(request)
    show(answer, as_json=as_json)


@app.command("summarize")
@with_common_options
def summarize_command(
    out: Earlier,
    later: Later = None,
    *,
    zones: Annotated[
        Path,
        typer.Option(
            "--zones", metavar="FILE", help="vector file of zones, or FILE|layername=NAME"
        ),
    ],
    name: ZoneName = None,
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
    show(found, as_json=as_json)


@app.command("audit")
@with_common_options
def audit_command(
    out: Out,
    *,
    sample: Annotated[
        int, typer.Option("--sample", metavar="N", min=1, help="number of detections to test")
    ] = 30,
    seed: Annotated[
        int, typer.Option("--seed", metavar="S", min=0, help="random seed of the sample")
    ] = 0,
    device: Device = None,
    as_json: AsJson = False,
    progress: ProgressKind = "auto",
) -> None:
    """Test which maps of a run can be believed about objects.

    A sample of detections is tested: their probability as parts of the tile go or come, randomised
    weights and shifted tiles.
    """
    from capecam.runtime.progress import progress_of
    from capecam.settings import AuditSettings

    rules = AuditSettings(sample=sample, seed=seed)
    with progress_of(progress, quiet=quiet()) as shown:
        shown.at("start")
        from capecam.analysis.audit.audit import audit

        found = audit(out, rules, device=device, progress=partial(shown.at, "audit"))
    show(found, as_json=as_json)
