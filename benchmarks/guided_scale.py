"""Measure how maps at full resolution are stored: disk, ceiling, and what the floor removes.

Usage: guided_scale.py LABEL=OUT [LABEL=OUT ...] [--csv FILE]

OUT is the folder of a run with ``--heatmap-dtype float32`` on one image. Its raw values are stored
on the scale of version 0.1 (linear, up to the 99.5th percentile of the positive values in the
run's sample of tiles) and on the scale of the run. Numbers about pixels are of those that no tile
of the sample has; sizes are those of an image of 12,500 x 12,500 px.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import rasterio
import torch
from memory import append_rows, environment
from numpy.typing import NDArray

from capecam.io.cog import LEVELS, NODATA, Product, write_cog
from capecam.mosaic.city import City
from capecam.pipeline.calibration import PERCENTILE, sample_tiles
from capecam.pipeline.stitching import to_levels
from capecam.store.run_folder import RunFolder

METHOD = "guided_gradcam"
IMAGE_PX = 12_500**2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="LABEL=OUT")
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/guided-scale.csv"))
    arguments = parser.parse_args()
    for run in arguments.runs:
        label, _, out = run.partition("=")
        rows = measure(label, Path(out))
        append_rows(arguments.csv, rows)
        for row in rows:
            print(row, flush=True)


def measure(label: str, out: Path) -> list[dict[str, object]]:
    """Return a row for each class and scale."""
    run = RunFolder.open_finished(out)
    with rasterio.open(out / "classes.vrt") as dataset:
        classes = dataset.read(1)
    sampled = _sampled(run)
    rows = []
    for class_id, name in enumerate(run.names[1:], start=1):
        with rasterio.open(out / f"{METHOD}.vrt") as dataset:
            raw = dataset.read(class_id)
        if not (raw > 0).any():
            continue
        valid = ~np.isnan(raw)
        top, floor = (
            values[METHOD][class_id - 1]
            for values in (run.record.calibration.scale_max, run.record.calibration.floor)
        )
        linear = float(np.percentile(raw[sampled & (raw > 0)], PERCENTILE))
        for scale, limits in (("0.1", (linear, None)), ("now", (top, floor))):
            levels = _levels(raw, valid, *limits)
            inside, outside = (
                valid & ~sampled & where for where in (classes == class_id, classes != class_id)
            )
            removed = raw[inside & (levels == 0)].sum(dtype=float) / raw[inside].sum(dtype=float)
            rows.append(
                {
                    "label": label,
                    "score": run.settings.explain.score,
                    "class": name,
                    "scale": scale,
                    "mb": round(_bytes(run, levels) / 1e6 * IMAGE_PX / int(valid.sum()), 1),
                    "detected_px": int(inside.sum()),
                    "ceiling": round(float((raw[inside] >= limits[0]).mean()), 4),
                    "background_zero": round(float((levels[outside] == 0).mean()), 4),
                    "removed": round(float(removed), 4),
                    "floor": round(floor / top, 4) if scale == "now" else "",
                    **environment(),
                }
            )
    return rows


def _sampled(run: RunFolder) -> NDArray[np.bool_]:
    """Return the pixels that a tile of the run's sample has."""
    explain, tiling, window = run.settings.explain, run.settings.tiling.tiling, run.grid.window
    city = City(run.mosaic, run.interest(), {})
    sampled = np.zeros(window.shape, bool)
    for tile in sample_tiles(city, tiling, explain.calibration_tiles, explain.seed):
        common = tile.window.intersection(window)
        if common is not None:
            sampled[common.slices(window)] = True
    return sampled


def _levels(
    raw: NDArray[np.float32], valid: NDArray[np.bool_], top: float, floor: float | None
) -> NDArray[np.uint8]:
    raised = None if floor is None else torch.tensor([floor])
    levels = to_levels(torch.from_numpy(np.nan_to_num(raw))[None], torch.tensor([top]), raised)
    return np.where(valid, levels[0].numpy(), NODATA).astype(np.uint8)


def _bytes(run: RunFolder, levels: NDArray[np.uint8]) -> int:
    """Return the size of a band as it is written, overviews included."""
    product = Product(METHOD, ("band",), "uint8", NODATA, scale=1 / LEVELS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "band.tif"
        write_cog(path, product, run.grid, levels[None])
        return path.stat().st_size


if __name__ == "__main__":
    main()
