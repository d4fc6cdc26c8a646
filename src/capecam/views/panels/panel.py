"""A panel, which can be saved to a file or encoded in memory."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from capecam.errors import OutputError
from capecam.runtime.files import atomic_write
from capecam.views.panels.panel_data import PanelData, PanelStyle

if TYPE_CHECKING:
    from capecam.views.panels.page_layout import Drawing

FORMATS = ("png", "pdf")
DPI = 300

NOTEBOOK_PX = 800
"""Width of a panel in a notebook."""


class Panel(PanelData):
    """A tile of a run with its prediction and heatmaps, as a figure."""

    __slots__ = ()

    def save(self, path: Path | str, style: PanelStyle = PanelStyle()) -> Path:  # noqa: B008 it is frozen
        """Write the figure at print quality, as PNG (300 dpi) or PDF by the suffix.

        Raises:
            OutputError: the suffix is neither, the folder does not exist, or writing failed.
        """
        path = Path(path)
        kind = path.suffix.lower().removeprefix(".")
        if kind not in FORMATS:
            raise OutputError(f"{path}: a panel is {' or '.join(FORMATS)}; end the name in one")
        if not path.parent.is_dir():
            raise OutputError(f"{path}: there is no folder {path.parent}; make it first")
        try:
            with atomic_write(path) as temporary:
                self._draw(style).write(temporary, kind, DPI)
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written: {error.strerror}; choose another path"
            ) from error
        return path

    def encoded(self, kind: str, width_px: int, style: PanelStyle = PanelStyle()) -> bytes:  # noqa: B008 it is frozen
        """Return the figure as an encoded image.

        Args:
            kind: webp, png or jpeg.
            width_px: width of the image.
            style: options for drawing.
        """
        drawing, file = self._draw(style), io.BytesIO()
        drawing.write(file, kind, width_px / drawing.width_in)
        return file.getvalue()

    def __repr__(self) -> str:
        """Return what it shows, without its maps."""
        shown = f"detection {self.detection.id}" if self.detection else f"place {self.point}"
        return f"Panel({shown}; {', '.join(self.heat)})"

    def _repr_png_(self) -> bytes:
        """Return the figure as a notebook shows it."""
        return self.encoded("png", NOTEBOOK_PX)

    def _draw(self, style: PanelStyle) -> Drawing:
        from capecam.views.panels.figure import draw_panel  # noqa: PLC0415 matplotlib is slow to import

        return draw_panel(self, style)
