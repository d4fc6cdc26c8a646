"""Command for a city in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from capecam.cli_options import Commands, Later, Out, quiet, with_common_options
from capecam.errors import UsageError
from capecam.runtime.extras import require_extra

app = Commands()


@app.command("view")
@with_common_options
def view_command(
    out: Out,
    later: Later = None,
    *,
    host: Annotated[
        str | None,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="address to listen on; others need the link printed  [default: 127.0.0.1]",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", metavar="N", min=0, max=65535, help="[default: 8321, or the next free one]"
        ),
    ] = None,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="do not open the browser")
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export", metavar="DIR", help="write the page into a folder for any web server"
        ),
    ] = None,
    single: Annotated[
        Path | None,
        typer.Option(
            "--single", metavar="FILE.html", help="write the head of the review queue as one file"
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top", metavar="N", min=1, max=1000, help="detections of --single  [default: 20]"
        ),
    ] = None,
) -> None:
    """Show a run in the browser; explain and judge what is clicked.

    With OUT2, two runs are compared. Verdicts go to OUT/review.gpkg. Runs until Ctrl-C; with
    --export or --single, writes what can be shown without capecam instead, and ends.
    """
    outs = [out] if later is None else [out, later]
    if top is not None and single is None:
        raise UsageError("--top is for --single; give that, too, or leave it out")
    if single is not None and later is not None:
        raise UsageError("--single shows one run; leave out OUT2")
    if export is None and single is None:
        require_extra("view", ("starlette", "uvicorn"), "capecam view needs")
        from capecam.viewer.serving import serve

        serve(outs, host=host or "127.0.0.1", port=port, browser=not no_browser)
        return
    if host is not None or port is not None or no_browser:
        raise UsageError(
            "--export and --single serve nothing; leave out --host, --port and --no-browser"
        )
    if export is not None:
        from capecam.viewer.export import export_page

        _say(export_page(outs, export).to_text())
    if single is not None:
        from capecam.viewer.single import DEFAULT_TOP, write_single

        _say(write_single(out, single, top or DEFAULT_TOP).to_text())


def _say(text: str) -> None:
    if not quiet():
        print(text)
