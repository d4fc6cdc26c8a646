"""Test the faithfulness of a run's explanations (``capecam audit``, docs/method.md).

Three tests on a seeded sample of detections, with the network and settings of the run: deletion and
insertion of the object's probability, randomization of the model, and a shift of the tiles. Their
conclusion is which maps can be believed about objects.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from capecam.analysis.audit.block_maps import Network
from capecam.analysis.audit.figure import draw_figure
from capecam.analysis.audit.measure import AuditEngines, AuditMeasurement, measure_detection
from capecam.analysis.audit.randomization import cascade
from capecam.analysis.audit.sampling import (
    SampledDetection,
    read_tiles_of,
    sample_detections,
    shift_px,
)
from capecam.analysis.audit.summary import (
    Audit,
    conclusion,
    detection_results,
    summarize,
    summarize_kept,
)
from capecam.errors import ImageError, UsageError
from capecam.io.gdal import gdal_settings
from capecam.model.model import Model
from capecam.mosaic.reader import Reader
from capecam.pipeline.run_engine import build_object_engine, build_run_engine, load_run_model
from capecam.pipeline.run_explainer import RunExplainer
from capecam.runtime.files import atomic_write, write_json
from capecam.runtime.lock import output_lock
from capecam.settings import AuditSettings
from capecam.store.file_names import RUN_JSON
from capecam.store.run_folder import RunFolder, known_run


def audit(
    out: Path,
    rules: AuditSettings,
    *,
    device: str | None = None,
    model: Model | None = None,
    progress: Callable[[int, int], object] = lambda _done, _total: None,
) -> Audit:
    """Test the explanations of a run; write ``audit.json``, ``.csv``, ``.png`` and ``run.json``.

    Args:
        out: folder of a finished run that no other process is working in.
        rules: size and seed of the sample.
        device: device to run on; None uses the run's settings.
        model: network of the run; None loads it.
        progress: called after each detection with the number done and the total.

    Raises:
        OutputError: the folder holds no run, or is in use.
        UsageError: the run has no detection, the checkpoint differs, or images are missing.
        NotFiniteError: the network's gradients overflowed.
    """
    known_run(out)  # before a lock file is created in a folder that holds no run
    if rules.sample < 1:
        raise UsageError(f"an audit needs a sample of at least 1 detection, got {rules.sample}")
    with output_lock(out), gdal_settings():
        run = RunFolder.open(out)
        sample = sample_detections(run.detections(), run.grid, rules.sample, rules.seed)
        run.check_images(name for detection in sample for name in detection.images)
        engines = _build_engines(run, device, model, rules.seed)
        measurements, skipped = _measure(sample, run, engines, rules.seed, progress)
        if not measurements:
            raise UsageError("no tile of the sample can be read: " + "; ".join(skipped.values()))
        result = _summarize(measurements, engines, rules.seed, skipped)
        _write(out, result, measurements)
    return result


def _build_engines(
    run: RunFolder, device: str | None, model: Model | None, seed: int
) -> AuditEngines:
    """Build the engines of the run's network and of its randomized copies."""
    model = load_run_model(run, model)

    def network(of: Model) -> Network:
        tiles, objects = build_run_engine(run, of, device), run.settings.objects
        return Network(tiles, build_object_engine(of, objects, tiles.precision, tiles.device))

    return AuditEngines(
        network(model),
        {stage: network(random) for stage, random in cascade(model, seed)},
        run.settings.tiling.tiling,
        run.record.batch_size,
    )


def _measure(
    sample: Sequence[SampledDetection],
    run: RunFolder,
    engines: AuditEngines,
    seed: int,
    progress: Callable[[int, int], object],
) -> tuple[list[AuditMeasurement], dict[str, str]]:
    """Measure one detection at a time, so that memory holds the tiles of one.

    Returns:
        Measurements, and by id the reason why a detection's tiles cannot be read.
    """
    measurements: list[AuditMeasurement] = []
    skipped: dict[str, str] = {}
    explainer = RunExplainer(run)
    with Reader(run.mosaic) as reader:
        for number, detection in enumerate(sample):
            try:
                target = explainer.with_others(detection.target)
                device = engines.network.tiles.device
                tiles = read_tiles_of(target, reader, engines.tiling, device)
            except ImageError as error:
                skipped[detection.target.id] = str(error)
            else:
                rng = np.random.default_rng([seed, number])
                measurements.append(measure_detection(tiles, engines, rng))
            progress(number + 1, len(sample))
    return measurements, skipped


def _summarize(
    measurements: Sequence[AuditMeasurement],
    engines: AuditEngines,
    seed: int,
    skipped: dict[str, str],
) -> Audit:
    engine, tiling = engines.network.tiles, engines.tiling
    count = Counter(measurement.class_id for measurement in measurements)
    methods, baselines = summarize(measurements, engines.network.methods, list(engines.randomized))
    return Audit(
        conclusion(methods, len(measurements)),
        {entry.name: count[k] for k, entry in enumerate(engine.model.classes) if k},
        skipped,
        seed,
        engine.score,
        engine.device.type,
        engine.precision,
        tiling.size,
        tiling.stride,
        shift_px(tiling),
        methods,
        baselines,
        summarize_kept(measurements),
    )


def _write(out: Path, result: Audit, measurements: Sequence[AuditMeasurement]) -> None:
    with atomic_write(out / "audit.csv") as csv, atomic_write(out / "audit.png") as png:
        pd.DataFrame(result.rows()).to_csv(csv, index=False, lineterminator="\n")
        draw_figure(png, result, measurements)
    detections = detection_results(result, measurements)
    write_json(out / "audit.json", {**result.to_json(), "detections": detections})
    record = known_run(out).model_copy(update={"audit": result.to_json()})
    record.write(out / RUN_JSON)
