"""What a click asks about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Target:
    """Detection to explain, or place, with whatever is there."""

    run: int
    """Number of the run."""
    outlines: Path
    """``detections.fgb`` of the run."""
    bounds: tuple[float, float, float, float]
    """West, south, east and north of the detection; of a place, twice the same point."""
    id: str | None = None
    class_id: int | None = None
    """Class to ask about; None: that of the detection, else the most probable one there."""
    is_rehearsal: bool = False
    """True if nobody waits for the answer, which is not sent."""
