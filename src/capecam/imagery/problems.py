"""Problems of one image, collected, so that one message lists everything that is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from capecam.errors import ImageError
from capecam.io.paths import Location


@dataclass(slots=True)
class Problems:
    """Reasons why an image cannot be used."""

    path: Location
    messages: list[str] = field(default_factory=list)
    """As raised: path, finding and remedies."""

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note an ImageError instead of raising it."""
        try:
            yield
        except ImageError as error:
            self.messages.append(str(error))

    def check(self) -> None:
        """Raise what was noted.

        Raises:
            ImageError: with all findings, then all remedies.
        """
        distinct = list(dict.fromkeys(self.messages))
        if not distinct:
            return
        parts = [text.removeprefix(f"{self.path}: ").partition("; ") for text in distinct]
        *findings, last = [finding for finding, _, _ in parts]
        remedies = [remedy for _, _, remedy in parts if remedy]
        finding = f"{', '.join(findings)}, and {last}" if findings else last
        raise ImageError("; ".join([f"{self.path}: {finding}", *remedies]))
