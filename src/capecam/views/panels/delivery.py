"""What ``capecam panel`` was asked for, and doing it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from pathlib import Path
from typing import Self

from capecam.errors import ImageError, OutputError, UsageError
from capecam.views.panels.panel import FORMATS, Panel
from capecam.views.panels.panels import Panels
from capecam.views.panels.tile_view import PanelStyle

FOLDER = "panels"
"""In OUT, for panels that are sent nowhere else."""


@dataclass(frozen=True, slots=True)
class PanelRequest:
    """Detections, or places, or the first of the review queue."""

    detections: tuple[str, ...] = ()
    """Ids."""
    places: tuple[tuple[float, float], ...] = ()
    """(x, y) in the CRS of the imagery."""
    top: int | None = None

    def __post_init__(self) -> None:
        given = [bool(self.detections), bool(self.places), self.top is not None]
        if sum(given) != 1:
            raise UsageError(
                "say what to show, with one of --detection ID, --at X,Y and --top N; got "
                f"{sum(given) or 'none'} of them"
            )

    @classmethod
    def parse(cls, detections: list[str], places: list[str], top: int | None) -> Self:
        """As typed: ids may be joined by commas.

        Raises:
            UsageError: a place is not two numbers; or it is not one kind that is asked for.
        """
        ids = (id_.strip() for each in detections for id_ in each.split(","))
        return cls(tuple(id_ for id_ in ids if id_), tuple(map(_place, places)), top)

    def makers(self, panels: Panels) -> Sequence[tuple[str, Callable[[], Panel]]]:
        """What each is called, and what makes it."""
        ids = panels.top(self.top) if self.top else self.detections
        of_ids = [(id_, partial(panels.of_detection, id_)) for id_ in ids]
        return of_ids + [(f"{x:.10g},{y:.10g}", partial(panels.at, x, y)) for x, y in self.places]


def _place(text: str) -> tuple[float, float]:
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        x = y = float("nan")
    if not (isfinite(x) and isfinite(y)):
        raise UsageError(
            f"--at must be X,Y, two map coordinates such as -50930.5,-3771015.2; got {text!r}"
        )
    return x, y


@dataclass(frozen=True, slots=True)
class Delivery:
    """Where panels go."""

    to: Path
    """A file, or a folder that is made if it is not there."""
    kind: str
    """One of ``FORMATS``."""

    def __post_init__(self) -> None:
        if self.kind not in FORMATS:
            raise UsageError(f"--format must be {' or '.join(FORMATS)}; got {self.kind!r}")

    @classmethod
    def parse(cls, out: Path, to: Path | None, kind: str | None) -> Self:
        """As typed: the suffix of a file says the format.

        Raises:
            UsageError: another format; or a file of another than is asked for.
        """
        to = out / FOLDER if to is None else to
        suffix = "" if to.is_dir() else to.suffix.removeprefix(".").lower()
        if suffix and suffix != (kind or suffix):
            raise UsageError(f"--to {to} is no {kind}; leave out --format, or name it .{kind}")
        if suffix and suffix not in FORMATS:
            raise UsageError(f"--to {to}: a panel is {' or '.join(FORMATS)}, or name a folder")
        return cls(to, suffix or kind or FORMATS[0])

    @property
    def is_file(self) -> bool:
        """Whether all goes to one file."""
        return bool(self.to.suffix) and not self.to.is_dir()

    def path(self, panel: Panel) -> Path:
        """Of a panel.

        Raises:
            OutputError: its folder cannot be made.
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
class Delivered:
    """What came of it."""

    paths: list[Path] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """By id or place: why there is none."""

    @property
    def exit_code(self) -> int:
        """0 done; 3 some could not be made; 2 none could."""
        return 0 if not self.failures else 3 if self.paths else 2


def deliver(
    out: Path,
    wanted: PanelRequest,
    delivery: Delivery,
    style: PanelStyle,
    *,
    device: str | None = None,
    say: Callable[[Path], object] = lambda _path: None,
) -> Delivered:
    """Make panels, and write them.

    Args:
        out: the folder of a run.
        wanted: which.
        delivery: where to.
        style: how they look.
        device: else as in the run.
        say: told each path when it is written.

    Raises:
        UsageError: as ``Panels`` does; an image that cannot be decoded fails its own panels only.
    """
    done = Delivered()
    with Panels.open(out, device=device) as panels:
        asked = wanted.makers(panels)
        if delivery.is_file and len(asked) > 1:
            raise UsageError(
                f"--to {delivery.to} is one file for {len(asked)} panels; name a folder"
            )
        for name, make in asked:
            try:
                panel = make()
            except ImageError as error:
                done.failures[name] = str(error)
                continue
            done.paths.append(panel.save(delivery.path(panel), style))
            say(done.paths[-1])
    return done
