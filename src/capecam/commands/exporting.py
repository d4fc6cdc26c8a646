"""Command that writes a network with its explanation for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from capecam.cli_options import (
    Commands,
    Config,
    quiet,
    with_common_options,
)
from capecam.settings.loading import load

app = Commands()


@app.command("export-model")
@with_common_options
def export_model_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="checkpoint of a network")],
    *,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.onnx", help="file to write")],
    config: Config = None,
    methods: Annotated[
        str | None,
        typer.Option("--methods", metavar="LIST", help="heatmaps, as for run"),
    ] = None,
    score: Annotated[
        str | None,
        typer.Option("--score", metavar="mean|predicted", help="value to explain, as for run"),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option("--tile", metavar="PX", help="edge of the tiles that the file takes"),
    ] = None,
    layout: Annotated[
        str,
        typer.Option(
            "--layout",
            metavar="maps|segmentor|regressor",
            help="outputs: all maps; or those that QGIS's plugin Deepness reads (docs/onnx.md)",
        ),
    ] = "maps",
    check: Annotated[
        list[str] | None,
        typer.Option(
            "--check",
            metavar="IMAGES",
            help="images on whose tiles the file is checked  [default: sources of the "
            "configuration, or drawn tiles]",
        ),
    ] = None,
    license_: Annotated[
        str | None,
        typer.Option("--license", metavar="TEXT", help="licence of the weights, for the metadata"),
    ] = None,
) -> None:
    """Write a network with its heatmaps as one ONNX file.

    The file is checked with onnxruntime on tiles; it appears only if its maps are PyTorch's within
    1e-4 of their range.
    """
    from capecam.model.checkpoint_file import check_file
    from capecam.runtime.extras import require_onnx

    require_onnx()
    check_file(model)
    from capecam.analysis.export_model import export_model

    options: dict[str, object] = {
        "explain.methods": methods.split(",") if methods else None,
        "explain.score": score,
        "tiling.size": tile,
        "tiling.stride": 1,  # of heatmap rasters, which are not made here
        "sources": check or None,
    }
    exported = export_model(model, out, load(config, options), layout, license_)
    if not quiet():
        print(exported.to_text())
