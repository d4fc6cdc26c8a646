"""The calibration that a run's settings name, checked against the run."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from capecam.detections.confidence_calibration import ConfidenceCalibration, read_calibration
from capecam.detections.measurement import lonlat_bounds
from capecam.detections.object_columns import OBJECT_COLUMNS
from capecam.detections.signals import SIGNALS
from capecam.runtime.files import file_digest
from capecam.settings import Settings
from capecam.store.records import AppliedCalibration
from capecam.store.run_folder import RunFolder

log = logging.getLogger(__name__)


def read_for(settings: Settings, columns: Sequence[str] = SIGNALS) -> ConfidenceCalibration | None:
    """Return the calibration that settings name, or None.

    Args:
        settings: of a run.
        columns: signals that are measured for every detection.

    Raises:
        UsageError: it cannot be read, or was made for other classes or signals.
    """
    path = settings.detections.calibrate_with
    if path is None:
        return None
    calibration = read_calibration(path)
    calibration.check_classes([entry.name for entry in settings.model.classes[1:]], path)
    explained = OBJECT_COLUMNS if settings.objects.explain == "all" else ()
    calibration.check_signals([*columns, *explained], path)
    return calibration


def applied_calibration(run: RunFolder, columns: Sequence[str]) -> ConfidenceCalibration | None:
    """Return the calibration of a run, or None; warn if it was made elsewhere.

    Args:
        run: with its settings.
        columns: of its detections, without those of explanations.

    Raises:
        UsageError: as for :func:`read_for`.
    """
    calibration = read_for(run.settings, columns)
    if calibration is not None:
        checkpoint, bounds = run.record.checkpoint.sha256, lonlat_bounds(run.grid)
        if difference := calibration.difference(checkpoint, bounds):
            log.warning(
                "%s: was made %s, and such a calibration seldom holds; make one of this run with "
                "capecam calibrate",
                run.settings.detections.calibrate_with, difference,
            )  # fmt: skip
    return calibration


def calibration_record(run: RunFolder) -> AppliedCalibration | None:
    """Return what ``run.json`` says of the calibration of a run, or None."""
    path, calibration = run.settings.detections.calibrate_with, read_for(run.settings)
    if path is None or calibration is None:
        return None
    origin = calibration.origin
    return AppliedCalibration(
        sha256=file_digest(path),
        run=origin.run,
        checkpoint=origin.checkpoint,
        signals=calibration.signals,
        objects=origin.right + origin.wrong,
    )
