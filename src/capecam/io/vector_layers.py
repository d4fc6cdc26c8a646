"""Choosing a layer of a vector file: by the user, or the first that holds polygons.

``zones.gpkg|layername=suburbs`` and ``|layerid=0`` name a layer as QGIS does.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyogrio
import shapely

from capecam.errors import UsageError
from capecam.io.polygon_repair import POLYGONAL

EVERY_ROW = "1 = 1"
"""Condition by which GDAL counts the rows of a GeoPackage, instead of believing the number in it: a
program that had the file open while another added rows may have written the number of before."""

log = logging.getLogger(__name__)

FLAT = ("Point", "MultiPoint", "LineString", "MultiLineString")
"""Geometry types of layers without polygons; others hold them, or may."""

LOOKED_AT = 1000
"""Number of first features that decide whether a layer has polygons."""

SHOWN = 5
"""Number of layers in a message."""


@dataclass(frozen=True, slots=True)
class LayerChoice:
    """A file, and the layer of it that the user names."""

    path: Path
    name: str | None = None
    number: int | None = None

    @classmethod
    def parse(cls, path: Path) -> LayerChoice:
        """Divide a path into file and layer; a file with such a name is a file.

        Raises:
            UsageError: there is something else behind the ``|``.
        """
        file, bar, text = str(path).partition("|")
        if not bar or os.path.exists(path):
            return cls(path)
        key, equals, value = text.partition("=")
        if equals and key.lower() == "layername" and value:
            return cls(Path(file), name=value)
        if equals and key.lower() == "layerid" and value.isdecimal():
            return cls(Path(file), number=int(value))
        raise UsageError(
            f"{path}: a layer is named as in {file}|layername=NAME or {file}|layerid=0, got |{text}"
        )

    @property
    def is_made(self) -> bool:
        """Return whether the user names a layer."""
        return self.name is not None or self.number is not None


def choose_layer(choice: LayerChoice, source: str) -> str | None:
    """Return the name of the layer to read; None if there is none.

    Args:
        choice: layer that the user names.
        source: GDAL's path of the file.

    Raises:
        UsageError: there is no such layer, or none with polygons.
    """
    types = {str(name): _without_dimensions(kind) for name, kind in pyogrio.list_layers(source)}
    if choice.is_made:
        return _named(choice, list(types))
    spatial = {name: kind for name, kind in types.items() if kind}
    if len(spatial) < 2:  # the reader says what is wrong with a single layer
        return next(iter(spatial or types), None)
    usable = [name for name, kind in spatial.items() if _has_polygons(source, name, kind)]
    if not usable:
        shown = ", ".join(f"{name}: {kind}" for name, kind in list(spatial.items())[:SHOWN])
        raise UsageError(
            f"{choice.path}: none of its layers holds polygons ({shown}); give a layer of polygons"
        )
    _warn_of_others(choice.path, list(spatial), usable[0])
    return usable[0]


def _without_dimensions(kind: str | None) -> str:
    """Return a geometry type without its dimensions; of a table, an empty text."""
    words = [word for word in (kind or "").split() if word not in ("2.5D", "3D", "Measured")]
    return words[0] if words else ""


def _named(choice: LayerChoice, names: Sequence[str]) -> str:
    if choice.number is not None and choice.number < len(names):
        return names[choice.number]
    if choice.name in names:
        return str(choice.name)
    near = difflib.get_close_matches(str(choice.name), names, 1, cutoff=0.5)
    wanted = choice.name if choice.name is not None else f"number {choice.number}"
    hint = f"did you mean {near[0]}? " if near else ""
    raise UsageError(
        f"{choice.path}: has no layer {wanted}; {hint}its layers are {', '.join(names) or 'none'}"
    )


def every_row(driver: str) -> str | None:
    """Return the condition by which all rows of a layer are read."""
    return EVERY_ROW if driver == "GPKG" else None


def _has_polygons(source: str, layer: str, kind: str) -> bool:
    """Return whether a layer has polygons, and not only could have."""
    if kind in FLAT:
        return False
    where = every_row(pyogrio.read_info(source, layer=layer)["driver"])
    first = pyogrio.read_dataframe(
        source, layer=layer, columns=[], where=where, max_features=LOOKED_AT
    )
    parts = shapely.get_parts(first.geometry.dropna().to_numpy())
    return bool(np.isin(shapely.get_type_id(parts), POLYGONAL).any())


def _warn_of_others(path: Path, names: Sequence[str], chosen: str) -> None:
    """Name the layers that are not read."""
    shown = ", ".join(names[:SHOWN]) + (" ..." if len(names) > SHOWN else "")
    log.warning(
        "%s: has %d layers (%s); %s is read; choose one with %s|layername=NAME",
        path, len(names), shown, chosen, path,
    )  # fmt: skip
