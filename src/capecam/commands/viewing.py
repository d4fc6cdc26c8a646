"""Command for a city in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from capecam.cli_options import Later, Out, quiet, with_common_options
from capecam.errors import UsageError

app = typer.Typer()


@app.command("view")
@with_common_options
def view_command(
    out: Out,
    later: Later = None,
    *,
    host: Annotated[
        str,
        typer.Option(
            "--host", metavar="ADDRESS", help="address to listen on; others need the link printed"
        ),
    ] = "127.0.0.1",
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
) -> None:
    """Show a run in the browser, explain what is clicked on, and take verdicts.

    With OUT2, two runs are compared. Verdicts go to OUT/review.gpkg. Runs until Ctrl-C; with
    --export, writes a folder that is shown without capecam instead, and ends.
    """
    from capecam.viewer.requirements import require_view

    require_view()
    outs = [out] if later is None else [out, later]
    if export is not None:
        if port is not None or no_browser:
            raise UsageError("--export serves nothing; leave out --port and --no-browser")
        from capecam.viewer.export import export_page

        made = export_page(outs, export)
        if not quiet():
            print(made.to_text())
        return
    from capecam.viewer.serving import serve

    serve(outs, host=host, port=port, browser=not no_browser)
