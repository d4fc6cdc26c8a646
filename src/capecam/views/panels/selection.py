"""Selection of the panels to draw, read from the command line without importing the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Self

from capecam.errors import UsageError
from capecam.mosaic.place import Point, parse_place

if TYPE_CHECKING:
    from capecam.views.panels.panel import Panel
    from capecam.views.panels.panels import Panels


@dataclass(frozen=True, slots=True)
class PanelSelection:
    """Selection of panels: detections, places, or the first of the review queue."""

    detections: tuple[str, ...] = ()
    """Ids."""
    places: tuple[Point, ...] = ()
    """Longitude and latitude, or map coordinates."""
    top: int | None = None
    """Number of detections of the review queue."""

    def __post_init__(self) -> None:
        given = [bool(self.detections), bool(self.places), self.top is not None]
        if sum(given) != 1:
            raise UsageError(
                "say what to show, with one of --detection ID, --at LON,LAT and --top N; got "
                f"{sum(given) or 'none'} of them"
            )

    @classmethod
    def parse(cls, detections: list[str], places: list[str], top: int | None) -> Self:
        """Parse the options of the command line; ids may be joined by commas.

        Raises:
            UsageError: a place is not two numbers, or not exactly one option is given.
        """
        ids = (id_.strip() for option in detections for id_ in option.split(","))
        return cls(tuple(id_ for id_ in ids if id_), tuple(map(parse_place, places)), top)

    def tasks(self, panels: Panels) -> Sequence[tuple[str, Callable[[], Panel]]]:
        """Return a name for each panel, and a function that computes it.

        Raises:
            UsageError: there are no detections.
        """
        ids = panels.top(self.top) if self.top else self.detections
        of_ids = [(id_, partial(panels.of_detection, id_)) for id_ in ids]
        return of_ids + [(f"{x:.10g},{y:.10g}", partial(panels.at, x, y)) for x, y in self.places]
