"""Selection of the objects to explain, read from the command line without importing the network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from capecam.errors import UsageError
from capecam.mosaic.place import Point

FOLDER = "explained"
"""Default folder for the maps, in the folder of a run."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Objects to explain; of the four exactly one is given."""

    detections: tuple[str, ...] = ()
    """Ids."""
    top: int | None = None
    """Number of detections at the head of the review queue."""
    at: Point | None = None
    """Longitude and latitude, WGS 84; or map coordinates."""
    geometry: Path | None = None
    """File with polygons."""
    class_name: str | None = None
    """Class to ask about; None: that of the detection, else the most probable one there."""

    def __post_init__(self) -> None:
        given = [bool(self.detections), self.top is not None, self.at is not None]
        if sum([*given, self.geometry is not None]) != 1:
            raise UsageError("exactly one of --detections, --top, --at, --geometry must be given")
