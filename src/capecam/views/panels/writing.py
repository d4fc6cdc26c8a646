"""``capecam panel``: panels written to files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from capecam.errors import ImageError, OutputError, UsageError
from capecam.store.file_names import PANELS
from capecam.views.panels.panel import FORMATS, Panel
from capecam.views.panels.panel_data import PanelStyle
from capecam.views.panels.panels import Panels
from capecam.views.panels.selection import PanelSelection


@dataclass(frozen=True, slots=True)
class PanelDestination:
    """Folder or file that panels are written to, and their format."""

    to: Path
    """A file, or a folder, which is created if needed."""
    kind: str
    """One of ``FORMATS``."""

    def __post_init__(self) -> None:
        if self.kind not in FORMATS:
            raise UsageError(f"--format must be {' or '.join(FORMATS)}; got {self.kind!r}")

    @classmethod
    def parse(cls, out: Path, to: Path | None, kind: str | None) -> Self:
        """Parse the options of the command line; the suffix of a file gives the format.

        Raises:
            UsageError: the format is unknown, or differs from the suffix.
        """
        to = out / PANELS if to is None else to
        suffix = "" if to.is_dir() else to.suffix.removeprefix(".").lower()
        if suffix and suffix != (kind or suffix):
            raise UsageError(f"--to {to} is no {kind}; leave out --format, or name it .{kind}")
        if suffix and suffix not in FORMATS:
            raise UsageError(f"--to {to}: a panel is {' or '.join(FORMATS)}, or name a folder")
        return cls(to, suffix or kind or FORMATS[0])

    @property
    def is_file(self) -> bool:
        """Return whether it is a file, which holds one panel."""
        return bool(self.to.suffix) and not self.to.is_dir()

    def path(self, panel: Panel) -> Path:
        """Return the path of a panel.

        Raises:
            OutputError: its folder cannot be created.
        """
        if self.is_file:
            return self.to
        try:
            self.to.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{self.to} cannot be made: {error.strerror}; name another folder with --to"
            ) from error
        return self.to / f"{panel.name}.{self.kind}"


@dataclass(slots=True)
class WrittenPanels:
    """Paths of the panels written, and failures."""

    paths: list[Path] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """Reasons by detection or place."""

    @property
    def exit_code(self) -> int:
        """Return 0 if all were written, 3 if some were, 2 if none was."""
        return 0 if not self.failures else 3 if self.paths else 2


def write_panels(
    out: Path,
    selection: PanelSelection,
    destination: PanelDestination,
    style: PanelStyle,
    *,
    device: str | None = None,
    on_written: Callable[[Path], object] = lambda _path: None,
) -> WrittenPanels:
    """Compute panels and write them; an image that cannot be decoded fails its own panels only.

    Args:
        out: folder of the run.
        selection: what to draw.
        destination: where to write it.
        style: options for drawing.
        device: device to compute on; None: as in the run.
        on_written: called with the path of each panel.

    Raises:
        UsageError: several panels for one file; otherwise as ``Panels`` does.
    """
    written = WrittenPanels()
    with Panels.open(out, device=device) as panels:
        tasks = selection.tasks(panels)
        if destination.is_file and len(tasks) > 1:
            raise UsageError(
                f"--to {destination.to} is one file for {len(tasks)} panels; name a folder"
            )
        for name, compute in tasks:
            try:
                panel = compute()
            except ImageError as error:
                written.failures[name] = str(error)
                continue
            written.paths.append(panel.save(destination.path(panel), style))
            on_written(written.paths[-1])
    return written
