"""Commands that make a map, and look after it."""

from __future__ import annotations

from typing import Annotated

import typer

from capecam.cli_options import (
    AsJson,
    Commands,
    Config,
    Out,
    ProgressKind,
    quiet,
    with_common_options,
    with_settings,
)
from capecam.commands.results import print_error, show
from capecam.settings import Settings
from capecam.settings.loading import load

app = Commands()


@app.command("run")
@with_common_options
@with_settings
def run_command(settings: Settings, progress: ProgressKind = "auto") -> None:
    """Map the images in SOURCES: classes, heatmaps and polygons.

    A run that was interrupted continues when the same command is given again; images that have not
    changed are not processed again.
    """
    from capecam.run.preflight import check_settings

    check_settings(settings, plan=settings.run.dry_run)
    if settings.run.dry_run:
        _show_plan(settings, progress, as_json=False, measure=False)
        return
    from capecam.runtime.progress import progress_of

    with progress_of(progress, quiet=quiet()) as shown:
        shown.at("start")
        from capecam.run.summary import summary
        from capecam.run.supervisor import run

        outcome = run(settings, progress=shown)
    if not quiet():
        print(summary(outcome))
    for name, reason in outcome.failures.items():
        print_error(f"{name} failed: {reason}")
    if settings.audit.sample and outcome.found:
        from capecam.analysis.audit.audit import audit
        from capecam.views.report.report import write_report

        print(audit(outcome.out, settings.audit).to_text())
        write_report(outcome.out)  # now with the audit
    raise typer.Exit(outcome.exit_code)


@app.command("plan")
@with_common_options
@with_settings
def plan_command(
    settings: Settings,
    as_json: AsJson = False,
    progress: ProgressKind = "auto",
    measure: Annotated[
        bool | None,
        typer.Option(
            "--measure/--no-measure",
            help="without an earlier run: measure the network on a few tiles  [default: on a CPU]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show the cells, time, memory and disk space that run needs.

    All but the time follows from the headers of the images. The time is that of an earlier run into
    the same folder; without one, a few tiles are run through the network of --checkpoint.
    """
    from capecam.run.preflight import check_settings

    check_settings(settings, plan=True)
    _show_plan(settings, progress, as_json=as_json, measure=measure)


def _show_plan(settings: Settings, progress: str, *, as_json: bool, measure: bool | None) -> None:
    from capecam.runtime.progress import progress_of

    with progress_of(progress, quiet=quiet()) as shown:
        shown.at("start")
        from capecam.run.plan import make_plan

        plan = make_plan(settings, shown, measure=measure)
    show(plan, as_json=as_json)


@app.command("inspect")
@with_common_options
def inspect_command(
    path: Annotated[str, typer.Argument(metavar="PATH", help="checkpoint or GeoTIFF")],
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Describe a checkpoint or an image; say whether it can be used."""
    from capecam.run.preflight import check_inspected

    check_inspected(path)
    from capecam.run.inspection import inspect_path

    found = inspect_path(path, load(config))
    show(found, as_json=as_json)
    if found.refusal is not None:
        print_error(found.refusal)
    raise typer.Exit(found.exit_code)


@app.command("finish")
@with_common_options
def finish_command(out: Out, progress: ProgressKind = "auto") -> None:
    """Write the layers and tables of the city from finished cells.

    The command run does so at its end; runs of shards (--shard) leave it to this command.
    """
    from capecam.runtime.progress import progress_of

    with progress_of(progress, quiet=quiet()) as shown:
        shown.at("start")
        from capecam.run.city_products import finish
        from capecam.run.summary import totals_table
        from capecam.run.unusual_images import pixel_warnings

        record = finish(out, progress=shown)
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
    show(found, as_json=as_json)
    raise typer.Exit(found.exit_code)
