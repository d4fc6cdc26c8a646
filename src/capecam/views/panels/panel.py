"""A panel: a tile with all that is known of it, as a figure in a file or in memory."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from capecam.errors import OutputError
from capecam.runtime.files import atomic_write
from capecam.views.panels.tile_view import PanelStyle, View

if TYPE_CHECKING:
    from capecam.views.panels.page_layout import Drawing

FORMATS = ("png", "pdf")
DPI = 300


class Panel(View):
    """A tile of a run with all that the network says about it."""

    __slots__ = ()

    def save(self, path: Path | str, style: PanelStyle = PanelStyle()) -> Path:  # noqa: B008 it is frozen
        """Write the figure at print quality, as PNG (300 dpi) or PDF by the suffix.

        Raises:
            OutputError: another suffix, no such folder, or it cannot be written.
        """
        path = Path(path)
        kind = path.suffix.lower().removeprefix(".")
        if kind not in FORMATS:
            raise OutputError(f"{path}: a panel is {' or '.join(FORMATS)}; end the name in one")
        if not path.parent.is_dir():
            raise OutputError(f"{path}: there is no folder {path.parent}; make it first")
        try:
            with atomic_write(path) as temporary:
                self._drawn(style).write(temporary, kind, DPI)
        except OSError as error:
            raise OutputError(
                f"{path} cannot be written: {error.strerror}; name another place"
            ) from error
        return path

    def encoded(self, kind: str, width_px: int, style: PanelStyle = PanelStyle()) -> bytes:  # noqa: B008 it is frozen
        """The figure as an image in memory, to embed.

        Args:
            kind: webp, png or jpeg.
            width_px: of the image.
            style: how it looks.
        """
        figure, file = self._drawn(style), io.BytesIO()
        figure.write(file, kind, width_px / figure.width_in)
        return file.getvalue()

    def _drawn(self, style: PanelStyle) -> Drawing:
        from capecam.views.panels.figure import draw_panel  # noqa: PLC0415 matplotlib is slow to import

        return draw_panel(self, style)
