"""The time at which images were taken, as exactly as it is known."""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile
from typing import Annotated, Self

from pydantic import AfterValidator

FORM = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d):(\d\d)Z)?)?)?",
    re.ASCII,
)
"""ISO 8601, to the year, month, day or second, in UTC."""

EXPECTED = "must be a date such as 2023, 2023-02 or 2023-02-14, or two of these with a slash"

PARTS = ("year", "month", "day")
"""Groups of a pattern for names."""


@dataclass(frozen=True, slots=True)
class CaptureDate:
    """A date of ISO 8601, or an interval of two: ``2023``, ``2023-02-14``, ``2023-01/2023-03``."""

    text: str

    def __post_init__(self) -> None:
        ends = self.text.split("/")
        if len(ends) > 2 or self.start > self.end:
            raise ValueError(EXPECTED)

    @property
    def start(self) -> datetime:
        """First second, in UTC."""
        return _span(self.text.split("/")[0])[0]

    @property
    def end(self) -> datetime:
        """Last second, in UTC."""
        return _span(self.text.split("/")[-1])[1]

    @classmethod
    def over(cls, dates: Iterable[Self | None]) -> Self | None:
        """Return the interval of several dates; None if there is none, or one is unknown."""
        found = list(dates)
        known = [date for date in found if date is not None]
        if not known or len(known) < len(found):
            return None
        first, last = min(known, key=lambda d: d.start), max(known, key=lambda d: d.end)
        texts = first.text.split("/")[0], last.text.split("/")[-1]
        return cls("/".join(dict.fromkeys(texts)))

    @classmethod
    def of_name(cls, name: str, pattern: str) -> Self | None:
        """Return the date in an image's name, or None if it has none.

        Args:
            name: of the image.
            pattern: regular expression with groups named ``PARTS``.
        """
        match = re.search(pattern, name)
        if match is None:
            return None
        # A day is one only after a month, whose group may be optional.
        parts = takewhile(bool, (match.groupdict().get(part) or "" for part in PARTS))
        try:
            return cls("-".join(part.zfill(2) for part in parts))
        except ValueError:
            return None

    @classmethod
    def of_tag(cls, text: str) -> Self | None:
        """Return the date in a tag of TIFF or Exif (``2023:02:14 09:30:00``), or of ISO 8601.

        What is no date, such as zeros or blanks, is None. A time without a zone is left out.
        """
        match = re.match(r"\s*(\d{4})[-:/](\d\d)[-:/](\d\d)([T ](\d\d:\d\d:\d\d)(\.\d+)?Z)?", text)
        if match is None:
            return None
        year, month, day, _, time, _ = match.groups()
        try:
            return cls(f"{year}-{month}-{day}" + (f"T{time}Z" if time else ""))
        except ValueError:
            return None


def _checked(text: str) -> str:
    CaptureDate(text)
    return text


DateText = Annotated[str, AfterValidator(_checked)]
"""Text of a ``CaptureDate`` in settings and records."""


def _span(text: str) -> tuple[datetime, datetime]:
    """Return the first and the last second of a date.

    Raises:
        ValueError: it is none.
    """
    match = FORM.fullmatch(text)
    if match is None:
        raise ValueError(EXPECTED)
    year = int(match[1])
    month, day, hour, minute, second = (part and int(part) for part in match.groups()[1:])
    try:
        start = datetime(
            year, month or 1, day or 1, hour or 0, minute or 0, second or 0, tzinfo=UTC
        )
        if hour is not None:
            return start, start
        last = day or monthrange(year, month or 12)[1]
        return start, datetime(year, month or 12, last, 23, 59, 59, tzinfo=UTC)
    except ValueError:
        raise ValueError(EXPECTED) from None


def check_name_pattern(pattern: str) -> None:
    """Check that a pattern finds dates in names.

    Raises:
        ValueError: it is no regular expression, has no group for the year, or one for the day but
            none for the month.
    """
    try:
        groups = re.compile(pattern).groupindex
    except re.error as error:
        raise ValueError(f"must be a regular expression of Python ({error})") from None
    if "year" not in groups:
        raise ValueError("must have a group for the year: (?P<year>\\d{4})")
    if "day" in groups and "month" not in groups:
        raise ValueError("must have a group for the month beside the day: (?P<month>\\d\\d)")
