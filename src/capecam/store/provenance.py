"""The settings and the imagery of a run, found again by its record."""

from __future__ import annotations

import copy
import os
from glob import glob
from pathlib import Path

from capecam.mosaic.city import city_of
from capecam.mosaic.mosaic import Mosaic
from capecam.settings import VSI, MosaicSettings, Settings, ValueRange
from capecam.settings.loading import resolve_paths, validated
from capecam.store.records import RunRecord

DEEP = "/-" * 64
"""In place of the folder where a run was started, which is not recorded."""


def settings_of(out: Path, record: RunRecord) -> Settings:
    """Return the settings of a run, with paths that lead from here to the same files.

    Args:
        out: the run's folder as it is called now.
        record: its ``run.json``.

    Raises:
        SettingsError: they are not valid in this version.
    """
    tree = copy.deepcopy(record.settings)
    if isinstance(tree.get("out"), str):
        resolve_paths(tree, lambda path: _relocate(path, record, out))
    return validated(tree, f"{out}: the settings in its run.json: ")


def imagery_of(record: RunRecord, settings: Settings) -> Mosaic:
    """Open all images that can be used now, on the run's grid, without its area of interest.

    Raises:
        UsageError: no image can be used.
    """
    everywhere = MosaicSettings(align=settings.mosaic.align, gsd=settings.mosaic.gsd)
    city = city_of(settings.model_copy(update={"mosaic": everywhere}), record.anchor)
    return city.with_value_range(record.scale).mosaic


def recorded_value_range(
    mosaic: Mosaic, settings: Settings, previous: RunRecord | None
) -> ValueRange | None:
    """Return the range of pixel values as far as it is known before pixels are read.

    Args:
        mosaic: the images that may need it.
        settings: of the run to come.
        previous: record of an earlier run into the same folder; ignored if the settings say so.

    Returns:
        The values that are set, or those that the earlier run has found for the percentiles that
        are set; percentiles where they are still to be looked up; None where no image needs a
        range, or none is set.
    """
    imagery = settings.imagery
    if imagery.scale is None or not mosaic.scaled:
        return None
    if previous is None or settings.run.recalibrate or not imagery.scale.percent:
        return imagery.scale
    # Only of the same percentiles of the same bands, with or without collars.
    old = previous.settings.get("imagery", {})
    keys = imagery.model_dump(mode="json", include={"scale", "bands", "collar"})
    same = isinstance(old, dict) and keys.items() <= old.items()
    return (previous.scale if same else None) or imagery.scale


def _relocate(path: str, record: RunRecord, out: Path) -> str:
    """Return where a path in a run's settings leads now.

    It may be relative to where the run was started. It is looked for from there, and, if all has
    moved, from where it was beside the run's folder; one that is not found is returned as it is.

    Args:
        path: as in the settings.
        record: of the run.
        out: the run's folder as it is called now.
    """
    if path.startswith(VSI) or Path(path).is_absolute():
        return path
    ways = [] if record.started_in is None else [os.path.join(record.started_in, path)]
    old_out = str(record.settings["out"])
    if not Path(old_out).is_absolute():
        # Not from the present working directory, of which ``..`` would reach the root.
        ways.append(os.path.relpath(f"{DEEP}/{path}", f"{DEEP}/{old_out}"))
    for way in ways:
        relocated = os.path.normpath(out.resolve() / way)
        if os.path.exists(relocated) or glob(relocated, recursive=True):
            return relocated
    return path
