"""The size of tiles, without numpy, so that a wrong setting is reported at once."""

from __future__ import annotations

from dataclasses import dataclass

from capecam.errors import SettingsError


@dataclass(frozen=True, slots=True)
class TileSize:
    """Size, overlap and heatmap blocks of the tiles; all in pixels."""

    size: int = 320
    overlap: int = 70
    stride: int = 10
    """Edge of a heatmap block in pixels; tiles start and end on blocks."""

    def __post_init__(self) -> None:
        if self.size < 1 or self.stride < 1:
            raise SettingsError(
                f"tile and stride must be at least 1, got {self.size} and {self.stride}"
            )
        if not 0 <= self.overlap < self.size:
            raise SettingsError(
                f"overlap must be from 0 to {self.size - 1} (one less than the tile), "
                f"got {self.overlap}"
            )
        for name, value in (("tile", self.size), ("step (tile - overlap)", self.step)):
            if value % self.stride:
                below = value - value % self.stride
                above = below + self.stride
                raise SettingsError(
                    f"{name} must be a multiple of {self.stride}, got {value}; "
                    f"the nearest are {below} and {above}"
                )

    @property
    def step(self) -> int:
        """Distance in pixels between the starts of neighbouring tiles."""
        return self.size - self.overlap
