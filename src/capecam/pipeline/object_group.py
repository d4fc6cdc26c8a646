"""Objects of a cell that a worker explains at once, and the result."""

from __future__ import annotations

from dataclasses import dataclass

from capecam.pipeline.object_tiles import ExplainedObject
from capecam.store.object_store import StoredObject


@dataclass(frozen=True, slots=True)
class ObjectGroup:
    """Objects whose first pixel lies in one cell."""

    cell: str
    image: str
    """Image of the cell, which must be readable."""
    objects: tuple[ExplainedObject, ...]

    @property
    def name(self) -> str:
        """Name for messages."""
        return f"objects of {self.cell}"


@dataclass(frozen=True, slots=True, eq=False)
class GroupResult:
    """Result of an attempt to explain a group."""

    group: ObjectGroup
    objects: tuple[StoredObject, ...] | None
    """In the order of the group's; None if it failed."""
    reason: str = ""
    """Reason why it failed."""

    @property
    def work(self) -> ObjectGroup:
        """The group, as in ``CellResult``."""
        return self.group

    @property
    def tiles(self) -> int:
        """Number of tiles that were explained."""
        return sum(len(each.windows) for each in self.objects or ())
