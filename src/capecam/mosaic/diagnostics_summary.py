"""What is unusual about the images of a city, and what a run does about it, kind by kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from capecam.mosaic.city import City
from capecam.mosaic.diagnostics import Diagnostic, image_diagnostics, placement_diagnostics
from capecam.settings import Settings

NAMED = 3
"""Images that are named of those that have something in common."""


@dataclass(frozen=True, slots=True)
class DiagnosticGroup:
    """One remark, and the images that it is about."""

    finding: str
    images: tuple[str, ...]
    action: str
    """What the run does about it."""
    warning: bool
    """Results may be worse for it, or wrong, or missing."""

    @property
    def named(self) -> str:
        """How many images, and the first of them."""
        more = ", ..." if len(self.images) > NAMED else ""
        return f"{len(self.images):,}: {', '.join(self.images[:NAMED])}{more}"

    def to_json(self) -> dict[str, Any]:
        """Return the entry of ``plan --json``."""
        return {
            "what": self.finding,
            "images": self.images,
            "does": self.action,
            "warning": self.warning,
        }

    def __str__(self) -> str:
        return f"{self.finding} ({self.named}): {self.action}"


def summarize_diagnostics(city: City, settings: Settings) -> tuple[DiagnosticGroup, ...]:
    """Of images that can be used; what concerns most of them first."""
    images: dict[Diagnostic, list[str]] = {}
    for source in city.mosaic.sources:
        found = image_diagnostics(source.header, settings, resampled=source.warped)
        for remark in (*found, *placement_diagnostics(source, settings)):
            images.setdefault(remark, []).append(source.name)
    kinds = [
        DiagnosticGroup(r.finding, tuple(names), r.action, r.warning) for r, names in images.items()
    ]
    return tuple(sorted(kinds, key=lambda kind: -len(kind.images)))


def summarize_failures(failures: Mapping[str, str]) -> tuple[DiagnosticGroup, ...]:
    """Images that cannot be used, by the reason."""
    images: dict[str, list[str]] = {}
    for name, message in failures.items():
        images.setdefault(_without_path(message), []).append(name)
    return tuple(
        DiagnosticGroup(finding, tuple(names), action, warning=True)
        for reason, names in images.items()
        for finding, action in [_split(reason)]
    )


def _without_path(message: str) -> str:
    """Messages on images begin with where they are."""
    path, colon, reason = message.partition(": ")
    return reason if colon and ("/" in path or "." in path) else message


def _split(reason: str) -> tuple[str, str]:
    """What was found; what to do."""
    what, _, cure = reason.partition("; ")
    return what, f"leaves it out; {cure}" if cure else "leaves it out"
