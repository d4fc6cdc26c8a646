"""What a run was made from, found again by its record: settings, and the imagery."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from glob import glob
from pathlib import Path
from typing import Any

from capecam.mosaic.city import city_of
from capecam.mosaic.mosaic import Mosaic
from capecam.settings import VSI, ImagerySettings, MosaicSettings, Settings, ValueRange
from capecam.settings.loading import place_paths, validated

DEEP = "/-" * 64
"""Stands for the folder where a run was started, which is not recorded."""


def settings_of(out: Path, record: Mapping[str, Any]) -> Settings:
    """Those of a run, with paths that lead from here to what they led to then.

    Args:
        out: where the run's folder is now.
        record: its ``run.json``.
    """
    tree = copy.deepcopy(record["settings"])
    before = tree.get("out")
    place_paths(tree, lambda path: _found_again(path, before, out))
    return validated(tree, f"{out}: the settings in its run.json: ")


def imagery_of(record: Mapping[str, Any], settings: Settings) -> Mosaic:
    """All images that can be used now, on the run's lattice; what limited the work (area of
    interest, shards) does not matter here.

    Raises:
        UsageError: there is none.
    """
    x, y = record["anchor"]
    everywhere = MosaicSettings(align=settings.mosaic.align, gsd=settings.mosaic.gsd)
    city = city_of(settings.model_copy(update={"mosaic": everywhere}), (x, y))
    return city.at_scale(_scale_found(record)).mosaic


def recorded_value_range(
    mosaic: Mosaic, imagery: ImagerySettings, record: Mapping[str, Any]
) -> ValueRange | None:
    """The scale as far as it is known before pixels are read: no scale drifts.

    Args:
        mosaic: in which images may need it.
        imagery: of the run that is to be.
        record: ``run.json`` of an earlier run into the same folder, or nothing.

    Returns:
        As set, or what the earlier run found for the percentiles that are set; percentiles where
        they are still to be looked up; None where no image needs a scale, or none is given.
    """
    wanted = imagery.scale
    if wanted is None or not mosaic.scaled:
        return None
    before = _scale_before(record, imagery) if wanted.percent else None
    return before or wanted


def _scale_before(record: Mapping[str, Any], imagery: ImagerySettings) -> ValueRange | None:
    """Found by an earlier run for the same percentiles of the same bands, with or without
    collars; None if there was none."""
    asked = record.get("settings", {}).get("imagery", {})
    wanted = imagery.model_dump(mode="json", include={"scale", "bands", "collar"})
    return _scale_found(record) if wanted.items() <= asked.items() else None


def _scale_found(record: Mapping[str, Any]) -> ValueRange | None:
    return ImagerySettings(scale=record.get("scale")).scale


def _found_again(path: str, before: str | None, out: Path) -> str:
    """A path of a run's settings, which may be relative to where the run was started.

    What lay beside the run's folder is looked for beside it, so that a run can be opened from
    anywhere, also after all of it was moved; else the path is left as it is.

    Args:
        path: as in the settings.
        before: the run's folder, likewise.
        out: where that is now.
    """
    if (
        path.startswith(VSI)
        or before is None
        or Path(before).is_absolute()
        or Path(path).is_absolute()
    ):
        return path
    # Not from the working directory of now: ``..`` would end at its root.
    between = os.path.relpath(f"{DEEP}/{path}", f"{DEEP}/{before}")
    beside = os.path.normpath(out.resolve() / between)
    return beside if glob(beside, recursive=True) else path
