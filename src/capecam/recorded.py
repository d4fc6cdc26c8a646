"""What a run was made from, found again by its record: settings, and the imagery."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from capecam.raster import Mosaic
from capecam.settings import MosaicSettings, Settings, anchor_paths
from capecam.sources import open_city


def settings_of(out: Path, record: Mapping[str, Any]) -> Settings:
    """Those of a run, with paths that lead from here to what they led to then.

    Args:
        out: where the run's folder is now.
        record: its ``run.json``.
    """
    tree = copy.deepcopy(record["settings"])
    anchor_paths(tree, _started_in(out, tree))
    return Settings.model_validate(tree)


def imagery_of(record: Mapping[str, Any], settings: Settings) -> Mosaic:
    """All images that can be used now, on the run's lattice; what limited the work (area of
    interest, shards) does not matter here.

    Raises:
        UsageError: there is none.
    """
    x, y = record["anchor"]
    rules = MosaicSettings(align=settings.mosaic.align)
    return open_city(settings.sources, (x, y), rules).mosaic


def _started_in(out: Path, settings: Mapping[str, Any]) -> Path:
    """The folder that relative paths of a run count from: what is left of OUT without its own.

    So that a run can be opened from anywhere, also after its folder was moved with all that is in
    it. The working directory, where this leads to nothing.
    """
    own, whole = Path(settings["out"] or "/"), out.resolve()
    folder = Path(*whole.parts[: len(whole.parts) - len(own.parts)])
    if own.is_absolute() or folder / own != whole:
        return Path()
    named = (settings["checkpoint"], *settings["sources"])
    found = any((folder / path.removeprefix("@")).exists() for path in named if path)
    return folder if found else Path()
