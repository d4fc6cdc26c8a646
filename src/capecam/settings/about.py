"""Settings that say whose the data are, and of when: they go into every product."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from capecam.settings.base import Section
from capecam.settings.capture_date import CaptureDate, DateText, check_name_pattern

PREFIX = "CAPECAM_"
"""Beginning of the keys of these statements in products."""


def _text(value: object) -> object:
    """Return numbers as text: a year in YAML is one."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _one_line(text: str) -> str:
    """Check that a text stands in a tag."""
    if not text.strip() or any(ord(letter) < 32 for letter in text):
        raise ValueError("must be a text of one line")
    return text.strip()


def _pattern(text: str) -> str:
    check_name_pattern(text)
    return text


def _url(text: str) -> str:
    if not re.fullmatch(r"https?://[!-~]+", text):
        raise ValueError("must be a URL that begins with https:// or http://")
    return text


def _licence(text: str) -> str:
    """Return an SPDX expression in its canonical spelling, or a licence in words."""
    spdx = spdx_expression(text)
    if spdx is not None:
        return spdx
    if meant := spdx_expression("-".join(text.split())):
        raise ValueError(f"is no identifier of SPDX; did you mean {meant}?")
    if " " not in text:
        raise ValueError(
            "must be an identifier of SPDX, such as CC-BY-4.0, or a licence in more than one word"
        )
    return text


def spdx_expression(text: str) -> str | None:
    """Return a licence as an SPDX expression, or None if it is none."""
    from packaging.licenses import (  # noqa: PLC0415 only where a licence is set
        InvalidLicenseExpression,
        canonicalize_license_expression,
    )

    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        return None


Line = Annotated[str, AfterValidator(_one_line)]


class AboutSettings(Section):
    """Statements of the publisher, for every product (docs/publishing.md)."""

    attribution: Line | None = Field(
        None, description="whose images they are, as others have to name them"
    )
    licence: Annotated[Line, AfterValidator(_licence)] | None = Field(
        None,
        description="licence of the products: an identifier of SPDX such as CC-BY-4.0, or words",
    )
    licence_url: Annotated[str, AfterValidator(_url)] | None = Field(
        None, description="page of the licence; default is that of SPDX, for one identifier"
    )
    captured: Annotated[DateText, BeforeValidator(_text)] | None = Field(
        None,
        description="when all images were taken: 2023, 2023-02, 2023-02-14, 2023-02-14T09:30:00Z, "
        "or two of these, 2023-01-10/2023-03-02; default is from each image's name or tags",
    )
    captured_pattern: Annotated[str, AfterValidator(_pattern)] | None = Field(
        None,
        description="regular expression that finds the date in an image's name, with the groups "
        "year and, if it has them, month and day: `(?P<year>\\d{4})(?P<month>\\d\\d)`",
    )

    @model_validator(mode="after")
    def _one_source_of_dates(self) -> Self:
        if self.captured and self.captured_pattern:
            raise ValueError("captured is for all images, captured_pattern for each; set one")
        return self

    @property
    def licence_page(self) -> str | None:
        """URL of the licence, if it has one."""
        if self.licence_url or not self.licence:
            return self.licence_url
        is_listed = re.fullmatch(r"(?!LicenseRef)[\w.+-]+", self.licence)
        return f"https://spdx.org/licenses/{self.licence}.html" if is_listed else None

    def date_of(self, image: str, tag: str) -> CaptureDate | None:
        """Return when an image was taken, or None if that is not known.

        Args:
            image: its name.
            tag: the date in its file, in any form; may be empty.
        """
        if self.captured:
            return CaptureDate(self.captured)
        named = CaptureDate.of_name(image, self.captured_pattern) if self.captured_pattern else None
        return named or CaptureDate.of_tag(tag)
