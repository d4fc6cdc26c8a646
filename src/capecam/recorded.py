"""What a run was made from, found again by its record: settings, and the imagery."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import replace
from glob import glob
from pathlib import Path
from typing import Any

from capecam.configfile import place_paths, validated
from capecam.raster import Mosaic
from capecam.settings import ImagerySettings, MosaicSettings, Scale, Settings
from capecam.sources import open_city


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
    rules = MosaicSettings(align=settings.mosaic.align)
    mosaic = open_city(
        settings.sources,
        (x, y),
        rules,
        settings.imagery,
        settings.target_gsd_m,
        apart=not settings.run.in_process,
        memory=settings.out,
    ).mosaic
    return replace(mosaic, scale=_scale_found(record))


def scale_before(record: Mapping[str, Any], imagery: ImagerySettings) -> Scale | None:
    """What an earlier run has found for the same percentiles of the same bands, with or without
    collars; None if there was none.

    Args:
        record: its ``run.json``, or nothing.
        imagery: with percentiles.
    """
    asked = record.get("settings", {}).get("imagery", {})
    wanted = imagery.model_dump(mode="json", include={"scale", "bands", "collar"})
    return _scale_found(record) if wanted.items() <= asked.items() else None


def _scale_found(record: Mapping[str, Any]) -> Scale | None:
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
        path.startswith("/vsi")
        or before is None
        or Path(before).is_absolute()
        or Path(path).is_absolute()
    ):
        return path
    beside = os.path.normpath(out.resolve() / os.path.relpath(path, before))
    return beside if glob(beside, recursive=True) else path
