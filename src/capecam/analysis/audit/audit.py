"""Are a run's explanations faithful? ``capecam audit`` (docs/method.md).

Three tests on a seeded sample of detections, with the run's own network and settings: deletion and
insertion (``curves``), model randomisation (``randomise``), and a shift of the tiles
(``stability``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from capecam.analysis.audit.figure import draw_figure
from capecam.analysis.audit.measure import AuditEngines, AuditMeasurement, measure_detection
from capecam.analysis.audit.randomization import cascade
from capecam.analysis.audit.sampling import SampledDetection, read_tiles_of, sample_detections
from capecam.analysis.audit.shift import shift_px
from capecam.analysis.audit.summary import Audit, details, summarise
from capecam.errors import ImageError, UsageError
from capecam.io.gdal import gdal_settings
from capecam.model.model import Model
from capecam.mosaic.mosaic import Mosaic
from capecam.mosaic.reader import Reader
from capecam.pipeline.run_engine import build_run_engine, load_run_model
from capecam.runtime.files import atomic_write, write_json
from capecam.runtime.lock import output_lock
from capecam.settings import AuditSettings
from capecam.store.file_names import RUN_JSON
from capecam.store.run_folder import RunFolder, known_run

Progress = Callable[[int, int], object]
"""Told, after each detection, how many are done, and of how many."""


def audit(
    out: Path,
    rules: AuditSettings,
    *,
    device: str | None = None,
    model: Model | None = None,
    progress: Progress = lambda _done, _of: None,
) -> Audit:
    """Test the explanations of a run: ``audit.json``, ``.csv`` and ``.png``, and in ``run.json``.

    Args:
        out: the folder of a finished run, which no other run may be working in.
        rules: how many detections, and the seed.
        device: else as the run's settings say.
        model: the run's network, if it is loaded already.
        progress: told how far it is.

    Raises:
        OutputError: the folder holds no run, or a run is at it.
        UsageError: there is no detection; or the checkpoint is another, or images are gone.
        NotFiniteError: the network's gradients overflowed.
    """
    known_run(out)  # before a lock is left in a folder of something else
    if rules.sample < 1:
        raise UsageError(f"an audit needs a sample of at least 1 detection, got {rules.sample}")
    with output_lock(out), gdal_settings():
        run = RunFolder.open(out)
        specimens = sample_detections(run.detections(), run.mosaic.grid, rules.sample, rules.seed)
        run.check_images(name for specimen in specimens for name in specimen.images)
        bench = _bench(run, device, model, rules.seed)
        findings, skipped = _examined(specimens, run.mosaic, bench, rules.seed, progress)
        if not findings:
            raise UsageError("no tile of the sample can be read: " + "; ".join(skipped.values()))
        found = _conclude(findings, bench, rules.seed, skipped)
        _write(out, found, findings)
    return found


def _bench(run: RunFolder, device: str | None, model: Model | None, seed: int) -> AuditEngines:
    """The run's network, and what becomes of it without its weights."""
    model = load_run_model(run, model)
    return AuditEngines(
        build_run_engine(run, model, device),
        {stage: build_run_engine(run, random, device) for stage, random in cascade(model, seed)},
        run.settings.tiling.tiling,
        run.record.batch_size,
    )


def _examined(
    specimens: Sequence[SampledDetection],
    mosaic: Mosaic,
    bench: AuditEngines,
    seed: int,
    progress: Progress,
) -> tuple[list[AuditMeasurement], dict[str, str]]:
    """What was found, one detection after the other, so that memory holds the tiles of one; and by
    id why the tiles of some cannot be read."""
    findings: list[AuditMeasurement] = []
    skipped: dict[str, str] = {}
    with Reader(mosaic) as reader:
        for number, specimen in enumerate(specimens):
            try:
                exhibit = read_tiles_of(specimen, reader, bench.tiling, bench.engine.device)
            except ImageError as error:
                skipped[specimen.id] = str(error)
            else:
                findings.append(
                    measure_detection(exhibit, bench, np.random.default_rng([seed, number]))
                )
            progress(number + 1, len(specimens))
    return findings, skipped


def _conclude(
    findings: Sequence[AuditMeasurement], bench: AuditEngines, seed: int, skipped: dict[str, str]
) -> Audit:
    engine, tiling = bench.engine, bench.tiling
    count = Counter(finding.class_id for finding in findings)
    return Audit(
        {entry.name: count[k] for k, entry in enumerate(engine.model.classes) if k},
        skipped,
        seed,
        engine.score,
        engine.device.type,
        engine.precision,
        tiling.size,
        tiling.stride,
        shift_px(tiling),
        summarise(findings, engine.methods, list(bench.randomised)),
    )


def _write(out: Path, found: Audit, findings: Sequence[AuditMeasurement]) -> None:
    with atomic_write(out / "audit.csv") as csv, atomic_write(out / "audit.png") as png:
        pd.DataFrame(found.rows()).to_csv(csv, index=False, lineterminator="\n")
        draw_figure(png, found, findings)
    write_json(out / "audit.json", {**found.to_json(), "detections": details(found, findings)})
    record = known_run(out).model_copy(update={"audit": found.to_json()})
    record.write(out / RUN_JSON)
