"""Compare a whole run of an image with the engine alone: the cost of reading to tracing.

Usage: image.py [--size PX] [--rounds N] [--device NAME] [--model NAME] [--csv FILE]

Untrained FPN resnext50_32x4d on a drawn image, nine maps, all products. The engine alone processes
the same tiles in the same batches, read beforehand. Rounds alternate; seconds are medians.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from functools import partial
from pathlib import Path

from memory import append_rows, draw, environment

from capecam.analysis.benchmark.measure import seconds
from capecam.analysis.benchmark.workload import sample_model, sample_tiles, untrained_model
from capecam.api import load_settings, run
from capecam.attribution.autotune import auto_batch_size
from capecam.attribution.device import pick_device
from capecam.mosaic.city import find_cells, open_city
from capecam.mosaic.reader import Reader
from capecam.pipeline.run_engine import build_engine
from capecam.pipeline.tiles import batches, read_tiles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=2500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", choices=["original", "sample"], default="original")
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/image.csv"))
    arguments = parser.parse_args()
    original = arguments.model == "original"
    model = untrained_model(sample_tiles(4, 320)) if original else sample_model()
    device = pick_device(arguments.device)
    with tempfile.TemporaryDirectory() as folder:
        image, out = Path(folder) / "image.tif", Path(folder) / "out"
        draw(image, arguments.size, arguments.size)
        scale = Path(folder) / "scale"
        given = {"sources": [str(image)], "compute.device": str(device), "objects.explain": "none"}
        run(load_settings(None, {**given, "out": str(scale)}), model=model)
        settings = load_settings(
            None, {**given, "out": str(out), "explain.calibration": str(scale / "run.json")}
        )
        city = open_city(settings.sources, None)
        (cell,) = find_cells(city, settings.tiling)
        engine = build_engine(settings, model)
        size = engine.tiles_per_call(auto_batch_size(engine, settings.tiling.size))
        reader = partial(Reader, city.mosaic, cell.image)
        tiles = read_tiles(reader, settings.tiling.tiling, cell.core, device=device)
        ready = list(batches(tiles, size))
        alone, whole = [], []
        for _ in range(arguments.rounds):
            alone.append(seconds(lambda: [engine(b.pixels, b.valid) for b in ready], device))
            shutil.rmtree(out, ignore_errors=True)
            last = run(settings, model=model)
            whole.append(last.stages["cells"])
    row = {
        "size": arguments.size,
        "tiles": last.tiles,
        "engine_alone_s": round(statistics.median(alone), 1),
        "run_s": round(statistics.median(whole), 1),
        "share": round(statistics.median(a / w for a, w in zip(alone, whole, strict=True)), 3),
        "engine_waited": round(last.engine_waited, 3),
        **environment(arguments.device),
    }
    print(row, flush=True)
    append_rows(arguments.csv, [row])


if __name__ == "__main__":
    main()
